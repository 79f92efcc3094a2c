"""How a network is trained: on one level or many, to first or second order, from many starts."""
