"""A soliton of the Korteweg-de Vries equation u_t + 6 u u_x + u_xxx = 0."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kanlib import KAN, GaussNewton, Jet, ResidualLoss, Run, Term, race

SPEED, DOUBLE = 2.0, torch.float64
BOX = [(-6.0, 6.0), (0.0, 1.0)]


def reference(x: Tensor) -> Tensor:
    wave = math.sqrt(SPEED) / 2 * (x[:, :1] - SPEED * x[:, 1:])
    return SPEED / 2 / torch.cosh(wave) ** 2


def kdv(u: Jet, x: Tensor) -> Tensor:
    return u.d(1) + 6 * u.value * u.d(0) + u.d(0, 0, 0)


def network() -> KAN:
    """Return a network whose affine layer can travel with the wave, along x - SPEED t."""
    corners = torch.cartesian_prod(*torch.tensor(BOX, dtype=DOUBLE))
    return KAN([2, 2, 1], n=4, r=6, first="affine", dtype=DOUBLE).calibrate_(corners)


def solve(starts: int = 1, epochs: Sequence[int] = (20,) * 4, count: int = 97) -> Run[KAN]:
    place, time = torch.linspace(-6, 6, count, dtype=DOUBLE), torch.linspace(0, 1, 13, dtype=DOUBLE)
    plane = torch.cartesian_prod(place, time)
    rim = plane[(plane[:, 0].abs() == 6) | (plane[:, 1] == 0)]
    loss = ResidualLoss(
        equation=Term(kdv, plane, pairs=[(0, 0, 0)]),
        rim=Term(lambda u, x: u.value - reference(x), rim, directions=(), weight=10.0),
    )
    field, keep = [network() for _ in range(starts)], [1] * (len(epochs) - 1)
    return race(field, loss, epochs, keep=keep, optimizer=GaussNewton(), progress=False)
