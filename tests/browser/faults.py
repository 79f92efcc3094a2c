"""What may be wrong with an open page: each function returns the faults it finds, a line each."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import time
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scripts.chromium import Page

AXE = "axe-core@4.14.1"
AXE_SHA512 = (
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
)
RULES = ("wcag2a", "wcag2aa", "wcag21aa")
LOCAL = ("", "127.0.0.1")

MATHEMATICS = """(() => {
  const found = [];
  for (const node of document.querySelectorAll("span.math, div.math"))
    if (!node.querySelector("mjx-container")) found.push("not typeset: " + node.textContent);
  for (const node of document.querySelectorAll("span.math")) {
    if (getComputedStyle(node).overflowX !== "auto") continue;
    const room = node.parentElement.closest("p, li, dd, td, th, div, figcaption");
    if (node.scrollWidth > node.clientWidth + 1 && node.scrollWidth < room.clientWidth)
      found.push("scrolls, though there is room: " + node.textContent);
  }
  for (const node of document.querySelectorAll("mjx-merror, [data-mjx-error]"))
    found.push("error in mathematics: " + node.textContent);
  const words = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (words.nextNode())
    if (words.currentNode.data.includes("$$")
        && !words.currentNode.parentElement.closest("pre, code, script"))
      found.push("raw mathematics: " + words.currentNode.data);
  return found;
})()"""

ALTERNATIVES = """(() => {
  const found = [];
  for (const image of document.querySelectorAll("img"))
    if (!image.alt.trim()) found.push("image without a text alternative: " + image.src);
  for (const plot of document.querySelectorAll(".js-plotly-plot"))
    if (!plot.closest("[role=img]")?.getAttribute("aria-label")?.trim())
      found.push("figure without a text alternative: " + plot.textContent.slice(0, 80));
  for (const plot of document.querySelectorAll(".plotly-graph-div, .explorer [role=img]"))
    if (!plot.querySelector(".main-svg")) found.push("figure that is not drawn");
  return found;
})()"""

OVERFLOW = """(() => {
  const width = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth > width)
    found.push("the page scrolls sideways: " + document.documentElement.scrollWidth + " pixels");
  for (const root of document.querySelectorAll(".explorer"))
    if (root.scrollWidth > root.clientWidth)
      found.push("an explorer is wider than its place: " + root.scrollWidth + " pixels");
  const hidden = "mjx-assistive-mml, .visually-hidden, .sr-only, .headerlink, script";
  const scrolls = (node) => /auto|scroll/.test(getComputedStyle(node).overflowX)
    && node !== document.documentElement && node !== document.body
    && node.getBoundingClientRect().right <= width + 1;
  for (const node of document.querySelectorAll(".bd-article *, .bd-header-article *")) {
    const box = node.getBoundingClientRect();
    if (box.right <= width + 1 || !box.width || node.closest(hidden)) continue;
    let box_of = node;
    while (box_of && !scrolls(box_of)) box_of = box_of.parentElement;
    if (!box_of) {
      found.push("cut at the right edge: <" + node.tagName.toLowerCase() + " class='"
        + node.getAttribute("class") + "'> " + node.textContent.trim().slice(0, 60));
    }
  }
  return found.slice(0, 5);
})()"""

FIGURES = """(() => {
  const found = [];
  const texts = ".xtick text, .ytick text, .xtitle, .ytitle, .gtitle, .annotation-text,"
    + ".legendtext, .x2title, .y2title, .x3title, .y3title, .x4title, .y4title";
  const inside = (box, frame) =>
    box.left >= frame.left - 2 && box.right <= frame.right + 2
    && box.top >= frame.top - 2 && box.bottom <= frame.bottom + 2;
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    const frame = plot.querySelector(".main-svg").getBoundingClientRect();
    const boxes = [...plot.querySelectorAll(texts)]
      .filter((node) => node.textContent.trim())
      .map((node) => ({box: node.getBoundingClientRect(), text: node.textContent}))
      .filter(({box}) => box.width);
    const name = JSON.stringify(plot.closest("[aria-label]")?.ariaLabel?.slice(0, 50) ?? "figure");
    for (const {box, text} of boxes)
      if (!inside(box, frame)) found.push(name + " cuts " + JSON.stringify(text));
    boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b) => {
      const across = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
      const down = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
      if (across > 2 && down > 4)
        found.push(name + ": " + JSON.stringify(a.text) + " on " + JSON.stringify(b.text));
    }));
  }
  return found;
})()"""

EXPLORERS = "document.querySelectorAll('.explorer').length"

CONTROLS = """(() => [...document.querySelectorAll(".explorer")].map((root) =>
  [...root.querySelectorAll("select, input[type=range], [role=radiogroup]")]
    .map((control) => control.type ?? "buttons")))()"""

FIND = """((i, j) => {
  const root = document.querySelectorAll(".explorer")[i];
  const place = root.querySelectorAll("select, input[type=range], [role=radiogroup]")[j];
  const control = place.querySelector("input:checked") ?? place;
  root.scrollIntoView({behavior: "instant", block: "start"});
  scrollBy({top: -100, behavior: "instant"});
  control.focus({preventScroll: true});
  const target = place.querySelector("input:not(:checked)") ?? control;
  const {x, y, width, height} = target.getBoundingClientRect();
  const at = (Number(control.value) - Number(control.min)) / (control.max - control.min);
  return {x, y, width, height, at, value: control.value};
})(%d, %d)"""

SHOWN = """((i) => {
  const plot = document.querySelectorAll(".explorer")[i].querySelector("[role=img]");
  return JSON.stringify([plot.data, plot.layout, plot.ariaLabel]);
})(%d)"""

PLACED = """((i) => {
  const root = document.querySelectorAll(".explorer")[i], found = [];
  const plot = root.querySelector("[role=img]"), cell = root.closest(".output");
  const box = plot.getBoundingClientRect(), height = plot._fullLayout.height;
  const drawn = plot.querySelector(".main-svg").getBoundingClientRect();
  if (Math.abs(box.height - height) > 1 || Math.abs(drawn.height - height) > 1)
    found.push(`a figure of ${height} pixels, drawn on ${drawn.height}, in a box of ${box.height}`);
  if (root.querySelector("figcaption").getBoundingClientRect().top < drawn.bottom - 1)
    found.push("the caption lies on the figure");
  const caption = root.querySelector("figcaption").textContent.trim();
  if (!caption || caption === plot.ariaLabel) found.push("the caption states no finding");
  if (cell && cell.scrollHeight > cell.clientHeight + 1) found.push("the cell scrolls");
  return found;
})(%d)"""

BUTTON = """(() => {
  const button = document.querySelectorAll(".explorer")[%d].querySelector("button");
  if (!button) return null;
  button.scrollIntoView({block: "center", behavior: "instant"});
  const {x, y, width, height} = button.getBoundingClientRect();
  return [x + width / 2, y + height / 2];
})()"""
BUTTON_TEXT = "document.querySelectorAll('.explorer')[%d].querySelector('button').textContent"
THUMB = 16
"""Width of a slider's thumb in pixels, which its middle stays half of away from either end."""


