"""How much edges, hidden units and inputs of a network matter, without sampling error of its own.

A unit of a layer is a sum of edges, y_q = sum_p s_qp(x_p). With respect to a measure of the inputs,
the variance of y_q is the sum of all entries of the covariance matrix C of its edges, and

    share_qp = sum_p' C_pp' / sum_pp' C_pp'

divides it among them: the first-order index of Sobol where the x_p are independent, its extension
to dependent ones elsewhere (Li et al., doi 10.1021/jp9096919). The measure is that of the data, or
the uniform one on the domain of the splines, for which Gauss quadrature on the knot intervals is
exact. What an edge is worth to the network is what its removal does. The edge is replaced by its
mean, and the root mean square of the change of all outputs, over the data, is given in units of
their standard deviation.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kanlib._checks import check_option, check_tensor, shown
from kanlib.nn.described import alteration
from kanlib.nn.networks import KAN, check_parts
from kanlib.nn.spline_layer import SplineLayer
from kanlib.splines.bspline import dense_basis
from kanlib.splines.periodic import turned
from kanlib.splines.quadrature import quadrature

__all__ = ["Importance", "LayerImportance", "importance"]

Measure = Literal["data", "domain"]
#: A standard deviation of outputs or edges, relative to their size, that is only rounding.
ROUNDING = 1e-13
MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True, eq=False)
class LayerImportance:
    """What the edges of one layer are worth, each tensor (Q, P) in float64 on the CPU.

    Attributes:
        norm: L2 norm of the function of each edge, the root of its mean square.
        mean: its mean.
        deviation: its standard deviation.
        share: its share of the variance of the output q of the layer; shares add up to one.
        removal: what its removal changes in the outputs of the network, in units of their
            standard deviation.
        units: the same, (P,), of the removal of all edges of one input of the layer.

    Examples:
        >>> model = KAN([2, 3, 1], n=4, dtype=torch.float64)
        >>> first = importance(model, torch.rand(100, 2)).layers[0]
        >>> first.norm.shape, first.units.shape
        (torch.Size([3, 2]), torch.Size([2]))
        >>> torch.allclose(first.share.sum(dim=1), torch.ones(3, dtype=torch.float64))
        True
    """

    norm: Tensor
    mean: Tensor
    deviation: Tensor
    share: Tensor
    removal: Tensor
    units: Tensor


@dataclass(frozen=True, eq=False)
class Importance:
    """What edges and units of a network are worth, see :func:`importance`.

    Attributes:
        layers: for each layer with edges, from input to output, a leading linear map included.
        measure: "data" or "domain", by which norms, deviations and shares are taken.

    Examples:
        >>> model = KAN([2, 1], n=4, dtype=torch.float64)
        >>> with torch.no_grad():
        ...     _ = model.layers[0].weight[0, 1].mul_(1000.0)
        >>> found = importance(model, torch.rand(100, 2))
        >>> [row["input"] for row in found.rows()]
        [1, 0]
    """

    layers: Sequence[LayerImportance]
    measure: Measure

    def rows(self) -> list[dict[str, float]]:
        """Return the edges as a list of dictionaries, the most important first."""
        found = []
        for number, layer in enumerate(self.layers):
            outputs, inputs = layer.norm.shape
            for q in range(outputs):
                for p in range(inputs):
                    row: dict[str, float] = {"layer": number, "input": p, "output": q}
                    for name in ("norm", "deviation", "share", "removal"):
                        row[name] = float(getattr(layer, name)[q, p])
                    found.append(row)
        return sorted(found, key=lambda row: -row["removal"])

    def __repr__(self) -> str:
        lines = ["layer  edge          norm   deviation     share   removal"]
        for row in self.rows():
            edge = f"{row['input']:.0f} -> {row['output']:.0f}"
            lines.append(
                f"{row['layer']:>5.0f}  {edge:<8} {row['norm']:>9.3g}   {row['deviation']:>9.3g} "
                f"{round(row['share'], 4) + 0:>9.2%} {row['removal']:>9.3g}"
            )
        return "\n".join(lines)


def importance(model: KAN, x: Tensor, *, measure: Measure = "data") -> Importance:
    """Return what the edges, the hidden units and the inputs of a network are worth.

    Args:
        model: the network; that of an ensemble is one of its ``members()``.
        x: representative inputs, (N, P) with N >= 2, as those it was trained with.
        measure: "data" for norms and shares over what enters each edge, or "domain" for those over
            the domain of the splines, where its inputs count as independent and uniform. A linear
            map has no domain, and keeps to the data.

    Returns:
        Norms, shares and effects of removal, computed in float64; ``print`` shows them as a table.

    Raises:
        TypeError: if the model is no KAN, or x no floating-point tensor.
        ValueError: if x is not a finite (N, P) tensor, the measure is unknown, or the network
            overrides forward or has hooks.

    Examples:
        >>> model = KAN([2, 1], n=4, dtype=torch.float64)
        >>> with torch.no_grad():  # s_0 is constant
        ...     _ = model.layers[0].weight[0, 0].fill_(3.0)
        >>> found = importance(model, torch.rand(100, 2)).layers[0]
        >>> found.norm[0, 0].round(decimals=9), found.share.abs().round(decimals=9)
        (tensor(3., dtype=torch.float64), tensor([[0., 1.]], dtype=torch.float64))
    """
    check_option("measure", measure, MEASURES)
    z = as_points("x", x, check_network(model))
    model = copy.deepcopy(model).double()
    z = z.to(next(model.parameters()))
    parts: list[nn.Module] = [*model.layers]
    found = []
    with torch.no_grad():
        y = model(z)
        spread = y.var(0, correction=0).sum().sqrt()
        spread = torch.where(spread > ROUNDING * y.abs().max(), spread, 0.0)
        for i, layer in enumerate(parts):
            if isinstance(layer, SplineLayer | nn.Linear):
                found.append(_of_layer(layer, z, parts[i + 1 :], spread, measure))
            z = layer(z)
    return Importance(found, measure)


def _of_layer(
    layer: SplineLayer | nn.Linear,
    x: Tensor,
    after: Sequence[nn.Module],
    spread: Tensor,
    measure: Measure,
) -> LayerImportance:
    values = contributions(layer, x)
    means = values.mean(0)
    centred = values - means
    removal, units = _removals(layer(x), centred, after, spread)
    if measure == "data" or isinstance(layer, nn.Linear):
        total = centred.sum(-1, keepdim=True)
        norm, deviation = values.square().mean(0).sqrt(), centred.square().mean(0).sqrt()
        part, whole = (centred * total).mean(0), total.square().mean(0)
    else:
        norm, means, deviation = _on_domain(layer)
        part, whole = deviation.square(), deviation.square().sum(-1, keepdim=True)
    rounding = (ROUNDING * norm.sum(-1, keepdim=True)) ** 2
    share = torch.where(whole > rounding, part / whole, 0.0)
    parts = norm, means, deviation, share, removal, units
    return LayerImportance(*(each.cpu() for each in parts))


def _removals(
    y: Tensor, centred: Tensor, after: Sequence[nn.Module], spread: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the effect of the removal of each edge (Q, P), and of all edges of an input (P,)."""

    def rest(z: Tensor) -> Tensor:
        for layer in after:
            z = layer(z)
        return z

    kept, (_, outputs, inputs) = rest(y), centred.shape
    one = torch.eye(outputs, dtype=y.dtype, device=y.device)[:, None]
    columns = []
    for p in range(inputs):  # each edge alone, then all
        less = torch.cat([centred[:, :, p] * one, centred[None, :, :, p]])
        changes = (rest(y - less) - kept).square().sum(-1).mean(-1).sqrt()
        columns.append(torch.where(spread > 0, changes / spread, 0.0))
    found = torch.stack(columns, dim=1)
    return found[:-1], found[-1]


