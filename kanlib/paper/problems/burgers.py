r"""Burgers' equation (section 5.2.2 of the paper).

.. math::

    u_t + u u_x - \nu u_{xx} = 0, \qquad x \in (-1, 1),\ t \in (0, 1],\ \nu = 10^{-2}, \qquad
    u(x, 0) = -\sin\pi x, \quad u(\pm 1, t) = 0.

The paper states neither initial nor boundary values; these are the ones in common use. A layer
forms at :math:`x = 0`, where :math:`u` falls from about 0.8 to -0.8 over a width of about
:math:`5\nu`: a uniform grid of 64 points, :math:`2/63` apart, has two points in it. ``grading``
draws the points together there.

The reference is the solution of Cole and Hopf. With :math:`z = \int u\,dx` the equation becomes the
heat equation for :math:`\exp(-z / 2\nu)`, and the heat kernel gives

.. math::

    u(x, t) = -\frac{\int \sin(\pi y)\, e^{-\cos(\pi y) / 2\pi\nu}\, e^{-s^2} ds}
    {\int e^{-\cos(\pi y) / 2\pi\nu}\, e^{-s^2} ds}, \qquad y = x - \sqrt{4\nu t}\,s,

where Gauss-Hermite quadrature converges geometrically.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from kanlib._checks import as_integer, as_number, check_factory, check_tensor, check_types
from kanlib.nn.jets import Jet
from kanlib.objectives.residuals import Term
from kanlib.paper.problems import Problem

__all__ = ["Burgers", "exact", "volume_residual"]

VISCOSITY = 1e-2
#: 80 nodes give all digits of float64; 60 give ten.
NODES = 100
#: The error is measured on a grid of this many points in x and in t.
ERROR_POINTS = (401, 51)


def initial(x: Tensor) -> Tensor:
    """Return the initial values -sin(pi x)."""
    return -torch.sin(math.pi * x)


def exact(points: Tensor, viscosity: float = VISCOSITY, nodes: int = NODES) -> Tensor:
    """Return the solution of Cole and Hopf at points (x, t) of shape (N, 2), as a column.

    Examples:
        >>> x = torch.tensor([[0.5, 0.0], [0.0, 0.5]], dtype=torch.float64)  # points (x, t)
        >>> exact(x).round(decimals=6).abs()
        tensor([[1.],
                [0.]], dtype=torch.float64)
    """
    check_tensor("points", points, 2)
    node, weight = np.polynomial.hermite.hermgauss(nodes)
    s, log_weight = points.new_tensor(node), points.new_tensor(np.log(weight))
    y = points[:, :1] - torch.sqrt(4 * viscosity * points[:, 1:]) * s
    density = torch.softmax(log_weight - torch.cos(math.pi * y) / (2 * math.pi * viscosity), dim=1)
    return -(torch.sin(math.pi * y) * density).sum(dim=1, keepdim=True)


def volume_residual(u: Jet, viscosity: float = VISCOSITY) -> Tensor:
    """Return u_t + u u_x - nu u_xx.

    Examples:
        >>> x, t = torch.rand(2, 9, 1, dtype=torch.float64)
        >>> u = x / (1 + t)  # a solution for every nu
        >>> channels = torch.stack([u, 1 / (1 + t), -u / (1 + t), 0 * x])
        >>> bool(volume_residual(Jet(channels, 2, [(0, 0)])).abs().max() < 1e-12)
        True
    """
    return u.d(1) + u.value * u.d(0) - viscosity * u.d(0, 0)


class Burgers(Problem):
    """The problem for a network with inputs x and t; all weights are 1.

    Args:
        nx: points in x (the paper: 64), also the number of initial points.
        nt: points in t (the paper: 64), also the number of points on each end.
        grading: 0 for a uniform grid in x; otherwise x = sinh(grading s) / sinh(grading) for
            uniform s, which is finer at the layer.
        boundary: whether the values at x = -1 and 1 are a term of the loss. The paper's loss has
            none; the solution is then not unique.
        viscosity: the coefficient nu.
        nodes: nodes of the quadrature of the reference; a smaller viscosity needs more.
        device: device of the points.
        dtype: floating-point type of the points.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.

    Examples:
        >>> problem = Burgers(nx=16, nt=8)
        >>> {name: len(points) for name, points in problem.points.items()}
        {'volume': 128, 'initial': 16, 'boundary': 16}
        >>> problem.error(exact) < 1e-12
        True
    """

    def __init__(
        self,
        nx: int = 64,
        nt: int = 64,
        grading: float = 0.0,
        boundary: bool = True,
        *,
        viscosity: float = VISCOSITY,
        nodes: int = NODES,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        nx, nt = as_integer("nx", nx, 2), as_integer("nt", nt, 2)
        grading = as_number("grading", grading, 0)
        if grading >= 100:
            raise ValueError(f"grading must be below 100, got {grading!r}: 4 is usual")
        viscosity, nodes = as_number("viscosity", viscosity, above=0), as_integer("nodes", nodes, 1)
        check_types(Burgers.__init__, locals())
        check_factory(device, dtype)
        x = torch.linspace(-1, 1, nx, device="cpu", dtype=torch.float64)
        if grading:
            x = torch.sinh(grading * x) / math.sinh(grading)
        t = torch.linspace(0, 1, nt, device="cpu", dtype=torch.float64)
        ends, start = torch.tensor([-1.0, 1.0], dtype=t.dtype, device="cpu"), t.new_zeros(1)
        axes = {"volume": (x, t), "initial": (x, start), "boundary": (ends, t)}
        self.equations = {
            "volume": partial(Term, lambda u, x: volume_residual(u, viscosity), pairs=[(0, 0)]),
            "initial": partial(Term, lambda u, x: u.value - initial(x[:, :1]), directions=()),
            "boundary": partial(Term, lambda u, x: u.value, directions=()),
        }
        if not boundary:
            del self.equations["boundary"]
        self.points = {
            name: torch.cartesian_prod(*axes[name]).to(device, dtype) for name in self.equations
        }
        self.weights = dict.fromkeys(self.equations, 1.0)
        fine = [
            torch.linspace(a, 1, n, device="cpu", dtype=t.dtype)
            for a, n in zip((-1, 0), ERROR_POINTS, strict=True)
        ]
        self.error_points = torch.cartesian_prod(*fine).to(device, dtype)
        self.reference = exact(self.error_points, viscosity, nodes)
