"""What helps to read a page: code that one may skip, numbers of figures, filters of tables."""

import re
import time

import pytest
from built import pages, stem

HIDDEN = """[...document.querySelectorAll(
  ".bd-article :is(details.above-input, .tag_parameters .cell_input, .cell_input.guard, .hll)"
)].filter((node) => node.getClientRects().length).length"""
TOGGLE = "document.querySelector('.code-toggle')"


def test_one_button_shows_and_hides_the_code_that_one_may_skip(browser, site):
    page = browser.open(f"{site}/book/02-1-change-of-basis.html", 1440)
    assert page.evaluate(HIDDEN) == 0
    page.evaluate(f"{TOGGLE}.click()")
    everything = page.evaluate(HIDDEN)
    assert everything > 10
    assert page.evaluate("document.querySelectorAll('details.above-input[open]').length") > 0
    page.close()
    later = browser.open(f"{site}/book/02-2-eigenstructure.html", 1440)
    assert later.evaluate(HIDDEN) > 0  # the choice holds for all pages
    later.evaluate(f"{TOGGLE}.click()")
    assert later.evaluate(HIDDEN) == 0
    later.close()


@pytest.mark.parametrize("path", pages(), ids=stem)
def test_every_figure_has_a_number_and_a_link(path):
    text = path.read_text()
    count = len(re.findall(r'<figure (?:role="img"|class="explorer")', text))
    numbers = re.findall(r'<a class="figure-number" href="#(figure-\d+)">Figure [^<]*</a>', text)
    assert numbers == [f"figure-{i}" for i in range(1, count + 1)]
    assert all(text.count(f'id="{number}"') == 1 for number in numbers)


def test_a_field_filters_the_rows_of_long_tables(browser, site):
    page = browser.open(f"{site}/book/claims.html", 1440)
    shown = "[...document.querySelectorAll('.bd-article tbody tr')].filter((r) => r.offsetHeight)"
    everything = page.evaluate(f"{shown}.length")

    def type_in(text):
        field = "document.querySelector('.table-filter input')"
        page.evaluate(f"{field}.value = '{text}', {field}.dispatchEvent(new Event('input'))")
        return page.evaluate(f"{shown}.map((row) => row.textContent.toLowerCase())")

    found = type_in("Lemma 6")
    assert 0 < len(found) < everything
    assert all("lemma" in row and "6" in row for row in found)
    assert type_in("no such words") == []
    assert len(type_in("")) == everything
    page.close()


HINT = "document.querySelector('.hint')"


def hint_of(page, selector, event):
    """Return what is shown for the first link of a kind, and whether the link says so."""
    page.evaluate(
        f"(() => {{ const link = document.querySelector('{selector}');"
        "link.scrollIntoView({block: 'center', behavior: 'instant'});"
        f"link.dispatchEvent(new Event('{event}', {{bubbles: true}})); }})()"
    )
    time.sleep(0.5)
    shown = page.evaluate(f"({HINT}.hidden ? '' : {HINT}.textContent)")
    return shown, page.evaluate(
        f"document.querySelector('{selector}').ariaDescribedByElements?.length"
    )


@pytest.mark.parametrize(
    ("name", "selector", "words"),
    [
        ("04-1-nested-hierarchies", '.bd-article p a[href^="glossary.html#term-"]', " "),
        ("04-1-nested-hierarchies", '.bd-article p a[href^="bibliography.html#"]', "20"),
        ("02-1-change-of-basis", '.bd-article a[href^="#equation-"]:not(.headerlink)', ""),
    ],
)
@pytest.mark.parametrize("event", ["mouseover", "focusin"])
def test_a_link_shows_what_it_leads_to(browser, site, name, selector, words, event):
    page = browser.open(f"{site}/book/{name}.html", 390)
    shown, described = hint_of(page, selector, event)
    assert len(shown) > 5
    assert words in shown
    assert described
    box = page.evaluate(f"(({{left, right}}) => [left, right])({HINT}.getBoundingClientRect())")
    assert 0 <= box[0] < box[1] <= 390
    page.evaluate("dispatchEvent.call(document, new KeyboardEvent('keydown', {key: 'Escape'}))")
    assert page.evaluate(f"{HINT}.hidden")
    page.close()


def test_pages_carry_only_the_entries_that_they_link_to():
    for path in pages():
        text = path.read_text()
        carried = re.findall(r'data-for="([^"]+)"', text)
        assert len({*carried}) == len(carried)
        body = text.split('<div class="hints"')[0]
        assert all(f'href="{address}"' in body for address in carried)
