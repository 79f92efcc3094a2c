"""Gaussian radial functions at uniform centres, which are not nested.

They are those of fast-kan: exp(-((x - c) / h)**2) with centres c at the distance h. On a grid of
twice as many intervals all centres are there, but with half the width, and no sum of narrow
Gaussians is a wide one. So refinement approximates, and changes the function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kanlib._checks import as_integer, as_interval
from kanlib.bases.projections import least_squares
from kanlib.bases.protocol import FunctionBasis

__all__ = ["Radial"]


class Radial(FunctionBasis):
    """Gaussians of width h at n + 1 centres, which are spaced by h = (b - a) / n.

    They are defined everywhere, and vanish far outside the domain. The span of :meth:`refine` does
    not contain this one: prolongation is the best approximation in the mean square, and
    :func:`kanlib.bases.projections.nesting_error` tells what it loses.

    Args:
        n: number of intervals between centres, at least 1.
        domain: end points (a, b), which are the first and the last centre.

    Raises:
        TypeError: if n is not an integer.
        ValueError: if it is below 1, or the domain is no interval.

    Examples:
        >>> Radial(2).derivatives(torch.tensor([0.5]), 0)[0]
        tensor([[0.3679, 1.0000, 0.3679]])
        >>> Radial(4).refine()
        Radial(n=8, domain=[0.0, 1.0])
    """

    nested = False

    def __init__(self, n: int, domain: tuple[float, float] = (0.0, 1.0)) -> None:
        self._n = as_integer("n", n, minimum=1)
        self.domain = as_interval("domain", domain)
        self.size = self._n + 1

    @property
    def n(self) -> int:
        """The number of intervals between centres."""
        return self._n

    def derivatives(self, x: Tensor, order: int) -> Tensor:
        """Return all Gaussians and their derivatives, everywhere, by Hermite's recurrence."""
        a, b = self.domain
        h = (b - a) / self.n
        z = (x - a)[..., None] / h - torch.arange(self.size, dtype=x.dtype, device=x.device)
        found = [(-z * z).exp()]
        for m in range(order):
            next_one = -2 * z * found[m]
            found.append(next_one - 2 * m * found[m - 1] if m else next_one)
        return torch.stack([each / h**m for m, each in enumerate(found)])

    def refine(self) -> Radial:
        """Return twice as many intervals, with Gaussians of half the width."""
        return Radial(2 * self.n, self.domain)

    def prolongation(self, finer: FunctionBasis) -> Tensor:
        """Return the matrix of best approximations in the mean square.

        Raises:
            ValueError: if the domains differ.
        """
        return least_squares(self, finer)

    def describe(self) -> dict[str, Any]:
        """Return the number of intervals and the domain."""
        return {"n": self.n, "domain": [*self.domain]}
