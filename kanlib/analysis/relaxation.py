"""Which errors gradient descent reduces, frequency by frequency (section 4.3), by linear algebra.

For one spline f on an interval and the loss 1/2 int (f - f*)**2, or that of derivatives, descent is
linear. Write the error in modes that are orthonormal in L2, the cosines of the interval as far as
the spline space holds them: V^T G V = I with the matrix V of their coefficients and G that of
int b_i b_j. A step u - eta B nabla_u L, where B is (A A^T)^{-1}, A^{-T}, I or A^{-1} in the rows of
Table 1, changes the modes c of the error to

    c - eta K c,    K = V^{-1} B V^{-T}.

The spectrum of K tells how large eta may be, and its diagonal how fast each frequency goes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kanlib._checks import Basis, as_integer, check_types
from kanlib.splines.bspline import dense_basis
from kanlib.splines.change_of_basis import ChangeOfBasis
from kanlib.splines.knots import KnotGrid
from kanlib.splines.prolongation import prolongation
from kanlib.splines.quadrature import gram, quadrature

__all__ = [
    "attenuation",
    "coarse_correction",
    "cosine_modes",
    "largest_stable_step",
    "propagator",
    "rate_matrix",
    "spectrum",
]


def cosine_modes(grid: KnotGrid) -> Tensor:
    """Return the coefficients of modes that are orthonormal in L2 and ordered by frequency.

    Mode k is the best approximation of cos(k pi (x - a) / (b - a)) in the spline space, made
    orthogonal to the modes before it. The last r - 1 live near the ends.

    Args:
        grid: the knot grid.

    Returns:
        Float64 tensor (N, N), whose column k holds the spline weights of mode k = 0, ..., N - 1.

    Examples:
        >>> modes = cosine_modes(KnotGrid.uniform(2, 4))
        >>> modes.shape
        torch.Size([5, 5])
        >>> modes[:, 0]  # the constant
        tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000], dtype=torch.float64)
    """
    check_types(cosine_modes, locals())
    a, b = grid.domain
    x, weights = quadrature(grid, grid.order + 6)
    phase = torch.pi * (x - a) / (b - a)
    cosines = torch.cos(
        phase[:, None] * torch.arange(grid.num_basis, dtype=torch.float64, device="cpu")
    )
    moments = dense_basis(x, grid).T @ (weights[:, None] * cosines)
    factor = torch.linalg.cholesky(gram(grid))
    # G = C C^T, and C^T u has the length of the spline u: orthonormalise these coordinates.
    coordinates = torch.linalg.solve_triangular(factor, moments, upper=False)
    q, r = torch.linalg.qr(coordinates)
    return torch.linalg.solve_triangular(factor.T, q * r.diagonal().sign(), upper=True)


def rate_matrix(
    grid: KnotGrid,
    geometry: Basis = "spline",
    gradient: Basis = "spline",
    *,
    fine: KnotGrid | None = None,
    derivative: int = 0,
) -> Tensor:
    """Return K, with which a step of gradient descent maps the modes c of the error to c - eta K c.

    Args:
        grid: grid of the spline that is trained.
        geometry: "spline" or "relu", the basis in which the step is taken (Table 1).
        gradient: "spline" or "relu", the basis of the gradient.
        fine: a grid, nested in which is ``grid``, whose modes describe the error; default ``grid``.
        derivative: which derivative of f the loss compares, from 0 to r - 1.

    Returns:
        Float64 tensor (N, N), N the number of modes. The eigenvalues of modes that the spline
        cannot represent, or the loss cannot see, are zero.

    Raises:
        ValueError: if an argument is not admissible.

    Examples:
        >>> rate_matrix(KnotGrid.uniform(1, 2)).diagonal()  # each mode at the rate h
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    check_types(rate_matrix, locals())
    fine = grid if fine is None else fine
    modes, p, change = cosine_modes(fine), prolongation(grid, fine).dense(), ChangeOfBasis(grid)
    left = modes.T @ gram(fine) @ p
    right = modes.T @ gram(fine, derivative) @ p
    left = change.solve(left) if geometry == "relu" else left
    right = change.solve(right) if gradient == "relu" else right
    return left @ right.T


def spectrum(
    grid: KnotGrid, geometry: Basis = "spline", gradient: Basis = "spline", *, derivative: int = 0
) -> Tensor:
    """Return the eigenvalues of K for the modes of the grid itself, largest modulus first.

    Where geometry and gradient agree they are squared singular values, real, and small ones keep
    their digits. Otherwise they are those of A^{-1} G, in both rows: real and positive without
    derivatives, since A^{-1} and G are totally nonnegative, but of a matrix far from normal.

    Args:
        grid: the knot grid.
        geometry: "spline" or "relu".
        gradient: "spline" or "relu".
        derivative: which derivative of f the loss compares, from 0 to r - 1.

    Returns:
        Tensor (N,), float64 or, where geometry and gradient differ, complex128.

    Raises:
        ValueError: if an argument is not admissible.

    Examples:
        >>> spectrum(KnotGrid.uniform(1, 4))
        tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)
    """
    check_types(spectrum, locals())
    change = ChangeOfBasis(grid)
    if geometry == gradient:
        x, weights = quadrature(grid, grid.order)
        root = weights.sqrt()[:, None] * dense_basis(x, grid, derivative)  # G = root^T root
        return torch.linalg.svdvals(change.solve(root) if geometry == "relu" else root) ** 2
    values = torch.linalg.eigvals(change.solve(gram(grid, derivative)))
    return values[values.abs().argsort(descending=True)]


