"""What an experiment is: named cases, seeds, and how one of them is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from kanlib.objectives.mean_squared_error import Objective
from kanlib.paper.records import PaperValue
from kanlib.training.multilevel import train_multilevel
from kanlib.training.runs import Model, Run
from kanlib.training.schedule import Schedule
from kanlib.training.trainer import train


@dataclass(frozen=True)
class Case:
    """One row of a table: a network, its initialisation and a schedule.

    Attributes:
        description: one line for readers.
        network: keyword arguments of KAN, or of MLP if ``mlp`` is true.
        epochs: epochs on each level, the first being the level that the network starts on.
        start_level: level of the network, for counting work (n = n_coarse * 2**start_level).
        mlp: whether the network is an MLP.
        tight: whether L-BFGS goes on below torch's default tolerances.
        paper: the paper's mean and standard deviation, if it has this row.

    Examples:
        >>> from kanlib.paper.experiments import find_case
        >>> case = find_case("regression", "spline-fine")
        >>> case.description, case.start_level
        ('spline basis, n = 40, 16 epochs', 3)
    """

    description: str
    network: dict[str, Any]
    epochs: tuple[int, ...]
    start_level: int = 0
    mlp: bool = False
    tight: bool = False
    paper: dict[str, float] | None = None


@dataclass(frozen=True)
class PDECase:
    """One way to solve a PDE problem: a network, its training and the points.

    Attributes:
        description: one line for readers.
        network: keyword arguments of KAN, or of MLP if ``mlp`` is true.
        epochs: as in :class:`Case`.
        training: keyword arguments of ``kanlib.paper.experiments.pdes.training``.
        problem: keyword arguments of the problem.
        start_level: as in :class:`Case`.
        mlp: whether the network is an MLP.
        calibrate: whether the leading linear map is rescaled to cover the splines.
        keep: whether the record keeps the weights at the end of each level, of the first seed.
        paper: as in :class:`Case`.

    Examples:
        >>> from kanlib.paper.experiments import find_case
        >>> case = find_case("poisson", "spline-multilevel")
        >>> case.epochs
        (1250, 1250, 1250, 1250)
    """

    description: str
    network: dict[str, Any]
    epochs: tuple[int, ...]
    training: dict[str, Any]
    problem: dict[str, Any] = field(default_factory=dict)
    start_level: int = 0
    mlp: bool = False
    calibrate: bool = False
    keep: bool = False
    paper: dict[str, float] | None = None


#: The weights at the end of each level, by level, as nested lists.
Solutions = dict[int, list[Any]]


@dataclass(frozen=True)
class Experiment:
    """A named set of cases.

    Attributes:
        title: one line for readers.
        source: table or figure of the paper.
        cases: cases by name.
        seeds: the seeds of the full experiment.
        execute: function that runs one case and returns the run, its metrics and its solutions.
        labels: what a report prints before each metric.

    Examples:
        >>> from kanlib.paper.experiments import EXPERIMENTS
        >>> EXPERIMENTS["regression"].seeds
        (1234, 1235, 1236, 1237, 1238)
    """

    title: str
    source: str
    cases: Mapping[str, Any]
    seeds: tuple[int, ...]
    execute: Callable[..., tuple[Run[Any], dict[str, float], Solutions]] = field(repr=False)
    labels: Mapping[str, str] = field(default_factory=lambda: {"loss": "", "error": "error "})

    @property
    def paper(self) -> dict[str, PaperValue]:
        """The paper's values by case, as a record holds them."""
        return {
            name: PaperValue(**case.paper, source=self.source)
            for name, case in self.cases.items()
            if case.paper
        }


class Levelled(Protocol):
    """A case that says on which level its network starts, and how long each level trains."""

    @property
    def start_level(self) -> int:
        """The level."""

    @property
    def epochs(self) -> tuple[int, ...]:
        """Epochs on each level from there on."""


def train_case(
    case: Levelled,
    model: Model,
    objective: Objective,
    error: Callable[[Any], float | Tensor],
    *,
    divisor: int = 1,
    measurements: int = 0,
    **options: Any,
) -> Run[Model]:
    """Train the network of a case over its levels, work counted from the level it starts on.

    Args:
        case: the case.
        model: its network.
        objective: what training minimises.
        error: what is recorded as "error", at both ends of each level.
        divisor: what the epochs of the case are divided by, for a quick run.
        measurements: times that the error is recorded beside the ends of the levels.
        **options: of :func:`kanlib.training.trainer.train` or ``train_multilevel``.
    """
    epochs = [max(1, count // divisor) for count in case.epochs]
    every = max(1, sum(epochs) // measurements) if measurements else sum(epochs) + 1
    options = {**options, "metrics": {"error": error}, "metrics_every": every}
    if len(epochs) > 1:
        return train_multilevel(model, objective, Schedule(epochs), **options)
    return train(model, objective, epochs[0], work_per_epoch=2.0**case.start_level, **options)


def ended(run: Run[Any]) -> dict[str, float]:
    """Return the loss and the error at the end of a run."""
    return {"loss": run.loss, "error": run.history.metrics[-1]["error"]}


def fine_controls(
    network: dict[str, Any], n: tuple[int, int], epochs: tuple[int, ...], training: dict[str, Any]
) -> dict[str, PDECase]:
    """Return the controls of a multilevel case: the finest network alone, from three starts.

    Args:
        network: keyword arguments of KAN without n.
        n: intervals of the coarsest and of the finest grid.
        epochs: epochs of the multilevel case; the controls do its work, or all its epochs.
        training: as in :class:`PDECase`.
    """
    coarse, fine = n
    starts: dict[str, tuple[str, dict[str, Any]]] = {
        "": ("scale 0.1", {}),
        "-scale0.01": ("scale 0.01", {"init_scale": 0.01}),
        "-prolonged": (f"prolonged from n = {coarse}", {"prolonged_from": coarse}),
    }
    kinds = {"": ("equal work", equal_work(epochs)), "-epochs": ("equal epochs", sum(epochs))}
    return {
        f"spline-fine{start}{kind}": PDECase(
            f"spline basis, n = {fine}, {label}, {what}",
            {**network, "n": fine, **options},
            (count,),
            training,
            start_level=len(epochs) - 1,
        )
        for start, (label, options) in starts.items()
        for kind, (what, count) in kinds.items()
    }


def equal_work(epochs: tuple[int, ...]) -> int:
    """Return the epochs on the finest level that cost as much as these, one entry a level."""
    return int(Schedule(epochs).work) // 2 ** (len(epochs) - 1)
