"""Beyond the paper: Gauss-Newton by levels, by races and on one level, and other optimizers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kanlib.nn.networks import KAN, MLP
from kanlib.paper.experiments.cases import Experiment, Solutions
from kanlib.paper.experiments.formulations import PROBLEMS, STARTS, Formulation, SecondOrderCase
from kanlib.paper.experiments.halves import HALVES
from kanlib.paper.experiments.poisson import COARSE_N, WIDER
from kanlib.training.cycles import Cycle, visits
from kanlib.training.gauss_newton import GaussNewton
from kanlib.training.optimizers import OptimizerFactory, lbfgs
from kanlib.training.quasi_newton import QuasiNewton
from kanlib.training.race import race
from kanlib.training.runs import Run

FORMULATIONS = PROBLEMS | HALVES
QUICK_DIVISOR, QUICK_STARTS, QUICK_POINTS = 12, 2, 100


@dataclass(frozen=True)
class BaselineCase(SecondOrderCase):
    """Another optimizer, with the network, the starts and the points of another case.

    Attributes:
        optimizer: one of :data:`BASELINES`, or "cycles" for V-cycles of Gauss-Newton.
    """

    optimizer: str = ""


@dataclass(frozen=True)
class FreeCase(SecondOrderCase):
    """On the last level the knots of each input train, too.

    Attributes:
        floor: their least spacing, relative to the mean.
    """

    floor: float = 0.02


#: Optimizers by name. An epoch is one step of Adam, and 20 iterations of each of the others.
BASELINES: dict[str, OptimizerFactory] = {
    "adam": partial(torch.optim.Adam, lr=1e-2),
    "lbfgs": lbfgs,
    "bfgs": QuasiNewton("bfgs"),
    "ssbroyden": QuasiNewton("ssbroyden"),
}
#: What descriptions call them, and their epochs.
BUDGETS = {
    "adam": ("Adam, rate 1e-2", 4000),
    "lbfgs": ("L-BFGS", 150),
    "bfgs": ("BFGS", 150),
    "ssbroyden": ("self-scaled Broyden", 150),
}


def _pde_cases(
    problem: str,
    network: dict[str, Any],
    n: tuple[int, ...],
    epochs: tuple[int, ...],
    points: tuple[int, ...],
    race_of: tuple[int, tuple[int, ...]],
) -> dict[str, SecondOrderCase]:
    """Return the cases of a problem: races, levels without one, and one level from two starts.

    The race on the fine level has the same starts, steps and points as that over the levels. One
    level from one start has twice the epochs that cost as much as the levels, counted by intervals.
    """
    starts, keep = race_of
    every = tuple(3 if level < 2 else 5 for level in range(len(n)))
    shown = ", ".join(str(each) for each in n)
    levels: dict[str, Any] = {"epochs": epochs, "points": points, "every": every}
    fine = round(sum(count * each for count, each in zip(epochs, n, strict=True)) / n[-1])
    alone: dict[str, Any] = {
        "epochs": (2 * fine,),
        "points": points[-1:],
        "every": every[-1:],
        "start_level": len(n) - 1,
    }
    coarse = {**network, "n": n[0]}
    prolonged = {**network, "n": n[-1], "prolonged_from": n[0]}
    return {
        f"{problem}-race": SecondOrderCase(
            f"{problem}, n = {shown}, a race of {starts} starts",
            problem, coarse, **levels, starts=starts, keep=keep,
        ),
        f"{problem}-levels": SecondOrderCase(
            f"{problem}, n = {shown}, one start",
            problem, coarse, **levels, keep=(1,) * (len(n) - 1),
        ),
        f"{problem}-fine-small": SecondOrderCase(
            f"{problem}, n = {n[-1]} alone, scale 0.01, twice the work",
            problem, {**network, "n": n[-1], "init_scale": 0.01}, **alone,
        ),
        f"{problem}-fine-prolonged": SecondOrderCase(
            f"{problem}, n = {n[-1]} alone, prolonged from n = {n[0]}, twice the work",
            problem, prolonged, **alone,
        ),
        f"{problem}-fine-race": SecondOrderCase(
            f"{problem}, n = {n[-1]} alone, a race of the same {starts} starts, prolonged",
            problem, prolonged, **levels, starts=starts, keep=keep, start_level=len(n) - 1,
        ),
    }  # fmt: skip


def _longer(
    race: SecondOrderCase, epochs: tuple[int, ...], points: tuple[int, ...], **options: Any
) -> SecondOrderCase:
    """Return a race with more levels, on which one network is left."""
    n = race.network["n"]
    last = n << len(race.epochs) + len(epochs) - 1
    return replace(
        race,
        description=f"{race.problem}, n = {n} to {last}, a race of {race.starts} starts",
        epochs=race.epochs + epochs,
        points=race.points + points,
        keep=race.keep + (1,) * len(epochs),
        every=race.every + (5,) * len(epochs),
        **options,
    )


def _share(steps: int, visits: int) -> int:
    """Return how many cycles of so many visits have about so many steps."""
    return max(1, round(steps / visits))


def _baselines(problem: str, fine: SecondOrderCase) -> dict[str, SecondOrderCase]:
    """Return the cases of other optimizers, on the network of a case on one level."""
    found: dict[str, SecondOrderCase] = {}
    for name, (label, epochs) in BUDGETS.items():
        start = f"{fine.starts} starts" if fine.starts > 1 else "one start"
        description = f"{problem}, n = {fine.network['n']} alone, {label}, {start}"
        found[f"{problem}-{name}"] = fine.become(
            BaselineCase, description=description, epochs=(epochs,), optimizer=name
        )
    return found


def _cases() -> dict[str, SecondOrderCase]:
    table_2: dict[str, Any] = {"widths": [2, 5, 1], "first": "affine", "init_scale": 0.1}
    steps, points, n = (40, 40, 40, 40), (1500, 5000, 5000, 5000), 40
    cases = {
        "regression-race": SecondOrderCase(
            "Table 2's own network, n = 5 to 40, a race of 32 starts",
            "regression", {**table_2, "n": 5}, steps, points, starts=32, keep=(8, 4, 2),
        ),
        "regression-levels": SecondOrderCase(
            "Table 2's own network, n = 5 to 40, one start",
            "regression", {**table_2, "n": 5}, steps, points, keep=(1, 1, 1),
        ),
        "regression-fine-small": SecondOrderCase(
            "Table 2's own network, n = 40 alone, the best of five starts of scale 0.01",
            "regression", {**table_2, "n": n, "init_scale": 0.01}, (120,), (5000,), starts=5,
            start_level=3,
        ),
        "regression-fine-prolonged": SecondOrderCase(
            "Table 2's own network, n = 40 alone, the best of five starts prolonged from n = 5",
            "regression", {**table_2, "n": n, "prolonged_from": 5}, (120,), (5000,), starts=5,
            start_level=3,
        ),
        "regression-fine-race": SecondOrderCase(
            "Table 2's own network, n = 40 alone, a race of the same 32 starts, prolonged",
            "regression", {**table_2, "n": n, "prolonged_from": 5}, steps, points, starts=32,
            keep=(8, 4, 2), start_level=3,
        ),
        "regression-race-free": FreeCase(
            "Table 2's own network, n = 5 to 40, a race of 32 starts, free knots on the last level",
            "regression", {**table_2, "n": 5}, (40, 40, 40, 80), points, starts=32, keep=(8, 4, 2),
        ),
        "regression-race-80": SecondOrderCase(
            "Table 2's own network, n = 5 to 80, a race of 32 starts",
            "regression", {**table_2, "n": 5}, (*steps, 40), (*points, 5000), starts=32,
            keep=(8, 4, 2, 2),
        ),
        "regression-best": FreeCase(
            "Table 2's own network, n = 5 to 40, a race of 32 starts, free knots that may all but "
            "meet, ten times the steps on the last level",
            "regression", {**table_2, "n": 5}, (40, 40, 40, 400), (1500, 5000, 5000, 10000),
            starts=32, keep=(8, 4, 2), floor=2e-4,
        ),
    }  # fmt: skip
    cases["regression-lbfgs-race"] = cases["regression-race"].become(
        BaselineCase,
        description="Table 2's own network, n = 5 to 40, L-BFGS, a race of 32 starts",
        epochs=(20, 20, 20, 20),
        optimizer="lbfgs",
    )
    cases |= _pde_cases(
        "poisson",
        {"widths": [3, 5, 1], "r": 8, "domain": (-1.0, 1.0), "hidden_domain": (-2.0, 2.0)},
        (6, 12, 24),
        (36, 45, 75),
        (1500, 2500, 4000),
        (8, (2, 1)),
    )
    tanh: dict[str, Any] = {
        "widths": [2, 5, 5, 1], "r": 8, "domain": (-1.0, 1.0), "normalisation": "tanh",
        "init_scale": 0.3,
    }  # fmt: skip
    steps, points = (36, 45, 75, 75), (1500, 3000, 5000, 8000)
    for problem in ("burgers", "burgers-sharp"):
        cases |= _pde_cases(problem, tanh, (6, 12, 24, 48), steps, points, (6, (2, 1, 1)))
    cases["poisson-best"] = _longer(
        cases["poisson-race"], (60, 40), (6000, 8000), gauss_newton={"solver": "qr"}
    )
    for way, order, moves, number in (
        ("paper", 4, False, 1),
        ("paper-order", 8, False, 1),
        ("paper-points", 4, True, 1),
        ("paper-order-points", 8, True, 1),
        ("paper-race", 4, False, 8),
        ("paper-order-points-race", 8, True, 8),
    ):
        cases[f"poisson-{way}"] = SecondOrderCase(
            f"the paper's network for Poisson, n = 4 to 32, of order {order}, "
            f"{'points that move' if moves else 'the points of the paper'}, starts: {number}",
            "poisson",
            {**WIDER, "n": COARSE_N, "r": order},
            (45, 45, 45, 45),
            (2500, 2500, 2500, 2500),
            starts=number,
            keep=(2, 1, 1) if number > 1 else (1, 1, 1),
            every=(3, 3, 5, 5) if moves else (),
        )
    levels = cases["burgers-levels"]
    cases["burgers-levels-order4"] = replace(
        levels, description=f"{levels.description}, order 4", network={**levels.network, "r": 4}
    )
    cases["burgers-levels-grid"] = replace(
        levels, description=f"{levels.description}, points of a grid", every=()
    )
    cases["burgers-best"] = _longer(cases["burgers-race"], (75,), (12000,))
    cases["burgers-mlp"] = SecondOrderCase(
        "burgers, tanh MLP [2, 30, 30, 30, 1], a race of 3 starts",
        "burgers",
        {"widths": [2, 30, 30, 30, 1], "activation": "tanh"},
        steps,
        points,
        starts=3,
        keep=(2, 1, 1),
        every=(3, 3, 5, 5),
        mlp=True,
    )
    wide: dict[str, Any] = {
        "widths": [2, 8, 8, 1],
        "r": 5,
        "domain": (-1.0, 1.0),
        "init_scale": 0.1,
    }
    for problem in ("allen-cahn", "allen-cahn-growth"):
        cases |= _pde_cases(
            problem,
            wide,
            (4, 8, 16, 32),
            (36, 45, 75, 75),
            (1500, 3000, 4000, 6000),
            (5, (2, 1, 1)),
        )
    for problem in ("burgers", "burgers-sharp", "allen-cahn"):
        whole = cases[f"{'allen-cahn-growth' if problem == 'allen-cahn' else problem}-race"]
        half = f"{problem}-half"
        cases[f"{half}-race"] = replace(
            whole, description=f"{whole.description}, half of the domain", problem=half
        )
        n = whole.network["n"]
        cases[f"{half}-best"] = SecondOrderCase(
            f"{problem}, half of the domain, n = {n} to {n << 3}, order 8, a race of 4 starts",
            half,
            {**tanh, "n": n, "widths": [2, 8, 8, 1]},
            (36, 45, 100, 150),
            (1500, 3000, 5000, 12000),
            starts=4,
            keep=(2, 1, 1),
            every=(3, 3, 5, 5),
        )
    for half, way, without in (
        ("burgers-half", "race", "even-grid"),
        ("burgers-half", "best", "even-grid"),
        ("allen-cahn-half", "race", "no-corner"),
    ):
        case = cases[f"{half}-{way}"]
        cases[f"{half}-{without}-{way}"] = replace(
            case,
            description=f"{case.description}, {without.replace('-', ' ')}",
            problem=f"{half}-{without}",
        )
    for problem in ("regression", "poisson", "burgers", "allen-cahn-growth"):
        levels = cases[f"{problem}-levels"]
        visited = [len([*visits(level + 1)]) for level in range(len(levels.epochs))]
        cases[f"{problem}-cycles"] = levels.become(
            BaselineCase,
            description=f"{levels.description}, V-cycles on each level",
            epochs=tuple(map(_share, levels.epochs, visited)),
            every=tuple(map(_share, levels.every, visited)),
            optimizer="cycles",
        )
    for problem in ("regression", "poisson", "burgers"):
        cases |= _baselines(problem, cases[f"{problem}-fine-small"])
    return cases


def _optimizer(case: SecondOrderCase) -> OptimizerFactory:
    if isinstance(case, BaselineCase):
        if case.optimizer == "cycles":
            return Cycle(GaussNewton(**case.gauss_newton), coarsest=case.network["n"])
        return BASELINES[case.optimizer]
    return GaussNewton(**case.gauss_newton)


def _refined(case: SecondOrderCase, model: KAN) -> KAN:
    """Refine a network, and free its knots if this is the last level and the case says so."""
    fine = model.refine()
    last = case.network["n"] << len(case.epochs) - 1
    return fine.free(floor=case.floor) if isinstance(case, FreeCase) and fine.n == last else fine


def execute(
    case: SecondOrderCase,
    seed: int,
    *,
    quick: bool = False,
    device: str = "cpu",
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> tuple[Run[Any], dict[str, float], Solutions]:
    """Train one case.

    Args:
        case: what to train.
        seed: seed of data, points and starts.
        quick: a twelfth of the steps, few points and two starts at most.
        device: torch device.
        checkpoint: file whose name the folder of checkpoints is made from.
        resume: go on from them.
        progress: show a progress bar for each network.

    Returns:
        The run of the winner, and figures of it, see :func:`raced`; no solutions.
    """
    if quick:
        points = tuple(min(count, QUICK_POINTS) for count in case.points)
        epochs = tuple(max(1, count // QUICK_DIVISOR) for count in case.epochs)
        keep = tuple(min(count, QUICK_STARTS) for count in case.keep)
        starts = min(case.starts, QUICK_STARTS)
    else:
        points, epochs, keep, starts = case.points, case.epochs, case.keep, case.starts
    problem = FORMULATIONS[case.problem](replace(case, points=points), seed, device)
    field: dict[int, Any] = {}
    for number in range(starts):
        torch.manual_seed(STARTS * seed + number)
        model = (MLP if case.mlp else KAN)(**case.network, device=device, dtype=torch.float64)
        if problem.calibrate is not None and isinstance(model, KAN):
            model.calibrate_(problem.calibrate)
        field[number] = problem.solution(model)
    first = 2.0**case.start_level / getattr(field[0], "n", 1)
    return raced(
        problem,
        field,
        epochs,
        checkpoint,
        resume,
        keep=keep,
        refine=None if case.mlp or case.start_level else partial(_refined, case),
        work=lambda model: first * getattr(model, "n", 1),
        optimizer=_optimizer(case),
        metrics_every=10**9,
        progress=progress,
    )


def raced(
    problem: Formulation,
    field: dict[int, Any],
    epochs: Sequence[int],
    checkpoint: Path | None,
    resume: bool,
    **options: Any,
) -> tuple[Run[Any], dict[str, float], Solutions]:
    """Race starts on a problem, with checkpoints in a folder of their own.

    Args:
        problem: the problem.
        field: the networks.
        epochs: epochs of each level.
        checkpoint: file whose name the folder of checkpoints is made from.
        resume: go on from them.
        **options: further options of :func:`kanlib.training.race.race`.

    Returns:
        The run of the winner; its loss and error, and the seconds that the processor took for all
        starts, unless they went on from checkpoints; no solutions.
    """
    folder = None if checkpoint is None else Path(f"{checkpoint}.starts")
    if folder is not None and not resume:
        shutil.rmtree(folder, ignore_errors=True)
    whole, began = folder is None or not folder.exists(), time.process_time()
    run = race(
        field,
        problem.losses,
        epochs,
        validate=problem.validate,
        checkpoint=folder,
        resume=resume,
        metrics={"error": problem.error},
        **options,
    )
    if folder is not None and run.status != "interrupted":
        shutil.rmtree(folder, ignore_errors=True)
    found = {"loss": run.loss, "error": run.history.metrics[-1]["error"]}
    if whole:
        found["processor_seconds"] = time.process_time() - began
    return run, found, {}


EXPERIMENT = Experiment(
    title="Gauss-Newton on splines and perceptrons, beyond the paper",
    source="",
    cases=_cases(),
    seeds=(1234, 1235, 1236, 1237, 1238),
    execute=execute,
)
