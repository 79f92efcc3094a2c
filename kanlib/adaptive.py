"""Adaptive refinement: bisect intervals where the spline is rough, exactly and for any growth.

At a breakpoint the derivative of order r - 1 of a spline jumps, and the weights in the ReLU basis
are these jumps, w_j (r - 1)!: w = A^T u measures roughness. On an interval of length h the error
of the best spline of order r is about h^r abs(f^(r)), and f^(r) is about the jump over h, so::

    indicator of [t_m, t_{m+1}] = h^{r-1} (|jump at t_m| + |jump at t_{m+1}|) / 2.

Halving an interval divides it by about 2^r where f is smooth. Bisecting the interval with the
largest indicator again and again, children inheriting 2^{-r} of it, spreads the error evenly.
"""

from __future__ import annotations

import heapq
import math

import torch
from torch import Tensor

from kanlib.free_knots import FreeSplineLayer
from kanlib.knots import KnotGrid, as_integer
from kanlib.layers import SplineLayer, convert_weights
from kanlib.networks import KAN


def jumps(weight: Tensor, grid: KnotGrid, basis: str = "spline") -> Tensor:
    """Return the jumps of the derivative of order r - 1 at the inner breakpoints.

    Args:
        weight: weights of splines, (..., n + r - 1).
        grid: their grid.
        basis: "spline" or "relu".

    Returns:
        Float64 tensor (..., n - 1).

    Examples:
        >>> grid = KnotGrid.uniform(2, 2)  # a hat of slopes 2 and -2
        >>> jumps(torch.tensor([0.0, 1.0, 0.0]), grid)
        tensor([-4.], dtype=torch.float64)
    """
    exact = weight.detach().cpu().double()
    relu = convert_weights(exact, grid, basis, "relu")
    return relu[..., grid.order :] * math.factorial(grid.order - 1)


def indicators(layer: SplineLayer) -> Tensor:
    """Return the indicator of each interval of each input, (P, n): root mean square over outputs.

    The two outer intervals have one inner breakpoint, which counts twice.
    """
    rows = []
    for p, grid in enumerate(layer.grids):
        size = jumps(layer.weight[:, p], grid, layer.basis).square().mean(0).sqrt()
        if not len(size):
            size = size.new_zeros(1)
        ends = torch.cat([size[:1], size, size[-1:]])
        h = grid.breakpoints.diff()
        rows.append(h ** (grid.order - 1) * 0.5 * (ends[:-1] + ends[1:]))
    return torch.stack(rows)


def bisected(grid: KnotGrid, indicator: Tensor, n: int) -> KnotGrid:
    """Return a grid of n intervals, by bisecting again and again where the indicator is largest.

    Args:
        grid: the present grid.
        indicator: one number of at least 0 for each of its intervals.
        n: number of intervals wanted, at least those of ``grid``.

    Raises:
        ValueError: if n is smaller, or the indicator does not fit.

    Examples:
        >>> fine = bisected(KnotGrid.uniform(4, 2), torch.tensor([1.0, 100.0]), 4)
        >>> fine.breakpoints
        tensor([0.0000, 0.5000, 0.6250, 0.7500, 1.0000], dtype=torch.float64)
    """
    n = as_integer("n", n, minimum=1)
    if n < grid.n:
        raise ValueError(f"n must be at least {grid.n}, the present number, got {n}")
    if indicator.shape != (grid.n,) or not (indicator >= 0).all():
        raise ValueError(
            f"indicator must hold {grid.n} numbers of at least 0, got {indicator.tolist()}"
        )
    t = grid.breakpoints.tolist()
    # The longer interval first where indicators are equal, then the left one.
    heap = [(-e, a - b, a, b) for e, a, b in zip(indicator.tolist(), t, t[1:], strict=False)]
    heapq.heapify(heap)
    for _ in range(n - grid.n):
        e, length, a, b = heapq.heappop(heap)
        middle = 0.5 * (a + b)
        t.append(middle)
        for child in ((a, middle), (middle, b)):
            heapq.heappush(heap, (e * 2.0**-grid.order, 0.5 * length, *child))
    return KnotGrid(grid.order, sorted(t))


def refine_adaptively(model: KAN, n: int | None = None) -> KAN:
    """Return a new network that is the same function on grids bisected where it is rough.

    Inputs that share a grid share its refinement, by the sum of their indicators; free the knots
    per input first, and fix them again if they are not to train, to have one grid each::

        model = model.free("input")
        for layer in model.spline_layers:
            layer.knots.requires_grad_(False)

    Args:
        model: the network; it is untouched.
        n: number of intervals wanted, by default twice the present number.

    Raises:
        ValueError: if n is smaller than the present number.
    """

    def refined(layer: SplineLayer) -> SplineLayer:
        wanted = 2 * layer.grids[0].n if n is None else n
        rough = indicators(layer)
        if isinstance(layer, FreeSplineLayer) and layer.per == "input":
            pairs = zip(layer.grids, rough, strict=True)
            return layer.refine([bisected(grid, row, wanted) for grid, row in pairs])
        return layer.refine(bisected(layer.grid, rough.sum(0), wanted))

    return model.mapped(refined)
