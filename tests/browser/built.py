"""The built book that the browser looks at."""

from pathlib import Path

BUILD = Path(__file__).parents[2] / "_build"
HTML = BUILD / "html"
WIDTHS = (1440, 390)
"""Pixels of a desk and of a telephone."""


def pages() -> list[Path]:
    """Return the pages of the book."""
    return sorted((HTML / "book").glob("*.html"))


def stem(path: Path) -> str:
    """Return the name of a page."""
    return path.stem


def executed(path: Path) -> Path:
    """Return the notebook that a page was made of."""
    return BUILD / "jupyter_execute" / "book" / f"{path.stem}.ipynb"
