"""Numbers in prose, and what guards each of them.

Prose is what readers read: Markdown, and in code captions, text alternatives and sentences.

``book/numbers/<page>.json`` has, for every number that somebody typed into the text of a page, the
words around it and where it comes from::

    {"computed": {"costs 3.75 times the work": "60 / 16"},
     "code": {"three layers of width 64": "WIDTH = 64",
              "a layer of 64 to 64": "benchmarks/sections.py: LAYER = ([64, 64], 1024)"},
     "given": {"it says that it has 55 parameters": "the paper"}}

A number that is computed must be what its expression gives, rounded as it is printed; the numbers
within one fragment are those of a tuple. One from the code must be in these words of a code cell of
the page, or of a file. What is given defines something or is quoted. An expression knows the names
of `NAMES`. What nobody typed, such as code and references, is left out by the narrow rules `BEFORE`
and `AFTER`.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import nbformat
import torch
from scipy import optimize

import kanlib
import kanlib.analysis.conditioning
import kanlib.paper.comparison
from kanlib.analysis import relaxation, spectra
from kanlib.paper.experiments import EXPERIMENTS, find_case
from kanlib.paper.records import RecordedRun, find_run, load_record, runs_of

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = ROOT / "book" / "numbers"
PAGES = [*sorted(ROOT.glob("book/*.ipynb")), ROOT / "book" / "glossary.md", ROOT / "README.md"]

NUMBER = re.compile(
    r"(?<![\w.])(?:\d+(?:[ \u00a0\u202f]\d{3}\b)*|\d+(?:\\,\d{3})+)(?:\.\d+)?(?:e[-+]?\d+)?"
)
LITERAL = re.compile(r"(?<![\w.])\d[\d_]*(?:\.\d+)?(?:e[-+]?\d+)?")
POWER = re.compile(r"(?<![\w.])(?:\d+(?:\.\d+)?\s*\\(?:cdot|times)\s*)?10\^\{?(-?\d+)\}?")
LIST = r"\(?\d[\d.]*[a-z]?\)?(?:(?:, and |, | and | to | or |–)\(?\d[\d.]*[a-z]?\)?(?![\w%]))*"
"""Numbers one after the other, such as "2, 3 and 4" or "(13)–(15)"."""

REFERENCES = (
    "section chapter figure table lemma corollary theorem proposition remark definition algorithm"
    " exercise line eq. eqs. equation appendix item"
)
NAMED = "level seed order degree mode-"

BEFORE = {
    "generated tables": r"<!-- results -->.*?<!-- /results -->",
    "settings of a directive": r"^[`:]{3,}\{(?!math)[^}]*\}(?: [\w-]+$)?|^:[\w-]+:[^\n]*$",
    "roles and code in a line": r"(?:\{[a-z:]+\})?`(?:[^`\n]|\n(?!\s*\n))+`",
    "links": r"(?:\[[A-Z]?[\d.]+)?\]\([^)\s]*\)|<[^>\s][^>]*>|https?://\S+|\([a-z]+-[\w-]+\)",
    "preprints": r"arXiv[: ]\d+\.\d+",
    "numbers of headings and lists": r"^#+ [A-Z]?[\d.]+ |^ *\d+\. ",
}
AFTER = {
    "references": rf"\b(?i:{'|'.join(REFERENCES.split())})s?[ \n]+{LIST}",
    "numbers of equations": r"(?<=[ \n(])\((?:[1-9]|[1-5]\d|6[01])[a-z]?\)",
    "names": rf"\b(?i:{'|'.join(NAMED.split())})s?\s*{LIST}",
}
"""What is not typed into prose, or names a thing and counts nothing; before and after formulas."""

FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$]+\$|^(`{3,})\{math\}.*?^\1$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Number:
    """A number in a text."""

    start: int
    end: int
    printed: str

    @property
    def value(self) -> float:
        """The number as a float."""
        return float(self._plain)

    @property
    def step(self) -> float:
        """One unit of its last digit."""
        mantissa, _, exponent = self._plain.partition("e")
        return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))

    @property
    def _plain(self) -> str:
        text = re.sub(r"\\,|[ \u00a0\u202f](?=\d)", "", self.printed)
        power = POWER.fullmatch(text)
        if power is None:
            return text
        factor = re.match(r"[\d.]+(?=\s*\\)", text)
        return f"{factor[0] if factor else 1}e{power[1]}"


def blank(text: str, start: int, end: int) -> str:
    """Return a text with spaces in the place of a part."""
    return text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]


def without(text: str, rules: dict[str, str]) -> str:
    """Return a text with spaces in the place of all that some rules match."""
    for rule in rules.values():
        for match in re.finditer(rule, text, re.DOTALL | re.MULTILINE):
            text = blank(text, *match.span())
    return text


def without_code(text: str) -> str:
    """Return a text with spaces in the place of fenced code; directives hold prose or formulas."""
    lines, fences = text.split("\n"), [("", True)]
    for i, line in enumerate(lines):
        fence = re.match(r"(`{3,}|~{3,}|:{3,})(\{(?!code)|)(.*)", line)
        if fence and fence[1] == fences[-1][0] and not fence[3]:
            fences.pop()
        elif fence and fences[-1][1]:
            fences.append((fence[1], bool(fence[2])))
        if not fences[-1][1]:
            lines[i] = " " * len(line)
    return "\n".join(lines)


def numbers(text: str) -> list[Number]:
    """Return the numbers of a text in Markdown that somebody typed, in order.

    In formulas a single digit is a part of the formula; a longer number or a fraction is not.
    """
    found: list[Number] = []
    text = without(without_code(text), BEFORE)
    for formula in [*FORMULA.finditer(text)]:
        inside = text[formula.start() : formula.end()]
        for pattern in (POWER, NUMBER):
            for match in [*pattern.finditer(inside)]:
                if len(match[0]) > 1:
                    start, end = (formula.start() + at for at in match.span())
                    found.append(Number(start, end, match[0]))
                inside = blank(inside, *match.span())
        text = blank(text, *formula.span())
    found += [Number(*match.span(), match[0]) for match in NUMBER.finditer(without(text, AFTER))]
    return sorted(found, key=lambda number: number.start)


def texts(page: Path) -> list[str]:
    """Return the prose of a page: a whole document, or the Markdown cells of a notebook.

    Of a notebook also captions, text alternatives and sentences in code, as far as they are typed.
    """
    if page.suffix == ".md":
        return [page.read_text(encoding="utf-8")]
    found: list[str] = []
    for cell in nbformat.read(page, as_version=4).cells:
        if cell.cell_type == "markdown":
            found.append(cell.source)
        elif cell.cell_type == "code":
            found += sentences(cell.source)
    return found


def sentences(source: str) -> list[str]:
    """Return the sentences in code: captions, text alternatives and Markdown, … for a value.

    Also those in functions that return the findings of an explorer.
    """
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = {
        each.value.id
        for call in calls
        for each in call.keywords
        if each.arg == "finding" and isinstance(each.value, ast.Name)
    }
    functions = [node for node in ast.walk(tree) if getattr(node, "name", "") in named]
    return [
        typed(node)
        for call in calls
        for node in [
            *(each.value for each in call.keywords if each.arg in ("alt", "caption")),
            *(call.args if getattr(call.func, "id", "") == "Markdown" else []),
        ]
    ] + [
        text
        for function in functions
        for text in map(typed, strings(function))
        if text not in (ast.get_docstring(function), "")
    ]


def strings(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the strings in code that are no parts of others."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.JoinedStr) or isinstance(getattr(child, "value", None), str):
            yield child
        else:
            yield from strings(child)


def typed(node: ast.AST) -> str:
    """Return what is typed of a text in code."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(typed(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return typed(node.left) + typed(node.right)
    if isinstance(node, ast.IfExp):
        return f"{typed(node.body)} {typed(node.orelse)}"
    return "…"


