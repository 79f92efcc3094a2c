"""Splines by scales: the spaces of B-splines in coordinates that belong to levels.

A spline on the finest of L + 1 grids is one on the coarsest plus, for each level, a part that the
level before cannot represent. With the prolongation P of B-splines and n columns C for the part of
a level, the B-spline coefficients of all functions follow level by level,

    T_0 = I,    T_{l+1} = [P T_l, C_l].

So refinement appends functions, and zero coefficients, while the span is that of B-splines. The
columns C_l are fine B-splines near the new breakpoints (hierarchical splines, which for r = 2 are
Yserentant's hats), or those less their best approximation on the level before (spline wavelets).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from kanlib._checks import as_integer, shown
from kanlib.bases.protocol import FunctionBasis, appended
from kanlib.splines.bspline import dense_basis
from kanlib.splines.knots import KnotGrid
from kanlib.splines.prolongation import prolongation
from kanlib.splines.quadrature import gram

__all__ = ["HierarchicalSplines", "SplineWavelets"]

Own = TypeVar("Own", bound="MultiscaleSplines")


class MultiscaleSplines(FunctionBasis):
    """Splines by scales; a base class of :class:`HierarchicalSplines` and :class:`SplineWavelets`.

    Outside [a, b] they continue linearly, as splines do.

    Args:
        coarsest: the coarsest grid.
        levels: number of levels above it, each of which halves all intervals.

    Attributes:
        grid: the finest grid.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if ``levels`` is negative.
    """

    def __init__(self, coarsest: KnotGrid, levels: int = 0) -> None:
        if not isinstance(coarsest, KnotGrid):
            raise TypeError(f"coarsest must be a KnotGrid, got {shown(coarsest)}")
        self.coarsest = self.grid = coarsest
        self.levels = as_integer("levels", levels, minimum=0)
        for _ in range(self.levels):
            self.grid = self.grid.refine()
        self.domain, self.size = coarsest.domain, self.grid.num_basis
        self.smoothness = coarsest.order - 1

    @property
    def n(self) -> int:
        """The number of intervals of the finest grid."""
        return self.grid.n

    @property
    def pieces(self) -> Tensor:
        """The breakpoints of the finest grid."""
        return self.grid.breakpoints

    @cached_property
    def matrix(self) -> Tensor:
        """The float64 matrix T, where u = T c are weights of B-splines."""
        with torch.inference_mode(False):  # it is kept, and others may train with it
            grid = self.coarsest
            matrix = torch.eye(grid.num_basis, dtype=torch.float64, device="cpu")
            for _ in range(self.levels):
                fine = grid.refine()
                inserted = prolongation(grid, fine).dense() @ matrix
                matrix, grid = torch.cat([inserted, self._new(grid)], dim=1), fine
            return matrix

    def _new(self, grid: KnotGrid) -> Tensor:
        """Return the coefficients of the n new functions, in B-splines on the halved grid."""
        # Fine B-spline 2 k + r // 2 is the one around the midpoint of interval k. The rows of P
        # that are left have no zero on their diagonal, so that [P, C] is regular: P is totally
        # positive.
        chosen = 2 * torch.arange(grid.n, device="cpu") + grid.order // 2
        return torch.eye(grid.refine().num_basis, dtype=torch.float64, device="cpu")[:, chosen]

    def derivatives(self, x: Tensor, order: int) -> Tensor:
        """Return all functions and their derivatives, which are zero from order r on."""
        matrix = self.matrix.to(x)
        known = [
            dense_basis(x, self.grid, k) @ matrix for k in range(min(order + 1, self.grid.order))
        ]
        return torch.stack([*known, *[0 * known[0]] * (order + 1 - len(known))])

    def refine(self: Own) -> Own:
        """Return the basis of one more level."""
        return type(self)(self.coarsest, self.levels + 1)

    def prolongation(self: Own, finer: Own) -> Tensor:
        """Return the matrix that appends zero coefficients.

        Raises:
            ValueError: if ``finer`` is no basis of this class on the same coarsest grid with at
                least as many levels.
        """
        matrix = appended(self, finer)
        if finer.coarsest != self.coarsest:
            raise ValueError(
                f"finer must have the coarsest grid {self.coarsest}, got {finer.coarsest}: use "
                "refine()"
            )
        return matrix

    def describe(self) -> dict[str, Any]:
        """Return the order, the coarsest grid and the number of levels."""
        grid = self.coarsest
        return {
            "order": grid.order,
            "n": grid.n,
            "domain": [*grid.domain],
            "breakpoints": "uniform" if grid.is_uniform else grid.breakpoints.tolist(),
            "levels": self.levels,
        }


class HierarchicalSplines(MultiscaleSplines):
    """The B-splines of the coarsest grid and, on each level, those around new breakpoints.

    For order 2 these are hierarchical hats: each new hat is one at its own new breakpoint, and zero
    at all other breakpoints of its level, so that coefficients are the surpluses of interpolation.

    Args:
        coarsest: the coarsest grid.
        levels: number of levels above it.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if ``levels`` is negative.

    Examples:
        >>> hats = HierarchicalSplines(KnotGrid.uniform(2, 1), levels=1)
        >>> hats.matrix
        tensor([[1.0000, 0.0000, 0.0000],
                [0.5000, 0.5000, 1.0000],
                [0.0000, 1.0000, 0.0000]], dtype=torch.float64)
    """


class SplineWavelets(MultiscaleSplines):
    """The B-splines of the coarsest grid and wavelets, orthogonal to all levels before.

    A wavelet is a fine B-spline less its best approximation on the level before, in the mean
    square. So wavelets of different levels are orthogonal, those of a level are nearly so, and the
    condition number does not grow with levels. All are as large, in the mean square, as the
    B-splines of the coarsest grid on average.

    Args:
        coarsest: the coarsest grid.
        levels: number of levels above it.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if ``levels`` is negative.

    Examples:
        Haar's wavelet:

        >>> SplineWavelets(KnotGrid.uniform(1, 1), levels=1).matrix
        tensor([[ 1.,  1.],
                [ 1., -1.]], dtype=torch.float64)
    """

    def _new(self, grid: KnotGrid) -> Tensor:
        fine = grid.refine()
        own, product = prolongation(grid, fine).dense(), gram(fine)
        chosen = super()._new(grid)
        best = torch.linalg.solve(own.T @ product @ own, own.T @ product @ chosen)
        wavelets = chosen - own @ best
        norms = (wavelets * (product @ wavelets)).sum(0).sqrt()
        return wavelets * (gram(self.coarsest).diagonal().mean().sqrt() / norms)
