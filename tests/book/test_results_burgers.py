"""The committed record of Burgers' equation, as the chapter says."""

import statistics
from pathlib import Path

import torch

from kanlib.nn.jets import Jet, propagate
from kanlib.paper.experiments import EXPERIMENTS, pdes
from kanlib.paper.problems.burgers import Burgers, volume_residual
from kanlib.paper.records import load_record, runs_of

EXPERIMENT = EXPERIMENTS["burgers"]
RECORD = load_record(Path(__file__).parents[2] / "book" / "results" / "burgers.json", "burgers")


def values(case, key="loss"):
    return [run.metrics[key] for run in runs_of(RECORD, case)]


def test_multilevel_has_the_smallest_loss():
    ours = statistics.mean(values("spline-multilevel"))
    assert statistics.mean(values("spline-coarse")) > 10 * ours
    assert statistics.mean(values("spline-fine")) > 2 * ours
    assert min(statistics.mean(values(f"mlp-{width}")) for width in (20, 56)) > 100 * ours


def test_loss_does_not_tell_the_error():
    losses, errors = (
        [statistics.median(values(case, key)) for case in ("spline-coarse", "spline-multilevel")]
        for key in ("loss", "error")
    )
    assert losses[0] / losses[1] > 10
    assert errors[0] / errors[1] < 3


def test_residual_is_larger_between_the_points():
    run = next(run for run in runs_of(RECORD, "spline-multilevel") if run.solutions)
    model = pdes.restored(EXPERIMENT.cases["spline-multilevel"], 2, run.solutions[2])
    on, between = (
        volume_residual(propagate(model, Jet.at(Burgers(nx=nx).points["volume"], pairs=[(0, 0)])))
        for nx in (64, 505)
    )
    with torch.no_grad():
        assert between.square().mean() > 10 * on.square().mean()


def test_points_in_the_layer_lower_the_error():
    ours = statistics.median(values("spline-multilevel", "error"))
    assert statistics.median(values("spline-multilevel-resolved-lbfgs", "error")) < 1e-3
    sixth = statistics.median(values("spline-fine-resolved-lbfgs", "error"))
    assert sixth < 0.1 * ours
    assert sixth < 0.2 * statistics.median(values("spline-fine-resolved-lbfgs-cubic", "error"))


def test_controls():
    ours = statistics.median(values("spline-multilevel"))
    rough = statistics.median(values("spline-fine-scale0.1"))
    smooth = statistics.median(values("spline-fine-prolonged"))
    assert rough > 100 * smooth
    assert statistics.median(values("spline-fine-equal-work")) > ours
    assert statistics.median(values("spline-fine-epochs")) > ours
