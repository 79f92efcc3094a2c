"""The claims ledger, on a ledger of its own."""

import json

import pytest

from book import ledger

ENTRY = {
    "id": "slope",
    "statement": "the ratio grows like n to the 2r",
    "source": "Figure 2a",
    "paper": "2",
    "verdict": "reproduced",
    "what": "fitted slope",
    "measured": 2.0,
    "test": "tests/test_spectra.py::test_x",
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
        ({k: v for k, v in ENTRY.items() if k != "test"}, "fields"),
        ({**ENTRY, "note": ""}, "note"),
        (ENTRY, "another place"),
    ],
)
def test_load_claims_names_a_faulty_entry(folder, entry, message):
    write(folder / "03-y.json", entry)
    with pytest.raises(ValueError, match=message):
        ledger.load_claims()
