"""Helmholtz's equation u_xx + u_yy + k² u = 0 with k = 20 in a square, values on the boundary."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kanlib import KAN, GaussNewton, Jet, ResidualLoss, Run, Sampler, Term, race
from kanlib.domains.shapes import Box

K, DOUBLE = 20.0, torch.float64
BOX = [(0.0, 1.0), (0.0, 1.0)]


def reference(x: Tensor) -> Tensor:
    """Return a wave from a source at (-0.5, -0.3), which is outside: Y_0(k r)."""
    return torch.special.bessel_y0(K * (x + x.new_tensor([0.5, 0.3])).norm(dim=1, keepdim=True))


def helmholtz(u: Jet, x: Tensor) -> Tensor:
    return (u.d(0, 0) + u.d(1, 1)) / K + K * u.value


def network() -> KAN:
    model = KAN([2, 20, 1], n=16, r=8, first="affine", dtype=DOUBLE)
    angle = torch.arange(20, dtype=DOUBLE) * math.pi / 20  # waves that travel in all directions
    with torch.no_grad():
        next(model.parameters()).copy_(torch.stack([angle.cos(), angle.sin()], dim=1))
    return model.calibrate_(torch.cartesian_prod(*torch.tensor(BOX, dtype=DOUBLE)))


def solve(starts: int = 1, epochs: Sequence[int] = (30, 60), count: int = 4000) -> Run[KAN]:
    inside = Sampler(BOX, count, every=3, dtype=DOUBLE)
    rim = Sampler(Box(BOX).boundary, count // 4, every=3, dtype=DOUBLE)
    loss = ResidualLoss(
        inside=Term(helmholtz, inside, pairs=[(0, 0), (1, 1)]),
        rim=Term(lambda u, x: u.value - reference(x), rim, directions=(), weight=1e3),
    )
    field, keep = [network() for _ in range(starts)], [1, 1, 1][: len(epochs) - 1]
    return race(field, loss, epochs, keep=keep, optimizer=GaussNewton(), progress=False)
