"""The reference of kanlib in the book is complete, and Sphinx reads it as it is meant."""

import ast
import doctest
import json
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from extensions import extension

import kanlib
from tests.test_architecture import ROOMS

ROOT = Path(__file__).parents[2]
PAGES = {path.stem.removeprefix("api-"): path for path in ROOT.glob("book/api-*.md")}
"""The page of each room."""


def name_of(path: Path) -> str:
    """Return the name of a module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def exported(tree: ast.Module) -> list[str]:
    """Return what a module lists in ``__all__``."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


TREES = {
    name_of(path): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "kanlib").rglob("*.py"))
}
PUBLIC = {name: found for name, tree in TREES.items() if (found := exported(tree))}
"""The public names by module; kanlib itself gives some of them again."""
DOCUMENTED = {name: found for name, found in PUBLIC.items() if name != "kanlib"}


def listed(room: str) -> list[str]:
    """Return the modules that the page of a room lists."""
    lines = PAGES[room].read_text(encoding="utf-8").split("\n")
    start, end = lines.index(f"```{{room}} kanlib.{room}"), lines.index("```")
    return [f"kanlib.{room}.{line}" for line in lines[start + 1 : end]]


def test_every_room_has_its_page_in_the_order_of_the_rooms():
    rooms = [room for room, modules in ROOMS.items() if modules]
    front = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    assert re.findall(r"```\{rooms\}\n(.*?)\n```", front, re.DOTALL) == ["\n".join(rooms)]
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    (pages,) = (
        each["sections"]
        for part in toc["parts"]
        for each in part["chapters"]
        if each["file"] == "book/api"
    )
    assert [page["file"] for page in pages] == [f"book/api-{room}" for room in rooms]
    assert {*rooms} == {*PAGES}


@pytest.mark.parametrize("room", PAGES)
def test_page_of_a_room_has_every_module_with_public_names(room):
    assert len(listed(room)) == len({*listed(room)})
    assert {*listed(room)} == {name for name in DOCUMENTED if name.startswith(f"kanlib.{room}.")}


def test_names_of_kanlib_are_public_where_they_are_defined():
    found = {(value.__module__, name) for name, value in exports() if hasattr(value, "__module__")}
    assert {name for module, name in found if name not in PUBLIC.get(module, [])} <= {
        "lbfgs",  # partial objects do not know their module
        "paper_lbfgs",
    }
    assert {"lbfgs", "paper_lbfgs"} <= {*PUBLIC["kanlib.training.optimizers"]}


def exports() -> list[tuple[str, object]]:
    """Return what ``from kanlib import …`` gives."""
    return [(name, getattr(kanlib, name)) for name in kanlib.__all__]


def imported(code: str) -> set[tuple[str, str]]:
    """Return modules of kanlib and the names that some code imports of them."""
    return {
        (node.module, alias.name)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("kanlib")
        for alias in node.names
    }


