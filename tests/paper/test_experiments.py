"""The cases of the paper: its numbers, their sizes, schedules, starts and metrics."""

import numpy as np
import pytest
import torch

from kanlib.paper.experiments import EXPERIMENTS, cases, find_case, find_experiment
from kanlib.paper.experiments import regression as experiments
from kanlib.paper.problems.regression import regression

REGRESSION = EXPERIMENTS["regression"]
#: Table 2 of the paper: parameters, mean and standard deviation of the mean squared error.
TABLE_2 = {
    "relu-coarse": (55, 1.10e-2, 8.32e-3),
    "relu-fine": (230, 1.35e0, 1.50e-1),
    "relu-multilevel": (230, 1.06e-2, 8.03e-3),
    "spline-coarse": (55, 1.65e-3, 4.18e-5),
    "spline-fine": (230, 2.54e-3, 5.64e-3),
    "spline-multilevel": (230, 3.67e-5, 7.19e-5),
    "mlp-5": (20, 2.94e-2, 1.60e-2),
    "mlp-30": (120, 1.02e-3, 9.42e-4),
    "mlp-20-20": (500, 3.33e-4, 2.92e-4),
}
#: A fine epoch costs 8 coarse ones.
TABLE_2_EPOCHS = {"coarse": (128,), "fine": (16,), "multilevel": (32, 16, 8, 4)}


@pytest.fixture
def small(monkeypatch):
    """Make quick runs tiny: 60 points, one epoch on each level."""
    monkeypatch.setattr(experiments, "QUICK_POINTS", 60)
    monkeypatch.setattr(experiments, "QUICK_DIVISOR", 1000)


def executed(name, seed=1):
    case = find_case("regression", name)
    run, metrics, solutions = REGRESSION.execute(case, seed, quick=True, progress=False)
    assert solutions == {}
    return run, metrics


def test_cases_have_the_values_of_table_2():
    assert {name for name, case in REGRESSION.cases.items() if case.paper} == set(TABLE_2)
    for name, (_, mean, stdev) in TABLE_2.items():
        assert find_case("regression", name).paper == {"mean": mean, "stdev": stdev}
    assert REGRESSION.source == "Table 2"
    assert REGRESSION.seeds == (1234, 1235, 1236, 1237, 1238)


@pytest.mark.parametrize("name", TABLE_2)
def test_cases_have_the_schedules_of_table_2(name):
    case = find_case("regression", name)
    basis, kind = name.split("-")[0], name.split("-")[-1]
    assert case.epochs == ((128,) if basis == "mlp" else TABLE_2_EPOCHS[kind])
    assert case.network["widths"] == {
        "mlp-5": [2, 5, 1],
        "mlp-30": [2, 30, 1],
        "mlp-20-20": [2, 20, 20, 1],
    }.get(name, [2, 5, 1])
    if basis != "mlp":
        assert case.network["n"] == (40 if kind == "fine" else 5)
        assert case.network.get("basis", "spline") == basis


def test_cases_do_equal_work_unless_their_name_says_otherwise():
    for name, case in REGRESSION.cases.items():
        work = sum(e * 2 ** (case.start_level + k) for k, e in enumerate(case.epochs))
        assert work == (60 * 8 if "epochs60" in name else 128), name


def parameters(name, case):
    """Return the number of parameters on the last level, counted by hand."""
    if name in TABLE_2:
        return TABLE_2[name][0]
    n = case.network["n"] * 2 ** (len(case.epochs) - 1)
    return 15 * (n + 3) if name.startswith("fullspline") else 15 + 5 * (n + 3)


@pytest.mark.parametrize("name", REGRESSION.cases)
def test_case_runs_and_has_the_right_size(name, small):
    case = find_case("regression", name)
    run, metrics = executed(name)
    assert run.status == "completed"
    assert run.levels[-1].num_parameters == parameters(name, case)
    assert [level.n for level in run.levels] == [
        case.network["n"] * 2**k if "n" in case.network else None for k in range(len(case.epochs))
    ]
    cost = 2**case.start_level
    assert [level.work for level in run.levels] == [cost * 2**k for k in range(len(case.epochs))]
    assert run.loss < run.history.loss[0]
    assert metrics.keys() == {"train_mse", "test_mse"}


def test_smooth_starts_are_the_start_of_the_coarse_network(small):
    smooth = ["spline-multilevel", "spline-fine-prolonged", "relu-samestart-coarse"]
    start = executed("spline-coarse")[0].history.loss[0]
    for name in smooth:
        assert executed(name)[0].history.loss[0] == pytest.approx(start, rel=1e-9)
    assert executed("spline-fine")[0].history.loss[0] != pytest.approx(start, rel=1e-3)


@pytest.mark.parametrize("name", ["spline-coarse", "relu-fine"])
def test_hidden_coordinates_start_by_covering_the_domain(name, small, monkeypatch):
    seen = []
    monkeypatch.setattr(cases, "train", lambda model, *_, **__: seen.append(model) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        executed(name, seed=3)
    hidden = seen[0].layers[0](regression(3, 60, 60).x).detach()
    np.testing.assert_allclose(hidden.min(dim=0).values, np.zeros(5), atol=1e-12)
    np.testing.assert_allclose(hidden.max(dim=0).values, np.ones(5), rtol=1e-12)


def test_metrics_are_errors_on_training_and_test_set(small):
    run, metrics = executed("spline-coarse", seed=3)
    data = regression(3, 60, 60)
    for name, x, y in (("train_mse", data.x, data.y), ("test_mse", data.x_test, data.y_test)):
        error = run.model(x).detach().numpy() - y.numpy()
        assert metrics[name] == pytest.approx(np.mean(error**2), rel=1e-12)


def test_full_runs_use_the_points_and_epochs_of_the_paper(monkeypatch):
    seen = {}

    def sizes(seed, points, test, **_):
        seen["points"] = (points, test)
        return regression(seed, 20, 20)

    def epochs(model, objective, schedule, **_):
        seen["epochs"] = schedule.epochs
        raise ZeroDivisionError

    monkeypatch.setattr(experiments, "regression", sizes)
    monkeypatch.setattr(cases, "train_multilevel", epochs)
    case = find_case("regression", "spline-multilevel")
    for quick, expected in ((False, (20_000, (32, 16, 8, 4))), (True, (2000, (8, 4, 2, 1)))):
        with pytest.raises(ZeroDivisionError):
            REGRESSION.execute(case, 1, quick=quick)
        assert (seen["points"], seen["epochs"]) == ((expected[0],) * 2, expected[1])


def test_tight_cases_let_lbfgs_go_below_the_default_tolerances(small, monkeypatch):
    made = []
    monkeypatch.setattr(
        experiments, "paper_lbfgs", lambda p, **o: made.append(o) or torch.optim.LBFGS(p, **o)
    )
    for name in ("spline-coarse", "spline-coarse-tight"):
        executed(name)
    assert made == [{}, {"tolerance_grad": 1e-14, "tolerance_change": 1e-16}]


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"experiment must be one of \[.*'regression'.*got 'no'"):
        find_experiment("no")
    with pytest.raises(ValueError, match=r"case of regression must be one of .*mlp-5.*got 'no'"):
        find_case("regression", "no")
