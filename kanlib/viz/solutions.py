"""Pictures of solutions: a network over its domain, its error and the residual of an equation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor, nn

from kanlib._checks import as_integer, as_interval, as_list, as_number, check_function, shown
from kanlib.objectives.residuals import Term
from kanlib.viz.colors import CURVES, GREY

__all__ = ["contour_lines", "draw_solution"]

#: Points along a coordinate between which level lines are drawn, at most; they make up the weight.
LINES = 51
#: Colour scales, which for errors have white in the middle.
SCALES = {"solution": "Viridis", "error": "RdBu", "residual": "RdBu"}


def draw_solution(
    model: nn.Module,
    box: Sequence[tuple[float, float]],
    *,
    reference: Callable[[Tensor], Tensor] | None = None,
    term: Term | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    output: int = 0,
    slices: Sequence[float] = (),
    points: int = 101,
    names: Sequence[str] = ("x", "y"),
) -> go.Figure:
    """Draw a solution in one or two coordinates, and if asked for its error and residual.

    Two coordinates give a map for each of them. With ``slices``, values of the second coordinate
    such as times, and with one coordinate, it is curves over the first; a reference is dotted.

    Args:
        model: the network.
        box: interval of each coordinate, one or two.
        reference: function from points (N, P) to the values (N, 1) or (N,) to compare with.
        term: a term of the loss, whose residual is evaluated between its points, too.
        features: function from points to the inputs of the network, if those are not the
            coordinates.
        output: which output of the network, which column of the residual.
        slices: values of the second coordinate.
        points: number of points along a coordinate, at least 2.
        names: names of the coordinates, for axes and legend, e.g. ("x", "t").

    Returns:
        A figure with the panels "solution", "error" and "residual", those that are known. Maps of
        error and residual have lines of the solution, so that one sees where they are large.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the box has neither one nor two intervals, a coordinate has no name, slices
            are not in the box, the network lacks the output, or the reference returns another
            number of values.

    Examples:
        >>> from kanlib import KAN
        >>> fig = draw_solution(KAN([2, 3, 1]), [(0, 1), (0, 1)], reference=lambda x: x[:, 0])
        >>> [trace.name for trace in fig.data if trace.type == "heatmap"]
        ['solution', 'error']
    """
    intervals = [as_interval(f"box[{i}]", each) for i, each in enumerate(_box(box))]
    count, column = as_integer("points", points, 2), as_integer("output", output, 0)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a network, got {shown(model)}")
    for name, function in (("reference", reference), ("features", features)):
        if function is not None:
            check_function(name, function)
    if term is not None and not isinstance(term, Term):
        raise TypeError(f"term must be a Term, got {shown(term)}")
    cuts = [as_number("slices", cut) for cut in as_list("slices", slices, "numbers")]
    if cuts and (len(intervals) < 2 or not all(_holds(intervals[1], cut) for cut in cuts)):
        raise ValueError(f"slices must lie in the second interval of box, got {cuts} and {box}")
    labels = as_list("names", names, 'strings, such as ("x", "t")')
    if not all(isinstance(each, str) for each in labels) or len(labels) < len(intervals):
        raise ValueError(
            f"names must be a string for each of {len(intervals)} coordinates, got {shown(names)}"
        )
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    place: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
    axes = [torch.linspace(a, b, count, **place) for a, b in intervals]
    if cuts:
        axes[1] = torch.tensor(cuts, **place)
    at = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    panels = _panels(model, at, reference, term, features, column)
    shape = [len(axis) for axis in axes]
    grids = {name: values.reshape(shape).movedim(0, -1).tolist() for name, values in panels.items()}
    if len(axes) == 1 or cuts:
        return _curves(grids, axes[0].tolist(), cuts, labels)
    return _maps(grids, axes, labels)


def contour_lines(x: Any, y: Any, values: Any, count: int = 7) -> list[go.Contour]:
    """Return lines along which a function is constant, to lay over a map of something else.

    Each line is dark with a light one on top, which stands out on every colour. Lines are at equal
    steps between the smallest and the largest value, where there are none.

    Args:
        x: places (M,) along the horizontal axis.
        y: places (N,) along the vertical axis.
        values: values (N, M) of the function; no line goes where they are not finite.
        count: number of values that have lines, at least 1.

    Returns:
        Traces for a figure; none if the function is constant.

    Raises:
        TypeError: if ``count`` is not an integer.
        ValueError: if the shapes do not fit, or ``count`` is below 1.

    Examples:
        >>> [trace.contours.size for trace in contour_lines([0, 1], [0, 1], [[0, 1], [2, 4]], 3)]
        [1.0, 1.0]
    """
    lines = as_integer("count", count, 1)
    places = [torch.as_tensor(axis, dtype=torch.float32) for axis in (x, y)]
    field = torch.as_tensor(values, dtype=torch.float64)
    expected = tuple(axis.numel() for axis in reversed(places))
    if field.shape != expected:
        raise ValueError(f"values must be {expected}, a row for each y, got {tuple(field.shape)}")
    known = field[field.isfinite()]
    low, high = (float(end) for end in known.aminmax()) if len(known) else (0.0, 0.0)
    step = (high - low) / (lines + 1)
    if not step > 0:
        return []
    levels = {"start": low + step, "end": high - step / 2, "size": step, "coloring": "none"}
    return [
        go.Contour(
            x=places[0].numpy(),
            y=places[1].numpy(),
            z=torch.where(field.isfinite(), field, torch.nan).float().numpy(),
            contours=levels,
            line={"color": color, "width": width},
            showscale=False,
            showlegend=False,
            hoverinfo="skip",
        )
        for color, width in (("rgba(0, 0, 0, 0.5)", 2.5), ("rgba(255, 255, 255, 0.8)", 1))
    ]


def _box(box: Any) -> list[Any]:
    intervals = as_list("box", box, "intervals, such as [(0, 1), (0, 1)]")
    if len(intervals) not in (1, 2):
        raise ValueError(
            f"box must have one or two intervals, got {len(intervals)}: fix the other coordinates "
            "by a network of your own, or by features"
        )
    return intervals


def _holds(interval: tuple[float, float], value: float) -> bool:
    return interval[0] <= value <= interval[1]


@torch.no_grad()
def _panels(
    model: nn.Module,
    at: Tensor,
    reference: Callable[[Tensor], Tensor] | None,
    term: Term | None,
    features: Callable[[Tensor], Tensor] | None,
    column: int,
) -> dict[str, Tensor]:
    """Return the values (N,) at points of what is to be drawn."""
    values = model(at if features is None else features(at))
    found = {"solution": _column(values, column)}
    if reference is not None:
        exact = torch.as_tensor(reference(at)).to(found["solution"])
        if exact.numel() != len(at):
            raise ValueError(
                f"reference must return a value for each of {len(at)} points, got "
                f"{tuple(exact.shape)}: return one column"
            )
        found["reference"] = exact.flatten()
        found["error"] = found["solution"] - found["reference"]
    if term is not None:
        found["residual"] = _column(term.equations(model, at), column)
    return found


def _column(values: Tensor, column: int) -> Tensor:
    if values.ndim != 2:
        raise ValueError(
            f"model must return (N, Q), got {tuple(values.shape)}: draw one member of an ensemble"
        )
    if column >= values.shape[1]:
        raise ValueError(f"output must be below {values.shape[1]}, got {column}")
    return values[:, column]


def _curves(
    grids: dict[str, Any], x: list[float], cuts: list[float], labels: Sequence[str]
) -> go.Figure:
    """Return one panel below the other, with a curve for each slice."""
    names = [name for name in SCALES if name in grids]
    fig = make_subplots(rows=len(names), cols=1, shared_xaxes=True, vertical_spacing=0.07)
    times = [f"{cut:g}" for cut in cuts]
    for row, name in enumerate(names, start=1):
        fig.update_yaxes(title=name, row=row)
        for i, values in enumerate(grids[name] if cuts else [grids[name]]):
            color = CURVES[i % len(CURVES)]
            own = {"legendgroup": str(i), "line": {"color": color}, "mode": "lines"}
            label = times[i] if cuts else name
            fig.add_scatter(x=x, y=values, name=label, showlegend=row == 1, row=row, col=1, **own)
            if name == "solution" and "reference" in grids:
                y = grids["reference"][i] if cuts else grids["reference"]
                dots = own | {"line": {"color": GREY, "dash": "dot"}}
                fig.add_scatter(x=x, y=y, name="reference", showlegend=i == 0, row=1, col=1, **dots)
    title = labels[1] if cuts else None
    fig.update_xaxes(title=labels[0], row=len(names))
    fig.update_layout(height=max(360, 240 * len(names)), legend_title_text=title)
    return fig.update_yaxes(exponentformat="power")


def _maps(grids: dict[str, Any], axes: list[Tensor], labels: Sequence[str]) -> go.Figure:
    """Return one map below the other."""
    names = [name for name in SCALES if name in grids]
    gap, count = 0.12, len(names)
    titles = names if count > 1 else None
    fig = make_subplots(
        rows=count, cols=1, subplot_titles=titles, vertical_spacing=gap, shared_xaxes=True
    )
    height = (1 - gap * (count - 1)) / count
    few = torch.linspace(0, len(axes[0]) - 1, min(len(axes[0]), LINES)).round().long()
    exact = torch.as_tensor(grids.get("reference", grids["solution"]))
    over = contour_lines(axes[0][few], axes[1][few], exact[few[:, None], few])
    for row, name in enumerate(names, start=1):
        middle = 1 - (row - 1) * (height + gap) - height / 2
        signed = {} if name == "solution" else {"zmid": 0.0}
        fig.add_heatmap(
            x=axes[0].tolist(),
            y=axes[1].tolist(),
            z=grids[name],
            name=name,
            colorscale=SCALES[name],
            colorbar={"y": middle, "len": height, "thickness": 12, "exponentformat": "power"},
            row=row,
            col=1,
            **signed,
        )
        for line in over if signed else []:
            fig.add_trace(line, row=row, col=1)
    fig.update_xaxes(title=labels[0], row=count).update_yaxes(title=labels[1])
    return fig.update_layout(height=max(360, 260 * count))
