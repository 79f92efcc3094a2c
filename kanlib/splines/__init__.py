"""Grids, and functions of grids: B-splines, truncated powers, the change of basis, prolongation."""
