"""The Kuramoto-Sivashinsky equation u_t + u u_x + u_xx + u_xxxx / 5 = 0, periodic."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kanbook.gallery.references import kuramoto_sivashinsky
from kanlib import KAN, GaussNewton, HardConditions, Jet, ResidualLoss, Run, Sampler, Term, race

NU, DOUBLE = 0.2, torch.float64
BOX = [(0.0, 2 * math.pi), (0.0, 2.0)]


def start(x: Tensor) -> Tensor:
    return torch.cos(x[:, :1]) * (1 + torch.sin(x[:, :1]))


def reference(x: Tensor) -> Tensor:
    return kuramoto_sivashinsky(x, NU)


def equation(u: Jet, x: Tensor) -> Tensor:
    return u.d(1) + u.value * u.d(0) + u.d(0, 0) + NU * u.d(0, 0, 0, 0)


def network() -> HardConditions:
    options: dict[str, Any] = {
        "input_domain": BOX,
        "periodic": [0],
        "normalisation": "tanh",
        "init_scale": 0.3,
    }
    kan = KAN([2, 8, 8, 1], n=4, r=8, domain=(-1, 1), dtype=DOUBLE, **options)
    return HardConditions(kan, start, lambda x: x[:, 1:])


def solve(starts: int = 2, epochs: Sequence[int] = (40, 70, 40), count: int = 2000) -> Run[Any]:
    inside = Sampler(BOX, count, every=3, share=0.5, dtype=DOUBLE)
    loss = ResidualLoss(equation=Term(equation, inside, pairs=[(0, 0, 0, 0)]))
    field, keep = [network() for _ in range(starts)], [1, 1][: len(epochs) - 1]
    return race(field, loss, epochs, keep=keep, optimizer=GaussNewton(), progress=False)
