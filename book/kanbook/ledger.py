"""The claims ledger: every statement of the paper, its verdict, and the number measured for it.

``book/claims/<chapter>.json`` lists what a chapter treats, one entry a statement::

    {"id": "lemma-2", "statement": "A by recursion over the order", "source": "Lemma 2",
     "paper": "", "verdict": "reproduced", "what": "largest error of b = A psi",
     "measured": 3e-13, "test":
     "tests/splines/test_change_of_basis.py::test_change_of_basis_maps_bases"}

and the chapter confirms the stored number where it measures it::

    from kanbook.ledger import claim
    claim("lemma-2", measured=error, at_most=1e-12, when=(r, n, basis) == (4, 10, "spline"))

Run a chapter with KANLIB_RECORD_CLAIMS=1 in the environment to store what it measures.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
BOOK = found if (found := _HERE / "book").is_dir() else _HERE.parent
"""The folder of the chapters, in an installed kanbook or in kanlib's repository."""
CLAIMS = BOOK / "claims"
FIELDS = ("id", "statement", "source", "paper", "verdict", "what", "measured", "test")
VERDICTS = ("reproduced", "corrected", "not reproduced", "undecided")
NOT_IN_PAPER = "not in the paper"
"""The source of a statement that this book adds; its verdict is MEASURED."""
MEASURED = "measured"
AUTHORS = ("the paper", "the predecessor", "this book")

PLACES = {
    "section 1": 0.0, "section 2": 0.1, "section 2.1": 0.2, "lemma 1": 3.1, "lemma 2": 4.1,
    "corollary 1": 5.1, "lemma 3": 7.1, "section 2.2": 7.2, "lemma 4": 7.3, "figure 1": 12.1,
    "figure 2": 12.2, "section 2.3": 12.3, "figure 3": 12.4, "section 3": 12.5, "lemma 5": 17.1,
    "table 1": 18.1, "remark 1": 18.2, "section 4": 18.3, "section 4.1": 18.4,
    "definition 1": 21.1, "proposition 1": 22.1, "algorithm 1": 23.1, "section 4.2": 23.2,
    "lemma 6": 25.1, "section 4.3": 25.2, "section 5": 25.3, "section 5.1": 25.4, "table 2": 26.1,
    "figure 4": 26.2, "section 5.2": 26.3, "section 5.2.1": 26.4, "figure 5": 28.1,
    "figure 6": 28.2, "section 5.2.2": 28.3, "table 3": 28.4, "section 5.2.3": 28.5,
    "figure 7": 28.6, "figure 8": 28.7, "section 6": 28.8, "appendix a": 28.9,
    "appendix b": 30.1, "proposition 2": 30.2, "lemma 7": 32.1, "appendix c": 37.1,
    "theorem 1": 37.2, "theorem 2": 37.3, "appendix d": 41.1, "appendix e": 42.1, "figure 9": 42.2,
    "predecessor": 50.0,
}  # fmt: skip
"""Where things stand in the paper; equation k stands at k, the predecessor, 2505.18131, last."""


