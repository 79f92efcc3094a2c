import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.linalg
import torch
from grids import GRID_NAMES, GRIDS, ORDERS, exact_change_of_basis, grids, sample
from hypothesis import given
from hypothesis import strategies as st

from kanlib import KnotGrid
from kanlib._checks import EXTENSIONS
from kanlib.splines import bspline, truncated_power
from kanlib.splines.change_of_basis import ChangeOfBasis

EPS = np.finfo(float).eps
every_grid = pytest.mark.parametrize("points", GRIDS, ids=GRID_NAMES)
every_order = pytest.mark.parametrize("r", ORDERS)
every_direction = pytest.mark.parametrize("transpose", [False, True], ids=["A", "A^T"])


def vectors(grid, count=3):
    generator = torch.Generator().manual_seed(grid.num_basis)
    return torch.randn(count, grid.num_basis, generator=generator, dtype=torch.float64)


@every_grid
@every_order
def test_matrix_agrees_with_lemma_2_in_exact_arithmetic(points, r):
    grid = KnotGrid(r, points)
    exact = exact_change_of_basis(grid)
    dense = ChangeOfBasis(grid).dense().numpy()
    np.testing.assert_allclose(dense, exact.astype(float), rtol=1e-13, atol=0)
    i, j = np.indices(dense.shape)
    assert not dense[(j < i) | (j > i + r)].any()


@every_order
@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_uniform_matrix_agrees_with_corollary_1(r, n):
    """A[i, i+s] = (-1)^s C(r, s) / ((r-1)! h^(r-1)), and A is a multiple of the r-th difference."""
    h = Fraction(3, 4)
    grid = KnotGrid.uniform(r, n, (-1.5, -1.5 + n * float(h)))
    size = grid.num_basis
    scale = 1 / (math.factorial(r - 1) * h ** (r - 1))
    exact = np.full((size, size), Fraction(0))
    for i in range(size):
        for s in range(min(r, size - 1 - i) + 1):
            exact[i, i + s] = scale * (-1) ** s * math.comb(r, s)
    dense = ChangeOfBasis(grid).dense().numpy()
    np.testing.assert_allclose(dense, exact.astype(float), rtol=1e-14, atol=0)
    difference = np.eye(size, dtype=int) - np.eye(size, k=1, dtype=int)
    assert (exact == scale * np.linalg.matrix_power(difference.astype(object), r)).all()


@every_grid
@every_order
def test_band_holds_the_diagonals(points, r):
    grid = KnotGrid(r, points)
    change = ChangeOfBasis(grid)
    band, dense = change.band, change.dense()
    assert band.shape == (grid.num_basis, r + 1)
    for i in range(grid.num_basis):
        for s in range(r + 1):
            inside = i + s < grid.num_basis
            assert band[i, s] == (dense[i, i + s] if inside else 0.0)


@every_grid
@every_order
@every_direction
def test_apply_agrees_with_the_dense_matrix(points, r, transpose):
    grid = KnotGrid(r, points)
    exact = exact_change_of_basis(grid).astype(float)
    matrix = exact.T if transpose else exact
    x = vectors(grid).numpy()
    computed = ChangeOfBasis(grid).apply(torch.tensor(x), transpose=transpose)
    bound = 4 * r * EPS * np.abs(x) @ product_of_absolutes(grid, transpose).T
    assert np.all(np.abs(computed.numpy() - x @ matrix.T) <= bound)


def product_of_absolutes(grid, transpose):
    """Return |Delta| |D_r| |Delta| ..., which bounds the rounding of the factored product."""
    t, size = grid.knots.numpy(), grid.num_basis
    difference = np.eye(size) + np.eye(size, k=1)
    product = difference
    for k in range(2, grid.order + 1):
        product = difference @ np.diag(1 / (t[k - 1 : size + k - 1] - t[:size])) @ product
    return product.T if transpose else product


def exact_inverse(grid, transpose):
    """Return A^{-1} or A^{-T} by back substitution in exact arithmetic; all entries are >= 0."""
    a = exact_change_of_basis(grid)
    inverse = np.full(a.shape, Fraction(0))
    for i in reversed(range(len(a))):
        inverse[i, i] = Fraction(1)
        inverse[i] = (inverse[i] - a[i, i + 1 :] @ inverse[i + 1 :]) / a[i, i]
    assert (inverse >= 0).all()
    return inverse.T if transpose else inverse


@every_grid
@every_order
@every_direction
def test_solve_agrees_with_exact_arithmetic(points, r, transpose):
    """The inverse has no negative entry, so that sums lose nothing: the error is componentwise."""
    grid = KnotGrid(r, points)
    inverse, x = exact_inverse(grid, transpose), vectors(grid)[0]
    expected = (inverse @ [Fraction(value) for value in x.tolist()]).astype(float)
    computed = ChangeOfBasis(grid).solve(x, transpose=transpose).numpy()
    bound = r * (grid.num_basis + 4) * EPS * inverse.astype(float) @ np.abs(x.numpy())
    assert np.all(np.abs(computed - expected) <= bound)


@pytest.mark.parametrize("points", GRIDS[:2], ids=GRID_NAMES[:2])
@pytest.mark.parametrize("r", [1, 2, 3, 4])
@every_direction
def test_solve_agrees_with_the_banded_solver_of_scipy(points, r, transpose):
    grid = KnotGrid(r, points)
    change, size = ChangeOfBasis(grid), grid.num_basis
    diagonals = np.zeros((r + 1, size))  # LAPACK's layout: row r - s holds diagonal s
    for s in range(r + 1):
        diagonals[r - s, s:] = change.band[: size - s, s]
    shape = (0, r)
    if transpose:
        diagonals = np.array([np.roll(diagonals[r - s], -s) for s in range(r + 1)])
        shape = (r, 0)
    x = vectors(grid)
    expected = scipy.linalg.solve_banded(shape, diagonals, x.numpy().T).T
    np.testing.assert_allclose(change.solve(x, transpose=transpose), expected, rtol=1e-9)


