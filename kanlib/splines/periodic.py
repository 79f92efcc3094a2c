"""Periodic splines: those of a grid whose knots wrap around a circle.

On a periodic grid the exterior knots repeat the breakpoints, shifted by the period b - a. B-splines
i and i + n are then one function, shifted by a period, and a spline on [a, b] continues to a
periodic one, with r - 2 continuous derivatives at the seam as at every knot, exactly if its
coefficients are equal there,

    u_{i+n} = u_i,   i = 0, ..., r - 2.

That leaves n of the n + r - 1 coefficients free. Both of a pair are kept, and evaluations take
their mean, an orthogonal projection. Equal coefficients have equal gradients, so that optimizers
that treat entries alike keep them equal; and all else that works on coefficients of B-splines,
such as prolongation, works on them as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kanlib._checks import check_types
from kanlib.splines.knots import KnotGrid

__all__ = ["partners", "tied", "turned"]


def partners(grid: KnotGrid) -> Tensor:
    """Return for each of the n + r - 1 B-splines the first one that is the same on the circle.

    Examples:
        >>> partners(KnotGrid.uniform(3, 4, periodic=True))
        tensor([0, 1, 2, 3, 0, 1])
        >>> partners(KnotGrid.uniform(3, 4))
        tensor([0, 1, 2, 3, 4, 5])
    """
    check_types(partners, locals())
    return _partners(grid)


def _partners(grid: KnotGrid) -> Tensor:
    index = torch.arange(grid.num_basis, device="cpu")
    return index % grid.n if grid.periodic else index


def tied(weight: Tensor, grid: KnotGrid) -> Tensor:
    """Return coefficients of a periodic spline: the mean of those that stand for one function.

    It is the orthogonal projection, and so its own transpose; without a periodic grid, nothing
    changes.

    Args:
        weight: coefficients of B-splines (..., n + r - 1).
        grid: the knot grid.

    Examples:
        >>> tied(torch.tensor([1.0, 2.0, 3.0, 3.0]), KnotGrid.uniform(2, 3, periodic=True))
        tensor([2., 2., 3., 2.])
    """
    if not grid.periodic:
        return weight
    index = _partners(grid).to(weight.device)
    count = weight.new_zeros(grid.n).index_add(0, index, weight.new_ones(grid.num_basis))
    sums = weight.new_zeros(*weight.shape[:-1], grid.n).index_add(-1, index, weight)
    return (sums / count)[..., index]


def turned(x: Tensor, domain: tuple[float, float]) -> Tensor:
    """Return points moved by whole periods into the domain [a, b); those in it stay as they are.

    Where rounding leads out of the domain, a point goes to its nearest end: no result is outside
    [a, b], in whatever dtype. The derivative is one everywhere.

    Examples:
        >>> turned(torch.tensor([-0.25, 0.5, 1.0]), (0.0, 1.0))
        tensor([0.7500, 0.5000, 0.0000])
    """
    a, b = domain
    low, high = -_below(-a, x.dtype), _below(b, x.dtype)
    start = x.detach()
    moved = (a + (start - a).remainder(b - a)).clamp(low, high)
    return torch.where((start >= low) & (start < b), start, moved) + (x - start)


def _below(value: float, dtype: torch.dtype) -> float:
    """Return what a dtype rounds to its largest number that is not above a value.

    Veltkamp's splitting rounds to the digits of the dtype in plain arithmetic, which compilers
    fold. Three fifths of eps round to one step of the dtype, at all sizes.
    """
    eps = torch.finfo(dtype).eps
    large = value * (1.0 + eps / torch.finfo(torch.float64).eps)
    rounded = large - (large - value)
    return rounded if rounded <= value else rounded - 0.6 * eps * abs(rounded)
