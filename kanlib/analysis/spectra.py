"""Eigenstructure of A^T A and A A^T, the metrics that the change of basis induces (section 2.2).

Their condition number grows like n**(2r) and soon exceeds what float64 resolves: an eigensolver
applied to A^T A has an absolute error of about eps * lambda_max, which leaves nothing of the
smallest eigenvalues once they are 1e16 times smaller (r = 5, n = 50). Here the entries of A come
without cancellation, because signs alternate along its rows, and so do those of A^{-1}, which are
sums of positive numbers. So the singular values of A give the upper half of the spectrum and those
of A^{-1} the lower half, each where it is accurate: extreme eigenvalues have a relative error of a
few eps, those in the middle about eps * (lambda_max / lambda_min)**(1/4).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kanlib._checks import as_integer, as_number, check_types, shown
from kanlib.splines.change_of_basis import ChangeOfBasis
from kanlib.splines.knots import KnotGrid

__all__ = ["Eigenpairs", "eigenpairs", "eigenvalue_ratio", "sign_changes", "symbol"]

Matrix = Literal["AtA", "AAt"]
"""A^T A acts on ReLU weights w, A A^T on spline weights u."""


class Eigenpairs(NamedTuple):
    """Eigenvalues (N,), smallest first, and orthonormal eigenvectors, the columns of (N, N).

    Examples:
        >>> values, vectors = eigenpairs(KnotGrid.uniform(2, 4))
        >>> values.shape, vectors.shape
        (torch.Size([5]), torch.Size([5, 5]))
    """

    values: Tensor
    vectors: Tensor


def eigenpairs(grid: KnotGrid, matrix: Matrix = "AtA", *, inverse: bool = False) -> Eigenpairs:
    """Return eigenvalues and eigenvectors of A^T A or A A^T, or of the inverse.

    Args:
        grid: knot grid, uniform or not; N = n + r - 1.
        matrix: "AtA" or "AAt".
        inverse: treat the inverse of that matrix.

    Returns:
        Float64 eigenvalues and eigenvectors; the largest entry of each eigenvector is positive.

    Raises:
        ValueError: if ``matrix`` is not known.

    Examples:
        >>> eigenpairs(KnotGrid.uniform(1, 3)).values  # 4 sin(k pi / 14)**2, k = 1, 3, 5
        tensor([0.1981, 1.5550, 3.2470], dtype=torch.float64)
    """
    check_types(eigenpairs, locals())
    a, a_inverse = _change_of_basis_and_inverse(grid)
    if matrix == "AAt":
        a, a_inverse = a.T, a_inverse.T
    _, large, upper = torch.linalg.svd(a)
    lower, small, _ = torch.linalg.svd(a_inverse)
    # From here on in increasing order; both have all N singular values of A.
    large, small = large.flip(0), 1.0 / small
    accurate = large > (large[-1] * small[0]).sqrt()
    values = torch.where(accurate, large, small).square()
    vectors = torch.where(accurate, upper.T.flip(1), lower)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    vectors = vectors * largest.sign()
    if inverse:
        return Eigenpairs(1.0 / values.flip(0), vectors.flip(1))
    return Eigenpairs(values, vectors)


def eigenvalue_ratio(grid: KnotGrid) -> float:
    """Return the ratio of the largest to the smallest eigenvalue of A^T A (figure 2a).

    It is accurate to a few units in the last place, however large it is.

    Examples:
        >>> round(eigenvalue_ratio(KnotGrid.uniform(1, 10)))
        175
    """
    check_types(eigenvalue_ratio, locals())
    a, a_inverse = _change_of_basis_and_inverse(grid)
    return float((torch.linalg.matrix_norm(a, 2) * torch.linalg.matrix_norm(a_inverse, 2)) ** 2)


def sign_changes(vectors: Tensor, tolerance: float = 1e-12) -> Tensor:
    """Return the number of sign changes along each column (figure 2b).

    Args:
        vectors: (N, M).
        tolerance: entries at most this fraction of the largest one of their column count as zero,
            and zeros are passed over.

    Returns:
        Integers (M,).

    Examples:
        >>> sign_changes(torch.tensor([[1.0, 1.0], [2.0, 0.0], [1.0, -1.0]]))
        tensor([0, 1])
    """
    check_types(sign_changes, locals())
    as_number("tolerance", tolerance, 0)
    if vectors.ndim != 2 or not len(vectors) or not vectors.isfinite().all():
        raise ValueError(f"vectors must be finite, of shape (N, M), got {shown(vectors)}")
    changes = []
    for column in vectors.T:
        signs = column[column.abs() > tolerance * column.abs().max()].sign()
        changes.append(int((signs[1:] != signs[:-1]).sum()))
    return torch.tensor(changes, device="cpu")


def symbol(order: int, theta: Tensor) -> Tensor:
    """Return the symbol (1 - exp(i theta))**r / (r - 1)! of h**(r-1) A on a uniform grid.

    It is the factor by which A, away from the ends, multiplies exp(i j theta) (eq. 40, corrected).
    The squared modulus (2 sin(theta / 2))**(2r) / (r - 1)!**2 describes the eigenvalues of
    h**(2r-2) A^T A.

    Args:
        order: order r >= 1.
        theta: angles of any shape.

    Returns:
        Complex tensor of the shape of ``theta``.

    Examples:
        >>> symbol(3, torch.tensor([math.pi])).abs()
        tensor([4.])
    """
    check_types(symbol, locals())
    as_integer("order", order, minimum=1)
    theta = theta.to(torch.promote_types(theta.dtype, torch.float32))
    return (1.0 - torch.exp(1j * theta)) ** order / math.factorial(order - 1)


def _change_of_basis_and_inverse(grid: KnotGrid) -> tuple[Tensor, Tensor]:
    """Return A and A^{-1} as dense float64 matrices with small relative errors in every entry."""
    change = ChangeOfBasis(grid)
    identity = torch.eye(grid.num_basis, dtype=torch.float64, device="cpu")
    return change.dense(), change.solve(identity).T
