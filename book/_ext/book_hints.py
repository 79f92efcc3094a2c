"""Sphinx extension: what a link means is shown before one follows it.

A page carries, hidden, the definitions of the terms and the entries of the literature that it
links to; its script shows them, and equations and captions of figures of the same page, beside a
link under the mouse or with the focus.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

SCRIPT = "book_hints.js"
PAGES = ("book/glossary", "book/bibliography")
"""The pages whose entries are shown."""
LINK = re.compile(r'href="(\w+)\.html#([^"]+)"')


def entries(doctree: nodes.document) -> Iterator[tuple[str, nodes.Element]]:
    """Yield the entries of a page: their ids, and what they say."""
    for item in doctree.findall(nodes.definition_list_item):
        for part in item.findall(nodes.term):
            for identity in part["ids"]:
                yield identity, item.children[-1]
    for citation in doctree.findall(nodes.citation):
        for identity in citation["ids"]:
            yield identity, citation.children[-1]


def collect(app: Sphinx, pages: list[str], doctree_of: Any) -> dict[tuple[str, str], str]:
    """Return the entries of some pages as HTML, by the name of the page and the id.

    Links within such a page lead to it from any other.
    """
    found = {}
    for page in pages:
        name = page.rsplit("/", 1)[-1]
        for identity, entry in entries(doctree_of(page)):
            html = app.builder.render_partial(entry)["fragment"]
            found[name, identity] = html.replace('href="#', f'href="{name}.html#')
    return found


def hidden(body: str, hints: dict[tuple[str, str], str]) -> str:
    """Return what a page has to carry: the entries that it links to.

    >>> hints = {("glossary", "term-knot"): "<p>A point.</p>"}
    >>> hidden('<a href="glossary.html#term-knot">knots</a>', hints)
    '<div class="hints" hidden><div data-for="glossary.html#term-knot"><p>A point.</p></div></div>'
    >>> hidden('<a href="other.html#term-knot">knots</a>', hints)
    ''
    """
    wanted = dict.fromkeys(found for found in LINK.findall(body) if found in hints)
    each = [
        f'<div data-for="{page}.html#{identity}">{hints[page, identity]}</div>'
        for page, identity in wanted
    ]
    return f'<div class="hints" hidden>{"".join(each)}</div>' if each else ""


def add(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Add the script to a page of the book, and the entries that it needs."""
    if doctree is None or "body" not in context:
        return
    if not hasattr(app, "book_hints"):
        known = [name for name in PAGES if name in app.env.found_docs]
        resolved = app.env.get_and_resolve_doctree
        app.book_hints = collect(app, known, lambda name: resolved(name, app.builder))  # type: ignore[attr-defined]
    app.add_js_file(SCRIPT)
    if page not in PAGES:
        context["body"] += hidden(context["body"], app.book_hints)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension to the build."""
    app.connect("html-page-context", add)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
