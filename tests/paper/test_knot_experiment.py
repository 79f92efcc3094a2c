"""The experiment on places of knots: cases that compare like with like, and what they record."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from full_scale import check_full_scale

from kanlib import KAN, MeanSquaredError, train
from kanlib.paper.comparison import compare_cases
from kanlib.paper.experiments import EXPERIMENTS, knots
from kanlib.paper.problems.regression import regression
from kanlib.paper.records import load_record, runs_of

EXPERIMENT = EXPERIMENTS["knots"]
RESULTS = Path(__file__).parents[2] / "book" / "results"


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


@pytest.mark.parametrize("seed", [1234, 7])
def test_seed_of_a_run_is_that_of_its_data(seed):
    objective, _, x, _ = knots.setting("layer", seed, 10, "cpu")
    generator = torch.Generator().manual_seed(seed)
    assert torch.equal(x, torch.rand(100, 1, dtype=torch.float64, generator=generator))
    assert torch.equal(objective.x, x)
    objective, _, x, _ = knots.setting("kinks", seed, 100, "cpu")
    assert torch.equal(x, regression(seed, 40, 40).x)


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


@pytest.fixture(scope="module")
def record():
    return load_record(RESULTS / "knots.json", "knots")


@pytest.mark.parametrize("name", EXPERIMENT.cases)
def test_record_is_at_full_scale_with_every_seed(record, name):
    runs, case = runs_of(record, name), EXPERIMENT.cases[name]
    check_full_scale(runs, case, EXPERIMENT.seeds)
    model = KAN(**case.network)
    if case.free:
        model = model.free(case.free)
    assert runs[0].levels[0].num_parameters == model.num_parameters


def test_record_says_what_the_chapter_says(record):
    def over(target, theirs, ours, figure="error"):
        return compare_cases(record, f"{target}-{theirs}", f"{target}-{ours}", figure)

    uniform, free = "uniform-multilevel", "free-multilevel"
    assert over("kinks", uniform, "adaptive-multilevel").verdict == "larger"
    for other in (uniform, "double-multilevel", "free-fine"):
        assert over("kinks", other, free).verdict == "cannot tell"
    assert over("layer", uniform, free).low > 1e4
    assert over("layer", uniform, "residual-multilevel").low > 10
    assert over("layer", "free-fine", free).low > 3
    for ours in ("free-layer-multilevel", free, "adaptive-multilevel", "free-fine"):
        assert over("burgers", uniform, ours, "loss").verdict == "cannot tell"


def test_initial_grid_matters_little_to_free_knots():
    """The best of three fixed grids is far above the worst of them once its knots are free."""
    x, y, x_test, y_test = knots.data_of("layer", 1234, 500)
    s = torch.linspace(0, 1, 17, dtype=torch.float64)
    test, errors = MeanSquaredError(x_test, y_test), {"fixed": [], "free": []}
    for start in (s, s**1.5, 1 - (1 - s) ** 1.5):
        for kind, found in errors.items():
            torch.manual_seed(0)
            model = KAN([1, 1], breakpoints=start, dtype=torch.float64)
            model = model.free(floor=0.02) if kind == "free" else model
            train(model, MeanSquaredError(x, y), 40, progress=False)
            found.append(float(test(model).detach()))
    assert min(errors["fixed"]) > 100 * max(errors["free"])
