"""The committed record of the Allen-Cahn equation, as the chapter says."""

import statistics
from pathlib import Path

import numpy as np
import torch

from kanlib.nn.jets import Jet, propagate
from kanlib.paper.experiments import EXPERIMENTS, pdes
from kanlib.paper.problems.allen_cahn import AllenCahn, volume_residual
from kanlib.paper.records import load_record, runs_of

EXPERIMENT = EXPERIMENTS["allen-cahn"]
RECORD = load_record(Path(__file__).parents[2] / "book/results/allen-cahn.json", "allen-cahn")


def errors(case):
    return [run.metrics["error"] for run in runs_of(RECORD, case)]


def residual(case, level):
    run = next(run for run in runs_of(RECORD, case) if run.solutions)
    model = pdes.restored(EXPERIMENT.cases[case], level, run.solutions[level])
    side = torch.linspace(-1, 1, 64, dtype=torch.float64)
    points = torch.cartesian_prod(side, (side + 1) / 2)
    jet = Jet.at(points, pairs=[(0, 0)], features=AllenCahn(points=1).inputs)
    with torch.no_grad():
        return float(volume_residual(propagate(model, jet)).norm())


def test_spline_finds_the_solution():
    levels = [[v.error for v in run.levels] for run in runs_of(RECORD, "spline-multilevel")]
    assert (np.diff(np.median(levels, axis=0)) < 0).all()
    assert statistics.median(errors("spline-multilevel")) < 0.1


def test_relu_and_mlp_do_not():
    assert min(errors("relu-multilevel") + errors("mlp")) > 0.3


def test_text_and_table_both_lead_to_the_solution():
    """Their learning rates and numbers of points differ; with the printed sign it is not found."""
    for setting in ("lr1e-3", "grid"):
        assert max(errors(f"spline-multilevel-{setting}")) < 0.1
    assert min(errors("spline-multilevel-printed-sign")) > 0.5


def test_levels_gain_more_than_the_coarse_grid_alone():
    assert min(errors("spline-coarse")) > 2 * statistics.median(errors("spline-multilevel"))


def test_residual_falls_in_the_spline_basis():
    spline, relu = (
        residual(case, 0) / residual(case, 3) for case in ("spline-multilevel", "relu-multilevel")
    )
    assert spline > 3 * relu


def test_no_start_saves_the_fine_network():
    ours = statistics.median(errors("spline-multilevel"))
    for start in ("", "-prolonged", "-scale0.01"):
        assert statistics.median(errors(f"spline-fine{start}-epochs")) > 5 * ours
