"""Multilevel training (Algorithm 1): train on a coarse grid, prolong, continue on a finer one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Literal

from kanlib._checks import as_list, check_function, check_option, shown
from kanlib.objectives.mean_squared_error import Objective
from kanlib.training.optimizer_state import carried_optimizer
from kanlib.training.options import Choices, checked, takes_options
from kanlib.training.runs import Model, Run
from kanlib.training.trainer import Trainer, counts

if TYPE_CHECKING:
    from typing_extensions import Unpack

OptimizerState = Literal["fresh", "carried"]


@dataclass(frozen=True)
class Schedule:
    """Epochs on each level, the coarsest first.

    Work is counted in coarse epochs: an epoch on a level with twice the intervals costs twice.
    The three schedules of Table 2 do the same work.

    Args:
        epochs: e.g. [32, 16, 8, 4]; 0 skips a level (the model is only prolonged through it).

    Raises:
        ValueError: if there is no level, or an entry is not an integer of at least 0.

    Examples:
        >>> for epochs in ([32, 16, 8, 4], [128, 0, 0, 0], [0, 0, 0, 16]):
        ...     print(Schedule(epochs).work)
        128.0
        128.0
        128.0
    """

    epochs: Sequence[int]

    def __post_init__(self) -> None:
        try:
            epochs = tuple(counts(as_list("epochs", self.epochs, "integers")))
        except (TypeError, ValueError):
            epochs = ()
        if not epochs:
            raise ValueError(
                "epochs must be a list of integers of at least 0, one a level, got "
                f"{shown(self.epochs)}"
            )
        object.__setattr__(self, "epochs", epochs)

    @property
    def num_levels(self) -> int:
        """Number of levels."""
        return len(self.epochs)

    @property
    def work(self) -> float:
        """Work in coarse epochs when every level doubles the intervals."""
        return float(sum(count * 2**level for level, count in enumerate(self.epochs)))


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
        schedule: epochs on each level.
        optimizer_state: "fresh" starts the optimizer anew on each level; "carried" prolongs
            momenta and curvature information (SGD, Adam, AdamW, RMSprop, L-BFGS).
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
        schedule.epochs,
        found,
        lambda finer: finer.n / coarse_n,
        {"optimizer_state": optimizer_state},
        refine,
        partial(carried_optimizer, found.optimizer, objective=objective)
        if optimizer_state == "carried"
        else None,
    )
    return trainer.run(model)
