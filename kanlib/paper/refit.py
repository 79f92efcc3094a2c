"""Refinement by refitting: what exact refinement replaces, to compare with.

A network on a finer grid can also be had by fitting each of its splines to values of the old one:
by least squares at the activations of samples, as KAN libraries do (Liu et al., 2024, section
2.4; written anew here), by interpolation at the Greville points of the fine grid, or by taking the
values there as coefficients. If the grids are nested, the first two are exact as well, provided
that the samples determine every fine spline; the last never is, beyond straight lines.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kanlib._checks import check_input, check_types, shown
from kanlib.nn.free_knots import check_fixed
from kanlib.nn.networks import KAN
from kanlib.nn.spline_layer import SplineLayer, convert_weights
from kanlib.splines import bspline
from kanlib.splines.knots import KnotGrid

NewGrid = Callable[[KnotGrid], KnotGrid]


@torch.no_grad()
def refit_on_samples(model: KAN, x: Tensor, new_grid: NewGrid = KnotGrid.refine) -> KAN:
    """Return a new network, each of its splines fitted by least squares at the samples.

    Where samples leave coefficients undetermined, those of the least norm are taken.

    Args:
        model: the network; it is untouched.
        x: samples (N, P); the fit of a later layer sees their images under ``model``.
        new_grid: function from the grid of a layer to the new one, nested or not.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the model has free knots, or x is empty or not finite.
    """
    check_types(refit_on_samples, locals())
    check_fixed(model, "refit_on_samples", "use refine()")
    check_input(x, model.widths[0], next(model.parameters()))
    if x.ndim != 2 or not len(x) or not x.isfinite().all():
        raise ValueError(f"x must be finite, of shape (N, P) with N >= 1, got {shown(x)}")
    inputs = {}
    z = x
    for layer in model.layers:
        if isinstance(layer, SplineLayer):
            inputs[layer] = z
        z = layer(z)
    return model.mapped(lambda layer: _refitted(layer, inputs[layer], _new(new_grid, layer.grid)))


def refit_at_greville(model: KAN, new_grid: NewGrid = KnotGrid.refine) -> KAN:
    """Return a new network, each of its splines interpolated at the Greville points.

    Outer points that clip to one place, and all others, are spread if need be to be distinct.

    Args:
        model: the network; it is untouched.
        new_grid: function from the grid of a layer to the new one.

    Raises:
        ValueError: if the model has free knots or the order is 1.
    """
    check_types(refit_at_greville, locals())
    check_fixed(model, "refit_at_greville", "use refine()")

    def refitted(layer: SplineLayer) -> SplineLayer:
        grid = _new(new_grid, layer.grid)
        return _refitted(layer, _distinct(grid).expand(layer.in_features, -1).T, grid)

    return model.mapped(refitted)


def resample(model: KAN, new_grid: NewGrid = KnotGrid.refine) -> KAN:
    """Return a new network whose coefficients are the old splines' values at the Greville points.

    This is Schoenberg's operator: it smooths, with an error of order h^2.

    Args:
        model: the network; it is untouched.
        new_grid: function from the grid of a layer to the new one.

    Raises:
        ValueError: if the model has free knots or the order is 1.
    """
    check_types(resample, locals())
    check_fixed(model, "resample", "use refine()")

    def resampled(layer: SplineLayer) -> SplineLayer:
        grid = _new(new_grid, layer.grid)
        values = torch.einsum(
            "kc,qpc->qpk",
            bspline.dense_basis(bspline.greville(grid), layer.grid),
            _spline_weights(layer),
        )
        return layer.like(grid, layer.basis, convert_weights(values, grid, "spline", layer.basis))

    return model.mapped(resampled)


def _new(new_grid: NewGrid, grid: KnotGrid) -> KnotGrid:
    new = new_grid(grid)
    if not isinstance(new, KnotGrid) or new.order != grid.order:
        raise ValueError(f"new_grid must return a KnotGrid of order {grid.order}, got {shown(new)}")
    return new


def _distinct(grid: KnotGrid) -> Tensor:
    """Return points at which interpolation has one solution: one in the support of each spline.

    Each is the middle of what its support and [a, b] have in common (Schoenberg and Whitney).
    """
    left, right = bspline.supports(grid)
    return 0.5 * (left + right)


def _spline_weights(layer: SplineLayer) -> Tensor:
    weight = layer.weight.detach().cpu().double()
    return convert_weights(weight, layer.grid, layer.basis, "spline")


def _refitted(layer: SplineLayer, z: Tensor, grid: KnotGrid) -> SplineLayer:
    """Return the layer on another grid, fitted to its splines at the inputs z (N, P)."""
    z = z.detach().cpu().double()
    old, new = (bspline.dense_basis(z, g, extension=layer.extension) for g in (layer.grid, grid))
    values = torch.einsum("npc,qpc->pnq", old, _spline_weights(layer))
    fitted = torch.linalg.lstsq(new.movedim(1, 0), values, driver="gelsd").solution
    weight = convert_weights(fitted.permute(2, 0, 1), grid, "spline", layer.basis)
    return layer.like(grid, layer.basis, weight)
