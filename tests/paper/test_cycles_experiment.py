"""The experiment on cycles: its cases start and spend alike, and its record says what it is."""

from pathlib import Path

import pytest
import torch
from full_scale import check_full_scale

from kanlib import KAN, Additive, Cycle, GaussNewton
from kanlib.paper.experiments import EXPERIMENTS, allen_cahn, burgers, cycles, poisson
from kanlib.paper.experiments import regression as regression_experiment
from kanlib.paper.records import load_record, runs_of
from kanlib.training.cycles import visits

EXPERIMENT = EXPERIMENTS["cycles"]
RECORD = Path(__file__).parents[2] / "book" / "results" / "cycles.json"
QUICK = [
    *(f"regression-lbfgs-{way}" for way in ("levels", "full", "V", "W", "fas", "additive")),
    *("poisson-adam-V", "burgers-lbfgs-additive", "allen-cahn-lbfgs-full"),
    *("poisson-gauss-newton-W", "regression-gauss-newton-full"),
]


@pytest.mark.parametrize("name", QUICK)
def test_quick_case_runs(name, monkeypatch):
    monkeypatch.setattr(cycles, "QUICK_DIVISOR", 1000)
    monkeypatch.setattr(cycles, "QUICK_POINTS", 60)
    case = EXPERIMENT.cases[name]
    run, metrics, _ = cycles.run_cycles(case, 1234, quick=True, progress=False)
    assert run.status == "completed"
    assert len(run.levels) == len(case.epochs)
    assert metrics["loss"] <= run.history.loss[0]
    assert run.model.n == cycles.NETWORKS[case.problem][1] << cycles.LEVELS[case.problem] - 1


def test_networks_and_problems_are_those_of_the_paper(monkeypatch):
    papers = {
        "poisson": poisson.EXPERIMENT.cases["spline-multilevel"],
        "burgers": burgers.EXPERIMENT.cases["spline-multilevel"],
        "allen-cahn": allen_cahn.EXPERIMENT.cases["spline-multilevel"],
        "regression": regression_experiment.EXPERIMENT.cases["spline-multilevel"],
    }
    for problem, theirs in papers.items():
        ours = EXPERIMENT.cases[f"{problem}-lbfgs-levels"]
        assert ours.network == theirs.network
        assert len(ours.epochs) == len(theirs.epochs)
    assert EXPERIMENT.cases["regression-lbfgs-levels"].epochs == papers["regression"].epochs
    monkeypatch.setitem(cycles.POINTS, "allen-cahn", 50)
    sizes = {"poisson": 49 * 49, "burgers": 32 * 32, "allen-cahn": 50}
    for problem, size in sizes.items():
        _, _, x = cycles.setting(problem, 1234, None, "cpu")
        assert len(x) == size


def test_all_ways_of_a_smoother_start_from_the_same_function():
    x = torch.rand(50, 2, dtype=torch.float64)

    def start(name):
        torch.manual_seed(5)
        model = KAN(**EXPERIMENT.cases[name].network, dtype=torch.float64)
        return model.calibrate_(x)(x).detach()

    coarse = start("regression-lbfgs-levels")
    for way in ("full", "up-additive", "fine", "V", "W", "fas", "additive"):
        torch.testing.assert_close(start(f"regression-lbfgs-{way}"), coarse)
    assert float((start("regression-lbfgs-fine-small") - coarse).abs().max()) > 1e-3


def test_ways_spend_about_the_same():
    """By the evaluations of a step: 22 of 20 iterations, 6.5 of 5, both with what a cycle adds."""
    iterations = {"lbfgs": (22.0, 6.0), "adam": (1.0, 10.0)}
    for smoother, (alone, visit) in iterations.items():
        single, up, v, w, full = cycles.EPOCHS[smoother]
        budget = alone * sum(up)
        assert alone * single == pytest.approx(budget, rel=0.15)

        def spent(count, levels, kind, visit=visit):
            return count * (1 + (visit + 1) * len([*visits(levels, kind)]))

        assert spent(v, 4, "V") == pytest.approx(budget, rel=0.15)
        assert spent(w, 4, "W") == pytest.approx(budget, rel=0.15)
        parts = [spent(count, level + 1, "V") for level, count in enumerate(full)]
        assert sum(parts) == pytest.approx(budget, rel=0.2)


def test_optimizers_are_what_the_cases_say():
    def made(name):
        return cycles.optimizer_of(EXPERIMENT.cases[name])

    assert made("burgers-lbfgs-V") == Cycle(cycles.SMOOTHERS["lbfgs"][1], coarsest=5)
    assert made("poisson-adam-W").kind == "W"
    assert made("poisson-lbfgs-fas").coarse == "fas"
    assert made("poisson-gauss-newton-full").smoother == GaussNewton()
    assert made("poisson-gauss-newton-levels") == GaussNewton()
    assert made("burgers-gauss-newton-levels") == GaussNewton(solver="cg")
    assert made("burgers-gauss-newton-V").smoother == GaussNewton(solver="cg")
    assert made("allen-cahn-adam-additive") == Additive(cycles.SMOOTHERS["adam"][0])


@pytest.fixture(scope="module")
def record():
    return load_record(RECORD, "cycles")


def test_record_is_at_full_scale_with_three_seeds_at_least(record):
    for name in {run.case for run in record.runs}:
        runs = runs_of(record, name)
        seeds = EXPERIMENT.seeds[: len(runs)]
        assert len(runs) >= 3
        if "gauss-newton" not in name:
            check_full_scale(runs, EXPERIMENT.cases[name], seeds)
        assert [run.seed for run in runs] == [*seeds]
        assert {run.status for run in runs} <= {"completed", "diverged"}


def test_record_spends_alike(record):
    """Evaluations of all ways of a smoother but Gauss-Newton, whose steps may be tried again.

    The full approximation scheme needs the gradient on both grids, and so half as many again;
    W-cycles of Burgers' three levels visit fewer grids, and have half as many.
    """
    recorded = {run.case for run in record.runs}
    for problem in cycles.NETWORKS:
        for smoother in ("lbfgs", "adam"):
            names = [n for n in recorded if n.startswith(f"{problem}-{smoother}-")]
            spent = {n: [r.history.evaluations[-1] for r in runs_of(record, n)] for n in names}
            more = spent.pop(f"{problem}-{smoother}-fas", [])
            fewer = spent.pop("burgers-lbfgs-W", [])
            counts = [count for each in spent.values() for count in each]
            assert not counts or max(counts) < 1.8 * min(counts), spent
            assert not more or max(more) < 1.8 * max(counts), more
            assert not fewer or min(fewer) > 0.4 * max(counts), fewer
