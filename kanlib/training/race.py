"""A race of starts: many on the coarsest level, the best of them refined.

Where a training ends depends on where it starts, and on the coarsest level a start costs least.
Refinement loses nothing, so that halving the field from level to level (successive halving) spends
most of the work on the best starts.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import methodcaller
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kanlib._checks import as_integer, as_number, as_result, check_types
from kanlib.objectives.mean_squared_error import Objective, Stateful
from kanlib.objectives.unknowns import hand_over, unknowns_of
from kanlib.training.optimizer_state import OptimizerState, carried_optimizer
from kanlib.training.options import Options, checked
from kanlib.training.runs import Entrant, History, Level, Model, Run
from kanlib.training.schedule import Schedule
from kanlib.training.stagnation import fresh
from kanlib.training.trainer import Trainer, check_refined

__all__ = ["race"]

#: The seed of the points on which entrants are compared, where an objective can draw them.
RANKED = 2**31
COSTS = ("work", "evaluations", "seconds")


def race(
    starts: Sequence[Model] | Mapping[int, Model],
    objective: Objective | Sequence[Objective],
    schedule: Schedule | Sequence[int],
    *,
    keep: Sequence[int],
    validate: Callable[[nn.Module], Any] | None = None,
    refine: Callable[[Any], Any] | None = methodcaller("refine"),
    work: Callable[[Any], float] | None = None,
    optimizer_state: OptimizerState = "fresh",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    **options: Any,
) -> Run[Model]:
    """Train several networks on the coarsest level, and the best of each level on the next.

    An objective that changes from step to step, or has unknowns, is copied for each start; unknowns
    go on from level to level, by their names. Networks that diverge are out of the race.

    Args:
        starts: the coarse networks, by a number that names each, such as its seed. They are
            trained in place.
        objective: see :func:`kanlib.training.trainer.train`; or one for each level, e.g. with
            more points.
        schedule: epochs on each level, of each network; a Schedule may end its levels before.
        keep: how many go on to level 1, 2, and so on: one entry less than levels, none of them
            more than run on the level before.
        validate: function from a network to the number by which networks are ranked, smallest
            first. By default ``objective.fresh(seed)``, the loss at new points, if there is that,
            or else the objective.
        refine: function from a network to the next finer one, by default its own
            ``refine()``; None for a race in rounds, in which
            networks stay as they are.
        work: function from a network to the cost of an epoch in coarse epochs, by default its
            number of intervals over that of the first start.
        optimizer_state: "fresh" starts the optimizer anew on each level; "carried" goes on with
            that of each network, as in :func:`kanlib.training.multilevel.train_multilevel`.
        checkpoint: folder for the checkpoints of all networks.
        resume: continue from the checkpoints that exist; ``starts`` must be as at the beginning.
        **options: further arguments of :func:`kanlib.training.trainer.train`, such as
        ``optimizer``.

    Returns:
        The run of the winner, its history and levels, where work, evaluations and seconds count
        those of all networks. ``run.pedigree`` has one entry a network and level.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if there is no start or one twice, ``keep`` or ``objective`` does not fit the
            schedule, the optimizer keeps a state that cannot be carried, or ``resume`` has no
            checkpoint.

    Examples:
        >>> from kanlib import KAN, MeanSquaredError
        >>> x = torch.linspace(0, 1, 100, dtype=torch.float64)[:, None]
        >>> starts = [KAN([1, 2, 1], n=4, dtype=torch.float64) for _ in range(4)]
        >>> objective = MeanSquaredError(x, torch.sin(20 * x))
        >>> run = race(starts, objective, [4, 4], keep=[2], progress=False)
        >>> [(entrant.level, entrant.kept) for entrant in run.pedigree].count((0, True))
        2
    """
    check_types(race, {name: value for name, value in locals().items() if name != "options"})
    schedule = schedule if isinstance(schedule, Schedule) else Schedule(schedule)
    if resume and checkpoint is None:
        raise ValueError("resume=True needs a folder of checkpoints: pass checkpoint=PATH")
    named = dict(starts.items() if isinstance(starts, Mapping) else enumerate(starts))
    if len({*map(id, named.values())}) < len(named):
        raise ValueError("starts must be different networks, got one twice: build, or copy, each")
    if not named or len(keep) != schedule.num_levels - 1:
        raise ValueError(
            "starts must hold at least one network and keep one entry less than levels, got "
            f"{len(named)} starts, {len(keep)} entries and {schedule.num_levels} levels"
        )
    counts = [len(named)]
    for i, count in enumerate(keep):
        of = f": {counts[i]} run on level {i}"
        counts.append(as_integer(f"keep[{i}]", count, 1, counts[i], remedy=of))
    each = [*objective] if isinstance(objective, Sequence) else [objective] * schedule.num_levels
    if len(each) != schedule.num_levels:
        raise ValueError(
            f"objective must be one, or one for each of {schedule.num_levels} levels, got "
            f"{len(each)}"
        )
    first_n = getattr(next(iter(named.values())), "n", 1)
    trainings = _Trainings(
        checked({**options, "checkpoint": checkpoint, "resume": resume}),
        schedule,
        work or (lambda model: getattr(model, "n", first_n) / first_n),
        refine,
        optimizer_state,
    )
    runners = [_Runner(name, model) for name, model in named.items()]
    spent: list[dict[str, Any]] = []  # by all networks on each level so far
    pedigree: list[Entrant] = []
    for level in range(schedule.num_levels):
        entrants, by_name = [], {runner.name: runner for runner in runners}
        for runner in runners:
            trainings.train(runner, level, each[level])
            judge = runner.objective if unknowns_of(each[level]) else each[level]
            entrants.append(_ranked(level, runner, validate or fresh(judge, RANKED)))
            if entrants[-1].status == "interrupted":
                break
        entrants.sort(key=lambda entrant: entrant.score)
        interrupted = any(entrant.status == "interrupted" for entrant in entrants)
        last = interrupted or level + 1 == schedule.num_levels or math.isinf(entrants[0].score)
        kept = 1 if last else counts[level + 1]
        for place, entrant in enumerate(entrants):
            entrant.kept = place < kept and (last or math.isfinite(entrant.score))
        pedigree += entrants
        spent.append(_total([by_name[entrant.name].runs[-1].levels[0] for entrant in entrants]))
        if last:
            status = "interrupted" if interrupted else entrants[0].status
            return _joined(by_name[entrants[0].name].runs, spent, status, pedigree)
        runners = [by_name[entrant.name] for entrant in entrants if entrant.kept]
    raise AssertionError("a schedule has at least one level")


@dataclass
class _Runner:
    """A network in the race, with the objective and the optimizer of its present level."""

    name: int
    model: Any
    shared: Any = None  # what its objective is, or is a copy of
    objective: Any = None
    optimizer: Any = None
    runs: list[Run[Any]] = field(default_factory=list)


@dataclass
class _Trainings:
    """What the trainings of all networks have in common."""

    options: Options
    schedule: Schedule
    cost: Callable[[Any], float]
    refine: Callable[[Any], Any] | None
    optimizer_state: OptimizerState

    def train(self, runner: _Runner, level: int, objective: Objective) -> None:
        """Train a network on a level, to which it is refined before if that is not the first."""
        coarse = runner.model
        if level > 0 and self.refine is not None:
            runner.model = self.refine(coarse)
            check_refined(coarse, runner.model)
        former = runner.objective
        if objective is not runner.shared:
            runner.shared = objective
            own = isinstance(objective, Stateful) or unknowns_of(objective)
            runner.objective = copy.deepcopy(objective) if own else objective
            hand_over(former, runner.objective)
        carried = None
        if level > 0 and self.optimizer_state == "carried":
            carried = carried_optimizer(
                self.options.optimizer,
                runner.optimizer,
                coarse,
                runner.model,
                runner.objective,
                former,
            )
        work = as_number("work(model)", self.cost(runner.model), above=0.0)
        trainer = Trainer(
            runner.objective,
            self.schedule.level(level),
            self._options(f"{level}-{runner.name}.pt"),
            lambda _: work,
            {"work_per_epoch": work, "optimizer_state": self.optimizer_state},
        )
        with warnings.catch_warnings():  # whoever diverges is out, and the pedigree says so
            warnings.filterwarnings("ignore", "training diverged")
            runner.runs.append(trainer.run(runner.model, carried))
        runner.model, runner.optimizer = runner.runs[-1].model, trainer.state.optimizer

    def _options(self, name: str) -> Options:
        folder = self.options.checkpoint
        return replace(self.options, checkpoint=None if folder is None else folder / name)


def _ranked(level: int, runner: _Runner, score_of: Callable[[nn.Module], Any]) -> Entrant:
    """Return how a network has done on a level."""
    run = runner.runs[-1]
    with torch.no_grad():
        score = as_result("validate", score_of(run.model))
    if run.status == "diverged" or not math.isfinite(score):
        score = math.inf
    done = run.levels[0]
    return Entrant(level, runner.name, run.loss, score, run.status, done.epochs, done.message)


def _total(levels: list[Level]) -> dict[str, Any]:
    """Return what a level has cost all networks."""
    return {name: sum(getattr(level, name) for level in levels) for name in COSTS}


def _joined(
    runs: list[Run[Model]], spent: list[dict[str, Any]], status: str, pedigree: list[Entrant]
) -> Run[Model]:
    """Return the runs of one network over the levels as one, behind the cost of all others."""
    history, levels = History(), []
    for number, (run, total) in enumerate(zip(runs, spent, strict=True)):
        before = {name: sum(past[name] for past in spent[:number]) for name in COSTS}
        part = run.history
        history.append_named(part.terms, part.weights, len(part))  # levels may differ in them
        history.level += [number] * len(part)
        history.epoch += part.epoch
        history.loss += part.loss
        history.learning_rate += part.learning_rate
        for name in COSTS:
            getattr(history, name).extend(before[name] + value for value in getattr(part, name))
        history.metrics += [
            {**row, "level": number, "work": before["work"] + row["work"]} for row in part.metrics
        ]
        levels.append(replace(run.levels[0], **total))
    return Run(
        runs[-1].model, history, levels, status, runs[-1].message, pedigree, runs[-1].objective
    )
