"""Modules: the spline layer, KAN and MLP, input maps, ensembles, derivatives in the inputs."""
