"""The claims ledger, on a ledger of its own."""

import ast
import json
from pathlib import Path

import nbformat
import pytest

from kanbook import ledger

ROOT = Path(ledger.__file__).parents[2]

ENTRY = {
    "id": "slope",
    "statement": "the ratio grows like n to the 2r",
    "source": "Figure 2a",
    "paper": "2",
    "verdict": "reproduced",
    "what": "fitted slope",
    "measured": 2.0,
    "test": "tests/analysis/test_spectra.py::test_x",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "CLAIMS", tmp_path)
    monkeypatch.delenv("KANLIB_RECORD_CLAIMS", raising=False)
    write(tmp_path / "02-2-x.json", ENTRY, {**ENTRY, "id": "error", "measured": 1e-14})
    return tmp_path


def write(path, *entries):
    path.write_text(json.dumps(entries))


@pytest.mark.parametrize("measured", [1.97, 2.0, 2.03])
def test_claim_accepts_a_number_within_the_tolerance(folder, measured):
    ledger.claim("slope", measured=measured, tolerance=0.02)


@pytest.mark.parametrize("measured", [1.95, 2.05, -2.0, float("nan"), float("inf")])
def test_claim_refuses_a_number_outside_the_tolerance(folder, measured):
    with pytest.raises(AssertionError, match="slope"):
        ledger.claim("slope", measured=measured, tolerance=0.02)


def test_claim_without_tolerance_wants_equality(folder):
    ledger.claim("slope", measured=2)
    with pytest.raises(AssertionError):
        ledger.claim("slope", measured=2 + 1e-9)


def test_claim_bounds_the_measured_and_the_stored_number(folder):
    ledger.claim("error", measured=9e-13, at_most=1e-12)
    for measured, at_most in [(2e-12, 1e-12), (0.0, 1e-15), (float("nan"), 1e-12)]:
        with pytest.raises(AssertionError, match="error"):
            ledger.claim("error", measured=measured, at_most=at_most)


def test_claim_checks_nothing_under_other_parameters(folder):
    ledger.claim("slope", measured=7.0, when=False)


def test_claim_names_an_unknown_id_whatever_the_parameters(folder):
    with pytest.raises(KeyError, match="lemma-99"):
        ledger.claim("lemma-99", measured=1.0, when=False)


def test_claim_records_only_its_own_entry(folder, monkeypatch):
    monkeypatch.setenv("KANLIB_RECORD_CLAIMS", "1")
    ledger.claim("slope", measured=1.999988, tolerance=0.02)
    ledger.claim("error", measured=3e-14, at_most=1e-12, when=False)
    slope, error = ledger.load_claims()["02-2-x"]
    assert slope == ENTRY
    assert error["measured"] == 1e-14
    ledger.claim("slope", measured=1.5)
    assert ledger.load_claims()["02-2-x"] == [{**ENTRY, "measured": 1.5}, error]


def test_claim_does_not_record_what_breaks_a_bound_in_silence(folder, monkeypatch):
    monkeypatch.setenv("KANLIB_RECORD_CLAIMS", "1")
    with pytest.raises(AssertionError):
        ledger.claim("error", measured=1.0, at_most=1e-12)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**ENTRY, "verdict": "perhaps"}, "perhaps"),
        ({**ENTRY, "verdict": "measured"}, "measured"),
        ({**ENTRY, "source": "not in the paper"}, "reproduced"),
        ({**ENTRY, "criterion": "factor 1.5", "measured": 3.1}, "against its criterion"),
        ({**ENTRY, "criterion": "above 1", "verdict": "not reproduced"}, "against its criterion"),
        ({**ENTRY, "criterion": "near 2"}, "cannot be applied"),
        ({**ENTRY, "criterion": "factor 2", "paper": "some"}, "cannot be applied"),
        ({k: v for k, v in ENTRY.items() if k != "test"}, "fields"),
        ({**ENTRY, "note": ""}, "note"),
        (ENTRY, "another place"),
    ],
)
def test_load_claims_names_a_faulty_entry(folder, entry, message):
    write(folder / "03-y.json", entry)
    with pytest.raises(ValueError, match=message):
        ledger.load_claims()


