"""Sphinx extension: what a page shows of itself where its address is shared, and to search engines.

Every page gets a description, the answer in its box, or else its first paragraph or its title, and
the tags of the Open Graph protocol with the picture of the book.  Addresses are absolute where
``html_baseurl`` is set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

PICTURE = "preview.png"
SIZE = (1200, 630)
"""Pixels of the picture, which is stored in book/images."""
LONGEST = 200
"""Characters of a description."""
ALT = "A spline on three grids: its points come nearer, the curve stays."


def description(doctree: nodes.document) -> str:
    """Return the answer in the box of a page, or else its first paragraph, as plain text.

    It is cut at a sentence or at a word.

    >>> from docutils.core import publish_doctree
    >>> description(publish_doctree("Title\\n=====\\n\\n*One* sentence. Two."))
    'One sentence. Two.'
    """
    texts = [*_answers(doctree), *_paragraphs(doctree)]
    text = next(filter(None, texts), "")
    if len(text) <= LONGEST:
        return text
    start = text[:LONGEST]
    ends = [found.end() for found in re.finditer(r"[.?!](?= )", start)]
    return text[: ends[-1]] if ends else start.rsplit(" ", 1)[0] + " …"


def _answers(doctree: nodes.document) -> Iterator[str]:
    """Yield what follows the word Answer in the box that a chapter opens with."""
    for box in doctree.findall(nodes.admonition):
        if "in-short" in box["classes"]:
            for paragraph in box.findall(nodes.paragraph):
                _, answer, text = _plain(paragraph).partition("Answer. ")
                yield text if answer else ""


def _paragraphs(doctree: nodes.document) -> Iterator[str]:
    """Yield the paragraphs that stand in no box, list or table."""
    for paragraph in doctree.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section | nodes.document):
            yield _plain(paragraph)


def _plain(paragraph: nodes.paragraph) -> str:
    return re.sub(r"\s+", " ", paragraph.astext()).strip()


def tags(title: str, text: str, address: str, picture: str, site: str) -> str:
    """Return the tags of a page."""
    properties = {
        "og:type": "article",
        "og:site_name": site,
        "og:title": title,
        "og:description": text,
        "og:url": address,
        "og:image": picture,
        "og:image:width": str(SIZE[0]),
        "og:image:height": str(SIZE[1]),
        "og:image:alt": ALT,
    }
    names = {"description": text, "twitter:card": "summary_large_image"}
    lines = [f'<meta property="{k}" content="{escape(v)}">' for k, v in properties.items() if v]
    lines += [f'<meta name="{k}" content="{escape(v)}">' for k, v in names.items() if v]
    return "\n".join(lines)


def describe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Add the tags to a page of the book."""
    if doctree is None:
        return
    base = app.config.html_baseurl.rstrip("/")
    address = f"{base}/{page}.html" if base else ""
    picture = f"{base}/_static/{PICTURE}" if base else context["pathto"](f"_static/{PICTURE}", 1)
    title = re.sub(r"<[^>]+>", "", context.get("title", "")) or app.config.html_title
    text = description(doctree) or f"{title}. {app.config.html_title}."
    shown = tags(title, text, address, picture, app.config.html_title)
    context["metatags"] = context.get("metatags", "") + "\n" + shown


def stage(app: Sphinx) -> None:
    """Serve the picture from a static path of its own."""
    folder = Path(app.doctreedir) / "preview"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PICTURE).write_bytes((Path(app.srcdir) / "book" / "images" / PICTURE).read_bytes())
    app.config.html_static_path.append(str(folder))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension to the build."""
    app.connect("builder-inited", stage)
    app.connect("html-page-context", describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
