"""Adaptive refinement: bisect intervals where an indicator is large, exactly and for any growth.

An indicator gives each interval of each input a number. There are three of them:

*Jumps.* At a breakpoint the derivative of order r - 1 of a spline jumps, and the weights in the
ReLU basis are these jumps, w_j (r - 1)!: w = A^T u measures roughness. On an interval of length h
the error of the best spline of order r is about h^r abs(f^(r)), f^(r) being about the jump over h::

    indicator of [t_m, t_{m+1}] = h^{r-1} (|jump at t_m| + |jump at t_{m+1}|) / 2.

*Residual.* The sum of the squared residuals at the points whose input lies in the interval.

*Gradient.* What finer knots could gain: the gradient of the loss in the weights of the halved grid,
squared, over the length of the B-spline's support, summed over the B-splines that belong to the
interval. At the end of a level the gradient vanishes for all that the coarse grid can represent.

Halving an interval divides the first by about 2^r where f is smooth. Bisecting the interval with
the largest indicator again and again, children inheriting 2^{-r} of it, spreads the error evenly.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kanlib._checks import Basis, as_integer, check_option, check_tensor, check_types, shown
from kanlib.nn.free_knots import SHARING, Sharing
from kanlib.nn.networks import KAN
from kanlib.nn.spline_layer import SplineLayer, convert_weights
from kanlib.objectives.mean_squared_error import Objective
from kanlib.splines import bspline
from kanlib.splines.knots import KnotGrid
from kanlib.splines.periodic import partners, turned

__all__ = [
    "bisected",
    "gradient_indicator",
    "jump_indicator",
    "jumps",
    "refine_adaptively",
    "residual_indicator",
]

#: One number of at least 0 for each interval of each input, (P, n) for each spline layer.
Indicator = Callable[[KAN], list[Tensor]]


def jumps(weight: Tensor, grid: KnotGrid, basis: Basis = "spline") -> Tensor:
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
    check_types(jumps, locals())
    check_tensor("weight", weight, grid.num_basis)
    exact = weight.detach().cpu().double()
    relu = convert_weights(exact, grid, basis, "relu")
    return relu[..., grid.order :] * math.factorial(grid.order - 1)


def indicators(layer: SplineLayer) -> Tensor:
    """Return the indicator of each interval of each input, (P, n): root mean square over outputs.

    The two outer intervals have one inner breakpoint, which counts twice, unless the grid is
    periodic: then they share the seam. A single interval has no jump, and so the indicator zero.
    """
    check_types(indicators, locals())
    weight, rows = layer.coefficients(), []
    for p, grid in enumerate(layer.grids):
        found = jumps(weight[:, p], grid, layer.basis)
        first, last = found[:, :1], found[:, -1:]
        if grid.periodic or grid.n == 1:
            first = last = -found.sum(1, keepdim=True)  # around a circle jumps add up to zero
        ends = torch.cat([first, found, last], dim=1).square().mean(0).sqrt()
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
    check_types(bisected, locals())
    n = as_integer("n", n, minimum=1)
    if n < grid.n:
        raise ValueError(f"n must be at least {grid.n}, the present number, got {n}")
    if indicator.shape != (grid.n,) or not (indicator >= 0).all():
        raise ValueError(
            f"indicator must hold {grid.n} numbers of at least 0, got {shown(indicator.tolist())}"
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
    return grid.with_breakpoints(sorted(t))


def jump_indicator(model: KAN) -> list[Tensor]:
    """Return the jumps' indicator, one tensor (P, n) a spline layer.

    Examples:
        >>> model = KAN([1, 1], n=4, r=2, dtype=torch.float64)
        >>> with torch.no_grad():  # a kink at 1/2
        ...     _ = model.layers[0].weight.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0]))
        >>> jump_indicator(model)[0].round(decimals=3)
        tensor([[0.0000, 0.5000, 0.5000, 0.0000]], dtype=torch.float64)
    """
    check_types(jump_indicator, locals())
    return [indicators(layer) for layer in model.spline_layers]


def residual_indicator(x: Tensor, residual: Callable[[KAN], Tensor]) -> Indicator:
    """Return the residual's indicator.

    Args:
        x: points (N, P).
        residual: function from the model to its residual at these points, (N, ...).

    Examples:
        >>> x = torch.tensor([[0.1], [0.6], [0.7], [0.9]])
        >>> indicator = residual_indicator(x, lambda model: model(x) - 2.0)
        >>> indicator(KAN([1, 1], n=2, init_scale=0.0))
        [tensor([[ 4., 12.]], dtype=torch.float64)]
    """
    check_types(residual_indicator, locals())

    @torch.no_grad()
    def indicator(model: KAN) -> list[Tensor]:
        check_types(jump_indicator, {"model": model})
        squares = residual(model).reshape(len(x), -1).double().square().sum(1).cpu()
        found, z = [], x
        for layer in model.layers:
            if isinstance(layer, SplineLayer):
                points = zip(layer.grids, layer.entering(z[None])[0].double().cpu().T, strict=True)
                found.append(torch.stack([_summed(squares, v, grid) for grid, v in points]))
            z = layer(z)
        return found

    return indicator


def gradient_indicator(objective: Objective) -> Indicator:
    """Return the gradient's indicator.

    Args:
        objective: ``objective(model)``, the loss.

    Examples:
        >>> from kanlib import MeanSquaredError
        >>> x = torch.linspace(0, 0.25, 40, dtype=torch.float64)[:, None]  # data on the left alone
        >>> model = KAN([1, 1], n=4, r=1, dtype=torch.float64)
        >>> (found,) = gradient_indicator(MeanSquaredError(x, x + 1))(model)
        >>> int(found.argmax())
        0
    """
    check_types(gradient_indicator, locals())

    def indicator(model: KAN) -> list[Tensor]:
        check_types(jump_indicator, {"model": model})
        fine = model.to_basis("spline").refine()
        weights = [layer.weight for layer in fine.spline_layers]
        found = []
        slopes = torch.autograd.grad(objective(fine), weights)
        for layer, finer, slope in zip(
            model.spline_layers, fine.spline_layers, slopes, strict=True
        ):
            columns, rows = slope.double().cpu().unbind(1), []
            for grid, small, column in zip(layer.grids, finer.grids, columns, strict=True):
                size, left, right = _by_function(column, small)
                middle = 0.5 * (left + right)
                if grid.periodic:  # on a breakpoint, the interval right of it, despite rounding
                    middle = turned(middle + 1e-9 * grid.breakpoints.diff().min(), grid.domain)
                rows.append(_summed(size.square().sum(0) / (right - left), middle, grid))
            found.append(torch.stack(rows))
        return found

    return indicator


def _by_function(slopes: Tensor, grid: KnotGrid) -> tuple[Tensor, Tensor, Tensor]:
    """Return the slopes (Q, ...) in each function of a basis, and the ends of its support.

    On a circle, B-splines that stand for one function have its slope together.
    """
    if not grid.periodic:
        return slopes, *bspline.supports(grid)
    n, r = grid.n, grid.order
    together = slopes.new_zeros(len(slopes), n).index_add(1, partners(grid), slopes)
    return together, grid.knots[:n], grid.knots[r : r + n]


def _summed(values: Tensor, places: Tensor, grid: KnotGrid) -> Tensor:
    """Return the sum of the values on each interval, those outside [a, b] with the outer ones."""
    interval = torch.bucketize(places.contiguous(), grid.breakpoints[1:-1], right=True)
    return torch.zeros(grid.n, dtype=torch.float64, device="cpu").index_add_(0, interval, values)


def refine_adaptively(
    model: KAN,
    n: int | None = None,
    indicator: Indicator = jump_indicator,
    per: Sharing = "layer",
) -> KAN:
    """Return a new network that is the same function on grids bisected where it needs it.

    Args:
        model: the network; it is untouched.
        n: number of intervals wanted, by default twice the present number.
        indicator: :func:`jump_indicator`, or what :func:`residual_indicator` or
            :func:`gradient_indicator` returns, or your own: a function from the network to one
            tensor (P, n) of numbers of at least 0 for each spline layer.
        per: "layer", where inputs that share a grid share its refinement, by the sum of their
            indicators; or "input", which gives each input a grid of its own.

    Raises:
        ValueError: if n is smaller than the present number, an indicator does not fit, or ``per``
            is unknown.

    Examples:
        >>> model = KAN([1, 1], n=4, r=2, dtype=torch.float64)
        >>> with torch.no_grad():  # a kink at 1/2
        ...     _ = model.layers[0].weight.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0]))
        >>> fine = refine_adaptively(model, n=6)
        >>> fine.layers[0].grid.breakpoints
        tensor([0.0000, 0.2500, 0.3750, 0.5000, 0.6250, 0.7500, 1.0000],
               dtype=torch.float64)
        >>> x = torch.rand(9, 1, dtype=torch.float64)
        >>> torch.allclose(fine(x), model(x))
        True
    """
    check_types(refine_adaptively, locals())
    check_option("per", per, SHARING)
    layers, rows = [*model.spline_layers], indicator(model)
    if not isinstance(rows, Sequence) or len(rows) != len(layers):
        raise ValueError(
            f"indicator must return a list of {len(layers)} tensors, one for each spline layer, "
            f"got {shown(rows)}"
        )
    found = dict(zip(layers, rows, strict=True))

    def refined(layer: SplineLayer) -> SplineLayer:
        wanted = 2 * layer.n if n is None else n
        grids = layer.grids if per == "input" else layer.distinct_grids
        rough = found[layer] if len(grids) > 1 else found[layer].sum(0, keepdim=True)
        pairs = zip(grids, rough, strict=True)
        return layer.refine([bisected(grid, row, wanted) for grid, row in pairs])

    return model.mapped(refined)
