"""Training on one level: optimizer, progress, divergence, Ctrl-C, checkpoints.

An objective is any function that takes the model and returns a scalar loss; it may have a state
(see :class:`kanlib.objectives.Stateful`). An optimizer is given
as a function from parameters to a torch optimizer, e.g. ``functools.partial(torch.optim.Adam,
lr=1e-3)``, and a scheduler as a function from that optimizer to a torch scheduler, stepped once
an epoch. One epoch is one optimizer step (one step a batch, if batches are given).

A run that was killed and is resumed from its checkpoint ends with the numbers of an uninterrupted
one, bit for bit, provided that all randomness comes from torch's global generators or from the
generator of a DataLoader.

Callbacks are functions of the :class:`kanlib.runs.State`, called after each epoch. One that raises
:class:`kanlib.runs.Stop` ends the run with that reason, and so may an optimizer in its step.

An optimizer that needs more than parameters and a closure comes from a factory that is
:class:`Bindable`: ``factory.bind(model, objective)`` is called on each level, with the user's own
objective, and returns a torch optimizer or a :class:`Bound` one, which is stepped once an epoch.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LinearLR, LRScheduler, ReduceLROnPlateau
from tqdm import TqdmWarning

from kanlib.checkpoints import load_checkpoint, save_checkpoint
from kanlib.geometry import Iteration, new_optimizer
from kanlib.objectives import Objective, Stateful
from kanlib.runs import EndOfLevel, History, Level, Run, State, Stop

with warnings.catch_warnings():  # a notebook without ipywidgets gets no bar, and no complaint
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm


@runtime_checkable
class Bound(Protocol):
    """An optimizer that knows its model and objective, and evaluates them itself.

    ``evaluations`` counts its evaluations of the loss, accumulated. An attribute ``rate``, if there
    is one, is recorded as the learning rate, else 1.
    """

    evaluations: int

    def step(self) -> float:
        """Do one step; return the loss before it. The model may be changed in place only.

        Raises:
            Stop: if there is nothing left to do; the model is then as before the step.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on: tensors, numbers, strings, lists, dicts."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


@runtime_checkable
class Bindable(Protocol):
    """A factory of optimizers that need the model and the objective."""

    def bind(self, model: Any, objective: Any) -> Optimizer | Bound:
        """Return an optimizer of the model's parameters that minimises the objective."""


AnyOptimizer = Optimizer | Bound
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer] | Iteration | Bindable
Callback = Callable[[State], object]
SchedulerFactory = Callable[[Optimizer], LRScheduler]
Model = TypeVar("Model", bound=nn.Module)

#: L-BFGS as used for the paper's regression, with up to 20 inner iterations an epoch and strong
#: Wolfe line search (without it some seeds diverge).
lbfgs = partial(torch.optim.LBFGS, lr=1.0, max_iter=20, line_search_fn="strong_wolfe")

OPTIMIZER = (
    "function from parameters to a torch optimizer, e.g. functools.partial(torch.optim.Adam, "
    "lr=1e-3)"
)
SCHEDULER = (
    "function from the optimizer to a torch scheduler whose step() takes no argument, e.g. "
    "kanlib.linear_ramp(1e-4, 10)"
)
NO_BATCHES = "batches must hold at least one batch, got none: check the data set"

#: A loss beyond this multiple of its initial value, or of 1 if that is larger, is divergence.
DIVERGENCE_FACTOR = 1e6


def linear_ramp(initial_lr: float, steps: int) -> SchedulerFactory:
    """Return a scheduler that ramps the learning rate linearly up to the optimizer's own.

    It restarts at each level, as the optimizer does (the paper: 1e-4 to 1e-2 in 10 steps).

    Args:
        initial_lr: learning rate of the first epoch, positive.
        steps: number of epochs until the full rate, at least 1.

    Raises:
        ValueError: if an argument is out of range, or above the optimizer's rate when used.
    """
    if not initial_lr > 0 or steps < 1:
        raise ValueError(
            f"initial_lr must be positive and steps at least 1, got {initial_lr!r}, {steps!r}"
        )

    def ramp(optimizer: Optimizer) -> LRScheduler:
        start = _start_factor(optimizer, initial_lr, "a ramp goes up")
        return LinearLR(optimizer, start_factor=start, total_iters=steps)

    return ramp