@pytest.mark.parametrize(
    ("criterion", "paper", "measured", "kept"),
    [
        ("factor 2", "3.67e-5 (7.19e-5)", 7.3e-5, True),
        ("factor 2", "3.67e-5 (7.19e-5)", 7.4e-5, False),
        ("factor 2", "3.67e-5", 1.84e-5, True),
        ("factor 2", "3.67e-5", 1.83e-5, False),
        ("factor 2", "69", float("nan"), False),
        ("factor 1.1", "6 for r = 3", 5.77, True),
        ("above 10", "", 10.0, False),
        ("above 10", "", 11.0, True),
        ("below 0.1", "", 0.1, False),
        ("below 0.1", "", -3.0, True),
    ],
)
def test_criterion_is_applied_to_the_measured_number(criterion, paper, measured, kept):
    entry = {**ENTRY, "criterion": criterion, "paper": paper, "measured": measured}
    assert ledger.holds(entry) is kept


@pytest.mark.parametrize(
    ("source", "author"),
    [
        ("Table 2, section 5.1", "the paper"),
        ("arXiv:2505.18131", "the predecessor"),
        ("not in the paper", "this book"),
    ],
)
def test_author_tells_whose_statement_it_is(source, author):
    assert ledger.author({**ENTRY, "source": source}) == author


@pytest.mark.parametrize(
    "sources",
    [
        ["Section 1", "eq. (2)", "Lemma 1", "Lemma 2, eq. (5)", "Corollary 1", "Figure 2b"],
        ["§2.2", "Fig. 1", "sec. 2.3", "§3", "§3, after eq. 17", "Remark 1, Theorem 2"],
        ["eqs. (19), (20)", "§4.1, after eq. (20)", "Proposition 1, eqs. (21), (23)", "§4.2"],
        ["Section 5.1", "Table 2, section 5.1", "Equation (27)", "§6", "Appendix A"],
        ["Appendix B, before Corollary 1", "Proposition 2", "eq. (36)", "Theorem 1 (appendix C)"],
    ],
)
def test_place_follows_the_order_of_the_paper(sources):
    places = [ledger.place(source) for source in sources]
    assert places == sorted(set(places))


@pytest.mark.parametrize("source", ["", "not in the paper", "Lemma 99", "somewhere"])
def test_place_names_a_source_that_the_paper_does_not_have(source):
    with pytest.raises(ValueError, match=repr(source)):
        ledger.place(source)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("Lemma 3, eqs. (6)–(7)", ["lemma 3", "eq. 6", "eq. 7"]),
        ("eqs. (21), (23) and 25, §4.1", ["section 4.1", "eq. 21", "eq. 23", "eq. 25"]),
        ("Appendix B, Lemma 7, Equation (33)", ["appendix b", "lemma 7", "eq. 33"]),
        ("Fig. 2b, Table 1", ["figure 2", "table 1"]),
        ("Lemma 99", []),
        ("arXiv:2505.18131", ["predecessor"]),
    ],
)
def test_named_lists_all_that_a_source_names(source, names):
    assert ledger.named(source) == names


def test_treated_leaves_out_what_only_says_where():
    assert ledger.treated({**ENTRY, "source": "§4.2, after eq. (25)"}) == ["section 4.2"]
    assert ledger.treated({**ENTRY, "source": "Lemma 4, eq. (10)"}) == ["lemma 4", "eq. 10"]


def test_numbered_are_the_statements_of_the_theory():
    names = ledger.numbered()
    assert [name for name in names if name.startswith("eq.")] == [
        f"eq. {k}" for k in (*range(1, 26), *range(29, 42))
    ]
    for kind, last in [("lemma", 7), ("proposition", 2), ("theorem", 2), ("figure", 3)]:
        assert [n for n in names if n.startswith(kind)] == [f"{kind} {k + 1}" for k in range(last)]
    ones = {"corollary 1", "definition 1", "algorithm 1", "remark 1", "table 1"}
    assert ones <= set(names)
    assert len(names) == 38 + 14 + len(ones)


