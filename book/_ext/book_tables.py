"""Sphinx extension: a page with long tables has a field that filters their rows."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

SCRIPT = "book_tables.js"
BEFORE_THE_ASSETS = 400
"""Priority of a handler that comes before those of `book_assets`, which make the final list."""
LONG = 60
"""Rows of all tables from which on a page has the field."""


def load(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Load the script where there are many rows."""
    if context.get("body", "").count("<tr") >= LONG:
        app.add_js_file(SCRIPT, loading_method="defer")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension to the build."""
    app.connect("html-page-context", load, priority=BEFORE_THE_ASSETS)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
