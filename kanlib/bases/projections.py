"""Integrals of bases: Gram matrices, best approximations in finer bases, and what these lose."""

from __future__ import annotations

import torch
from torch import Tensor

from kanlib._checks import as_integer, check_types
from kanlib.bases.protocol import FunctionBasis, as_basis
from kanlib.kernels.chain_rule import HIGHEST
from kanlib.splines.knots import KnotGrid
from kanlib.splines.quadrature import quadrature

__all__ = ["check_basis", "gram", "least_squares", "nesting_error"]

#: Gauss points in each piece of a basis.
POINTS = 12
#: How exact a basis must be, relative to the largest value of a function or derivative.
TOLERANCE = 1e-10


def _weighted(x: Tensor, weights: Tensor, basis: FunctionBasis, derivative: int = 0) -> Tensor:
    """Return the values of the functions, times square roots of the weights of integrals."""
    return weights.sqrt()[:, None] * basis.derivatives(x, derivative)[derivative]


def _points(basis: FunctionBasis) -> tuple[Tensor, Tensor]:
    return quadrature(KnotGrid(1, basis.pieces), POINTS)


def gram(basis: FunctionBasis, derivative: int = 0) -> Tensor:
    """Return the matrix of int phi_i phi_j over the domain, or of derivatives of the functions.

    Args:
        basis: the basis.
        derivative: which derivative.

    Returns:
        Float64 tensor (size, size), by Gauss quadrature in every piece of the basis.

    Examples:
        >>> from kanlib.bases.polynomials import Legendre
        >>> gram(Legendre(2, (-1.0, 1.0))).diagonal()  # 2 / (2 k + 1)
        tensor([2.0000, 0.6667, 0.4000], dtype=torch.float64)
    """
    check_types(gram, locals())
    values = _weighted(*_points(basis), basis, as_integer("derivative", derivative, 0, HIGHEST))
    return values.T @ values


def least_squares(coarse: FunctionBasis, finer: FunctionBasis) -> Tensor:
    """Return the matrix of the best approximations of the coarse functions in the finer basis.

    They are best in the mean square over the domain. If the finer span contains the coarse one,
    the approximations are exact, up to rounding times the condition number of the basis.

    Args:
        coarse: a basis.
        finer: a basis on the same domain.

    Returns:
        Float64 matrix (size of finer, size of coarse), as a prolongation.

    Raises:
        ValueError: if the domains differ.

    Examples:
        >>> from kanlib import Legendre
        >>> least_squares(Legendre(2), Legendre(4)).round(decimals=9).abs()
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.],
                [0., 0., 0.],
                [0., 0., 0.]], dtype=torch.float64)
    """
    check_types(least_squares, locals())
    _check_domains(coarse, finer)
    x, weights = _points(finer)
    old, new = (_weighted(x, weights, each) for each in (coarse, finer))
    return torch.linalg.lstsq(new, old, driver="gelsd").solution


def nesting_error(coarse: FunctionBasis, finer: FunctionBasis) -> float:
    """Return how far a function of the coarse span may be from the finer span.

    It is the largest distance in the mean square over the domain, relative to the size of the
    function: the sine of the largest angle between the spans. It is zero up to rounding where
    bases are nested, and one where a coarse function is orthogonal to all fine ones.

    Args:
        coarse: a basis.
        finer: a basis on the same domain.

    Raises:
        ValueError: if the domains differ.

    Examples:
        >>> from kanlib.bases.radial import Radial
        >>> basis = Radial(8)
        >>> 0.01 < nesting_error(basis, basis.refine()) < 0.1
        True
    """
    check_types(nesting_error, locals())
    _check_domains(coarse, finer)
    x, weights = _points(finer)
    old, new = (_orthonormal(_weighted(x, weights, each)) for each in (coarse, finer))
    return float(torch.linalg.matrix_norm(old - new @ (new.T @ old), 2))


def _orthonormal(values: Tensor) -> Tensor:
    """Return orthonormal columns of the same span, up to rounding."""
    u, s, _ = torch.linalg.svd(values / values.norm(dim=0), full_matrices=False)
    return u[:, s > s[0] * len(values) * torch.finfo(s.dtype).eps]


def _check_domains(coarse: FunctionBasis, finer: FunctionBasis) -> None:
    if coarse.domain != finer.domain:
        raise ValueError(
            f"coarse and finer must have one domain, got {coarse.domain} and {finer.domain}"
        )


def check_basis(basis: FunctionBasis) -> None:
    """Raise unless a basis keeps what :class:`kanlib.bases.protocol.FunctionBasis` asks for.

    It checks shapes, each derivative against autograd, and one refinement: more functions, and,
    if the basis says that it is nested, that prolonged coefficients are the same function. Call it
    on a basis of your own before you train with it.

    Args:
        basis: the basis, in any state that its class can have.

    Raises:
        TypeError: if it lacks something.
        ValueError: if parts of it contradict each other; the error tells which.

    Examples:
        >>> from kanlib.bases.fourier import Fourier
        >>> check_basis(Fourier(3)) is None  # nothing is wrong
        True
    """
    as_basis("basis", basis)
    kind, (a, b) = type(basis).__name__, basis.domain
    # No point is where pieces of low order meet, or an end of the domain.
    steps = torch.arange(1, 32, dtype=torch.float64, device="cpu") * 0.6180339887498949
    x = a + (b - a) * (1.5 * (steps % 1) - 0.25)
    top = int(min(HIGHEST, basis.smoothness))
    for like in (x, x.float()):
        found = basis.derivatives(like, top)
        if found.shape != (top + 1, len(x), basis.size) or found.dtype != like.dtype:
            raise ValueError(
                f"derivatives(x, {top}) of {kind} must return {(top + 1, len(x), basis.size)} in "
                f"{like.dtype} for x of shape {(len(x),)}, got {tuple(found.shape)} in "
                f"{found.dtype}"
            )
    for order in range(top):
        found = basis.derivatives(x, order + 1)
        for i in range(basis.size):
            z = x.clone().requires_grad_()
            value = basis.derivatives(z, order)[order, :, i].sum()
            slope = torch.autograd.grad(value, z)[0] if value.requires_grad else 0 * x
            if _differ(slope, found[order + 1, :, i], found[order + 1].abs().max()):
                raise ValueError(
                    f"derivatives(x, {order + 1}) of {kind} must hold the derivatives of "
                    f"derivatives(x, {order}), but function {i} has others by autograd"
                )
    finer = as_basis("refine()", basis.refine())
    if not finer.n > basis.n:
        raise ValueError(
            f"refine() of {kind} must raise n, but it is {finer.n} after {basis.n}: return a "
            "basis of more functions"
        )
    matrix = basis.prolongation(finer)
    if matrix.shape != (finer.size, basis.size) or matrix.dtype != torch.float64:
        raise ValueError(
            f"prolongation(finer) of {kind} must be a float64 matrix {(finer.size, basis.size)}, "
            f"got {tuple(matrix.shape)} in {matrix.dtype}"
        )
    old, new = basis.derivatives(x, 0)[0], finer.derivatives(x, 0)[0] @ matrix
    if basis.nested and _differ(new, old, old.abs().max()):
        raise ValueError(
            f"prolongation(finer) of {kind} must keep every function, but they change by "
            f"{float((new - old).abs().max()):.3g}: set nested = False if the spans do not contain "
            "each other"
        )


def _differ(one: Tensor, other: Tensor, scale: Tensor) -> bool:
    return not float((one - other).abs().max()) <= TOLERANCE * max(float(scale), 1e-300)
