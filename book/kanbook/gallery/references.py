"""Solutions to compare with, by methods that share nothing with networks."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.polynomial import legendre
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

Array = NDArray[np.float64]


def clamped_plate(x: Tensor, degree: int = 40) -> Tensor:
    """Return the deflection (N, 1) of the clamped plate (-1/2, 1/2)^2 under the load 1.

    A Galerkin method with products of Shen's combinations of Legendre polynomials, which vanish
    with their slope at the ends (SIAM J. Sci. Comput. 15, 1489, 1994, eq. 3.5).
    """
    basis, weights = _plate(degree)
    values = [legendre.legval(2 * x[:, i].numpy(), basis.T) for i in range(2)]  # each (K, N)
    return torch.from_numpy(np.einsum("kn,kl,ln->n", values[0], weights, values[1]))[:, None]


@cache
def _plate(degree: int) -> tuple[Array, Array]:
    """Return Legendre coefficients (K, degree + 1) of the basis, and weights (K, K) of products."""
    k = np.arange(degree - 3)
    basis = np.zeros((degree - 3, degree + 1))
    basis[k, k] = 1
    basis[k, k + 2] = -2 * (2 * k + 5) / (2 * k + 7)
    basis[k, k + 4] = (2 * k + 3) / (2 * k + 7)
    node, weight = legendre.leggauss(degree + 2)

    def product(order: int) -> Array:
        """Return integrals of products of derivatives."""
        values = legendre.legval(node, legendre.legder(basis.T, order) if order else basis.T)
        return (values * weight) @ values.T

    mass, slope, bend = (product(order) for order in range(3))
    load = (legendre.legval(node, basis.T) * weight).sum(axis=1)
    matrix = np.kron(bend, mass) + 2 * np.kron(slope, slope) + np.kron(mass, bend)
    # On (-1/2, 1/2) fourth derivatives are 16 times those on (-1, 1).
    weights = np.linalg.solve(16 * matrix, np.kron(load, load))
    return basis, weights.reshape(degree - 3, degree - 3)


def kuramoto_sivashinsky(x: Tensor, nu: float, modes: int = 40) -> Tensor:
    """Return the solution (N, 1) at points (x, t) of [0, 2 pi] x [0, 2] from cos x (1 + sin x).

    A Fourier series in x, integrated in t by the implicit method Radau IIA.
    """
    wave = np.fft.rfftfreq(modes, 1 / modes)
    place = 2 * np.pi * np.arange(modes) / modes
    growth = wave**2 - nu * wave**4

    def slope(_: float, u: Array) -> Array:
        linear, square = growth * np.fft.rfft(u), 0.5j * wave * np.fft.rfft(u**2)
        return np.fft.irfft(linear - square, modes)

    start = np.cos(place) * (1 + np.sin(place))
    times, row = np.unique(x[:, 1].numpy(), return_inverse=True)
    found = solve_ivp(slope, (0, 2), start, "Radau", times, rtol=1e-9, atol=1e-11)
    series = np.fft.rfft(found.y.T)[row] / modes
    series[:, 1:-1] *= 2
    phase = np.exp(1j * wave * x[:, :1].numpy())
    return torch.from_numpy((series * phase).real.sum(axis=1))[:, None]


#: Re = 100: nodes of a grid of 128 intervals, u at (1/2, y) and v at (x, 1/2), as printed by
#: Ghia, Ghia and Shin, J. Comput. Phys. 48, 387 (1982), tables I and II.
GHIA_Y = [125, 124, 123, 122, 109, 94, 79, 64, 58, 36, 22, 13, 9, 8, 7]
GHIA_U = [
    *(0.84123, 0.78871, 0.73722, 0.68717, 0.23151, 0.00332, -0.13641, -0.20581),
    *(-0.21090, -0.15662, -0.10150, -0.06434, -0.04775, -0.04192, -0.03717),
]
GHIA_X = [124, 123, 122, 121, 116, 110, 103, 64, 30, 29, 20, 12, 10, 9, 8]
GHIA_V = [
    *(-0.05906, -0.07391, -0.08864, -0.10313, -0.16914, -0.22445, -0.24533, 0.05454),
    *(0.17527, 0.17507, 0.16077, 0.12317, 0.10890, 0.10091, 0.09233),
]


def ghia() -> tuple[Tensor, Tensor]:
    """Return the points (30, 2) of the table and the velocity (30,) there: u, then v."""
    node = torch.tensor([GHIA_Y, GHIA_X], dtype=torch.float64) / 128
    middle = torch.full_like(node[0], 0.5)
    vertical = torch.stack([middle, node[0]], dim=1)
    horizontal = torch.stack([node[1], middle], dim=1)
    return torch.cat([vertical, horizontal]), torch.tensor(GHIA_U + GHIA_V, dtype=torch.float64)
