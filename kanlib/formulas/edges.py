"""The function of an edge at points of a quadrature, in the variable that enters the edge.

Points lie in all knot intervals that data reach, weighted by the share of the data that an interval
holds: the spline is known exactly, and counts where the network uses it. A fixed map before the
splines, of inputs or of hidden values, is part of the edge. Periodic coordinates are an exception:
what enters their edges is a cosine or a sine, see :class:`kanlib.nn.maps.Circle`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kanlib.analysis.importance import edge_values
from kanlib.nn.maps import Circle, InputMap, Normalisation
from kanlib.nn.networks import KAN
from kanlib.nn.spline_layer import SplineLayer

#: Points in an interval, enough for what a spline of order r is compared with.
EXTRA = 2


@dataclass(frozen=True, eq=False)
class Edge:
    """Values of an edge: points x, values y and weights, each (K,), in float64."""

    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]
    weights: np.ndarray[Any, Any]


def edges(model: KAN, x: Tensor) -> list[nn.Linear | list[list[Edge | None]]]:
    """Return the edges of each layer of a network.

    Args:
        model: the network, in float64.
        x: inputs that say where edges are used, (N, P).

    Returns:
        For each layer a linear map, or for each output a list of the edge from each input, None
        where an edge is pruned.
    """
    found: list[nn.Linear | list[list[Edge | None]]] = []
    before: nn.Module | None = None
    entered = x
    with torch.no_grad():
        for layer in model.layers:
            if isinstance(layer, nn.Linear):
                entered, before = _affine(before, layer, found, entered), None
            elif isinstance(layer, SplineLayer):
                found.append(_of_layer(layer, before, entered))
                entered = layer(entered if before is None else before(entered))
                before = None
            elif isinstance(layer, Circle):
                entered, before = layer(entered if before is None else before(entered)), None
            else:
                before = layer
    return found


def _affine(before: nn.Module | None, layer: nn.Linear, found: list[Any], x: Tensor) -> Tensor:
    """Add a leading linear map, with the affine map of the inputs before it, as one."""
    whole = nn.Sequential(layer) if before is None else nn.Sequential(before, layer)
    start = whole(torch.zeros_like(x[:1]))
    one = nn.Linear(x.shape[1], len(layer.weight), dtype=x.dtype, device=x.device)
    one.weight.copy_((whole(torch.eye(x.shape[1]).to(x)) - start).T)
    one.bias.copy_(start[0])
    found.append(one)
    return whole(x)


def _of_layer(layer: SplineLayer, before: nn.Module | None, x: Tensor) -> list[list[Edge | None]]:
    splines = layer.to_basis("spline")
    rows: list[list[Edge | None]] = [[] for _ in range(layer.out_features)]
    for p, grid in enumerate(layer.grids):
        column = x[:, p].detach().cpu().double().numpy()
        ends = _raw(before, p, grid.breakpoints).numpy()
        points, weights = _quadrature(column, ends, layer.order + EXTRA)
        inside = torch.from_numpy(points)
        if before is not None:
            inside = before(inside[:, None].repeat(1, x.shape[1]).to(x))[:, p].cpu()
        values = edge_values(splines, p, inside)
        for q, row in enumerate(rows):
            kept = layer.mask is None or bool(layer.mask[q, p])
            row.append(Edge(points, values[:, q].numpy(), weights) if kept else None)
    return rows


def _raw(before: nn.Module | None, p: int, t: Tensor) -> Tensor:
    """Return breakpoints in the variable before a fixed map; those at infinity are left out."""
    if isinstance(before, InputMap):
        low, width = before.low[p].cpu(), before.width[p].cpu()
        a, b = before.domain
        return low + width * (t - a) / (b - a)
    if isinstance(before, Normalisation):
        inner = (t[1:-1] - before.shift) / before.scale
        return inner.logit() if isinstance(before.activation, nn.Sigmoid) else inner.atanh()
    return t


def _quadrature(column: Any, ends: Any, points: int) -> tuple[Any, Any]:
    """Return Gauss points of the intervals between ends that data reach, and their weights."""
    low, high = float(column.min()), float(column.max())
    inner = ends[(ends > low) & (ends < high)]
    if not low < high:  # all data are one number
        return np.array([low]), np.ones(1)
    places = np.array([low, *inner, high])
    share = np.histogram(column, places)[0] / len(column)
    nodes, weights = np.polynomial.legendre.leggauss(points)
    half = np.diff(places)[:, None] / 2
    x = places[:-1, None] + half * (1 + nodes)
    w = (share[:, None] / 2) * weights
    used = (w > 0).ravel()
    return x.ravel()[used], w.ravel()[used]
