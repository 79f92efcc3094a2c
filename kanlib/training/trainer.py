"""Training: the loop over epochs and levels, divergence, Ctrl-C, callbacks.

An objective is any function that takes the model and returns a scalar loss; it may have a state
(see :class:`kanlib.objectives.mean_squared_error.Stateful`). An optimizer is given as a function
from parameters to a torch optimizer, and a scheduler as a function from that optimizer to a torch
scheduler, stepped once an epoch; :class:`kanlib.training.options.Options` has all options. One
epoch is one optimizer step (one step a batch, if batches are given). Callbacks see the
:class:`kanlib.training.runs.State` after each epoch; one that raises
:class:`kanlib.training.runs.Stop` ends the run with that reason, and so may an optimizer.

A run that was killed and is resumed from its checkpoint ends with the numbers of an uninterrupted
one, bit for bit, provided that all randomness comes from torch's global generators or from the
generators of a DataLoader and its samplers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import TqdmWarning

from kanlib._checks import as_integer, as_number, as_result, check_function, shown
from kanlib.nn.networks import num_trainable
from kanlib.objectives.mean_squared_error import Objective, Stateful, Summed, evaluated
from kanlib.objectives.shares import shares_of
from kanlib.objectives.unknowns import check_entered, leaves, unknowns_of
from kanlib.training.coordinates import copies
from kanlib.training.optimizers import new_optimizer, optimized, rate, why_idle
from kanlib.training.options import SCHEDULER, Choices, Options, checked, takes_options
from kanlib.training.runs import EndOfLevel, Level, Model, Run, State, Stop
from kanlib.training.schedule import Schedule
from kanlib.training.snapshot import Snapshots, assign, samplers, tensors, untouched
from kanlib.training.stagnation import JUDGED, Stagnation, fresh

with warnings.catch_warnings():  # a notebook without ipywidgets gets no bar, and no complaint
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["train"]

#: A loss that is larger than its first value, than its lowest and than 1 by this factor is
#: divergence.
DIVERGENCE_FACTOR = 1e6


@takes_options
def train(
    model: Model,
    objective: Objective,
    epochs: int | Schedule,
    *,
    work_per_epoch: float = 1.0,
    **options: Unpack[Choices],
) -> Run[Model]:
    """Train a model in place on one level.

    Args:
        model: any module.
        objective: ``objective(model)``, or ``objective(model, batch)`` if batches are given,
            returning a scalar loss.
        epochs: number of epochs, at least 0, or a Schedule of one level.
        work_per_epoch: cost of an epoch in coarse epochs.
        **options: see :class:`kanlib.training.options.Options`.

    Returns:
        The run; ``run.model`` is ``model``.

    Raises:
        TypeError: if an argument is of the wrong kind, e.g. an optimizer in place of a function.
        ValueError: if an argument is out of range, the initial loss is not a finite scalar, or the
            checkpoint is damaged or does not belong to this run.
        OSError: if the checkpoint exists, and ``resume`` is not given, or cannot be written; found
            out before the first step.

    Examples:
        >>> from kanlib import MeanSquaredError
        >>> x = torch.linspace(0, 1, 50)[:, None]
        >>> line = nn.Linear(1, 1)
        >>> run = train(line, MeanSquaredError(x, 2 * x), epochs=2, progress=False)
        >>> run.loss < 1e-6
        True
    """
    work = as_number("work_per_epoch", work_per_epoch, above=0.0)
    if not isinstance(epochs, Schedule):
        epochs = Schedule([as_integer("epochs", epochs, minimum=0)])
    elif epochs.num_levels > 1:
        levels = epochs.num_levels
        raise ValueError(f"epochs must have one level, got {levels}: use train_multilevel()")
    trainer = Trainer(objective, epochs, checked(options), lambda _: work, {"work_per_epoch": work})
    return trainer.run(model)


class Diverged(Exception):
    """The loss is not finite, or has exploded."""


class Trainer:
    """A run over one or several levels.

    Args:
        objective: see :func:`train`.
        schedule: epochs of each level, and what ends one before them.
        options: all options.
        cost: function from a model to the work of one of its epochs.
        settings: further settings, which must be the same on resuming.
        refine: function from a model to that of the next level.
        carry: function from an optimizer, its model, the next one and the objective to the
            optimizer of the next level; by default it is new.
    """

    def __init__(
        self,
        objective: Objective,
        schedule: Schedule,
        options: Options,
        cost: Callable[[Any], float],
        settings: dict[str, Any],
        refine: Callable[[Any], Any] | None = None,
        carry: Callable[[Any, Any, Any, Any], Any] | None = None,
    ) -> None:
        check_function("objective", objective, "function from the model to a scalar loss")
        self.objective, self.options = objective, options
        self.epochs, self.until = [*schedule.epochs], schedule.until
        self.judge = None if self.until is None else self._judge(self.until)
        self.cost, self.refine, self.carry = cost, refine, carry
        self.shares = shares_of(objective)
        self.status, self.message, self.why_idle = "completed", "", ""
        self.summed = isinstance(objective, Summed) and not self.batched
        self.names: list[str] = []
        self.snapshots = Snapshots(
            options.checkpoint,
            options.checkpoint_every,
            objective,
            options.batches,
            options.callbacks,
            (lambda model: _number(self._evaluated(model, None)[0])) if not self.batched else None,
            {**settings, "until": None if self.until is None else str(self.until)},
            self.epochs,
        )

    @property
    def batched(self) -> bool:
        """Whether the objective takes batches."""
        return self.options.batches is not None

    def run(self, model: Model, optimizer: Any = None) -> Run[Model]:
        """Train on all levels, or on those that are left; the first may have an optimizer."""
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {shown(model)}: build the network")
        content = self.snapshots.found(model, self.options.resume)
        if content is not None:
            model = self.snapshots.rebuilt(model, content, self.refine or (lambda same: same))
        self.state = State(model, level=content["state"]["level"] if content else 0)
        # disable=None: no bar where standard error is not a terminal (logs, test runs)
        self.bar = tqdm(
            total=sum(self.epochs),
            unit="epoch",
            delay=1.0,
            disable=None if self.options.progress and self.shares.first else True,
        )
        with self.bar:
            self._run_level(optimizer, content)
            while self.status == "completed" and self.state.level + 1 < len(self.epochs):
                try:
                    optimizer = self._refine()
                except KeyboardInterrupt:
                    self._interrupt()
                else:
                    self._run_level(optimizer)
        return self._finished()

    def _refine(self) -> Any:
        """Go to the next level; return the optimizer that was carried there, if any."""
        assert self.refine is not None
        state, coarse = self.state, self.state.model
        fine = self.refine(coarse)
        check_refined(coarse, fine)
        carried = None
        if self.carry:
            carried = self.carry(state.optimizer, coarse, fine, self.objective)
        state.model, state.level = fine, state.level + 1
        state.epoch = state.steps = state.idle = 0
        state.ended, state.judged = "", []
        return carried

    def _run_level(self, optimizer: Any, content: dict[str, Any] | None = None) -> None:
        """Train the model in place on one level, from a checkpoint if it is given."""
        state = self.state
        state.optimizer = optimizer or new_optimizer(
            self.options.optimizer, state.model, self.objective
        )
        self.snapshots.identify(optimizer=state.optimizer)
        state.scheduler = self._scheduler()
        self.snapshots.identify(scheduler=state.scheduler)
        self.good = self._copied()  # the last values with a finite loss
        if content is not None:
            self.good = self.snapshots.put_back(state, content, self.good)
            self.bar.update(sum(self.epochs[: state.level]) + state.epoch)
        self.reads_checked = False
        losses = state.history.loss
        self.lowest = min(losses, default=math.inf)
        cost = self.cost(state.model) * getattr(state.optimizer, "work", 1.0)
        self.bar.set_description(f"level {state.level}" if len(self.epochs) > 1 else "training")
        found = None
        try:
            self._check_terms()
            self._save(force=True)
            try:
                self._epochs(cost)
            except EndOfLevel as end:
                state.ended = str(end) or "no reason given"
                self._save(force=True)
            except Stop as stop:
                state.stopped = str(stop) or "no reason given"
                self._save(force=True)
            if state.stopped:
                self.status, self.message = "stopped", state.stopped
            found = self._loss()
            self._check(found[0])
        except Diverged as stop:
            assign(state, self.good)
            self.status, self.message, found = "diverged", str(stop), None
        except KeyboardInterrupt:
            self._interrupt()
        self._close(found)

    def _epochs(self, cost: float) -> None:
        """Do the epochs that are left on this level; each costs the same."""
        state = self.state
        while state.epoch < self.epochs[state.level] and not (state.ended or state.stopped):
            self._judge_level()
            self._measure()
            self._epoch()
            state.epoch, state.work = state.epoch + 1, state.work + cost
            if state.scheduler is not None:
                state.scheduler.step()
            self.bar.update()
            for callback in self.options.callbacks:
                callback(state)
            self._save(force=state.epoch == self.epochs[state.level])

    def _scheduler(self) -> LRScheduler | None:
        """Return the scheduler of the present optimizer."""
        make, optimizer = self.options.scheduler, self.state.optimizer
        if not isinstance(optimizer, Optimizer):
            if make is not None or self.batched:
                raise ValueError(
                    f"optimizer {type(optimizer).__name__} evaluates the whole objective itself: "
                    "leave out batches and scheduler"
                )
            return None
        if make is None:
            return None
        scheduler = make(optimizer)
        if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
            raise TypeError(f"scheduler must be a {SCHEDULER}; it returned {shown(scheduler)}")
        if scheduler.optimizer is not optimizer:
            raise ValueError(
                f"scheduler {type(scheduler).__name__} was built of another optimizer, so that it "
                "would change nothing: build it from the optimizer that the function is given"
            )
        return scheduler

    def _epoch(self) -> None:
        """Do one step, or one a batch."""
        steps, moved = 0, 0
        for batch in self._batches():
            moved += self._step(batch)
            steps += 1
        if not steps:
            raise ValueError(NO_BATCHES)
        self.state.steps += moved
        self.state.idle += not moved

    def _batches(self) -> Iterable[Any]:
        """Return the batches of a pass; samplers of torch.distributed are told which one it is."""
        done = sum(self.epochs[: self.state.level]) + self.state.epoch
        for sampler in samplers(self.options.batches):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(done)
        return self.options.batches if self.batched else [None]

    def _step(self, batch: Any) -> bool:
        """Do one optimizer step, or none if the loss is not finite or anything is raised.

        Returns whether it changed a tensor.
        """
        state, optimizer, before = self.state, self.state.optimizer, self._copied()
        learning_rate, weights = rate(optimizer), self._weights()
        losses: list[float] = []
        terms: dict[str, Any] = {}

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss, parts = self._counted(batch)
            if not losses:  # the loss before the step; a line search evaluates others
                losses.append(_number(loss))
                terms.update(parts)
                self._check(losses[0])
                self._check_reads(loss)
            loss.backward()
            return loss

        try:
            if isinstance(optimizer, Optimizer):
                optimizer.step(closure)  # type: ignore[arg-type]  # torch wants a float
                if not losses:
                    raise TypeError(
                        f"optimizer must call the closure that step() is given, as those of torch "
                        f"do, but {type(optimizer).__name__} does not"
                    )
            else:
                losses.append(self._bound_step(optimizer))
                terms.update(getattr(optimizer, "terms", {}))
                self._check(losses[0])
        except BaseException:
            assign(state, before)
            raise
        self.good = before
        if isinstance(self.objective, Stateful):
            self.objective.after_step()
        self._record(losses[0], terms, weights, learning_rate)
        split = [f"{name} {values[-1]:.2e}" for name, values in state.history.terms.items()]
        self.bar.set_postfix_str(", ".join([f"loss {losses[0]:.2e}", *split]), refresh=False)
        pairs = zip(tensors(state), before, strict=True)
        moved = any(t.requires_grad and not torch.equal(t, old) for t, old in pairs)
        if not moved:
            self.why_idle = why_idle(optimizer)
        return moved

    def _bound_step(self, optimizer: Any) -> float:
        """Return the loss before a step of an optimizer that evaluates the objective itself."""
        if not self.reads_checked:
            with untouched(self.state.model):
                self._check_reads(self._evaluated(self.state.model, None)[0])
        done = optimizer.evaluations
        try:
            loss_before = float(optimizer.step())
        except EndOfLevel:  # what the last step has cost counts, though it was in vain
            self.state.evaluations += optimizer.evaluations - done
            raise
        self.state.evaluations += optimizer.evaluations - done
        return loss_before

    def _counted(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        self.state.evaluations += 1
        return self._evaluated(self.state.model, batch)

    def _evaluated(self, model: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and its terms where they have names."""
        parts: dict[str, Tensor] = {}
        if self.batched:
            loss = self.objective(model, batch)
        else:
            loss, parts = evaluated(self.objective, model)
        if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.is_floating_point():
            raise ValueError(
                f"objective must return a scalar tensor, e.g. a mean(), got {shown(loss)}"
            )
        return loss, {name: part.detach() for name, part in parts.items()}

    def _check_terms(self) -> None:
        """Note the names of the terms; raise unless they add up to the objective."""
        if not self.summed or self.names:
            return
        model = self.state.model
        with untouched(model):
            loss, parts = self._evaluated(model, None)
        with untouched(model):
            ours, theirs = _number(loss), _number(self.objective(model))
        self.names = [*parts]
        eps = torch.finfo(loss.dtype).eps
        if not math.isclose(ours, theirs, rel_tol=eps**0.5) and math.isfinite(ours + theirs):
            raise ValueError(
                f"parts of the objective must add up to the objective, got {ours:.6g} and "
                f"{theirs:.6g}: override parts, too, in a class that overrides __call__"
            )

    def _loss(self) -> tuple[float, dict[str, Tensor]]:
        """Return the loss of the model (the mean over one pass, if there are batches).

        The terms have names without batches only.
        """
        found = [self._counted(batch) for batch in self._batches()]
        if not found:
            raise ValueError(NO_BATCHES)
        return sum(_number(loss) for loss, _ in found) / len(found), found[-1][1]

    def _check(self, loss: float) -> None:
        """Raise Diverged if the loss is not finite or exploded, ValueError at the very start."""
        state = self.state
        if not state.history.loss and not math.isfinite(loss):
            raise ValueError(
                f"objective is {loss} for the initial model: check the data and the scale of the "
                "initial parameters"
            )
        self.lowest = min(self.lowest, loss)
        first = state.history.loss[0] if state.history.loss else loss
        most = DIVERGENCE_FACTOR * max(abs(first), abs(self.lowest), 1.0)
        if not math.isfinite(loss) or loss > most:
            raise Diverged(
                f"loss became {loss:.3g} at level {state.level}, epoch {state.epoch}, "
                f"step {len(state.history)}"
            )

    def _check_reads(self, loss: Tensor) -> None:
        """Check once a level that what the objective reads is what the optimizer changes."""
        if not loss.requires_grad:
            raise ValueError(
                "objective must depend on a trainable parameter of the model, got a constant: "
                "avoid detach() and no_grad(), or set requires_grad"
            )
        if self.reads_checked:
            return
        self.reads_checked = True
        check_entered(self.objective, loss)
        names = {id(p): name for name, p in self.state.model.named_parameters()}
        own = {id(p): name for name, p in unknowns_of(self.objective).items()}
        changed = {id(p) for p in optimized(self.state.optimizer)}
        if not isinstance(self.state.optimizer, Optimizer):  # it trains all that it is bound to
            changed |= {*names, *own}
        read = [t for t in leaves(loss) if id(t) not in changed]
        lacking = {*map(id, read)} & {*names, *own}
        left = ", ".join(name for i, name in names.items() if i in lacking)
        left = f"{left} of the model" if left else ""
        left = ", ".join(filter(None, [left, *(own[i] for i in own if i in lacking - {*names})]))
        strange = [
            tuple(t.shape)
            for t in read
            # Tensors of points require gradients, too, where derivatives are taken by autograd.
            if id(t) not in lacking and (isinstance(t, nn.Parameter) or t.ndim <= 1)
        ]
        if left:
            warnings.warn(
                f"the optimizer lacks {left}, which the objective reads: they stay as they are; "
                "hand all parameters on to the optimizer, or freeze these with "
                "requires_grad_(False)",
                RuntimeWarning,
                stacklevel=2,
            )
        if strange:
            warnings.warn(
                f"objective reads tensors of shapes {strange} at level {self.state.level} that "
                "require gradients and are neither in the model nor in the optimizer: they stay as "
                "they are; make each a parameter of the model (model.k = k) and read it from the "
                "model that the objective is given, give it to the optimizer (lambda p: "
                "Adam([*p, k])), or freeze it with requires_grad_(False)",
                RuntimeWarning,
                stacklevel=2,
            )

    def _weights(self) -> dict[str, float]:
        """Return the weights of the terms, if they change."""
        return getattr(self.objective, "balanced", {})

    def _record(
        self,
        loss: float,
        terms: Mapping[str, Any],
        weights: Mapping[str, float],
        learning_rate: float,
    ) -> None:
        """Add an entry to the history; a term that is not known is NaN there."""
        state, history = self.state, self.state.history
        own = {name: [float(terms.get(name, math.nan))] for name in self.names}
        history.append_named(own, {name: [weight] for name, weight in weights.items()}, 1)
        history.level.append(state.level)
        history.epoch.append(state.epoch)
        history.loss.append(loss)
        history.learning_rate.append(learning_rate)
        history.work.append(state.work)
        history.evaluations.append(state.evaluations)
        history.seconds.append(self.snapshots.seconds)

    def _judge(self, until: Stagnation) -> Callable[[Any], Any]:
        """Return the function by which networks of a level are judged."""
        if until.validate is not None:
            return until.validate
        if self.batched:
            raise ValueError(
                "until must have a function of the network where there are batches: pass "
                "Stagnation(validate=...)"
            )
        return fresh(self.objective, JUDGED)

    def _judge_level(self) -> None:
        """Measure the network if it is time; end the level if it has nothing left."""
        state, until = self.state, self.until
        if until is None or self.judge is None or state.epoch % until.every:
            return
        state.evaluations += 1
        state.judged.append(as_result("validate", self.judge(state.model)))
        reason = until.why(state.judged)
        if reason:
            raise EndOfLevel(reason)

    def _measure(self, force: bool = False) -> None:
        state = self.state
        if not self.options.metrics or not (force or state.epoch % self.options.metrics_every == 0):
            return
        row = {"level": state.level, "epoch": state.epoch, "work": state.work}
        for name, metric in self.options.metrics.items():
            row[name] = as_result(f"metric {name!r}", metric(state.model))
        state.history.metrics.append(row)

    def _interrupt(self) -> None:
        """Note that Ctrl-C has ended the run; processes that share it fail, each where it is."""
        if self.shares.size > 1:
            raise
        state = self.state
        self.status, self.message = "interrupted", f"at level {state.level}, epoch {state.epoch}"

    def _close(self, found: tuple[float, dict[str, Tensor]] | None) -> None:
        """Record what the level ends with; a first Ctrl-C meanwhile does not lose it."""
        state = self.state
        try:
            loss, terms = found or self._loss()
            if not math.isfinite(loss):  # Ctrl-C right after a step that diverged
                assign(state, self.good)
                loss, terms = self._loss()
            self._measure(force=True)
        except KeyboardInterrupt:
            if self.status != "completed":
                raise
            self._interrupt()
            self._close(found)
            return
        self._record(loss, terms, self._weights(), rate(state.optimizer))
        levels = state.levels
        state.levels.append(
            Level(
                n=getattr(state.model, "n", None),
                num_parameters=num_trainable(state.model),
                epochs=state.epoch,
                loss=loss,
                work=state.work - sum(level.work for level in levels),
                evaluations=state.evaluations - sum(v.evaluations for v in levels),
                seconds=self.snapshots.seconds - sum(v.seconds for v in levels),
                steps=state.steps,
                idle=state.idle,
                message=state.ended,
            )
        )

    def _save(self, force: bool = False) -> None:
        self.snapshots.take(self.state, self.good, force)

    def _copied(self) -> list[Tensor]:
        return copies(tensors(self.state))

    def _finished(self) -> Run[Any]:
        """Return the run; warn if it diverged or epochs passed without a step."""
        state = self.state
        if self.status == "diverged":
            warnings.warn(f"training diverged: {self.message}", RuntimeWarning, stacklevel=4)
        idle = {k: v for k, v in enumerate(state.levels) if v.idle}
        if idle:
            where = ", ".join(
                f"{v.idle} of {v.epochs} epochs of level {k}" for k, v in idle.items()
            )
            reason = f": {self.why_idle}" if self.why_idle else ""
            text = f"no step was taken in {where}{reason}"
            warnings.warn(text, RuntimeWarning, stacklevel=4)
            self.message = f"{self.message}; {text}" if self.message else text
        return Run(
            state.model,
            state.history,
            state.levels,
            self.status,
            self.message,
            objective=self.objective,
        )


NO_BATCHES = "batches must hold at least one batch, got none: check the data set"


def check_refined(coarse: Any, fine: Any) -> None:
    """Raise unless a refinement is a new model with more intervals."""
    if not isinstance(fine, nn.Module):
        raise TypeError(
            f"refine must return the finer model, got {shown(fine)}: end the function with return"
        )
    before, after = (getattr(model, "n", 0) for model in (coarse, fine))
    if fine is coarse or not after > before:
        what = "the same model" if fine is coarse else f"n = {after} after n = {before}"
        raise ValueError(
            f"refine must return a new, finer model, got {what}: use KAN.refine, or a function of "
            "the kind lambda model: model.refine(breakpoints)"
        )


def _number(loss: Tensor) -> float:
    return float(loss.detach())
