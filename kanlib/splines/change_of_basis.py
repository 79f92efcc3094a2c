"""The change of basis b = A psi between B-splines and truncated powers (eq. 4).

With d_i^[k] = 1 / (t_{i+k-1} - t_i), the rows of A^[k] follow from those of A^[k-1] by Lemma 2,
A^[k]_i = d_i A^[k-1]_i - d_{i+1} A^[k-1]_{i+1}. As matrices,

    A^[r] = Delta D_r Delta D_{r-1} ... Delta D_2 Delta,      Delta = A^[1] = I - S,

with the shift S and D_k = diag(d^[k]): r forward differences with scalings in between. Applying A
costs O(n r). Solving with A replaces each difference by a cumulative sum and costs the same; no
inverse is ever formed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kanlib._checks import check_tensor, check_types
from kanlib.splines.knots import KnotGrid, check_powers

__all__ = ["ChangeOfBasis"]


class ChangeOfBasis:
    """The matrix A^[r] of a knot grid, as an operator on the last dimension of a tensor.

    Args:
        grid: the knot grid, uniform or not.

    Examples:
        >>> A = ChangeOfBasis(KnotGrid(3, [0.0, 1.0, 2.0, 3.0]))
        >>> A.dense()
        tensor([[ 0.5000, -1.5000,  1.5000, -0.5000,  0.0000],
                [ 0.0000,  0.5000, -1.5000,  1.5000, -0.5000],
                [ 0.0000,  0.0000,  0.5000, -1.5000,  1.5000],
                [ 0.0000,  0.0000,  0.0000,  0.5000, -1.5000],
                [ 0.0000,  0.0000,  0.0000,  0.0000,  0.5000]], dtype=torch.float64)
        >>> A
        ChangeOfBasis(KnotGrid(order=3, n=3, domain=[0, 3], uniform))
    """

    def __init__(self, grid: KnotGrid) -> None:
        check_types(ChangeOfBasis.__init__, locals())
        check_powers(grid)
        self.grid = grid
        t, size = grid.knots, grid.num_basis
        self._scales = [
            1.0 / (t[k - 1 : size + k - 1] - t[:size]) for k in range(2, grid.order + 1)
        ]

    @property
    def band(self) -> Tensor:
        """The nonzero diagonals, entry [i, s] being A[i, i + s], s = 0, ..., r (eq. 5, Lemma 2).

        Shape (n + r - 1, r + 1), float64; zero where the column i + s does not exist.
        """
        size, order = self.grid.num_basis, self.grid.order
        band = self.grid.knots.new_zeros(size + 1, order + 1)
        band[:-1, 0], band[:-1, 1] = 1.0, -1.0
        for scale in self._scales:
            band[:-1] *= scale[:, None]
            band[:-1, 1:] = band[:-1, 1:] - band[1:, :-1]
        columns = torch.arange(size + order, device=band.device).unfold(0, order + 1, 1)
        return band[:-1] * (columns < size)

    def dense(self) -> Tensor:
        """Return A as a dense (n + r - 1, n + r - 1) float64 matrix, for inspection."""
        size, band = self.grid.num_basis, self.band
        matrix = band.new_zeros(size, size)
        for s in range(min(band.shape[1], size)):
            matrix += torch.diag(band[: size - s, s], s)
        return matrix

    def apply(self, x: Tensor, *, transpose: bool = False) -> Tensor:
        """Return A x, or A^T x, along the last dimension.

        A^T takes spline weights u to ReLU weights w = A^T u; A takes gradients with respect to w
        to gradients with respect to u (eq. 16).

        Args:
            x: floating-point tensor of shape (..., n + r - 1).
            transpose: apply A^T.

        Returns:
            Tensor of the shape of x, differentiable.

        Raises:
            TypeError: if x is not a floating-point tensor.
            ValueError: if the last dimension of x is not n + r - 1.

        Examples:
            >>> A = ChangeOfBasis(KnotGrid.uniform(1, 3))
            >>> A.apply(torch.tensor([1.0, 2.0, 4.0]))
            tensor([-1., -2.,  4.])
        """
        check_tensor("x", x, self.grid.num_basis)
        scales = [d.to(x) for d in self._scales]
        if transpose:
            for d in reversed(scales):
                x = _backward_difference(x) * d
            return _backward_difference(x)
        x = _forward_difference(x)
        for d in scales:
            x = _forward_difference(x * d)
        return x

    def solve(self, x: Tensor, *, transpose: bool = False) -> Tensor:
        """Return A^{-1} x, or A^{-T} x, along the last dimension, by r cumulative sums.

        A^{-T} takes ReLU weights w to spline weights u.

        Args:
            x: floating-point tensor of shape (..., n + r - 1).
            transpose: solve with A^T.

        Returns:
            Tensor of the shape of x, differentiable.

        Raises:
            TypeError: if x is not a floating-point tensor.
            ValueError: if the last dimension of x is not n + r - 1.

        Examples:
            >>> A = ChangeOfBasis(KnotGrid.uniform(1, 3))
            >>> A.solve(torch.tensor([-1.0, -2.0, 4.0]))
            tensor([1., 2., 4.])
        """
        check_tensor("x", x, self.grid.num_basis)
        scales = [d.to(x) for d in self._scales]
        if transpose:
            x = x.cumsum(-1)
            for d in scales:
                x = (x / d).cumsum(-1)
            return x
        for d in reversed(scales):
            x = _reverse_cumsum(x) / d
        return _reverse_cumsum(x)

    def __repr__(self) -> str:
        return f"ChangeOfBasis({self.grid})"


def _forward_difference(x: Tensor) -> Tensor:
    """Apply Delta: y_i = x_i - x_{i+1}, with zero beyond the end."""
    return x - torch.nn.functional.pad(x[..., 1:], (0, 1))


def _backward_difference(x: Tensor) -> Tensor:
    """Apply Delta^T: y_i = x_i - x_{i-1}, with zero before the start."""
    return x - torch.nn.functional.pad(x[..., :-1], (1, 0))


def _reverse_cumsum(x: Tensor) -> Tensor:
    """Apply Delta^{-1}: the cumulative sum from the end."""
    return x.flip(-1).cumsum(-1).flip(-1)
