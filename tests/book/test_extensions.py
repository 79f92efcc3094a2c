"""What the extensions of Sphinx do with the pages of the book."""

from pathlib import Path

import pytest
from docutils import nodes
from extensions import extension
from plotly.offline import get_plotlyjs_version
from sphinx import addnodes

assets, code, figures, hints, numbers = map(
    extension, ("book_assets", "book_code", "book_figures", "book_hints", "book_numbers")
)


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("x = 1\nprint(x)", []),
        ("assert x\nx = 1", [1]),
        ("for i in y:\n    claim(\n        'a', i\n    )\nprint(x)", [2, 3, 4]),
        ("claims = claim\nreclaim(x)", []),
        ("%matplotlib inline\nassert x", []),
    ],
)
def test_guards_are_found(source, lines):
    assert code.guards(source) == lines


def page_of(source):
    """Return a page with one cell."""
    page = nodes.document(None, None)
    page += nodes.container("", nodes.literal_block(source, source), classes=["cell_input"])
    return page


def test_a_cell_of_guards_alone_is_hidden_whole():
    page = page_of("assert x\n\nclaim('a')")
    code.mark(None, page)
    assert page[0]["classes"] == ["cell_input", code.GUARD]
    other = page_of("assert x\nprint(x)")
    code.mark(None, other)
    assert other[0]["classes"] == ["cell_input"]
    assert other[0][0]["highlight_args"] == {"hl_lines": [1]}


@pytest.mark.parametrize(
    ("page", "start"),
    [
        ("book/05-2-1-poisson", "5.2.1."),
        ("book/03-gradient-descent", "3."),
        ("book/P-2-refinement", "P.2."),
        ("book/B-proofs", "B."),
        ("book/gallery", ""),
        ("book/index", ""),
    ],
)
def test_figures_are_numbered_within_their_chapter(page, start):
    assert figures.prefix(page) == start


def test_a_number_stands_before_a_caption_and_is_a_link():
    page = nodes.document(None, None)
    figure = nodes.raw("", '<div><figure role="img">plot</figure></div>', format="html")
    caption = nodes.paragraph("", "What it shows.")
    explorer = nodes.raw(
        "", '<figure class="explorer"><figcaption></figcaption></figure>', format="html"
    )
    bare = nodes.raw("", '<figure role="img">plot</figure>', format="html")
    page += nodes.container("", figure, caption, classes=["cell_output"])
    page += nodes.container("", explorer, classes=["cell_output"])
    page += nodes.container("", bare, classes=["cell_output"])
    figures.number(None, page, "book/02-3-cost")
    link = '<a class="figure-number" href="#figure-{0}">Figure 2.3.{0}</a>'
    assert '<a id="figure-1"></a><figure role="img">' in figure.astext()
    assert "Figure" not in figure.astext()
    assert caption[0].astext().strip() == link.format(1)
    assert link.format(2) + "<figcaption>" in explorer.astext()
    assert link.format(3) + "</figure>" in bare.astext()


def test_plotly_js_is_that_of_the_plotly_package():
    """A new version: `npm pack plotly.js-cartesian-dist-min@VERSION`."""
    with (Path(assets.__file__).parent / "plotly" / assets.PLOTLY).open() as file:
        head = file.read(300)
    assert f"plotly.js (cartesian - minified) v{get_plotlyjs_version()}\n" in head


def test_scripts_are_deferred_once_and_large_ones_come_last():
    tags = [
        'src="x/fontawesome.js?v=1"',
        f'src="{assets.PLOTLY}"',
        'src="a.js"',
        "",
        'src="tex-chtml.js"',
    ]
    page = (
        "<head>"
        + "".join(f"<script {tag}></script>" for tag in tags)
        + "</head><body><script src='b.js'></script></body>"
    )
    once = assets.defer(page)
    assert assets.defer(once) == once
    assert once.count("defer") == 3
    assert once.index("a.js") < once.index("b.js") < once.index(assets.PLOTLY)
    assert once.index(assets.PLOTLY) < once.index("</head>")
    assert once.index(assets.PLOTLY) < once.index('load(["tex-chtml.js", "x/fontawesome.js?v=1"])')
    assert once.count("fontawesome") == once.count("tex-chtml") == 1


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2.5e-07 (1e-08 to 3.0e+00)", "2.5 × 10−7 (10−8 to 3.0)"),
        ("-4e12, 0.1e1", "−4 × 1012, 0.1 × 101"),
        ("a1e5 1e5b 1.2.3e4 v2e3 e-3", "a1e5 1e5b 1.2.3e4 v2e3 e-3"),
    ],
)
def test_numbers_are_written_as_one_reads_them(text, read):
    page = nodes.document(None, None)
    page += nodes.paragraph("", text)
    numbers.write(None, page)
    assert page.astext() == read


def test_numbers_in_code_mathematics_and_signatures_stay():
    page = nodes.document(None, None)
    kept = (nodes.literal, nodes.literal_block, nodes.math, addnodes.desc_signature)
    page += nodes.paragraph("", "", *(node("", "", nodes.Text("1e-3")) for node in kept))
    numbers.write(None, page)
    assert page.astext() == "1e-3" * len(kept)


def test_entries_are_definitions_and_citations_by_their_ids():
    page = nodes.document(None, None)
    meaning = nodes.definition("", nodes.paragraph("", "A point."))
    page += nodes.definition_list(
        "", nodes.definition_list_item("", nodes.term("", "knot", ids=["term-knot"]), meaning)
    )
    source = nodes.citation("", nodes.label("", "1"), nodes.paragraph("", "Book."), ids=["id3"])
    page += source
    assert [(i, e.astext()) for i, e in hints.entries(page)] == [
        ("term-knot", "A point."),
        ("id3", "Book."),
    ]


def test_links_within_entries_lead_to_their_page():
    page = nodes.document(None, None)
    meaning = nodes.definition("", nodes.paragraph("", "A point."))
    page += nodes.definition_list_item("", nodes.term("", "knot", ids=["term-knot"]), meaning)

    class Builder:
        def render_partial(self, node):
            return {"fragment": f'<p><a href="#term-spline">{node.astext()}</a></p>'}

    app = type("App", (), {"builder": Builder()})
    found = hints.collect(app, ["book/glossary"], lambda _: page)
    assert found == {
        ("glossary", "term-knot"): '<p><a href="glossary.html#term-spline">A point.</a></p>'
    }