def console(page: Page) -> list[str]:
    """Return what the page wrote to the console."""
    return page.console


def requests(page: Page) -> list[str]:
    """Return what the page asked of another host."""
    return [url for url in page.requests if (urlsplit(url).hostname or "") not in LOCAL]


def mathematics(page: Page) -> list[str]:
    """Return mathematics that is not typeset."""
    return page.evaluate(MATHEMATICS)


def alternatives(page: Page) -> list[str]:
    """Return images and figures without a text alternative, and figures not drawn."""
    return page.evaluate(ALTERNATIVES)


def overflow(page: Page) -> list[str]:
    """Return what reaches beyond the right edge of the page and cannot be scrolled to."""
    return page.evaluate(OVERFLOW)


def figures(page: Page) -> list[str]:
    """Return labels of figures that are cut or lie on one another."""
    return page.evaluate(FIGURES)


def explorers(page: Page) -> list[str]:
    """Use every control of every explorer by key and by mouse.

    Return what does not answer, and figures and captions that do not stay in their places.
    """
    found = []
    for i, controls in enumerate(page.evaluate(CONTROLS)):
        for j, kind in enumerate(controls):
            by_mouse = {"range": drag, "buttons": click}.get(kind, choose)
            for name, way in {"key": press, "mouse": by_mouse}.items():
                before = page.evaluate(SHOWN % i)
                way(page, page.evaluate(FIND % (i, j)), i, j)
                if page.evaluate(SHOWN % i) == before:
                    found.append(f"explorer {i + 1}, control {j + 1} ({kind}): dead to the {name}")
                found += [f"explorer {i + 1}: {fault}" for fault in page.evaluate(PLACED % i)]
        found += play(page, i)
    return found


