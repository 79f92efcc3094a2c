"""The options of a training, and what each must be."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, TypedDict, TypeVar, runtime_checkable

from torch import Tensor

from kanlib._checks import as_integer, as_list, as_number, check_function, shown
from kanlib.training.optimizers import FACTORY, Bindable, OptimizerFactory, adam, lbfgs
from kanlib.training.runs import State
from kanlib.training.schedulers import SchedulerFactory

__all__ = ["Options", "Remembering"]

Callback = Callable[[State], object]
Function = TypeVar("Function", bound=Callable[..., Any])

SCHEDULER = (
    "function from the optimizer to a torch scheduler whose step() takes no argument, e.g. "
    "kanlib.linear_ramp(1e-4, 10)"
)


@runtime_checkable
class Remembering(Protocol):
    """A callback with a state, which checkpoints hold, e.g. the best parameters so far.

    Examples:
        >>> import torch
        >>> from kanlib import KAN, MeanSquaredError, train
        >>> class Least:  # the least loss so far
        ...     loss = float("inf")
        ...     def __call__(self, state):
        ...         self.loss = min(self.loss, state.history.loss[-1])
        ...     def state_dict(self):
        ...         return {"loss": self.loss}
        ...     def load_state_dict(self, state):
        ...         self.loss = state["loss"]
        >>> least = Least()
        >>> isinstance(least, Remembering)
        True
        >>> x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
        >>> model = KAN([1, 1], n=4, dtype=torch.float64)
        >>> run = train(model, MeanSquaredError(x, x**2), 5, callbacks=[least], progress=False)
        >>> least.loss == min(run.history.loss[:-1])
        True
    """

    def __call__(self, state: State) -> object:
        """Look at the run after an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors, numbers, strings, lists and dicts."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


class Choices(TypedDict, total=False):
    """Names and types of the :class:`Options`, for those who check types."""

    optimizer: OptimizerFactory | None
    scheduler: SchedulerFactory | None
    batches: Iterable[Any] | None
    metrics: Mapping[str, Callable[[Any], Any]] | None
    metrics_every: int
    callbacks: Sequence[Callback]
    progress: bool
    checkpoint: str | Path | None
    checkpoint_every: float
    resume: bool


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of ``train`` and ``train_multilevel``.

    Args:
        optimizer: function from parameters to a torch optimizer, called on each level, an iteration
            of Table 1 (see :class:`kanlib.training.iterations.Iteration`), or what
            :class:`kanlib.training.optimizers.Bindable` describes; by default
            :data:`kanlib.training.optimizers.lbfgs`, and Adam with a rate of 1e-3 if there are
            batches.
        scheduler: function from the optimizer to a torch scheduler, stepped once an epoch; it
            restarts on each level.
        batches: iterable over batches for one epoch, e.g. a DataLoader.
        metrics: named functions of the model, recorded in ``run.history.metrics``.
        metrics_every: epochs between evaluations of the metrics.
        callbacks: functions of the :class:`kanlib.training.runs.State`, called after each epoch;
            one that raises :class:`kanlib.training.runs.Stop` ends the run, and one that is
            :class:`Remembering` goes on with its state when a run is resumed.
        progress: show a progress bar if the run takes longer than a second.
        checkpoint: file for checkpoints, written atomically; one that exists is not overwritten.
        checkpoint_every: least seconds between checkpoints.
        resume: continue from the checkpoint if it exists.

    Raises:
        TypeError: if an option is of the wrong kind, e.g. an optimizer in place of a function.
        ValueError: if a number is out of range, or ``resume`` has no checkpoint.

    Examples:
        >>> from functools import partial
        >>> import torch
        >>> from kanlib import KAN, MeanSquaredError, train
        >>> x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
        >>> run = train(
        ...     KAN([1, 1], n=4, dtype=torch.float64),
        ...     MeanSquaredError(x, x**2),
        ...     4,
        ...     optimizer=partial(torch.optim.Adam, lr=1e-2),
        ...     metrics={"end": lambda model: float(model(x[-1:]).detach())},
        ...     metrics_every=2,
        ...     progress=False,
        ... )
        >>> [row["epoch"] for row in run.history.metrics]
        [0, 2, 4]
    """

    optimizer: Any = None
    scheduler: Any = None
    batches: Any = None
    metrics: Any = field(default_factory=dict)
    metrics_every: int = 1
    callbacks: Any = ()
    progress: bool = True
    checkpoint: Any = None
    checkpoint_every: float = 5.0
    resume: bool = False

    def __post_init__(self) -> None:
        default = lbfgs if self.batches is None else adam
        self._set(optimizer=default if self.optimizer is None else self.optimizer)
        if isinstance(self.optimizer, type) or not isinstance(self.optimizer, Bindable):
            check_function("optimizer", self.optimizer, FACTORY)
        if self.scheduler is not None:
            check_function("scheduler", self.scheduler, SCHEDULER)
        self._check_batches()
        self._check_metrics()
        callbacks = as_list("callbacks", self.callbacks, "functions")
        for i, callback in enumerate(callbacks):
            check_function(f"callbacks[{i}]", callback)
        self._set(callbacks=callbacks)
        self._set(metrics_every=as_integer("metrics_every", self.metrics_every, minimum=1))
        every = as_number("checkpoint_every", self.checkpoint_every, minimum=0.0)
        self._set(checkpoint_every=every)
        for name in ("progress", "resume"):
            if not isinstance(getattr(self, name), bool):
                got = shown(getattr(self, name))
                raise TypeError(f"{name} must be True or False, got {got}")
        if self.checkpoint is not None:
            if not isinstance(self.checkpoint, str | os.PathLike):
                got = shown(self.checkpoint)
                raise TypeError(f"checkpoint must be the path of a file, e.g. 'run.pt', got {got}")
            self._set(checkpoint=Path(self.checkpoint).expanduser().absolute())
        elif self.resume:
            raise ValueError("resume=True needs a checkpoint file: pass checkpoint=PATH")

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_batches(self) -> None:
        if isinstance(self.batches, Iterator):
            raise TypeError(
                "batches must be iterable again and again, one pass an epoch (a DataLoader or a "
                f"list), got the iterator {self.batches!r}"
            )
        wrong = isinstance(self.batches, str | bytes | Mapping | Tensor)
        iterable = hasattr(self.batches, "__iter__") or hasattr(self.batches, "__getitem__")
        if wrong or not (self.batches is None or iterable):
            raise TypeError(
                "batches must be a DataLoader, or a list of batches as the objective takes them, "
                f"got {shown(self.batches)}"
            )

    def _check_metrics(self) -> None:
        metrics = {} if self.metrics is None else self.metrics
        if not isinstance(metrics, Mapping):
            raise TypeError(
                "metrics must be a dict of names and functions of the model, e.g. "
                f"{{'error': error}}, got {shown(metrics)}"
            )
        for name, metric in metrics.items():
            check_function(f"metrics[{name!r}]", metric)
        reserved = {"level", "epoch", "work"} & {*metrics}
        if reserved:
            raise ValueError(f"metrics must not be named {sorted(reserved)}: rename them")
        self._set(metrics=metrics)


def checked(given: Mapping[str, Any]) -> Options:
    """Return the options by their names.

    Raises:
        TypeError: if there is no such option, with one of a similar name.
    """
    names = [each.name for each in fields(Options)]
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1) or names
            raise TypeError(f"there is no option {name!r}: did you mean {' or '.join(close)}?")
    return Options(**given)


def takes_options(function: Function) -> Function:
    """Let the signature of a function with ``**options`` show all of them."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = inspect.signature(Options).parameters.values()
    function.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return function
