"""Training on one level: objective, optimizer, history, progress, checkpoints.

An objective is any function that takes the model and returns a scalar loss. An optimizer is given
as a function from parameters to a torch optimizer, e.g. ``functools.partial(torch.optim.Adam,
lr=1e-3)``, and a scheduler as a function from that optimizer to a torch scheduler, stepped once
an epoch. One epoch is one optimizer step (one step a batch, if batches are given).
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler
from tqdm.auto import tqdm

from kanlib.checkpoints import load_checkpoint, save_checkpoint
from kanlib.geometry import Iteration, new_optimizer

Objective = Callable[..., Tensor]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer] | Iteration
SchedulerFactory = Callable[[Optimizer], LRScheduler]

#: L-BFGS as used for the paper's regression: up to 20 inner iterations an epoch, strong Wolfe
#: line search (without it some seeds diverge).
lbfgs: OptimizerFactory = partial(
    torch.optim.LBFGS, lr=1.0, max_iter=20, line_search_fn="strong_wolfe"
)

#: A loss that grows beyond this multiple of its initial value counts as divergence.
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
        target = optimizer.param_groups[0]["lr"]
        if initial_lr > target:
            raise ValueError(
                f"initial_lr = {initial_lr} exceeds the optimizer's learning rate {target}: "
                "a ramp goes up"
            )
        return LinearLR(optimizer, start_factor=initial_lr / target, total_iters=steps)

    return ramp


class MeanSquaredError:
    """The objective mean((model(x) - y)**2) over a fixed data set.

    Args:
        x: inputs of shape (N, P).
        y: targets of shape (N, Q), same dtype and device as x.

    Raises:
        ValueError: if the data are empty, not finite, not two-dimensional or do not match.

    Examples:
        >>> objective = MeanSquaredError(torch.zeros(4, 2), torch.ones(4, 1))
        >>> objective(lambda x: x.sum(dim=1, keepdim=True))
        tensor(1.)
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        for name, data in (("x", x), ("y", y)):
            if not isinstance(data, Tensor) or not data.is_floating_point():
                kind = data.dtype if isinstance(data, Tensor) else type(data).__name__
                raise TypeError(f"{name} must be a floating-point tensor, got {kind}")
            if data.ndim != 2 or data.shape[0] == 0:
                raise ValueError(
                    f"{name} must have shape (N, features) with N >= 1, got {tuple(data.shape)}"
                )
            bad = ~torch.isfinite(data).all(dim=1)
            if bad.any():
                raise ValueError(
                    f"{name} must be finite, got NaN or infinite entries in {int(bad.sum())} "
                    f"row(s), the first at {int(bad.nonzero()[0])}: remove or repair them"
                )
        if x.shape[0] != y.shape[0] or x.dtype != y.dtype or x.device != y.device:
            raise ValueError(
                "x and y must agree in rows, dtype and device, got "
                f"{tuple(x.shape)} {x.dtype} {x.device} and {tuple(y.shape)} {y.dtype} {y.device}"
            )
        self.x, self.y = x, y

    def __call__(self, model: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the mean squared error of the model."""
        prediction = model(self.x)
        if prediction.shape != self.y.shape:
            raise ValueError(
                f"model output has shape {tuple(prediction.shape)} but y has "
                f"{tuple(self.y.shape)}: the last width of the model must be {self.y.shape[1]}"
            )
        return (prediction - self.y).square().mean()


@dataclass
class History:
    """One entry a step, plus one at the end of each level; all lists have the same length.

    ``loss[i]`` is the loss before step i (after the last step, in the entry that ends a level).
    ``work`` counts coarse epochs, ``evaluations`` calls of the objective, both accumulated.
    ``metrics`` holds one row for each evaluation of the user's metrics.
    """

    level: list[int] = field(default_factory=list)
    epoch: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.loss)

    def __repr__(self) -> str:
        if not self.loss:
            return "History(empty)"
        return f"History({len(self)} entries, loss {self.loss[0]:.3e} -> {self.loss[-1]:.3e})"


@dataclass
class Level:
    """Summary of one level of a run: its own epochs, work, evaluations and seconds."""

    n: int | None
    num_parameters: int
    epochs: int
    loss: float
    work: float
    evaluations: int
    seconds: float


@dataclass(repr=False)
class Run:
    """The result of a training: the model, its history and how the run ended.

    ``status`` is "completed", "interrupted" (Ctrl-C; the model holds the last finished step) or
    "diverged" (the model holds the last parameters with a finite loss; ``message`` says where).
    ``work`` counts coarse epochs: an epoch on n intervals costs n / n_coarse.
    """

    model: Any
    history: History
    levels: list[Level]
    status: str = "completed"
    message: str = ""

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
        lines.append("level      n  parameters  epochs       loss      work     seconds")
        for number, v in enumerate(self.levels):
            n = "-" if v.n is None else v.n
            lines.append(
                f"{number:5d}  {n:>5}  {v.num_parameters:10d}  {v.epochs:6d}  {v.loss:9.3e}  "
                f"{v.work:8g}  {v.seconds:10.2f}"
            )
        return "\n".join(lines)


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
        progress: show a progress bar if the run takes longer than a second.
        checkpoint: file for checkpoints, written atomically.
        checkpoint_every: least seconds between checkpoints.
        resume: continue from the checkpoint if it exists.

    Returns:
        The run; ``run.model`` is ``model``.

    Raises:
        ValueError: if an argument is out of range, the initial loss is not a finite scalar, or the
            checkpoint does not belong to this run.

    Examples:
        >>> x = torch.linspace(0, 1, 50)[:, None]
        >>> line = nn.Linear(1, 1)
        >>> run = train(line, MeanSquaredError(x, 2 * x), epochs=5, progress=False)
        >>> run.loss < 1e-6
        True
    """
    trainer = Trainer(
        objective,
        [epochs],
        optimizer=optimizer,
        scheduler=scheduler,
        batches=batches,
        metrics=metrics,
        metrics_every=metrics_every,
        progress=progress,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )
    level, start = trainer.restore(lambda _: model) if resume else (model, None)
    trainer.run_level(level, 0, work_per_epoch, start=start)
    return trainer.finish(level)


class Stopped(Exception):
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
        progress: bool,
        checkpoint: str | Path | None,
        checkpoint_every: float,
    ) -> None:
        if not callable(objective):
            raise TypeError(f"objective must be a function of the model, got {objective!r}")
        for count in epochs:
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise ValueError(f"epochs must be integers of at least 0, got {epochs}")
        if metrics_every < 1:
            raise ValueError(f"metrics_every must be at least 1 epoch, got {metrics_every!r}")
        if batches is not None and iter(batches) is batches:
            raise TypeError(
                "batches must be iterable again and again, one pass an epoch (a DataLoader or a "
                f"list), got the iterator {batches!r}"
            )
        self.objective, self.epochs = objective, epochs
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.batches, self.metrics, self.metrics_every = batches, metrics or {}, metrics_every
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.checkpoint_every = checkpoint_every
        self.history, self.levels = History(), list[Level]()
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
        optimizer: Optimizer | None = None,
        start: dict[str, Any] | None = None,
    ) -> Optimizer:
        """Train the model in place on one level, from the checkpoint ``start`` if given."""
        optimizer = optimizer or new_optimizer(self.make_optimizer, model)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                "optimizer must be a function from parameters to a torch optimizer, e.g. "
                f"functools.partial(torch.optim.Adam, lr=1e-3); it returned {optimizer!r}"
            )
        scheduler = self.make_scheduler(optimizer) if self.make_scheduler else None
        first = 0
        if start is not None:
            first = start["epoch"]
            optimizer.load_state_dict(start["optimizer"])
            if scheduler is not None:
                scheduler.load_state_dict(start["scheduler"])
        self.bar.set_description(f"level {level}" if len(self.epochs) > 1 else "training")
        self._good = self._before = _copy_parameters(model)
        epoch = first
        try:
            for epoch in range(first, self.epochs[level]):
                self._measure(model, level, epoch)
                for batch in [None] if self.batches is None else self.batches:
                    self._step(model, optimizer, level, epoch, batch)
                if scheduler is not None:
                    scheduler.step()
                self.work += work_per_epoch
                self.bar.update()
                self._save(model, optimizer, scheduler, level, epoch + 1)
            epoch = self.epochs[level]
            self._save(model, optimizer, scheduler, level, epoch, force=True)
            self._check(self._loss(model), level, epoch)
        except Stopped as stop:
            _set_parameters(model, self._good)
            self.status, self.message = "diverged", str(stop)
        except KeyboardInterrupt:
            _set_parameters(model, self._before)
            self.status, self.message = "interrupted", f"at level {level}, epoch {epoch}"
        self._record(level, epoch, self._loss(model), optimizer.param_groups[0]["lr"])
        self._measure(model, level, epoch, force=True)
        self._summarise(model)
        return optimizer

    def _step(
        self, model: nn.Module, optimizer: Optimizer, level: int, epoch: int, batch: Any
    ) -> None:
        """Do one optimizer step, unless the loss it starts from is not finite."""
        self._before = _copy_parameters(model)
        rate = float(optimizer.param_groups[0]["lr"])

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self._evaluate(model, batch)
            loss.backward()
            return loss

        loss = float(optimizer.step(closure).detach())  # of the parameters before the step
        self._check(loss, level, epoch)
        self._good = self._before
        self._record(level, epoch, loss, rate)
        self.bar.set_postfix_str(f"loss {loss:.2e}", refresh=False)

    def _evaluate(self, model: nn.Module, batch: Any) -> Tensor:
        self.evaluations += 1
        loss = self.objective(model) if self.batches is None else self.objective(model, batch)
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            what = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"objective must return a scalar tensor, got {what}: take its mean")
        return loss

    def _loss(self, model: nn.Module) -> float:
        """Return the loss of the model (the mean over one pass, if there are batches)."""
        batches = [None] if self.batches is None else self.batches
        losses = [float(self._evaluate(model, batch).detach()) for batch in batches]
        if not losses:
            raise ValueError("batches must hold at least one batch, got none: check the data set")
        return sum(losses) / len(losses)

    def _check(self, loss: float, level: int, epoch: int) -> None:
        """Raise Stopped if the loss is not finite or has exploded, ValueError at the very start."""
        if not self.history.loss and not math.isfinite(loss):
            raise ValueError(
                f"objective is {loss} for the initial model: check the data and the scale of the "
                "initial parameters"
            )
        initial = self.history.loss[0] if self.history.loss else loss
        if not math.isfinite(loss) or abs(loss) > DIVERGENCE_FACTOR * max(abs(initial), 1e-12):
            step = len(self.history)
            raise Stopped(f"loss became {loss:.3g} at level {level}, epoch {epoch}, step {step}")

    def _record(self, level: int, epoch: int, loss: float, rate: float) -> None:
        history = self.history
        history.level.append(level)
        history.epoch.append(epoch)
        history.loss.append(loss)
        history.learning_rate.append(float(rate))
        history.work.append(self.work)
        history.evaluations.append(self.evaluations)
        history.seconds.append(self._seconds())

    def _measure(self, model: nn.Module, level: int, epoch: int, force: bool = False) -> None:
        if self.metrics and (force or epoch % self.metrics_every == 0):
            row = {"level": level, "epoch": epoch, "work": self.work}
            row.update({name: float(metric(model)) for name, metric in self.metrics.items()})
            self.history.metrics.append(row)

    def _summarise(self, model: nn.Module) -> None:
        self.levels.append(
            Level(
                n=getattr(model, "n", None),
                num_parameters=sum(p.numel() for p in model.parameters()),
                epochs=self.history.epoch[-1],
                loss=self.history.loss[-1],
                work=self.work - sum(level.work for level in self.levels),
                evaluations=self.evaluations - sum(v.evaluations for v in self.levels),
                seconds=self._seconds() - sum(v.seconds for v in self.levels),
            )
        )

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def finish(self, model: nn.Module) -> Run:
        """Close the progress bar and return the run."""
        self.bar.close()
        if self.status == "diverged":
            warnings.warn(f"training diverged: {self.message}", RuntimeWarning, stacklevel=3)
        return Run(model, self.history, self.levels, self.status, self.message)

    def _save(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        level: int,
        epoch: int,
        force: bool = False,
    ) -> None:
        now = time.perf_counter()
        if self.checkpoint is None or not (force or now - self.saved >= self.checkpoint_every):
            return
        self.saved = now
        save_checkpoint(
            self.checkpoint,
            {
                "epochs": self.epochs,
                "level": level,
                "epoch": epoch,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict() if scheduler else {},
                "history": asdict(self.history),
                "levels": [asdict(v) for v in self.levels],
                "work": self.work,
                "evaluations": self.evaluations,
                "seconds": self._seconds(),
                "random": torch.get_rng_state(),
                "random_cuda": torch.cuda.get_rng_state_all() if _uses_cuda(model) else [],
            },
        )

    def restore(
        self, build: Callable[[int], nn.Module]
    ) -> tuple[nn.Module, dict[str, Any] | None]:
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
        if state["epochs"] != self.epochs:
            raise ValueError(
                f"checkpoint {self.checkpoint} has epochs {state['epochs']}, this run has "
                f"{self.epochs}: delete it to start anew, or use the same schedule"
            )
        model = build(state["level"])
        try:
            model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError(
                f"checkpoint {self.checkpoint} belongs to a different model: {error}"
            ) from None
        self.history = History(**state["history"])
        self.levels = [Level(**v) for v in state["levels"]]
        self.work, self.evaluations = state["work"], state["evaluations"]
        self.seconds_before = state["seconds"]
        torch.set_rng_state(state["random"])
        if state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])
        self.bar.update(sum(self.epochs[: state["level"]]) + state["epoch"])
        return model, state


def _copy_parameters(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


@torch.no_grad()
def _set_parameters(model: nn.Module, values: list[Tensor]) -> None:
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.copy_(value)


def _uses_cuda(model: nn.Module) -> bool:
    return any(p.is_cuda for p in model.parameters())
