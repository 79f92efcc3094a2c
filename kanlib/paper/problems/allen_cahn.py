r"""The Allen-Cahn equation (section 5.2.3 of the paper).

.. math::

    u_t = \varepsilon u_{xx} - 5u^3 + 5u, \qquad x \in (-1, 1),\ t \in (0, 1],
    \ \varepsilon = 10^{-4},
    \qquad u(x, 0) = x^2\cos\pi x.

The paper prints the right-hand side with the opposite sign. That is a backward heat equation, and
its states 1 and -1 repel; the text describes attractors, as the standard equation has them.
``sign="printed"`` takes the printed equation. The paper imposes nothing at :math:`x = \pm 1`; the
reference is periodic. Both solutions tend to -1 there, and the difference is confined to a layer of
width :math:`\sqrt{\varepsilon t}`.

The reference is a Fourier series in x, integrated in t by the exponential Runge-Kutta method of
order four of Cox and Matthews, with the coefficients of Kassam and Trefethen. The initial values,
continued periodically, have a kink at x = 1. Their coefficients are therefore exact, not those of
samples: a sampled kink puts an error of order 1 / modes^2 into every coefficient, where it stays.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanlib._checks import as_integer, check_factory, check_option
from kanlib.nn.jets import Jet
from kanlib.objectives.residuals import Term
from kanlib.paper.problems import Problem, as_seed

__all__ = ["AllenCahn", "reference", "volume_residual"]

DIFFUSION = 1e-4
#: Rate at which a small disturbance of the state 0 grows.
GROWTH = 5.0
SIGNS = ("standard", "printed")
#: The error is measured on a grid of this many points in x and in t.
ERROR_POINTS = (501, 101)
INITIAL_POINTS = 501


def initial(x: Tensor) -> Tensor:
    """Return the initial values x^2 cos(pi x)."""
    return x.square() * torch.cos(math.pi * x)


def _initial_coefficients(wave: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the integrals over (-1, 1) of x^2 cos(pi x) cos(pi k x) for integers k."""

    def moment(m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the integrals of x^2 cos(pi m x)."""
        alternating = np.where(m % 2, -1.0, 1.0)
        return np.where(m == 0, 2 / 3, 4 * alternating / (np.pi * np.where(m == 0, 1, m)) ** 2)

    return (moment(wave + 1) + moment(wave - 1)) / 2


def reference(modes: int = 2000, steps: int = 500) -> NDArray[np.float64]:
    """Return the solution of the standard equation on the grid of the error.

    Args:
        modes: number of points of the Fourier series, a multiple of 500.
        steps: number of time steps, a multiple of 100.

    Returns:
        Values at x = -1, ..., 1 (501 points) and t = 0, ..., 1 (101 points), of that shape. With
        the defaults the relative error is 2e-10.

    Raises:
        TypeError: if a number is no integer.
        ValueError: if it is no such multiple.

    Examples:
        >>> found = reference(modes=500, steps=100)
        >>> found.shape
        (501, 101)
        >>> round(float(found.min()), 2), round(float(found.max()), 2)
        (-1.0, 0.99)
    """
    for name, number, factor in (("modes", modes, 500), ("steps", steps, 100)):
        if as_integer(name, number, factor) % factor:
            raise ValueError(f"{name} must be a multiple of {factor}, got {number}")
    wave: NDArray[np.float64] = np.fft.rfftfreq(modes, 1 / modes).astype(np.float64)
    linear = (5 - DIFFUSION * (math.pi * wave) ** 2) / steps

    def react(v: NDArray[np.complex128]) -> NDArray[np.complex128]:
        return np.fft.rfft(-5 * np.fft.irfft(v, modes) ** 3) / steps

    # Means over a circle around each value: the formulas lose all digits where it is near 0.
    z = linear[:, None] + np.exp(1j * np.pi * (np.arange(32) + 0.5) / 32)
    whole, half, e = np.exp(linear), np.exp(linear / 2), np.exp(z)
    middle, first, second, third = (
        values.mean(axis=1).real
        for values in (
            (np.exp(z / 2) - 1) / z,
            (-4 - z + e * (4 - 3 * z + z**2)) / z**3,
            2 * (2 + z + e * (z - 2)) / z**3,
            (-4 - 3 * z - z**2 + e * (4 - z)) / z**3,
        )
    )
    shift: NDArray[np.float64] = np.where(wave % 2, -1.0, 1.0)  # the grid begins at x = -1
    v = (modes / 2 * shift * _initial_coefficients(wave)).astype(np.complex128)
    values = []
    for step in range(1, steps + 1):
        at_start = react(v)
        a = half * v + middle * at_start
        at_a = react(a)
        at_b = react(half * v + middle * at_a)
        at_end = react(half * a + middle * (2 * at_b - at_start))
        v = whole * v + first * at_start + second * (at_a + at_b) + third * at_end
        if step % (steps // (ERROR_POINTS[1] - 1)) == 0:
            values.append(v)
    u = np.fft.irfft(np.array(values), modes).T[:: modes // (ERROR_POINTS[0] - 1)]
    u = np.vstack([u, u[:1]])  # x = 1 is x = -1
    start = initial(torch.linspace(-1, 1, ERROR_POINTS[0], device="cpu", dtype=torch.float64))
    return np.column_stack([start.numpy(), u])


def volume_residual(u: Jet, sign: str = "standard") -> Tensor:
    """Return u_t - (epsilon u_xx - 5 u^3 + 5 u), or with the printed sign u_t + (...).

    Examples:
        >>> u = torch.tensor([0.5, 0.0, 0.0, 0.0], dtype=torch.float64)[:, None, None]  # u = 1/2
        >>> volume_residual(Jet(u, 2, [(0, 0)]))
        tensor([[-1.8750]], dtype=torch.float64)
        >>> volume_residual(Jet(u, 2, [(0, 0)]), sign="printed")
        tensor([[1.8750]], dtype=torch.float64)
    """
    right = DIFFUSION * u.d(0, 0) - 5 * u.value**3 + 5 * u.value
    return u.d(1) - right if sign == "standard" else u.d(1) + right


class AllenCahn(Problem):
    """The problem for a network with inputs x and 2t - 1.

    Args:
        points: number of random points in space and time (the paper's text: 20000), or "grid" for
            the 501 x 501 points of its Table D.
        sign: "standard", or "printed" for the equation as the paper prints it. The error is
            measured against the solution of the standard equation in either case.
        seed: seed of the random points.
        device: device of the points.
        dtype: floating-point type of the points.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.

    Examples:
        >>> problem = AllenCahn(points=100)
        >>> {name: len(points) for name, points in problem.points.items()}
        {'volume': 100, 'initial': 501}
    """

    def __init__(
        self,
        points: int | str = 20_000,
        sign: str = "standard",
        seed: int = 1234,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        check_option("sign", sign, SIGNS)
        check_factory(device, dtype)
        seed = as_seed(seed)
        x = torch.linspace(-1, 1, INITIAL_POINTS, device="cpu", dtype=torch.float64)
        if isinstance(points, str):
            check_option("points, if not a number,", points, ["grid"])
            inside = torch.cartesian_prod(x, (x + 1) / 2)
        else:
            number = as_integer("points", points, 1)
            generator = torch.Generator("cpu").manual_seed(seed)
            unit = torch.rand(number, 2, generator=generator, device="cpu", dtype=x.dtype)
            inside = unit * x.new_tensor([2.0, 1.0]) - x.new_tensor([1.0, 0.0])
        start = torch.stack([x, torch.zeros_like(x)], dim=1)
        self.points = {"volume": inside.to(device, dtype), "initial": start.to(device, dtype)}
        self.weights = {"volume": 1e-1, "initial": 1.0}
        self.equations = {
            "volume": partial(
                Term,
                lambda u, x: volume_residual(u, sign),
                pairs=[(0, 0)],
                features=self.inputs,
            ),
            "initial": partial(
                Term,
                lambda u, x: u.value - initial(x[:, :1]),
                directions=(),
                features=self.inputs,
            ),
        }
        fine = [
            torch.linspace(a, 1, n, device="cpu", dtype=x.dtype)
            for a, n in zip((-1, 0), ERROR_POINTS, strict=True)
        ]
        self.error_points = torch.cartesian_prod(*fine).to(device, dtype)
        self.reference = torch.from_numpy(reference()).reshape(-1, 1).to(device, dtype)

    def inputs(self, points: Tensor) -> Tensor:
        """Return the network's inputs (N, 2) at points (N, 2): x and 2t - 1, both in [-1, 1]."""
        return points * points.new_tensor([1.0, 2.0]) - points.new_tensor([0.0, 1.0])
