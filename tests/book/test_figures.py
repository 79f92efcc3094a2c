"""Figures: shown under both types, with a text alternative, in the style of the book."""

import re

import plotly.graph_objects as go
import plotly.io as pio
import pytest
from plotly.subplots import make_subplots

from kanbook.figures import (
    BASIS_COLORS,
    LEVEL_COLORS,
    SCHEDULE_COLORS,
    mimebundle,
    show,
    with_log_ticks,
)


def luminance(color: str) -> float:
    """Return the relative luminance of a colour such as ``#0072B2`` (WCAG 2.2)."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(color: str, other: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2)."""
    low, high = sorted([luminance(color), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_figure_as_last_expression_has_both_types():
    bundle = pio.renderers["kanlib"].to_mimebundle(go.Figure().to_dict())
    assert set(bundle) == {"application/vnd.plotly.v1+json", "text/html"}
    assert pio.renderers.default == "kanlib"


def test_html_of_a_figure_loads_nothing():
    html = mimebundle(go.Figure(go.Scatter(y=[1, 2])))["text/html"]
    assert re.findall("<script[^>]*>", html) == ['<script type="module">']  # after the text
    assert "http" not in html.replace("http://www.w3.org", "")
    assert len(html) < 20_000


def test_alternative_text_is_escaped():
    html = mimebundle(go.Figure(), alt='a < b & "c"')["text/html"]
    assert 'aria-label="a &lt; b &amp; &quot;c&quot;"' in html


def test_show_emits_the_figure_and_its_caption(monkeypatch):
    shown = []
    monkeypatch.setattr("kanbook.figures.display", lambda output, **_: shown.append(output))
    show(go.Figure(), alt="Nothing.", caption="*Nothing*, $x$")
    figure, caption = shown
    assert figure["text/html"].startswith('<figure role="img" aria-label="Nothing.">')
    assert caption.data == "*Nothing*, $x$"


def test_show_refuses_a_blank_alternative():
    with pytest.raises(ValueError, match="alt = ' '"):
        show(go.Figure(), alt=" ")


@pytest.mark.parametrize("background", ["#ffffff", "#121212"])
def test_colours_of_bases_stand_out_on_both_themes(background):
    assert all(contrast(color, background) >= 3 for color in BASIS_COLORS.values())


def test_colours_differ():
    for colors in (LEVEL_COLORS, [*SCHEDULE_COLORS.values()], [*BASIS_COLORS.values()]):
        assert len(set(colors)) == len(colors)


def test_log_axes_that_share_their_range_share_their_labels():
    fig = make_subplots(2, 1, shared_xaxes=True)
    fig.add_scatter(x=[20, 30], y=[1, 2], row=1, col=1)
    fig.add_scatter(x=[50, 0], y=[1, 2], row=2, col=1)  # zero is not on a log axis
    fig.update_xaxes(type="log")
    shown = with_log_ticks(fig)
    assert shown.layout.xaxis.ticktext == shown.layout.xaxis2.ticktext == ("20", "50")
    assert fig.layout.xaxis.tickvals is None


@pytest.mark.parametrize(
    ("axis", "dtick", "labels"),
    [
        ({"range": [-12, 12]}, 4, None),
        ({"range": [0.1, 0.9]}, None, ("1", "2", "5", "10")),
        ({"range": [-3.2, -2.8]}, None, ("0.0005", "0.001", "0.002")),
        ({"dtick": "D1"}, "D1", None),
        ({"tickvals": [3], "ticktext": ["three"]}, None, ("three",)),
        ({}, None, None),  # no data
    ],
)
def test_log_axes_have_labels_for_their_range(axis, dtick, labels):
    shown = with_log_ticks(go.Figure(layout={"yaxis": {"type": "log", **axis}})).layout.yaxis
    assert (shown.dtick, shown.ticktext) == (dtick, labels)
