"""Time slabs: an evolution solved on one interval of time after the other.

Each slab has a network of its own, and starts from what the one before ends with. With
:class:`kanlib.nn.hard_conditions.HardConditions` the hand-over is exact, by construction,

    u(x, t) = v(x, t_0) + (t - t_0) / (t_1 - t_0) N(x, t),

where v is the solution of the slab before, so that the whole solution is continuous in time.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kanlib._checks import as_integer, as_list, as_number, check_function, check_types, shown
from kanlib.nn.ensemble import Ensemble
from kanlib.nn.jets import Jet, propagate
from kanlib.objectives.mean_squared_error import Objective
from kanlib.training.multilevel import train_multilevel
from kanlib.training.runs import Run
from kanlib.training.schedule import Schedule

__all__ = ["SlabRun", "TimeSlabs", "train_slabs"]

# Function from the interval (low, high) of a slab, and the solution before it or None, to a
# network and its objective.
Make = Callable[[tuple[float, float], Any], tuple[nn.Module, Objective]]


class TimeSlabs(nn.Module):
    """The solution that is put together of those on consecutive intervals of time.

    Points before the first interval belong to the first one, those after the last to the last. Each
    point is evaluated by its own solution; under torch.compile, and under torch.func.vmap over
    points, where their times are not known, by all, of which one is taken.

    Args:
        times: the ends of the intervals, increasing, one more than solutions.
        solutions: the networks, which take points (N, P).
        coordinate: which coordinate time is, by default the last one.

    Raises:
        TypeError: if the solutions are no modules.
        ValueError: if times do not increase, or do not fit the number of solutions, or one of
            these is an ensemble.

    Examples:
        >>> early, late = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> whole = TimeSlabs([0, 0.5, 1], [early, late])
        >>> t = torch.tensor([[0.2], [0.8]])
        >>> torch.equal(whole(t), torch.cat([early(t[:1]), late(t[1:])]))
        True
    """

    def __init__(
        self, times: Sequence[float], solutions: Sequence[nn.Module], *, coordinate: int = -1
    ) -> None:
        super().__init__()
        check_types(TimeSlabs.__init__, {"solutions": solutions, "coordinate": coordinate})
        self.times, self.coordinate = _increasing(times), as_integer("coordinate", coordinate)
        if len(solutions) != len(self.times) - 1:
            raise ValueError(
                f"solutions must hold one for each of {len(self.times) - 1} intervals between "
                f"times, got {len(solutions)}"
            )
        for slab, solution in enumerate(solutions):
            if isinstance(solution, Ensemble):
                raise ValueError(
                    f"solutions[{slab}] must be one network, got an Ensemble: make TimeSlabs of "
                    "the members()"
                )
        self.solutions = nn.ModuleList(solutions)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, if the solutions have some."""
        names: tuple[str, ...] = getattr(self.solutions[0], "outputs", ())
        return names

    def forward(self, x: Tensor) -> Tensor:
        """Return the solution at points x of shape (..., P)."""
        return self.propagate(Jet(x[None], directions=0)).value

    def propagate(self, jet: Jet) -> Jet:
        """Return the jet of the solution, given that of the points.

        Raises:
            ValueError: if the points do not have the coordinate, or solutions differ in their
                number of outputs.
        """
        shape = jet.channels.shape
        if not -shape[-1] <= self.coordinate < shape[-1]:
            raise ValueError(
                f"coordinate must be one of the {shape[-1]} of the points, got "
                f"{self.coordinate}: count from 0, or from the end with -1"
            )
        rows = jet.channels.reshape(len(jet.channels), math.prod(shape[1:-1]), shape[-1])
        inner = torch.tensor(self.times[1:-1], dtype=torch.float64)
        times = rows[0, :, self.coordinate].detach().contiguous()
        slabs = torch.bucketize(times, inner.to(times))
        hidden = torch.compiler.is_compiling() or _batched(times)  # which point is in which slab
        parts, places = [], []
        for slab, solution in enumerate(self.solutions):
            if hidden:
                parts.append(propagate(solution, replace(jet, channels=rows)))
                continue
            (chosen,) = (slabs == slab).nonzero(as_tuple=True)
            if len(chosen) or not len(times):
                parts.append(propagate(solution, replace(jet, channels=rows[:, chosen])))
                places.append(chosen)
        outputs = {part.channels.shape[-1] for part in parts}
        if len(outputs) > 1:
            raise ValueError(
                f"solutions must have equally many outputs, got {sorted(outputs)}: give all "
                "networks the same last width"
            )
        if hidden:
            channels = parts[0].channels
            for slab, part in enumerate(parts):
                channels = torch.where((slabs == slab)[:, None], part.channels, channels)
        else:
            order = torch.cat(places).argsort()
            channels = torch.cat([part.channels for part in parts], dim=1)[:, order]
        return replace(
            jet,
            channels=channels.view(*shape[:-1], *outputs),
            smoothness=min(part.smoothness for part in parts),
        )

    def extra_repr(self) -> str:
        """Show the times."""
        return f"times={self.times}"


