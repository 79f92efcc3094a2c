"""The committed record of the Poisson problem: complete, and as the chapter says."""

import statistics
from pathlib import Path

import numpy as np
import pytest
import torch

from kanlib.experiments import EXPERIMENTS, pdes
from kanlib.problems.poisson import Poisson
from kanlib.records import load_record, runs_of

EXPERIMENT = EXPERIMENTS["poisson"]
RECORD = load_record(Path(__file__).parents[1] / "book" / "results" / "poisson.json", "poisson")


def errors(case):
    return [run["metrics"]["error"] for run in runs_of(RECORD, case)]


def levels(case):
    rows = [[level["error"] for level in run["levels"]] for run in runs_of(RECORD, case)]
    return np.median(rows, axis=0)


MAIN = [
    f"{basis}-multilevel{setting}" for basis in ("spline", "relu") for setting in ("", "-printed")
]


@pytest.mark.parametrize("case", EXPERIMENT.cases)
def test_record_is_at_full_scale_with_every_seed_of_the_main_rows(case):
    runs = runs_of(RECORD, case)
    seeds = [run["seed"] for run in runs]
    assert seeds == list(EXPERIMENT.seeds) if case in MAIN else EXPERIMENT.seeds[0] in seeds
    for run in runs:
        assert run["config"]["quick"] is False
        assert tuple(level["steps"] for level in run["levels"]) == EXPERIMENT.cases[case].epochs


def test_spline_error_falls_at_every_level():
    assert (np.diff(levels("spline-multilevel")) < 0).all()


def test_spline_solves_the_problem():
    assert statistics.median(errors("spline-multilevel")) < 1e-2


def test_mlp_ends_above_the_spline():
    ours = statistics.median(errors("spline-multilevel"))
    assert statistics.median(errors("mlp-printed")) > 3 * ours
    assert statistics.median(errors("mlp")) > 3 * ours


def test_relu_basis_stagnates():
    assert min(errors("relu-multilevel")) > 0.5


def test_controls_are_complete():
    work = EXPERIMENT.cases["spline-multilevel"].epochs
    total = sum(e * 2**k for k, e in enumerate(work))
    for start in ("", "-scale0.01", "-prolonged"):
        for kind, expected in (("", total), ("-epochs", 8 * sum(work))):
            for run in runs_of(RECORD, f"spline-fine{start}{kind}"):
                assert sum(v["work"] for v in run["levels"]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("case", ["spline-multilevel", "relu-multilevel"])
def test_kept_weights_have_the_recorded_error(case):
    problem = Poisson()
    run = next(run for run in runs_of(RECORD, case) if "solutions" in run)
    for level, weights in run["solutions"].items():
        model = pdes.restored(EXPERIMENT.cases[case], int(level), weights)
        with torch.no_grad():
            error = problem.error(model)
        assert error == pytest.approx(run["levels"][int(level)]["error"], rel=1e-3)
