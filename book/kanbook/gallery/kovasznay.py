"""Kovasznay's flow behind a grid, which solves the Navier-Stokes equations with Re = 40."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kanlib import KAN, GaussNewton, Jet, ResidualLoss, Run, Sampler, Term, race
from kanlib.domains.shapes import Box

RE, DOUBLE = 40.0, torch.float64
RATE = RE / 2 - math.sqrt(RE**2 / 4 + 4 * math.pi**2)
BOX = [(-0.5, 1.0), (-0.5, 1.5)]


def reference(x: Tensor) -> Tensor:
    """Return u, v and p, which is zero at x = 0, as L. I. G. Kovasznay found them in 1948."""
    decay, wave = torch.exp(RATE * x[:, :1]), 2 * math.pi * x[:, 1:]
    v = RATE / (2 * math.pi) * decay * torch.sin(wave)
    return torch.cat([1 - decay * torch.cos(wave), v, (1 - decay**2) / 2], dim=1)


def flow(w: Jet, x: Tensor) -> Tensor:
    u, v, p = w.of("u"), w.of("v"), w.of("p")
    moved = [u.value * c.d(0) + v.value * c.d(1) for c in (u, v)]
    friction = [(c.d(0, 0) + c.d(1, 1)) / RE for c in (u, v)]
    balance = [moved[a] + p.d(a) - friction[a] for a in (0, 1)]
    return torch.cat([*balance, u.d(0) + v.d(1)], dim=1)


def network() -> KAN:
    options: dict[str, Any] = {
        "normalisation": "tanh",
        "init_scale": 0.3,
        "outputs": ("u", "v", "p"),
    }
    return KAN([2, 6, 3], n=4, r=7, domain=(-1, 1), input_domain=BOX, dtype=DOUBLE, **options)


def solve(starts: int = 2, epochs: Sequence[int] = (30, 30, 30), count: int = 1000) -> Run[KAN]:
    inside = Sampler(BOX, count, every=3, dtype=DOUBLE)
    rim = Sampler(Box(BOX).boundary, count // 2, every=3, dtype=DOUBLE)
    loss = ResidualLoss(
        flow=Term(flow, inside, pairs=[(0, 0), (1, 1)]),
        rim=Term(lambda w, x: (w.value - reference(x))[:, :2], rim, directions=(), weight=10.0),
        level=Term(lambda w, x: w.of("p").value, torch.zeros(1, 2, dtype=DOUBLE), directions=()),
    )
    field, keep = [network() for _ in range(starts)], [2, 1][: len(epochs) - 1]
    return race(field, loss, epochs, keep=keep, optimizer=GaussNewton(), progress=False)
