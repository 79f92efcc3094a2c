"""Where the knots are: uniform, adaptive and free knots at equal parameters and equal epochs.

Three targets that no uniform grid suits: the regression of section 5.1, which has kinks; on an
interval a steep layer on a smooth wave; and Burgers' equation, trained as in section 5.2.2, whose
solution steepens. Every case of a target has the same number of intervals but "double", which has
as many parameters as the one with free knots.
The predecessor of the paper (arXiv:2505.18131) has free knots; adaptive refinement is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kanlib._checks import check_option
from kanlib.nn.free_knots import Sharing
from kanlib.nn.networks import KAN
from kanlib.objectives.mean_squared_error import MeanSquaredError, Objective
from kanlib.paper.experiments import burgers, pdes
from kanlib.paper.experiments.cases import Experiment, Solutions, ended, train_case
from kanlib.paper.problems import as_seed
from kanlib.paper.problems.burgers import Burgers
from kanlib.paper.problems.regression import TEST_SEED_OFFSET, regression
from kanlib.training.adaptive import (
    Indicator,
    gradient_indicator,
    jump_indicator,
    refine_adaptively,
    residual_indicator,
)
from kanlib.training.optimizers import paper_lbfgs
from kanlib.training.runs import Run

POINTS = {"kinks": 4000, "layer": 1000}
QUICK_DIVISOR = 4
#: Width of the steep layer, and where it lies.
WIDTH, CENTRE = 0.005, 0.37
NETWORKS: dict[str, dict[str, Any]] = {
    "kinks": {"widths": [2, 5, 1], "n": 5, "first": "affine"},
    "layer": {"widths": [1, 1], "n": 4},
    "burgers": {**burgers.SMALL, "n": burgers.COARSE_N},
}
#: Epochs on each level.
LEVELS = {"kinks": (32, 16, 8, 4), "layer": (32, 16, 8, 4), "burgers": burgers.EPOCHS}
#: A layer of one input has nothing to share; on Burgers' equation one indicator is tried.
OMITTED = {("layer", "free-layer"), ("burgers", "residual"), ("burgers", "gradient")}


class OnTarget(Protocol):
    """A case that says what its network is and what it learns."""

    @property
    def target(self) -> str:
        """Key of `NETWORKS` and `LEVELS`."""

    @property
    def network(self) -> dict[str, Any]:
        """Keyword arguments of KAN."""


@dataclass(frozen=True)
class KnotCase:
    """One way to place knots.

    Attributes:
        description: one line for readers.
        target: "kinks" (section 5.1), "layer" or "burgers".
        network: keyword arguments of KAN.
        epochs: epochs on each level, the first being the level that the network starts on.
        free: None, or who shares trainable knots, "layer" or "input".
        adaptive: None, or the indicator of adaptive refinement, for each input by itself: "jumps",
            "residual" or "gradient".
        paper: None.
    """

    description: str
    target: str
    network: dict[str, Any]
    epochs: tuple[int, ...]
    free: Sharing | None = None
    adaptive: str | None = None
    paper: dict[str, float] | None = None

    @property
    def start_level(self) -> int:
        """Level of the network, for counting work."""
        return len(LEVELS[self.target]) - len(self.epochs)


def steep_layer(x: Tensor) -> Tensor:
    """Evaluate sin(2 pi x) / 2 + tanh((x - 0.37) / 0.005) / 2 at x (N, 1)."""
    return 0.5 * torch.sin(2 * math.pi * x) + 0.5 * torch.tanh((x - CENTRE) / WIDTH)


def _cases() -> dict[str, KnotCase]:
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "uniform": ("uniform knots", {}),
        "adaptive": ("adaptive knots", {"adaptive": "jumps"}),
        "residual": ("adaptive knots by the residual", {"adaptive": "residual"}),
        "gradient": ("adaptive knots by the gradient", {"adaptive": "gradient"}),
        "free-layer": ("free knots, one set a layer", {"free": "layer"}),
        "free": ("free knots, one set an input", {"free": "input"}),
        "free-adaptive": ("free and adaptive knots", {"free": "input", "adaptive": "jumps"}),
    }
    cases = {}
    for target, network in NETWORKS.items():
        levels = LEVELS[target]
        factor = 2 ** (len(levels) - 1)
        for kind, (label, options) in kinds.items():
            if (target, kind) in OMITTED:
                continue
            cases[f"{target}-{kind}-multilevel"] = KnotCase(
                f"{target}, {label}, multilevel", target, network, levels, **options
            )
            if not options.get("adaptive"):
                fine = {**network, "n": factor * network["n"], "prolonged_from": network["n"]}
                cases[f"{target}-{kind}-fine"] = KnotCase(
                    f"{target}, {label}, fine grid from the coarse start",
                    target,
                    fine,
                    (sum(levels),),
                    **options,
                )
    # As many parameters as one set of free knots an input has with its weights.
    for target in ("kinks", "layer"):
        network = {**NETWORKS[target], "n": 2 * NETWORKS[target]["n"]}
        cases[f"{target}-double-multilevel"] = KnotCase(
            f"{target}, uniform knots, twice as many, multilevel", target, network, LEVELS[target]
        )
    return cases


def data_of(target: str, seed: int, points: int, device: str = "cpu") -> tuple[Tensor, ...]:
    """Return training and test points and targets (N, P), (N, 1), (N, P), (N, 1) in float64.

    Raises:
        ValueError: if the target is neither "kinks" nor "layer".
    """
    check_option("target", target, POINTS)
    if target == "kinks":
        data = regression(seed, points, points, device=device)
        return data.x, data.y, data.x_test, data.y_test
    seed = as_seed(seed)
    draws = []
    for s in (seed, seed + TEST_SEED_OFFSET):
        generator = torch.Generator().manual_seed(s)
        draws.append(
            torch.rand(points, 1, dtype=torch.float64, device="cpu", generator=generator).to(device)
        )
    x, x_test = draws
    return x, steep_layer(x), x_test, steep_layer(x_test)


def setting(
    target: str, seed: int, divisor: int, device: str
) -> tuple[Objective, Callable[[nn.Module], float], Tensor, dict[str, Any]]:
    """Return the objective of a target, its error, points and options of its training."""
    if target == "burgers":
        problem = Burgers(device=device)
        optimizer, scheduler, _ = pdes.training(**burgers.TUNED)
        options = {"optimizer": optimizer, "scheduler": scheduler}
        return problem.loss(), problem.error, problem.points["volume"], options
    x, y, x_test, y_test = data_of(target, seed, POINTS[target] // divisor, device)
    test = torch.no_grad()(MeanSquaredError(x_test, y_test))
    return MeanSquaredError(x, y), lambda model: float(test(model)), x, {"optimizer": paper_lbfgs}


def prepared(
    case: OnTarget, seed: int, divisor: int, device: str
) -> tuple[KAN, Objective, Callable[[nn.Module], float], Tensor, dict[str, Any]]:
    """Return the network of a case at its start, and the setting of its target."""
    objective, error, x, options = setting(case.target, seed, divisor, device)
    torch.manual_seed(seed)
    model = KAN(**case.network, device=device, dtype=torch.float64)
    if "first" in case.network:
        model.calibrate_(x)
    return model, objective, error, x, options


def indicator_of(kind: str, objective: Any) -> Indicator:
    """Return an indicator by name; that of the residual needs a mean squared error.

    Raises:
        ValueError: if the name is unknown.
    """
    check_option("adaptive", kind, ("jumps", "residual", "gradient"))
    if kind == "residual":
        return residual_indicator(objective.x, lambda model: model(objective.x) - objective.y)
    return gradient_indicator(objective) if kind == "gradient" else jump_indicator


def run_knots(
    case: KnotCase,
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
        and the relative error), and under the last level the breakpoints of each input of the last
        layer.
    """
    divisor = QUICK_DIVISOR if quick else 1
    model, objective, error, _, training = prepared(case, seed, divisor, device)
    if case.free:
        model = model.free(case.free)
    if case.adaptive:
        indicator = indicator_of(case.adaptive, objective)
        training["refine"] = partial(refine_adaptively, indicator=indicator, per="input")
    run = train_case(case, model, objective, error, divisor=divisor, **training, **options)
    *_, layer = run.model.spline_layers
    breakpoints = [grid.breakpoints.tolist() for grid in layer.grids]
    return run, ended(run), {len(case.epochs) - 1: breakpoints}


EXPERIMENT = Experiment(
    title="Uniform, adaptive and free knots",
    source="arXiv:2505.18131",
    cases=_cases(),
    seeds=(1234, 1235, 1236, 1237, 1238),
    execute=run_knots,
)