def play(page: Page, i: int) -> list[str]:
    """Play an explorer that has a button for it, and stop it; return what does not work."""
    place = page.evaluate(BUTTON % i)
    if place is None:
        return []
    before, found = page.evaluate(SHOWN % i), []
    page.drag(place, place)
    for _ in range(50):
        if page.evaluate(SHOWN % i) != before:
            break
        time.sleep(0.1)
    else:
        found.append(f"explorer {i + 1}: does not play")
    if page.evaluate(BUTTON_TEXT % i) == "Stop":
        page.drag(place, place)
    if page.evaluate(BUTTON_TEXT % i) != "Play":
        found.append(f"explorer {i + 1}: does not stop")
    return found


def press(page: Page, control: dict[str, Any], i: int, j: int) -> None:
    """Move a focused control by one step with the arrow keys, to whichever side it can move."""
    page.press("ArrowDown")
    if page.evaluate(FIND % (i, j))["value"] == control["value"]:
        page.press("ArrowUp")


def drag(page: Page, control: dict[str, Any], i: int, j: int) -> None:
    """Drag the thumb of a slider to the farther end."""
    reach, y = control["width"] - THUMB, control["y"] + control["height"] / 2
    left = control["x"] + THUMB / 2
    end = left if control["at"] > 0.5 else left + reach
    page.drag((left + control["at"] * reach, y), (end, y))


def click(page: Page, control: dict[str, Any], i: int, j: int) -> None:
    """Press the button that is not pressed."""
    middle = (control["x"] + control["width"] / 2, control["y"] + control["height"] / 2)
    page.drag(middle, middle)


def choose(page: Page, control: dict[str, Any], i: int, j: int) -> None:
    """Open a menu with a click, move in it and take what is marked."""
    middle = (control["x"] + control["width"] / 2, control["y"] + control["height"] / 2)
    page.drag(middle, middle)
    page.press("ArrowDown" if control["value"] == "0" else "ArrowUp")
    page.press("Enter")


def weight(html: Path) -> int:
    """Return the bytes of a page and of the pictures that only it shows."""
    pictures = [
        html.parent / name.split('"')[0] for name in html.read_text().split('src="../_images/')[1:]
    ]
    folder = html.parents[1] / "_images"
    return html.stat().st_size + sum((folder / path.name).stat().st_size for path in pictures)


@cache
def axe_script(folder: Path) -> str | None:
    """Return the source of axe-core from the npm registry; None where npm is missing.

    Raises:
        ValueError: if what came is not what was expected.
    """
    archive = folder / (AXE.replace("@", "-") + ".tgz")
    if not archive.exists():
        if not shutil.which("npm"):
            return None
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "pack", "--silent", AXE], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
    if b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() != AXE_SHA512:
        raise ValueError(f"{archive} is not {AXE}: remove it")
    with tarfile.open(archive) as files:
        member = files.extractfile("package/axe.min.js")
        assert member
        return member.read().decode()


def accessibility(page: Page, script: str, rules: tuple[str, ...] = RULES) -> list[str]:
    """Return the serious and critical violations that axe finds.

    It does not look into formulas and drawings, which have thousands of parts: their text
    alternatives stand for them. The list of citations is made by docutils.
    """
    page.evaluate(f"window.axe || (() => {{ {script} }})(), null")
    where = {"exclude": [["mjx-container"], [".main-svg"], [".citation-list"]]}
    options = {"runOnly": rules, "resultTypes": ["violations"], "preload": False}
    result = page.evaluate(f"axe.run({json.dumps(where)}, {json.dumps(options)})")
    return [
        f"{rule['id']}: {node['html'][:160]} {first_line(node['failureSummary'])}"
        for rule in result["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def first_line(summary: str) -> str:
    """Return the first reason that axe gives."""
    return summary.split("\n")[1].strip() if "\n" in summary else json.dumps(summary)
