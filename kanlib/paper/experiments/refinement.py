"""How a trained network gets to the finer grid: exactly, by refitting, or by resampling.

Multilevel training of section 5.1's regression, by L-BFGS, and of Burgers' equation, by Adam, with
nothing changed but the function that refines. The predecessor of the paper (arXiv:2505.18131) holds
exact ("geometric") refinement against refits, which other KAN libraries use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kanlib._checks import check_option
from kanlib.nn.networks import KAN
from kanlib.paper.experiments import knots
from kanlib.paper.experiments.cases import Experiment, Solutions, ended, train_case
from kanlib.paper.refit import refit_at_greville, refit_on_samples, resample
from kanlib.splines.knots import KnotGrid
from kanlib.training.runs import Run

TARGETS = ("kinks", "burgers")


@dataclass(frozen=True)
class RefinementCase:
    """One way to refine.

    Attributes:
        description: one line for readers.
        target: "kinks" (section 5.1) or "burgers", as in :mod:`kanlib.paper.experiments.knots`.
        refine: "exact", "samples", "greville" or "resample".
        network: keyword arguments of KAN.
        epochs: epochs on each level.
        samples: number of samples of a refit, drawn from the training points; None: all.
        nested: whether the finer grid contains the coarse one.
        start_level: level of the network, for counting work.
        paper: None.
    """

    description: str
    target: str
    refine: str
    network: dict[str, Any]
    epochs: tuple[int, ...]
    samples: int | None = None
    nested: bool = True
    start_level: int = 0
    paper: dict[str, float] | None = None


def _cases() -> dict[str, RefinementCase]:
    ways: dict[str, tuple[str, str, dict[str, Any]]] = {
        "exact": ("exact refinement", "exact", {}),
        "samples": ("least squares on all training points", "samples", {}),
        "samples-100": ("least squares on 100 of them", "samples", {"samples": 100}),
        "samples-40": ("least squares on 40 of them", "samples", {"samples": 40}),
        "shifted": ("least squares, knots not nested", "samples", {"nested": False}),
        "greville": ("interpolation at Greville points", "greville", {}),
        "resample": ("values at Greville points as coefficients", "resample", {}),
    }
    return {
        f"{target}-{name}": RefinementCase(
            f"{target}, {label}",
            target,
            kind,
            knots.NETWORKS[target],
            knots.LEVELS[target],
            **options,
        )
        for target in TARGETS
        for name, (label, kind, options) in ways.items()
    }


def shifted(grid: KnotGrid) -> KnotGrid:
    """Return a grid of twice the intervals that shares no inner knot with ``grid``.

    The inner breakpoints of the halved grid move to the right by 3/10 of its spacing.
    """
    fine = grid.refine().breakpoints.clone()
    fine[1:-1] += 0.3 * fine.diff()[1:]
    return grid.with_breakpoints(fine)


def refinement(case: RefinementCase, x: Tensor) -> Callable[[KAN], KAN]:
    """Return the function that refines a network, given the training points (N, P).

    Raises:
        ValueError: if the case names no such function.
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0), device="cpu")
    kinds: dict[str, Callable[[KAN], KAN]] = {
        "exact": KAN.refine,
        "samples": partial(
            refit_on_samples,
            x=x[order[: case.samples].to(x.device)],
            new_grid=KnotGrid.refine if case.nested else shifted,
        ),
        "greville": refit_at_greville,
        "resample": resample,
    }
    check_option("refine", case.refine, kinds)
    return kinds[case.refine]


def run_refinement(
    case: RefinementCase,
    seed: int,
    *,
    quick: bool = False,
    device: str = "cpu",
    **options: Any,
) -> tuple[Run[Any], dict[str, float], Solutions]:
    """Train one case.

    Args:
        case: what to train.
        seed: seed of data and initial parameters.
        quick: a quarter of the points and of the epochs.
        device: torch device.
        **options: checkpoint, resume and progress, see :func:`kanlib.training.trainer.train`.

    Returns:
        The run, the mean squared errors on training and test set (for Burgers' equation the loss
        and the relative error), and no solutions. The history has the error at both ends of each
        level, so on both sides of each switch.
    """
    divisor = knots.QUICK_DIVISOR if quick else 1
    model, objective, error, x, training = knots.prepared(case, seed, divisor, device)
    way = refinement(case, x)
    run = train_case(
        case, model, objective, error, divisor=divisor, refine=way, **training, **options
    )
    return run, ended(run), {}


EXPERIMENT = Experiment(
    title="Exact refinement, refits and resampling",
    source="arXiv:2505.18131",
    cases=_cases(),
    seeds=(1234, 1235, 1236, 1237, 1238),
    execute=run_refinement,
)
