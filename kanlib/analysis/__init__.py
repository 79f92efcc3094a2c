"""Theory and cost: spectra, relaxation, tangent kernels, conditioning, the planner."""
