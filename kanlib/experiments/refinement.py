"""How a trained network gets to the finer grid: exactly, by refitting, or by resampling.

Multilevel training of section 5.1's regression, with nothing changed but the function that refines.
The predecessor of the paper (arXiv:2505.18131) holds exact ("geometric") refinement against refits,
which other KAN libraries use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kanlib.experiments.cases import Experiment, Solutions, train_case
from kanlib.experiments.regression import COARSE_N, MULTILEVEL, QUICK_DIVISOR, SPLINE
from kanlib.knots import KnotGrid
from kanlib.networks import KAN
from kanlib.objectives import MeanSquaredError
from kanlib.problems.regression import regression
from kanlib.refit import refit_at_greville, refit_on_samples, resample
from kanlib.runs import Run

POINTS = 4000


@dataclass(frozen=True)
class RefinementCase:
    """One way to refine.

    Attributes:
        description: one line for readers.
        refine: "exact", "samples", "greville" or "resample".
        samples: number of samples of a refit, the first training points.
        nested: whether the finer grid contains the coarse one.
        network: keyword arguments of KAN.
        epochs: epochs on each level.
        start_level: level of the network, for counting work.
        paper: None.
    """

    description: str
    refine: str
    samples: int | None = None
    nested: bool = True
    network: Any = None
    epochs: tuple[int, ...] = MULTILEVEL
    start_level: int = 0
    paper: dict[str, float] | None = None


def _cases() -> dict[str, RefinementCase]:
    network = {**SPLINE, "n": COARSE_N}
    all_points = f"all {POINTS} training points"
    ways: dict[str, tuple[str, str, int | None, bool]] = {
        "exact": ("exact refinement", "exact", None, True),
        "samples": (f"least squares on {all_points}", "samples", POINTS, True),
        "samples-100": ("least squares on 100 of them", "samples", 100, True),
        "samples-40": ("least squares on 40 of them", "samples", 40, True),
        "samples-shifted": (f"least squares on {all_points}, knots shifted", "samples", POINTS,
                            False),
        "greville": ("interpolation at Greville points", "greville", None, True),
        "resample": ("values at Greville points as coefficients", "resample", None, True),
    }  # fmt: skip
    return {
        name: RefinementCase(label, kind, samples, nested, network)
        for name, (label, kind, samples, nested) in ways.items()
    }


def shifted(grid: KnotGrid) -> KnotGrid:
    """Return a grid of twice the intervals that shares no inner knot with ``grid``.

    The inner breakpoints of the halved grid move to the right by 3/10 of its spacing.
    """
    fine = grid.refine().breakpoints.clone()
    fine[1:-1] += 0.3 * fine.diff()[1:]
    return KnotGrid(grid.order, fine)


def refinement(case: RefinementCase, x: Tensor) -> Callable[[KAN], KAN]:
    """Return the function that refines a network, given the training points (N, P)."""
    kinds: dict[str, Callable[[KAN], KAN]] = {
        "exact": KAN.refine,
        "samples": partial(
            refit_on_samples,
            x=x[: case.samples],
            new_grid=KnotGrid.refine if case.nested else shifted,
        ),
        "greville": refit_at_greville,
        "resample": resample,
    }
    return kinds[case.refine]


def run_refinement(
    case: RefinementCase,
    seed: int,
    *,
    quick: bool = False,
    device: str = "cpu",
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> tuple[Run, dict[str, float], Solutions]:
    """Train one case.

    Args:
        case: what to train.
        seed: seed of data and initial parameters.
        quick: a quarter of the points and of the epochs.
        device: torch device.
        checkpoint: file for checkpoints.
        resume: continue from it.
        progress: show a progress bar.

    Returns:
        The run, the mean squared errors on training and test set, and no solutions. The history
        has the error on the test set at both ends of each level, so on both sides of each switch.
    """
    divisor = QUICK_DIVISOR if quick else 1
    data = regression(seed, POINTS // divisor, POINTS // divisor, device=device)
    torch.manual_seed(seed)
    model = KAN(**case.network, device=device, dtype=torch.float64)
    model.calibrate(data.x)
    objective = MeanSquaredError(data.x, data.y)
    test = MeanSquaredError(data.x_test, data.y_test)
    epochs = [max(1, e // divisor) for e in case.epochs]
    run = train_case(
        case,
        model,
        objective,
        epochs,
        refine=refinement(case, data.x),
        metrics={"error": torch.no_grad()(test)},
        metrics_every=sum(epochs) + 1,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )
    return run, {"train_mse": run.loss, "test_mse": run.history.metrics[-1]["error"]}, {}


EXPERIMENT = Experiment(
    title="Exact refinement, refits and resampling",
    source="arXiv:2505.18131",
    cases=_cases(),
    seeds=(1234, 1235, 1236, 1237, 1238),
    execute=run_refinement,
    labels={"train_mse": "", "test_mse": "test "},
)
