"""Drawings of networks: every edge with its spline, its knots and its coefficients.

Nodes stand in rows, inputs below and outputs above, as Kolmogorov-Arnold networks are usually
drawn. Between two rows each edge carries a small panel with the function on it; all panels of a
layer have one scale. A leading linear map is drawn as lines, as thick as their weights are large.
With the importance of the edges, every line is as thick as the effect of the removal of its edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
import torch
from torch import Tensor

from kanlib._checks import shown
from kanlib.analysis.importance import Importance, LayerImportance
from kanlib.nn.networks import KAN, check_parts
from kanlib.nn.spline_layer import SplineLayer
from kanlib.splines import bspline
from kanlib.splines.bspline import greville
from kanlib.splines.knots import KnotGrid
from kanlib.viz.colors import BASIS_COLORS, GREY, ORANGE

__all__ = ["draw_network"]

MOST_EDGES = 24
"""Edges of a layer that can still be told apart."""
POINTS = 61
#: Half the height of a panel, and its share of the room between its neighbours.
HEIGHT, SHARE = 0.22, 0.86
FAINT = "rgba(128, 128, 128, 0.45)"


def draw_network(
    model: KAN,
    *,
    color: str | None = None,
    scale: float | None = None,
    importance: Importance | None = None,
) -> go.Figure:
    """Draw a network.

    A curve is the spline of an edge on its domain, ticks below it are the breakpoints, and dots the
    coefficients of its B-splines at their Greville points; for order 1, at the middle of their
    intervals. A network in the ReLU basis is drawn as the function that it is, with the
    coefficients that the spline basis would have. Pruned edges are left out.

    Args:
        model: the network, with at most 24 edges a layer.
        color: colour of the curves; by default that of the basis.
        scale: value at the upper edge of all panels; by default the largest of a layer.
        importance: of :func:`kanlib.analysis.importance.importance` of this network: lines are as
            thick as edges are important, and the numbers appear where one points at an edge.

    Returns:
        A figure whose traces are in the same order for networks of the same widths.

    Raises:
        TypeError: if the model is not a KAN, or the importance none.
        ValueError: if a layer has too many edges, or the importance is that of other widths.

    Examples:
        >>> fig = draw_network(KAN([2, 3, 1], n=4))
        >>> [trace.name for trace in fig.data]
        ['edges', 'functions', 'knots', 'coefficients', 'nodes']
    """
    if not isinstance(model, KAN):
        raise TypeError(f"model must be a KAN, got {type(model).__name__}")
    check_parts(model)
    layers = model.edge_layers
    widths = [layers[0].in_features, *model.widths[1:]]
    edges = max(p * q for p, q in pairwise(widths))
    if edges > MOST_EDGES:
        raise ValueError(
            f"model must have at most {MOST_EDGES} edges a layer to be drawn, got {edges}: draw a "
            "smaller network, or plot the edges of one layer by themselves"
        )
    worths = _worths(importance, widths)
    nodes = [
        [((i + 0.5) / width, float(row)) for i in range(width)] for row, width in enumerate(widths)
    ]
    lines, curves, knots, dots = _Path(), _Path(), _Path(), _Path()
    shapes: list[dict[str, object]] = []
    hints: list[tuple[float, float, str]] = []
    for row, layer in enumerate(layers):
        below, above, worth = nodes[row], nodes[row + 1], worths[row]
        if not isinstance(layer, SplineLayer):
            weight = layer.weight.detach()
            sizes = weight if worth is None else worth.removal * weight.cpu().sign()
            shapes += [*_weighted(sizes, below, above)]
            if worth is not None:
                hints += [*_hints(worth, below, above)]
            continue
        count, half = len(below) * len(above), 0.5 * SHARE / (len(below) * len(above))
        functions = [*_functions(layer)]
        top = scale or max(float(values.abs().max()) for *_, values in functions) or 1.0
        for edge, (grid, coefficients, values) in enumerate(functions):
            p, q = edge // len(above), edge % len(above)
            if layer.mask is not None and not layer.mask[q, p]:
                continue
            x, y = (edge + 0.5) / count, row + 0.5

            def across(t: Tensor, x: float = x, grid: KnotGrid = grid, half: float = half) -> Any:
                a, b = grid.domain
                return (x + half * (2 * (t - a) / (b - a) - 1)).tolist()

            ways = (*below[p], x, y - HEIGHT), (x, y + HEIGHT, *above[q])
            if worth is None:
                for x0, y0, x1, y1 in ways:
                    lines.add([x0, x1], [y0, y1])
            else:
                width = _width(float(worth.removal[q, p] / (worth.removal.max() or 1.0)))
                shapes += [_line(*way, {"color": GREY, "width": width}) for way in ways]
                hints.append((x, y, _numbers(worth, p, q)))
            curves.add(across(_places(grid)), (y + HEIGHT * (values / top)).tolist())
            for at in across(grid.breakpoints):
                knots.add([at, at], [y - HEIGHT - 0.03, y - HEIGHT + 0.03])
            heights = (coefficients / top).clamp(-1.0, 1.0)
            dots.add(across(_centres(grid)), (y + HEIGHT * heights).tolist())
            shapes.append(_panel(x, y, half))
    color = color or BASIS_COLORS[next(model.spline_layers).basis]
    flat = [place for each in nodes for place in each]
    fig = go.Figure(
        [
            lines.trace("edges", {"color": FAINT, "width": 1}),
            curves.trace("functions", {"color": color, "width": 2}),
            knots.trace("knots", {"color": GREY, "width": 1}),
            dots.trace("coefficients", marker={"color": ORANGE, "size": 4}),
            go.Scatter(
                x=[x for x, _ in flat],
                y=[y for _, y in flat],
                name="nodes",
                mode="markers",
                marker={"color": GREY, "size": 12},
                hoverinfo="skip",
                showlegend=False,
            ),
        ]
    )
    hidden = {"visible": False, "fixedrange": True}
    if importance is not None:
        fig.add_trace(_hovered(hints))
    fig.update_layout(
        shapes=shapes,
        xaxis={**hidden, "range": [0, 1]},
        yaxis={**hidden, "range": [-0.15, len(layers) + 0.15]},
        height=120 + 210 * len(layers),
        margin={"l": 10, "r": 10, "t": 20, "b": 60},
    )
    return fig


class _Path:
    """Pieces of lines, or points, that make one trace."""

    def __init__(self) -> None:
        self.x: list[float | None] = []
        self.y: list[float | None] = []

    def add(self, x: list[float], y: list[float]) -> None:
        """Add a piece."""
        self.x += [*x, None]
        self.y += [*y, None]

    def trace(
        self,
        name: str,
        line: dict[str, object] | None = None,
        marker: dict[str, object] | None = None,
    ) -> go.Scatter:
        """Return the trace: lines, or else points."""
        return go.Scatter(
            x=self.x,
            y=self.y,
            name=name,
            mode="lines" if line else "markers",
            line=line,
            marker=marker,
            hoverinfo="skip",
            showlegend=name != "edges",
        )


def _functions(layer: SplineLayer) -> Iterator[tuple[KnotGrid, Tensor, Tensor]]:
    """Yield grid, coefficients and values on its domain of each edge, input by input."""
    weight = layer.to_basis("spline").coefficients().detach().cpu().double()
    for p, grid in enumerate(layer.grids):
        basis = bspline.dense_basis(_places(grid), grid)
        for q in range(layer.out_features):
            yield grid, weight[q, p], basis @ weight[q, p]


def _places(grid: KnotGrid) -> Tensor:
    return torch.linspace(*grid.domain, POINTS, dtype=torch.float64)


def _centres(grid: KnotGrid) -> Tensor:
    if grid.order == 1:
        return 0.5 * (grid.breakpoints[1:] + grid.breakpoints[:-1])
    return greville(grid)


def _panel(x: float, y: float, half: float) -> dict[str, object]:
    return {
        "type": "rect",
        "x0": x - half,
        "x1": x + half,
        "y0": y - HEIGHT,
        "y1": y + HEIGHT,
        "line": {"color": FAINT, "width": 1},
        "layer": "below",
    }


def _weighted(
    weight: Tensor, below: list[tuple[float, float]], above: list[tuple[float, float]]
) -> Iterator[dict[str, object]]:
    """Yield the lines of a linear map; a negative weight is dotted."""
    largest = float(weight.abs().max()) or 1.0
    for q, (x1, y1) in enumerate(above):
        for p, (x0, y0) in enumerate(below):
            value = float(weight[q, p]) / largest
            dash = "dot" if value < 0 else "solid"
            line = {"color": GREY, "width": _width(abs(value)), "dash": dash}
            yield _line(x0, y0, x1, y1, line)


def _width(value: float) -> float:
    return 0.5 + 4 * value


def _line(x0: float, y0: float, x1: float, y1: float, line: dict[str, object]) -> dict[str, object]:
    return {"type": "line", "x0": x0, "y0": y0, "x1": x1, "y1": y1, "line": line, "layer": "below"}


def _worths(importance: Importance | None, widths: list[int]) -> list[LayerImportance | None]:
    """Return what the edges of each layer are worth, or None for each."""
    if importance is None:
        return [None] * (len(widths) - 1)
    if not isinstance(importance, Importance):
        raise TypeError(
            f"importance must be what kanlib.analysis.importance gives, got {shown(importance)}"
        )
    theirs = [(*each.removal.shape[::-1],) for each in importance.layers]
    if theirs != [*pairwise(widths)]:
        raise ValueError(
            f"importance must be that of a network of widths {widths}, got layers of (inputs, "
            f"outputs) {theirs}: compute it for the network that is drawn"
        )
    return [*importance.layers]


def _hints(
    worth: LayerImportance, below: list[tuple[float, float]], above: list[tuple[float, float]]
) -> Iterator[tuple[float, float, str]]:
    """Yield where the lines of a linear map can be pointed at, nearer to their units, and text."""
    for q, (x1, y1) in enumerate(above):
        for p, (x0, y0) in enumerate(below):
            yield x0 + 0.7 * (x1 - x0), y0 + 0.7 * (y1 - y0), _numbers(worth, p, q)


def _numbers(worth: LayerImportance, p: int, q: int) -> str:
    return (
        f"edge {p} → {q}<br>norm {float(worth.norm[q, p]):.3g}"
        f"<br>standard deviation {float(worth.deviation[q, p]):.3g}"
        f"<br>share of the variance {round(float(worth.share[q, p]), 3) + 0:.1%}"
        f"<br>effect of removal {float(worth.removal[q, p]):.3g}"
    )


def _hovered(hints: list[tuple[float, float, str]]) -> go.Scatter:
    return go.Scatter(
        x=[x for x, *_ in hints],
        y=[y for _, y, _ in hints],
        text=[text for *_, text in hints],
        name="importance",
        mode="markers",
        marker={"color": GREY, "size": 26, "opacity": 0},
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