def programs() -> Iterator[str]:
    """Yield the code that readers see: of the README and of the chapters."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    yield from re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    for path in ROOT.glob("book/*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and not re.search("^[%!]", source, re.MULTILINE):
                yield source


def test_what_readers_import_is_public():
    """All but the settings of experiments, which belong to the records."""
    found = {pair for code in programs() for pair in imported(code)}
    assert ("kanlib", "KAN") in found
    assert {
        (module, name)
        for module, name in found
        if name not in PUBLIC.get(module, [])
        and f"{module}.{name}" not in TREES
        and not module.startswith("kanlib.paper.experiments.")
    } == set()


def examples(docstring: str | None) -> list[doctest.Example]:
    """Return the examples of a docstring that have an outcome, under their heading."""
    _, _, text = (docstring or "").partition("Examples:\n")
    return [each for each in doctest.DocTestParser().get_examples(text) if each.want]


@pytest.mark.parametrize("module", DOCUMENTED)
def test_every_public_class_and_function_has_an_example(module):
    values = {name: getattr(import_module(module), name) for name in DOCUMENTED[module]}
    assert [
        name
        for name, value in values.items()
        if callable(value) and hasattr(value, "__name__") and not examples(value.__doc__)
    ] == []


def test_an_example_needs_a_heading_and_an_outcome():
    assert examples("One.\n\nExamples:\n    >>> 1 + 1\n    2\n")
    assert not examples("One.\n\n>>> 1 + 1\n2\n")
    assert not examples("One.\n\nExamples:\n    >>> x = 1\n")
    assert not examples(None)


def test_tables_have_names_and_first_lines():
    reference = extension("book_reference")
    lines = "\n".join(
        reference.entries(["kanlib.splines.bspline", "kanlib.splines.truncated_power"])
    )
    assert "   * - :py:obj:`greville <kanlib.splines.bspline.greville>`" in lines
    assert "   * - :py:obj:`bspline.pieces <kanlib.splines.bspline.pieces>`" in lines
    assert "     - Return the polynomial pieces of all truncated powers on all intervals." in lines
    front = "\n".join(reference.listed("kanlib.splines"))
    assert '<span id="kanlib.splines.knots.KnotGrid"></span>' in front


@pytest.mark.parametrize("module", DOCUMENTED)
def test_first_lines_are_whole_sentences(module):
    reference = extension("book_reference")
    lines = {name: reference.summary(module, name) for name in DOCUMENTED[module]}
    assert {name: line for name, line in lines.items() if line[-1:] not in {".", ","}} == {}


def first_lines(source: str) -> Iterator[str]:
    """Yield the first line of each docstring of a property and of each comment with a colon."""
    for node in ast.walk(ast.parse(source)):
        decorators = getattr(node, "decorator_list", [])
        if {"property", "cached_property"} & {getattr(each, "id", "") for each in decorators}:
            yield (ast.get_docstring(node) or "").split("\n")[0]
    lines = [line.strip() for line in source.split("\n")]
    for before, line in pairwise(lines):
        if line.startswith("#:") and not before.startswith("#:"):
            yield line[2:]


def mistaken(source: str) -> list[str]:
    """Return the first lines that Sphinx takes for "type: text", so that the type is looked up."""
    literal = re.compile(r":[\w:]+:`[^`]*`|``[^`]*``")
    return [line for line in first_lines(source) if re.search(r":\s", literal.sub("", line))]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "kanlib").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_no_docstring_of_a_property_reads_as_a_type(path):
    assert mistaken(path.read_text(encoding="utf-8")) == []


def test_a_colon_in_the_docstring_of_a_property_is_seen():
    body = 'class A:\n    @property\n    def b(self):\n        """All: of them."""\n'
    assert mistaken(body) == ["All: of them."]
    assert mistaken("x = 1\n#: Points: at a time.\ny = 2\n") == [" Points: at a time."]
    assert mistaken(body.replace("All: of", "All ``a: b`` of")) == []


ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?(kanlib[\w.]*)`")


def documentation(module: str) -> Iterator[str]:
    """Yield the docstrings of a module that the page of its room shows."""
    yield ast.get_docstring(TREES[module]) or ""
    for node in TREES[module].body:
        if getattr(node, "name", None) in DOCUMENTED[module]:
            parts = [each for each in node.body if hasattr(each, "name")]
            shown = [node, *(each for each in parts if not each.name.startswith("_"))]
            yield from (ast.get_docstring(each) or "" for each in shown)


def test_docstrings_refer_to_what_the_reference_has():
    names = {f"{module}.{name}" for module, names in DOCUMENTED.items() for name in names}
    targets = {
        (module, target)
        for module in DOCUMENTED
        for text in documentation(module)
        for target in ROLE.findall(text)
    }
    assert len(targets) > 20
    assert {
        (module, target)
        for module, target in targets
        if not {target, target.rpartition(".")[0]} & names and target not in DOCUMENTED
    } == set()
