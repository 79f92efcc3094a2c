"""Optimizer state carried from a coarse network to its refinement.

Steps (directions in weight space) are prolonged by P. Gradients live in the dual space, where only
the restriction P^T is given; a coarse gradient g is lifted to P (P^T P)^{-1} g, the smallest fine
gradient that restricts to g. Mean squares of gradients are scaled by the column sums of P and
spread by its absolute values, which keeps them non-negative.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from kanlib.nn.hard_conditions import HardConditions
from kanlib.nn.networks import KAN
from kanlib.nn.spline_layer import by_input, spline_layers
from kanlib.objectives.unknowns import unknowns_of
from kanlib.splines.prolongation import Prolongation, prolongation
from kanlib.training.iterations import Iteration
from kanlib.training.optimizers import OptimizerFactory, new_optimizer

OptimizerState = Literal["fresh", "carried"]

GRADIENTS = {"exp_avg", "momentum_buffer", "grad_avg"}
SQUARES = {"exp_avg_sq", "max_exp_avg_sq", "square_avg"}
COUNTERS = {"step"}

#: One prolongation for all inputs of a layer, or one for each; None leaves the parameter as it is.
Transfers = Sequence[Prolongation] | None
Transfer = Callable[[Tensor, Prolongation], Tensor]


def carried_optimizer(
    make: OptimizerFactory,
    optimizer: Any,
    coarse: Any,
    fine: Any,
    objective: Any = None,
    former: Any = None,
) -> Any:
    """Return a new optimizer for ``fine`` that goes on from the state of the coarse one.

    Args:
        make: function from parameters to a torch optimizer, or an iteration of Table 1.
        optimizer: the optimizer of ``coarse``; tensors that it has beside the network stay. One
            that has a method ``refined(fine, objective)``, such as Gauss-Newton, says itself what
            it carries.
        coarse: the network that was trained.
        fine: its refinement, or the same network.
        objective: what the new optimizer minimises, whose unknowns it has, too.
        former: what the optimizer minimised, if its unknowns are others of the same names.

    Raises:
        ValueError: if the optimizer keeps state whose transfer is not defined.
    """
    if hasattr(optimizer, "refined"):
        return optimizer.refined(fine, objective)
    known = coarse is fine or isinstance(coarse, KAN | HardConditions)
    if not isinstance(optimizer, Optimizer) or not known:
        wrong = coarse if isinstance(optimizer, Optimizer) else optimizer
        raise ValueError(
            "optimizer_state='carried' needs a KAN and an optimizer of torch, got "
            f"{type(wrong).__name__}: use optimizer_state='fresh'"
        )
    twins: dict[Tensor, tuple[Tensor, Transfers]]
    twins = {} if coarse is fine else _twins(make, coarse, fine)
    renewed = unknowns_of(objective)
    for name, unknown in unknowns_of(former).items():
        if name in renewed:
            twins[unknown] = (renewed[name], None)
    carried = new_optimizer(make, fine, objective)
    if isinstance(optimizer, LBFGS):
        parameters = optimizer.param_groups[0]["params"]
        state = optimizer.state.get(parameters[0], {})  # L-BFGS keeps all with the first
        found = [twins.get(p, (p, None)) for p in parameters]
        shapes, prolongations = [p.shape for p in parameters], [p for _, p in found]
        carried.state[found[0][0]] = _carried_lbfgs(state, shapes, prolongations)
        return carried
    for old, state in optimizer.state.items():
        new, p = twins.get(old, (old, None))
        carried.state[new] = {key: _carried(key, state, p) for key in state}
    return carried


def _twins(
    make: OptimizerFactory, coarse: nn.Module, fine: nn.Module
) -> dict[Tensor, tuple[Tensor, Transfers]]:
    """Return, for each coarse parameter, the fine one and the prolongations of its state.

    The state lives in the basis of an iteration's gradient, or in that of each layer.
    """
    before, after = spline_layers(coarse), spline_layers(fine)
    if any(layer.knots is not None for layer in (*before, *after)):
        raise ValueError(
            "optimizer_state='carried' needs fixed knots, but a layer has free knots, whose state "
            "no prolongation carries: use optimizer_state='fresh'"
        )
    basis = make.gradient if isinstance(make, Iteration) else None
    found = {}
    for old, new in zip(before, after, strict=True):
        pairs = [*zip(old.grids, new.grids, strict=True)]
        if len(old.distinct_grids) == len(new.distinct_grids) == 1:
            pairs = pairs[:1]
        found[old.weight] = [prolongation(*pair, basis or old.basis) for pair in pairs]
    both = [*zip(coarse.parameters(), fine.parameters(), strict=True)]
    for p, q in both:
        if p not in found and p.shape != q.shape:
            raise ValueError(
                "optimizer_state='carried' needs layers of splines, but a refinement takes weights "
                f"of shape {(*p.shape,)} to {(*q.shape,)} in another basis: use "
                "optimizer_state='fresh'"
            )
    return {p: (q, found.get(p)) for p, q in both}


def _carried(key: str, state: dict[str, Any], p: Transfers) -> Any:
    value = state[key]
    if key in COUNTERS or value is None:
        return copy.deepcopy(value)
    if key == "momentum_buffer" and "square_avg" in state:  # RMSprop's is a step, not a gradient
        return _each(_prolong, value, p)
    if key in GRADIENTS:
        return _each(_lift, value, p)
    if key in SQUARES:
        return _each(_spread, value, p)
    raise ValueError(
        f"optimizer_state='carried' does not know how to transfer the state {key!r} of this "
        "optimizer: use optimizer_state='fresh'"
    )


def _each(transfer: Transfer, value: Tensor, p: Transfers) -> Tensor:
    return value.clone() if p is None else by_input(transfer, value, p)


def _prolong(step: Tensor, p: Prolongation) -> Tensor:
    return p.apply(step)


def _lift(gradient: Tensor, p: Prolongation) -> Tensor:
    matrix = p.dense().to(gradient.device)
    coarse = torch.linalg.solve(matrix.T @ matrix, gradient.double()[..., None])[..., 0]
    return (coarse @ matrix.T).to(gradient)


def _spread(squares: Tensor, p: Prolongation) -> Tensor:
    matrix = p.dense().abs().to(squares)
    return (squares / matrix.sum(0).square()) @ matrix.T


def _carried_lbfgs(
    state: dict[str, Any], shapes: list[torch.Size], prolongations: list[Transfers]
) -> dict[str, Any]:
    if "d" not in state:  # no step was taken
        return dict(state)
    sizes = [shape.numel() for shape in shapes]

    def each(flat: Tensor, transfer: Transfer) -> Tensor:
        parts = zip(flat.split(sizes), shapes, prolongations, strict=True)
        return torch.cat(
            [_each(transfer, part.view(shape), p).flatten() for part, shape, p in parts]
        )

    steps = [each(s, _prolong) for s in state["old_stps"]]
    changes = [each(y, _lift) for y in state["old_dirs"]]
    carried = {
        **state,
        "d": each(state["d"], _prolong),
        "prev_flat_grad": each(state["prev_flat_grad"], _lift),
        "old_stps": steps,
        "old_dirs": changes,
        "ro": [1.0 / y.dot(s) for y, s in zip(changes, steps, strict=True)],
    }
    if steps:
        carried["H_diag"] = changes[-1].dot(steps[-1]) / changes[-1].dot(changes[-1])
    return carried