@cache
def code(page: Path) -> str:
    """Return the code of a page, on one line."""
    cells = nbformat.read(page, as_version=4).cells if page.suffix == ".ipynb" else []
    return " ".join(" ".join(cell.source for cell in cells if cell.cell_type == "code").split())


@cache
def record(name: str) -> Any:
    """Return a record of the book."""
    path = ROOT / "book" / "results" / f"{name}.json"
    return load_record(path, name) if name in EXPERIMENTS else json.loads(path.read_text())


@cache
def claims() -> dict[str, float]:
    """Return what the chapters measured, by claim."""
    files = sorted((ROOT / "book" / "claims").glob("*.json"))
    return {each["id"]: each["measured"] for file in files for each in json.loads(file.read_text())}


def metric(experiment: str, case: str, key: str = "loss") -> list[float]:
    """Return a metric of a case at the end of each seed's run."""
    return [run.metrics[key] for run in runs_of(record(experiment), case)]


def run(experiment: str, case: str, seed: int = 1234) -> RecordedRun:
    """Return a run of a record."""
    found = find_run(record(experiment), case, seed)
    assert found, f"{experiment} has no run of {case} with seed {seed}"
    return found


NAMES: dict[str, Any] = {
    "case": find_case,
    "claim": lambda id: claims()[id],
    "default": lambda function, name: inspect.signature(function).parameters[name].default,
    "experiment": EXPERIMENTS.__getitem__,
    "relaxation": relaxation,
    "spectra": spectra,
    "kanlib": kanlib,
    "math": math,
    "mean": mean,
    "median": median,
    "metric": metric,
    "optimize": optimize,
    "record": record,
    "run": run,
    "torch": torch,
}
"""What an expression may use: the records, the claims, and the settings of the experiments."""