def exponential_cycles(initial_lr: float, steps: int, gamma: float) -> SchedulerFactory:
    """Return a scheduler whose learning rate goes up and down, in ever smaller cycles.

    It rises linearly from ``initial_lr`` to the optimizer's own rate and falls back to
    ``initial_lr``, each in ``steps`` epochs; after k epochs the distance from ``initial_lr`` is
    gamma**k of that. This is torch's CyclicLR in the mode "exp_range", without cycles of the
    momentum. It restarts at each level, as the optimizer does.

    Args:
        initial_lr: lowest learning rate, positive; that of the first epoch.
        steps: number of epochs of a rise, at least 1.
        gamma: decay an epoch, in (0, 1]; the paper has 0.9995.

    Raises:
        ValueError: if an argument is out of range, or above the optimizer's rate when used.
    """
    if not initial_lr > 0 or steps < 1 or not 0 < gamma <= 1:
        raise ValueError(
            "initial_lr must be positive, steps at least 1 and gamma in (0, 1], "
            f"got {initial_lr!r}, {steps!r}, {gamma!r}"
        )

    def cycles(optimizer: Optimizer) -> LRScheduler:
        start = _start_factor(optimizer, initial_lr, "a cycle goes up first")
        rates = [group["lr"] for group in optimizer.param_groups]
        return CyclicLR(
            optimizer,
            [start * rate for rate in rates],
            rates,
            step_size_up=steps,
            mode="exp_range",
            gamma=gamma,
            cycle_momentum=False,
        )

    return cycles


def _start_factor(optimizer: Optimizer, initial_lr: float, reason: str) -> float:
    """Return the initial rate as a share of the optimizer's (that of its first group)."""
    target = optimizer.param_groups[0]["lr"]
    if initial_lr > target:
        raise ValueError(
            f"initial_lr = {initial_lr} exceeds the optimizer's learning rate {target}: {reason}"
        )
    return initial_lr / target


