"""The experiment on ways to refine: what each way does to a network, and that all are run alike."""

import statistics
from pathlib import Path

import pytest
import torch
from full_scale import check_full_scale

from kanlib import KAN, KnotGrid
from kanlib.paper.comparison import compare_cases
from kanlib.paper.experiments import EXPERIMENTS, knots, refinement
from kanlib.paper.records import load_record, runs_of

EXPERIMENT = EXPERIMENTS["refinement"]
RESULTS = Path(__file__).parents[2] / "book" / "results"


def test_cases_of_a_target_differ_in_the_way_only():
    for case in EXPERIMENT.cases.values():
        assert case.network == knots.NETWORKS[case.target]
        assert case.epochs == knots.LEVELS[case.target]


def test_shifted_grid_shares_no_inner_breakpoint():
    grid = KnotGrid.uniform(4, 5, (-1.0, 1.0))
    fine = refinement.shifted(grid)
    assert (fine.n, fine.order, fine.domain) == (10, 4, (-1.0, 1.0))
    inner = fine.breakpoints[1:-1]
    assert (inner[:, None] - grid.breakpoints[None]).abs().min() > 0.05
    assert (fine.breakpoints.diff() > 0.1).all()


def test_samples_are_drawn_whatever_the_default_device():
    case = EXPERIMENT.cases["kinks-samples-40"]
    with torch.device("meta"):
        way = refinement.refinement(case, torch.zeros(50, 2, device="cpu"))
    assert way.keywords["x"].device.type == "cpu"


@pytest.mark.parametrize("target", refinement.TARGETS)
def test_ways_keep_the_function_that_are_said_to(target):
    _, _, x, _ = knots.setting(target, 1, 1, "cpu")
    torch.manual_seed(0)
    changes = {}
    for name, case in EXPERIMENT.cases.items():
        if case.target == target:
            torch.manual_seed(0)
            model = KAN(**{**case.network, "init_scale": 0.1}, dtype=torch.float64).calibrate_(x)
            fine = refinement.refinement(case, x)(model)
            assert fine.n == 2 * model.n
            with torch.no_grad():
                y, change = model(x), (fine(x) - model(x)).abs().max()
            changes[name.removeprefix(f"{target}-")] = float(change / y.std())
    for way in ("exact", "samples", "greville"):
        assert changes[way] < 1e-9, changes
    assert changes["shifted"] > 1e-3
    assert changes["resample"] > 1e-2


@pytest.mark.parametrize("name", EXPERIMENT.cases)
def test_case_runs_and_reports_both_sides_of_each_switch(name, monkeypatch):
    case = EXPERIMENT.cases[name]
    monkeypatch.setattr(knots, "QUICK_DIVISOR", 800 if case.target == "burgers" else 32)
    monkeypatch.setattr(knots, "POINTS", {"kinks": 3200})
    run, metrics, _ = refinement.run_refinement(case, 1, quick=True, progress=False)
    assert run.status == "completed"
    assert metrics.keys() == EXPERIMENT.labels.keys()
    assert len(run.history.metrics) == 2 * len(case.epochs)


@pytest.mark.parametrize("name", ["kinks-exact", "burgers-exact"])
def test_each_seed_has_its_own_start(name, monkeypatch):
    monkeypatch.setattr(knots, "QUICK_DIVISOR", 800)
    monkeypatch.setattr(knots, "POINTS", {"kinks": 3200})

    def start(seed):
        case = EXPERIMENT.cases[name]
        run, *_ = refinement.run_refinement(case, seed, quick=True, progress=False)
        return run.history.loss[0]

    assert start(1) == start(1)
    assert start(1) != start(2)


@pytest.fixture(scope="module")
def record():
    return load_record(RESULTS / "refinement.json", "refinement")


@pytest.mark.parametrize("name", EXPERIMENT.cases)
def test_record_is_at_full_scale_with_every_seed(record, name):
    check_full_scale(runs_of(record, name), EXPERIMENT.cases[name], EXPERIMENT.seeds)


def test_record_says_what_the_chapter_says(record):
    def verdict(way, target="kinks", figure="loss"):
        return compare_cases(record, f"{target}-{way}", f"{target}-exact", figure).verdict

    def jump(way):
        """The factor by which the last switch changes the error, median."""
        found = [[e for *_, e in r.history.errors] for r in runs_of(record, f"kinks-{way}")]
        return statistics.median(errors[-2] / errors[-3] for errors in found)

    for way in ("exact", "samples", "greville"):
        assert jump(way) == pytest.approx(1.0, rel=1e-6)
    assert jump("resample") > 100
    assert jump("samples-40") > 100
    for way in ("samples", "greville", "resample", "shifted"):  # training repairs a switch
        assert verdict(way) == verdict(way, "burgers") == "cannot tell"
    assert verdict("samples-40") == "larger"
    for way in ("samples-40", "samples-100"):
        assert verdict(way, "burgers") == verdict(way, "burgers", "error") == "larger"
