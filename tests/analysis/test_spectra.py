"""Eigenstructure of the change of basis, against exact matrices, SciPy and closed forms."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch

from kanlib import KnotGrid
from kanlib.analysis.spectra import eigenpairs, eigenvalue_ratio, sign_changes, symbol
from kanlib.splines.change_of_basis import ChangeOfBasis

GRADED = [0.0, 0.01, 0.03, 0.1, 0.5, 0.6, 0.61, 1.0]
UNEVEN = [0.0, 0.1, 0.15, 0.3, 0.5, 0.6, 0.8, 1.0]
GRIDS = [
    *(KnotGrid.uniform(r, n) for r in range(1, 6) for n in (1, 2, 9)),
    *(KnotGrid(r, GRADED) for r in range(1, 5)),
]
EPS = torch.finfo(torch.float64).eps


def exact_matrix(grid):
    """A from the divided differences that define B-splines, in exact rational arithmetic."""
    r, size = grid.order, grid.num_basis
    t = [Fraction(x) for x in grid.knots.tolist()]
    a = [[Fraction(0)] * size for _ in range(size)]
    for i in range(size):
        for j in range(i, min(i + r + 1, size)):
            others = [t[j] - t[m] for m in range(i, i + r + 1) if m != j]
            a[i][j] = (-1) ** r * (t[i + r] - t[i]) / math.prod(others)
    return a


def exact_eigenvalues(grid, digits=80):
    a = exact_matrix(grid)
    with mpmath.workdps(digits):
        matrix = mpmath.matrix(
            [[mpmath.mpf(x.numerator) / x.denominator for x in row] for row in a]
        )
        return [float(x) for x in mpmath.eigsy(matrix.T * matrix, eigvals_only=True)]


def banded_eigenvalues(grid):
    a = np.array([[float(x) for x in row] for row in exact_matrix(grid)])
    gram, size = a.T @ a, len(a)
    band = [np.pad(np.diag(gram, k), (0, k)) for k in range(min(grid.order, size - 1) + 1)]
    return scipy.linalg.eig_banded(np.array(band), lower=True, eigvals_only=True)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_eigenvalues_agree_with_exact_arithmetic(grid):
    exact = torch.tensor(exact_eigenvalues(grid), dtype=torch.float64)
    error = (eigenpairs(grid).values / exact - 1.0).abs()
    ratio = exact[-1] / exact[0]
    assert error.max() < 8 * EPS * grid.num_basis * ratio**0.25
    assert max(error[0], error[-1]) < 8 * EPS * grid.num_basis
    assert eigenvalue_ratio(grid) == pytest.approx(float(ratio), rel=8 * EPS * grid.num_basis)


def test_eigenvalues_stay_accurate_where_a_banded_solver_on_the_product_ends():
    grid = KnotGrid.uniform(5, 60)
    exact = exact_eigenvalues(grid)
    assert abs(banded_eigenvalues(grid)[0] / exact[0] - 1) > 0.05
    values = eigenpairs(grid).values
    assert abs(values[0] / exact[0] - 1) < 1e-12
    assert (values / torch.tensor(exact, dtype=torch.float64) - 1).abs().max() < 1e-9


@pytest.mark.parametrize("r", [1, 2, 3])
def test_eigenvalues_agree_with_scipy(r):
    grid = KnotGrid.uniform(r, 12)
    assert eigenpairs(grid).values.numpy() == pytest.approx(banded_eigenvalues(grid), rel=1e-7)


@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_eigenvalues_of_order_one_have_their_closed_form(n):
    k = torch.arange(1, 2 * n, 2, dtype=torch.float64)
    expected = 4 * torch.sin(k * math.pi / (4 * n + 2)) ** 2
    assert torch.allclose(eigenpairs(KnotGrid.uniform(1, n)).values, expected, rtol=1e-12)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("matrix", ["AtA", "AAt"])
def test_eigenvectors_diagonalise_the_matrix_and_its_inverse(grid, matrix):
    a = torch.tensor([[float(x) for x in row] for row in exact_matrix(grid)], dtype=torch.float64)
    a_inverse = torch.linalg.solve_triangular(a, torch.eye(len(a), dtype=a.dtype), upper=True)
    product = a.T @ a if matrix == "AtA" else a @ a.T
    inverse = a_inverse @ a_inverse.T if matrix == "AtA" else a_inverse.T @ a_inverse
    for operator, pairs in [
        (product, eigenpairs(grid, matrix)),
        (inverse, eigenpairs(grid, matrix, inverse=True)),
    ]:
        vectors = pairs.vectors
        residual = operator @ vectors - vectors * pairs.values
        assert residual.abs().max() < 1e-11 * pairs.values[-1]
        assert torch.allclose(vectors.T @ vectors, torch.eye(len(a), dtype=a.dtype), atol=1e-8)
        assert (pairs.values.diff() > 0).all()
        assert (vectors.gather(0, vectors.abs().argmax(0, keepdim=True)) > 0).all()


def test_eigenvectors_of_the_two_products_mirror_each_other_on_uniform_knots():
    grid = KnotGrid.uniform(3, 10)
    left, right = eigenpairs(grid, "AtA").vectors, eigenpairs(grid, "AAt").vectors
    assert torch.allclose(left.flip(0), right, atol=1e-9)


def test_inverse_has_the_reciprocal_eigenvalues_in_opposite_order():
    grid = KnotGrid.uniform(4, 8)
    values = eigenpairs(grid).values
    assert torch.equal(eigenpairs(grid, inverse=True).values, 1.0 / values.flip(0))


@pytest.mark.parametrize(
    "grid",
    [*(KnotGrid.uniform(r, n) for r, n in [(1, 2), (1, 50), (2, 9), (3, 50), (5, 1), (5, 80)])]
    + [KnotGrid(r, UNEVEN) for r in range(1, 5)],
    ids=str,
)
@pytest.mark.parametrize("matrix", ["AtA", "AAt"])
def test_eigenvectors_change_sign_once_more_each_on_any_knots(grid, matrix):
    """The inverse is an oscillatory matrix; Gantmacher and Krein's theorem gives the counts."""
    expected = torch.arange(grid.num_basis)
    assert torch.equal(sign_changes(eigenpairs(grid, matrix).vectors), expected)
    assert torch.equal(
        sign_changes(eigenpairs(grid, matrix, inverse=True).vectors), expected.flip(0)
    )


