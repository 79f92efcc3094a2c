"""Where an equation holds: domains, points in them and on their boundaries; needs SciPy."""
