"""Positive definite block tridiagonal matrices, solved by odd-even (cyclic) reduction.

The even blocks are eliminated all at once, which leaves a block tridiagonal matrix of half as many
blocks (Buzbee, Golub and Nielson, 1970): m blocks take log2 m steps, each a few batched products.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BlockTridiagonal"]


class BlockTridiagonal:
    """The factors of a symmetric positive definite block tridiagonal matrix.

    Args:
        diagonal: the diagonal blocks, (m, s, s).
        lower: the blocks below them, (m - 1, s, s).

    Attributes:
        failed: whether the matrix is not positive definite up to rounding.

    Examples:
        >>> two = 2 * torch.eye(1).expand(3, 1, 1)
        >>> BlockTridiagonal(two, -torch.ones(2, 1, 1)).solve(torch.ones(3, 1)).flatten()
        tensor([1.5000, 2.0000, 1.5000])
    """

    def __init__(self, diagonal: Tensor, lower: Tensor) -> None:
        even, odd = diagonal[::2], diagonal[1::2]
        factor, info = torch.linalg.cholesky_ex(even)
        self.failed = bool(info.any())
        self._next: BlockTridiagonal | None = None
        if self.failed:
            return
        self._inverse = torch.cholesky_inverse(factor)
        if not len(odd):
            return
        self._left, self._right = lower[::2], lower[1::2].mT
        after = len(self._right)  # odd blocks that have an even one after them
        self._before = self._inverse[: len(odd)] @ self._left.mT
        self._after = self._inverse[1 : after + 1] @ self._right.mT
        reduced = odd - self._left @ self._before
        reduced[:after] -= self._right @ self._after
        between = -self._left[1:] @ self._after[: len(odd) - 1]
        self._next = BlockTridiagonal(0.5 * (reduced + reduced.mT), between)
        self.failed = self._next.failed

    def solve(self, right: Tensor) -> Tensor:
        """Return the solution (m, s) for a right-hand side (m, s)."""
        return self._solve(right[..., None])[..., 0]

    def _solve(self, right: Tensor) -> Tensor:
        even = torch.bmm(self._inverse, right[::2])
        if self._next is None:
            return even
        odd, after = right[1::2], len(self._right)
        odd = torch.baddbmm(odd, self._left, even[: len(odd)], alpha=-1)
        odd[:after].baddbmm_(self._right, even[1 : after + 1], alpha=-1)
        odd = self._next._solve(odd)
        even[: len(odd)].baddbmm_(self._before, odd, alpha=-1)
        even[1 : after + 1].baddbmm_(self._after, odd[:after], alpha=-1)
        found = torch.empty_like(right)
        found[::2], found[1::2] = even, odd
        return found