def _on_domain(layer: SplineLayer) -> tuple[Tensor, Tensor, Tensor]:
    """Return the norm, mean and deviation of each edge over its domain, exact up to rounding."""
    layer, columns = layer.to_basis("spline"), []
    for p, grid in enumerate(layer.grids):
        points, weights = quadrature(grid, grid.order)
        values, weights = edge_values(layer, p, points), weights / weights.sum()
        mean = weights @ values
        columns.append((weights @ values**2, mean, weights @ (values - mean) ** 2))
    square, means, variance = (torch.stack(each, dim=1) for each in zip(*columns, strict=True))
    return square.sqrt(), means, variance.sqrt()


def contributions(layer: SplineLayer | nn.Linear, x: Tensor) -> Tensor:
    """Return the value of each edge of a layer at points.

    Args:
        layer: a spline layer or a linear map.
        x: points (N, P), of the dtype of the layer.

    Returns:
        Values (N, Q, P), whose sum over P is the output of the layer, less a bias.
    """
    if isinstance(layer, nn.Linear):
        return layer.weight * x[:, None]
    layer = layer.to_basis("spline")
    columns = enumerate(x.T.contiguous())
    return torch.stack([edge_values(layer, p, column) for p, column in columns], dim=-1)


def edge_values(layer: SplineLayer, p: int, x: Tensor) -> Tensor:
    """Return the edges from input p of a layer in the spline basis at x (N,), of shape (N, Q)."""
    grid = layer.grids[p]
    x = turned(x, grid.domain) if grid.periodic else x
    basis = dense_basis(x, grid, extension=layer.extension)
    return basis @ layer.coefficients()[:, p].to(basis).T


def check_network(model: KAN) -> KAN:
    """Return the model, or raise unless it is a KAN whose call does what its layers say."""
    if not isinstance(model, KAN):
        raise TypeError(
            f"model must be a KAN, with splines on its edges, got {shown(model)}: take a member of "
            "an ensemble, or the network of hard conditions, with the inputs that it sees"
        )
    check_parts(model)
    for part in model.modules():
        known = KAN if part is model else SplineLayer if isinstance(part, SplineLayer) else None
        altered = alteration(part, known)
        if altered:
            raise ValueError(
                f"model must be the sum of its edges, but it has {altered}: take a plain KAN"
            )
    return model


def as_points(name: str, x: Tensor, model: KAN) -> Tensor:
    """Return inputs of a network, after checking that they are finite and (N, P), N >= 2."""
    check_tensor(name, x)
    if x.ndim != 2 or x.shape[1] != model.widths[0] or len(x) < 2:
        raise ValueError(
            f"{name} must have shape (N, {model.widths[0]}) with N >= 2, got {tuple(x.shape)}"
        )
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite entries: remove those rows")
    return x
