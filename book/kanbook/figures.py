"""Plotly figures in one style, shown alike in JupyterLab and on the pages of the book.

Importing this module makes the style the default::

    from kanbook.figures import show, BASIS_COLORS

    fig = go.Figure(go.Scatter(x=x, y=y, line_color=BASIS_COLORS["spline"]))
    fig.update_layout(xaxis_title="x", yaxis_title="value")
    show(fig, alt="What the figure shows, for those who cannot see it.",
         caption="What it means, in *Markdown* with $math$.")

Every figure of a chapter goes through `show`, because every figure needs its text alternative.
A plain ``fig.show()``, or a figure as the last expression of a cell, works too.
The template has no opinion of its own on light and dark: backgrounds are transparent, and axes,
grid and text are a grey that both themes leave legible.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
from IPython.display import Markdown, display
from plotly.io.base_renderers import MimetypeRenderer, PlotlyRenderer

from kanlib.viz.colors import BASIS_COLORS as BASIS_COLORS
from kanlib.viz.colors import BLUE as BLUE
from kanlib.viz.colors import GREEN as GREEN
from kanlib.viz.colors import GREY as GREY
from kanlib.viz.colors import ORANGE as ORANGE
from kanlib.viz.colors import PINK as PINK
from kanlib.viz.colors import PURPLE as PURPLE
from kanlib.viz.colors import SKY as SKY
from kanlib.viz.colors import VERMILLION as VERMILLION
from kanlib.viz.solutions import contour_lines

BASIS_NAMES = {"spline": "spline", "relu": "ReLU"}
"""How a text writes the bases."""

SCHEDULE_COLORS = {
    "multilevel": BLUE,
    "coarse": SKY,
    "fine": PURPLE,
    "small": ORANGE,
    "prolonged": PINK,
}
"""Colours of the schedules: levels, the coarse network alone, and the fine network alone from a
rough, a small and a prolonged start."""

LEVEL_COLORS = [ORANGE, SKY, GREEN, BLUE, PINK, VERMILLION, GREY]
"""Colours of the levels, coarsest first."""

SHORT, MOST_LABELS = 1.7, 6
"""Powers of ten below which a logarithmic axis has numbers between them, and its most labels."""

CONFIG = {"displayModeBar": False, "responsive": True}
"""Options of plotly.js that every figure is drawn with."""

_GRID = "rgba(128, 128, 128, 0.3)"
_AXIS = {
    "automargin": True,
    "exponentformat": "power",
    "gridcolor": _GRID,
    "linecolor": GREY,
    "showline": True,
    "ticks": "outside",
    "tickcolor": GREY,
    "zerolinecolor": _GRID,
}

TEMPLATE = go.layout.Template(
    layout={
        "autosize": True,
        "colorscale": {"sequential": "Viridis", "diverging": "RdBu"},
        "colorway": [BLUE, VERMILLION, GREEN, ORANGE, PINK, SKY, GREY],
        "font": {"family": "system-ui, sans-serif", "size": 14, "color": GREY},
        "height": 420,
        "legend": {"orientation": "h", "x": 0, "y": 0, "yanchor": "bottom", "yref": "container"},
        "margin": {"l": 60, "r": 20, "t": 40, "b": 80},
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "title": {"x": 0, "xref": "paper"},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)


class BookRenderer(MimetypeRenderer):
    """Emit a figure as plotly's own type, for JupyterLab, and as HTML, for the book.

    The HTML expects plotly.js on the page, which the book loads once from its own files, deferred;
    its script is a module, and so runs after that.
    """

    def to_mimebundle(self, fig_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the figure under both types."""
        html = pio.to_html(
            with_height(fig_dict),
            config=CONFIG,
            include_plotlyjs=False,
            include_mathjax=False,
            full_html=False,
            validate=False,
        )
        html = re.sub("<script[^>]*>", '<script type="module">', html, count=1)
        return {**PlotlyRenderer(CONFIG).to_mimebundle(fig_dict), "text/html": html}


def with_height(figure: dict[str, Any]) -> dict[str, Any]:
    """Return a figure whose layout says its height.

    Left to the template, the height is lost every other time that plotly.js draws into the same
    place: the figure is then as high as a box that is as high as the figure.

    Args:
        figure: a plotly figure as a dictionary.

    >>> with_height(go.Figure().to_dict())["layout"]["height"]
    420
    >>> with_height(go.Figure(layout_height=300).to_dict())["layout"]["height"]
    300
    """
    layout = figure["layout"]
    template = layout.get("template", {}).get("layout", {})
    height = layout.get("height") or template.get("height") or TEMPLATE.layout.height
    return {**figure, "layout": {**layout, "height": height}}


