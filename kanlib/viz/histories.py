"""Histories of runs: the loss, its terms and the metrics, over the work or the entries."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from kanlib._checks import check_option
from kanlib.training.runs import History, Run
from kanlib.viz.colors import CURVES, GREY

__all__ = ["draw_history"]

AXES = {"work": "work (coarse epochs)", "evaluations": "evaluations", "seconds": "seconds"}


def draw_history(run: Run[Any] | History, *, over: str = "work") -> go.Figure:
    """Draw the loss of a run and the terms that it is the sum of, on a logarithmic axis.

    Dotted lines stand where a level begins. Values that are zero or not known leave a gap.

    Args:
        run: what a training returned, or its history.
        over: "work", "evaluations" or "seconds", what the loss is drawn over.

    Returns:
        A figure whose first trace is the loss, followed by one trace for each term.

    Raises:
        TypeError: if ``run`` is neither a Run nor a History.
        ValueError: if ``over`` is unknown.

    Examples:
        >>> import torch
        >>> from kanlib import KAN, ResidualLoss, Term, train
        >>> x = torch.linspace(0, 1, 9)[:, None]
        >>> slope = Term(lambda u, x: u.d(0) - 1, x)
        >>> loss = ResidualLoss(slope=slope, start=Term(lambda u, x: u.value, x[:1]))
        >>> run = train(KAN([1, 1]), loss, 1, progress=False)
        >>> [trace.name for trace in draw_history(run).data]
        ['loss', 'slope', 'start']
    """
    if not isinstance(run, Run | History):
        raise TypeError(
            f"run must be what train or train_multilevel returned, got {type(run).__name__}"
        )
    check_option("over", over, AXES)
    history = run.history if isinstance(run, Run) else run
    x = getattr(history, over)
    fig = go.Figure(_trace("loss", x, history.loss, {"color": GREY, "width": 3}))
    for number, (name, values) in enumerate(history.terms.items()):
        fig.add_trace(_trace(name, x, values, {"color": CURVES[number % len(CURVES)]}))
    for i in range(1, len(history)):
        if history.level[i] != history.level[i - 1]:
            fig.add_vline(x=x[i], line={"color": GREY, "width": 1, "dash": "dot"})
    fig.update_layout(xaxis_title=AXES[over], yaxis_title="loss", yaxis_type="log")
    return fig.update_yaxes(exponentformat="power")


def _trace(name: str, x: list[float], values: list[float], line: dict[str, object]) -> go.Scatter:
    shown = [value if value > 0 else None for value in values]
    return go.Scatter(x=x, y=shown, name=name, mode="lines", line=line)
