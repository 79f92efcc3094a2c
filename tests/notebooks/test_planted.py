"""Tests of the tests: a fault planted in a copy of a chapter fails the commands of `make test`."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from scripts.notebooks import CHECKED, chapters, tags, write

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
def copy(beginning, tmp_path):
    """Return the path of a copy, beside the records that it may read, and a way to change it."""
    (tmp_path / "results").symlink_to(ROOT / "book" / "results")
    notebook = nbformat.from_dict(beginning)
    path = tmp_path / "02-0-copy.ipynb"
    write(notebook, path)
    return notebook, path


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


def test_sound_copy_passes(copy):
    _, path = copy
    run = make("nbval", f"CHAPTERS={path}")
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("plant", [change_digit, print_more, raise_error])
def test_planted_fault_fails_the_comparison(copy, plant):
    notebook, path = copy
    plant(notebook)
    write(notebook, path)
    run = make("nbval", f"CHAPTERS={path}")
    assert run.returncode != 0
    assert re.search(r"^1 failed", run.stdout, re.MULTILINE), run.stdout + run.stderr


def test_assertion_that_fails_for_one_order_fails_the_parameter_runs(copy):
    notebook, path = copy
    append(notebook, "assert r != 3, 'planted'")
    write(notebook, path)
    run = make("papermill", f"CHAPTERS={path}")
    assert run.returncode != 0
    assert re.search(r"^2 failed, 8 passed", run.stdout, re.MULTILINE), run.stdout + run.stderr


@pytest.fixture
def site(copy, tmp_path):
    """Return a book whose one chapter has the code of the copy, and that chapter."""
    notebook, _ = copy
    title = nbformat.v4.new_markdown_cell("# 2.0 Copy")
    notebook.cells = [title, *(cell for cell in notebook.cells if cell.cell_type == "code")]
    source = tmp_path / "site"
    shutil.copytree(ROOT / "book" / "_ext", source / "book" / "_ext")
    shutil.copy(ROOT / "book" / "references.bib", source / "book")
    (source / "book" / "results").symlink_to(ROOT / "book" / "results")
    (source / "book" / "index.md").write_text("# Book\n")
    shutil.copy(ROOT / "_config.yml", source)
    (source / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n  - file: book/02-0-copy\n"
    )
    return notebook, source


def test_sound_book_is_built(site):
    notebook, source = site
    write(notebook, source / "book" / "02-0-copy.ipynb")
    run = make("html", f"SOURCE={source}")
    assert run.returncode == 0, run.stdout + run.stderr
    assert (source / "_build" / "html" / "book" / "02-0-copy.html").exists()


@pytest.mark.parametrize(
    "fault",
    [
        nbformat.v4.new_code_cell("raise RuntimeError('planted')"),
        nbformat.v4.new_markdown_cell("See {eq}`planted`."),
    ],
    ids=["cell that raises", "reference to nothing"],
)
def test_planted_fault_fails_the_book_every_time(site, fault):
    notebook, source = site
    notebook.cells.append(fault)
    write(notebook, source / "book" / "02-0-copy.ipynb")
    for _ in range(2):
        run = make("html", f"SOURCE={source}")
        assert run.returncode != 0
        assert "planted" in run.stdout + run.stderr
