"""Every link within the built book leads somewhere."""

import pytest
from built import HTML
from links import all_pages, broken

GOOD = """
<h1 id="top">A</h1> <a href="">here</a> <a href="#">up</a> <a href="#top">up</a>
<a href="b.html#%C3%BC">umlaut</a> <a href="../index.html">home</a> <a href="b.html?q=1">b</a>
<a href="https://planted.example/no.html#no">elsewhere</a> <a href="mailto:a@b.example">mail</a>
<img src="data:image/png;base64,AAAA"> <a href="b%20c.ipynb" download>notebook</a>
"""
PLANTED = {
    '<a href="c.html">file</a>': "no such file",
    '<a href="#planted">anchor</a>': "no such anchor",
    '<a href="b.html#planted">anchor elsewhere</a>': "no such anchor",
    '<a href="../_sources/a.ipynb" download>download</a>': "no such file",
    '<img src="planted.svg">': "no such file",
    '<img src="b.html" srcset="planted.png 2x">': "no such file",
    '<script src="planted.js"></script>': "no such file",
    '<form action="../planted.html"></form>': "no such file",
    '<meta http-equiv="Refresh" content="0; url=planted.html">': "no such file",
    '<a href="..">folder</a>': "no such file",
    '<a href="/index.html">root</a>': "from the root",
    '<a href="../../planted.html">above</a>': "outside",
}


@pytest.mark.parametrize("page", all_pages(HTML), ids=lambda page: str(page.relative_to(HTML)))
def test_every_link_leads_somewhere(page):
    assert broken(page, HTML) == []


@pytest.fixture
def small_site(tmp_path):
    """Return a site of two pages and a download, for a third page with a fault."""
    site = tmp_path / "html"
    (site / "book").mkdir(parents=True)
    (site / "index.html").write_text('<a href="book/a.html">A</a>')
    (site / "book" / "b.html").write_text('<p id="ü">B</p>')
    (site / "book" / "b c.ipynb").write_text("{}")
    (tmp_path / "planted.html").write_text("outside")
    return site


def test_sound_links_pass(small_site):
    page = small_site / "book" / "a.html"
    page.write_text(GOOD)
    assert broken(page, small_site) == []


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_link_is_found(small_site, fault):
    page = small_site / "book" / "a.html"
    page.write_text(GOOD + fault)
    (line,) = broken(page, small_site)
    assert PLANTED[fault] in line
