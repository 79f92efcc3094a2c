"""The chapters under test: all of the book, or those named with ``--chapter``."""

from pathlib import Path

import pytest

from scripts.notebooks import chapters


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests run on a copy of a chapter."""
    parser.addoption("--chapter", action="append", type=Path, help="a notebook; default: all")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for a `chapter` on each of them."""
    if "chapter" in metafunc.fixturenames:
        paths = metafunc.config.getoption("chapter") or chapters()
        metafunc.parametrize("chapter", paths, ids=[path.stem for path in paths])
