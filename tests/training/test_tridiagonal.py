"""Cyclic reduction, against dense linear algebra."""

import pytest
import torch

from kanlib.training.tridiagonal import BlockTridiagonal


def matrix(count, size, seed=0):
    """Return a positive definite block tridiagonal matrix, and its blocks."""
    torch.manual_seed(seed)
    factor = torch.zeros(count * size, count * size, dtype=torch.float64)
    for k in range(count):
        at, before = slice(k * size, (k + 1) * size), slice((k - 1) * size, k * size)
        factor[at, at] = torch.randn(size, size, dtype=torch.float64).tril() + 3 * torch.eye(size)
        if k:
            factor[at, before] = torch.randn(size, size, dtype=torch.float64)
    dense = factor @ factor.T
    blocks = dense.view(count, size, count, size)
    diagonal = torch.stack([blocks[k, :, k] for k in range(count)])
    lower = [blocks[k + 1, :, k] for k in range(count - 1)]
    return dense, diagonal, torch.stack([*lower, diagonal[0]])[:-1]


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 13])
def test_solution_is_that_of_the_dense_matrix(count, size):
    dense, diagonal, lower = matrix(count, size)
    right = torch.randn(count, size, dtype=torch.float64)
    factors = BlockTridiagonal(diagonal, lower)
    expected = torch.linalg.solve(dense, right.flatten())
    assert not factors.failed
    torch.testing.assert_close(factors.solve(right).flatten(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("block", range(5))
def test_indefinite_matrix_is_told(block):
    _, diagonal, lower = matrix(5, 3)
    diagonal[block] -= 1e3 * torch.eye(3, dtype=torch.float64)
    assert BlockTridiagonal(diagonal, lower).failed
