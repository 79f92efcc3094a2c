"""What an experiment is: named cases, seeds, and a function that runs one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kanlib.runs import Run


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
        training: keyword arguments of :func:`kanlib.experiments.pdes.training`.
        problem: keyword arguments of the problem.
        start_level: as in :class:`Case`.
        mlp: whether the network is an MLP.
        calibrate: whether the leading linear map is rescaled to cover the splines.
        keep: whether the record keeps the weights at the end of each level, of the first seed.
        paper: as in :class:`Case`.
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
    """

    title: str
    source: str
    cases: Mapping[str, Any]
    seeds: tuple[int, ...]
    execute: Callable[..., tuple[Run, dict[str, float], Solutions]] = field(repr=False)
