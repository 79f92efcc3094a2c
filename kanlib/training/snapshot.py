"""Snapshots: all that a run goes on from, taken, compared and put back in one place.

A checkpoint holds what identifies the run beside its state: kinds and options of optimizer,
scheduler and batches, a description of the network at its start, and the loss of the saved network.
On resuming all of them are compared. A finer network is rebuilt on the grids in the checkpoint, so
that any refinement will do, whatever it looks at.
"""

from __future__ import annotations

import copy
import math
import re
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, TensorDataset

from kanlib.nn.described import Described
from kanlib.nn.ensemble import Ensemble
from kanlib.nn.free_knots import room
from kanlib.nn.spline_layer import SplineLayer
from kanlib.objectives.mean_squared_error import Stateful
from kanlib.objectives.shares import shares_of
from kanlib.objectives.unknowns import unknowns_of
from kanlib.splines.knots import KnotGrid
from kanlib.training.checkpoints import load_checkpoint, plain, save_checkpoint
from kanlib.training.coordinates import copies, put
from kanlib.training.optimizers import optimized
from kanlib.training.options import Callback, Remembering
from kanlib.training.runs import History, Level, State

#: Entries of a state that are numbers, strings or lists of them.
PLACE = ("level", "epoch", "steps", "idle", "work", "evaluations", "ended", "stopped", "judged")


