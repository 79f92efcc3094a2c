"""What a page shows of itself where it is shared, and what its text waits for."""

import struct
from html.parser import HTMLParser
from pathlib import Path

import pytest
from docutils.core import publish_doctree
from extensions import extension

BOOK = Path(__file__).parents[2] / "book"


BOX = ".. admonition:: In short\n   :class: in-short\n"
previews, assets = extension("book_previews"), extension("book_assets")


class Metas(HTMLParser):
    """The content of every meta tag, by its property or name."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.found[values.get("property") or values["name"]] = values["content"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*One* sentence.\n\nAnother paragraph.", "One sentence."),
        (".. note:: A box.\n\nThe text\nof the page.", "The text of the page."),
        (f"First sentence? {'word ' * 60}end.", "First sentence?"),
        ("word " * 60, "word " * 39 + "word …"),
        (".. note:: A box.", ""),
        (f"{BOX}\n   **Question.** Why?\n\n   **Answer.** For a reason.\n\nText.", "For a reason."),
    ],
)
def test_description_is_the_first_paragraph(text, expected):
    found = previews.description(publish_doctree(f"Title\n=====\n\n{text}\n"))
    assert found == expected
    assert len(found) <= previews.LONGEST + 2


def test_tags_hold_what_they_are_given():
    html = previews.tags('a "b" <c>', "Text.", "", "../_static/preview.png", "Book")
    found = Metas(html).found
    assert found["og:title"] == 'a "b" <c>'
    assert found["og:description"] == found["description"] == "Text."
    assert found["og:image"] == "../_static/preview.png"
    assert "og:url" not in found
    assert "description" not in Metas(previews.tags("a", "", "", "b", "c")).found


def test_picture_has_its_size_and_is_light():
    data = (BOOK / "images" / previews.PICTURE).read_bytes()
    assert struct.unpack(">II", data[16:24]) == previews.SIZE
    assert len(data) < 200_000


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('<script src="a.js"></script>', '<script defer src="a.js"></script>'),
        (
            '<script data-x="1" src="a.js"></script>',
            '<script defer data-x="1" src="a.js"></script>',
        ),
        ('<script defer src="a.js"></script>', None),
        ('<script src="a.js" defer="defer"></script>', None),
        ('<script src="../_static/documentation_options.js?v=1"></script>', None),
        ("<script>let a = 'src=';</script>", None),
        ('<script type="module">1</script>', None),
    ],
)
def test_scripts_from_files_are_deferred(script, expected):
    page = f"<head>{script}</head>"
    assert assets.defer(page) == page.replace(script, expected or script)
    assert assets.defer(assets.defer(script)) == assets.defer(script)
