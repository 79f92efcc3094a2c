"""A dielectric cylinder in a uniform field, div(a grad u) = 0: a jumps on a circle."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kanlib import KAN, GaussNewton, Interface, Jet, ResidualLoss, Run, Sampler, Term, race
from kanlib.domains.shapes import Box

RADIUS, A, DOUBLE = 0.5, 5.0, torch.float64  # a is A within the circle, and 1 outside
BOX = [(-1.0, 1.0), (-1.0, 1.0)]
CIRCLE = Interface(lambda x: x.square().sum(dim=1, keepdim=True) - RADIUS**2)


def reference(x: Tensor) -> Tensor:
    """Return the potential: a uniform field inside, with that of a dipole outside."""
    dipole = (A - 1) / (A + 1) * RADIUS**2 / x.square().sum(dim=1, keepdim=True)
    return x[:, :1] * torch.where(CIRCLE.phi(x) < 0, 2 / (A + 1), 1 - dipole)


def inputs(x: Tensor) -> Tensor:
    return CIRCLE.inputs(x)


def laplace(u: Jet, x: Tensor) -> Tensor:
    return u.d(0, 0) + u.d(1, 1)


def jump(inner: Jet, outer: Jet, x: Tensor) -> Tensor:
    return CIRCLE.flux_jump(inner, outer, x, A, 1.0)


def network() -> KAN:
    options: dict[str, Any] = {"domain": (-1, 2), "normalisation": "tanh", "init_scale": 0.3}
    return KAN([3, 6, 1], n=4, r=8, dtype=DOUBLE, **options)


def solve(starts: int = 2, epochs: Sequence[int] = (30, 30, 30), count: int = 1500) -> Run[KAN]:
    inside = Sampler(BOX, count, every=3, dtype=DOUBLE)
    rim = Sampler(Box(BOX).boundary, count // 2, every=3, dtype=DOUBLE)
    circle = Sampler(BOX, count // 4, map=CIRCLE.project, every=3, dtype=DOUBLE)
    given: dict[str, Any] = {"features": inputs, "directions": (), "weight": 100.0}
    loss = ResidualLoss(
        inside=Term(laplace, inside, pairs=[(0, 0), (1, 1)], features=inputs),
        rim=Term(lambda u, x: u.value - reference(x), rim, **given),
        circle=Term(jump, circle, features=CIRCLE.sides, weight=10.0),
    )
    field, keep = [network() for _ in range(starts)], [2, 1][: len(epochs) - 1]
    return race(field, loss, epochs, keep=keep, optimizer=GaussNewton(), progress=False)
