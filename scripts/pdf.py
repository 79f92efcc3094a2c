"""Print the built book to one PDF: ``python -m scripts.pdf _build/html _build/kanlib.pdf``.

Chromium prints page by page in the order of ``_toc.yml``, with figures and explorers as they are
when a page opens; each page of the book has a bookmark.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import yaml
from pypdf import PdfReader, PdfWriter
from tqdm import tqdm

from scripts.chromium import Chromium, find

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 1000
"""Pixels of the window that a page is drawn in before it is printed."""


def pages(toc: Path) -> list[str]:
    """Return the names of the pages of a table of contents, in their order."""
    content = yaml.safe_load(toc.read_text(encoding="utf-8"))
    chapters = [each for part in content.get("parts", []) for each in part["chapters"]]
    under = [[chapter, *chapter.get("sections", [])] for chapter in chapters]
    return [content["root"], *(page["file"] for pages in under for page in pages)]


def printed(html: Path, names: list[str]) -> PdfWriter:
    """Print pages into one document.

    Args:
        html: the folder of the built book.
        names: the pages, as in the table of contents.
    """
    document = PdfWriter()
    with Chromium() as browser:
        for name in tqdm(names, "pages", disable=None):
            page = browser.open((html.resolve() / f"{name}.html").as_uri(), WIDTH)
            title = page.evaluate("document.querySelector('h1').firstChild.textContent")
            document.append(PdfReader(BytesIO(page.pdf())), outline_item=title)
            page.close()
    return document


def main(html: Path, out: Path) -> None:
    """Print the book.

    Raises:
        SystemExit: if there is no Chromium.
    """
    if find() is None:
        raise SystemExit("no Chromium: install it, as `apt-get install chromium` does")
    printed(html, pages(ROOT / "_toc.yml")).write(out)
    print(f"The book: {out.resolve()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
