"""The problems as sums of squares, for second-order training: losses of each level, and errors.

Those on half of their domain are in :mod:`kanlib.paper.experiments.halves`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kanlib.nn.hard_conditions import HardConditions
from kanlib.nn.jets import Jet
from kanlib.objectives.mean_squared_error import MeanSquaredError
from kanlib.objectives.residuals import ResidualLoss, Term
from kanlib.objectives.samplers import Sampler
from kanlib.paper.problems import allen_cahn, burgers, poisson, relative_error
from kanlib.paper.problems.regression import regression

SHARP_VISCOSITY = 1e-2 / torch.pi
#: Starts of one seed are numbered from this multiple of it.
STARTS = 1000

Kind = TypeVar("Kind", bound="SecondOrderCase")


@dataclass(frozen=True)
class SecondOrderCase:
    """One way to solve a problem by Gauss-Newton.

    Attributes:
        description: one line for readers.
        problem: one of :data:`PROBLEMS`, or of those on half of a domain.
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

    def become(self, kind: type[Kind], **changes: Any) -> Kind:
        """Return this case as one of another kind, with changes."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return kind(**{**own, **changes})


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


def moving(
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

    return Formulation(moving(case, seed, device, loss), problem.error)


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

    return Formulation(moving(case, seed, device, loss), problem.error)


def _periodic(
    equal: Callable[[Jet, Jet, Tensor], Tensor],
    sampler: Callable[..., Sampler],
    inputs: Callable[[Tensor], Tensor] = lambda x: x,
) -> Term:
    """Return the term of what must be equal at x = -1 and x = 1, from the jets there."""

    def end(shift: float) -> Callable[[Tensor], Tensor]:
        return lambda x: inputs(x + x.new_tensor([shift, 0.0]))

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
            periodic=_periodic(equal, sampler, problem.inputs),
        )

    return Formulation(moving(case, seed, device, loss), problem.error)


def grown(u: Jet, x: Tensor) -> Tensor:
    """Return the residual of Allen-Cahn, weighted by what becomes of it.

    Around the unstable state 0 an error made at t has grown by e^(5 (1 - t)) at t = 1, so that this
    weight, which is that up to a constant, makes a small residual mean a small error.

    Args:
        u: jet of the solution, with u_xx.
        x: points (x, t) of shape (N, 2).

    Examples:
        >>> u = torch.tensor([[0.5], [0.0], [0.0], [0.0]])[..., None]  # u = 1/2
        >>> grown(Jet(u, 2, [(0, 0)]), torch.tensor([[0.0, 0.5]]))
        tensor([[-1.8750]])
    """
    return torch.exp(allen_cahn.GROWTH * (0.5 - x[:, 1:])) * allen_cahn.volume_residual(u)


def _allen_cahn_growth(case: SecondOrderCase, seed: int, device: str) -> Formulation:
    """Return Allen-Cahn with exact initial values, and residuals weighted by what becomes of them.

    The network is v in u = u_0 + t v.
    """
    problem = allen_cahn.AllenCahn(points=100, device=device)

    def equal(u: Jet, v: Jet, x: Tensor) -> Tensor:
        slopes = x[:, 1:] * (u.d(0) - v.d(0))  # which differ at t = 0
        return torch.cat([u.value - v.value, 0.1 * slopes], dim=1)

    def loss(count: int, sampler: Callable[..., Sampler]) -> ResidualLoss:
        points = sampler([(-1, 1), (0, 1)], count, share=0.5)
        return ResidualLoss(
            volume=Term(grown, points, pairs=[(0, 0)]), periodic=_periodic(equal, sampler)
        )

    def solution(network: nn.Module) -> nn.Module:
        return HardConditions(
            network,
            lambda x: allen_cahn.initial(x[:, :1]),
            lambda x: x[:, 1:],
            inputs=problem.inputs,
        )

    @torch.no_grad()
    def error(model: nn.Module) -> float:
        return relative_error(model(problem.error_points), problem.reference)

    return Formulation(moving(case, seed, device, loss), error, solution=solution)


PROBLEMS: dict[str, Callable[[SecondOrderCase, int, str], Formulation]] = {
    "regression": _regression,
    "poisson": _poisson,
    "burgers": _burgers,
    "burgers-sharp": partial(_burgers, viscosity=SHARP_VISCOSITY),
    "allen-cahn": _allen_cahn,
    "allen-cahn-growth": _allen_cahn_growth,
}
