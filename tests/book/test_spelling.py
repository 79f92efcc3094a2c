"""Spelling: a mistake planted in a file of any kind is found, with the settings of this project."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WRONG = "reci" + "eve"  # in two parts, or it would be found here
CELL = '{"cell_type": "markdown", "metadata": {}, "source": ["Grids\\n", "WORD and $r$."]}'
FILES = {
    "README.md": "# Title\n\nWORD and vermillion.\n",
    "book/02-0-copy.ipynb": f'{{"cells": [{CELL}], "metadata": {{}}, "nbformat": 4}}\n',
    "book/claims/02-0-copy.json": '[{"statement": "WORD"}]\n',
    "kanlib/module.py": '"""WORD."""\n',
    "tests/test_module.py": "# WORD\n",
}
DATA = "book/results/record.json"


@pytest.fixture
def misspelt(tmp_path):
    """Return a function from a word to the files in which codespell minds it."""

    def run(word):
        for name, text in {**FILES, DATA: '["WORD"]\n'}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text.replace("WORD", word))
        shutil.copy(ROOT / "pyproject.toml", tmp_path)
        command = [sys.executable, "-m", "codespell_lib"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        found = {line.split(":")[0].removeprefix("./") for line in result.stdout.splitlines()}
        assert (result.returncode != 0) == bool(found)
        return found

    return run


def test_mistake_is_found_in_every_kind_of_file(misspelt):
    assert misspelt(WRONG) == {*FILES}
    assert misspelt("receive") == set()
