"""Formulas: what a trained network has learned, in symbols; needs SymPy and SciPy."""
