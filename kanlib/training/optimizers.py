"""Optimizers: kanlib's L-BFGS and the paper's, and what makes an optimizer for a model.

A factory is a function from parameters to a torch optimizer, e.g.
``functools.partial(torch.optim.Adam, lr=1e-3)``. An optimizer that needs more than parameters and a
closure comes from a factory that is :class:`Bindable`: ``factory.bind(model, objective)`` is called
on each level, with the user's own objective, and returns a torch optimizer or a :class:`Bound` one.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kanlib.objectives.unknowns import trained

__all__ = ["Bindable", "Bound", "lbfgs", "paper_lbfgs"]

#: L-BFGS as used for the paper's regression.
#: It has up to 20 inner iterations an epoch and strong Wolfe line search, without which some seeds
#: diverge. It stops at torch's absolute tolerances: once an iteration changes the loss by less than
#: 1e-9, epochs pass without a step.
paper_lbfgs = partial(torch.optim.LBFGS, lr=1.0, max_iter=20, line_search_fn="strong_wolfe")

#: The paper's L-BFGS, but it only stops where nothing changes, and minimises losses of any size.
lbfgs = partial(paper_lbfgs, tolerance_grad=sys.float_info.min, tolerance_change=sys.float_info.min)

#: The default with mini-batches, whose line searches would compare different functions.
adam = partial(torch.optim.Adam, lr=1e-3)

FACTORY = (
    "function from parameters to a torch optimizer, e.g. functools.partial(torch.optim.Adam, "
    "lr=1e-3)"
)


@runtime_checkable
class Bound(Protocol):
    """An optimizer that knows its model and objective, and evaluates them itself.

    It is stepped once an epoch. ``evaluations`` counts its evaluations of the loss, accumulated. An
    attribute ``rate``, if there is one, is recorded as the learning rate, else 1; ``work`` is what
    a step costs in epochs on the grid of the model, else 1; an attribute ``terms`` holds the terms
    of the last loss that ``step`` returned, where the objective is
    :class:`kanlib.objectives.mean_squared_error.Summed`; ``param_groups``, as of a torch optimizer,
    tell what it trains beside the model.

    Examples:
        >>> from kanlib import GaussNewton, MeanSquaredError
        >>> x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
        >>> model, data = nn.Linear(1, 1, dtype=torch.float64), MeanSquaredError(x, 2 * x + 1)
        >>> optimizer = GaussNewton().bind(model, data)
        >>> isinstance(optimizer, Bound)
        True
        >>> before = optimizer.step()
        >>> float(data(model).detach()) < before / 100
        True
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
    """A factory of optimizers that need the model and the objective.

    Examples:
        >>> from kanlib import MeanSquaredError, train
        >>> class LayerwiseSGD:  # each layer has a rate of its own
        ...     def bind(self, model, objective):
        ...         rates = [{"params": p, "lr": 0.5 / p.numel()} for p in model.parameters()]
        ...         return torch.optim.SGD(rates)
        >>> isinstance(LayerwiseSGD(), Bindable)
        True
        >>> x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
        >>> model, data = nn.Linear(1, 1, dtype=torch.float64), MeanSquaredError(x, 2 * x + 1)
        >>> run = train(model, data, 100, optimizer=LayerwiseSGD(), progress=False)
        >>> run.loss < 1e-3
        True
    """

    def bind(self, model: Any, objective: Any) -> Any:
        """Return an optimizer of the model's parameters that minimises the objective.

        It is a torch optimizer or :class:`Bound`; nothing is evaluated yet.
        """


OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer] | Bindable


def new_optimizer(make: OptimizerFactory, model: nn.Module, objective: Any = None) -> Any:
    """Return a new optimizer of the parameters of the model and of the unknowns of the objective.

    Raises:
        TypeError: if the factory returns something else, or its steps take no closure.
        ValueError: if what it returns optimizes no parameter of the model.
    """
    if isinstance(make, Bindable):
        optimizer = make.bind(model, objective)
    else:
        optimizer = make(trained(model, objective))
    if not isinstance(optimizer, Optimizer):
        if isinstance(optimizer, Bound):
            return optimizer
        got = "None" if optimizer is None else type(optimizer).__name__
        raise TypeError(f"optimizer must be a {FACTORY}; it returned {got}")
    name = type(optimizer).__name__
    try:
        inspect.signature(optimizer.step).bind(None)
    except TypeError:
        raise TypeError(
            f"optimizer must have step(closure), as those of torch, but {name}.step takes no "
            "argument: let it take a closure and call it"
        ) from None
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for p in optimized(optimizer)):
        raise ValueError(
            f"optimizer {name} holds no parameter of this model, so that nothing would be trained: "
            "build it from the parameters that the factory is given, as in lambda p: Adam(p)"
        )
    return optimizer


def optimized(optimizer: Any) -> list[Tensor]:
    """Return the tensors of an optimizer, which a bound one may not tell."""
    groups = getattr(optimizer, "param_groups", [])
    return [p for group in groups for p in group["params"]]


def rate(optimizer: Any) -> float:
    """Return the learning rate that is recorded, that of the first group."""
    if isinstance(optimizer, Optimizer):
        return float(optimizer.param_groups[0].get("lr", float("nan")))
    return float(getattr(optimizer, "rate", 1.0))


def why_idle(optimizer: Any) -> str:
    """Return why the last step of an optimizer changed nothing."""
    if not isinstance(optimizer, Optimizer):
        return f"{type(optimizer).__name__} found no step"
    slopes = [p.grad for p in optimized(optimizer) if p.grad is not None]
    steepest = max((float(g.abs().max()) for g in slopes if g.numel()), default=0.0)
    if steepest == 0.0:
        return "the gradient is zero"
    group = optimizer.param_groups[0]
    if "tolerance_change" in group:
        grad, change = group["tolerance_grad"], group["tolerance_change"]
        if max(grad, change) <= lbfgs.keywords["tolerance_change"]:
            return "no step lowers the loss any more, up to rounding"
        return (
            f"L-BFGS stops at its own tolerance_grad = {grad:g} or tolerance_change = {change:g}: "
            "choose smaller ones, as kanlib.lbfgs has, or fewer epochs"
        )
    if rate(optimizer) == 0.0:
        return "the learning rate is 0"
    return "its steps are below the rounding of the parameters"
