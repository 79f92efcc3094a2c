"""Products with rows whose nonzeros come in runs, fused and by PyTorch, against dense ones."""

import pytest
import torch

from kanlib import KAN, MeanSquaredError
from kanlib.kernels import operator, products
from kanlib.training.jacobian import jacobian

M, ROWS, COLUMNS, LENGTH = 40, 17, 30, 6
FUSED = pytest.param(
    True, marks=pytest.mark.skipif(not operator.has_numba(), reason="needs numba"), id="fused"
)


@pytest.fixture
def names(monkeypatch):
    """Return the names of the fused kernels that run."""
    names = []
    if not operator.has_numba():
        return names
    fused = products._fused()
    for name in ("add_product", "add_transposed"):
        kernel = getattr(fused, name)

        def noted(*arrays, name=name, kernel=kernel):
            names.append(name)
            kernel(*arrays)

        monkeypatch.setattr(fused, name, noted)
    return names


@pytest.fixture(params=[FUSED, pytest.param(False, id="torch")])
def used(request, names):
    """Choose who multiplies."""
    with operator.backend("numba" if request.param else "torch"):
        yield
    assert bool(names) is request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_those_of_the_dense_matrix(used, dtype):
    torch.manual_seed(0)
    place, offset = torch.randint(ROWS, (M,)), torch.randint(COLUMNS - LENGTH + 1, (M,))
    values = torch.randn(M, LENGTH, dtype=dtype)
    J = torch.zeros(ROWS, COLUMNS, dtype=dtype)
    for row, first, run in zip(place, offset, values, strict=True):
        J[row, first : first + LENGTH] += run
    v, y = torch.randn(COLUMNS, dtype=dtype), torch.randn(ROWS, dtype=dtype)
    rows, columns = y.clone(), v.clone()
    products.add_product(place, offset, values, v, rows)
    products.add_transposed(place, offset, values, y, columns)
    torch.testing.assert_close(rows, y + J @ v)
    torch.testing.assert_close(columns, v + J.T @ y)


def test_other_types_are_not_mixed_up():
    place, values = torch.zeros(1, dtype=torch.int64), torch.ones(1, 2)
    with pytest.raises(RuntimeError):
        products.add_product(
            place, place, values, torch.ones(2, dtype=torch.float64), torch.ones(1)
        )


def test_transformations_of_jacobians_are_those_of_the_dense_matrix(names):
    x = torch.rand(20, 2, dtype=torch.float64)
    model = KAN([2, 3, 1], n=4, dtype=torch.float64)
    J = jacobian(model, MeanSquaredError(x, x[:, :1]))
    names.clear()
    matrix = J.dense()
    v, w = torch.randn(2, J.shape[1], dtype=torch.float64)
    rows = torch.randn(3, J.shape[0], dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(J.transposed)(rows), rows @ matrix)
    found = torch.func.jvp(J.product, (v,), (w,))
    torch.testing.assert_close(found, (matrix @ v, matrix @ w))
    assert names == []
    with pytest.raises(ValueError, match=r"rows must have shape \(20,\).*torch.vmap"):
        J.transposed(rows.T)
    with pytest.raises(ValueError, match=r"step must have shape"):
        J.product(v[None])
