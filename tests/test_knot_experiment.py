"""The experiment on places of knots: cases that compare like with like, and what they record."""

import math
from itertools import pairwise

import pytest
import torch

from kanlib.experiments import EXPERIMENTS, knots

EXPERIMENT = EXPERIMENTS["knots"]


def test_target_has_the_values_known_by_hand():
    places = [0.0, knots.CENTRE, knots.CENTRE + knots.WIDTH, 1.0]
    x = torch.tensor(places, dtype=torch.float64)[:, None]
    wave = [0.5 * math.sin(2 * math.pi * float(point)) for point in x]
    expected = [wave[0] - 0.5, wave[1], wave[2] + 0.5 * math.tanh(1.0), wave[3] + 0.5]
    assert knots.steep_layer(x)[:, 0].tolist() == pytest.approx(expected, abs=1e-12)


def test_cases_of_a_target_end_with_the_same_intervals_and_do_as_many_epochs():
    for case in EXPERIMENT.cases.values():
        assert case.network["n"] * 2 ** (len(case.epochs) - 1) == 8 * (
            5 if case.target == "kinks" else 4
        )
        assert sum(case.epochs) == 60
        assert len(case.epochs) - 1 + case.start_level == 3


@pytest.mark.parametrize("name", EXPERIMENT.cases)
def test_case_runs_and_returns_its_breakpoints(name, monkeypatch):
    monkeypatch.setattr(knots, "QUICK_DIVISOR", 32)
    monkeypatch.setattr(knots, "POINTS", {"kinks": 3200, "layer": 3200})
    case = EXPERIMENT.cases[name]
    run, metrics, solutions = knots.run_knots(case, 1, quick=True, progress=False)
    assert run.status == "completed"
    assert metrics.keys() == EXPERIMENT.labels.keys()
    ((level, rows),) = solutions.items()
    assert level == len(case.epochs) - 1
    assert len(rows) == (5 if case.target == "kinks" else 1)
    for row in rows:
        assert row == sorted(row)
        assert len(row) == run.model.n + 1 == (41 if case.target == "kinks" else 33)
    uniform = all(abs(b - a - 1 / run.model.n) < 1e-9 for a, b in pairwise(row))
    assert uniform is not (case.adaptive or case.free is not None)
