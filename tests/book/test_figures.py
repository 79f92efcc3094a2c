"""Figures: shown under both types, with a text alternative, in the style of the book."""

import re

import plotly.graph_objects as go
import plotly.io as pio
import pytest

from kanbook.figures import BASIS_COLORS, LEVEL_COLORS, mimebundle, show


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
    assert len(set(LEVEL_COLORS)) == len(LEVEL_COLORS) >= 7