@given(grids(max_n=5), st.booleans())
def test_solve_undoes_apply(grid, transpose):
    change, x = ChangeOfBasis(grid), vectors(grid)
    back = change.solve(change.apply(x, transpose=transpose), transpose=transpose)
    inverse = exact_inverse(grid, transpose).astype(float)
    growth = inverse @ product_of_absolutes(grid, transpose)
    bound = 4 * grid.order * (grid.num_basis + 4) * EPS * np.abs(x.numpy()) @ growth.T
    assert np.all((back - x).abs().numpy() <= bound)


@given(grids())
def test_apply_is_adjoint_to_its_transpose(grid):
    change = ChangeOfBasis(grid)
    x, y = vectors(grid, 2)
    left, right = change.apply(x).dot(y), x.dot(change.apply(y, transpose=True))
    scale = np.abs(x.numpy()) @ product_of_absolutes(grid, True) @ np.abs(y.numpy())
    assert abs(left - right) <= 50 * EPS * scale


@given(grids())
def test_splines_are_a_times_truncated_powers_on_the_domain(grid):
    """The relation b = A psi (eq. 4), up to the rounding of the cancelling sum."""
    x = torch.tensor(sample(grid))
    psi = truncated_power.dense_basis(x, grid)
    b = ChangeOfBasis(grid).apply(psi)
    bound = 50 * EPS * psi.numpy() @ product_of_absolutes(grid, False).T
    assert np.all((b - bspline.dense_basis(x, grid)).abs().numpy() <= bound + 1e-15)


@pytest.mark.parametrize("r", [1, 2, 3, 4])
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_both_bases_give_the_same_function_everywhere(r, extension):
    """A spline with weights u has the ReLU weights w = A^T u, outside [a, b] as well."""
    grid = KnotGrid(r, GRIDS[1])
    change, u = ChangeOfBasis(grid), vectors(grid)
    w = change.apply(u, transpose=True)
    x = torch.linspace(-3.0, 4.0, 71, dtype=torch.float64)
    for derivative in range(r):
        psi = truncated_power.dense_basis(x, grid, derivative, extension)
        b = bspline.dense_basis(x, grid, derivative, extension)
        tolerance = 20 * EPS * (psi.abs() @ w.abs().T).max().item()
        torch.testing.assert_close(psi @ w.T, b @ u.T, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7,), (0, 7), (2, 3, 7)])
@every_direction
def test_shape_and_dtype_are_kept(dtype, shape, transpose):
    change = ChangeOfBasis(KnotGrid.uniform(3, 5))
    x = torch.rand(shape, dtype=dtype)
    for operation in (change.apply, change.solve):
        y = operation(x, transpose=transpose)
        assert (y.shape, y.dtype) == (x.shape, dtype)
        rows = [operation(row, transpose=transpose) for row in x.reshape(-1, 7)]
        expected = torch.stack(rows) if rows else x.reshape(-1, 7)
        torch.testing.assert_close(y.reshape(-1, 7), expected)


def test_gradient_of_apply_is_the_transposed_product():
    grid = KnotGrid(3, GRIDS[1])
    change = ChangeOfBasis(grid)
    x, y = vectors(grid, 2)
    for operation in (change.apply, change.solve):
        x.requires_grad_().grad = None
        operation(x).dot(y).backward()
        torch.testing.assert_close(x.grad, operation(y, transpose=True))


def test_operations_cost_no_dense_matrix():
    grid = KnotGrid.uniform(4, 200_000, (0.0, 200_000.0))
    change = ChangeOfBasis(grid)
    u = torch.cos(torch.arange(grid.num_basis, dtype=torch.float64))
    w = change.apply(u, transpose=True)
    third = u[3:] - 3 * u[2:-1] + 3 * u[1:-2] - u[:-3]
    fourth = third[1:] - third[:-1]
    torch.testing.assert_close(w[4:], fourth / 6, rtol=0, atol=1e-14)
    assert change.band.shape == (grid.num_basis, 5)


@every_direction
def test_operations_refuse_bad_arguments(transpose):
    change = ChangeOfBasis(KnotGrid.uniform(3, 5))
    for operation in (change.apply, change.solve):
        with pytest.raises(ValueError, match=r"x must have 7 entries .* got shape \(3, 8\)"):
            operation(torch.rand(3, 8), transpose=transpose)
        with pytest.raises(ValueError, match=r"got shape \(\)"):
            operation(torch.tensor(1.0), transpose=transpose)
        with pytest.raises(TypeError, match=r"x must be a floating-point tensor, got torch\.int64"):
            operation(torch.arange(7), transpose=transpose)


def test_default_device_is_ignored():
    grid = KnotGrid(3, GRIDS[1])
    expected = ChangeOfBasis(grid).dense()
    with torch.device("meta"):
        change = ChangeOfBasis(grid)
        assert change.band.device == torch.device("cpu")
        torch.testing.assert_close(change.dense(), expected)


def test_repr_shows_the_grid():
    grid = KnotGrid.uniform(2, 3)
    assert repr(ChangeOfBasis(grid)) == f"ChangeOfBasis({grid!r})"
