"""Commands that a text prints as code, and what would not work if a reader pasted them."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

from kanlib.__main__ import _parser
from kanlib.paper.experiments import find_case, find_experiment

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PYTHON = re.compile(r"^\s*(?:\$ )?(?:\S*/)?python3? (?P<rest>-m [\w.]+|\S+\.py)(?P<more>.*)$", re.M)
MAKE = re.compile(r"^\s*(?:\$ )?make(?P<rest>(?: [a-z][\w-]*| [A-Z]\w*=\S+)+) *(?:#.*)?$", re.M)


class Code(HTMLParser):
    """What a page prints as code, piece by piece, whatever wrote it."""

    def __init__(self, html: str) -> None:
        """Read a page."""
        super().__init__()
        self.pieces: list[str] = []
        self._depth = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a piece at the outermost element."""
        if tag in ("code", "pre"):
            self._depth += 1
            if self._depth == 1:
                self.pieces.append("")

    def handle_endtag(self, tag: str) -> None:
        """End a piece."""
        self._depth -= tag in ("code", "pre")

    def handle_data(self, data: str) -> None:
        """Add to the piece that is open."""
        if self._depth:
            self.pieces[-1] += data


def faulty(code: str) -> list[str]:
    """Return the commands in a piece of code that do not work, with the reason."""
    code = re.sub(r"\\\n\s*", " ", code)
    found = [(match[0], python(match["rest"], match["more"])) for match in PYTHON.finditer(code)]
    found += [(match[0], make(match["rest"])) for match in MAKE.finditer(code)]
    return [f"{command.strip()!r}: {why}" for command, why in found if why]


def python(what: str, more: str) -> str:
    """Return why a command of Python does not work; an empty text if it does."""
    more = re.sub(
        r"[\[\]]| \| .*", " ", more
    )  # [--resume] is optional; what follows a pipe is not ours
    words = shlex.split(more, comments=True)
    if what == "-m kanlib":
        return kanlib(words)
    if what.startswith("-m") and not what.startswith("-m benchmarks"):  # such as pytest
        lost = [word for word in words if "/" in word and not (ROOT / word.split("::")[0]).exists()]
        return f"no file {lost[0]}" if lost else ""
    name = what.removeprefix("-m ").removesuffix(".py").replace(".", "/")
    files = [file for file in (ROOT / f"{name}.py", ROOT / name / "__main__.py") if file.exists()]
    if not files:
        return f"no file {name}"
    known = files[0].read_text(encoding="utf-8")
    options = [word.partition("=")[0] for word in words if word[0] in "-–—"]
    unknown = [option for option in options if f'"{option}"' not in known]
    return f"{unknown[0]} is no option" if unknown else ""


def kanlib(words: list[str]) -> str:
    """Return why a command of kanlib does not work."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = _parser().parse_args(words)
        if "experiment" in options:
            find_experiment(options.experiment)
        for case in getattr(options, "case", None) or []:
            if case.isupper():  # the reader fills in the name
                continue
            find_case(options.experiment, case)
    except SystemExit:
        return said.getvalue().strip().split("\n")[-1]
    except ValueError as error:
        return str(error)
    return ""


def make(rest: str) -> str:
    """Return why a command of make does not work."""
    for word in rest.split():
        name, variable, _ = word.partition("=")
        pattern = rf"^(?:export )?{name} [?:]?=" if variable else rf"^{name}:"
        if not re.search(pattern, MAKEFILE, re.M):
            return f"the Makefile has no {name}"
    return ""