def with_log_ticks(fig: go.Figure) -> go.Figure:
    """Return a figure whose logarithmic axes have labels that can be read.

    Left to itself plotly.js marks 2 and 5 between the powers of ten by bare digits. Here an axis
    over two powers of ten or more has the powers alone, a shorter one round numbers in full.
    Axes that say which labels they want keep them.

    Args:
        fig: a figure; it stays as it is.

    >>> fig = with_log_ticks(go.Figure(go.Scatter(y=[30, 90]), layout_yaxis_type="log"))
    >>> fig.layout.yaxis.ticktext
    ('20', '50', '100')
    >>> fig = with_log_ticks(go.Figure(go.Scatter(y=[3, 900]), layout_yaxis_type="log"))
    >>> fig.layout.yaxis.dtick
    1
    """
    fig = go.Figure(fig)
    for letter in "xy":
        every = getattr(fig, f"select_{letter}axes")()
        axes = {letter + axis.plotly_name[5:]: axis for axis in every if axis.type == "log"}
        for name, axis in axes.items():
            if axis.dtick is not None or axis.tickvals is not None:
                continue
            root = axis.matches or name
            alike = {each for each, one in axes.items() if (one.matches or each) == root}
            low, high = axis.range or _decades(fig, letter, alike)
            if high - low >= SHORT:
                axis.dtick = max(1, math.ceil((high - low) / MOST_LABELS))
            elif high > low:
                powers = range(math.floor(low) - 1, math.ceil(high) + 2)
                values = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
                start = max(v for v in values if math.log10(v) <= low + 1e-9)
                end = min(v for v in values if math.log10(v) >= high - 1e-9)
                axis.tickvals = [v for v in values if start <= v <= end]
                axis.ticktext = [f"{v:g}" for v in axis.tickvals]
    return fig


def _decades(fig: go.Figure, letter: str, axes: set[str]) -> tuple[float, float]:
    """Return the powers of ten between which the data of some axes lie."""
    values: list[float] = []
    for trace in fig.data:
        if (getattr(trace, f"{letter}axis", None) or letter) in axes:
            given = trace[letter]
            values += [] if given is None else [float(v) for v in given if v is not None]
    powers = [math.log10(v) for v in values if v > 0 and math.isfinite(v)]
    return (min(powers), max(powers)) if powers else (0.0, 0.0)


def use_book_renderer() -> None:
    """Make the renderer and the template of this module plotly's defaults."""
    pio.renderers["kanlib"] = BookRenderer()
    pio.renderers.default = "kanlib"
    pio.templates["kanlib"] = TEMPLATE
    pio.templates.default = "kanlib"


use_book_renderer()


def mimebundle(fig: go.Figure, alt: str = "") -> dict[str, Any]:
    """Return what a notebook displays for a figure.

    Args:
        fig: the figure.
        alt: its text alternative, which becomes the label of the HTML version.

    Returns:
        The figure by type, plotly's own and ``text/html``.

    >>> bundle = mimebundle(go.Figure(), alt="An empty figure.")
    >>> sorted(bundle)
    ['application/vnd.plotly.v1+json', 'text/html']
    >>> bundle["text/html"].startswith('<figure role="img" aria-label="An empty figure.">')
    True
    """
    bundle = BookRenderer().to_mimebundle(with_log_ticks(fig).to_dict())
    if alt:
        label = escape(alt)
        bundle["text/html"] = (
            f'<figure role="img" aria-label="{label}">{bundle["text/html"]}</figure>'
        )
    return bundle


def show(fig: go.Figure, alt: str, caption: str = "") -> None:
    """Display a figure with its text alternative and, below it, its caption.

    Args:
        fig: the figure.
        alt: what the figure shows, for those who cannot see it; plain text.
        caption: what it means, in Markdown; ``$math$`` is typeset.

    Raises:
        ValueError: if `alt` is blank.
    """
    if not alt.strip():
        raise ValueError(f"alt = {alt!r}: expected a sentence that says what the figure shows")
    display(mimebundle(fig, alt), raw=True)
    if caption:
        display(Markdown(caption))


def power_ticks(powers: Sequence[int]) -> dict[str, Any]:
    """Return where a scale of powers of ten has labels, and the labels.

    >>> power_ticks([-2, 0])
    {'tickvals': [-2, 0], 'ticktext': ['10<sup>−2</sup>', '1']}
    """
    labels = [f"10<sup>{k}</sup>".replace("-", "−") if k else "1" for k in powers]
    return {"tickvals": [*powers], "ticktext": labels}


