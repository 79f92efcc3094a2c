"""The problems as sums of squares, for second-order training: losses of each level, and errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kanlib.nn.hard_conditions import HardConditions
from kanlib.nn.jets import Jet
from kanlib.objectives.mean_squared_error import MeanSquaredError
from kanlib.objectives.residuals import ResidualLoss, Term
from kanlib.objectives.samplers import Sampler
from kanlib.paper import problems
from kanlib.paper.problems import allen_cahn, burgers, poisson, relative_error
from kanlib.paper.problems.regression import regression

SHARP_VISCOSITY = 1e-2 / torch.pi
#: Rate at which a small disturbance of the states 1 and -1 of Allen-Cahn decays.
DECAY = 10.0
#: Starts of one seed are numbered from this multiple of it.
STARTS = 1000


@dataclass(frozen=True)
class SecondOrderCase:
    """One way to solve a problem by Gauss-Newton.

    Attributes:
        description: one line for readers.
        problem: one of :data:`PROBLEMS`.
        network: keyword arguments of KAN, or of MLP if ``mlp`` is true.
        epochs: steps on each level; an MLP has stages instead.
        points: points of the volume on each level, or of the training set.
        starts: networks on the first level.
        keep: how many go on to each of the others.
        every: steps between draws of points, on each level; without it a differential equation has
            the points of a square grid, which stay.
        start_level: level of the network, for counting work; where it is above zero, the network
            stays on it.
        mlp: whether the network is an MLP, which has rounds in place of levels.
        gauss_newton: keyword arguments of GaussNewton.
    """

    description: str
    problem: str
    network: dict[str, Any]
    epochs: tuple[int, ...]
    points: tuple[int, ...]
    starts: int = 1
    keep: tuple[int, ...] = ()
    every: tuple[int, ...] = ()
    start_level: int = 0
    mlp: bool = False
    gauss_newton: dict[str, Any] = field(default_factory=dict)
    paper: dict[str, float] | None = None


@dataclass(frozen=True)
class Formulation:
    """A problem as sums of squares.

    Attributes:
        losses: the loss of each level.
        error: function from what is trained to its error.
        validate: function by which a race ranks, see :func:`kanlib.training.race.race`.
        calibrate: points for the scale of a linear map.
        solution: function from a network to what is trained, by default the network itself.
    """

    losses: list[Any]
    error: Callable[[nn.Module], float]
    validate: Callable[[nn.Module], Any] | None = None
    calibrate: Tensor | None = None
    solution: Callable[[Any], Any] = lambda network: network


def _regression(case: SecondOrderCase, seed: int, device: str) -> Formulation:
    data = regression(seed, device=device)
    losses = [MeanSquaredError(data.x[:count], data.y[:count]) for count in case.points]
    test = MeanSquaredError(data.x_test, data.y_test)
    error = torch.no_grad()(lambda model: float(test(model)))
    return Formulation(losses, error, MeanSquaredError(data.x, data.y), data.x)


def _moving(
    case: SecondOrderCase,
    seed: int,
    device: str,
    loss: Callable[[int, Callable[..., Sampler]], ResidualLoss],
) -> list[ResidualLoss]:
    """Return the loss of each level, whose points move.

    Args:
        case: how many points of the volume there are on each level, and how often they are drawn.
        seed: of the draws.
        device: of the points.
        loss: function from the number of points of the volume, and a function from a box, a number
            of points and options to their sampler, to the loss of a level.
    """
    losses = []
    for level, (count, every) in enumerate(zip(case.points, case.every, strict=True)):
        own: dict[str, Any] = {"every": every, "seed": seed + STARTS * level}
        sampler = partial(Sampler, **own, device=device, dtype=torch.float64)
        losses.append(loss(count, sampler))
    return losses


def _burgers(
    case: SecondOrderCase, seed: int, device: str, viscosity: float = burgers.VISCOSITY
) -> Formulation:
    problem = burgers.Burgers(201, 51, viscosity=viscosity, nodes=200, device=device)
    weights = {"initial": 10.0, "boundary": 10.0}
    if not case.every:
        sides = [math.isqrt(count) for count in case.points]
        grids = [burgers.Burgers(m, m, viscosity=viscosity, device=device) for m in sides]
        return Formulation([grid.loss(weights=weights) for grid in grids], problem.error)

    def loss(count: int, sampler: Callable[..., Sampler]) -> ResidualLoss:
        points = {"volume": sampler([(-1, 1), (0, 1)], count, share=0.5)}
        return problem.loss(points=points, weights=weights)

    return Formulation(_moving(case, seed, device, loss), problem.error)


def _poisson(case: SecondOrderCase, seed: int, device: str) -> Formulation:
    problem = poisson.Poisson(device=device)
    if not case.every:
        cells = [math.isqrt(count) // 2 * 2 for count in case.points]
        losses = [poisson.Poisson(m, device=device).loss() for m in cells]
        return Formulation(losses, problem.error)

    def ring(x: Tensor) -> Tensor:
        """Move points (side, place) to the boundary: the number of a side is in [0, 4)."""
        number, place = x[:, 0].floor(), x[:, 1]
        end = torch.where(number % 2 == 0, 1.0, -1.0).to(place)
        first = number < 2
        return torch.stack([torch.where(first, end, place), torch.where(first, place, end)], 1)

    def loss(count: int, sampler: Callable[..., Sampler]) -> ResidualLoss:
        points = {
            "volume": sampler([(-1, 1), (-1, 1)], count),
            "boundary": sampler([(0, 4 - 1e-9), (-1, 1)], 800, map=ring),
            "interface": sampler([(0, 0), (-1, 1)], 200),
        }
        return problem.loss(points=points)

    return Formulation(_moving(case, seed, device, loss), problem.error)


def _periodic(
    problem: allen_cahn.AllenCahn,
    equal: Callable[[Jet, Jet, Tensor], Tensor],
    sampler: Callable[..., Sampler],
) -> Term:
    """Return the term of what must be equal at x = -1 and x = 1, from the jets there."""

    def end(shift: float) -> Callable[[Tensor], Tensor]:
        return lambda x: problem.inputs(x + x.new_tensor([shift, 0.0]))

    times = sampler([(0, 0), (0, 1)], 101, kind="sobol")
    return Term(equal, times, features=[end(-1.0), end(1.0)])


def _allen_cahn(case: SecondOrderCase, seed: int, device: str) -> Formulation:
    problem = allen_cahn.AllenCahn(points=100, device=device)

    def equal(u: Jet, v: Jet, x: Tensor) -> Tensor:
        return torch.cat([u.value - v.value, 0.1 * (u.d(0) - v.d(0))], dim=1)

    def loss(count: int, sampler: Callable[..., Sampler]) -> ResidualLoss:
        points = {
            "volume": sampler([(-1, 1), (0, 1)], count, share=0.5),
            "initial": sampler([(-1, 1), (0, 0)], 500, kind="sobol"),
        }
        return ResidualLoss(
            **problem.loss(points=points, weights={"volume": 1.0, "initial": 1000.0}).terms,
            periodic=_periodic(problem, equal, sampler),
        )

    return Formulation(_moving(case, seed, device, loss), problem.error)


def _growth_weight(points: Tensor) -> Tensor:
    """Return what an error at points (x, t) has grown by at the end, up to a constant."""
    return torch.exp(allen_cahn.GROWTH * (0.5 - points[:, 1:]))


def _allen_cahn_growth(case: SecondOrderCase, seed: int, device: str) -> Formulation:
    """Return Allen-Cahn with exact initial values, and residuals weighted by what becomes of them.

    The network is v in u = u_0 + t v. Around the unstable state 0 an error made at t has grown by
    e^(5 (1 - t)) at t = 1, so that this weight makes a small residual mean a small error.
    """
    problem = allen_cahn.AllenCahn(points=100, device=device)

    def volume(v: Jet, x: Tensor) -> Tensor:
        start, time = allen_cahn.initial(x[:, :1]), x[:, 1:]
        u = start + time * v.value
        u_xx = allen_cahn.initial_curvature(x[:, :1]) + time * v.d(0, 0)
        residual = v.value + time * v.d(1) - allen_cahn.right_side(u, u_xx)
        return _growth_weight(x) * residual

    def equal(left: Jet, right: Jet, x: Tensor) -> Tensor:
        time = x[:, 1:]
        slope = time * (left.d(0) - right.d(0)) + 4  # the slopes of u_0 are 2 and -2
        return torch.cat([time * (left.value - right.value), 0.1 * time * slope], dim=1)

    def loss(count: int, sampler: Callable[..., Sampler]) -> ResidualLoss:
        points = sampler([(-1, 1), (0, 1)], count, share=0.5)
        return ResidualLoss(
            volume=Term(volume, points, pairs=[(0, 0)], features=problem.inputs),
            periodic=_periodic(problem, equal, sampler),
        )

    @torch.no_grad()
    def error(model: nn.Module) -> float:
        points = problem.error_points
        u = allen_cahn.initial(points[:, :1]) + points[:, 1:] * model(problem.inputs(points))
        return relative_error(u, problem.reference)

    return Formulation(_moving(case, seed, device, loss), error)


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


def _by_symmetry(problem: problems.Problem, odd: bool) -> Callable[[nn.Module], float]:
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
    return Formulation(_moving(case, seed, device, loss), error, solution=solution)


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
    the loss. Residuals are weighted as in :func:`_allen_cahn_growth`.
    """
    problem = allen_cahn.AllenCahn(points=100, device=device)

    def volume(u: Jet, x: Tensor) -> Tensor:
        return _growth_weight(x) * allen_cahn.volume_residual(u)

    def slope(u: Jet, x: Tensor) -> Tensor:
        return 0.1 * u.d(0)

    def loss(count: int, sampler: Callable[..., Sampler]) -> ResidualLoss:
        ends = {
            name: Term(slope, sampler([(x, x), (0, 1)], 101, kind="sobol"), directions=(0,))
            for name, x in (("left", 0), ("right", 1))
        }
        points = sampler([(0, 1), (0, 1)], count, share=0.5)
        return ResidualLoss(volume=Term(volume, points, pairs=[(0, 0)]), **ends)

    def known(x: Tensor) -> Tensor:
        start = allen_cahn.initial(x[:, :1])
        return start + corner(x) if with_corner else start

    def solution(network: nn.Module) -> nn.Module:
        return HardConditions(network, known, lambda x: x[:, 1:], inputs=_unit)

    error = _by_symmetry(problem, odd=False)
    return Formulation(_moving(case, seed, device, loss), error, solution=solution)


PROBLEMS: dict[str, Callable[[SecondOrderCase, int, str], Formulation]] = {
    "regression": _regression,
    "poisson": _poisson,
    "burgers": _burgers,
    "burgers-sharp": partial(_burgers, viscosity=SHARP_VISCOSITY),
    "allen-cahn": _allen_cahn,
    "allen-cahn-growth": _allen_cahn_growth,
    "burgers-half": partial(_burgers_half, viscosity=burgers.VISCOSITY),
    "burgers-half-even-grid": partial(_burgers_half, viscosity=burgers.VISCOSITY, stretched=False),
    "burgers-sharp-half": partial(_burgers_half, viscosity=SHARP_VISCOSITY),
    "allen-cahn-half": _allen_cahn_half,
    "allen-cahn-half-no-corner": partial(_allen_cahn_half, with_corner=False),
}