class Snapshots:
    """The checkpoints of a run.

    Args:
        path: their file, None for none.
        every: least seconds between two of them.
        objective: what is minimised.
        batches: what it is evaluated on, if anything.
        callbacks: functions that are called after each epoch.
        loss: function from a model to its loss, for a check on resuming; None with batches.
        settings: options that must be the same on resuming.
        epochs: of each level; those that are done must be the same on resuming.
    """

    def __init__(
        self,
        path: Path | None,
        every: float,
        objective: Any,
        batches: Any,
        callbacks: Sequence[Callback],
        loss: Callable[[nn.Module], float] | None,
        settings: dict[str, Any],
        epochs: list[int],
    ) -> None:
        self.path, self.every, self.epochs = path, every, epochs
        self.shares = shares_of(objective)
        self.stateful = objective if isinstance(objective, Stateful) else None
        self.unknowns = unknowns_of(objective)
        self.remembering = [c for c in callbacks if isinstance(c, Remembering)]
        self.batches, self.loss, self.settings = batches, loss, plain(settings)
        self.seconds_before, self.started = 0.0, time.perf_counter()
        self._saved, self._count = self.started, 0
        self._known: tuple[int, int, float] | None = None
        self._identity: dict[str, Any] = {}

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken, those before an interruption included."""
        return self.seconds_before + time.perf_counter() - self.started

    # Taking

    def take(self, state: State, good: list[Tensor], force: bool = False) -> None:
        """Write a checkpoint if it is time, or if it must be; one process does it for all."""
        if self.path is None:
            return
        late = time.perf_counter() - self._saved >= self.every
        if not (force or self.shares.agreed(lambda: late)):
            return
        content = {
            "settings": {**self.settings, "epochs": self.epochs},
            "identity": self._identity,
            "loss": self._loss(state),
            "state": {
                **{name: getattr(state, name) for name in PLACE},
                "history": asdict(state.history),
                "levels": [asdict(v) for v in state.levels],
            },
            "model": state.model.state_dict(),
            "grids": grids_of(state.model),
            "trainable": [name for name, p in state.model.named_parameters() if p.requires_grad],
            "beside": [t.detach() for t in beside(state)],
            "good": good,
            "optimizer": state.optimizer.state_dict(),
            "scheduler": state.scheduler.state_dict() if state.scheduler else {},
            **self._held(),
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
            "random_batches": [g.get_state() for g in generators(self.batches)],
        }
        # An optimizer may keep nothing before its first step: the second is checked as well.
        path, check = self.path, self._count < 2
        self.shares.agreed(lambda: save_checkpoint(path, content, check=check))
        self._saved, self._count = time.perf_counter(), self._count + 1

    def _loss(self, state: State) -> float:
        """Return the loss of the model, NaN where it is not known; no trace is left."""
        if self.loss is None or not state.history.loss:
            return math.nan
        if self._known is None or self._known[:2] != (state.level, state.epoch):
            with untouched(state.model):
                self._known = state.level, state.epoch, self.loss(state.model)
        return self._known[2]

    def _held(self) -> dict[str, Any]:
        """Return the states of the objective and of callbacks."""
        return {
            "objective": self.stateful.state_dict() if self.stateful else {},
            "callbacks": [each.state_dict() for each in self.remembering],
        }

    def _hold(self, states: dict[str, Any]) -> None:
        """Give objective and callbacks their states."""
        if self.stateful is not None:
            self.stateful.load_state_dict(states["objective"])
        for callback, state in zip(self.remembering, states["callbacks"], strict=True):
            callback.load_state_dict(state)

    def identify(self, **parts: Any) -> None:
        """Note kind and options of an optimizer, or scheduler, that is new."""
        if self.path is not None:
            self._identity = {**self._identity, **{k: described(v) for k, v in parts.items()}}

    # Going on

    def found(self, model: nn.Module, resume: bool) -> dict[str, Any] | None:
        """Return the checkpoint to go on from, None to begin; one without a step is never kept.

        Args:
            model: the network at its start.
            resume: whether to go on.

        Raises:
            FileExistsError: if there is a checkpoint and ``resume`` is False.
            ValueError: if it is damaged or of another run.
        """
        if self.path is None:
            return None
        path = self.path
        self.settings["model"] = describe_model(model)
        self.settings["batches"] = describe_batches(self.batches)
        self.settings["objective"] = sorted(self.stateful.state_dict()) if self.stateful else None
        own = self.unknowns.items()
        self.settings["unknowns"] = {name: f"{(*p.shape,)} {p.dtype}" for name, p in own}
        self.settings["callbacks"] = [type(each).__name__ for each in self.remembering]
        return self.shares.agreed(lambda: self._read(path, resume))

    def _read(self, path: Path, resume: bool) -> dict[str, Any] | None:
        """Return what a file holds of this run."""
        if not path.exists():
            return None
        if not resume:
            try:
                begun = bool(load_checkpoint(path)["state"]["history"]["loss"])
            except (ValueError, KeyError, TypeError):
                begun = True
            if begun:
                raise FileExistsError(
                    f"checkpoint {path} exists: pass resume=True to go on from it, delete it "
                    "to start anew, or name another file"
                )
            return None
        content = load_checkpoint(path)
        with self._telling():
            begun = bool(content["state"]["history"]["loss"])
            try:
                theirs = dict(content["settings"])
                self._check_epochs(content["state"], theirs.pop("epochs"))
                compare(theirs, self.settings)
            except Other:
                if begun:
                    raise
                return None
        return content

    def _check_epochs(self, place: dict[str, Any], theirs: list[int]) -> None:
        """Check that what is done belongs to the schedule, which may have been extended."""
        level, epoch = place["level"], place["epoch"]
        if not 0 <= level < len(theirs) or not 0 <= epoch <= theirs[level]:
            raise ValueError(f"it is at level {level}, epoch {epoch} of {theirs}")
        same = theirs[:level] == self.epochs[:level] and level < len(self.epochs)
        if not same or epoch > self.epochs[level]:
            raise Other(f"it has epochs = {theirs}, this run has {self.epochs}")

    def rebuilt(self, model: Any, content: dict[str, Any], refine: Callable[[Any], Any]) -> Any:
        """Return the network of the level of a checkpoint; the weights are put back later.

        What has no grids, so no spline layers, is refined again.
        """
        with self._telling():
            level = content["state"]["level"]
            if level == 0:
                return model
            if content["grids"]:
                fine = regridded(model, content["grids"])
            else:
                fine = reduce(lambda coarse, _: refine(coarse), range(level), model)
            for name, parameter in fine.named_parameters():
                parameter.requires_grad_(name in content["trainable"])
            return fine

    def put_back(self, state: State, content: dict[str, Any], good: list[Tensor]) -> list[Tensor]:
        """Put a state with new optimizer and scheduler where the checkpoint is; return its good.

        Raises:
            ValueError: if the checkpoint is of another run; nothing is changed then.
        """
        before = [t.detach().clone() for t in tensors(state)]
        held = copy.deepcopy(self._held())
        random = torch.get_rng_state()
        try:
            with self._telling():
                return self._put_back(state, content, good)
        except BaseException:
            assign(state, before)
            torch.set_rng_state(random)
            self._hold(held)
            raise

    def _put_back(self, state: State, content: dict[str, Any], good: list[Tensor]) -> list[Tensor]:
        compare(content["identity"], self._identity)
        try:
            state.model.load_state_dict(content["model"])
        except RuntimeError as error:
            raise Other(" ".join(str(error).split())) from error
        put(beside(state), content["beside"])
        load_optimizer(state.optimizer, content["optimizer"])
        if state.scheduler is not None:
            state.scheduler.load_state_dict(content["scheduler"])
        self._hold(content)
        place = content["state"]
        for name in PLACE:
            setattr(state, name, place[name])
        state.history = History(**{name: place["history"][name] for name in vars(History())})
        state.levels = [Level(**v) for v in place["levels"]]
        self.seconds_before = content["seconds"]
        good = [value.to(mine) for value, mine in zip(content["good"], good, strict=True)]
        torch.set_rng_state(content["random"])
        if content["random_cuda"]:
            torch.cuda.set_rng_state_all(content["random_cuda"])
        pairs = zip(generators(self.batches), content["random_batches"], strict=True)
        for generator, random in pairs:
            generator.set_state(random)
        self._check_loss(state, content["loss"])
        return good

    def _check_loss(self, state: State, theirs: float) -> None:
        """Check that the objective gives the saved network the loss that it had.

        Other machines and numbers of threads round differently, which counts most where a loss is
        small compared to what it was at first.
        """
        ours = self._loss(state)
        if not (math.isfinite(theirs) and math.isfinite(ours)):
            return
        eps = torch.finfo(next(iter(tensors(state))).dtype).eps
        slack = eps ** (1 / 3) * abs(theirs) + eps * abs(state.history.loss[0])
        if abs(ours - theirs) > slack:
            raise Other(
                f"its network has the loss {theirs:.6g}, with the objective of this run it has "
                f"{ours:.6g}, so that objective or data are others"
            )

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say of any error inside whether the checkpoint is damaged or of another run."""
        try:
            yield
        except Other as other:
            raise ValueError(
                f"checkpoint {self.path} belongs to another run: {other}; delete it to start anew, "
                "or go on with the model, the data and the settings it was made with"
            ) from other
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"checkpoint {self.path} is damaged: {' '.join(reason.split())}; delete it to "
                "start anew"
            ) from error