def test_sign_changes_passes_over_zeros_and_rounding():
    columns = [[1.0, 0.0, 2.0, 1e-12], [1.0, -1e-13, 1.0, 1.0], [-1.0, 0.0, 0.0, 1.0], [0.0] * 4]
    assert sign_changes(torch.tensor(columns).T).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("r", range(1, 6))
def test_symbol_is_what_the_stencil_does_to_a_wave(r):
    theta, h = torch.linspace(-3.0, 3.0, 7, dtype=torch.float64), 0.5
    a = exact_matrix(KnotGrid.uniform(r, 20, (0.0, 10.0)))
    row = torch.tensor([float(x) for x in a[0]], dtype=torch.float64)
    waves = torch.exp(1j * theta[:, None] * torch.arange(len(row)))
    assert torch.allclose(symbol(r, theta), h ** (r - 1) * (waves @ row.to(waves)), atol=1e-10)


@pytest.mark.parametrize("r", range(1, 6))
def test_symbol_bounds_and_approaches_the_largest_singular_value(r):
    bound = 2.0**r / math.factorial(r - 1)
    assert symbol(r, torch.tensor(math.pi, dtype=torch.float64)).abs() == pytest.approx(bound)
    n = 60
    largest = float(eigenpairs(KnotGrid.uniform(r, n, (0.0, n))).values[-1].sqrt())
    assert 0.99 * bound < largest < bound


