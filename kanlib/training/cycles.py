"""Cycles over the levels of a network, on the training problem itself.

A cycle smooths on the grid of the network, goes down to coarser grids and comes up again, smoothing
on each. On level l it minimises f(u + P_l e) over coefficients e of that grid: since the spaces are
nested exactly (section 4.1), the coarse problem is the loss itself and needs no model of it. This
is subspace correction (Xu, *SIAM Review* 34, 1992) on a loss that is not quadratic. The full
approximation scheme (Brandt, *Math. Comp.* 31, 1977), as MG/OPT (Nash, *Optim. Methods Softw.* 14,
2000), minimises on the coarse grid f(v) + <tau, v>, where v starts from the projection of u and tau
makes the gradients agree there.

No visit of a level raises the loss: where a step would, the way is halved until it lowers it, or
else the level is left as it was, as line searches and trust regions over levels do (Gratton,
Sartenaer and Toint, *SIAM J. Optim.* 19, 2008).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn

from kanlib._checks import as_integer, check_function, check_option
from kanlib.training.coordinates import copies, put
from kanlib.training.displacements import (
    Displacements,
    forget_last_step,
    move,
    optimizer_of,
    step,
)
from kanlib.training.gauss_newton import GaussNewton
from kanlib.training.hierarchy import COARSEST, Hierarchy
from kanlib.training.optimizers import FACTORY, Bindable, OptimizerFactory, lbfgs, rate
from kanlib.training.runs import EndOfLevel
from kanlib.training.snapshot import described, load_optimizer

__all__ = ["Cycle", "visits"]

Kind = Literal["V", "W"]
Coarse = Literal["subspace", "fas"]
#: Halvings of a way that raises the loss.
HALVINGS = 12


@dataclass(frozen=True)
class Cycle:
    """V- and W-cycles for ``train(..., optimizer=Cycle())``; an epoch is a cycle.

    With ``train_multilevel`` there are cycles on every level, down to the coarsest grid: full
    multigrid. There ``optimizer_state="carried"`` keeps the state of the smoothers on all grids
    that there were. Work is counted by what levels are visited: a step of the smoother on half the
    intervals is half an epoch.

    Args:
        smoother: what lowers the loss on each level: a function from parameters to a torch
            optimizer, :class:`kanlib.training.quasi_newton.QuasiNewton`, or
            :class:`kanlib.training.gauss_newton.GaussNewton`, whose coarse system is J P.
        kind: "V" visits each coarser level once on the way, "W" twice.
        steps: steps of the smoother on each visit of a level.
        coarse: "subspace" minimises f(u + P e), "fas" is the full approximation scheme.
        coarsest: no grid has fewer intervals than this.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if an argument is out of range, or "fas" is to go with Gauss-Newton, whose
            residuals the scheme does not keep.

    Examples:
        >>> import torch
        >>> from kanlib import KAN, MeanSquaredError, train
        >>> x = torch.linspace(0, 1, 100, dtype=torch.float64)[:, None]
        >>> model = KAN([1, 1], n=16, dtype=torch.float64)
        >>> objective = MeanSquaredError(x, torch.sin(6 * x))
        >>> run = train(model, objective, 2, optimizer=Cycle(), progress=False)
        >>> run.loss < 1e-8, run.work  # epochs on 16, 8, 4, 8 and 16 intervals, twice
        (True, 6.5)
    """

    smoother: OptimizerFactory = lbfgs
    kind: Kind = "V"
    steps: int = 1
    coarse: Coarse = "subspace"
    coarsest: int = COARSEST

    def __post_init__(self) -> None:
        if isinstance(self.smoother, type) or not isinstance(self.smoother, Bindable):
            check_function("smoother", self.smoother, FACTORY)
        check_option("kind", self.kind, get_args(Kind))
        check_option("coarse", self.coarse, get_args(Coarse))
        as_integer("steps", self.steps, minimum=1)
        as_integer("coarsest", self.coarsest, minimum=1)
        if isinstance(self.smoother, GaussNewton) and self.smoother.solver == "multigrid":
            raise ValueError(
                "smoother must solve on its own grid, got GaussNewton(solver='multigrid'), which "
                "is a cycle itself: use solver='cholesky' or 'cg'"
            )
        if self.coarse == "fas" and isinstance(self.smoother, GaussNewton):
            raise ValueError(
                "coarse must be 'subspace' with Gauss-Newton, got 'fas', whose loss is no sum of "
                "squares: choose another smoother, or 'subspace'"
            )

    def bind(self, model: nn.Module, objective: Any) -> Cycling:
        """Return the optimizer of a model."""
        return Cycling(self, model, objective)


class Cycling:
    """The optimizer of one model, see :class:`Cycle`.

    Attributes:
        hierarchy: the levels, whose ``repr`` is a table.
        work: what a cycle costs in epochs of the model, counted by intervals.
        evaluations: evaluations of the objective so far; each costs the same on all levels.
        param_groups: all that it trains, as those of a torch optimizer.
        squares: whether the smoother is Gauss-Newton, which is bound to the residuals and takes no
            step that raises the loss.
        terms: the loss before the last cycle, by the names of its terms.
    """

    def __init__(self, options: Cycle, model: nn.Module, objective: Any) -> None:
        self.options, self.objective = options, objective
        own = options.smoother
        self.squares = isinstance(own, GaussNewton)
        basis = own.geometry if isinstance(own, GaussNewton) else None
        self.hierarchy = Hierarchy(model, objective, options.coarsest, basis)
        self.parameters = self.hierarchy.parameters
        self.param_groups = [{"params": self.parameters}]
        self.spaces = [
            Displacements(model, objective, self.parameters, [*enumerate(level.transfers)])
            for level in self.hierarchy.levels
        ]
        self.smoothers = [
            own.bind(model, objective, level.transfers)
            if isinstance(own, GaussNewton)
            else optimizer_of("smoother", own, space)
            for level, space in zip(self.hierarchy.levels, self.spaces, strict=True)
        ]
        self.work = options.steps * sum(
            self.hierarchy.levels[number].work for number in visits(len(self.spaces), options.kind)
        )
        self.terms: dict[str, float] = {}
        self._before = 0  # evaluations before a checkpoint
        self.defaults = {**vars(options), "smoother": described(self.smoothers[-1])}

    def __repr__(self) -> str:
        kind, smoother = self.options.kind, type(self.smoothers[-1]).__name__
        return f"{kind}-cycles of {self.work:g} epochs with {smoother}\n{self.hierarchy!r}"

    @property
    def rate(self) -> float:
        """The learning rate, or damping, on the level of the model."""
        return rate(self.smoothers[-1])

    @property
    def evaluations(self) -> int:
        """Evaluations of the objective so far."""
        own = sum(space.evaluations for space in self.spaces)
        if self.squares:
            own += sum(smoother.evaluations for smoother in self.smoothers)
        return self._before + own

    def step(self) -> float:
        """Do one cycle; return the loss before it.

        Raises:
            EndOfLevel: if the smoothers of all levels say that no step lowers the loss.
        """
        top = len(self.spaces) - 1
        self.spaces[top].start()
        before = self._loss = self.spaces[top].loss()
        self.terms = self.spaces[top].terms
        self._ended: list[EndOfLevel | None] = []
        self._cycle(top, None)
        ends = [end for end in self._ended if end is not None]
        if len(ends) == len(self._ended):
            raise ends[-1]
        return before

    def _cycle(self, number: int, tilt: list[Tensor] | None) -> None:
        """Do a cycle from a level down, with what the loss has beside it there."""
        self._smooth(number, tilt)
        if number == 0:
            return
        for _ in range(repeats(number, self.options.kind)):
            self._correct(number, tilt)
        self._smooth(number, tilt)

    def _correct(self, number: int, tilt: list[Tensor] | None) -> None:
        """Go to the next coarser level and take what comes of it."""
        if self.options.coarse == "subspace":
            self._cycle(number - 1, None)
            return
        space, outer = self.spaces[number], self._loss
        here = copies(self.parameters)
        slopes = space.gradient()
        projected = self.hierarchy.projected(number - 1)
        put(self.parameters, projected)
        coarse = self.spaces[number - 1]
        coarse.start()
        theirs = coarse.gradient()
        own = [g - c for g, c in zip(slopes, theirs, strict=True)]
        coarse.start(own)
        self._loss = coarse.loss()
        self._cycle(number - 1, own)
        changes = [p.detach() - q for p, q in zip(self.parameters, projected, strict=True)]
        self._loss = outer
        move(self.parameters, here, changes)
        self._accept(space, here, changes)

    def _smooth(self, number: int, tilt: list[Tensor] | None) -> None:
        """Take the steps of a visit of a level."""
        space, smoother = self.spaces[number], self.smoothers[number]
        start = copies(self.parameters)
        if not self.squares:
            space.start(tilt)
            if len(self.spaces) > 1:  # others have moved the network
                forget_last_step(smoother)
        end = None
        for done in range(self.options.steps):
            try:
                smoother.step() if self.squares else step(smoother, space)
            except EndOfLevel as found:
                end = found if done == 0 else None
                break
        self._ended.append(end)
        if not self.squares:
            changes = [p.detach() - q for p, q in zip(self.parameters, start, strict=True)]
            if not self._accept(space, start, changes):
                forget_last_step(smoother)

    def _accept(self, space: Displacements, start: list[Tensor], changes: list[Tensor]) -> bool:
        """Stay where a way from the start has led, or on its first halving that lowers the loss.

        Returns whether the whole way was gone.
        """
        if self._improves(space):
            return True
        for halving in range(HALVINGS):
            move(self.parameters, start, changes, 0.5 ** (halving + 1))
            if self._improves(space):
                return False
        put(self.parameters, start)
        return False

    def _improves(self, space: Displacements) -> bool:
        """Return whether the loss of a level is not above what it was, and note it if so."""
        loss = space.loss()
        improves = loss <= self._loss
        if improves:
            self._loss = loss
        return improves

    def refined(self, model: nn.Module, objective: Any) -> Cycling:
        """Return the optimizer of a refined model, with the smoothers of the levels of this one.

        Levels are the same if their grids are; on others the smoothers are new.
        """
        finer = self.options.bind(model, objective)
        levels = [level.grids for level in self.hierarchy.levels]
        for level, smoother in zip(finer.hierarchy.levels, finer.smoothers, strict=True):
            if level.grids in levels:
                old = self.smoothers[levels.index(level.grids)]
                load_optimizer(smoother, old.state_dict())
        return finer

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next cycle depends on, beside the model and the objective."""
        return {
            "smoothers": [smoother.state_dict() for smoother in self.smoothers],
            "evaluations": self._before + sum(space.evaluations for space in self.spaces),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for smoother, own in zip(self.smoothers, state["smoothers"], strict=True):
            load_optimizer(smoother, own)
        for space in self.spaces:
            space.evaluations = 0
        self._before = int(state["evaluations"])


def repeats(number: int, kind: Kind) -> int:
    """Return how often a cycle goes down from a level: twice in a W-cycle, but to the coarsest."""
    return 2 if kind == "W" and number > 1 else 1


def visits(levels: int, kind: Kind = "V") -> Iterator[int]:
    """Yield the level of each visit of a cycle, counted from the coarsest.

    Examples:
        >>> [*visits(4)], [*visits(4, "W")]
        ([3, 2, 1, 0, 1, 2, 3], [3, 2, 1, 0, 1, 1, 0, 1, 2, 2, 1, 0, 1, 1, 0, 1, 2, 3])
    """
    yield levels - 1
    if levels > 1:
        for _ in range(repeats(levels - 1, kind)):
            yield from visits(levels - 1, kind)
        yield levels - 1
