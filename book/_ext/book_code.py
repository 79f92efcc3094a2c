"""Sphinx extension: one button a page shows or hides all code that a reader may skip.

Hidden at first are the cells that a chapter folds, its parameters, and in every other cell the
statements that only guard the page: ``assert`` and ``claim``.  Without a script all of them show.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

SCRIPT = Path(__file__).parent / "book_code.js"
FOLDED = {"tag_hide-input", "tag_parameters"}
GUARD = "guard"
"""Class of a cell that holds nothing but guards."""


def guards(source: str) -> list[int]:
    """Return the lines, counted from one, of the statements that only guard a page.

    >>> guards("x = 1\\nassert x\\nfor i in range(3):\\n    claim(\\n        'a')\\nprint(x)")
    [2, 4, 5]
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:  # not Python, or a magic of IPython
        return []
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) or _calls(node, "claim"):
            found.update(range(node.lineno, node.end_lineno + 1))
    return sorted(found)


def _calls(node: ast.AST, name: str) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == name
    )


def mark(app: Sphinx, doctree: nodes.document) -> None:
    """Mark the guards in the cells of a page: the script and the style sheet hide them."""
    for cell in doctree.findall(nodes.container):
        if "cell_input" not in cell["classes"]:
            continue
        for block in cell.findall(nodes.literal_block):
            source = block.astext()
            lines = guards(source)
            if lines:
                block["highlight_args"] = {"hl_lines": lines}
            code = [n for n, line in enumerate(source.split("\n"), 1) if line.strip()]
            if code and set(code) <= set(lines):
                cell["classes"].append(GUARD)


def load(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Put the script behind the title of a page that has something to fold."""
    body = context.get("body", "")
    if any(name in body for name in (*FOLDED, 'class="hll"')):
        context["body"] = body.replace("</h1>", f"</h1><script>{SCRIPT.read_text()}</script>", 1)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension to the build."""
    app.connect("doctree-read", mark)
    app.connect("html-page-context", load)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