class Other(Exception):
    """The checkpoint belongs to another run."""


def compare(theirs: dict[str, Any], ours: dict[str, Any], where: str = "") -> None:
    """Raise Other unless both are the same."""
    for name in {**ours, **theirs}:
        left, right = theirs.get(name), ours.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            compare(left, right, f"{name} ")
        elif left != right:
            raise Other(f"it has {where}{name} = {left}, this run has {right}")


# What a run consists of


def beside(state: State) -> list[Tensor]:
    """Return the tensors that the optimizer has beside the model."""
    own = {id(p) for p in state.model.parameters()}
    return [p for p in optimized(state.optimizer) if id(p) not in own]


def tensors(state: State) -> Iterator[Tensor]:
    """Yield all that a step may change: parameters, buffers, and what the optimizer has beside."""
    yield from state.model.parameters()
    yield from state.model.buffers()
    yield from beside(state)


def assign(state: State, values: list[Tensor]) -> None:
    """Set all tensors of a state."""
    put(tensors(state), values)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put random numbers and buffers back at the end."""
    buffers = [*model.buffers()]
    values = copies(buffers)
    with torch.random.fork_rng(range(torch.cuda.device_count() * torch.cuda.is_initialized())):
        yield
    put(buffers, values)


def generators(batches: Any) -> list[torch.Generator]:
    """Return the random generators that batches, their loader, samplers and data set own."""
    found: dict[int, torch.Generator] = {}
    seen: set[int] = set()
    waiting = [batches]
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, torch.Generator):
            found[id(each)] = each
        elif isinstance(each, list | tuple):
            waiting += [v for v in each if isinstance(v, torch.Generator | Sampler | Dataset)]
        elif each is batches or isinstance(each, DataLoader | Sampler | Dataset):
            waiting += getattr(each, "__dict__", {}).values()
    return list(found.values())


def samplers(batches: Any) -> list[Any]:
    """Return the samplers of a loader, those inside its sampler of batches included."""
    found: list[Any] = []
    waiting = [getattr(batches, "sampler", None), getattr(batches, "batch_sampler", None)]
    while waiting:
        each = waiting.pop(0)
        if each is not None and all(each is not other for other in found):
            found.append(each)
            waiting.append(getattr(each, "sampler", None))
    return found


def load_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """Load the state of an optimizer; tensors keep the types that they had, unlike in torch."""
    optimizer.load_state_dict(state)
    if isinstance(optimizer, Optimizer):
        for number, parameter in enumerate(optimized(optimizer)):
            loaded = optimizer.state[parameter] if number in state["state"] else {}
            for key, value in state["state"].get(number, {}).items():
                if isinstance(value, Tensor) and value.dtype != loaded[key].dtype:
                    loaded[key] = value.to(loaded[key].device)


# Descriptions


def describe_model(model: nn.Module) -> dict[str, str]:
    """Return the modules of a model with their options, and its parameters."""
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        own = not any(True for _ in module.children())  # others repeat what is inside them
        options: Any = module.extra_repr() if own else ""
        options = module.describe() if isinstance(module, Described) else options
        # Addresses in memory are others each time.
        text = re.sub(r" at 0x[0-9a-f]+", "", f"{type(module).__name__}({options})")
        found[name or "model"] = text.replace("{", "").replace("}", "")
    for name, p in model.named_parameters():
        frozen = "" if p.requires_grad else ", frozen"
        found[f"parameter {name}"] = f"{tuple(p.shape)} {p.dtype}{frozen}"
    return found


def described(part: Any) -> str:
    """Return the kind of an optimizer or a scheduler, and its options."""
    name = type(part).__name__
    if isinstance(part, Optimizer):
        return f"{name}{', '.join(map(_group, part.param_groups))}"
    if not isinstance(part, LRScheduler):
        return f"{name}({_options(getattr(part, 'defaults', {}))})"
    options = {k: v for k, v in part.state_dict().items() if not k.startswith("_")}
    # States of schedulers leave out the functions that they call.
    codes = [f.__code__ for f in getattr(part, "lr_lambdas", []) if hasattr(f, "__code__")]
    lambdas = [(zlib.crc32(c.co_code), [*filter(_is_plain, c.co_consts)]) for c in codes]
    nested = [described(each) for each in getattr(part, "_schedulers", [])]
    return f"{name}({', '.join([_options(options), *nested, *map(str, lambdas)])})"


def _group(group: dict[str, Any]) -> str:
    options = {name: value for name, value in group.items() if name != "params"}
    return f"({_options(options)}) for {len(group['params'])} tensors"


def describe_batches(batches: Any) -> str:
    """Return what batches are drawn from, and how."""
    if batches is None:
        return "None"
    if not isinstance(batches, DataLoader):
        size = f" of {len(batches)}" if hasattr(batches, "__len__") else ""
        return f"{type(batches).__name__}{size}{_sum_of(batches)}"
    own = [type(each).__name__ for each in samplers(batches)]
    sizes = {getattr(each, "batch_size", None) for each in (batches, batches.batch_sampler)}
    sizes.discard(None)
    size = f" of {len(batches.dataset)}" if hasattr(batches.dataset, "__len__") else ""
    return (
        f"{type(batches.dataset).__name__}{size}{_sum_of(batches.dataset)} in batches of "
        f"{sorted(sizes, key=str)}, drop_last={batches.drop_last}, {' of '.join(own)}"
    )


def _sum_of(data: Any) -> str:
    """Return a check sum of the tensors of a data set or list, nothing for what is not known."""
    waiting, total, any_found = [data], 0, False
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, Tensor):
            values = each.detach().cpu().contiguous().view(-1)
            total = zlib.crc32(values.view(torch.uint8).numpy().tobytes(), total)
            any_found = True
        elif isinstance(each, TensorDataset):
            waiting += each.tensors
        elif isinstance(each, Subset):
            waiting += [torch.as_tensor([*each.indices]), each.dataset]
        elif isinstance(each, list | tuple):
            waiting += each
    return f" with sum {total:08x}" if any_found else ""


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _options(options: dict[str, Any]) -> str:
    found = []
    for name, value in plain(options).items():
        value = value.tolist() if isinstance(value, Tensor) else value
        if _is_plain(value):
            found.append(f"{name}={value}")
    return ", ".join(found)


# Networks on other grids


def grids_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the grids and bases of the spline layers of a model, by their names."""
    return {
        name: {
            "basis": layer.basis,
            "free": layer.knots is not None,
            "breakpoints": torch.stack([grid.breakpoints for grid in layer.distinct_grids]),
        }
        for name, layer in _network(model).named_modules()
        if isinstance(layer, SplineLayer)
    }


