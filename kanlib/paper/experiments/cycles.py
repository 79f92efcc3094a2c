"""One way up, cycles, and all levels at once, with the same smoothers and at equal cost.

The networks and points are those of the paper, but for fewer points on the equations of Burgers, a
quarter, and of Allen and Cahn, a tenth. An evaluation of the loss costs the same on all grids of a
problem, so that equal evaluations are equal time; a record also has the paper's work, an epoch on n
intervals costing n / n_coarse. The epochs of all cases of a problem and a smoother are chosen for
about the same evaluations, those of one way up; on the equations for half of those on regression.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from kanlib.nn.networks import KAN
from kanlib.objectives.mean_squared_error import MeanSquaredError, Objective
from kanlib.paper.experiments import allen_cahn, burgers, poisson
from kanlib.paper.experiments.cases import Experiment, Solutions, ended, train_case
from kanlib.paper.experiments.regression import SPLINE
from kanlib.paper.problems.allen_cahn import AllenCahn
from kanlib.paper.problems.burgers import Burgers
from kanlib.paper.problems.poisson import Poisson
from kanlib.paper.problems.regression import regression
from kanlib.training.additive import Additive
from kanlib.training.cycles import Cycle
from kanlib.training.gauss_newton import GaussNewton
from kanlib.training.optimizers import OptimizerFactory, lbfgs
from kanlib.training.runs import Run

QUICK_DIVISOR, QUICK_POINTS = 16, 400
POINTS = {"regression": 20_000, "allen-cahn": 2000}
#: Points of Burgers' equation in each direction.
SIDE = 32
#: Network without n, and intervals of the coarsest grid.
NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "regression": (SPLINE, 5),
    "poisson": (poisson.WIDER, poisson.COARSE_N),
    "burgers": (burgers.SMALL, burgers.COARSE_N),
    "allen-cahn": (allen_cahn.NETWORK, allen_cahn.COARSE_N),
}
#: Levels of each problem.
LEVELS = {"regression": 4, "poisson": 4, "burgers": 3, "allen-cahn": 4}


@dataclass(frozen=True)
class CycleCase:
    """One way to use levels, or none.

    Attributes:
        description: one line for readers.
        problem: key of :data:`NETWORKS`.
        network: keyword arguments of KAN.
        epochs: epochs, or cycles, on each level, the first being that of the network.
        smoother: key of :data:`SMOOTHERS`.
        way: None for the smoother alone, "V", "W", "fas" or "additive".
        start_level: level of the network, for counting work.
        paper: None.
    """

    description: str
    problem: str
    network: dict[str, Any]
    epochs: tuple[int, ...]
    smoother: str
    way: str | None = None
    start_level: int = 0
    paper: dict[str, float] | None = None


#: What lowers the loss, alone and on each visit of a cycle, and steps of a visit.
SMOOTHERS: dict[str, tuple[OptimizerFactory, OptimizerFactory, int]] = {
    "lbfgs": (lbfgs, partial(lbfgs, max_iter=5), 1),
    "adam": (partial(torch.optim.Adam, lr=3e-3), partial(torch.optim.Adam, lr=3e-3), 10),
    "gauss-newton": (GaussNewton(), GaussNewton(), 1),
}
#: Problems whose networks are too large for Cholesky's factors, so that Gauss-Newton solves by
#: products with J, which are not counted as evaluations.
LARGE = ("burgers",)
#: Epochs of one level, of one way up, of V- and W-cycles, and of full multigrid, at full length.
EPOCHS: dict[str, tuple[int, tuple[int, ...], int, int, tuple[int, ...]]] = {
    "lbfgs": (60, (32, 16, 8, 4), 26, 10, (90, 16, 5, 2)),
    "adam": (1350, (720, 360, 180, 90), 17, 6, (60, 11, 3, 1)),
    "gauss-newton": (60, (15, 15, 15, 15), 9, 4, (15, 5, 3, 2)),
}


def _cases() -> dict[str, CycleCase]:
    cases: dict[str, CycleCase] = {}
    for smoother in SMOOTHERS:
        for problem in NETWORKS:
            cases |= _of(problem, smoother)
    network, n = NETWORKS["regression"]
    top = LEVELS["regression"] - 1
    for scale in (1.0, 0.01):
        own = {**network, "n": n << top, "init_scale": scale, "prolonged_from": n}
        cases[f"regression-lbfgs-additive-scale{scale:g}"] = CycleCase(
            f"regression, L-BFGS, additive levels, initial scale {scale:g}",
            "regression",
            own,
            (EPOCHS["lbfgs"][0],),
            "lbfgs",
            "additive",
            top,
        )
    return cases


def _of(problem: str, smoother: str) -> dict[str, CycleCase]:
    network, n = NETWORKS[problem]
    levels = LEVELS[problem]
    single, up, v, w, full = EPOCHS[smoother]
    share = 1 if problem == "regression" else 2
    start = {**network, "n": n << levels - 1, "prolonged_from": n}
    small = {**network, "n": n << levels - 1, "init_scale": 0.01}

    def own(*epochs: int) -> tuple[int, ...]:
        return tuple(max(1, count // share) for count in epochs[:levels])

    fine: dict[str, tuple[str, dict[str, Any], int, str | None]] = {
        "fine": ("one level, prolonged start", start, single, None),
        "fine-small": ("one level, scale 0.01", small, single, None),
        "V": ("V-cycles", start, v, "V"),
        "W": ("W-cycles", start, w, "W"),
        "fas": ("V-cycles, full approximation scheme", start, v, "fas"),
        "additive": ("additive levels", start, single, "additive"),
    }
    ways: dict[str, tuple[str, tuple[int, ...], str | None]] = {
        "levels": ("one way up", up, None),
        "up-additive": ("one way up, additive levels on each", up, "additive"),
        "full": ("full multigrid, V-cycles on each level", full, "V"),
    }
    coarse = {**network, "n": n}
    if smoother == "gauss-newton":  # which is for sums of squares, and for no more than one level
        del fine["fas"], fine["additive"], ways["up-additive"]
    return {
        **{
            f"{problem}-{smoother}-{name}": CycleCase(
                f"{problem}, {smoother}, {label}", problem, coarse, own(*epochs), smoother, way
            )
            for name, (label, epochs, way) in ways.items()
        },
        **{
            f"{problem}-{smoother}-{name}": CycleCase(
                f"{problem}, {smoother}, {label}",
                problem,
                begin,
                own(epochs),
                smoother,
                way,
                levels - 1,
            )
            for name, (label, begin, epochs, way) in fine.items()
        },
    }


def optimizer_of(case: CycleCase) -> OptimizerFactory:
    """Return the optimizer of a case."""
    alone, visiting, steps = SMOOTHERS[case.smoother]
    if case.smoother == "gauss-newton" and case.problem in LARGE:
        alone = visiting = GaussNewton(solver="cg")
    coarsest = NETWORKS[case.problem][1]
    if case.way is None:
        return alone
    if case.way == "additive":
        return Additive(alone, coarsest=coarsest)
    if case.way == "fas":
        return Cycle(visiting, "V", steps, "fas", coarsest)
    return Cycle(visiting, "W" if case.way == "W" else "V", steps, coarsest=coarsest)


def setting(
    problem: str, seed: int, points: int | None, device: str
) -> tuple[Objective, Callable[[nn.Module], float], torch.Tensor]:
    """Return the objective of a problem, its error, and points for the scale of a linear map."""
    if problem == "regression":
        count = points or POINTS[problem]
        data = regression(seed, count, count, device=device)
        test = torch.no_grad()(MeanSquaredError(data.x_test, data.y_test))
        return MeanSquaredError(data.x, data.y), lambda model: float(test(model)), data.x
    cells = 10 if points else 50
    kinds: dict[str, Callable[[], Any]] = {
        "poisson": lambda: Poisson(cells, device=device),
        "burgers": lambda: Burgers(SIDE, SIDE, device=device),
        "allen-cahn": lambda: AllenCahn(points or POINTS[problem], seed=seed, device=device),
    }
    stated = kinds[problem]()
    return stated.loss(), stated.error, stated.inputs(stated.points["volume"])


def run_cycles(
    case: CycleCase,
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
        quick: a sixteenth of the epochs and few points.
        device: torch device.
        **options: checkpoint, resume and progress, see :func:`kanlib.training.trainer.train`.

    Returns:
        The run, its loss and its error (on the test set, or relative), and no solutions.
    """
    points = QUICK_POINTS if quick else None
    objective, error, x = setting(case.problem, seed, points, device)
    torch.manual_seed(seed)
    model = KAN(**case.network, device=device, dtype=torch.float64)
    if case.network.get("first", "spline") != "spline":
        model.calibrate_(x)
    run = train_case(
        case,
        model,
        objective,
        error,
        divisor=QUICK_DIVISOR if quick else 1,
        optimizer=optimizer_of(case),
        **options,
    )
    return run, ended(run), {}


EXPERIMENT = Experiment(
    title="Cycles over levels, and additive levels",
    source="",
    cases=_cases(),
    seeds=(1234, 1235, 1236, 1237, 1238),
    execute=run_cycles,
)
