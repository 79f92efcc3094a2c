"""Multilevel training (Algorithm 1): train on a coarse grid, prolong, continue on a finer one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from kanlib.carry import carried_optimizer
from kanlib.networks import KAN
from kanlib.objectives import Objective
from kanlib.runs import Run
from kanlib.training import Callback, OptimizerFactory, SchedulerFactory, Trainer, lbfgs

OPTIMIZER_STATES = ("fresh", "carried")


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
        epochs = tuple(self.epochs) if isinstance(self.epochs, Iterable) else ()
        valid = all(isinstance(e, int) and not isinstance(e, bool) and e >= 0 for e in epochs)
        if not epochs or not valid:
            raise ValueError(
                f"epochs must be a list of integers of at least 0, one a level, got {self.epochs!r}"
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


def train_multilevel(
    model: KAN,
    objective: Objective,
    schedule: Schedule | Sequence[int],
    *,
    optimizer: OptimizerFactory = lbfgs,
    scheduler: SchedulerFactory | None = None,
    optimizer_state: str = "fresh",
    refine: Callable[[Any], Any] = KAN.refine,
    batches: Iterable[Any] | None = None,
    metrics: Mapping[str, Callable[[nn.Module], float]] | None = None,
    metrics_every: int = 1,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 5.0,
    resume: bool = False,
) -> Run:
    """Train a KAN over a hierarchy of grids; each refinement keeps the function exactly.

    Args:
        model: the coarse network; it is trained in place on level 0.
        objective: ``objective(model)``, or ``objective(model, batch)``, returning a scalar loss.
        schedule: epochs on each level.
        optimizer: function from parameters to a torch optimizer, called on each level.
        scheduler: function from the optimizer to a torch scheduler; it restarts on each level
            (see :func:`kanlib.training.linear_ramp`).
        optimizer_state: "fresh" starts the optimizer anew on each level; "carried" prolongs
            momenta and curvature information (SGD, Adam, AdamW, RMSprop, L-BFGS).
        refine: function from a network to the next finer one, by default halving all intervals.
        batches: see :func:`kanlib.training.train`, as all further arguments.
        metrics: named functions of the model, recorded in ``run.history.metrics``.
        metrics_every: epochs between evaluations of the metrics.
        callbacks: functions of the :class:`kanlib.runs.State`, called after each epoch.
        progress: show a progress bar if the run takes longer than a second.
        checkpoint: file for checkpoints, written atomically.
        checkpoint_every: least seconds between checkpoints.
        resume: continue from the checkpoint if it exists; ``model`` must be as at the beginning.

    Returns:
        The run; ``run.model`` is the network on the finest level reached.

    Raises:
        TypeError: if an argument is of the wrong kind, e.g. a model without grids.
        ValueError: if an argument is out of range, the optimizer keeps a state that cannot be
            carried, or the checkpoint belongs to another run.
        OSError: if the checkpoint cannot be written; found out before the first step.

    Examples:
        >>> import torch
        >>> from kanlib import MeanSquaredError
        >>> x = torch.linspace(0, 1, 200, dtype=torch.float64)[:, None]
        >>> model = KAN([1, 1], n=4, dtype=torch.float64)
        >>> objective = MeanSquaredError(x, torch.sin(20 * x))
        >>> run = train_multilevel(model, objective, [4, 4, 4], progress=False)
        >>> [level.n for level in run.levels], run.work
        ([4, 8, 16], 28.0)
    """
    if not isinstance(schedule, Schedule):
        schedule = Schedule(schedule)
    if optimizer_state not in OPTIMIZER_STATES:
        raise ValueError(
            f"optimizer_state must be one of {OPTIMIZER_STATES}, got {optimizer_state!r}"
        )
    if not isinstance(getattr(model, "n", None), int):
        raise TypeError(
            f"model must be a KAN, or have the number of intervals n and its own refine=, "
            f"got {type(model).__name__}: use train() for a model without grids"
        )
    make: Any = optimizer
    trainer = Trainer(
        objective,
        list(schedule.epochs),
        optimizer=optimizer,
        scheduler=scheduler,
        batches=batches,
        metrics=metrics,
        metrics_every=metrics_every,
        callbacks=callbacks,
        progress=progress,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )
    trainer.settings["optimizer_state"] = optimizer_state
    coarse, coarse_n = model, model.n

    def build(level: int) -> KAN:
        built = coarse
        for _ in range(level):
            built = refine(built)
        return built

    with trainer.bar:
        model, start = trainer.restore(build) if resume else (model, None)
        first = start["level"] if start else 0
        current: Any = trainer.run_level(model, first, model.n / coarse_n, start=start)
        for level in range(first + 1, schedule.num_levels):
            if trainer.status != "completed":
                break
            carried = None
            try:
                fine = refine(model)
                if optimizer_state == "carried":
                    carried = carried_optimizer(make, current, model, fine)
            except KeyboardInterrupt:
                trainer.interrupt()
                break
            model = fine
            current = trainer.run_level(model, level, model.n / coarse_n, carried)
    return trainer.finish(model)
