"""A cavity with a moving lid: the Navier-Stokes equations with Re = 100, by a stream function."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kanbook.gallery.references import cavity as reference
from kanbook.gallery.references import ghia, table_of
from kanlib import KAN, GaussNewton, Jet, ResidualLoss, Run, Sampler, Term, propagate, race
from kanlib.domains.shapes import Box

RE, DOUBLE = 100.0, torch.float64
BOX = [(0.0, 1.0), (0.0, 1.0)]
THIRD = [(0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1)]


@torch.no_grad()
def errors(model: KAN) -> dict[str, float]:
    """Return how far velocities at the 30 points of Ghia's table are from two references.

    The first is spectral, the second the table, which is less accurate.
    """
    points, table = ghia()
    w = propagate(model, Jet.at(points))
    found = table_of(torch.cat([w.of("psi").d(1), -w.of("psi").d(0)], dim=1))
    true = table_of(reference(points)[:, 1:])
    off, apart = (found - true).norm() / true.norm(), (found - table).norm() / table.norm()
    return {"error": float(off), "error table": float(apart)}


def near(x: Tensor) -> Tensor:
    """Return a weight that falls to zero at the ends of the lid, where the velocity jumps."""
    ends = torch.minimum(x[:, :1], 1 - x[:, :1]).square() + (1 - x[:, 1:]).square()
    return (ends.sqrt() / 0.1).clamp_max(1)


def flow(w: Jet, x: Tensor) -> Tensor:
    s, p = w.of("psi"), w.of("p")  # the velocity is (psi_y, -psi_x)
    along = s.d(1) * s.d(0, 1) - s.d(0) * s.d(1, 1) + p.d(0)
    across = -s.d(1) * s.d(0, 0) + s.d(0) * s.d(0, 1) + p.d(1)
    friction = torch.cat([s.d(0, 0, 1) + s.d(1, 1, 1), -s.d(0, 0, 0) - s.d(0, 1, 1)], dim=1) / RE
    return near(x) ** 2 * (torch.cat([along, across], dim=1) - friction)


def walls(w: Jet, x: Tensor) -> Tensor:
    s, lid = w.of("psi"), (x[:, 1:] == 1).to(x)
    return near(x) * torch.cat([10 * s.value, s.d(0), s.d(1) - lid], dim=1)


def network() -> KAN:
    options: dict[str, Any] = {"normalisation": "tanh", "init_scale": 0.3, "outputs": ("psi", "p")}
    return KAN([2, 6, 6, 2], n=6, r=7, dtype=DOUBLE, **options)


def solve(starts: int = 1, epochs: Sequence[int] = (35, 50, 30), count: int = 2000) -> Run[KAN]:
    inside = Sampler(BOX, count, every=3, share=0.3, dtype=DOUBLE)
    rim = Sampler(Box(BOX).boundary, count // 2, every=3, dtype=DOUBLE)
    corner = torch.zeros(1, 2, dtype=DOUBLE)
    loss = ResidualLoss(
        flow=Term(flow, inside, pairs=THIRD),
        rim=Term(walls, rim, weight=10.0),
        pressure=Term(lambda w, x: w.of("p").value, corner, directions=()),
    )
    field, keep = [network() for _ in range(starts)], [1, 1, 1][: len(epochs) - 1]
    return race(field, loss, epochs, keep=keep, optimizer=GaussNewton(), progress=False)
