"""A clamped square plate under a uniform load, u_xxxx + 2 u_xxyy + u_yyyy = 1."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kanbook.gallery.references import clamped_plate
from kanlib import KAN, GaussNewton, Jet, ResidualLoss, Run, Sampler, Term, race
from kanlib.domains.shapes import Box

DOUBLE = torch.float64
BOX = [(-0.5, 0.5), (-0.5, 0.5)]
PLATE = Box(BOX)
SIZE = 1e-3  # about the size of the deflection, which is SIZE times the network


def reference(x: Tensor) -> Tensor:
    return clamped_plate(x) / SIZE


def bending(u: Jet, x: Tensor) -> Tensor:
    return SIZE * (u.d(0, 0, 0, 0) + 2 * u.d(0, 0, 1, 1) + u.d(1, 1, 1, 1)) - 1


def clamped(u: Jet, x: Tensor) -> Tensor:
    normal = PLATE.normal(x)
    return torch.cat([10 * u.value, u.d(0) * normal[:, :1] + u.d(1) * normal[:, 1:]], dim=1)


def network() -> KAN:
    options: dict[str, Any] = {"domain": (-0.5, 0.5), "normalisation": "tanh", "init_scale": 0.3}
    return KAN([2, 6, 1], n=4, r=8, dtype=DOUBLE, **options)


def solve(starts: int = 2, epochs: Sequence[int] = (30, 30, 45), count: int = 1000) -> Run[KAN]:
    inside = Sampler(PLATE, count, every=3, dtype=DOUBLE)
    rim = Sampler(PLATE.boundary, count // 2, every=3, dtype=DOUBLE)
    loss = ResidualLoss(
        bending=Term(bending, inside, pairs=[(0, 0, 0, 0), (0, 0, 1, 1), (1, 1, 1, 1)]),
        rim=Term(clamped, rim, weight=10.0),
    )
    field, keep = [network() for _ in range(starts)], [2, 1][: len(epochs) - 1]
    return race(field, loss, epochs, keep=keep, optimizer=GaussNewton(), progress=False)
