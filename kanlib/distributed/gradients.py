"""Sums over processes that are differentiable in the parameters, which all processes have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kanlib.objectives.shares import Shares


def summed(
    shares: Shares, own: Sequence[Tensor | None], parameters: Sequence[Tensor], like: Tensor
) -> list[Tensor]:
    """Return the sums of numbers over all processes, as functions of the parameters.

    Numbers and their gradients go in one message; a backward pass needs no other. The graph of the
    numbers of this process is freed.

    Args:
        shares: the processes.
        own: the numbers of this process, each a scalar of a graph of its own; None for zero.
        parameters: what they may be functions of.
        like: a tensor of the type and on the device of the message, in all processes.
    """
    like = like.detach()
    values = torch.stack([like.new_zeros(()) if v is None else v.detach().to(like) for v in own])
    if not torch.is_grad_enabled() or not parameters:
        return [*shares.total(values)[0]]
    read = values.new_zeros(len(parameters))
    rows = []
    for value in own:
        slopes: Sequence[Tensor | None] = [None] * len(parameters)
        if value is not None and value.requires_grad:
            slopes = torch.autograd.grad(value, parameters, allow_unused=True)
        read += torch.tensor([slope is not None for slope in slopes]).to(read)
        pairs = zip(slopes, parameters, strict=True)
        rows.append(
            torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])
        )
    values, jacobian, read = shares.total(values, torch.stack(rows), read)
    entered = [p if times else None for p, times in zip(parameters, read.tolist(), strict=True)]
    sizes = [p.numel() for p in parameters]
    found: Tensor = _Known.apply(values, jacobian.split(sizes, dim=1), *entered)
    return [*found]


class _Known(torch.autograd.Function):
    """Values whose derivatives are known: a matrix (values, entries) for each parameter."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, slopes: Sequence[Tensor], *entered: Any) -> Tensor:
        ctx.slopes = [
            None if p is None else slope.view(-1, *p.shape).to(p.dtype)
            for slope, p in zip(slopes, entered, strict=True)
        ]
        return values.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the gradient of a sum over processes has no derivative: leave out create_graph, "
                "and take second derivatives in one process"
            )
        return (
            None,
            None,
            *(
                None if slope is None else torch.tensordot(cotangent.to(slope), slope, dims=1)
                for slope in ctx.slopes
            ),
        )
