"""The committed record of the Poisson problem: complete, and as the chapter says."""

import statistics
from pathlib import Path

import numpy as np
import pytest

from kanlib.paper.experiments import EXPERIMENTS
from kanlib.paper.records import load_record, runs_of

EXPERIMENT = EXPERIMENTS["poisson"]
RECORD = load_record(Path(__file__).parents[2] / "book" / "results" / "poisson.json", "poisson")


def errors(case):
    return [run.metrics["error"] for run in runs_of(RECORD, case)]


def levels(case):
    rows = [[level.error for level in run.levels] for run in runs_of(RECORD, case)]
    return np.median(rows, axis=0)


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
                assert sum(v.work for v in run.levels) == pytest.approx(expected, rel=1e-3)


def test_kinked_level_sets_are_best():
    kinked, ramp, jump, none = (
        statistics.median(errors(f"spline-multilevel{suffix}"))
        for suffix in ("", "-relu", "-step", "-none")
    )
    assert 0.2 < ramp / kinked < 5
    assert min(jump, none) > 5 * max(ramp, kinked)


def test_sums_train_no_better_than_means():
    ours = statistics.median(errors("spline-multilevel"))
    assert statistics.median(errors("spline-multilevel-summed")) > 0.5 * ours
