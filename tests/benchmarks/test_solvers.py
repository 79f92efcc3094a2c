"""The comparison with other solvers: a clock that is fair, and a record that the chapter cites."""

import json
import math
import time
from pathlib import Path

import pytest
import torch

from benchmarks import solvers
from kanlib import MLP
from kanlib.paper.problems.burgers import Burgers
from kanlib.paper.problems.poisson import Poisson

RECORD = json.loads(
    (Path(__file__).parents[2] / "book" / "results" / "solvers.json").read_text(encoding="utf-8")
)


def busy(seconds):
    """Keep the processor busy."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_clock_stands_still_while_the_error_is_measured():
    def error():
        busy(0.2)
        return 1.0

    clock = solvers.Clock(error, limit=4.0)
    assert clock.goes_on()
    busy(0.12)  # a fortieth of the limit has passed
    assert clock.goes_on()
    assert len(clock.curve) == 2
    assert 0.1 < clock.spent < 0.2


def test_clock_counts_work_and_not_waiting():
    clock = solvers.Clock(lambda: 1.0, limit=1.0)
    time.sleep(0.3)
    clock.measure()
    assert clock.spent < 0.1


def test_kanlib_is_timed_by_the_same_clock(monkeypatch):
    monkeypatch.setitem(solvers.EXPERIMENTS, "poisson", Quick(solvers.EXPERIMENTS["poisson"]))
    curve = solvers.kanlib("poisson", "spline-multilevel", 0.0)
    seconds = [s for s, _ in curve]
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] < 60
    assert curve[0][1] == pytest.approx(1.0, abs=0.2)  # nothing is learnt yet
    assert all(math.isfinite(error) for _, error in curve)


class Quick:
    """An experiment in its quick version."""

    def __init__(self, experiment):
        self.cases, self.experiment = experiment.cases, experiment

    def execute(self, case, seed, **options):
        """Run a case."""
        return self.experiment.execute(case, seed, quick=True, **options)


@pytest.mark.parametrize("problem", solvers.SOLVERS)
def test_record_has_every_solver(problem):
    curves = RECORD["curves"][problem]
    assert curves.keys() == solvers.SOLVERS[problem].keys()
    for curve in curves.values():
        seconds = [s for s, _ in curve]
        assert seconds == sorted(seconds)
        assert seconds[-1] > 20


def test_record_says_what_the_chapter_says():
    def best(problem, name):
        return min(error for _, error in RECORD["curves"][problem][name])

    def until(problem, name, goal):
        return next(s for s, error in RECORD["curves"][problem][name] if error < goal)

    ours = until("poisson", "kanlib, multilevel", 1e-2)
    assert 2 * ours < until("poisson", "DeepXDE", 1e-2)
    assert best("burgers", "DeepXDE") < best("burgers", "kanlib, order 6, L-BFGS")
    assert best("burgers", "kanlib, multilevel") > 3e-2
    assert min(best(problem, "PINA's KAN") for problem in solvers.SOLVERS) > 5e-2


@pytest.mark.parametrize(
    ("problem", "loss", "inputs"),
    [(Burgers(9, 7), solvers._burgers_loss, 2), (Poisson(10), solvers._loss, 3)],
)
def test_losses_by_double_backward_are_those_of_the_problems(problem, loss, inputs):
    torch.manual_seed(0)
    model = MLP([inputs, 7, 1], "tanh").double()
    torch.testing.assert_close(loss(model, problem), problem.loss()(model))
