"""A downloaded notebook runs in an empty folder, where nothing of the repository is installed."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import nbformat
import pytest
from extensions import extension

import kanlib
from kanlib.paper.records import RESULTS
from scripts.wheels import ROOT, build

downloads = extension("book_downloads")
OWN = ("kanlib", "kanbook", "__editable__")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Return the wheels."""
    pytest.importorskip("setuptools", "77")
    return build(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Return the Python of an environment that has all packages but those of the repository."""
    folder = tmp_path_factory.mktemp("fresh")
    borrowed = folder / "borrowed"
    borrowed.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(OWN) and path.suffix != ".pth":
            (borrowed / path.name).symlink_to(path)
    command = [sys.executable, "-m", "venv", "--without-pip", folder / "venv"]
    subprocess.run(command, check=True, timeout=120)
    (packages,) = (folder / "venv").rglob("site-packages")
    (packages / "borrowed.pth").write_text(f"{borrowed}\n")
    return folder / "venv" / "bin" / "python"


def run(python, *arguments, folder):
    """Run Python in a folder, without the paths of this process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [python, *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=kept, capture_output=True, text=True, timeout=600
    )


def download(name, wheels):
    """Return a notebook as the book without an address offers it."""
    notebook = nbformat.read(ROOT / "book" / f"{name}.ipynb", as_version=4)
    return downloads.complete(notebook, [file.name for file in wheels], "")


def executed(python, notebook, folder):
    """Execute a notebook in a folder."""
    nbformat.write(notebook, folder / "page.ipynb")
    arguments = [
        "-m",
        "nbconvert",
        "--to",
        "notebook",
        "--execute",
        "page.ipynb",
        "--output",
        "out",
    ]
    return run(python, *arguments, folder=folder)


@pytest.mark.slow
def test_downloaded_notebook_runs_in_an_empty_folder(python, wheels, tmp_path):
    notebook = download("leaderboard", wheels)
    without = executed(python, notebook, tmp_path)
    assert without.returncode != 0
    assert "No module named 'kanbook'" in without.stderr
    for file in wheels:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    done = executed(python, notebook, tmp_path)
    assert done.returncode == 0, done.stderr
    outputs = json.dumps(nbformat.read(tmp_path / "out.ipynb", as_version=4))
    assert "text/html" in outputs
    asked = "import kanbook.ledger as k, kanlib.paper.records as r; print(k.BOOK, r.RESULTS)"
    book, results = run(python, "-c", asked, folder=tmp_path).stdout.split()
    assert Path(results).is_relative_to(book)
    assert Path(book).is_relative_to(python.parents[1])


def test_wheel_has_what_the_chapters_read(wheels):
    (file,) = (file for file in wheels if file.name.startswith("kanbook"))
    with zipfile.ZipFile(file) as wheel:
        inside = {*wheel.namelist()}
    book = {f"kanbook/book/{path.relative_to(RESULTS.parent)}" for path in read_by_chapters()}
    assert len(book) > 60
    assert {*book, "kanbook/_toc.yml", "kanbook/scripts/drag.js"} <= inside
    assert not [name for name in inside if "__pycache__" in name]


def read_by_chapters():
    """Return the files that chapters read: records, claims, rows of others, and one another."""
    for pattern in ("results/*.json", "claims/*.json", "published.json", "*.ipynb"):
        yield from (ROOT / "book").glob(pattern)


def test_wheels_have_the_version_of_kanlib():
    text = (ROOT / "scripts" / "kanbook.toml").read_text()
    assert f'version = "{kanlib.__version__}"' in text
    assert re.findall(r"kanlib\[[\w,]+\]==([\d.]+)", text) == [kanlib.__version__]


def test_download_begins_with_what_it_needs_and_goes_on_as_it_was(wheels):
    notebook = nbformat.read(ROOT / "book" / "leaderboard.ipynb", as_version=4)
    names = [file.name for file in wheels]
    for base, place in (("", f"./{names[0]}"), ("https://a.org/b/", f"/b/_wheels/{names[0]}")):
        found = downloads.complete(notebook, names, base)
        nbformat.validate(found)
        assert found.cells[2:] == notebook.cells
        assert place in found.cells[1].source
        assert (names[0] in found.cells[0].source) == (base == "")
