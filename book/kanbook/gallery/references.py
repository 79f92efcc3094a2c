"""Solutions to compare with, by methods that share nothing with networks."""

from __future__ import annotations

import math
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

    A Galerkin method with products of polynomials that vanish with their slope at the ends.
    """
    basis, weights = _plate(degree)
    values = [legendre.legval(2 * x[:, i].numpy(), basis.T) for i in range(2)]  # each (K, N)
    return torch.from_numpy(np.einsum("kn,kl,ln->n", values[0], weights, values[1]))[:, None]


def _clamped(degree: int) -> Array:
    """Return Legendre coefficients (K, degree + 1) of Shen's polynomials on (-1, 1).

    They vanish with their slope at the ends (SIAM J. Sci. Comput. 15, 1489, 1994, eq. 3.5).
    """
    k = np.arange(degree - 3)
    basis = np.zeros((degree - 3, degree + 1))
    basis[k, k] = 1
    basis[k, k + 2] = -2 * (2 * k + 5) / (2 * k + 7)
    basis[k, k + 4] = (2 * k + 3) / (2 * k + 7)
    return basis


@cache
def _plate(degree: int) -> tuple[Array, Array]:
    """Return Legendre coefficients (K, degree + 1) of the basis, and weights (K, K) of products."""
    basis = _clamped(degree)
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


def cavity(x: Tensor, reynolds: float = 100.0, degree: int = 32) -> Tensor:
    """Return stream function and velocity (N, 3) in a square whose lid moves with the speed 1.

    A Galerkin method with products of polynomials that vanish with their slope at the ends, for
    what is left after the flow in the two corners of the lid is taken off, as O. Botella and
    R. Peyret do (Computers & Fluids 27, 421, 1998); solved by Newton's method.
    """
    weights = _cavity(reynolds, degree)
    basis, values = _clamped(degree), []
    for i, order in [(0, 0), (1, 0), (0, 1), (1, 1)]:
        values.append(_values(basis, 2 * x[:, i].numpy() - 1, order))
    shift, slopes, _ = _corners(x)
    parts = [(0, 1), (0, 3), (2, 1)]  # value, along y, along x
    found = [np.einsum("kn,kl,ln->n", values[a], weights, values[b]) for a, b in parts]
    both = zip([shift, slopes[:, 1], slopes[:, 0]], found, strict=True)
    psi, along_y, along_x = (own + torch.from_numpy(rest) for own, rest in both)
    return torch.stack([psi, along_y, -along_x], dim=1)


@cache
def _cavity(reynolds: float, degree: int) -> Array:
    """Return weights (K, K) of products of polynomials.

    With u = (psi_y, -psi_x), all phi of the basis have (D psi, D phi) / Re + (D psi, u . grad phi)
    = 0, where D is the Laplacian.
    """
    count = 5 * degree // 2
    node, weight = legendre.leggauss(count)
    flat, slope, bend = (_values(_clamped(degree), node, order) for order in range(3))
    pairs = [(slope, flat), (flat, slope), (bend, flat), (flat, bend)]
    along_x, along_y, second_x, second_y = (
        np.einsum("ka,lb->abkl", *pair).reshape(count**2, -1) for pair in pairs
    )
    bent = second_x + second_y
    _, slopes, curved = _corners(torch.from_numpy((node + 1) / 2)[_grid(count)])
    steady = slopes[:, 0].numpy(), slopes[:, 1].numpy(), curved.numpy()
    measure = np.outer(weight, weight).reshape(-1, 1) / 4
    found = np.zeros(bent.shape[1])
    for _ in range(20):
        parts = zip(steady, (along_x, along_y, bent), strict=True)
        psi_x, psi_y, vortex = ((s + m @ found)[:, None] * measure for s, m in parts)
        carried = psi_y * along_x - psi_x * along_y  # u . grad phi, times the measure
        tested = bent.T / reynolds + (carried / measure).T
        value = tested @ vortex
        turned = along_x.T @ (vortex * along_y)
        step = np.linalg.solve(tested @ (measure * bent) + turned - turned.T, value[:, 0])
        found -= step
        if abs(step).max() < 1e-12 * abs(found).max():
            break
    return found.reshape(degree - 3, degree - 3)


def _values(basis: Array, place: Array, order: int) -> Array:
    """Return derivatives (K, N) of polynomials on (0, 1), scaled to bends of size 1."""
    node, weight = legendre.leggauss(basis.shape[1])
    bends = 4 * legendre.legval(node, legendre.legder(basis.T, 2))
    size = np.sqrt((bends**2 * weight).sum(axis=1, keepdims=True) / 2)
    return 2**order * legendre.legval(place, legendre.legder(basis.T, order)) / size


def _grid(count: int) -> Tensor:
    """Return the pairs (count ** 2, 2) of indices."""
    return torch.cartesian_prod(torch.arange(count), torch.arange(count))


@torch.enable_grad()
def _corners(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a stream function (N,) with its slopes (N, 2) and its Laplacian (N,).

    It has the values and slopes of that of the cavity on all walls, and in both corners of the lid
    G. I. Taylor's flow at a scraper, r f(angle), which has no scale. A blend joins the two, and
    falls to zero with its slope at the bottom.
    """
    x = x.clone().requires_grad_()
    a, b = x.unbind(dim=1)
    left, bottom = (3 * c**2 - 2 * c**3 for c in (1 - a, b))
    psi = bottom * (left * _scraper(a, 1 - b) + (1 - left) * _scraper(1 - a, 1 - b))
    (slopes,) = torch.autograd.grad(psi.sum(), x, create_graph=True)
    bends = [torch.autograd.grad(slopes[:, i].sum(), x, retain_graph=True)[0] for i in (0, 1)]
    return psi.detach(), slopes.detach(), bends[0][:, 0] + bends[1][:, 1]


def _scraper(along: Tensor, below: Tensor) -> Tensor:
    """Return the stream function in a corner, at distances from its fixed and its moving wall."""
    angle, quarter = torch.atan2(below, along), math.pi / 2
    shape = quarter * angle * angle.sin() + angle * angle.cos() - quarter**2 * angle.sin()
    return shape * (along.square() + below.square()).sqrt() / (quarter**2 - 1)


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


def table_of(velocity: Tensor) -> Tensor:
    """Return the entries (30,) of the table from the velocity (30, 2) at its points."""
    return torch.cat([velocity[:15, 0], velocity[15:, 1]])


def ghia() -> tuple[Tensor, Tensor]:
    """Return the points (30, 2) of the table and the velocity (30,) there: u, then v.

    It is of second order on a uniform grid; :func:`cavity` is more accurate.
    """
    node = torch.tensor([GHIA_Y, GHIA_X], dtype=torch.float64) / 128
    middle = torch.full_like(node[0], 0.5)
    vertical = torch.stack([middle, node[0]], dim=1)
    horizontal = torch.stack([node[1], middle], dim=1)
    return torch.cat([vertical, horizontal]), torch.tensor(GHIA_U + GHIA_V, dtype=torch.float64)
