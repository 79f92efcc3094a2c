"""The explorer: one figure under controls, live with a kernel and precomputed without one.

Usage, as the last expression of a cell::

    from kanbook.explore import explorer

    def figure(r, n, basis):          # any keyword arguments → a plotly figure
        ...
        return fig

    def finding(r, n, basis):         # the same → a sentence, its numbers computed
        return f"With n = {n} the error is {error[r, n, basis]:.1e}."

    explorer(
        figure,
        finding=finding,
        alt="The basis functions of order {r} on {n} intervals, {basis} basis.",
        r=[1, 2, 3, 4], n=[5, 10, 20], basis=["spline", "relu"],       # one control each
        initial={"r": r, "n": n, "basis": basis},
    )

The caption states the finding of the figure shown; the text alternative describes the figure.

With ``play="level"`` a button moves the slider of that name through its values, one every `pause`
milliseconds.

In JupyterLab the controls are widgets that call `figure` anew.  On a page of the book the same
controls switch, with a few lines of JavaScript, between the figures of every combination of values,
which are computed when the explorer is made: keep combinations few (up to about 50) and figures
small (a few hundred points a curve).  Give the axes a fixed range where values are to be compared.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import product
from typing import Any
from uuid import uuid4

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go

from kanbook.figures import CONFIG, mimebundle, with_height, with_log_ticks
from kanbook.numbers import readable

PAUSE = 1200
"""Milliseconds that a frame is shown when one control is played, unless `explorer` is told."""

SHARED_FROM = 60
"""Parts of a figure whose JSON is at least this long are stored once for all frames."""

SCRIPT = """\
(() => {
  const root = document.getElementById("ID");
  const store = JSON.parse(root.querySelector("script").textContent);
  const read = (v) => v === null || typeof v !== "object" ? v
    : Array.isArray(v) ? v.map(read)
    : "$" in v ? read(store.shared[v.$])
    : Object.fromEntries(Object.entries(v).map(([key, value]) => [key, read(value)]));
  const controls = [...root.querySelectorAll("select, input[type=range], [role=radiogroup]")];
  const chosen = (control) => Number((control.querySelector("input:checked") ?? control).value);
  const draw = () => {
    let at = 0;
    controls.forEach((control, i) => {
      at = at * store.values[i].length + chosen(control);
      if (control.type === "range") {
        const text = store.values[i][control.value];
        control.setAttribute("aria-valuetext", text);
        control.nextElementSibling.textContent = text;
      }
    });
    const {data, layout, alt, finding} = store.frames[at];
    const plot = root.querySelector("[role=img]");
    Plotly.react(plot, read(data), read(layout), store.config);
    plot.setAttribute("aria-label", alt);
    root.querySelector("[aria-live]").textContent = finding;
  };
  controls.forEach((control) => control.addEventListener("input", draw));
  const button = root.querySelector("button");
  if (button) {
    const control = controls[Number(button.dataset.control)];
    let timer = 0;
    const stop = () => { timer = clearInterval(timer); button.textContent = "Play"; };
    const step = (value) => { control.value = value; draw(); };
    button.addEventListener("click", () => {
      if (timer) return stop();
      if (control.value === control.max) step(0);
      button.textContent = "Stop";
      timer = setInterval(() => {
        step(Number(control.value) + 1);
        if (control.value === control.max) stop();
      }, PAUSE);
    });
  }
  draw();
})();
"""


def explorer(
    figure: Callable[..., go.Figure],
    *,
    finding: Callable[..., str],
    alt: str,
    initial: Mapping[str, Any] | None = None,
    play: str | None = None,
    pause: int = PAUSE,
    **controls: Sequence[Any],
) -> Explorer:
    """Put a figure under controls.

    Args:
        figure: called with one keyword argument for each control; returns a plotly figure.
        finding: called with the same arguments; returns what the figure of this choice shows, a
            sentence whose numbers are computed. It is the caption, where ``1.3e-02`` is written as
            one reads it.
        alt: text alternative of the figure, in which ``{name}`` stands for a control's value.
        initial: values to start from, by control; others start from the first.  A value that the
            list of its control lacks is added to it.
        play: name of a slider that a button moves through its values, one after the other.
        pause: milliseconds that each of them is shown then.
        **controls: the values of each control: two numbers make buttons, more of them, or two that
            are played, a slider, anything else a menu.

    Returns:
        The explorer, which a notebook displays.

    Raises:
        ValueError: if there is no control, one without values, `initial` names another one, `play`
            is not the name of a slider, or a finding is blank.
    """
    return Explorer(figure, finding, alt, dict(initial or {}), controls, play, pause)


class Explorer:
    """A figure under controls; see `explorer`.

    Attributes:
        values: the values of each control, by name.
        initial: the values shown first, by name.
        frames: the figure of every combination of values, in the order of `values`.
        findings: what each of them shows.
    """

    def __init__(
        self,
        figure: Callable[..., go.Figure],
        finding: Callable[..., str],
        alt: str,
        initial: dict[str, Any],
        controls: Mapping[str, Sequence[Any]],
        play: str | None = None,
        pause: int = PAUSE,
    ) -> None:
        """Compute every frame."""
        if not controls:
            raise ValueError("no control: expected at least one, such as r=[1, 2, 3]")
        if empty := [name for name, values in controls.items() if not len(values)]:
            raise ValueError(f"{empty[0]} = []: expected at least one value")
        if unknown := sorted(initial.keys() - controls.keys()):
            raise ValueError(
                f"initial names {unknown[0]!r}: expected one of the controls {sorted(controls)}"
            )
        if play is not None and not _is_numeric(controls.get(play, ["none"])):
            sliders = [name for name, values in controls.items() if _is_numeric(values)]
            raise ValueError(f"play = {play!r}: expected a control of numbers, one of {sliders}")
        self.figure = figure
        self.finding = finding
        self.alt = alt
        self.play = play
        self.pause = pause
        self.values = {name: list(values) for name, values in controls.items()}
        for name, value in initial.items():
            if value not in self.values[name]:
                self.values[name].append(value)
                if _is_numeric(self.values[name]):
                    self.values[name].sort()
        self.initial = {name: values[0] for name, values in self.values.items()} | initial
        self.frames: dict[tuple[Any, ...], go.Figure] = {
            key: figure(**dict(zip(self.values, key, strict=True)))
            for key in product(*self.values.values())
        }
        self.findings = {
            key: self._found(dict(zip(self.values, key, strict=True))) for key in self.frames
        }

    def _found(self, values: dict[str, Any]) -> str:
        """Return the caption of a choice."""
        text = self.finding(**values)
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"finding returns {text!r} for {values}: expected a sentence")
        return readable(text)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = self.widget()._repr_mimebundle_()
        return {**bundle, "text/html": self.html()}

    def widget(self) -> widgets.Widget:
        """Return the live version: controls that call the figure anew."""
        boxes = {name: self._control(name) for name in self.values}
        output = widgets.Output()

        def draw(_: object = None) -> None:
            values = {name: box.value for name, box in boxes.items()}
            bundle = mimebundle(self.figure(**values), self.alt.format(**values))
            shown = {"output_type": "display_data", "data": bundle, "metadata": {}}
            caption = {"output_type": "stream", "name": "stdout", "text": self._found(values)}
            output.outputs = (shown, caption)

        for box in boxes.values():
            box.observe(draw, names="value")
        draw()
        bar = list(boxes.values())
        if self.play is not None:
            slider = boxes[self.play]
            last = len(slider.options) - 1
            player = widgets.Play(max=last, value=slider.index, interval=self.pause)
            widgets.link((player, "value"), (slider, "index"))
            bar.append(player)
        return widgets.VBox([widgets.HBox(bar), output])

    def _control(self, name: str) -> widgets.Widget:
        values = self.values[name]
        kind = {"buttons": widgets.ToggleButtons, "slider": widgets.SelectionSlider}.get(
            _kind(values, name == self.play), widgets.Dropdown
        )
        return kind(options=values, value=self.initial[name], description=name)

    def html(self) -> str:
        """Return the version for a page without a kernel: the same controls over the frames."""
        store = _Shared()
        frames = []
        for key, fig in self.frames.items():
            alt = self.alt.format(**dict(zip(self.values, key, strict=True)))
            shown = with_height(json.loads(with_log_ticks(fig).to_json()))
            texts = {"alt": alt, "finding": self.findings[key]}
            frames.append({**store.shorten(shown), **texts})
        data = {
            "values": [[str(value) for value in values] for values in self.values.values()],
            "shared": store.parts,
            "frames": frames,
            "config": CONFIG,
        }
        identity = f"explorer-{uuid4()}"
        controls = "".join(
            _html_control(
                name, values, values.index(self.initial[name]), _kind(values, name == self.play)
            )
            for name, values in self.values.items()
        )
        if self.play is not None:
            controls += (
                f'<button type="button" data-control="{list(self.values).index(self.play)}">'
                "Play</button>"
            )
        script = SCRIPT.replace("ID", identity).replace("PAUSE", str(self.pause))
        return (
            f'<figure class="explorer" id="{identity}">'
            f'<div class="controls">{controls}</div><div role="img"></div>'
            '<figcaption aria-live="polite"></figcaption>'
            f'<script type="application/json">{_script_json(data)}</script></figure>'
            f'<script type="module">{script}</script>'
        )


class _Shared:
    """Shorten figures for JSON: six digits a number, and each repeated part stored once."""

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self._index: dict[str, int] = {}

    def shorten(self, figure: dict[str, Any]) -> dict[str, Any]:
        """Return the data and layout of a figure with references into `parts`."""
        return {key: self._shorten(figure[key]) for key in ("data", "layout")}

    def _shorten(self, node: Any) -> Any:
        if isinstance(node, float):
            return float(f"{node:.6g}")
        if isinstance(node, list):
            node = [self._shorten(value) for value in node]
        elif isinstance(node, dict) and node.get("dtype") == "f8":
            short = np.frombuffer(b64decode(node["bdata"])).astype(np.float32)
            node = {**node, "dtype": "f4", "bdata": b64encode(short.tobytes()).decode()}
        elif isinstance(node, dict):
            node = {key: self._shorten(value) for key, value in node.items()}
        text = json.dumps(node)
        if not isinstance(node, list | dict) or len(text) < SHARED_FROM:
            return node
        if text not in self._index:
            self._index[text] = len(self.parts)
            self.parts.append(node)
        return {"$": self._index[text]}


def _is_numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _kind(values: Sequence[Any], played: bool) -> str:
    """Return how the values of a control are chosen."""
    if not _is_numeric(values):
        return "menu"
    return "buttons" if len(values) == 2 and not played else "slider"


def _html_control(name: str, values: Sequence[Any], start: int, kind: str) -> str:
    if kind == "buttons":
        group = f"choice-{uuid4()}"
        buttons = "".join(
            f'<label><input type="radio" name="{group}" value="{i}" autocomplete="off"'
            f"{' checked' * (i == start)}>{escape(str(value))}</label>"
            for i, value in enumerate(values)
        )
        return (
            f'<span class="choice" role="radiogroup" aria-label="{escape(name)}">'
            f"<span>{escape(name)}</span>{buttons}</span>"
        )
    if kind == "slider":
        field = (
            f'<input type="range" min="0" max="{len(values) - 1}" value="{start}" '
            'autocomplete="off"><output></output>'
        )
    else:
        options = "".join(
            f'<option value="{i}"{" selected" * (i == start)}>{escape(str(value))}</option>'
            for i, value in enumerate(values)
        )
        field = f'<select autocomplete="off">{options}</select>'
    return f"<label>{escape(name)} {field}</label>"


def _script_json(data: Any) -> str:
    return json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
