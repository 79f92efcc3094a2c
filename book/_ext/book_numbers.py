"""Sphinx extension: numbers in the text are written as one reads them, 1.3 × 10⁻² for 1.3e-02.

What cells print and what records hold stays as it is, and so does code.
"""

from __future__ import annotations

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

from kanbook.numbers import NUMBER

KEPT = (
    *(nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.comment),
    addnodes.desc_signature,
)
"""What is not text."""


def written(text: str) -> list[nodes.Node]:
    """Return a text with its numbers as one reads them.

    >>> [str(node) for node in written("at 1.3e-02 of 1e6")]
    ['at ', '<inline classes="number">1.3 × 10<superscript>−2</superscript></inline>', ' of ', \
'<inline classes="number">10<superscript>6</superscript></inline>']
    >>> written("1.0e+00")[0].astext()
    '1.0'
    """
    found: list[nodes.Node] = []
    end = 0
    for match in NUMBER.finditer(text):
        if match.start() > end:
            found.append(nodes.Text(text[end : match.start()]))
        end = match.end()
        factor, power = match[1].replace("-", "−"), int(match[2])
        if not power:
            found.append(nodes.Text(factor))
            continue
        base = {"1": "10", "−1": "−10"}.get(factor, f"{factor} × 10")
        number = nodes.inline("", base, classes=["number"])
        number += nodes.superscript("", str(power).replace("-", "−"))
        found.append(number)
    return [*found, nodes.Text(text[end:])] if end < len(text) else found


def write(app: Sphinx, doctree: nodes.document) -> None:
    """Write the numbers of a page so."""
    for text in list(doctree.findall(nodes.Text)):
        if not NUMBER.search(text):
            continue
        parent, kept = text.parent, False
        while parent is not None:
            kept, parent = kept or isinstance(parent, KEPT), parent.parent
        if not kept:
            text.parent.replace(text, written(text.astext()))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension to the build."""
    app.connect("doctree-read", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
