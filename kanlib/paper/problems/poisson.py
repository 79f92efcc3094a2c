r"""Poisson's equation with a jump of the coefficient (section 5.2.1 of the paper, eq. 27-28).

.. math::

    \nabla\cdot(\varepsilon\nabla u) = f \text{ in } (-1, 1)^2, \quad u = 0 \text{ on the boundary},
    \qquad \varepsilon = 1 \ (x < 0), \quad \varepsilon = 1/2 \ (x \ge 0),

with the solution :math:`u = \sin(k\pi x)\sin(3\pi y)`, where :math:`k = 1` for :math:`x < 0` and
:math:`k = 2` for :math:`x \ge 0`. Inserting it gives the right-hand side

.. math::

    f = -\varepsilon\,(k^2 + 9)\,\pi^2 u =
    -10\pi^2 u \ (x < 0), \quad -\tfrac{13}{2}\pi^2 u \ (x > 0).

At :math:`x = 0` the solution is continuous (:math:`u = 0` from both sides), its slope jumps from
:math:`\pi\sin 3\pi y` to :math:`2\pi\sin 3\pi y`, and the flux does not jump: :math:`\varepsilon
u_x = \pi\sin 3\pi y` from both sides.

The network sees a level-set field of the interface as a third input. With :math:`|x|` it is
continuous and its slope may jump there, so that one network represents both sides. The slope from
the left and from the right at :math:`x = 0` is that of the level sets :math:`-x` and :math:`x`.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from kanlib._checks import as_integer, check_factory, check_option, check_tensor, check_types
from kanlib.nn.jets import Jet
from kanlib.objectives.residuals import Term
from kanlib.paper.problems import Problem

__all__ = ["Poisson", "exact", "flux_jump", "volume_residual"]

LEVEL_SETS = ("abs", "relu", "step", "none")
#: The error is measured on a grid of this many points in each direction.
ERROR_POINTS = 201


def right(points: Tensor) -> Tensor:
    """Return whether x >= 0, of shape (N, 1): the interface counts to the right."""
    check_tensor("points", points, 2)
    return points[:, :1] >= 0


def exact(points: Tensor) -> Tensor:
    """Return the solution at points (N, 2), of shape (N, 1).

    Examples:
        >>> exact(torch.tensor([[0.25, 0.5]], dtype=torch.float64))
        tensor([[-1.]], dtype=torch.float64)
    """
    x, y = points[:, :1], points[:, 1:]
    wave = torch.where(right(points), 2.0, 1.0).to(points)
    return torch.sin(wave * math.pi * x) * torch.sin(3 * math.pi * y)


def coefficient(points: Tensor) -> Tensor:
    """Return epsilon at points (N, 2), of shape (N, 1)."""
    return torch.where(right(points), 0.5, 1.0).to(points)


def source(points: Tensor) -> Tensor:
    """Return the right-hand side f at points (N, 2), of shape (N, 1)."""
    factor = torch.where(right(points), -6.5, -10.0).to(points)
    return factor * math.pi**2 * exact(points)


def volume_residual(u: Jet, points: Tensor) -> Tensor:
    """Return epsilon (u_xx + u_yy) - f at the points, away from the interface.

    Examples:
        >>> x = torch.tensor([[-0.25, 0.5]], dtype=torch.float64)
        >>> u = exact(x)  # sin(pi x) sin(3 pi y) on the left
        >>> channels = torch.stack([u, 0 * u, 0 * u, -(math.pi**2) * u, -9 * math.pi**2 * u])
        >>> volume_residual(Jet(channels, 2, [(0, 0), (1, 1)]), x).abs() < 1e-12
        tensor([[True]])
    """
    return coefficient(points) * (u.d(0, 0) + u.d(1, 1)) - source(points)


def flux_jump(left: Jet, right: Jet) -> Tensor:
    """Return the jump of epsilon u_x across x = 0, from jets taken on its two sides.

    Examples:
        >>> left = torch.tensor([0.0, 1.0])[:, None, None]  # value and slope in x
        >>> flux_jump(Jet(left, 1), Jet(2 * left, 1))  # the flux is continuous, the slope is not
        tensor([[0.]])
    """
    return left.d(0) - 0.5 * right.d(0)


class Poisson(Problem):
    """The problem for a network with inputs x, y and a level-set field.

    Args:
        cells: cells of the point grid in each direction, even. The paper's 50 give 49 x 49 volume
            points, 200 boundary points and 49 points on the interface.
        level_set: third input: "abs" is abs(x), "relu" is max(x, 0), "step" is -1 or 1, "none" is x
            again, which tells nothing of the interface.
        summed: whether a term of the loss is the sum over its points rather than the mean, as the
            paper prints it: its weight is multiplied by the number of its points.
        device: device of the points.
        dtype: floating-point type of the points.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.

    Examples:
        >>> problem = Poisson(cells=10)
        >>> {name: len(points) for name, points in problem.points.items()}
        {'volume': 81, 'boundary': 40, 'interface': 9}
        >>> problem.inputs(torch.tensor([[-0.5, 0.2]], dtype=torch.float64))
        tensor([[-0.5000,  0.2000,  0.5000]], dtype=torch.float64)
    """

    def __init__(
        self,
        cells: int = 50,
        level_set: str = "abs",
        summed: bool = False,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        cells = as_integer("cells", cells, 2)
        if cells % 2:
            raise ValueError(f"cells must be even, so that x = 0 is a grid line, got {cells}")
        check_option("level_set", level_set, LEVEL_SETS)
        check_types(Poisson.__init__, locals())
        check_factory(device, dtype)
        self.level_set = level_set
        steps = torch.arange(-cells // 2, cells // 2 + 1, device="cpu", dtype=torch.float64)
        grid = (2 * steps / cells).to(device, dtype)  # holds 0 exactly
        points = torch.cartesian_prod(grid, grid)
        inside = (points.abs() < 1).all(dim=1)
        self.points = {
            "volume": points[inside],
            "boundary": points[~inside],
            "interface": points[inside & (points[:, 0] == 0)],
        }
        self.weights = {"volume": 1e-2, "boundary": 1.0, "interface": 1e-1}
        if summed:
            self.weights = {key: self.weights[key] * len(x) for key, x in self.points.items()}
        sides = [partial(self._inputs, side=side) for side in (-1.0, 1.0)]
        self.equations = {
            "volume": partial(Term, volume_residual, pairs=[(0, 0), (1, 1)], features=self.inputs),
            "boundary": partial(Term, lambda u, x: u.value, directions=(), features=self.inputs),
            "interface": partial(
                Term, lambda u, v, x: flux_jump(u, v), directions=[0], features=sides
            ),
        }
        fine = torch.linspace(-1, 1, ERROR_POINTS, device=device, dtype=dtype)
        self.error_points = torch.cartesian_prod(fine, fine)
        self.reference = exact(self.error_points)

    def inputs(self, points: Tensor) -> Tensor:
        """Return the network's inputs (N, 3) at points (N, 2)."""
        return self._inputs(points, torch.where(right(points), 1.0, -1.0).to(points))

    def _inputs(self, points: Tensor, side: Tensor | float) -> Tensor:
        x = points[:, :1]
        side = side * torch.ones_like(x)
        field = {"abs": side * x, "relu": (1 + side) / 2 * x, "step": side, "none": x}
        return torch.cat([points, field[self.level_set]], dim=1)
