"""What the record of second-order training says, as the chapters tell it."""

import json
import statistics

import pytest

from kanlib.paper.comparison import compare_cases, figures_of
from kanlib.paper.experiments import EXPERIMENTS
from kanlib.paper.records import RESULTS, load_record, runs_of

EXPERIMENT = EXPERIMENTS["second-order"]


@pytest.fixture(scope="module")
def record():
    """The stored record."""
    return load_record(RESULTS / "second-order.json", "second-order")


def test_runs_are_those_of_the_cases(record):
    for run in record.runs:
        case = EXPERIMENT.cases[run.case]
        assert run.seed in EXPERIMENT.seeds
        assert run.status == "completed"
        assert run.config["network"] == json.loads(json.dumps(case.network))
        assert run.config["points"] == [*case.points]
        assert run.config["starts"] == case.starts
        assert not run.config["quick"]


def test_regression_race_is_better_than_every_control(record):
    for way in ("levels", "fine-small", "fine-prolonged", "fine-race"):
        case = f"regression-{way}"
        assert [run.seed for run in runs_of(record, case)] == [*EXPERIMENT.seeds]
        assert compare_cases(record, case, "regression-race", "error").verdict == "larger"


def test_regression_race_is_a_hundred_times_below_the_paper(record):
    printed = EXPERIMENTS["regression"].cases["spline-multilevel"].paper["mean"]
    assert statistics.mean(figures_of(record, "regression-race", "error")) < printed / 100


def test_one_start_over_the_levels_can_end_worse_than_first_order_training(record):
    first = load_record(RESULTS / "regression.json", "regression")
    worst = max(figures_of(record, "regression-levels", "error"))
    assert worst > statistics.median(figures_of(first, "spline-multilevel-tight", "test_mse"))


@pytest.mark.parametrize("problem", ["poisson", "burgers"])
def test_race_is_a_hundred_times_below_all_other_trainings(record, problem):
    first = load_record(RESULTS / f"{problem}.json", problem)
    best = min(run.metrics["error"] or 1.0 for run in first.runs)
    assert statistics.median(figures_of(record, f"{problem}-race", "error")) < best / 100