def regridded(model: Any, grids: dict[str, dict[str, Any]]) -> Any:
    """Return a copy of a model on other grids; its weights are zero there."""
    if isinstance(model, Ensemble):
        member = regridded(model.members()[0], grids)
        return Ensemble([member] * model.num_members)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, SplineLayer)}
    if layers.keys() != grids.keys():
        raise Other(f"it has spline layers {[*grids]}, this run has {[*layers]}")
    return copy.deepcopy(model, {id(layers[n]): _on(layers[n], grids[n]) for n in layers})


def _network(model: Any) -> nn.Module:
    return model.members()[0] if isinstance(model, Ensemble) else model


def _on(layer: SplineLayer, found: dict[str, Any]) -> SplineLayer:
    rows, own = found["breakpoints"], layer.distinct_grids
    own = own if len(own) == len(rows) else [KnotGrid(layer.order, rows[0])] * len(rows)
    grids = [grid.with_breakpoints(row) for grid, row in zip(own, rows, strict=True)]
    weight = layer.weight.new_zeros(layer.out_features, layer.in_features, grids[0].num_basis)
    if not found["free"]:
        layer = layer.fixed()
    elif layer.knots is None:  # the floor is put back with the weights
        layer = layer.free(floor=room(layer.distinct_grids))
    return layer.like(grids, found["basis"], weight)
