"""Pruning: a smaller network that is almost the same function, and what it costs in the loss.

An edge is replaced by its mean over the data, which another edge of the same unit takes up, so that
its removal loses its variation only. Hidden units without an edge to the next layer are taken out
of the weights and cost nothing any more. Single edges are masked
(:meth:`kanlib.nn.spline_layer.SplineLayer.masked`): they stay zero under training and refinement,
and cost as much time as before.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanlib._checks import as_number, as_result, check_function, shown
from kanlib.analysis.importance import Importance, as_points, check_network, importance
from kanlib.nn.networks import KAN
from kanlib.nn.spline_layer import SplineLayer, convert_weights
from kanlib.objectives.mean_squared_error import Objective

__all__ = ["Pruned", "count_edges", "prune"]


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned network, see :func:`prune`.

    Attributes:
        model: the network.
        units: for each width of the old network, the inputs, hidden units and outputs that it has.
        widths: the widths of the old network.
        inputs: the inputs on which it depends. Training may bring back the others through a leading
            linear map, which has no mask, unless they are taken out (``inputs=True``).
        edges: the number of edges of the old network and of this one.
        parameters: the number of trainable parameters of the two.
        before: the loss of the old network.
        after: the loss of this one, before any further training.
        importance: what edges and units of the old network were worth.

    Examples:
        >>> from kanlib import MeanSquaredError
        >>> x = torch.rand(50, 2, dtype=torch.float64)
        >>> model = KAN([2, 1], n=4, dtype=torch.float64)
        >>> with torch.no_grad():  # nothing depends on the second input
        ...     _ = model.layers[0].weight[:, 1].zero_()
        >>> found = prune(model, MeanSquaredError(x, x[:, :1]))
        >>> found.inputs, found.edges
        ([0], (2, 1))
    """

    model: KAN
    units: list[list[int]]
    widths: list[int]
    inputs: list[int]
    edges: tuple[int, int]
    parameters: tuple[int, int]
    before: float
    after: float
    importance: Importance

    def __repr__(self) -> str:
        return (
            f"Pruned(widths {self.widths} -> {self.model.widths}, "
            f"edges {self.edges[0]} -> {self.edges[1]}, "
            f"parameters {self.parameters[0]} -> {self.parameters[1]}, "
            f"loss {self.before:.3e} -> {self.after:.3e})"
        )


def prune(
    model: KAN,
    objective: Objective,
    x: Tensor | None = None,
    *,
    threshold: float = 0.01,
    inputs: bool = False,
) -> Pruned:
    """Return a network without the edges, units and, if wanted, inputs that matter little.

    What matters is the effect of removal, see :func:`kanlib.analysis.importance.importance`. An
    edge goes if its effect is below the threshold, or that of the unit it comes from. A unit that
    stays keeps its most important edge. Effects of several removals add up, so look at the loss
    that the result tells, and train on.

    The means of inputs go into the bias of a leading linear map, which gets one where it has none
    and needs it. With ``extension="none"``, an edge takes up a mean inside its domain only.

    Args:
        model: the network, which is left as it is.
        objective: function from a network to its loss.
        x: representative inputs (N, P); by default those of a ``MeanSquaredError`` with data.
        threshold: the smallest effect that counts, in units of the standard deviation of the
            outputs.
        inputs: take out inputs that have no effect, too. The network then takes
            ``x[:, pruned.inputs]``; its loss is that of the same function with all inputs.

    Returns:
        The network, and its loss before and after.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if the threshold is negative, or x is missing or no finite (N, P) tensor.

    Examples:
        >>> from kanlib import GaussNewton, MeanSquaredError, train
        >>> x = torch.rand(200, 3, dtype=torch.float64)
        >>> data = MeanSquaredError(x, torch.sin(4 * x[:, :1]) + x[:, 1:2] ** 2)
        >>> model = KAN([3, 1], n=5, dtype=torch.float64)
        >>> run = train(model, data, 10, optimizer=GaussNewton(), progress=False)
        >>> prune(run.model, data, inputs=True).inputs
        [0, 1]
    """
    check_network(model)
    check_function("objective", objective, "function from a network to its loss")
    threshold = as_number("threshold", threshold, 0)
    if not isinstance(inputs, bool):
        raise TypeError(f"inputs must be True or False, got {shown(inputs)}")
    if x is None:
        x = getattr(objective, "x", None)
        if x is None:
            raise ValueError(
                "x must be given, as the objective has no x of its own: representative inputs of "
                "the network, such as the points of a term"
            )
    found = importance(model, as_points("x", x, model))
    masks, units = _plan(model, found, threshold)
    units[0] = sorted({model.entering[column] for column in units[0]})
    smaller = _without(model, found, masks)
    smaller = smaller.select([[*range(model.widths[0])], *units[1:]])
    before, after = (
        as_result("objective", objective(each), "return a scalar loss") for each in (model, smaller)
    )
    if inputs:
        smaller = smaller.select([units[0], *([*range(w)] for w in smaller.widths[1:])])
    kept = units if inputs else [[*range(model.widths[0])], *units[1:]]
    edges = count_edges(model), count_edges(smaller)
    sizes = model.num_parameters, smaller.num_parameters
    widths = [*model.widths]
    return Pruned(smaller, kept, widths, units[0], edges, sizes, before, after, found)


