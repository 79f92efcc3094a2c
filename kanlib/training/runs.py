"""What a training returns: the model, a history with one entry a step, a summary of each level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import nn

__all__ = ["EndOfLevel", "Entrant", "History", "Level", "Run", "State", "Stop"]

# The class of the network that is trained, which a run returns.
Model = TypeVar("Model", bound=nn.Module)


@dataclass
class History:
    """One entry a step, plus one at the end of each level; all lists have the same length.

    ``loss[i]`` is the loss before step i (after the last step, in the entry that ends a level).
    ``work`` counts coarse epochs, ``evaluations`` calls of the objective, both accumulated.
    ``metrics`` holds one row for each evaluation of the user's metrics. ``terms`` splits ``loss``
    by the names of the terms, if the objective has them, as
    :class:`kanlib.objectives.residuals.ResidualLoss` does; ``weights`` has their weights, where a
    balance changes them.

    Examples:
        >>> import torch
        >>> from kanlib import KAN, MeanSquaredError, train_multilevel
        >>> x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
        >>> model = KAN([1, 1], n=4, dtype=torch.float64)
        >>> run = train_multilevel(model, MeanSquaredError(x, x**2), [2, 1], progress=False)
        >>> run.history.level, run.history.epoch
        ([0, 0, 0, 1, 1], [0, 1, 2, 0, 1])
        >>> run.history.work
        [0.0, 1.0, 2.0, 2.0, 4.0]
    """

    level: list[int] = field(default_factory=list)
    epoch: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    terms: dict[str, list[float]] = field(default_factory=dict)
    weights: dict[str, list[float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.loss)

    def append_named(
        self,
        terms: Mapping[str, Sequence[float]],
        weights: Mapping[str, Sequence[float]],
        count: int,
    ) -> None:
        """Append ``count`` values of each term and weight, before those of the loss, or NaN."""
        for held, given in ((self.terms, terms), (self.weights, weights)):
            for name in {**held, **given}:
                known = held.setdefault(name, [math.nan] * len(self))
                known += given.get(name, [math.nan] * count)

    def __repr__(self) -> str:
        if not self.loss:
            return "History(empty)"
        return f"History({len(self)} entries, loss {self.loss[0]:.3e} -> {self.loss[-1]:.3e})"


@dataclass
class Level:
    """Summary of one level of a run: its own epochs, work, evaluations and seconds.

    ``steps`` counts the optimizer's steps that changed a parameter, ``idle`` the epochs without.
    ``message`` says why it ended before its last epoch, if it did.

    Examples:
        >>> import torch
        >>> from kanlib import KAN, MeanSquaredError, train_multilevel
        >>> x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
        >>> model = KAN([1, 1], n=4, dtype=torch.float64)
        >>> run = train_multilevel(model, MeanSquaredError(x, x**2), [2, 1], progress=False)
        >>> [(level.n, level.num_parameters, level.work) for level in run.levels]
        [(4, 7, 2.0), (8, 11, 2.0)]
    """

    n: int | None
    num_parameters: int
    epochs: int
    loss: float
    work: float
    evaluations: int
    seconds: float
    steps: int
    idle: int
    message: str = ""


class Stop(Exception):
    """Ends a run where it is: the model keeps its last step, ``run.message`` holds the reason.

    Callbacks may raise it, and bound optimizers, objectives and metrics::

        def until(state):
            if state.history.loss[-1] < 1e-8:
                raise Stop("the loss is below 1e-8")

    Examples:
        >>> import torch
        >>> from kanlib import KAN, MeanSquaredError, train
        >>> x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
        >>> def until(state):
        ...     if state.history.loss[-1] < 1e-3:
        ...         raise Stop("the loss is below 1e-3")
        >>> model = KAN([1, 1], n=4, dtype=torch.float64)
        >>> run = train(model, MeanSquaredError(x, x**2), 50, callbacks=[until], progress=False)
        >>> run.status
        'stopped'
        >>> run.message
        'the loss is below 1e-3'
    """


class EndOfLevel(Stop):
    """Ends a level before its last epoch; a multilevel run goes on with the next level.

    Examples:
        >>> import torch
        >>> from kanlib import KAN, MeanSquaredError, train_multilevel
        >>> x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
        >>> def ten_epochs(state):
        ...     if state.epoch == 10:
        ...         raise EndOfLevel("ten epochs are enough")
        >>> model = KAN([1, 1], n=4, dtype=torch.float64)
        >>> run = train_multilevel(
        ...     model, MeanSquaredError(x, x**2), [20, 5], callbacks=[ten_epochs], progress=False
        ... )
        >>> [level.epochs for level in run.levels], run.levels[0].message
        ([10, 5], 'ten epochs are enough')
    """


@dataclass
class State:
    """Where a run is: training goes on from it, callbacks read it, checkpoints hold it.

    ``steps`` and ``idle`` count on the present level, as in :class:`Level`; ``work`` and
    ``evaluations`` count from the start. ``ended`` and ``stopped`` are the reasons of the end of a
    level, and of the run, before the last epoch; ``judged`` holds what the level was judged by.

    Examples:
        >>> import torch
        >>> from kanlib import KAN, MeanSquaredError, train
        >>> x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
        >>> seen = []
        >>> run = train(
        ...     KAN([1, 1], n=4, dtype=torch.float64),
        ...     MeanSquaredError(x, x**2),
        ...     3,
        ...     callbacks=[lambda state: seen.append((state.epoch, state.steps, state.work))],
        ...     progress=False,
        ... )
        >>> seen
        [(1, 1, 1.0), (2, 2, 2.0), (3, 3, 3.0)]
    """

    model: Any
    optimizer: Any = None
    scheduler: Any = None
    level: int = 0
    epoch: int = 0
    steps: int = 0
    idle: int = 0
    work: float = 0.0
    evaluations: int = 0
    ended: str = ""
    stopped: str = ""
    judged: list[float] = field(default_factory=list)
    history: History = field(default_factory=History)
    levels: list[Level] = field(default_factory=list)


@dataclass
class Entrant:
    """A network on one level of a :func:`kanlib.training.race.race`.

    ``score`` is what it was ranked by, infinite if it diverged; ``message`` says why the level
    ended before its last epoch, if it did; ``kept`` says whether the network went on, or on the
    last level, whether it won.

    Examples:
        >>> import torch
        >>> from kanlib import KAN, MeanSquaredError, race
        >>> x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
        >>> starts = [KAN([1, 1], n=4, dtype=torch.float64) for _ in range(3)]
        >>> run = race(starts, MeanSquaredError(x, x**2), [3, 3], keep=[1], progress=False)
        >>> [(entrant.level, entrant.kept) for entrant in run.pedigree].count((0, False))
        2
    """

    level: int
    name: int
    loss: float
    score: float
    status: str
    epochs: int
    message: str
    kept: bool = False


@dataclass(repr=False)
class Run(Generic[Model]):
    """The result of a training: the model, its history and how the run ended.

    ``status`` is "completed", "stopped" (by a callback or the optimizer), "interrupted" (Ctrl-C;
    the model holds the last finished step) or "diverged" (the model holds the last parameters with
    a finite loss); ``message`` says where or why, and names epochs in which no step was taken.
    ``work`` counts coarse epochs: an epoch on n intervals costs n / n_coarse. ``pedigree`` tells of
    all networks of a race. ``objective`` is what was minimised, as it is at the end: its unknowns
    belong to the model; in a race it is the winner's own.

    To type checkers a run tells the class of its model: training a KAN gives a ``Run[KAN]``.

    Examples:
        >>> import torch
        >>> from kanlib import KAN, MeanSquaredError, train_multilevel
        >>> x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
        >>> model = KAN([1, 1], n=4, dtype=torch.float64)
        >>> run = train_multilevel(model, MeanSquaredError(x, x**2), [4, 2], progress=False)
        >>> run.status, run.work, run.loss < 1e-9
        ('completed', 8.0, True)
        >>> type(run.model).__name__, run.model.layers[0].grid.n
        ('KAN', 8)
    """

    model: Model
    history: History
    levels: list[Level]
    status: str = "completed"
    message: str = ""
    pedigree: list[Entrant] = field(default_factory=list)
    objective: Any = None

    @property
    def loss(self) -> float:
        """Loss of the returned model."""
        return self.levels[-1].loss

    @property
    def work(self) -> float:
        """Total work in coarse epochs."""
        return sum(level.work for level in self.levels)

    def __repr__(self) -> str:
        lines = [f"Run({self.status}{': ' + self.message if self.message else ''})"]
        lines.append(
            "level      n  parameters  epochs   steps  evaluations       loss      work     seconds"
            "  end"
        )
        last = len(self.levels) - 1
        for number, v in enumerate(self.levels):
            n = "-" if v.n is None else v.n
            early = self.status != "completed" and number == last
            end = v.message or (self.status if early else "all epochs")
            lines.append(
                f"{number:5d}  {n:>5}  {v.num_parameters:10d}  {v.epochs:6d}  {v.steps:6d}  "
                f"{v.evaluations:11d}  {v.loss:9.3e}  {v.work:8g}  {v.seconds:10.2f}"
                f"  {end}"
            )
        return "\n".join(lines)
