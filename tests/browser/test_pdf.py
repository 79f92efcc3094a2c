"""The book as one PDF: its pages in their order, with bookmarks."""

from pathlib import Path

from pypdf import PdfReader

from scripts.pdf import pages, printed


def test_pages_are_those_of_the_table_of_contents(tmp_path):
    toc = tmp_path / "_toc.yml"
    toc.write_text(
        "root: book/a\nparts:\n"
        "  - chapters: [{file: book/c, sections: [{file: book/d}]}, {file: book/b}]\n"
    )
    assert pages(toc) == ["book/a", "book/c", "book/d", "book/b"]


def test_pages_are_printed_in_their_order_with_bookmarks(browser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        text = f"<!doctype html><h1>Page {name}<a>#</a></h1><p>The text of {name}."
        (tmp_path / f"{name}.html").write_text(text)
    out = tmp_path / "book.pdf"
    printed(Path(), ["b", "a"]).write(out)  # a relative path, as `make pdf` gives it
    book = PdfReader(out)
    assert [page.extract_text().split(".")[0].split()[-1] for page in book.pages] == ["b", "a"]
    assert [item.title for item in book.outline] == ["Page b", "Page a"]
