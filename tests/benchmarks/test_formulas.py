"""The benchmark of formulas: its data, its judgement, its limit of time, and its records."""

import json
import time

import pytest
import sympy

from benchmarks.formulas import RECORDS, limited, main
from benchmarks.laws import EXACT, FORMULAS, Data


def expression(data, text):
    """Return a text as an expression of the variables of some data."""
    return sympy.sympify(text, dict(zip(data.names, data.symbols, strict=True)))


@pytest.mark.parametrize("name", FORMULAS)
def test_truth_has_no_error_and_what_is_near_has(name):
    data = Data(name, 0.0, 1)
    truth = expression(data, FORMULAS[name][0])
    assert data.error(truth, data.symbols, fresh=True) < 1e-12
    assert data.error(1.001 * truth, data.symbols, fresh=True) > EXACT


def test_noise_is_one_percent_and_not_in_what_judges():
    data = Data("II.38.3", 0.01, 1)
    truth = expression(data, "a/b")
    assert data.error(truth, data.symbols, fresh=True) < 1e-12
    assert data.error(truth, data.symbols, fresh=False) == pytest.approx(0.01, rel=0.3)


def test_limit_ends_what_takes_long_even_if_it_catches_errors():
    begin, done = time.process_time(), False
    with limited(0.2):
        while True:
            try:
                sum(range(1000))
            except Exception:  # as libraries do
                done = True
    assert 0.1 < time.process_time() - begin < 2
    assert not done


def test_run_is_recorded_and_not_repeated(tmp_path):
    out = tmp_path / "f.json"
    arguments = ["--seeds", "1234", "--only", "I.40.1", "--out", str(out)]
    main(arguments)
    content = json.loads(out.read_text())
    assert [r["noise"] for r in content["runs"]] == [0.0, 0.01]
    assert all(r["recovered"] for r in content["runs"])
    assert content["library"] == "kanlib"
    main(arguments)
    assert json.loads(out.read_text())["runs"] == content["runs"]


@pytest.mark.parametrize("library", RECORDS)
def test_formulas_of_the_record_are_what_it_says(library):
    runs = json.loads(RECORDS[library].read_text(encoding="utf-8"))["runs"]
    exact = [r for r in runs if r["recovered"] and not r["noise"]]
    assert exact
    for run in exact:
        data = Data(run["formula"], 0.0, run["seed"])
        found = expression(data, run["found"])
        assert data.error(found, data.symbols, fresh=True) < EXACT