def load_claims(folder: Path | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return the entries of every chapter that has some, by the chapter's name.

    Raises:
        ValueError: if an entry lacks a field or has another one, if its verdict is not one of
            VERDICTS, or contradicts its criterion, or if two entries share an id.
    """
    files = sorted((folder or CLAIMS).glob("*.json"))
    claims = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    seen: set[str] = set()
    for chapter, entries in claims.items():
        for entry in entries:
            name = f"{chapter}.json, claim {entry.get('id')!r}"
            if set(entry) - {"criterion"} != set(FIELDS):
                raise ValueError(f"{name} has the fields {sorted(entry)}: expected {FIELDS}")
            allowed = (MEASURED,) if entry["source"] == NOT_IN_PAPER else VERDICTS
            if entry["verdict"] not in allowed:
                raise ValueError(f"{name} has verdict {entry['verdict']!r}: expected {allowed}")
            if "criterion" in entry and holds(entry) != (entry["verdict"] == "reproduced"):
                raise ValueError(
                    f"{name} is {entry['verdict']!r} with {entry['measured']:g}, against its "
                    f"criterion {entry['criterion']!r} and the paper's {entry['paper']!r}"
                )
            if entry["id"] in seen:
                raise ValueError(f"{name} is already in another place: give it another id")
            seen.add(entry["id"])
    return claims


def holds(entry: dict[str, Any]) -> bool:
    """Tell whether the measured number of an entry keeps the entry's criterion.

    A criterion is "factor 2", of the number that the paper prints first, or "above 10" or
    "below 0.1".

    Raises:
        ValueError: if it is none of these, or the paper prints no number.
    """
    found = re.fullmatch(r"(factor|above|below) (\d\S*)", entry["criterion"])
    number = re.match(r"\d[\d.]*(?:e[+-]?\d+)?", entry["paper"])
    if not found or (found[1] == "factor" and not number):
        raise ValueError(
            f"criterion {entry['criterion']!r} of claim {entry['id']!r} cannot be applied to the "
            f"paper's {entry['paper']!r}: expected 'factor 2' of a number, 'above 10' or 'below 1'"
        )
    bound, measured = float(found[2]), float(entry["measured"])
    if found[1] == "factor" and number:
        return 1 / bound <= measured / float(number[0]) <= bound
    return measured > bound if found[1] == "above" else measured < bound


def author(entry: dict[str, Any]) -> str:
    """Return whose statement an entry is: one of AUTHORS."""
    if entry["source"] == NOT_IN_PAPER:
        return "this book"
    return "the predecessor" if named(entry["source"]) == ["predecessor"] else "the paper"


def claim(
    id: str,
    measured: float,
    *,
    at_most: float | None = None,
    tolerance: float | None = None,
    when: bool = True,
) -> None:
    """Assert that a measured number agrees with the one in the ledger, where there is one.

    A chapter that runs with an installed kanlib, outside the repository, is compared with nothing.

    Args:
        id: the entry of the ledger.
        measured: the number, which may be a count or a boolean.
        at_most: a bound that both the measured and the stored number must keep.
        tolerance: the relative difference allowed between the two; without this and without
            a bound they must be equal.
        when: false if the chapter runs with other parameters than its own: nothing is checked.

    Raises:
        KeyError: if the ledger has no such entry.
        AssertionError: if the numbers disagree.
    """
    if not CLAIMS.is_dir():
        return
    claims = load_claims()
    found = [(c, entry) for c, entries in claims.items() for entry in entries if entry["id"] == id]
    if not found:
        raise KeyError(f"no claim {id!r} in {CLAIMS.name}/*.json: add an entry there")
    (chapter, entry), measured = found[0], float(measured)
    if not when:
        return
    if os.environ.get("KANLIB_RECORD_CLAIMS") == "1":
        entry["measured"] = float(f"{measured:.4g}")
        lines = json.dumps(claims[chapter], indent=2, ensure_ascii=False)
        (CLAIMS / f"{chapter}.json").write_text(lines + "\n", encoding="utf-8")
    stored = float(entry["measured"])
    if at_most is not None:
        agrees = measured <= at_most and stored <= at_most
        expected = f"at most {at_most:g}"
    else:
        agrees = abs(measured - stored) <= (tolerance or 0.0) * abs(stored)
        expected = f"{stored:g} within {tolerance or 0.0:g} of itself"
    assert agrees, f"claim {id!r}: measured {measured:g}, stored {stored:g}, expected {expected}"


def named(source: str) -> list[str]:
    """Return what a source such as "Lemma 2, eqs. (3)–(5)" or "§4.2" names, in one form each.

    Sections and appendices come first, then statements, figures and tables, then equations:
    "lemma 2", "eq. 3", "eq. 4", "eq. 5".
    """
    if "2505.18131" in source:
        return ["predecessor"]
    text = source.lower().replace("§", "section ").replace("equation", "eq.")
    text = text.replace("sec.", "section").replace("fig.", "figure")
    pairs = re.findall(r"\b([a-z]+?)s? +(\d[\d.]*|[a-e]\b)", text)
    names = [f"{kind} {number.rstrip('.')}" for kind, number in pairs]
    names = [name for name in names if name in PLACES]
    for numbers in re.findall(r"\beqs?\.((?: *(?:,|–|and)? *\(?\d+\)?)+)", text):
        for first, last in re.findall(r"(\d+)\)?(?: *– *\(?(\d+))?", numbers):
            names += [f"eq. {k}" for k in range(int(first), int(last or first) + 1)]
    return sorted(names, key=lambda name: (not is_section(name), name.startswith("eq.")))


def treated(entry: dict[str, Any]) -> list[str]:
    """Return what an entry treats: all that its source names, but "after eq. (25)" is no eq. 25."""
    return named(re.sub(r"\b(before|after)\b.*", "", entry["source"]))


def is_section(name: str) -> bool:
    """Tell a section, an appendix or the predecessor from statements, figures and the like."""
    return name.startswith(("section", "appendix", "predecessor"))


def place(source: str) -> float:
    """Return where a source such as "Lemma 2, eq. (5)" or "§4.2" stands in the paper.

    Of several statements the first counts, and of a statement and a section the later one.

    Raises:
        ValueError: if no part of the paper is named.
    """
    names = named(source)
    if not names:
        raise ValueError(f"source {source!r} names no part of the paper, such as 'Lemma 2'")
    sections = [PLACES[name] for name in names if is_section(name)]
    return max([*sections, *[where(name) for name in names[len(sections) :][:1]]])


def where(name: str) -> float:
    """Return the place of one name."""
    return float(name.removeprefix("eq. ")) if name.startswith("eq.") else PLACES[name]


def numbered() -> list[str]:
    """Return the numbered statements, figures, tables and equations of the paper's theory.

    The theory is sections 1 to 4 and appendices A to C.
    """
    names = [*PLACES, *(f"eq. {k}" for k in range(1, 42))]
    theory = [
        name
        for name in names
        if not is_section(name)
        and (where(name) < PLACES["section 5"] or where(name) > PLACES["appendix a"])
        and where(name) < PLACES["appendix d"]
    ]
    return sorted(theory, key=where)


def ordered_claims(folder: Path | None = None) -> list[dict[str, Any]]:
    """Return all entries in the paper's order, each with its chapter and its place.

    What is not in the paper follows the last statement of its chapter.
    """
    entries = []
    for chapter, claims in load_claims(folder).items():
        own = [entry["source"] == NOT_IN_PAPER for entry in claims]
        places = [0.0 if new else place(e["source"]) for new, e in zip(own, claims, strict=True)]
        for new, at, entry in zip(own, places, claims, strict=True):
            at = max(places) if new else at
            entries.append({**entry, "chapter": chapter, "place": at})
    return sorted(entries, key=lambda entry: (entry["place"], entry["chapter"]))


def section(entry: dict[str, Any]) -> str:
    """Return the section or appendix of the paper that an entry of `ordered_claims` belongs to."""
    headings = {at: name for name, at in PLACES.items() if is_section(name)}
    return headings[max(at for at in headings if at <= entry["place"])].capitalize()


def chapter_link(chapter: str) -> str:
    """Return the number of a chapter, as a Markdown link if the book has the chapter."""
    parts = chapter.split("-")
    number = [part.lstrip("0") for part in parts if part.isdigit() or part in tuple("ABCDEP")]
    label = ".".join(number) or chapter
    contents = (BOOK.parent / "_toc.yml").read_text(encoding="utf-8")
    return f"[{label}]({chapter}.ipynb)" if f"file: book/{chapter}\n" in contents else label


def typeset(text: str) -> str:
    """Return a text of the ledger as Markdown for a cell: its ^{...} raised, its _{...} lowered."""
    for mark, tag in (("^", "sup"), ("_", "sub")):
        pattern = rf"\{mark}(?:\{{([^}}]*)\}}|(\[[^\]]*\]|−?\w+))"
        text = re.sub(pattern, rf"<{tag}>\1\2</{tag}>", text)
    return text.replace("|", "\\|")