def test_eigenpairs_names_an_unknown_matrix():
    with pytest.raises(ValueError, match="'A'"):
        eigenpairs(KnotGrid.uniform(2, 3), "A")


@pytest.mark.parametrize("r", range(1, 6))
def test_change_of_basis_is_a_forward_difference(r):
    n, h = 12, 0.25
    a = ChangeOfBasis(KnotGrid.uniform(r, n, (0.0, n * h))).dense()
    padded = np.pad(np.eye(len(a)), ((0, r), (0, 0)))
    quotient = np.diff(padded, n=r, axis=0) / h**r
    assert a.numpy() == pytest.approx((-1) ** r * h / math.factorial(r - 1) * quotient, rel=1e-13)


@pytest.mark.parametrize("r", range(1, 6))
def test_product_is_toeplitz_outside_its_first_block(r):
    a = ChangeOfBasis(KnotGrid.uniform(r, 15, (0.0, 15.0))).dense().numpy()
    product = math.factorial(r - 1) ** 2 * a.T @ a
    column = [(-1) ** s * math.comb(2 * r, r + s) for s in range(r + 1)]
    toeplitz = scipy.linalg.toeplitz(np.pad(column, (0, len(a) - r - 1)))
    rows, columns = np.nonzero(np.abs(product - toeplitz) > 1e-9)
    assert set(zip(rows, columns, strict=True)) == {(i, j) for i in range(r) for j in range(r)}


@pytest.mark.parametrize("r", [1, 2, 3])
def test_product_acts_on_slow_waves_like_a_derivative(r):
    """Against D^{2r} e^{-2 pi i x} = (-1)^r (2 pi)^{2r} e^{-2 pi i x}; the error falls like h^2."""
    deviations = []
    for n in (20, 40):
        grid = KnotGrid.uniform(r, n)
        a = ChangeOfBasis(grid).dense().numpy()
        wave = np.exp(-2j * np.pi * grid.h * np.arange(len(a)))
        row = len(a) - 1 - r
        derivative = (-1) ** r * (2 * np.pi) ** (2 * r) * wave[row]
        expected = (-1) ** r * grid.h**2 / math.factorial(r - 1) ** 2 * derivative
        deviations.append(abs((a.T @ a @ wave)[row] / expected - 1))
    assert deviations[0] == pytest.approx(r * (2 * np.pi / 20) ** 2 / 12, rel=0.05)
    assert deviations[0] / deviations[1] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("r", [2, 3, 4])
def test_eigenvalues_follow_the_symbol(r):
    n = 100
    theta = (torch.arange(n + r - 1, dtype=torch.float64) + 0.5) * math.pi / (n + 1.5 * r - 1)
    law = (2 * torch.sin(theta / 2)) ** (2 * r) / math.factorial(r - 1) ** 2
    deviation = eigenpairs(KnotGrid.uniform(r, n, (0.0, n))).values / law - 1
    assert deviation[2:].abs().max() < r**2 / n


@pytest.mark.parametrize("r", range(1, 6))
def test_eigenvalue_ratio_grows_with_the_effective_length(r):
    sizes = np.array([50, 100, 200])
    ratios = [eigenvalue_ratio(KnotGrid.uniform(r, int(n))) for n in sizes]
    slope = np.polyfit(np.log(sizes + 1.5 * r - 1), np.log(ratios), 1)[0]
    assert slope == pytest.approx(2 * r, rel=1e-3)


def test_eigenvalue_ratios_at_ten_intervals():
    assert eigenvalue_ratio(KnotGrid.uniform(1, 10)) == pytest.approx(175.09, abs=0.01)
    exact = exact_eigenvalues(KnotGrid.uniform(3, 10, (0.0, 10.0)))
    assert exact[-1] / exact[0] == pytest.approx(2.974e6, rel=1e-3)
    assert eigenvalue_ratio(KnotGrid.uniform(3, 10)) == pytest.approx(exact[-1] / exact[0])
