"""Products with rows whose nonzeros come in runs, fused and by PyTorch, against dense ones."""

import pytest
import torch

from kanlib.kernels import operator, products

M, ROWS, COLUMNS, LENGTH = 40, 17, 30, 6
FUSED = pytest.param(
    True, marks=pytest.mark.skipif(not operator.has_numba(), reason="needs numba"), id="fused"
)


@pytest.fixture(params=[FUSED, pytest.param(False, id="torch")])
def used(request, monkeypatch):
    """Choose who multiplies; return the names of the fused kernels that ran."""
    names = []
    if not request.param:
        monkeypatch.setattr(operator, "has_numba", lambda: False)
        yield names
        assert names == []
        return
    fused = products._fused()
    for name in ("add_product", "add_transposed"):
        kernel = getattr(fused, name)

        def noted(*arrays, name=name, kernel=kernel):
            names.append(name)
            kernel(*arrays)

        monkeypatch.setattr(fused, name, noted)
    yield names
    assert names


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
