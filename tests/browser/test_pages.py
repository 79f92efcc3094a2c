"""Every page of the built book, as a reader meets it: at a desk and on a telephone."""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import faults
import nbformat
import pytest
from built import BUILD, HTML, WIDTHS, executed, pages, stem
from extensions import extension

downloads = extension("book_downloads")
WHEELS = sorted(file.name for file in (HTML / "_wheels").glob("*.whl"))
MOST_BYTES = 1.5e6
THEMES = ("light", "dark")


def test_the_book_is_built():
    assert pages(), "no pages: run `make html`"


@pytest.mark.parametrize(
    "find",
    [faults.mathematics, faults.alternatives, faults.overflow, faults.figures, faults.explorers],
    ids=lambda find: find.__name__,
)
def test_page_has_no(find, visit):
    assert find(visit) == []


def test_overflow_after_the_explorers_were_used(visit):
    assert faults.overflow(visit) == []


@pytest.mark.parametrize("theme", THEMES)
def test_page_is_accessible(visit, theme):
    script = faults.axe_script(BUILD / "npm")
    if script is None:
        pytest.skip("NO NPM: accessibility is not tested")
    if visit.width != WIDTHS[0]:
        pytest.skip("the elements are those of the wide page")
    visit.theme(theme)
    rules = faults.RULES if theme == "light" else ("color-contrast",)  # nothing else changes
    assert faults.accessibility(visit, script, rules) == []


@pytest.mark.skipif("SCREENSHOTS" not in os.environ, reason="pictures are for eyes: SCREENSHOTS=1")
@pytest.mark.parametrize("theme", THEMES)
def test_screenshot(visit, theme):
    visit.theme(theme)
    name = f"{Path(urlsplit(visit.url).path).stem}-{visit.width}-{theme}.png"
    visit.screenshot(BUILD / "screenshots" / name)


@pytest.mark.parametrize("find", [faults.console, faults.requests], ids=lambda find: find.__name__)
def test_after_all_that_the_page_has_no(find, visit):
    assert find(visit) == []


@pytest.mark.parametrize("path", pages(), ids=stem)
def test_page_is_light(path):
    assert faults.weight(path) <= MOST_BYTES


@pytest.mark.parametrize("name", ["index", "02-1-change-of-basis"])
def test_page_works_from_a_server(browser, site, name):
    page = browser.open(f"{site}/book/{name}.html", 1440)
    for find in (faults.mathematics, faults.explorers, faults.console, faults.requests):
        assert find(page) == []
    page.close()


@pytest.mark.parametrize("path", [path for path in pages() if executed(path).exists()], ids=stem)
def test_page_offers_its_notebook_without_and_with_outputs(path):
    text = path.read_text()
    for folder in ("_sources", "_executed"):
        assert f'href="../{folder}/book/{path.stem}.ipynb"' in text
        file = HTML / folder / "book" / f"{path.stem}.ipynb"
        cells = nbformat.read(file, as_version=4).cells
        assert cells[1].source == downloads.INSTALL.format(files=" ".join(f"./{w}" for w in WHEELS))
    assert [name.split("-")[0] for name in WHEELS] == ["kanbook", "kanlib"]
    for name in WHEELS:
        assert f'href="../_wheels/{name}"' in text


@pytest.mark.parametrize("path", pages(), ids=stem)
def test_text_waits_for_no_script_but_a_small_one(path):
    waited = [
        name
        for tag, name in re.findall(r'(<script[^>]*\bsrc="([^"?]+)[^>]*>)', path.read_text())
        if "defer" not in tag
    ]
    assert sum((path.parent / name).stat().st_size for name in waited) < 1000


@pytest.mark.parametrize("path", pages(), ids=stem)
def test_page_has_a_description_and_a_picture_where_it_is_shared(path):
    found = dict(
        re.findall(r'<meta (?:property|name)="([\w:]+)" content="([^"]*)"', path.read_text())
    )
    assert len(found["description"]) > 20
    assert found["og:description"] == found["description"]
    assert len(found["og:title"]) > 2
    assert (path.parent / found["og:image"]).stat().st_size < 200_000


@pytest.mark.parametrize("path", pages(), ids=stem)
def test_figures_come_within_four_seconds_of_a_slow_line(path):
    """The page, its styles and the scripts that run before a figure, at 8 Mbit/s."""
    text = path.read_text()
    names = re.findall(r'<script [^>]*\bsrc="([^"?]+)', text)
    names += re.findall(r'<link rel="stylesheet"[^>]*href="([^"?]+)', text)
    sizes = [(path.parent / name).stat().st_size for name in names]
    assert len(sizes) > 10
    assert path.stat().st_size + sum(sizes) < 4e6
