"""What a page computes itself: one output, which needs nothing from elsewhere."""

import re

import pytest

from kanbook.live import PARTS, live, source


@pytest.mark.parametrize("name", PARTS)
def test_figure_brings_its_scripts_and_asks_for_nothing(name):
    html = live(name, alt="A figure.", seed=1).data
    for part in PARTS[name]:
        assert source(part) in html
    assert re.findall("<script[^>]*>", html) == ["<script>"]  # a module would wait for all others
    addresses = set(re.findall(r"\w+://[^\s\"']+", html))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert len(html) < 40_000


def test_two_figures_of_a_page_have_places_of_their_own():
    first, second = (live("drag", alt="A figure.").data for _ in range(2))
    identity = re.compile(r'id="(live-[\w-]+)"')
    assert identity.findall(first) != identity.findall(second)


def test_alternative_is_escaped():
    assert 'aria-label="a &lt; &quot;b&quot;"' in live("drag", alt='a < "b"').data


def test_unknown_figure_and_blank_alternative_are_refused():
    with pytest.raises(ValueError, match=r"name = 'film': expected one of \['drag', 'train'\]"):
        live("film", alt="A figure.")
    with pytest.raises(ValueError, match="alt = ' '"):
        live("drag", alt=" ")
