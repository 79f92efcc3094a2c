"""Burgers' and Allen-Cahn's equation on half of their domain, with what is known built in.

Symmetry, values on faces and a layer are known without the solution, and go around the network as
hard conditions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from kanlib.nn.hard_conditions import HardConditions
from kanlib.nn.jets import Jet
from kanlib.objectives.residuals import ResidualLoss, Term
from kanlib.objectives.samplers import Sampler
from kanlib.paper.experiments.formulations import (
    SHARP_VISCOSITY,
    Formulation,
    SecondOrderCase,
    grown,
    moving,
)
from kanlib.paper.problems import Problem, allen_cahn, burgers, relative_error

#: Rate at which a small disturbance of the states 1 and -1 of Allen-Cahn decays.
DECAY = 10.0


def _stretched(points: Tensor, layer: float) -> Tensor:
    """Map x in [0, 1] by asinh(x / layer), and t in [0, 1], to [-1, 1]."""
    x = torch.asinh(points[:, :1] / layer) / math.asinh(1 / layer)
    return _unit(torch.cat([x, points[:, 1:]], dim=1))


def _unstretched(unit: Tensor, layer: float) -> Tensor:
    """Map the unit square to points (x, t), more of them where the inputs are stretched."""
    x = layer * torch.sinh(math.asinh(1 / layer) * unit[:, :1])
    return torch.cat([x, unit[:, 1:]], dim=1)


def _unit(points: Tensor) -> Tensor:
    """Map [0, 1] to [-1, 1]."""
    return 2 * points - 1


def _by_symmetry(problem: Problem, odd: bool) -> Callable[[nn.Module], float]:
    """Return the error, on the whole interval, of a solution on x >= 0 that is odd or even."""
    x, time = problem.error_points[:, :1], problem.error_points[:, 1:]
    right, sign = torch.cat([x.abs(), time], dim=1), torch.sign(x) if odd else torch.ones_like(x)
    return torch.no_grad()(lambda model: relative_error(sign * model(right), problem.reference))


def _burgers_half(
    case: SecondOrderCase, seed: int, device: str, viscosity: float, stretched: bool = True
) -> Formulation:
    """Return Burgers' equation on x in [0, 1], where an odd solution is zero at both ends.

    These values and those at t = 0 hold by construction. If wanted, the network sees x through a
    map that stretches the layer at 0, and more points lie there.
    """
    problem = burgers.Burgers(2, 2, viscosity=viscosity, nodes=200, device=device)
    layer = 5 * viscosity
    drawn = partial(_unstretched, layer=layer) if stretched else None

    def loss(count: int, sampler: Callable[..., Sampler]) -> ResidualLoss:
        points = sampler([(0, 1), (0, 1)], count, share=0.5, map=drawn)
        return ResidualLoss(volume=problem.equations["volume"](points))

    def solution(network: nn.Module) -> nn.Module:
        return HardConditions(
            network,
            lambda x: burgers.initial(x[:, :1]),
            lambda x: x[:, 1:] * x[:, :1] * (1 - x[:, :1]),
            inputs=partial(_stretched, layer=layer) if stretched else _unit,
        )

    error = _by_symmetry(problem, odd=True)
    return Formulation(moving(case, seed, device, loss), error, solution=solution)


def corner(points: Tensor) -> Tensor:
    """Return the layer that the slope of the initial values of Allen-Cahn leaves at x = 1.

    They have the slope -2 there, and the solution has 0. Without diffusion u = -1 would stay at
    rest, and the slope would be -2 exp(-10 t), 10 being the rate at which disturbances of -1 decay.
    What takes it away solves w_t = epsilon w_xx - 10 w, w = 0 at t = 0 and w_x = 2 exp(-10 t) at
    x = 1. Its curvature grows without bound as t goes to 0, where no network on a fixed grid can
    follow. A time below 1e-12 counts as that.

    Args:
        points: points (x, t) of shape (N, 2).

    Returns:
        A column (N, 1).

    Examples:
        >>> x = torch.tensor([[1.0, 0.1], [0.9, 0.1]], dtype=torch.float64)
        >>> corner(x)[:, 0].mul(1e6).round()
        tensor([2625.,    0.], dtype=torch.float64)
    """
    distance, time = 1 - points[:, :1], points[:, 1:].clamp(min=1e-12)
    width = torch.sqrt(4 * allen_cahn.DIFFUSION * time)
    z = distance / width
    heat = width * torch.exp(-z.square()) / math.sqrt(math.pi) - distance * torch.erfc(z)
    return 2 * torch.exp(-DECAY * time) * heat


def _allen_cahn_half(
    case: SecondOrderCase, seed: int, device: str, with_corner: bool = True
) -> Formulation:
    """Return Allen-Cahn on x in [0, 1], where an even periodic solution has slope 0 at both ends.

    The initial values and, if wanted, the layer at the corner are built in; the slopes are terms of
    the loss.
    """
    problem = allen_cahn.AllenCahn(points=100, device=device)

    def slope(u: Jet, x: Tensor) -> Tensor:
        return 0.1 * u.d(0)

    def loss(count: int, sampler: Callable[..., Sampler]) -> ResidualLoss:
        ends = {
            name: Term(slope, sampler([(x, x), (0, 1)], 101, kind="sobol"), directions=(0,))
            for name, x in (("left", 0), ("right", 1))
        }
        points = sampler([(0, 1), (0, 1)], count, share=0.5)
        return ResidualLoss(volume=Term(grown, points, pairs=[(0, 0)]), **ends)

    def known(x: Tensor) -> Tensor:
        start = allen_cahn.initial(x[:, :1])
        return start + corner(x) if with_corner else start

    def solution(network: nn.Module) -> nn.Module:
        return HardConditions(network, known, lambda x: x[:, 1:], inputs=_unit)

    error = _by_symmetry(problem, odd=False)
    return Formulation(moving(case, seed, device, loss), error, solution=solution)


HALVES: dict[str, Callable[[SecondOrderCase, int, str], Formulation]] = {
    "burgers-half": partial(_burgers_half, viscosity=burgers.VISCOSITY),
    "burgers-half-even-grid": partial(_burgers_half, viscosity=burgers.VISCOSITY, stretched=False),
    "burgers-sharp-half": partial(_burgers_half, viscosity=SHARP_VISCOSITY),
    "allen-cahn-half": _allen_cahn_half,
    "allen-cahn-half-no-corner": partial(_allen_cahn_half, with_corner=False),
}
