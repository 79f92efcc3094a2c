"""Every command that a page of the built book prints works when it is pasted."""

from html import escape

import pytest
from built import HTML, pages, stem
from commands import Code, faulty

SOUND = [
    "python -m kanlib run regression --case relu-coarse --seed 1234",
    ".venv/bin/python -m kanlib list",
    "python -m benchmarks.planner --quick",
    "make nbval papermill CHAPTERS=book/A-notation.ipynb",
    "make book    # the book",
    "make = partial(SGD, lr=0.1)",
    ".venv/bin/python -m pytest tests/splines/test_knots.py -k refine",
]
PLANTED = {
    "python -m kanlib run regression –case relu-coarse": "unrecognized arguments",
    "python -m kanlib run regression --case planted": "case of regression must be",
    "python -m kanlib run planted": "experiment must be",
    "python -m kanlib planted": "invalid choice",
    "make test\nmake everything": "no everything",
    "make book PLANTED=1": "no PLANTED",
    "python -m benchmarks.planted": "no file",
    "python -m benchmarks.planner --planted": "no option",
    "python -m benchmarks.planner –quick": "no option",
    "python scripts/planted.py": "no file",
    ".venv/bin/python -m pytest tests/planted.py": "no file",
}
WAYS = ("<code>{}</code>", "<pre>{}</pre>", "<code class='literal'><span>{}</span></code>")


@pytest.mark.parametrize("page", pages(), ids=stem)
def test_every_command_works(page):
    pieces = Code(page.read_text(encoding="utf-8")).pieces
    assert [fault for piece in pieces for fault in faulty(piece)] == []


def test_the_pages_print_commands():
    html = (HTML / "book" / "provenance.html").read_text(encoding="utf-8")
    assert sum("python -m kanlib run" in piece for piece in Code(html).pieces) > 100


@pytest.mark.parametrize("command", SOUND)
def test_sound_command_passes(command):
    assert faulty(command) == []


@pytest.mark.parametrize("command", PLANTED)
@pytest.mark.parametrize("way", WAYS)
def test_planted_command_is_found(command, way):
    (piece,) = Code(f"<p>{way.format(escape(command))}</p>").pieces
    (fault,) = faulty(piece)
    assert PLANTED[command] in fault
