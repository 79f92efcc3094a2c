"""Unknowns: numbers, tensors and networks of an equation that are trained with its solution.

An inverse problem looks for a solution and for what its equation does not tell, such as a
conductivity k, from data::

    unknowns = Unknowns(k=1.0)

    def heat(u, x, q):
        return u.d(1) - q.k * u.d(0, 0)

    loss = ResidualLoss(
        heat=Term(heat, inside, pairs=[(0, 0)], unknowns=unknowns),
        data=Term(lambda u, x: u.value - measured, places),
    )

Every optimizer trains them, refinements leave them as they are, and checkpoints hold them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kanlib._checks import as_number, check_factory, check_tensor

__all__ = ["Unknowns"]


class Unknowns(nn.Module):
    """Trainable numbers, tensors or networks, by name, for the residuals of a loss.

    Give the same object to all terms that they enter. For an ensemble of S networks, a tensor of
    shape (S, 1, 1) is a number for each of them.

    Args:
        device: device of the numbers.
        dtype: floating-point type of the numbers and tensors, that of the network.
        **values: where each starts.

    Raises:
        TypeError: if a value is neither a number, a floating-point tensor nor a module.
        ValueError: if there is none, or a name is taken by nn.Module.

    Examples:
        >>> unknowns = Unknowns(k=0.5, rates=torch.ones(3))
        >>> unknowns.k
        Parameter containing:
        tensor(0.5000, requires_grad=True)
    """

    def __init__(
        self,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **values: float | Tensor | nn.Module,
    ) -> None:
        super().__init__()
        check_factory(device, dtype)
        if not values:
            raise ValueError("values must name at least one unknown, as in k=1.0, got none")
        for name, value in values.items():
            if hasattr(self, name):
                raise ValueError(f"unknown {name!r} has the name of a part of nn.Module: rename it")
            if isinstance(value, nn.Module):
                self.add_module(name, value)
                continue
            if isinstance(value, Tensor):
                check_tensor(f"unknown {name!r}", value)
            else:
                number = as_number(f"unknown {name!r}", value)
                value = torch.tensor(number, dtype=dtype, device=device)
            start = value.detach().to(device=device, dtype=dtype, copy=True)
            self.register_parameter(name, nn.Parameter(start))

    def __getattr__(self, name: str) -> Any:
        """Return an unknown.

        Raises:
            AttributeError: if there is none of that name.
        """
        try:
            return super().__getattr__(name)
        except AttributeError:
            known = ", ".join(map(repr, [*self._parameters, *self._modules]))
            raise AttributeError(f"there is no unknown {name!r}: there are {known}") from None

    def extra_repr(self) -> str:
        """Show the numbers, and the shapes of tensors."""
        own = self.named_parameters(recurse=False)
        return ", ".join(
            f"{k}={v.item():.6g}" if v.ndim == 0 else f"{k}={(*v.shape,)}" for k, v in own
        )


def unknowns_of(objective: Any) -> dict[str, nn.Parameter]:
    """Return the trainable parameters that an objective has, by name: nothing for a function."""
    if isinstance(objective, type) or not hasattr(objective, "named_parameters"):
        return {}
    return {name: p for name, p in objective.named_parameters() if p.requires_grad}


@torch.no_grad()
def hand_over(former: Any, objective: Any) -> None:
    """Give the unknowns of an objective the values that those of a former one have, by name."""
    known = unknowns_of(former)
    for name, p in unknowns_of(objective).items():
        if name in known and known[name].shape == p.shape:
            p.copy_(known[name])


def trained(model: nn.Module, objective: Any) -> list[nn.Parameter]:
    """Return the parameters of a model, then those of the objective that it does not have.

    Raises:
        TypeError: if an unknown is of another type, or on another device, than the model.
    """
    found = {id(p): p for p in model.parameters()}
    like = next(iter(found.values()), None)
    for name, p in unknowns_of(objective).items():
        if like is not None and (p.dtype, p.device) != (like.dtype, like.device):
            raise TypeError(
                f"unknown {name!r} must be like the network, {like.dtype} on {like.device}, got "
                f"{p.dtype} on {p.device}: build Unknowns(..., dtype={like.dtype})"
            )
        found[id(p)] = p
    return [*found.values()]


def check_entered(objective: Any, loss: Tensor) -> None:
    """Raise ValueError if an unknown of an objective does not enter its loss."""
    unknowns = unknowns_of(objective)
    read = {id(leaf) for leaf in leaves(loss)} if unknowns else set()
    for name, p in unknowns.items():
        if id(p) not in read:
            raise ValueError(
                f"unknown {name!r} enters no residual, so that nothing determines it: use it in "
                "the residual of a term, or leave it out"
            )


def leaves(loss: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that require gradients at the ends of the graph of a loss."""
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting += [each for each, _ in node.next_functions]