def largest_stable_step(eigenvalues: Tensor) -> float:
    """Return the supremum of the steps eta with which no eigenmode of I - eta K grows.

    It is 2 / lambda_max where the eigenvalues are real and not negative, and 0 if an eigenvalue
    has a negative real part; infinite if all are zero. Eigenvalues at rounding level count as zero.

    Args:
        eigenvalues: those of K, real or complex.

    Examples:
        >>> largest_stable_step(torch.tensor([4.0, 1.0, 0.0]))
        0.5
    """
    check_types(largest_stable_step, locals())
    if not eigenvalues.numel() or not eigenvalues.isfinite().all():
        raise ValueError(f"eigenvalues must be finite and at least one, got {eigenvalues.tolist()}")
    values = eigenvalues[eigenvalues.abs() > 1e-12 * eigenvalues.abs().max()]
    if not values.numel():
        return float("inf")
    return max(0.0, float((2.0 * values.real / values.abs().square()).min()))


def attenuation(
    rates: Tensor, step: float, times: Sequence[int], start: Tensor | None = None
) -> Tensor:
    """Return how much of the error in each mode is left after some numbers of steps.

    The error starts white, with independent modes of variance one; what is left of mode k is the
    root of its variance, the length of row k of (I - eta K)**t.

    Args:
        rates: the matrix K, of shape (N, N).
        step: eta.
        times: numbers of steps t.
        start: what earlier iterations made of the error, as a matrix (N, M); default identity.

    Raises:
        ValueError: if shapes do not fit, there is no time, or one is negative.

    Returns:
        Float64 tensor (len(times), N).

    Examples:
        >>> attenuation(torch.diag(torch.tensor([1.0, 0.5])), 0.5, [0, 1, 2])
        tensor([[1.0000, 1.0000],
                [0.5000, 0.7500],
                [0.2500, 0.5625]])
    """
    check_types(attenuation, locals())
    if rates.ndim != 2 or rates.shape[0] != rates.shape[1]:
        raise ValueError(f"rates must be a square matrix, got shape {tuple(rates.shape)}")
    for time in times:
        as_integer("times", time, minimum=0)
    if not len(times):
        raise ValueError("times must hold at least one number of steps, got none")
    identity = torch.eye(len(rates), dtype=rates.dtype, device=rates.device)
    start = identity if start is None else start
    if start.ndim != 2 or len(start) != len(rates):
        raise ValueError(f"start must have shape ({len(rates)}, M), got {tuple(start.shape)}")
    powers = (torch.linalg.matrix_power(identity - step * rates, int(t)) for t in times)
    return torch.stack([(power @ start).norm(dim=1) for power in powers])


def propagator(
    levels: Sequence[KnotGrid],
    steps: Sequence[int],
    geometry: Basis = "spline",
    gradient: Basis = "spline",
    *,
    derivative: int = 0,
) -> Tensor:
    """Return the matrix that takes the modes of the error before training to those after it.

    Training takes some steps of gradient descent on each level, half as long as the largest stable
    ones, and interpolates to the next finer level, which does not change the error.

    Args:
        levels: nested grids, the coarsest first; the modes are those of the last one.
        steps: number of steps on each level.
        geometry: "spline" or "relu", the basis in which the steps are taken.
        gradient: "spline" or "relu", the basis of the gradient.
        derivative: which derivative of f the loss compares, from 0 to r - 1.

    Returns:
        Float64 tensor (N, N), N the number of modes.

    Raises:
        ValueError: if an argument is not admissible.

    Examples:
        >>> coarse = KnotGrid.uniform(1, 1)  # half the largest step removes the mean at once
        >>> propagator([coarse, coarse.refine()], [1, 0]).diagonal().abs().round(decimals=9)
        tensor([0., 1.], dtype=torch.float64)
    """
    check_types(propagator, locals())
    if not levels or len(levels) != len(steps):
        raise ValueError(
            f"steps must have one entry a level, got {len(steps)} for {len(levels)} levels"
        )
    for count in steps:
        as_integer("steps", count, minimum=0)
    identity = torch.eye(levels[-1].num_basis, dtype=torch.float64, device="cpu")
    result = identity
    for grid, count in zip(levels, steps, strict=True):
        rates = rate_matrix(grid, geometry, gradient, fine=levels[-1], derivative=derivative)
        values = spectrum(grid, geometry, gradient, derivative=derivative)
        step = largest_stable_step(values) / 2.0
        result = torch.linalg.matrix_power(identity - step * rates, count) @ result
    return result


def coarse_correction(coarse: KnotGrid, fine: KnotGrid, derivative: int = 0) -> Tensor:
    """Return the matrix that takes the modes of the error to those after the best coarse update.

    It minimises the loss over the splines of the coarse grid, and of those with the same loss takes
    the update with the smallest weights: I - V^{-1} P (P^T G P)^+ P^T G V.

    Args:
        coarse: the coarse grid.
        fine: a finer grid, in which it is nested, and whose modes describe the error.
        derivative: which derivative of f the loss compares, from 0 to r - 1.

    Returns:
        Float64 tensor (N, N), a projection.

    Raises:
        ValueError: if the grids are not nested, or ``derivative`` is out of range.

    Examples:
        >>> coarse = KnotGrid.uniform(1, 1)
        >>> coarse_correction(coarse, coarse.refine()).diagonal().abs().round(decimals=9)
        tensor([0., 1.], dtype=torch.float64)
    """
    check_types(coarse_correction, locals())
    modes, p, g = cosine_modes(fine), prolongation(coarse, fine).dense(), gram(fine, derivative)
    solve = torch.linalg.pinv(p.T @ g @ p, rtol=1e-11, hermitian=True)
    update = modes.T @ gram(fine) @ p @ solve @ p.T @ g @ modes  # V^{-1} = V^T G
    return torch.eye(fine.num_basis, dtype=torch.float64, device="cpu") - update
