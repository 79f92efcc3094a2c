"""Tests of the tests: each fault, planted in an open page, is found."""

import faults
import pytest

MAIN = "document.querySelector('.bd-article')"
PLANTED = {
    "console": (faults.console, "console.error('planted')"),
    "exception": (
        faults.console,
        "new Promise((go) => setTimeout(() => { go(); throw new Error('planted') }))",
    ),
    "request": (faults.requests, "fetch('https://planted.example/').catch(() => null)"),
    "mathematics": (faults.mathematics, f"{MAIN}.append('$$planted$$')"),
    "image": (faults.alternatives, f"{MAIN}.append(new Image())"),
    "figure": (
        faults.alternatives,
        "document.querySelector('.js-plotly-plot').closest('[role=img]').ariaLabel = ''",
    ),
    "wide": (
        faults.overflow,
        f"{MAIN}.append(Object.assign(document.createElement('p'), {{style: 'width: 500px',"
        " textContent: 'planted'}))",
    ),
    "menu": (
        faults.overflow,
        "document.querySelector('.explorer .controls').append(Object.assign("
        "document.createElement('select'), {style: 'flex: none; max-width: none; width: 500px'}))",
    ),
    "formula": (
        faults.mathematics,
        f"{MAIN}.append(Object.assign(document.createElement('p'), {{innerHTML:"
        " '<span class=math style=\"width: 9px\"><mjx-container>planted</mjx-container>'}))",
    ),
    "labels": (
        faults.figures,
        "document.querySelectorAll('.xtick text').forEach("
        "(label) => label.textContent = 'planted'.repeat(9))",
    ),
    "height": (
        faults.explorers,
        "((react) => Plotly.react = (plot, data, layout, config) =>"
        " (delete layout.height, react(plot, data, layout, config)))(Plotly.react)",
    ),
    "finding": (
        faults.explorers,
        "document.querySelectorAll('.explorer figcaption').forEach((caption) =>"
        " Object.defineProperty(caption, 'textContent', {get: () => caption.innerText, set: () =>"
        " caption.replaceChildren(caption.closest('.explorer').querySelector('[role=img]')"
        ".ariaLabel)}))",
    ),
    "explorer": (
        faults.explorers,
        "document.querySelectorAll('.explorer .controls').forEach("
        "(dead) => dead.replaceWith(dead.cloneNode(true)))",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_fault_is_found(first_page, name):
    find, plant = PLANTED[name]
    assert find(first_page) == []
    first_page.evaluate(f"(async () => {{ await ({plant}) }})()")
    assert find(first_page) != []
