"""The explorer: every combination precomputed, the same controls with and without a kernel."""

import json
import math
from base64 import b64decode
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects as go
import pytest

from kanbook import numbers
from kanbook.explore import explorer

X = np.linspace(0, 1, 201)


def waves(r: int, basis: str) -> go.Figure:
    """Return a figure that shows the values of its controls."""
    values = (np.sin if basis == "sine" else np.cos)(r * X)
    return go.Figure(go.Scatter(x=X, y=values), layout_title=f"{basis} {r}")


def highest(r: int, basis: str) -> str:
    """Return what `waves` shows."""
    return f"At most {waves(r, basis).data[0].y.max():.1e}."


def make(**options):
    """Return an explorer of `waves`."""
    options = {"alt": "{basis} of {r} x", "r": [1, 2, 3], "basis": ["sine", "cosine"]} | options
    return explorer(waves, **({"finding": highest} | options))


class Page(HTMLParser):
    """The controls and the stored data of the HTML version."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.controls: list[tuple[str, dict[str, str | None]]] = []
        self.store = None
        self._in_store = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag in ("input", "select", "option"):
            self.controls.append((tag, dict(attrs)))
        self._in_store = tag == "script" and dict(attrs).get("type") == "application/json"

    def handle_data(self, data):
        if self._in_store:
            self.store = json.loads(data)
            self._in_store = False


def resolved(store, node):
    """Return a stored part with its references followed, as the script of the page does."""
    if isinstance(node, list):
        return [resolved(store, value) for value in node]
    if isinstance(node, dict):
        if "$" in node:
            return resolved(store, store["shared"][node["$"]])
        return {key: resolved(store, value) for key, value in node.items()}
    return node


def test_explorer_has_a_frame_for_every_combination():
    assert list(make().frames) == [(r, b) for r in (1, 2, 3) for b in ("sine", "cosine")]


def test_explorer_starts_from_the_initial_values_and_adds_them():
    explored = make(initial={"r": 0, "basis": "cosine"})
    assert explored.values == {"r": [0, 1, 2, 3], "basis": ["sine", "cosine"]}
    controls = Page(explored.html()).controls
    assert controls[0] == ("input", controls[0][1] | {"type": "range", "max": "3", "value": "0"})
    assert [("selected" in attributes) for tag, attributes in controls if tag == "option"] == [
        False,
        True,
    ]


def test_stored_frames_are_the_figures_to_single_precision():
    store = Page(make().html()).store
    assert [frame["alt"] for frame in store["frames"]][:2] == ["sine of 1 x", "cosine of 1 x"]
    for (r, basis), frame in zip(make().frames, store["frames"], strict=True):
        layout, (trace,) = resolved(store, frame["layout"]), resolved(store, frame["data"])
        assert layout["title"]["text"] == f"{basis} {r}"
        values = np.frombuffer(b64decode(trace["y"]["bdata"]), dtype=trace["y"]["dtype"])
        np.testing.assert_allclose(values, waves(r, basis).data[0].y, rtol=1e-6, atol=1e-7)


def test_repeated_parts_are_stored_once():
    few, many = (len(make(r=list(range(1, count))).html()) for count in (3, 43))
    assert many - few < 40 * 2 * 1.5 * len(X) * 4 * 4 / 3


def test_text_cannot_end_the_stored_data():
    figure = go.Figure(layout_title="</script><script>alert(1)</script>")
    finding = "</script><script>alert(2)</script>"
    html = explorer(lambda r: figure, finding=lambda r: finding, alt="x", r=[1]).html()
    assert html.count("</script>") == 2


def test_live_controls_recompute_the_figure():
    explored = make(initial={"r": 2})
    controls, output = explored.widget().children
    slider = controls.children[0]
    slider.value = 3
    shown, _ = output.outputs
    title = shown["data"]["application/vnd.plotly.v1+json"]["layout"]["title"]["text"]
    assert (slider.description, title) == ("r", "sine 3")


def test_one_display_has_the_live_and_the_static_version():
    bundle = make()._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html"} <= set(bundle)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"r": []}, r"r = \[\]"), ({"initial": {"n": 1}}, "initial names 'n'")],
)
def test_explorer_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_explorer_refuses_to_have_no_control():
    with pytest.raises(ValueError, match="no control"):
        explorer(waves, finding=highest, alt="x")


@pytest.mark.parametrize("nothing", ["", " ", None])
def test_explorer_refuses_a_blank_finding(nothing):
    with pytest.raises(ValueError, match=r"finding returns .* for {'r': 3, 'basis': 'sine'}"):
        make(finding=lambda r, basis: nothing if r == 3 else "All is well.")


def test_caption_is_the_finding_and_the_alternative_the_description():
    explored = make(initial={"r": 2})
    frames = Page(explored.html()).store["frames"]
    texts = {key: (f["alt"], f["finding"]) for key, f in zip(explored.frames, frames, strict=True)}
    assert texts[1, "sine"] == ("sine of 1 x", "At most 8.4\u00a0×\u00a010⁻¹.")
    assert texts[2, "sine"] == ("sine of 2 x", "At most 1.0.")
    controls, output = explored.widget().children
    controls.children[0].value = 1
    figure, caption = output.outputs
    assert 'aria-label="sine of 1 x"' in figure["data"]["text/html"]
    assert caption["text"] == "At most 8.4\u00a0×\u00a010⁻¹."


def test_two_numbers_are_buttons():
    explored = make(r=[1, 4], initial={"r": 4})
    html = explored.html()
    assert 'role="radiogroup" aria-label="r"' in html
    radios = [attributes for tag, attributes in Page(html).controls if tag == "input"]
    assert [(each["type"], each["value"], "checked" in each) for each in radios] == [
        ("radio", "0", False),
        ("radio", "1", True),
    ]
    assert len({each["name"] for each in radios}) == 1
    controls, output = explored.widget().children
    buttons = controls.children[0]
    assert buttons.options == (1, 4)
    buttons.value = 1
    title = output.outputs[0]["data"]["application/vnd.plotly.v1+json"]["layout"]["title"]["text"]
    assert title == "sine 1"


def test_two_groups_of_buttons_do_not_share_a_name():
    first, second = (Page(make(r=[1, 4]).html()).controls[0][1]["name"] for _ in range(2))
    assert first != second


def test_two_numbers_that_are_played_stay_a_slider():
    explored = make(r=[1, 4], play="r")
    assert Page(explored.html()).controls[0][1]["type"] == "range"
    assert explored.widget().children[0].children[0].index == 0


def test_play_moves_a_slider_through_its_values():
    html = make(play="r").html()
    assert '<button type="button" data-control="0">Play</button>' in html
    assert "PAUSE" not in html
    assert "<button" not in make().html()
    bar, _ = make(play="r").widget().children
    slider, _, player = bar.children
    assert (player.max, player.value, player.playing) == (2, 0, False)
    player.value = 2
    assert slider.value == 3
    slider.value = 2
    assert player.value == 1


def test_play_keeps_the_pause_that_it_is_given():
    explored = make(play="r", pause=350)
    bar, _ = explored.widget().children
    assert bar.children[-1].interval == 350
    assert "}, 350);" in explored.html()


@pytest.mark.parametrize("name", ["basis", "n"])
def test_play_refuses_what_is_no_slider(name):
    with pytest.raises(ValueError, match=rf"play = '{name}': expected .* one of \['r'\]"):
        make(play=name)


def test_nothing_is_told_as_nothing():
    assert numbers.changes(0.0) == "vanishes"
    assert numbers.changes(math.inf) == "grows without bound"
    found = numbers.where_large("error", np.zeros((2, 2)), [0, 1], [0, 1])
    assert found == "The error is zero everywhere."


@pytest.mark.parametrize(
    "sentence",
    [
        lambda: numbers.beside(0.0, 1.0),
        lambda: numbers.changes(math.nan),
        lambda: numbers.changes(-3.0),
        lambda: numbers.ranked({"a": math.nan, "b": 1.0}),
        lambda: numbers.where_large("error", [[math.nan, 1.0]], [0, 1], [0]),
    ],
)
def test_no_sentence_is_made_of_numbers_that_tell_nothing(sentence):
    with pytest.raises(ValueError, match="positive, finite numbers"):
        sentence()
