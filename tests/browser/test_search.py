"""The search of the built book finds words of the text and names of kanlib, on any address."""

import faults
import pytest
from built import HTML
from links import reason

SEARCHED = """(async () => {
  const summary = () => document.querySelector("#search-results .search-summary")?.textContent;
  for (let tries = 0; tries < 300 && !summary(); tries++)
    await new Promise((done) => setTimeout(done, 100));
  return [...document.querySelectorAll("#search-results li > a")]
    .map((link) => link.getAttribute("href"));
})()"""
FOUND = {
    "prolongation": "book/04-2-transfer-operators.html",
    "prolongations": "book/04-2-transfer-operators.html",
    "KnotGrid": "book/api-splines.html#kanlib.splines.knots.KnotGrid",
    "truncated power": "book/02-1-change-of-basis.html",
}
EVERYWHERE = [*FOUND, "zxqplanted"]


@pytest.fixture
def search(browser, site):
    """Return a function from words to the addresses that the search page lists."""
    opened = []

    def run(words, base=site):
        opened.append(browser.open(f"{base}/search.html?q={words.replace(' ', '+')}", 1440))
        return opened[-1].evaluate(SEARCHED)

    run.opened = opened
    yield run
    for page in opened:
        page.close()


@pytest.mark.parametrize("words", FOUND)
def test_search_finds_a_page(search, words):
    found = search(words)
    assert FOUND[words] in found
    assert [why for link in found if (why := reason(link, HTML / "search.html", HTML))] == []


def test_search_does_not_find_what_is_not_there(search):
    assert search("zxqplanted") == []


@pytest.mark.parametrize("words", EVERYWHERE)
def test_search_needs_no_server(search, words):
    assert search(words, base=HTML.as_uri()) == search(words)


def test_search_asks_no_other_host_and_complains_of_nothing(search):
    search("prolongation")
    (page,) = search.opened
    assert faults.console(page) == []
    assert faults.requests(page) == []
