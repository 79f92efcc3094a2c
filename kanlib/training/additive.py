"""Additive levels: the weights of a network as a sum of prolonged levels, u = sum_l P_l v_l.

All levels are trained at once. A step of gradient descent in the v_l is one in u with the
preconditioner sum_l P_l P_l^T of Bramble, Pasciak and Xu (*Math. Comp.* 55, 1990), which moves
smooth parts of a spline as fast as rough ones. The functions are those of the network: the levels
are more parameters than it has, but no more functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from kanlib._checks import as_integer, check_function
from kanlib.training.displacements import Displacements, optimizer_of, step
from kanlib.training.hierarchy import COARSEST, Hierarchy
from kanlib.training.optimizers import FACTORY, Bindable, OptimizerFactory, lbfgs, rate
from kanlib.training.snapshot import described, load_optimizer

__all__ = ["Additive"]


@dataclass(frozen=True)
class Additive:
    """An optimizer of all levels at once, for ``train(..., optimizer=Additive())``.

    An epoch is a step of the optimizer, which costs what it costs without levels, beside
    prolongations of the weights.

    Args:
        make: function from parameters to a torch optimizer, or
            :class:`kanlib.training.quasi_newton.QuasiNewton`.
        coarsest: no grid has fewer intervals than this.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if ``coarsest`` is below 1.

    Examples:
        >>> import torch
        >>> from functools import partial
        >>> from kanlib import KAN, MeanSquaredError, train
        >>> x = torch.linspace(0, 1, 200, dtype=torch.float64)[:, None]
        >>> objective = MeanSquaredError(x, torch.sin(6 * x))
        >>> def loss(optimizer):
        ...     model = KAN([1, 1], n=64, init_scale=0.0, dtype=torch.float64)
        ...     return train(model, objective, 40, optimizer=optimizer, progress=False).loss
        >>> descent = partial(torch.optim.Adam, lr=1e-2)
        >>> loss(Additive(descent)) < 0.1 * loss(descent)
        True
    """

    make: OptimizerFactory = lbfgs
    coarsest: int = COARSEST

    def __post_init__(self) -> None:
        if isinstance(self.make, type) or not isinstance(self.make, Bindable):
            check_function("make", self.make, FACTORY)
        as_integer("coarsest", self.coarsest, minimum=1)

    def bind(self, model: nn.Module, objective: Any) -> AdditiveLevels:
        """Return the optimizer of a model."""
        return AdditiveLevels(self, model, objective)


class AdditiveLevels:
    """The optimizer of one model, see :class:`Additive`.

    Attributes:
        hierarchy: the levels, whose ``repr`` is a table.
        optimizer: the optimizer of the v_l.
        evaluations: evaluations of the objective so far.
        param_groups: all that it trains, as those of a torch optimizer.
        terms: the loss before the last step, by the names of its terms.
    """

    def __init__(self, options: Additive, model: nn.Module, objective: Any) -> None:
        self.hierarchy = Hierarchy(model, objective, options.coarsest)
        parameters = self.hierarchy.parameters
        self.param_groups = [{"params": parameters}]
        coarse = [
            (number, transfer)
            for level in self.hierarchy.levels
            for number, transfer in enumerate(level.transfers)
            if transfer is not None
        ]
        own = [(number, None) for number in range(len(parameters))]
        self._space = Displacements(model, objective, parameters, [*coarse, *own])
        self.optimizer = optimizer_of("make", options.make, self._space)
        self.terms: dict[str, float] = {}
        self.evaluations = 0
        self.defaults = {**vars(options), "make": described(self.optimizer)}

    def __repr__(self) -> str:
        return f"Additive levels with {type(self.optimizer).__name__}\n{self.hierarchy!r}"

    @property
    def rate(self) -> float:
        """The learning rate of the optimizer."""
        return rate(self.optimizer)

    def step(self) -> float:
        """Do one step on all levels; return the loss before it."""
        self._space.start()
        done = self._space.evaluations
        before = step(self.optimizer, self._space)
        self.evaluations += self._space.evaluations - done
        self.terms = self._space.terms
        return before

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on, beside the model and the objective."""
        return {"optimizer": self.optimizer.state_dict(), "evaluations": self.evaluations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        load_optimizer(self.optimizer, state["optimizer"])
        self.evaluations = int(state["evaluations"])
