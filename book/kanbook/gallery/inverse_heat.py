"""The heat equation u_t = k u_xx with unknown k, from samples of u with errors."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kanlib import KAN, GaussNewton, Jet, ResidualLoss, Run, Sampler, Term, Unknowns, race

K, SIGMA, DOUBLE = 0.1, 0.01, torch.float64
BOX = [(0.0, 1.0), (0.0, 1.0)]


def reference(x: Tensor) -> Tensor:
    """Return two waves that decay at different rates."""
    waves = [math.pi * m for m in (1, 2)]
    decay = [torch.exp(-K * w**2 * x[:, 1:]) for w in waves]
    return decay[0] * torch.sin(waves[0] * x[:, :1]) + decay[1] * torch.sin(waves[1] * x[:, :1])


def samples(count: int) -> Tensor:
    """Return places and what was measured there, (N, 3), with errors of size SIGMA."""
    draws = torch.Generator().manual_seed(1)
    places = torch.rand(count, 2, generator=draws, dtype=DOUBLE)
    errors = torch.randn(count, 1, generator=draws, dtype=DOUBLE)
    return torch.cat([places, reference(places) + SIGMA * errors], dim=1)


def heat(u: Jet, x: Tensor, q: Any) -> Tensor:
    return u.d(1) - q.k * u.d(0, 0)


def network() -> KAN:
    return KAN([2, 6, 1], n=4, r=7, normalisation="tanh", init_scale=0.3, dtype=DOUBLE)


def solve(starts: int = 2, epochs: Sequence[int] = (30, 30, 30), count: int = 1000) -> Run[KAN]:
    inside = Sampler(BOX, count, every=3, dtype=DOUBLE)
    time = torch.linspace(0, 1, 101, dtype=DOUBLE)
    ends = torch.cartesian_prod(torch.tensor([0, 1], dtype=DOUBLE), time)
    place: dict[str, Any] = {"features": lambda x: x[:, :2], "directions": ()}
    unknowns = Unknowns(k=0.5, dtype=DOUBLE)
    loss = ResidualLoss(
        heat=Term(heat, inside, pairs=[(0, 0)], unknowns=unknowns, weight=100.0),
        ends=Term(lambda u, x: u.value, ends, directions=(), weight=10.0),
        data=Term(lambda u, x: u.value - x[:, 2:], samples(5 * count), **place),
    )
    field, keep = [network() for _ in range(starts)], [2, 1][: len(epochs) - 1]
    return race(field, loss, epochs, keep=keep, optimizer=GaussNewton(), progress=False)
