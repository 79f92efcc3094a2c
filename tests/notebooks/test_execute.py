"""Chapters are executed side by side, once, into the cache that the build reads."""

import nbformat
import pytest
from jupyter_cache import get_cache

from scripts.execute import main

CHAPTERS = {"one": "print(6 * 7)", "two": "open('seen', 'a').write('x')", "wrong": "1 / 0"}


@pytest.fixture
def book(tmp_path):
    """A book of three chapters, of which one fails."""
    (tmp_path / "book").mkdir()
    for name, source in CHAPTERS.items():
        cell = nbformat.v4.new_code_cell(source)
        notebook = nbformat.v4.new_notebook(cells=[cell])
        nbformat.write(notebook, tmp_path / "book" / f"{name}.ipynb")
    return tmp_path


def test_chapters_are_executed_once_in_their_folder_and_cached_unless_they_fail(book):
    for _ in range(2):
        main(book, jobs=2)
    cache = get_cache(book / "_build" / ".jupyter_cache")
    held = cache.match_cache_file(str(book / "book" / "one.ipynb"))
    assert "42" in str(cache.get_cache_bundle(held.pk).nb.cells[0].outputs)
    assert (book / "book" / "seen").read_text() == "x"
    with pytest.raises(KeyError):
        cache.match_cache_file(str(book / "book" / "wrong.ipynb"))
