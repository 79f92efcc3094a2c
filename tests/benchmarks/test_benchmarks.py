"""The benchmark: it measures what it says, judges targets rightly, and writes a complete record."""

import json

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import measuring, sections, targets
from benchmarks.networks import WORKLOADS, network, points, recursion
from kanlib.nn.jets import Jet, propagate


def test_quick_run_writes_measurements_and_targets(tmp_path):
    out = tmp_path / "p.json"
    arguments = ["--quick", "--threads", "1", "--sections", "refine", "growth_r"]
    assert command.main([*arguments, "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert {m["section"] for m in record["measurements"]} == {"refine", "growth_r"}
    assert [t["id"] for t in record["targets"]] == [t.id for t in targets.TARGETS]
    assert {t["id"] for t in record["targets"] if t["cases"]} == {
        "refine",
        *(f"growth-r-{r}" for r in (3, 4, 5, 6)),
    }


def test_update_replaces_what_is_measured_again():
    old = [
        {"section": section, "case": {"threads": threads, "n": n}, "old": True}
        for section in ("growth_r", "limits")
        for threads in (1, 2)
        for n in (5, 10)
    ]
    new = [{"section": "growth_r", "case": {"threads": 2, "n": 20}, "old": False}]
    found = [(m["section"], m["case"]["threads"], m["old"]) for m in command.updated(old, new)]
    assert found.count(("growth_r", 2, False)) == 1
    assert ("growth_r", 2, True) not in found
    assert found.count(("growth_r", 1, True)) == found.count(("limits", 2, True)) == 2
    assert [name for name, *_ in found] == ["growth_r"] * 3 + ["limits"] * 4


def test_refinement_reports_how_much_the_network_changes():
    (first, *_) = sections.refine(measuring.QUICK)
    assert first["change"]["kanlib"] < 1e-4
    assert first["change"]["least squares"] > 1e-2  # fewer samples than coefficients


def test_every_target_is_about_a_section():
    assert {t.section for t in targets.TARGETS} <= {*sections.SECTIONS}


@pytest.mark.parametrize(
    ("sign", "figure", "met"),
    [("≥", 2.0, True), ("≥", 1.0, False), ("≤", 2.0, False), ("≤", 1.0, True)],
)
def test_target_is_judged_by_its_worst_case(sign, figure, met):
    target = targets.Target("x", "what", sign, 1.5, "refine", "kanlib")
    good = 9.0 if sign == "≥" else 0.1
    found = [
        {"section": "refine", "case": {}, "ratio": {"kanlib": measuring.summary([v, v])}}
        for v in (good, figure)
    ]
    row = targets.judged(target, found)
    assert (row["met"], row["worst"]["median"]) == (met, figure)


def test_memory_counts_what_a_step_allocates():
    weight = torch.ones(1000, requires_grad=True)

    def step():
        weight.exp().exp().sum().backward()

    assert 8000 <= measuring.peak_memory(step, [weight]) <= 40_000


def test_ways_compute_one_function():
    model, x = network([2, 5, 1], 5), points(50, 2)
    torch.testing.assert_close(recursion(model)(x), model(x), rtol=1e-3, atol=1e-4)
    assert propagate(model, Jet.at(x)).value.shape == (50, 1)
    assert {*WORKLOADS} == {"a", "b", "c"}


def test_committed_record_is_complete_and_judged_by_its_measurements():
    record = json.loads(command.RECORD.read_text())
    assert record["quick"] is False
    assert {m["section"] for m in record["measurements"]} == {*sections.SECTIONS}
    judged = [targets.judged(target, record["measurements"]) for target in targets.TARGETS]
    assert record["targets"] == json.loads(json.dumps(command.rounded(judged)))
    assert all(target["cases"] for target in record["targets"])
