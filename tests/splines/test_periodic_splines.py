"""Periodic splines, against those of SciPy."""

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline, make_interp_spline

from kanlib.splines.bspline import dense_basis
from kanlib.splines.knots import KnotGrid
from kanlib.splines.periodic import partners, tied, turned
from kanlib.splines.prolongation import prolongation

POINTS = {
    "one interval": [0.0, 1.0],
    "uniform": np.linspace(-1, 2, 8).tolist(),
    "odd and graded": [0.0, 0.1, 0.4, 1.0, 1.7, 2.0],
    "fewer intervals than the order": [-3.0, -2.5, 1.0],
}
each_grid = pytest.mark.parametrize("points", POINTS.values(), ids=POINTS)
each_order = pytest.mark.parametrize("r", [1, 2, 3, 4, 6])


def coefficients(grid, seed=0):
    torch.manual_seed(seed)
    free = torch.randn(grid.n, dtype=torch.float64)
    return free[partners(grid)]


@each_grid
@each_order
def test_periodic_knots_repeat_with_the_period(points, r):
    grid = KnotGrid(r, points, periodic=True)
    a, b = grid.domain
    expected = np.concatenate([np.array(points[:-1]) + k * (b - a) for k in range(-9, 10)])
    expected = np.sort(expected)
    at = int(np.argmin(np.abs(expected - a)))
    chosen = expected[at - r + 1 : at + grid.n + r]
    np.testing.assert_allclose(grid.knots, chosen, atol=1e-13)
    assert grid.num_basis == grid.n + r - 1


@each_grid
@each_order
def test_equal_coefficients_are_the_periodic_spline_of_scipy(points, r):
    grid = KnotGrid(r, points, periodic=True)
    u = coefficients(grid)
    a, b = grid.domain
    x = torch.linspace(a - 2.31 * (b - a), b + 1.69 * (b - a), 301, dtype=torch.float64)
    spline = BSpline(grid.knots.numpy(), u.numpy(), r - 1, extrapolate="periodic")
    found = dense_basis(turned(x, grid.domain), grid) @ u
    np.testing.assert_allclose(found, spline(x.numpy()), atol=1e-12)


@each_order
def test_derivatives_are_continuous_across_the_seam(r):
    grid = KnotGrid(r, POINTS["odd and graded"], periodic=True)
    u = coefficients(grid)
    ends = torch.tensor(grid.domain, dtype=torch.float64)
    for k in range(r - 1):
        left, right = dense_basis(ends, grid, derivative=k) @ u
        assert abs(left - right) < 1e-10 * max(1.0, abs(left))
    if r > 1:  # the last one jumps, as at every knot
        left, right = dense_basis(ends, grid, derivative=r - 1) @ u
        assert abs(left - right) > 1e-3


@pytest.mark.parametrize("degree", [3, 5])
def test_periodic_interpolation_of_scipy_is_in_the_space(degree):
    points = np.array(POINTS["odd and graded"])
    values = np.array([1.0, -0.5, 2.0, 0.3, 0.7, 1.0])
    spline = make_interp_spline(points, values, k=degree, bc_type="periodic")
    grid = KnotGrid(degree + 1, points.tolist(), periodic=True)
    x = np.linspace(*grid.domain, 97)
    basis = dense_basis(torch.from_numpy(x), grid)
    images = torch.eye(grid.n, dtype=torch.float64)[:, partners(grid)]  # of the n free ones
    found = torch.linalg.lstsq((basis @ images.T), torch.from_numpy(spline(x))[:, None])
    np.testing.assert_allclose(basis @ images.T @ found.solution[:, 0], spline(x), atol=1e-11)


@each_grid
@each_order
@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_prolongation_of_periodic_splines_is_exact(points, r, basis):
    coarse = KnotGrid(r, points, periodic=True)
    a, b = coarse.domain
    third = a + (b - a) / 3.1
    for fine in (coarse.refine(), coarse.with_breakpoints(sorted([*points, third]))):
        assert fine.periodic
        u = coefficients(coarse)
        v = prolongation(coarse, fine).apply(u)
        np.testing.assert_allclose(tied(v, fine), v, atol=1e-12)
        x = torch.linspace(a, b, 101, dtype=torch.float64)
        np.testing.assert_allclose(
            dense_basis(x, fine) @ v, dense_basis(x, coarse) @ u, rtol=0, atol=1e-12
        )


@each_grid
@each_order
def test_tie_is_the_orthogonal_projection_onto_equal_coefficients(points, r):
    grid = KnotGrid(r, points, periodic=True)
    matrix = tied(torch.eye(grid.num_basis, dtype=torch.float64), grid)
    wanted = torch.eye(grid.n, dtype=torch.float64)[:, partners(grid)].T  # a basis of the space
    projector = wanted @ torch.linalg.pinv(wanted)
    np.testing.assert_allclose(matrix, projector, atol=1e-14)


def test_without_a_periodic_grid_nothing_is_tied():
    u = torch.randn(7)
    assert tied(u, KnotGrid.uniform(4, 4)) is u


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_turn_by_whole_periods(dtype):
    x = torch.tensor([-7.25, -0.5, 0.0, 1.0, 1.999, 2.0, 9.5, float("nan")], dtype=dtype)
    expected = [0.75, 1.5, 0.0, 1.0, 1.999, 0.0, 1.5, float("nan")]
    np.testing.assert_allclose(turned(x, (0.0, 2.0)), expected, rtol=1e-6)
    inside = torch.rand(50, dtype=dtype) * 2
    assert torch.equal(turned(inside, (0.0, 2.0)), inside)


def test_periodic_and_other_grids_are_not_nested():
    grid = KnotGrid.uniform(4, 4)
    other = KnotGrid.uniform(4, 8, periodic=True)
    with pytest.raises(ValueError, match="both be periodic or neither, got a periodic fine grid"):
        prolongation(grid, other)
    assert grid != KnotGrid.uniform(4, 4, periodic=True)
    assert "periodic" in repr(other)
    assert "periodic" not in repr(grid)


def test_periodic_must_be_a_bool():
    with pytest.raises(TypeError, match="periodic must be a bool, got 1"):
        KnotGrid(4, [0.0, 1.0], periodic=1)
