"""Sphinx extension: every figure of a page has a number, and a link of its own."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

FIGURE = re.compile(r'<figure (?=role="img"|class="explorer")')
SECTION = re.compile(r"book/0?(\d|[A-Z])((?:-\d)*)-[a-z]")
"""The number of a chapter, at the start of the name of its file."""


def prefix(page: str) -> str:
    """Return what the numbers of the figures of a page begin with.

    >>> prefix("book/05-2-1-poisson"), prefix("book/B-proofs"), prefix("book/gallery")
    ('5.2.1.', 'B.', '')
    """
    found = SECTION.match(page)
    return f"{found[1]}{found[2].replace('-', '.')}." if found else ""


def number(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Give each figure an id, and put its number before its caption."""
    start, count = prefix(page), 0
    for raw in list(doctree.findall(nodes.raw)):
        if "html" not in raw.get("format", "").split() or not FIGURE.search(raw.astext()):
            continue
        count += 1
        label = f"Figure {start}{count}"
        link = f'<a class="figure-number" href="#figure-{count}">{label}</a>'
        text = raw.astext()
        caption = _caption(raw)
        if caption is not None:
            caption.insert(0, nodes.raw("", link + " ", format="html"))
        elif "<figcaption" in text:
            text = text.replace("<figcaption", f"{link}<figcaption", 1)
        else:
            text = text.replace("</figure>", f"{link}</figure>", 1)
        text = FIGURE.sub(rf'<a id="figure-{count}"></a>\g<0>', text, count=1)
        raw.children = [nodes.Text(text)]
        raw.rawsource = text


def _caption(raw: nodes.raw) -> nodes.paragraph | None:
    """Return the paragraph that a cell shows right after a figure."""
    outputs: Any = raw.parent
    while outputs is not None and "cell_output" not in outputs.get("classes", []):
        if outputs.parent is None:
            return None
        raw, outputs = outputs, outputs.parent
    following = outputs.children[outputs.index(raw) + 1 :][:1]
    return following[0] if following and isinstance(following[0], nodes.paragraph) else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension to the build."""
    app.connect("doctree-resolved", number)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
