"""The committed records: complete, current, and saying what the book says of them."""

import json
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from kanlib.paper.experiments import EXPERIMENTS
from kanlib.paper.records import find_run, load_record, runs_of
from kanlib.paper.runner import run_and_record

ROOT = Path(__file__).resolve().parents[2]
CASES = EXPERIMENTS["regression"].cases
SEEDS = EXPERIMENTS["regression"].seeds


@pytest.fixture(scope="module")
def record():
    return load_record(ROOT / "book" / "results" / "regression.json", "regression")


@pytest.fixture(scope="module")
def losses(record):
    return {case: [r.metrics["train_mse"] for r in runs_of(record, case)] for case in CASES}


@pytest.fixture(scope="module")
def mean(losses):
    return {case: statistics.mean(values) for case, values in losses.items()}


def level_losses(record, case):
    return np.array([[level.loss for level in r.levels] for r in runs_of(record, case)])


def test_record_holds_every_case_with_every_seed_and_nothing_else(record):
    found = [(run.case, run.seed) for run in record.runs]
    assert sorted(found) == sorted((case, seed) for case in CASES for seed in SEEDS)


@pytest.mark.parametrize("case", CASES)
def test_record_was_made_with_the_settings_of_today(record, case):
    today = json.loads(json.dumps(asdict(CASES[case])))
    for run in runs_of(record, case):
        assert run.status == "completed"
        assert run.config["quick"] is False
        assert {key: run.config[key] for key in ("network", "epochs", "mlp", "tight")} == {
            key: today[key] for key in ("network", "epochs", "mlp", "tight")
        }


def test_record_does_equal_work_in_the_rows_of_table_2(record):
    for case, details in CASES.items():
        if details.paper:
            for run in runs_of(record, case):
                assert sum(level.work for level in run.levels) == 128.0


def test_record_keeps_the_loss_at_every_refinement(record):
    for run in record.runs:
        history = run.history
        for i in range(1, len(history.loss)):
            if history.level[i] != history.level[i - 1]:
                assert history.loss[i] == pytest.approx(history.loss[i - 1], rel=1e-5)


def test_table_2_spline_multilevel_is_within_the_papers_spread(mean):
    assert mean["spline-multilevel"] <= 3.67e-5 + 7.19e-5
    assert mean["spline-fine"] >= 10 * mean["spline-multilevel"]
    assert mean["spline-coarse"] > mean["spline-multilevel"]


def test_table_2_relu_refinement_gains_nothing(record):
    for case in ("relu-multilevel", "relu-ownstart-multilevel"):
        per_level = level_losses(record, case)
        assert np.median(per_level[:, 0] / per_level[:, -1]) < 1.1


@pytest.mark.parametrize("case", [case for case, details in CASES.items() if details.paper])
def test_table_2_rows_within_a_factor_of_two(mean, case):
    """But for four: two end lower here, two higher."""
    ratio = mean[case] / CASES[case].paper["mean"]
    lower, higher = {"spline-coarse", "relu-fine"}, {"mlp-30", "mlp-20-20"}
    assert ("lower" if ratio < 0.5 else "higher" if ratio > 2 else "within") == (
        "lower" if case in lower else "higher" if case in higher else "within"
    )


def test_table_2_relu_fine_fails(mean):
    assert mean["relu-fine"] > 10 * mean["relu-coarse"]


def test_table_2_mlps_are_within_the_papers_order_of_magnitude(mean):
    for case, details in CASES.items():
        if details.mlp:
            assert 0.1 < mean[case] / details.paper["mean"] < 10


def test_figure_4_shows_stairs_in_the_spline_basis_only(record):
    spline, relu = (level_losses(record, f"{b}-multilevel") for b in ("spline", "relu"))
    assert np.median(spline[:, 0] / spline[:, -1]) > 10
    assert np.median(relu[:, 0] / relu[:, -1]) < 1.1


def test_controls_reach_1e_5_at_equal_work(mean):
    assert min(mean["spline-fine-scale0.01"], mean["spline-multilevel-scale0.01"]) <= 1e-5


def test_record_is_recreated_by_a_run_of_today(record, tmp_path):
    """One full-scale run: the same loss to a factor of two (L-BFGS amplifies rounding)."""
    case, seed = "spline-fine-scale0.01", 1235
    (run,) = run_and_record("regression", [case], [seed], tmp_path / "again.json")
    recorded = find_run(record, case, seed)
    assert run.history.loss[0] == pytest.approx(recorded.history.loss[0], rel=1e-6)
    assert 0.5 < run.metrics["train_mse"] / recorded.metrics["train_mse"] < 2
    assert run.levels[0].work == recorded.levels[0].work


def test_readme_shows_what_the_record_says():
    check = [sys.executable, ROOT / "scripts" / "readme.py", "check"]
    result = subprocess.run(check, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
