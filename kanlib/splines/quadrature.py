"""Integrals over the domain of a spline, by Gauss quadrature in every interval of its grid."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kanlib._checks import as_integer, check_types
from kanlib.splines.bspline import dense_basis
from kanlib.splines.knots import KnotGrid

__all__ = ["gram", "quadrature"]


def gram(grid: KnotGrid, derivative: int = 0) -> Tensor:
    """Return the matrix of int b_i b_j over the domain, or of derivatives of the B-splines.

    Args:
        grid: the knot grid.
        derivative: which derivative, from 0 to r - 1.

    Returns:
        Float64 tensor (N, N), N = n + r - 1, exact up to rounding (Gauss quadrature).

    Examples:
        >>> (gram(KnotGrid.uniform(2, 2)) * 12).round(decimals=9)
        tensor([[2., 1., 0.],
                [1., 4., 1.],
                [0., 1., 2.]], dtype=torch.float64)
    """
    check_types(gram, locals())
    x, weights = quadrature(grid, grid.order)
    b = dense_basis(x, grid, derivative)
    return b.T @ (weights[:, None] * b)


def quadrature(grid: KnotGrid, points: int) -> tuple[Tensor, Tensor]:
    """Return Gauss-Legendre points and weights, ``points`` in every interval of the grid.

    Args:
        grid: the knot grid.
        points: number of points in an interval, at least 1; polynomials of degree up to twice that
            less one are integrated exactly.

    Returns:
        Points and weights, float64 tensors (n points,).

    Examples:
        >>> x, weights = quadrature(KnotGrid.uniform(4, 5), points=2)
        >>> round(float(weights @ x**3), 12)
        0.25
    """
    check_types(quadrature, locals())
    rule = np.polynomial.legendre.leggauss(as_integer("points", points, minimum=1))
    nodes, weights = map(torch.from_numpy, rule)  # on [-1, 1]
    left, half = grid.breakpoints[:-1, None], grid.breakpoints.diff()[:, None] / 2
    return (left + half * (1 + nodes)).flatten(), (half * weights).flatten()
