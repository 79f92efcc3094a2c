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
from kanlib.nn.networks import KAN
from kanlib.nn.spline_layer import SplineLayer, by_input, convert_weights
from kanlib.splines import bspline
from kanlib.splines.knots import KnotGrid
from kanlib.splines.periodic import tied, turned

__all__ = ["refit_at_greville", "refit_on_samples", "resample"]

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
        ValueError: if x is empty or not finite.

    Examples:
        >>> model = KAN([1, 1], n=4, dtype=torch.float64)
        >>> x = torch.linspace(0, 1, 200, dtype=torch.float64)[:, None]
        >>> fine = refit_on_samples(model, x)
        >>> fine.layers[0].grid.n, torch.allclose(fine(x), model(x))
        (8, True)
    """
    check_types(refit_on_samples, locals())
    check_input(x, model.widths[0], next(model.parameters()))
    if x.ndim != 2 or not len(x) or not x.isfinite().all():
        raise ValueError(f"x must be finite, of shape (N, P) with N >= 1, got {shown(x)}")
    inputs = {}
    z = x
    for layer in model.layers:
        if isinstance(layer, SplineLayer):
            inputs[layer] = z
        z = layer(z)
    return model.mapped(lambda layer: _refitted(layer, inputs[layer], _new(new_grid, layer)))


def refit_at_greville(model: KAN, new_grid: NewGrid = KnotGrid.refine) -> KAN:
    """Return a new network, each of its splines interpolated at the Greville points.

    Outer points that clip to one place, and all others, are spread if need be to be distinct.

    Args:
        model: the network; it is untouched.
        new_grid: function from the grid of a layer to the new one.

    Raises:
        ValueError: if the order is 1.

    Examples:
        >>> model = KAN([1, 1], n=4, dtype=torch.float64)
        >>> x = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
        >>> torch.allclose(refit_at_greville(model)(x), model(x))  # nested: nothing is lost
        True
    """
    check_types(refit_at_greville, locals())

    def refitted(layer: SplineLayer) -> SplineLayer:
        grids = _new(new_grid, layer)
        points = torch.stack([*map(_distinct, grids)], dim=1)
        return _refitted(layer, points.expand(-1, layer.in_features), grids)

    return model.mapped(refitted)


def resample(model: KAN, new_grid: NewGrid = KnotGrid.refine) -> KAN:
    """Return a new network whose coefficients are the old splines' values at the Greville points.

    This is Schoenberg's operator: it smooths, with an error of order h^2.

    Args:
        model: the network; it is untouched.
        new_grid: function from the grid of a layer to the new one.

    Raises:
        ValueError: if the order is 1 or a grid is periodic.

    Examples:
        >>> model = KAN([1, 1], n=4, dtype=torch.float64)
        >>> x = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
        >>> torch.allclose(resample(model)(x), model(x))  # it smooths
        False
    """
    check_types(resample, locals())

    def resampled(layer: SplineLayer) -> SplineLayer:
        grids = _new(new_grid, layer)
        if layer.periodic:
            raise ValueError(
                "model must have no periodic splines, whose Greville points leave the domain, got "
                f"a layer that is periodic in {layer.periodic}: use refit_at_greville"
            )

        def values(weight: Tensor, old: KnotGrid, new: KnotGrid) -> Tensor:
            basis = bspline.dense_basis(bspline.greville(new), old)
            return torch.einsum("kc,...c->...k", basis, weight)

        found = by_input(values, _spline_weights(layer), layer.distinct_grids, grids)
        return layer.like(grids, layer.basis, convert_weights(found, grids, "spline", layer.basis))

    return model.mapped(resampled)


def _new(new_grid: NewGrid, layer: SplineLayer) -> list[KnotGrid]:
    """Return the new grid of all inputs, or that of each."""
    grids = [new_grid(grid) for grid in layer.distinct_grids]
    known = all(isinstance(new, KnotGrid) and new.order == layer.order for new in grids)
    if not known or len({new.n for new in grids}) > 1:
        raise ValueError(
            f"new_grid must return a KnotGrid of order {layer.order}, with as many intervals for "
            f"each input of a layer, got {shown(grids)}"
        )
    return grids


def _distinct(grid: KnotGrid) -> Tensor:
    """Return points at which interpolation has one solution: one in the support of each spline.

    Each is the middle of what its support and [a, b] have in common (Schoenberg and Whitney).
    """
    left, right = bspline.supports(grid)
    return 0.5 * (left + right)


def _spline_weights(layer: SplineLayer) -> Tensor:
    weight = layer.coefficients().detach().cpu().double()
    return convert_weights(weight, layer.distinct_grids, layer.basis, "spline")


def _refitted(layer: SplineLayer, z: Tensor, grids: list[KnotGrid]) -> SplineLayer:
    """Return the layer on other grids, fitted to its splines at the inputs z (N, P)."""

    def basis(z: Tensor, grid: KnotGrid) -> Tensor:
        z = turned(z, grid.domain) if grid.periodic else z
        return tied(bspline.dense_basis(z, grid, extension=layer.extension), grid)

    z = z.detach().cpu().double()
    old, new = (by_input(basis, z, g, dim=1) for g in (layer.distinct_grids, grids))
    values = torch.einsum("npc,qpc->pnq", old, _spline_weights(layer))
    fitted = torch.linalg.lstsq(new.movedim(1, 0), values, driver="gelsd").solution
    weight = convert_weights(fitted.permute(2, 0, 1), grids, "spline", layer.basis)
    return layer.like(grids, layer.basis, weight)
