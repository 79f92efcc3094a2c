"""The map of the chapters: no page is forgotten, and none builds on a later one."""

from pathlib import Path

import pytest
from docutils import nodes
from docutils.core import publish_doctree
from extensions import extension

chapters = extension("book_map")
ROOT = Path(__file__).parents[2]
PARTS = chapters.contents(ROOT)
PAGES = [name for names in PARTS.values() for name in names]


def test_every_chapter_says_what_it_builds_on():
    assert [*chapters.builds_on(ROOT)] == PAGES[: -len(PARTS["Reference"])]


@pytest.mark.parametrize(("page", "before"), chapters.builds_on(ROOT).items())
def test_a_chapter_builds_on_earlier_ones(page, before):
    assert all(PAGES.index(each) < PAGES.index(page) for each in before)
    assert before or page == PAGES[0]


def test_lanes_that_meet_lie_side_by_side():
    rows = {name: i for i, name in enumerate(PAGES)}
    on = chapters.builds_on(ROOT)
    lanes = chapters.lanes(rows, on)
    for i, one in enumerate(lanes):
        for other in lanes[:i]:
            apart = one.start >= other.ends[-1] or other.start >= one.ends[-1]
            assert apart or one.column != other.column
    names = dict(enumerate(PAGES))
    drawn = {(names[end], names[lane.start]) for lane in lanes for end in lane.ends}
    assert drawn == {(page, each) for page, before in on.items() for each in before}


def page_of(*paragraphs):
    """Return a page that opens with a box, as MyST makes it."""
    page = publish_doctree("Title\n=====\n\nA first. Of two, which is long enough. And a third.\n")
    box = nodes.admonition("", classes=["in-short"])
    for label, *parts in paragraphs:
        box += nodes.paragraph("", "", nodes.Text(""), nodes.strong("", f"{label}."), *parts)
    if paragraphs:
        page.insert(0, box)
    return page


def text(page):
    return "".join(part.astext() for part in chapters.says(page))


QUESTION = ("Question", nodes.Text(" Is it so? Or not?"))


def test_map_has_the_question_and_the_start_of_the_answer():
    long = nodes.Text(" It is so, as far as one can tell by now. Really.")
    assert text(page_of(QUESTION, ("Answer", long))) == (
        "Is it so? Or not? It is so, as far as one can tell by now."
    )
    parts = (nodes.Text(" No. It is "), nodes.math("", "x"), nodes.Text(" at least, we think. So."))
    short = page_of(QUESTION, ("Answer", *parts))
    assert text(short) == "Is it so? Or not? No. It is x at least, we think."
    assert any(isinstance(part, nodes.math) for part in chapters.says(short))


def test_a_page_without_a_box_says_how_it_begins():
    assert text(page_of()) == "A first. Of two, which is long enough."