def train(
    model: nn.Module,
    objective: Objective,
    epochs: int,
    *,
    optimizer: OptimizerFactory = lbfgs,
    scheduler: SchedulerFactory | None = None,
    batches: Iterable[Any] | None = None,
    work_per_epoch: float = 1.0,
    metrics: Mapping[str, Callable[[nn.Module], float]] | None = None,
    metrics_every: int = 1,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 5.0,
    resume: bool = False,
) -> Run:
    """Train a model in place on one level.

    Args:
        model: any module.
        objective: ``objective(model)``, or ``objective(model, batch)`` if batches are given,
            returning a scalar loss.
        epochs: number of epochs, at least 0.
        optimizer: function from parameters to a torch optimizer, or an iteration of Table 1 (see
            :class:`kanlib.geometry.Iteration`).
        scheduler: function from the optimizer to a torch scheduler, stepped once an epoch.
        batches: iterable over batches for one epoch, e.g. a DataLoader.
        work_per_epoch: cost of an epoch in coarse epochs.
        metrics: named functions of the model, recorded in ``run.history.metrics``.
        metrics_every: epochs between evaluations of the metrics.
        callbacks: functions of the :class:`kanlib.runs.State`, called after each epoch; one that
            raises :class:`kanlib.runs.Stop` ends the run.
        progress: show a progress bar if the run takes longer than a second.
        checkpoint: file for checkpoints, written atomically.
        checkpoint_every: least seconds between checkpoints.
        resume: continue from the checkpoint if it exists.

    Returns:
        The run; ``run.model`` is ``model``.

    Raises:
        TypeError: if an argument is of the wrong kind, e.g. an optimizer in place of a function.
        ValueError: if an argument is out of range, the initial loss is not a finite scalar, or the
            checkpoint does not belong to this run.
        OSError: if the checkpoint cannot be written; found out before the first step.

    Examples:
        >>> from kanlib import MeanSquaredError
        >>> x = torch.linspace(0, 1, 50)[:, None]
        >>> line = nn.Linear(1, 1)
        >>> run = train(line, MeanSquaredError(x, 2 * x), epochs=5, progress=False)
        >>> run.loss < 1e-6
        True
    """
    if not 0 < work_per_epoch < math.inf:
        raise ValueError(f"work_per_epoch must be positive and finite, got {work_per_epoch!r}")
    trainer = Trainer(
        objective,
        [epochs],
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
    trainer.settings["work_per_epoch"] = work_per_epoch
    with trainer.bar:
        start = trainer.restore(lambda _: model)[1] if resume else None
        trainer.run_level(model, 0, work_per_epoch, start=start)
    return trainer.finish(model)


class Diverged(Exception):
    """The loss is not finite, or has exploded."""


class Trainer:
    """A run over one or several levels: what :func:`train` and ``train_multilevel`` share.

    Args:
        objective: see :func:`train`, as all options.
        epochs: number of epochs of each level.
    """

    def __init__(
        self,
        objective: Objective,
        epochs: list[int],
        *,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None,
        batches: Iterable[Any] | None,
        metrics: Mapping[str, Callable[[nn.Module], float]] | None,
        metrics_every: int,
        callbacks: Sequence[Callback],
        progress: bool,
        checkpoint: str | Path | None,
        checkpoint_every: float,
    ) -> None:
        for name, function, kind in (
            ("objective", objective, "function from the model to a scalar loss"),
            ("optimizer", optimizer, OPTIMIZER),
            ("scheduler", scheduler, SCHEDULER),
        ):
            bindable = name == "optimizer" and isinstance(function, Bindable)
            if not (callable(function) or bindable or (name == "scheduler" and function is None)):
                raise TypeError(f"{name} must be a {kind}; got {_kind(function)}")
        for count in epochs:
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise ValueError(f"epochs must be integers of at least 0, got {epochs}")
        if metrics_every < 1:
            raise ValueError(f"metrics_every must be at least 1 epoch, got {metrics_every!r}")
        reserved = {"level", "epoch", "work"} & {*(metrics or {})}
        if reserved:
            raise ValueError(f"metrics must not be named {sorted(reserved)}: rename them")
        if isinstance(batches, Iterator):
            raise TypeError(
                "batches must be iterable again and again, one pass an epoch (a DataLoader or a "
                f"list), got the iterator {batches!r}"
            )
        self.objective, self.epochs = objective, epochs
        self.stateful = objective if isinstance(objective, Stateful) else None
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.batches, self.metrics, self.metrics_every = batches, metrics or {}, metrics_every
        self.callbacks = callbacks
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.checkpoint_every = checkpoint_every
        self.settings: dict[str, Any] = {"epochs": epochs, "batches": batches is not None}
        self.history, self.levels = History(), list[Level]()
        self.level, self.epoch = 0, 0
        self.status, self.message = "completed", ""
        self.work, self.evaluations, self.seconds_before = 0.0, 0, 0.0
        self.started = self.saved = time.perf_counter()
        # disable=None: no bar where standard error is not a terminal (logs, test runs)
        self.bar = tqdm(
            total=sum(epochs), unit="epoch", delay=1.0, disable=None if progress else True
        )

    def run_level(
        self,
        model: nn.Module,
        level: int,
        work_per_epoch: float,
        optimizer: AnyOptimizer | None = None,
        start: dict[str, Any] | None = None,
    ) -> AnyOptimizer:
        """Train the model in place on one level, from the checkpoint ``start`` if given."""
        make: Any = self.make_optimizer
        if optimizer is None:
            bindable = isinstance(make, Bindable)
            optimizer = make.bind(model, self.objective) if bindable else new_optimizer(make, model)
        if not isinstance(optimizer, Optimizer | Bound):
            raise TypeError(f"optimizer must be a {OPTIMIZER}; it returned {_kind(optimizer)}")
        scheduler = None
        if isinstance(optimizer, Optimizer):
            scheduler = self.make_scheduler(optimizer) if self.make_scheduler else None
        elif self.batches is not None or self.make_scheduler:
            raise ValueError(
                f"optimizer {type(optimizer).__name__} evaluates the whole objective itself: leave "
                "out batches and scheduler"
            )
        usable = isinstance(scheduler, LRScheduler) and not isinstance(scheduler, ReduceLROnPlateau)
        if self.make_scheduler and not usable:
            raise TypeError(f"scheduler must be a {SCHEDULER}; it returned {_kind(scheduler)}")
        self.level, self.epoch = level, 0
        self.settings |= _names(optimizer, scheduler)
        self._good = _copied(model)  # the last values with a finite loss
        if start is not None:
            self._continue(optimizer, scheduler, start)
        self.bar.set_description(f"level {level}" if len(self.epochs) > 1 else "training")
        reason = ""
        try:
            self._save(model, optimizer, scheduler, force=True)
            while self.epoch < self.epochs[level]:
                self._measure(model)
                steps = 0
                for batch in [None] if self.batches is None else self.batches:
                    self._step(model, optimizer, batch)
                    steps += 1
                if not steps:
                    raise ValueError(NO_BATCHES)
                self.epoch, self.work = self.epoch + 1, self.work + work_per_epoch
                if scheduler is not None:
                    scheduler.step()
                self.bar.update()
                self._save(model, optimizer, scheduler)
                state = State(
                    model,
                    level,
                    self.epoch,
                    self.work,
                    self.evaluations,
                    self.history,
                    self.levels,
                )
                for callback in self.callbacks:
                    callback(state)
            self._save(model, optimizer, scheduler, force=True)
            self._check(self._loss(model))
        except Diverged as stop:
            _assign(model, self._good)
            self.status, self.message = "diverged", str(stop)
        except EndOfLevel as stop:
            reason = str(stop)
        except Stop as stop:
            self.status, self.message = "stopped", str(stop)
        except KeyboardInterrupt:
            self.interrupt()
        self._close(model, optimizer, reason)
        return optimizer

    def _step(self, model: nn.Module, optimizer: AnyOptimizer, batch: Any) -> None:
        """Do one optimizer step, or none if the loss is not finite or anything is raised."""
        before = _copied(model)
        rate = _rate(optimizer)
        losses: list[float] = []

        def closure() -> Tensor:
            assert isinstance(optimizer, Optimizer)
            optimizer.zero_grad()
            loss = self._evaluate(model, batch)
            if not losses:  # the loss before the step; a line search evaluates others
                losses.append(_number(loss))
                self._check(losses[0])
            if not loss.requires_grad:
                raise ValueError(
                    "objective must depend on a trainable parameter of the model, got a constant: "
                    "avoid detach() and no_grad(), or set requires_grad"
                )
            loss.backward()
            return loss

        try:
            if isinstance(optimizer, Optimizer):
                optimizer.step(closure)  # type: ignore[arg-type]  # torch wants a float
            else:
                done = optimizer.evaluations
                losses.append(float(optimizer.step()))
                self.evaluations += optimizer.evaluations - done
                self._check(losses[0])
        except BaseException:
            _assign(model, before)
            raise
        self._good = before
        if self.stateful is not None:
            self.stateful.after_step()
        self._record(losses[0], rate)
        self.bar.set_postfix_str(f"loss {losses[0]:.2e}", refresh=False)

    def _evaluate(self, model: nn.Module, batch: Any) -> Tensor:
        self.evaluations += 1
        loss = self.objective(model) if self.batches is None else self.objective(model, batch)
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else _kind(loss)
            raise ValueError(f"objective must return a scalar tensor, e.g. a mean(); got {what}")
        return loss

    def _loss(self, model: nn.Module) -> float:
        """Return the loss of the model (the mean over one pass, if there are batches)."""
        batches = [None] if self.batches is None else self.batches
        losses = [_number(self._evaluate(model, batch)) for batch in batches]
        if not losses:
            raise ValueError(NO_BATCHES)
        return sum(losses) / len(losses)

    def _check(self, loss: float) -> None:
        """Raise Diverged if the loss is not finite or exploded, ValueError at the very start."""
        if not self.history.loss and not math.isfinite(loss):
            raise ValueError(
                f"objective is {loss} for the initial model: check the data and the scale of the "
                "initial parameters"
            )
        initial = self.history.loss[0] if self.history.loss else loss
        if not math.isfinite(loss) or abs(loss) > DIVERGENCE_FACTOR * max(abs(initial), 1.0):
            raise Diverged(
                f"loss became {loss:.3g} at level {self.level}, epoch {self.epoch}, "
                f"step {len(self.history)}"
            )

    def _record(self, loss: float, rate: float) -> None:
        history = self.history
        history.level.append(self.level)
        history.epoch.append(self.epoch)
        history.loss.append(loss)
        history.learning_rate.append(rate)
        history.work.append(self.work)
        history.evaluations.append(self.evaluations)
        history.seconds.append(self._seconds())

    def _measure(self, model: nn.Module, force: bool = False) -> None:
        if self.metrics and (force or self.epoch % self.metrics_every == 0):
            row = {"level": self.level, "epoch": self.epoch, "work": self.work}
            row.update({name: _number(metric(model)) for name, metric in self.metrics.items()})
            self.history.metrics.append(row)

    def interrupt(self) -> None:
        """Note that Ctrl-C has ended the run."""
        self.status, self.message = "interrupted", f"at level {self.level}, epoch {self.epoch}"

    def _close(self, model: nn.Module, optimizer: AnyOptimizer, reason: str) -> None:
        """Record what the level ends with; a first Ctrl-C meanwhile does not lose it."""
        try:
            loss = self._loss(model)
            if not math.isfinite(loss):  # Ctrl-C right after a step that diverged
                _assign(model, self._good)
                loss = self._loss(model)
            self._measure(model, force=True)
        except KeyboardInterrupt:
            if self.status != "completed":
                raise
            self.interrupt()
            self._close(model, optimizer, reason)
            return
        self._record(loss, _rate(optimizer))
        self.levels.append(
            Level(
                n=getattr(model, "n", None),
                num_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
                epochs=self.epoch,
                loss=loss,
                work=self.work - sum(level.work for level in self.levels),
                evaluations=self.evaluations - sum(v.evaluations for v in self.levels),
                seconds=self._seconds() - sum(v.seconds for v in self.levels),
                message=reason,
            )
        )

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def finish(self, model: nn.Module) -> Run:
        """Return the run; warn if it diverged."""
        if self.status == "diverged":
            warnings.warn(f"training diverged: {self.message}", RuntimeWarning, stacklevel=3)
        return Run(model, self.history, self.levels, self.status, self.message)

    def _save(
        self,
        model: nn.Module,
        optimizer: AnyOptimizer,
        scheduler: LRScheduler | None,
        force: bool = False,
    ) -> None:
        now = time.perf_counter()
        if self.checkpoint is None or not (force or now - self.saved >= self.checkpoint_every):
            return
        self.saved = now
        objective = {} if self.stateful is None else {"objective": self.stateful.state_dict()}
        save_checkpoint(
            self.checkpoint,
            {
                **objective,
                "settings": self.settings,
                "level": self.level,
                "epoch": self.epoch,
                "model": model.state_dict(),
                "good": self._good,
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict() if scheduler else {},
                "history": asdict(self.history),
                "levels": [asdict(v) for v in self.levels],
                "work": self.work,
                "evaluations": self.evaluations,
                "seconds": self._seconds(),
                "random": torch.get_rng_state(),
                "random_cuda": torch.cuda.get_rng_state_all() if _uses_cuda(model) else [],
                "random_batches": [g.get_state() for g in _generators(self.batches)],
            },
        )

    def restore(self, build: Callable[[int], Model]) -> tuple[Model, dict[str, Any] | None]:
        """Return the model and the state to start from: the checkpoint's, or the beginning.

        Args:
            build: function from a level to a model for that level.

        Raises:
            ValueError: if the checkpoint is damaged or belongs to a different schedule or model.
        """
        if self.checkpoint is None:
            raise ValueError("resume=True needs a checkpoint file: pass checkpoint=PATH")
        if not self.checkpoint.exists():
            return build(0), None
        state = load_checkpoint(self.checkpoint)
        with self._fitting():
            for name, ours in self.settings.items():
                self._compare(name, state["settings"][name], ours)
            level, epoch = state["level"], state["epoch"]
            if not 0 <= level < len(self.epochs) or not 0 <= epoch <= self.epochs[level]:
                raise ValueError(f"it is at level {level}, epoch {epoch}")
            model = build(level)
            for name, value in model.state_dict().items():
                if isinstance(value, Tensor) and name in state["model"]:
                    self._compare(f"dtype of {name}", state["model"][name].dtype, value.dtype)
            model.load_state_dict(state["model"])
            self.history = History(**{name: state["history"][name] for name in vars(History())})
            self.levels = [Level(**v) for v in state["levels"]]
            self.work, self.evaluations = state["work"], state["evaluations"]
            self.seconds_before = state["seconds"]
            self.bar.update(sum(self.epochs[:level]) + epoch)
        return model, state

    def _continue(
        self, optimizer: AnyOptimizer, scheduler: LRScheduler | None, state: dict[str, Any]
    ) -> None:
        """Put optimizer, scheduler and random numbers into the state of a checkpoint."""
        with self._fitting():
            for name, ours in self.settings.items():
                self._compare(name, state["settings"][name], ours)
            optimizer.load_state_dict(state["optimizer"])
            if scheduler is not None:
                scheduler.load_state_dict(state["scheduler"])
            if self.stateful is not None:
                self.stateful.load_state_dict(state["objective"])
            self.epoch = state["epoch"]
            self._good = [
                value.to(mine) for value, mine in zip(state["good"], self._good, strict=True)
            ]
            torch.set_rng_state(state["random"])
            if state["random_cuda"]:
                torch.cuda.set_rng_state_all(state["random_cuda"])
            for generator, random in zip(
                _generators(self.batches), state["random_batches"], strict=True
            ):
                generator.set_state(random)

    def _compare(self, name: str, theirs: Any, ours: Any) -> None:
        if theirs != ours:
            raise ValueError(f"it has {name} = {theirs}, this run has {ours}")

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        """Say of any error inside that the checkpoint does not fit."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"checkpoint {self.checkpoint} is damaged or belongs to a different run: "
                f"{' '.join(reason.split())}; delete it to start anew, or go on with the model and "
                "the settings it was made with"
            ) from error


def _rate(optimizer: AnyOptimizer) -> float:
    """Return the learning rate that is recorded."""
    if isinstance(optimizer, Optimizer):
        return float(optimizer.param_groups[0]["lr"])
    return float(getattr(optimizer, "rate", 1.0))


def _names(optimizer: AnyOptimizer, scheduler: LRScheduler | None) -> dict[str, str]:
    """Return the kinds of optimizer and scheduler, and the options of the former."""
    plain = (bool, int, float, str, tuple)
    defaults = getattr(optimizer, "defaults", {})
    options = [f"{k}={v}" for k, v in defaults.items() if isinstance(v, plain)]
    return {
        "optimizer": f"{type(optimizer).__name__}({', '.join(options)})",
        "scheduler": type(scheduler).__name__,
    }


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _copied(model: nn.Module) -> list[Tensor]:
    return [t.detach().clone() for t in _tensors(model)]


@torch.no_grad()
def _assign(model: nn.Module, values: list[Tensor]) -> None:
    for tensor, value in zip(_tensors(model), values, strict=True):
        tensor.copy_(value)


def _generators(batches: Any) -> list[torch.Generator]:
    """Return the random generators that a DataLoader or its sampler own."""
    owners = (batches, getattr(batches, "sampler", None))
    generators = {id(g): g for g in (getattr(owner, "generator", None) for owner in owners)}
    return [g for g in generators.values() if isinstance(g, torch.Generator)]


def _number(value: Any) -> float:
    return float(value.detach() if isinstance(value, Tensor) else value)


def _kind(value: Any) -> str:
    return f"{value!r}" if value is None or isinstance(value, int | float) else type(value).__name__


def _uses_cuda(model: nn.Module) -> bool:
    return any(p.is_cuda for p in model.parameters())
