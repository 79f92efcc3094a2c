"""How the cases of the PDE problems are trained: loss, attention, optimizer, what is recorded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kanlib._checks import check_option
from kanlib.nn.networks import KAN, MLP
from kanlib.paper.experiments.cases import PDECase, Solutions, ended, train_case
from kanlib.training.optimizers import paper_lbfgs
from kanlib.training.runs import Run, State
from kanlib.training.schedulers import exponential_cycles, linear_ramp

QUICK_DIVISOR = 50
#: L-BFGS that goes on below torch's default tolerances, which losses of this size reach.
LBFGS = partial(paper_lbfgs, tolerance_grad=1e-12, tolerance_change=1e-14, history_size=50)
#: Times that the error is measured in a run, besides the ends of the levels.
MEASUREMENTS = 60


class Kept:
    """A callback that keeps the parameters at the end of each level, also over checkpoints."""

    def __init__(self) -> None:
        #: The parameters by level.
        self.levels: dict[int, list[Tensor]] = {}

    def __call__(self, state: State) -> None:
        """Note the parameters; those of the last epoch of a level remain."""
        self.levels[state.level] = [p.detach().clone() for p in state.model.parameters()]

    def state_dict(self) -> dict[str, Any]:
        """Return the parameters, for a checkpoint."""
        return {"levels": self.levels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.levels = state["levels"]


def training(
    damping: float | None = None, optimizer: str = "adam", **options: Any
) -> tuple[Callable[..., Any], Callable[..., Any] | None, float | None]:
    """Return optimizer, scheduler and damping of the attention.

    Args:
        damping: of residual-based attention; None: without.
        optimizer: "adam" or "lbfgs".
        **options: of :func:`adam`.

    Raises:
        ValueError: if the optimizer is unknown, or L-BFGS is given options.
    """
    check_option("optimizer", optimizer, ("adam", "lbfgs"))
    if optimizer == "lbfgs":
        if options:
            raise ValueError(f"L-BFGS takes no options here, got {', '.join(options)}: drop them")
        return LBFGS, None, damping
    return *adam(**options), damping


def adam(
    lr: float,
    start_lr: float,
    ramp: int | None = None,
    cycle: int | None = None,
    gamma: float = 1.0,
    weight_decay: float = 0.0,
) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
    """Return Adam and its scheduler.

    Args:
        lr: learning rate, after the ramp or at the peak of a cycle.
        start_lr: learning rate of the first epoch of each level.
        ramp: epochs of a linear ramp.
        cycle: epochs of a rise and of a fall of a cycle, instead.
        gamma: decay of the cycles an epoch.
        weight_decay: of AdamW.

    Raises:
        ValueError: if there is both a ramp and a cycle.
    """
    if ramp is not None and cycle is not None:
        raise ValueError(f"choose ramp or cycle, got ramp={ramp} and cycle={cycle}")
    kind: Callable[..., Any] = torch.optim.AdamW if weight_decay else torch.optim.Adam
    options = {"weight_decay": weight_decay} if weight_decay else {}
    scheduler: Callable[..., Any] | None = None
    if ramp is not None:
        scheduler = linear_ramp(start_lr, ramp)
    elif cycle is not None:
        scheduler = exponential_cycles(start_lr, cycle, gamma)
    return partial(kind, lr=lr, **options), scheduler


def build(case: PDECase, **options: Any) -> Any:
    """Return the untrained network of a case; the random seed is the caller's."""
    return (MLP if case.mlp else KAN)(**case.network, **options)


def restored(case: PDECase, level: int, weights: list[Any], *, device: str = "cpu") -> Any:
    """Return the network of a case with the recorded weights of a level, on a device.

    Raises:
        ValueError: if the weights are not those of such a network.
    """
    own: dict[str, Any] = {"device": device, "dtype": torch.float64}
    model = build(case, **own)
    for _ in range(level):
        model = model.refine()
    tensors = [torch.tensor(values, **own) for values in weights]
    found, expected = ([tuple(t.shape) for t in ts] for ts in (tensors, model.parameters()))
    if found != expected:
        raise ValueError(
            f"weights of level {level} must have the shapes {expected}, got {found}: take those of "
            "this case and level"
        )
    with torch.no_grad():
        for parameter, values in zip(model.parameters(), tensors, strict=True):
            parameter.copy_(values)
    return model


def execute(
    problem: Callable[..., Any],
    case: PDECase,
    seed: int,
    *,
    quick: bool = False,
    device: str = "cpu",
    **options: Any,
) -> tuple[Run[Any], dict[str, float], Solutions]:
    """Train one case.

    Args:
        problem: the class of the problem, or a function from its arguments and ``seed``.
        case: what to train.
        seed: seed of initial parameters, and of points if they are random.
        quick: a fiftieth of the epochs.
        device: torch device.
        **options: checkpoint, resume and progress, see :func:`kanlib.training.trainer.train`.

    Returns:
        The run, its loss and error, and the weights at the end of each level.
    """
    optimizer, scheduler, damping = training(**case.training)
    stated = problem(seed=seed, device=device, **case.problem)
    torch.manual_seed(seed)
    model = build(case, device=device, dtype=torch.float64)
    if case.calibrate:
        model.calibrate_(stated.inputs(stated.points["volume"]))
    kept = Kept()
    run = train_case(
        case,
        model,
        stated.loss(damping),
        stated.error,
        divisor=QUICK_DIVISOR if quick else 1,
        measurements=MEASUREMENTS,
        optimizer=optimizer,
        scheduler=scheduler,
        callbacks=[kept] if case.keep else [],
        **options,
    )
    if case.keep:  # a run that diverged ends with parameters from before
        kept.levels[len(run.levels) - 1] = [*run.model.parameters()]
    solutions = {n: [w.tolist() for w in weights] for n, weights in kept.levels.items()}
    return run, ended(run), solutions