def count_edges(model: KAN) -> int:
    """Return the number of edges of a network, less masked splines and zero columns of maps.

    Examples:
        >>> count_edges(KAN([2, 5, 1]))
        15
    """
    return sum(
        int(layer.weight[..., 0].numel() if layer.mask is None else layer.mask.sum())
        if isinstance(layer, SplineLayer)
        else len(layer.weight) * int(layer.weight.any(0).sum())
        for layer in model.edge_layers
    )


def _plan(model: KAN, found: Importance, threshold: float) -> tuple[list[Tensor], list[list[int]]]:
    """Return the edges that stay, (Q, P) for each layer, and the units that stay."""
    alive = torch.ones(model.widths[-1], dtype=torch.bool)
    masks, units = [], [[*range(model.widths[-1])]]
    pairs = zip(model.edge_layers, found.layers, strict=True)
    for layer, worth in reversed([*pairs]):
        mask = (worth.removal >= threshold) & (worth.units >= threshold)
        if isinstance(layer, nn.Linear):
            mask = (worth.units >= threshold).expand_as(mask).clone()
        elif layer.mask is not None:
            mask &= layer.mask.cpu()
        mask[torch.arange(len(mask)), _strongest(layer, worth.removal)] = True
        mask &= alive[:, None]
        alive = mask.any(0)
        masks.append(mask)
        units.append(alive.nonzero()[:, 0].tolist())
    return masks[::-1], units[::-1]


def _strongest(layer: SplineLayer | nn.Linear, removal: Tensor) -> Tensor:
    """Return the input of the most important edge, one that there is, of each unit, (Q,)."""
    mask = getattr(layer, "mask", None)
    return removal.argmax(1) if mask is None else (mask.cpu() * (removal + 1)).argmax(1)


@torch.no_grad()
def _without(model: KAN, found: Importance, masks: list[Tensor]) -> KAN:
    """Return the network with these edges, and with the means of the others."""
    plan = {
        id(layer): (worth, mask)
        for layer, worth, mask in zip(model.edge_layers, found.layers, masks, strict=True)
    }

    def masked(layer: SplineLayer) -> SplineLayer:
        worth, mask = plan[id(layer)]
        mask = mask | ~mask.any(1, keepdim=True)  # rows of units that go stay as they are
        other = layer.masked(mask)
        if layer.mask is None and bool(mask.all()):
            other.mask = None
        means = torch.where(mask, 0.0, worth.mean).sum(1)
        p = _strongest(other, worth.removal)
        ones = torch.ones(layer.in_features, layer.weight.shape[-1], dtype=torch.float64)
        constant = convert_weights(ones, layer.distinct_grids, "spline", layer.basis)
        rows = torch.arange(layer.out_features)
        other.weight[rows, p] += (means[:, None] * constant[p]).to(other.weight)
        return other

    other = model.mapped(masked)
    first = other.edge_layers[0]
    if isinstance(first, nn.Linear):
        worth, gone = found.layers[0], ~masks[0].any(0)
        first.weight[:, gone.to(first.weight.device)] = 0.0
        means = (worth.mean * gone).sum(1).to(first.weight)
        if first.bias is not None:
            first.bias.add_(means)
        elif means.any():
            first.bias = nn.Parameter(means)
    return other
