"""Tests of the tests: a fault planted in a copy of a chapter fails the commands of `make test`."""

import os
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from shutil import ignore_patterns

import nbformat
import pytest

from scripts.notebooks import CHECKED, chapters, tags, write
from tests.notebooks.test_parameters import RUNS

ROOT = Path(__file__).parents[2]


def make(target: str, *variables: str) -> subprocess.CompletedProcess[str]:
    """Run a target of the Makefile in the environment of this test."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", target, f"VENV={sys.prefix}", "JOBS=1", *variables],
        cwd=ROOT,
        env=quiet,
        capture_output=True,
        text=True,
    )


def checked_number(cell: nbformat.NotebookNode) -> str | None:
    """Return the text of a checked cell's first output if a number is in it."""
    text = cell.outputs[0].get("text", "") if CHECKED in tags(cell) and cell.outputs else ""
    return text if re.search(r"\d", text) else None


@pytest.fixture(scope="module")
def beginning() -> nbformat.NotebookNode:
    """Return the first chapter up to its first checked number."""
    for path in chapters():
        notebook = nbformat.read(path, as_version=4)
        for number, cell in enumerate(notebook.cells):
            if checked_number(cell):
                notebook.cells = notebook.cells[: number + 1]
                return notebook
    raise AssertionError("no chapter has a checked number")


@pytest.fixture
def book(tmp_path):
    """Return a copy of the book's folder without its chapters."""
    return shutil.copytree(ROOT / "book", tmp_path / "book", ignore=ignore_patterns("*.ipynb"))


def planted(chapter, plant, path):
    """Write a copy of a chapter with a fault in it."""
    notebook = deepcopy(chapter)
    plant(notebook)
    write(notebook, path)


def append(notebook, source):
    """Add a cell to a notebook."""
    notebook.cells.append(nbformat.v4.new_code_cell(source))


def change_digit(notebook):
    """Change the first digit of the checked output."""
    output = notebook.cells[-1].outputs[0]
    output.text = re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), output.text, count=1)


def print_more(notebook):
    """Change what the checked cell prints and leave its output."""
    notebook.cells[-1].source += "\nprint('more')"


def raise_error(notebook):
    """Add a cell that raises."""
    append(notebook, "raise RuntimeError('planted')")


def test_planted_faults_fail_the_comparison(beginning, book):
    faults = {"sound": lambda notebook: None, "number": change_digit, "stale": print_more}
    for name, plant in (faults | {"exception": raise_error}).items():
        planted(beginning, plant, book / f"{name}.ipynb")
    run = make("nbval", f"CHAPTERS={' '.join(map(str, book.glob('*.ipynb')))}")
    assert run.returncode != 0
    failed = re.findall(r"^FAILED .*?(\w+)\.ipynb::Cell", run.stdout, re.MULTILINE)
    assert sorted(failed) == ["exception", "number", "stale"], run.stdout + run.stderr


def test_assertion_that_fails_for_one_order_fails_the_parameter_runs(beginning, book):
    path = book / "02-0-copy.ipynb"
    planted(beginning, lambda notebook: append(notebook, "assert r != 3, 'planted'"), path)
    run = make("papermill", f"CHAPTERS={path}")
    assert run.returncode != 0
    failed = re.findall(r"^FAILED .*\[02-0-copy-r=(\d)", run.stdout, re.MULTILINE)
    assert failed == ["3"] * sum(each["r"] == 3 for each in RUNS), run.stdout + run.stderr


def test_planted_fault_fails_the_book_every_time(book):
    source, path = book.parent, book / "02-0-copy.ipynb"
    shutil.copy(ROOT / "_config.yml", source)
    toc = "format: jb-book\nroot: book/index\nchapters:\n  - file: book/02-0-copy\n"
    (source / "_toc.yml").write_text(toc)
    (book / "index.md").write_text("# Book\n")
    title = nbformat.v4.new_markdown_cell("# 2.0 Copy")
    chapter = nbformat.v4.new_notebook(cells=[title, nbformat.v4.new_code_cell("1 + 1")])

    write(chapter, path)
    run = make("html", f"SOURCE={source}")
    assert run.returncode == 0, run.stdout + run.stderr
    assert (source / "_build" / "html" / "book" / "02-0-copy.html").exists()

    reference = nbformat.v4.new_markdown_cell("See {eq}`planted`.")
    for plant in (raise_error, lambda notebook: notebook.cells.append(reference)):
        planted(chapter, plant, path)
        for _ in range(2):
            run = make("html", f"SOURCE={source}")
            assert run.returncode != 0
            assert "planted" in run.stdout + run.stderr
