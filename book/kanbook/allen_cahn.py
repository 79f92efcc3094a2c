"""Figures 8 and 9 of the paper: what recorded networks know of Allen–Cahn, level by level.

The fields of a network are its solution, the error against the reference, the residual and the
Fourier transform of the residual, each of shape (times, places).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from plotly.subplots import make_subplots
from scipy.interpolate import RectBivariateSpline

from kanbook.figures import add_map, as_bytes, power_ticks
from kanlib.nn.jets import Jet, propagate
from kanlib.paper.experiments import EXPERIMENTS, pdes
from kanlib.paper.problems.allen_cahn import AllenCahn, reference, volume_residual
from kanlib.paper.records import Record, runs_of
from kanlib.viz.solutions import contour_lines

SIDE = 64
T = np.arange(SIDE) / SIDE
X = 2 * T - 1
WAVES = np.arange(-SIDE // 2, SIDE // 2)
"""Times, places and wave numbers of the fields."""

LEVELS = (4, 8, 16, 32)
"""Intervals of the levels."""

MAPS: dict[str, dict[str, Any]] = {
    "solution": {"limits": (-1.1, 1.1)},
    "error": {"powers": (-4, 0)},
    "residual": {"powers": (-4, 1)},
    "spectrum": {"powers": (-7, -1)},
}
"""How each field is drawn, as `kanbook.figures.add_map` takes it."""

Fields = dict[str, NDArray[np.float64]]


@cache
def truth() -> NDArray[np.float64]:
    """Return the reference solution, by cubic splines between its points."""
    values = reference()
    places, times = (np.linspace(a, 1, n) for a, n in zip((-1, 0), values.shape, strict=True))
    found: NDArray[np.float64] = RectBivariateSpline(places, times, values)(X, T).T
    return found


def points() -> torch.Tensor:
    """Return the points (x, t) of the fields, (SIDE * SIDE, 2)."""
    return torch.cartesian_prod(torch.from_numpy(X), torch.from_numpy(T))


def as_field(values: torch.Tensor) -> NDArray[np.float64]:
    """Return values at `points` as a field."""
    return values.reshape(SIDE, SIDE).T.numpy()


@torch.no_grad()
def fields(record: Record, case: str) -> list[Fields]:
    """Return the fields of the recorded networks of a case, after each level.

    Args:
        record: the record of the experiment.
        case: name of a case with levels, of which a run has solutions.
    """
    run = next(run for run in runs_of(record, case) if run.solutions)
    jets = Jet.at(points(), pairs=[(0, 0)], features=AllenCahn(points=1).inputs)
    found = []
    for level, weights in sorted(run.solutions.items()):
        model = pdes.restored(EXPERIMENTS["allen-cahn"].cases[case], level, weights)
        u = propagate(model, jets)
        solution, residual = as_field(u.value), as_field(volume_residual(u))
        spectrum = np.abs(np.fft.fftshift(np.fft.fft2(residual))) / SIDE**2
        parts = (solution, solution - truth(), residual, spectrum)
        found.append(dict(zip(MAPS, parts, strict=True)))
    return found


def grid_of_levels(levels: Sequence[Fields]) -> go.Figure:
    """Return a row of maps for each level, with lines of the reference over solution and error.

    Args:
        levels: the fields of each level, coarsest first.
    """
    fig = make_subplots(
        rows=len(levels),
        cols=len(MAPS),
        horizontal_spacing=0.03,
        vertical_spacing=0.03,
        column_titles=[*MAPS],
        row_titles=[f"n = {n}" for n in LEVELS],
    )
    for row, level in enumerate(levels, start=1):
        for col, (name, options) in enumerate(MAPS.items(), start=1):
            spectral = name == "spectrum"
            domain = fig.get_subplot(row, col).xaxis.domain
            bar: dict[str, Any] = {
                "orientation": "h",
                "title": None,
                "x": sum(domain) / 2,
                "y": -0.02,
                "yanchor": "top",
                "len": 0.9 * (domain[1] - domain[0]),
                "thickness": 10,
                "tickfont": {"size": 11},
            }
            ends = options.get("powers")
            bar |= power_ticks(ends) if ends else {"tickvals": (-1, 0, 1)}
            add_map(
                fig,
                WAVES if spectral else X,
                WAVES if spectral else T,
                level[name],
                title="",
                row=row,
                col=col,
                colorbar=bar,
                **options,
            )
            as_bytes(fig.data[-1])
            if name in ("solution", "error"):
                for line in contour_lines(X[::2], T[::2], truth()[::2, ::2], count=3):
                    fig.add_trace(line, row=row, col=col)
        fig.update_traces(showscale=row == len(levels), selector={"type": "heatmap"}, row=row)
    fig.update_xaxes(showticklabels=False, ticks="")
    fig.update_yaxes(showticklabels=False, ticks="")
    fig.update_annotations(font_size=13)
    return fig.update_layout(height=800, margin={"t": 30, "l": 10, "r": 30, "b": 60})
