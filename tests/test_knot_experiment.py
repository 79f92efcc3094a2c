"""The experiment on places of knots: cases that compare like with like, and what they record."""

import math
from itertools import pairwise

import pytest
import torch

from kanlib import KAN
from kanlib.experiments import EXPERIMENTS, knots

EXPERIMENT = EXPERIMENTS["knots"]


def test_target_has_the_values_known_by_hand():
    places = [0.0, knots.CENTRE, knots.CENTRE + knots.WIDTH, 1.0]
    x = torch.tensor(places, dtype=torch.float64)[:, None]
    wave = [0.5 * math.sin(2 * math.pi * float(point)) for point in x]
    expected = [wave[0] - 0.5, wave[1], wave[2] + 0.5 * math.tanh(1.0), wave[3] + 0.5]
    assert knots.steep_layer(x)[:, 0].tolist() == pytest.approx(expected, abs=1e-12)


def test_cases_of_a_target_end_with_the_same_intervals_and_do_as_many_epochs():
    n = {"kinks": 40, "layer": 32, "burgers": 20}
    epochs = {"kinks": 60, "layer": 60, "burgers": 1400}
    for name, case in EXPERIMENT.cases.items():
        factor = 2 if "double" in name else 1
        assert case.network["n"] * 2 ** (len(case.epochs) - 1) == factor * n[case.target]
        assert sum(case.epochs) == epochs[case.target]
        assert len(case.epochs) - 1 + case.start_level == len(knots.LEVELS[case.target]) - 1


@pytest.mark.parametrize("target", ["kinks", "layer"])
def test_twice_the_uniform_knots_have_the_parameters_of_free_ones(target):
    """[2, 5, 1] with n = 80: 15 + 5 * 83, and with n = 40 and knots 15 + 5 * (43 + 40)."""
    counts = []
    for kind, n in (("double", 16), ("free", 8)):
        case = EXPERIMENT.cases[f"{target}-{kind}-multilevel"]
        model = KAN(**{**case.network, "n": case.network["n"] // (n // 8) * n})
        counts.append((model.free("input") if case.free else model).num_parameters)
    assert counts[0] == counts[1] == (430 if target == "kinks" else 67)


@pytest.mark.parametrize("name", EXPERIMENT.cases)
def test_case_runs_and_returns_its_breakpoints(name, monkeypatch):
    case = EXPERIMENT.cases[name]
    monkeypatch.setattr(knots, "QUICK_DIVISOR", 800 if case.target == "burgers" else 32)
    monkeypatch.setattr(knots, "POINTS", {"kinks": 3200, "layer": 3200})
    run, metrics, solutions = knots.run_knots(case, 1, quick=True, progress=False)
    assert run.status == "completed"
    assert metrics.keys() == EXPERIMENT.labels.keys()
    ((level, rows),) = solutions.items()
    assert level == len(case.epochs) - 1
    assert len(rows) == case.network["widths"][-2]
    *_, last = run.model.spline_layers
    a, b = last.domain
    for row in rows:
        assert row == sorted(row)
        assert (row[0], row[-1]) == (a, b)
        assert len(row) == run.model.n + 1
    uniform = all(abs(t - s - (b - a) / run.model.n) < 1e-9 for s, t in pairwise(row))
    assert uniform is not (case.adaptive or case.free is not None)