def add_map(
    fig: go.Figure,
    x: Any,
    y: Any,
    values: Any,
    *,
    title: str,
    limits: tuple[float, float] | None = None,
    powers: tuple[int, int] | None = None,
    over: Any = None,
    lines: int = 2,
    row: int | None = None,
    col: int | None = None,
    colorbar: dict[str, Any] | None = None,
) -> go.Figure:
    """Add a heat map of a field to a figure: its values, or their sizes by powers of ten.

    Args:
        fig: the figure.
        x: places (M,) along the horizontal axis.
        y: places (N,) along the vertical axis.
        values: the field, (N, M).
        title: what the colour bar is called.
        limits: values at the ends of the colours; red below and blue above their middle.
        powers: in place of limits, powers of ten at the ends, of the absolute values.
        over: a function (N, M) whose lines lie over the map, such as the solution over its error.
        lines: number of values that have lines.
        row: row of the panel.
        col: column of the panel.
        colorbar: options of the colour bar; None of them moves it.

    Returns:
        The figure.

    Raises:
        ValueError: if not just one of limits and powers is given.

    >>> fig = add_map(go.Figure(), [0, 1], [0], [[1e-3, -0.1]], title="error", powers=(-2, 0))
    >>> fig.data[0].z.tolist(), fig.data[0].colorbar.ticktext
    ([[-2.0, -1.0]], ('10<sup>−2</sup>', '10<sup>−1</sup>', '1'))
    """
    field, places = np.asarray(values, dtype=float), {"row": row, "col": col}
    if (limits is None) == (powers is None):
        raise ValueError(f"expected limits or powers, got limits = {limits}, powers = {powers}")
    bar: dict[str, Any] = {"title": title, "thickness": 12}
    low, high = limits or powers or (0, 0)
    if powers is not None:
        field = np.log10(np.maximum(np.abs(field), 10.0 ** powers[0]))
        step = math.ceil((powers[1] - powers[0]) / MOST_LABELS)
        bar |= power_ticks([*range(powers[0], powers[1] + 1, step)])
    fig.add_heatmap(
        x=np.asarray(x, dtype=np.float32),
        y=np.asarray(y, dtype=np.float32),
        z=field.astype(np.float32),
        zmin=low,
        zmax=high,
        colorscale="Viridis" if limits is None else "RdBu",
        colorbar={**bar, **(colorbar or {})},
        **places,
    )
    for line in [] if over is None else contour_lines(x, y, over, lines):
        fig.add_trace(line, **places)
    return fig


def as_bytes(trace: go.Heatmap) -> None:
    """Store a heat map with a byte for each point, a quarter of its size, and no values to hover.

    Args:
        trace: a map with the ends of its scale, and with labels at chosen places; it is changed.

    >>> trace = go.Heatmap(z=[[-1.0, 0.0, 3.0]], zmin=-1, zmax=1, colorbar_tickvals=[0])
    >>> as_bytes(trace)
    >>> trace.z.tolist(), trace.colorbar.tickvals
    ([[0, 128, 255]], (127.5,))
    """
    low, unit = trace.zmin, (trace.zmax - trace.zmin) / 255
    trace.z = np.clip(np.rint((np.asarray(trace.z) - low) / unit), 0, 255).astype(np.uint8)
    trace.colorbar.ticktext = trace.colorbar.ticktext or trace.colorbar.tickvals
    trace.colorbar.tickvals = [(value - low) / unit for value in trace.colorbar.tickvals]
    trace.zmin, trace.zmax, trace.hoverinfo = 0, 255, "skip"


def table(rows: list[dict[str, Any]]) -> Markdown:
    """Return rows as a table with one column a key.

    Args:
        rows: at least one row; all rows have the same keys. Cells may hold Markdown.

    Raises:
        ValueError: if there is no row, or the keys differ.

    >>> print(table([{"r": 1, "degree": 0}, {"r": 2, "degree": 1}]).data)
    | r | degree |
    |---|---|
    | 1 | 0 |
    | 2 | 1 |
    """
    if not rows or any(list(row) != list(rows[0]) for row in rows):
        raise ValueError(f"rows must be dictionaries with the same keys, got {rows!r}")
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(str(cell) for cell in row.values()) + " |" for row in rows]
    return Markdown("\n".join(lines))


def show_table(rows: list[dict[str, Any]], caption: str = "") -> None:
    """Display a `table` and, below it, its caption.

    Args:
        rows: see `table`.
        caption: what the table means, in Markdown; ``$math$`` is typeset.
    """
    display(table(rows))
    if caption:
        display(Markdown(caption))
