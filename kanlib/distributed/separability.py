"""Whether a loss can be shared: each residual depends on the network at its own point only.

That is seen at the parameters of a network and at others nearby, since it may hold by chance for
one that is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kanlib.objectives.squares import Residual, evaluate

T = TypeVar("T")

#: Parameters nearby differ by up to this share of themselves, and as much besides.
NEARBY = 0.1


class _At(nn.Module):
    """A function of a network, as a module that has the network."""

    def __init__(self, model: nn.Module, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self) -> Any:
        return self.function(self.model)


def nearby(model: nn.Module, function: Callable[[Any], T]) -> T:
    """Return a function of a network at parameters nearby, which are alike in all processes."""
    at, moved = _At(model, function), {}
    generator = torch.Generator("cpu").manual_seed(0)
    for name, p in at.named_parameters():
        if name.startswith("model."):
            draw = torch.rand(p.shape, generator=generator, device="cpu").to(p)
            moved[name] = p + NEARBY * (1 + p.abs()) * (2 * draw - 1)
    return cast(T, functional_call(at, moved, ()))


def losses(model: nn.Module, loss: Callable[[Any], Tensor]) -> Tensor:
    """Return the loss of a network at its parameters, and at others nearby."""
    return torch.stack([loss(model), nearby(model, loss)])


def mixes(model: nn.Module, residual: Residual) -> bool:
    """Return whether a residual at every second point depends on the network at the others."""
    if not len(residual):
        return False
    jets = [evaluate(model, jet) for jet in residual.jets]
    jets = [replace(jet, channels=jet.channels.detach().requires_grad_()) for jet in jets]
    with torch.enable_grad():
        rows = residual.rows(*jets)
        if not rows.requires_grad:
            return False
        weights = torch.linspace(1, 2, rows[::2].numel()).to(rows).view_as(rows[::2])
        read = torch.autograd.grad(
            (weights * rows[::2]).sum(), [jet.channels for jet in jets], allow_unused=True
        )
    return any(bool(v[:, 1::2].nan_to_num(0.0).any()) for v in read if v is not None)
