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


@pytest.mark.parametrize("problem", ["burgers", "burgers-sharp"])
def test_levels_are_better_than_the_fine_level_on_burgers_equation(record, problem):
    for way in ("fine-small", "fine-prolonged"):
        found = compare_cases(record, f"{problem}-{way}", f"{problem}-levels", "error")
        assert found.verdict == "larger"


def test_races_on_half_of_the_domain_end_lower(record):
    for problem in ("burgers", "burgers-sharp", "allen-cahn"):
        whole = "allen-cahn-growth" if problem == "allen-cahn" else problem
        assert compare_cases(record, f"{whole}-race", f"{problem}-half-race", "error").low > 5
        longest = max(figures_of(record, f"{problem}-half-best", "error"))
        assert longest < min(figures_of(record, f"{whole}-race", "error")) / 10


def test_what_is_left_out_on_half_of_the_domain(record):
    stretched = "burgers-half-even-grid-race", "burgers-half-race"
    assert compare_cases(record, *stretched, "error").verdict == "cannot tell"
    corner = compare_cases(
        record, "allen-cahn-half-no-corner-race", "allen-cahn-half-race", "error"
    )
    assert corner.low > 1


def test_cycles_are_not_better_than_one_way_up(record):
    for problem in ("regression", "poisson", "burgers"):
        found = compare_cases(record, f"{problem}-levels", f"{problem}-cycles", "error")
        assert found.level >= 0.9
        assert found.verdict != "larger"
