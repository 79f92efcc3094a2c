"""Sphinx extension: the reference of kanlib, a page a room, from the docstrings of public names.

A name is public if its module lists it in ``__all__``.  The directive ``room`` names a room and, a
line each, its modules in the order in which one reads them: it writes what the room is for, a table
of the names with their first lines, and the entries.  The directive ``rooms`` writes the list of
all rooms and their names, which keeps the addresses that entries had on a single page.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import chain
from pathlib import Path
from pkgutil import walk_packages

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective


def purpose(room: str) -> str:
    """Return what a room is for: its docstring."""
    return inspect.getdoc(import_module(room)) or ""


def public(room: str) -> list[str]:
    """Return the modules of a room that have public names.

    >>> public("kanlib.distributed")
    ['kanlib.distributed.sharded']
    """
    found = walk_packages(import_module(room).__path__, f"{room}.")
    return [each.name for each in found if hasattr(import_module(each.name), "__all__")]


def summary(module: str, name: str) -> str:
    """Return the first line of the documentation of a name, with literals in place of roles.

    >>> summary("kanlib.splines.bspline", "cox_de_boor")
    'Evaluate all B-splines by the recursion (eq. 2), vectorised over points and functions.'
    >>> summary("kanlib.formulas.library", "LIBRARY")
    'The functions that are tried for every edge.'
    """
    noted = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name))  # of a constant
    lines = noted or (inspect.getdoc(getattr(import_module(module), name)) or "").split("\n")
    return re.sub(r":\w+:`~?([^`]*)`", r"``\1``", lines[0])


def labels(modules: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield module, name and label of each name: the name, with its module where two are alike."""
    names = [(module, name) for module in modules for name in import_module(module).__all__]
    count = Counter(name for _, name in names)
    for module, name in names:
        inner = module.rsplit(".", 1)[1]
        yield module, name, f"{inner}.{name}" if count[name] > 1 else name


def entries(modules: list[str]) -> Iterator[str]:
    """Yield the lines of a table of all public names of some modules, and of their entries."""
    yield from ("```{eval-rst}", ".. list-table::", "   :class: names", "")
    for module, name, label in labels(modules):
        yield f"   * - :py:obj:`{label} <{module}.{name}>`"
        yield f"     - {summary(module, name)}"
    yield ""
    for module in modules:
        yield from (f".. rubric:: {module}", "", f".. automodule:: {module}", "")
    yield "```"


def listed(room: str) -> Iterator[str]:
    """Yield the lines of a list of the names of a room, each with the address of its entry."""
    page = "api-" + room.rsplit(".", 1)[1]
    yield from (f"{{doc}}`{room} <{page}>`", f": {purpose(room)}", "")
    links = [
        f'<span id="{module}.{name}"></span>{{py:obj}}`{label} <{module}.{name}>`'
        for module, name, label in sorted(labels(public(room)), key=lambda each: each[2].lower())
    ]
    yield from ("  " + ",\n  ".join(links), "")


def written(directive: SphinxDirective, lines: Iterable[str]) -> list[nodes.Node]:
    """Return what lines of Markdown mean in the place of a directive."""
    text = StringList("\n".join(lines).split("\n"), directive.env.docname)
    parent = nodes.container()
    directive.state.nested_parse(text, directive.content_offset, parent)
    return parent.children


class Room(SphinxDirective):
    """What a room is for, a table of its public names, and their entries."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the page of the room."""
        room = self.arguments[0]
        names = entries([f"{room}.{name}" for name in self.content])
        return written(self, [purpose(room), "", *names])


class Rooms(SphinxDirective):
    """The rooms, with their public names."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the lists of the rooms."""
        return written(self, chain.from_iterable(listed(f"kanlib.{room}") for room in self.content))


def named(html: str) -> str:
    """Return a page whose contents say, to who cannot see them, what opens the pages of the rooms.

    >>> named('<summary><span class="toctree-toggle"></span></summary>')
    '<summary aria-label="Rooms of kanlib"><span class="toctree-toggle"></span></summary>'
    """
    toggle = '<span class="toctree-toggle"'
    return html.replace(f"<summary>{toggle}", f'<summary aria-label="Rooms of kanlib">{toggle}')


def name_toggles(app: Sphinx, exception: Exception | None) -> None:
    """Name what opens the pages of the rooms in the contents of all pages."""
    for path in [] if exception else Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        if named(text) != text:
            path.write_text(named(text), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension to the build."""
    app.add_directive("room", Room)
    app.add_directive("rooms", Rooms)
    app.connect("build-finished", name_toggles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