def test_chapter_link_links_only_to_what_the_book_has():
    assert ledger.chapter_link("02-1-change-of-basis") == "[2.1](02-1-change-of-basis.ipynb)"
    assert ledger.chapter_link("errata") == "[errata](errata.ipynb)"
    assert ledger.chapter_link("02-1-change") == "2.1"


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("2^{1−r} and 2^r/(r−1)!", "2<sup>1−r</sup> and 2<sup>r</sup>/(r−1)!"),
        ("A^[1], ∇_u L, e_{j−1}", "A<sup>[1]</sup>, ∇<sub>u</sub> L, e<sub>j−1</sub>"),
        ("(∂ₓ)^−r, |x|", "(∂ₓ)<sup>−r</sup>, \\|x\\|"),
    ],
)
def test_typeset_raises_and_lowers(text, markdown):
    assert ledger.typeset(text) == markdown


def test_ordered_claims_puts_what_is_new_at_the_end_of_its_chapter(folder):
    own = {"source": "not in the paper", "verdict": "measured"}
    entries = [("a", {"source": "Table 2"}), ("b", own), ("c", {"source": "Section 5.1"})]
    write(folder / "05-1-z.json", *({**ENTRY, "id": i, **new} for i, new in entries))
    ordered = ledger.ordered_claims()
    assert [ledger.section(entry) for entry in ordered][1:3] == ["Section 2.2", "Section 5.1"]
    found = [(entry["id"], entry["chapter"]) for entry in ordered]
    assert found == [
        *[("slope", "02-2-x"), ("error", "02-2-x")],
        *[("c", "05-1-z"), ("a", "05-1-z"), ("b", "05-1-z")],
    ]


def test_claim_outside_the_repository_is_compared_with_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "CLAIMS", tmp_path / "none")
    ledger.claim("slope", measured=1e9)
    assert ledger.load_claims() == {}


# The ledger of the book itself.


def claimed(path):
    """Return the ids that a chapter passes to claim(), and all strings in the cells that do."""
    ids, strings = set(), set()
    for cell in nbformat.read(path, as_version=4).cells:
        tree = ast.parse(cell.source if cell.cell_type == "code" else "")
        nodes = list(ast.walk(tree))
        calls = [n for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func) == "claim"]
        if calls:
            strings |= {n.value for n in nodes if isinstance(n, ast.Constant)}
            ids |= {c.args[0].value for c in calls if isinstance(c.args[0], ast.Constant)}
    return ids, strings


BOOK_CLAIMS = ledger.load_claims(ROOT / "book" / "claims")


@pytest.mark.parametrize("chapter", sorted(path.stem for path in ROOT.glob("book/*.ipynb")))
def test_chapter_and_ledger_agree(chapter):
    ids, strings = claimed(ROOT / "book" / f"{chapter}.ipynb")
    listed = {entry["id"] for entry in BOOK_CLAIMS.get(chapter, [])}
    assert ids <= listed, "the chapter measures a claim that its file lacks"
    assert listed <= strings, "the file has a claim that its chapter does not measure"


@pytest.mark.parametrize(
    "entry", [e for es in BOOK_CLAIMS.values() for e in es], ids=lambda e: e["id"]
)
def test_experiments_of_the_paper_have_a_criterion(entry):
    """The experiments are section 5 up to the theory of the appendices, and Figure 9."""
    if ledger.author(entry) == "the paper" and entry["verdict"] != "corrected":
        at = ledger.place(entry["source"])
        numbers = ledger.PLACES["section 5"] <= at < ledger.PLACES["appendix a"] or at >= 42
        assert "criterion" in entry or not numbers


@pytest.mark.parametrize("chapter", BOOK_CLAIMS)
def test_ledger_entry_has_a_chapter_and_a_place(chapter):
    assert (ROOT / "book" / f"{chapter}.ipynb").exists()
    assert ledger.ordered_claims(ROOT / "book" / "claims")


@pytest.mark.parametrize("name", ledger.numbered())
def test_every_numbered_statement_of_the_theory_has_an_entry(name):
    assert any(name in ledger.treated(entry) for es in BOOK_CLAIMS.values() for entry in es)


@pytest.mark.parametrize("test", sorted({e["test"] for es in BOOK_CLAIMS.values() for e in es}))
def test_ledger_entry_is_guarded_by_a_test(test):
    path, name = test.split("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert name.startswith("test_")
    assert name in functions
