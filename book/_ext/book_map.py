"""Sphinx extension: a map of the chapters, what each builds on, and what it answers.

The directive ``chapter-map`` draws a row for every page of ``_toc.yml``, with the question and the
start of the answer in the box that the page opens with, and beside the rows a lane from every page
to those that build on it. ``book/builds-on.json`` says which these are; a page of which it says
nothing, such as the glossary, is a link below the map.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from kanlib.viz.colors import CURVES

SHORT = 30
"""Characters that a first sentence of an answer needs to stand alone: "No." does not."""

PLAIN = (nodes.Text, nodes.math, nodes.literal, nodes.emphasis, nodes.inline, nodes.superscript)
"""Parts of a sentence that are taken over; of others, such as links, the words are."""


class Lane(NamedTuple):
    """A line from a page to those that build on it."""

    column: int
    start: int
    ends: tuple[int, ...]


class chapter_map(nodes.General, nodes.Element):
    """The place of the map."""


class ChapterMap(SphinxDirective):
    """The directive; it has no argument."""

    def run(self) -> list[nodes.Node]:
        """Keep a place until all pages are read."""
        self.env.metadata[self.env.docname]["chapter-map"] = ""
        return [chapter_map()]


def contents(source: Path) -> dict[str, list[str]]:
    """Return the names of the pages of each part, as the table of contents has them."""
    parts = yaml.safe_load((source / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    return {
        part["caption"]: [Path(each["file"]).name for each in part["chapters"]] for part in parts
    }


def builds_on(source: Path) -> dict[str, list[str]]:
    """Return the pages that each page builds on."""
    text = (source / "book" / "builds-on.json").read_text(encoding="utf-8")
    found: dict[str, list[str]] = json.loads(text)
    return found


def lanes(rows: dict[str, int], on: dict[str, list[str]]) -> list[Lane]:
    """Return a lane for each page that others build on, side by side where they would meet.

    >>> lanes({"a": 1, "b": 2, "c": 3}, {"b": ["a"], "c": ["a", "b"]})
    [Lane(column=0, start=1, ends=(2, 3)), Lane(column=1, start=2, ends=(3,))]
    """
    found: list[Lane] = []
    for page, start in rows.items():
        ends = tuple(rows[other] for other in rows if page in on.get(other, []))
        if not ends:
            continue
        taken = {lane.column for lane in found if lane.ends[-1] > start}
        column = next(i for i in range(len(taken) + 1) if i not in taken)
        found.append(Lane(column, start, ends))
    return found


def sentences(parts: Iterable[nodes.Node], shortest: int = 0) -> list[nodes.Node]:
    """Return parts of a paragraph up to the end of a sentence.

    Args:
        parts: what the paragraph has.
        shortest: characters before which the text does not end; 0 takes all of it.
    """
    found: list[nodes.Node] = []
    count = 0
    for part in parts:
        node = part.deepcopy() if isinstance(part, PLAIN) else nodes.Text(part.astext())
        if isinstance(node, nodes.Text):
            text = node.astext() if found else node.astext().lstrip()
            at = text.find(". ", max(shortest - count, 0)) if shortest else -1
            node = nodes.Text(text[: at + 1] if at >= 0 else text)
            if at >= 0:
                return [*found, node]
        found.append(node)
        count += len(node.astext())
    return found


def says(doctree: nodes.document) -> list[nodes.Node]:
    """Return the question of a page and the start of its answer, or the start of its text."""
    for box in doctree.findall(nodes.admonition):
        if "in-short" in box["classes"]:
            found = {}
            for paragraph in box.findall(nodes.paragraph):
                label, *parts = (each for each in paragraph if each.astext())
                found[label.astext()] = parts
            question = nodes.emphasis("", "", *sentences(found["Question."]))
            return [question, nodes.Text(" "), *sentences(found["Answer."], SHORT)]
    for paragraph in doctree.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section | nodes.document):
            return sentences(paragraph, SHORT)
    return []


def drawn(app: Sphinx) -> Iterator[nodes.Node]:
    """Yield the map: lanes and rows in a grid, and below it links to the other pages."""
    source = Path(app.srcdir)
    parts, on = contents(source), builds_on(source)
    titles = {
        name: app.env.titles[f"book/{name}"].astext() for names in parts.values() for name in names
    }
    rows: dict[str, int] = {}
    heads: dict[str, int] = {}
    others: list[str] = []
    row = 1
    for part, names in parts.items():
        shown = [name for name in names if name in on]
        others += [name for name in names if name not in on]
        if shown:
            heads[part], row = row, row + 1
        for name in shown:
            rows[name], row = row, row + 1
    found = lanes(rows, on)
    width = 1 + max(lane.column for lane in found)
    yield raw(
        f'<nav class="chapter-map" aria-label="Map of the chapters" style="--lanes: {width}">'
    )
    for i, lane in enumerate(found):
        yield raw(line(lane, width, CURVES[i % len(CURVES)]))
    for part, at in heads.items():
        yield raw(f'<div class="part" style="grid-row: {at}">{escape(part)}</div>')
    starts = {lane.start for lane in found}
    for name, at in rows.items():
        before = ", ".join(link(each, number(titles[each])) for each in on[name])
        if at not in starts:
            yield raw(f'<i class="dot" style="grid-column: {width + 1}; grid-row: {at}"></i>')
        yield raw(
            f'<div class="chapter" style="grid-row: {at}"><p><b>{link(name, titles[name])}</b>'
            f"{f' <small>builds on {before}</small>' if before else ''}</p>"
        )
        yield nodes.paragraph("", "", *says(app.env.get_doctree(f"book/{name}")))
        yield raw("</div>")
    yield raw(f"<p>Also: {', '.join(link(name, titles[name]) for name in others)}.</p></nav>")


def raw(html: str) -> nodes.raw:
    """Return a node of HTML."""
    return nodes.raw("", html, format="html")


def link(name: str, text: str) -> str:
    """Return a link from a page of the book to another."""
    return f'<a href="{name}.html">{escape(text)}</a>'


def number(title: str) -> str:
    """Return the number of a chapter, or else its title.

    >>> [number(title) for title in ("5.2.1 Poisson", "B Proofs", "A film", "Cycles")]
    ['5.2.1', 'B', 'A film', 'Cycles']
    """
    first, _, rest = title.partition(" ")
    numbered = first[:1].isdigit() or first.startswith("P.")
    return first if numbered or (len(first) == 1 and rest[:1].isupper()) else title


def line(lane: Lane, width: int, color: str) -> str:
    """Return a lane as HTML: a line down, and one to the dot of each page."""
    column = width - lane.column
    style = f"color: {color}; grid-column: {column}"
    parts = [f'<i class="lane" style="{style}; grid-row: {lane.start} / {lane.ends[-1]}"></i>']
    for row in (lane.start, *lane.ends):
        parts.append(f'<i class="stub" style="{style} / {width + 1}; grid-row: {row}"></i>')
    dot = f"color: {color}; grid-column: {width + 1}; grid-row: {lane.start}"
    return "".join(parts) + f'<i class="dot" style="{dot}"></i>'


def draw(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Put the map in its place."""
    for place in list(doctree.findall(chapter_map)):
        place.replace_self(list(drawn(app)))


def stale(app: Sphinx, env: Any) -> list[str]:
    """Return the pages with a map: they are written anew in every build, as any page may change."""
    return [page for page, own in env.metadata.items() if "chapter-map" in own]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension to the build."""
    app.add_node(chapter_map)
    app.add_directive("chapter-map", ChapterMap)
    app.connect("doctree-resolved", draw)
    app.connect("env-updated", stale)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
