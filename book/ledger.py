"""The claims ledger: every statement of the paper, its verdict, and the number measured for it.

``book/claims/<chapter>.json`` lists what a chapter treats, one entry a statement::

    {"id": "lemma-2", "statement": "A by recursion over the order", "source": "Lemma 2",
     "paper": "", "verdict": "reproduced", "what": "largest error of b = A psi",
     "measured": 3e-13, "test": "tests/test_change_of_basis.py::test_change_of_basis_maps_bases"}

and the chapter confirms the stored number where it measures it::

    from ledger import claim
    claim("lemma-2", measured=error, at_most=1e-12, when=(r, n, basis) == (4, 10, "spline"))

Run a chapter with KANLIB_RECORD_CLAIMS=1 in the environment to store what it measures.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

CLAIMS = Path(__file__).resolve().parent / "claims"
FIELDS = ("id", "statement", "source", "paper", "verdict", "what", "measured", "test")
VERDICTS = ("reproduced", "corrected", "not reproduced")


def load_claims(folder: Path | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return the entries of every chapter that has some, by the chapter's name.

    Raises:
        ValueError: if an entry lacks a field or has another one, if its verdict is not one of
            VERDICTS, or if two entries share an id.
    """
    files = sorted((folder or CLAIMS).glob("*.json"))
    claims = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    seen: set[str] = set()
    for chapter, entries in claims.items():
        for entry in entries:
            name = f"{chapter}.json, claim {entry.get('id')!r}"
            if set(entry) != set(FIELDS):
                raise ValueError(f"{name} has the fields {sorted(entry)}: expected {FIELDS}")
            if entry["verdict"] not in VERDICTS:
                raise ValueError(f"{name} has verdict {entry['verdict']!r}: expected {VERDICTS}")
            if entry["id"] in seen:
                raise ValueError(f"{name} is already in another place: give it another id")
            seen.add(entry["id"])
    return claims


def claim(
    id: str,
    measured: float,
    *,
    at_most: float | None = None,
    tolerance: float | None = None,
    when: bool = True,
) -> None:
    """Assert that a measured number agrees with the one in the ledger.

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
