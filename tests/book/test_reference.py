"""The reference of kanlib in the book is complete, and Sphinx reads it as it is meant."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INNER = {"nn.described"} | {
    f"kernels.{name}"
    for name in (
        "cpu",
        "cpu_gram",
        "cpu_numba",
        "cpu_products",
        "cpu_vectors",
        "gpu_triton",
        "gram",
        "interrupts",
        "products",
    )
}
"""Modules that only kanlib itself calls."""


def test_every_module_has_its_place_in_the_reference():
    listed = [
        line.split()[-1]
        for page in ROOT.glob("book/api*.md")
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith(".. automodule::")
    ]
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in ("kanlib/*", "kanlib/paper/problems")
        for path in ROOT.glob(f"{folder}/[a-z]*.py")
    }
    inner = {f"kanlib.{name}" for name in INNER}
    assert len(listed) == len(set(listed))
    assert modules - inner <= set(listed)
    assert not inner & set(listed)


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


def test_docstrings_refer_to_modules_that_the_reference_has():
    pages = [page.read_text(encoding="utf-8") for page in ROOT.glob("book/api*.md")]
    listed = [name for page in pages for name in re.findall(r"automodule:: (\S+)", page)]
    files = {name: ROOT / f"{name.replace('.', '/')}.py" for name in listed}
    assert {
        (name, target)
        for name, path in files.items()
        if path.exists()
        for target in re.findall(r":mod:`(kanlib[\w.]*)`", path.read_text(encoding="utf-8"))
        if target not in listed
    } == set()