@cache
def evaluate(expression: str) -> tuple[float, ...]:
    """Return the values of an expression."""
    value = eval(expression, dict(NAMES))
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def places(fragment: str, text: str) -> Iterator[tuple[int, int]]:
    """Yield where a fragment stands in a text, however its lines are broken."""
    pattern = r"\s+".join(map(re.escape, fragment.split()))
    yield from (match.span() for match in re.finditer(pattern, text))


def faults(page: Path, source: list[str] | None = None, guards: Any = None) -> list[str]:
    """Return what is wrong with the numbers of a page, a line each.

    Args:
        page: the page.
        source: its prose, if not what is stored.
        guards: what guards its numbers, if not what is stored.
    """
    source = texts(page) if source is None else source
    file = NUMBERS / f"{page.stem}.json"
    if guards is None:
        guards = json.loads(file.read_text()) if file.exists() else {}
    ways = {"computed": from_expression, "code": partial(from_code, code(page)), "given": quoted}
    fragments = {name: (ways[kind], way) for kind in guards for name, way in guards[kind].items()}
    found: list[str] = []
    unused = {*fragments}
    for text in source:
        typed, guarded = numbers(text), set()
        for fragment, (check, way) in fragments.items():
            for start, end in places(fragment, text):
                within = [each for each in typed if start <= each.start and each.end <= end]
                guarded |= {*within}
                if fragment in unused:
                    found += [f"{fragment!r}: {fault}" for fault in check(way, within)]
                unused -= {fragment}
        for number in typed:
            if number not in guarded:
                around = text[max(0, number.start - 50) : number.end + 30].split()
                found.append(f"{number.printed} is not in {file.name}: … {' '.join(around)} …")
    return found + [f"{file.name}: {fragment!r} is not in the text" for fragment in unused]


def from_expression(expression: str, typed: list[Number]) -> list[str]:
    """Return which printed numbers are not the values of an expression, rounded."""
    values = evaluate(expression)
    if len(typed) != len(values):
        printed = [number.printed for number in typed]
        return [f"has the numbers {printed}, but {expression} has {len(values)}"]
    return [
        f"{number.printed} should be {float(value):.6g}"
        for number, value in zip(typed, values, strict=True)
        if not abs(number.value - value) <= 0.5000001 * number.step
    ]


def from_code(source: str, words: str, typed: list[Number]) -> list[str]:
    """Return which printed numbers are not in words of the code; … joins words of two places."""
    file, _, rest = words.partition(": ")
    if file.endswith((".py", ".toml")):
        source, words = " ".join((ROOT / file).read_text(encoding="utf-8").split()), rest
    if missing := [part for part in words.split(" … ") if part not in source]:
        return [f"the code has no {missing[0]!r}"]
    known = {float(number[0].replace("_", "")) for number in LITERAL.finditer(words)}
    return [f"{each.printed} is not in {words!r}" for each in typed if each.value not in known]


def quoted(reason: str, typed: list[Number]) -> list[str]:
    """Return what is missing: a reason why a number has no source."""
    return [] if reason else ["expected a reason"]
