"""Bases of the functions on edges, by one protocol: polynomials, waves, splines by scales."""