def _batched(x: Tensor) -> bool:
    """Return whether torch.func.vmap hides the values of a tensor."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return True
        x = functorch.get_unwrapped(x)
    return False


@propagate.register
def _(module: TimeSlabs, jet: Jet) -> Jet:
    return module.propagate(jet)


@dataclass(frozen=True)
class SlabRun:
    """What a training on slabs returns.

    Attributes:
        model: the solution over all slabs.
        runs: the run of each slab.

    Examples:
        >>> from kanlib import KAN, GaussNewton, HardConditions, ResidualLoss, Term
        >>> def make(interval, former):  # u' = 1 from u(0) = 0
        ...     start = {(0, interval[0]): 0.0 if former is None else former}
        ...     network = KAN([1, 1], n=2, domain=interval, dtype=torch.float64)
        ...     model = HardConditions.on_box(network, [interval], value=start)
        ...     line = torch.linspace(*interval, 9, dtype=torch.float64)[:, None]
        ...     return model, ResidualLoss(slope=Term(lambda u, t: u.d(0) - 1, line))
        >>> run = train_slabs(make, [0, 1, 2], [3], optimizer=GaussNewton(), progress=False)
        >>> run.status, len(run.runs)
        ('completed', 2)
        >>> end = torch.tensor([[2.0]], dtype=torch.float64)
        >>> run.model(end).detach().round(decimals=6)
        tensor([[2.]], dtype=torch.float64)
    """

    model: TimeSlabs
    runs: list[Run[Any]]

    @property
    def status(self) -> str:
        """That of the last slab; none follows one that was interrupted or diverged."""
        return self.runs[-1].status

    def __repr__(self) -> str:
        ends = pairwise(self.model.times)
        slabs = zip(ends, self.runs, strict=True)
        return "\n".join(f"slab {low:g} to {high:g}: {run}" for (low, high), run in slabs)


def train_slabs(
    make: Make,
    times: Sequence[float],
    schedule: Schedule | Sequence[int],
    *,
    coordinate: int = -1,
    checkpoint: str | Path | None = None,
    **options: Any,
) -> SlabRun:
    """Train the networks of consecutive intervals of time, each over all levels.

    A solution that starts from ``former`` by construction holds it, and so all slabs before: to
    evaluate the last of k slabs takes k networks, to store all of them about k^2 / 2.

    Args:
        make: function ``make((low, high), former)`` that returns the network of an interval and
            its objective. ``former`` is the trained solution of the interval before, frozen, or
            None at first; its value at time ``low`` is where the network has to start. Given as a
            function, it is evaluated wherever the next solution is, and so are those before it:
            where time is the only coordinate, give its value at ``low`` as a number.
        times: the ends of the intervals, increasing.
        schedule: epochs on each level of each slab.
        coordinate: which coordinate time is, by default the last one.
        checkpoint: folder for the checkpoints of all slabs.
        **options: see :func:`kanlib.training.multilevel.train_multilevel`.

    Returns:
        The solution and the runs. No slab follows one that was interrupted or diverged.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if times do not increase, or a slab does not start with the values that the one
            before ends with. This is checked where there are points, those of the terms of a
            ``ResidualLoss``, with penalties or without, that the network takes as they are,
            without features; other objectives are not checked.

    Examples:
        u' = -u from u(0) = 1, in two slabs:

        >>> from kanlib import KAN, GaussNewton, HardConditions, ResidualLoss, Term
        >>> def make(interval, former):
        ...     low, high = interval
        ...     start = {(0, low): 1.0 if former is None else former}
        ...     network = KAN([1, 1], n=4, domain=interval, dtype=torch.float64)
        ...     line = torch.linspace(low, high, 30, dtype=torch.float64)[:, None]
        ...     decay = Term(lambda u, t: u.d(0) + u.value, line)
        ...     model = HardConditions.on_box(network, [interval], value=start)
        ...     return model, ResidualLoss(decay=decay)
        >>> run = train_slabs(make, [0, 1, 2], [5], optimizer=GaussNewton(), progress=False)
        >>> end = torch.tensor([[2.0]], dtype=torch.float64)
        >>> float(run.model(end).detach())  # exp(-2) = 0.1353
        0.135...
    """
    check_types(train_slabs, {"coordinate": coordinate, "checkpoint": checkpoint})
    check_function("make", make, "function from an interval and the solution before it")
    times = _increasing(times)
    schedule = schedule if isinstance(schedule, Schedule) else Schedule(schedule)
    folder = None if checkpoint is None else Path(checkpoint)
    runs: list[Run[Any]] = []
    former: Any = None
    for slab, (low, high) in enumerate(pairwise(times)):
        made = make((low, high), former)
        if not isinstance(made, tuple) or len(made) != 2:
            raise TypeError(
                f"make must return a network and its objective, got {shown(made)}: end the "
                "function with return model, loss"
            )
        model, objective = made
        if former is not None:
            _check_meet(model, former, objective, low, coordinate)
        file = None if folder is None else folder / f"slab-{slab}.pt"
        runs.append(train_multilevel(model, objective, schedule, checkpoint=file, **options))
        former = copy.deepcopy(runs[-1].model).requires_grad_(False)
        if runs[-1].status in ("interrupted", "diverged"):
            break
    solutions = [run.model for run in runs]
    whole = TimeSlabs(times[: len(runs) + 1], solutions, coordinate=coordinate)
    return SlabRun(whole, runs)


def _increasing(times: Sequence[float]) -> list[float]:
    found = [as_number("times", t) for t in as_list("times", times, "numbers")]
    if len(found) < 2 or any(low >= high for low, high in pairwise(found)):
        raise ValueError(
            f"times must be at least two numbers that increase, so that slabs meet, as in "
            f"[0, 0.5, 1], got {shown(times)}"
        )
    return found


@torch.no_grad()
def _check_meet(model: Any, former: Any, objective: Any, low: float, coordinate: int) -> None:
    """Raise ValueError unless a slab starts with what the one before ends with."""
    for term in getattr(objective, "terms", {}).values():
        if not any(torch.equal(jet.value, term.points) for jet in term.jets):
            continue
        x = term.points.clone()
        x[:, coordinate] = low
        ours, theirs = model(x), former(x)
        gap = float((ours - theirs).abs().max())
        if not gap <= torch.finfo(x.dtype).eps ** 0.5 * (1 + float(theirs.abs().max())):
            raise ValueError(
                f"slabs must meet, but at time {low:g} the next one is off by {gap:.3g}: let make "
                "give it the values of the solution before, as in HardConditions.on_box(..., "
                "value={(j, low): former})"
            )
