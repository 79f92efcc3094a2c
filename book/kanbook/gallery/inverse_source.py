"""Poisson's equation -(u_xx + u_yy) = s with an unknown source s, from samples of u."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kanlib import KAN, GaussNewton, Jet, ResidualLoss, Run, Sampler, Term, race
from kanlib.domains.shapes import Box

PI, DOUBLE = math.pi, torch.float64
BOX = [(0.0, 1.0), (0.0, 1.0)]


def reference(x: Tensor) -> Tensor:
    """Return u = sin(pi x) sin(pi y) e^(x y), and its source."""
    grow, (a, b) = torch.exp(x.prod(dim=1, keepdim=True)), x.split(1, dim=1)
    (ca, cb), (sa, sb) = torch.cos(PI * x).split(1, dim=1), torch.sin(PI * x).split(1, dim=1)
    s = (2 * PI**2 - a**2 - b**2) * sa * sb - 2 * PI * (b * ca * sb + a * sa * cb)
    return grow * torch.cat([sa * sb, s], dim=1)


def poisson(w: Jet, x: Tensor) -> Tensor:
    u, s = w.of("u"), w.of("s")
    return u.d(0, 0) + u.d(1, 1) + s.value


def network() -> KAN:
    options: dict[str, Any] = {"normalisation": "tanh", "init_scale": 0.3, "outputs": ("u", "s")}
    return KAN([2, 8, 2], n=4, r=8, dtype=DOUBLE, **options)


def solve(starts: int = 2, epochs: Sequence[int] = (30, 40, 50), count: int = 2000) -> Run[KAN]:
    inside = Sampler(BOX, count, every=3, dtype=DOUBLE)
    rim = Sampler(Box(BOX).boundary, count // 4, every=3, dtype=DOUBLE)
    places = Box(BOX).points(count // 2)
    measured = reference(places)[:, :1]
    loss = ResidualLoss(
        poisson=Term(poisson, inside, pairs=[(0, 0), (1, 1)]),
        rim=Term(lambda w, x: w.of("u").value, rim, directions=(), weight=1e4),
        data=Term(lambda w, x: w.of("u").value - measured, places, directions=(), weight=1e4),
    )
    field, keep = [network() for _ in range(starts)], [2, 1][: len(epochs) - 1]
    return race(field, loss, epochs, keep=keep, optimizer=GaussNewton(), progress=False)
