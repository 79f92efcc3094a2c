"""Schrödinger's equation i h_t + h_xx / 2 + |h|² h = 0, periodic: a ripple that gathers."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kanlib import KAN, GaussNewton, HardConditions, Jet, ResidualLoss, Run, Sampler, Term, race

WAVE, DOUBLE = math.sqrt(2), torch.float64
BOX = [(-math.pi / WAVE, math.pi / WAVE), (-2.0, 2.0)]


def reference(x: Tensor) -> Tensor:
    """Return N. Akhmediev's breather of the fastest growth, real and imaginary part."""
    time, crest = x[:, 1:], torch.cos(WAVE * x[:, :1]) / WAVE
    below = torch.cosh(time) - crest
    size, lead, c, s = crest / below, torch.sinh(time) / below, torch.cos(time), torch.sin(time)
    return torch.cat([size * c - lead * s, size * s + lead * c], dim=1)


def start(x: Tensor) -> Tensor:
    return reference(torch.cat([x[:, :1], torch.full_like(x[:, :1], -2)], dim=1))


def schrodinger(h: Jet, x: Tensor) -> Tensor:
    u, v = h.of("u"), h.of("v")
    size = u.value**2 + v.value**2
    real = u.d(0, 0) / 2 + size * u.value - v.d(1)
    return torch.cat([real, v.d(0, 0) / 2 + size * v.value + u.d(1)], dim=1)


def network() -> HardConditions:
    options: dict[str, Any] = {
        "input_domain": BOX,
        "periodic": [0],
        "normalisation": "tanh",
        "init_scale": 0.3,
    }
    kan = KAN([2, 5, 5, 2], n=4, r=7, domain=(-1, 1), outputs=("u", "v"), dtype=DOUBLE, **options)
    return HardConditions(kan, start, lambda x: x[:, 1:] + 2)


def solve(starts: int = 2, epochs: Sequence[int] = (25, 35, 45), count: int = 1200) -> Run[Any]:
    inside = Sampler(BOX, count, every=3, share=0.5, dtype=DOUBLE)
    loss = ResidualLoss(equation=Term(schrodinger, inside, pairs=[(0, 0)]))
    field, keep = [network() for _ in range(starts)], [2, 1][: len(epochs) - 1]
    return race(field, loss, epochs, keep=keep, optimizer=GaussNewton(), progress=False)
