"""Polynomials up to a degree, by Chebyshev's or Legendre's, which are nested by degree.

Both follow from a recurrence of three terms, p_{k+1} = alpha_k z p_k - gamma_k p_{k-1} in
z = (2 x - a - b) / (b - a), which is stable on [-1, 1]; its m-th derivative,

    p_{k+1}^(m) = alpha_k (z p_k^(m) + m p_k^(m-1)) - gamma_k p_{k-1}^(m),

gives all derivatives beside the values. Outside [a, b] polynomials of high degree explode; here
they continue linearly, as splines do.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, TypeVar

import torch
from torch import Tensor

from kanlib._checks import as_integer, as_interval
from kanlib.bases.protocol import FunctionBasis, appended, continued

__all__ = ["Chebyshev", "Legendre"]

Own = TypeVar("Own", bound="Polynomials")


class Polynomials(FunctionBasis):
    """Polynomials up to a degree; a base class of :class:`Chebyshev` and :class:`Legendre`.

    Args:
        degree: the highest degree, at least 1.
        domain: end points (a, b).

    Raises:
        TypeError: if the degree is not an integer.
        ValueError: if it is below 1, or the domain is no interval.
    """

    def __init__(self, degree: int, domain: tuple[float, float] = (0.0, 1.0)) -> None:
        self.degree = as_integer("degree", degree, minimum=1)
        self.domain = as_interval("domain", domain)
        self.size = self.degree + 1

    @property
    def n(self) -> int:
        """The degree."""
        return self.degree

    @abstractmethod
    def recurrence(self, k: int) -> tuple[float, float]:
        """Return alpha_k and gamma_k of p_{k+1} = alpha_k z p_k - gamma_k p_{k-1}."""

    def derivatives(self, x: Tensor, order: int) -> Tensor:
        """Return all polynomials and their derivatives, continued linearly outside the domain."""
        return continued(x, self.domain, order, self._inside)

    def _inside(self, x: Tensor, order: int) -> Tensor:
        (a, b), rest = self.domain, range(1, order + 1)
        z = 2 * ((x - a) / (b - a)) - 1
        factors = torch.arange(order + 1, dtype=x.dtype, device=x.device)
        factors = factors.reshape(-1, *[1] * x.ndim)
        one = 0 * z + 1  # keeps NaN
        before = torch.zeros_like(z).expand(order + 1, *z.shape)
        now = torch.stack([one, *(0 * z for _ in rest)])
        found = [now]
        for k in range(self.degree):
            alpha, gamma = self.recurrence(k)
            lower = torch.cat([torch.zeros_like(now[:1]), now[:-1]])
            before, now = now, alpha * (z * now + factors * lower) - gamma * before
            found.append(now)
        scales = (2 / (b - a)) ** factors
        return torch.stack(found, dim=-1) * scales[..., None]

    def refine(self: Own) -> Own:
        """Return the polynomials of twice the degree."""
        return type(self)(2 * self.degree, self.domain)

    def prolongation(self: Own, finer: Own) -> Tensor:
        """Return the matrix that appends zero coefficients.

        Raises:
            ValueError: if ``finer`` is no basis of this class and domain of at least this degree.
        """
        return appended(self, finer)

    def describe(self) -> dict[str, Any]:
        """Return the degree and the domain."""
        return {"degree": self.degree, "domain": [*self.domain]}


class Chebyshev(Polynomials):
    """Chebyshev polynomials T_k, with T_k(cos t) = cos k t on [-1, 1], of degree 0 to ``degree``.

    Args:
        degree: the highest degree, at least 1.
        domain: end points (a, b).

    Raises:
        TypeError: if the degree is not an integer.
        ValueError: if it is below 1, or the domain is no interval.

    Examples:
        >>> Chebyshev(3, (-1.0, 1.0)).derivatives(torch.tensor([0.5]), 1)[:, 0]
        tensor([[ 1.0000,  0.5000, -0.5000, -1.0000],
                [ 0.0000,  1.0000,  2.0000,  0.0000]])
        >>> Chebyshev(3).refine()
        Chebyshev(degree=6, domain=[0.0, 1.0])
    """

    def recurrence(self, k: int) -> tuple[float, float]:
        """Return the numbers of T_{k+1} = 2 z T_k - T_{k-1}."""
        return (2.0, 1.0) if k else (1.0, 0.0)


class Legendre(Polynomials):
    """Legendre polynomials P_k, orthogonal on the domain, with P_k(b) = 1, k = 0 to ``degree``.

    Args:
        degree: the highest degree, at least 1.
        domain: end points (a, b).

    Raises:
        TypeError: if the degree is not an integer.
        ValueError: if it is below 1, or the domain is no interval.

    Examples:
        >>> Legendre(2, (-1.0, 1.0)).derivatives(torch.tensor([0.5]), 0)[0, 0]
        tensor([ 1.0000,  0.5000, -0.1250])
    """

    def recurrence(self, k: int) -> tuple[float, float]:
        """Return the numbers of (k + 1) P_{k+1} = (2 k + 1) z P_k - k P_{k-1}."""
        return (2 * k + 1) / (k + 1), k / (k + 1)
