"""Multilevel training (Algorithm 1): train on a coarse grid, prolong, continue on a finer one.

With cycles on each level, an optimizer of :mod:`kanlib.training.cycles`, it is full multigrid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from kanlib._checks import check_function, check_option
from kanlib.objectives.mean_squared_error import Objective
from kanlib.training.optimizer_state import OptimizerState, carried_optimizer
from kanlib.training.options import Choices, checked, takes_options
from kanlib.training.runs import Model, Run
from kanlib.training.schedule import Schedule
from kanlib.training.trainer import Trainer

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["train_multilevel"]


@takes_options
def train_multilevel(
    model: Model,
    objective: Objective,
    schedule: Schedule | Sequence[int],
    *,
    optimizer_state: OptimizerState = "fresh",
    refine: Callable[[Any], Any] = methodcaller("refine"),  # it has no state
    **options: Unpack[Choices],
) -> Run[Model]:
    """Train a KAN over a hierarchy of grids; each refinement keeps the function exactly.

    Args:
        model: the coarse network; it is trained in place on level 0.
        objective: ``objective(model)``, or ``objective(model, batch)``, returning a scalar loss.
        schedule: epochs on each level, or a Schedule, which may end levels before.
        optimizer_state: "fresh" starts the optimizer anew on each level; "carried" prolongs
            momenta and curvature information (SGD, Adam, AdamW, RMSprop, L-BFGS), and goes on
            with the damping of Gauss-Newton.
        refine: function from a network to the next finer one, by default its own
            ``refine()``, which halves all intervals.
        **options: see :class:`kanlib.training.options.Options`; on resuming, ``model`` must be as
            at the beginning.

    Returns:
        The run; ``run.model`` is the network on the finest level reached.

    Raises:
        TypeError: if an argument is of the wrong kind, e.g. a model without grids.
        ValueError: if an argument is out of range, the optimizer keeps a state that cannot be
            carried, or the checkpoint is damaged or belongs to another run.
        OSError: if the checkpoint exists, and ``resume`` is not given, or cannot be written; found
            out before the first step.

    Examples:
        >>> import torch
        >>> from kanlib import KAN, MeanSquaredError
        >>> x = torch.linspace(0, 1, 200, dtype=torch.float64)[:, None]
        >>> model = KAN([1, 1], n=4, dtype=torch.float64)
        >>> objective = MeanSquaredError(x, torch.sin(20 * x))
        >>> run = train_multilevel(model, objective, [4, 4, 4], progress=False)
        >>> [level.n for level in run.levels], run.work
        ([4, 8, 16], 28.0)
    """
    if not isinstance(schedule, Schedule):
        schedule = Schedule(schedule)
    check_option("optimizer_state", optimizer_state, ("fresh", "carried"))
    if not isinstance(getattr(model, "n", None), int):
        raise TypeError(
            f"model must be a KAN, or have the number of intervals n and its own refine=, "
            f"got {type(model).__name__}: use train() for a model without grids"
        )
    check_function("refine", refine, "function from a network to a finer one")
    found = checked(options)
    coarse_n: Any = model.n
    trainer = Trainer(
        objective,
        schedule,
        found,
        lambda finer: finer.n / coarse_n,
        {"optimizer_state": optimizer_state},
        refine,
        partial(carried_optimizer, found.optimizer) if optimizer_state == "carried" else None,
    )
    return trainer.run(model)
