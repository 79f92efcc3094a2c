"""Periodic splines, against those of SciPy."""

import itertools
import math
from fractions import Fraction

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


DOMAINS = [
    (0.1, 0.8),
    (-0.3, 1.1),
    (0.3, 0.7),
    (0.0, 2 * math.pi),
    (-math.pi, math.pi),
    (-2 * math.pi, 0.0),
    (-1.0, 3.999999999),
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
CASES = [*itertools.product(DOMAINS, DTYPES), *(((1000.1, 1000.3), d) for d in DTYPES[:2])]


@pytest.mark.parametrize(("domain", "dtype"), CASES)
def test_points_turn_into_the_domain_whatever_rounding_does(domain, dtype):
    a, b = domain
    period = b - a
    seams = [place + k * period for place in domain for k in range(-40, 41)]
    grown = [10.0**k for k in range(-30, 31)]
    torch.manual_seed(0)
    x = torch.tensor([*seams, *grown, *(-v for v in grown)], dtype=torch.float64)
    x = torch.cat([x, a + 7 * period * torch.randn(500, dtype=torch.float64)]).to(dtype)
    away = torch.tensor([-1e30, 1e30], dtype=dtype)[:, None, None]
    x = torch.cat([x[None], x.nextafter(away[0]), x.nextafter(away[1])]).flatten()
    found = turned(x, domain)
    assert found.dtype == dtype
    assert found.double().ge(a).all()
    assert found.double().le(b).all()


@pytest.mark.parametrize("domain", DOMAINS)
def test_near_points_turn_as_those_of_exact_arithmetic(domain):
    a, b = domain
    x = torch.linspace(a - 5 * (b - a), b + 5 * (b - a), 997, dtype=torch.float64)
    left, right = Fraction(a), Fraction(b)
    exact = [left + (Fraction(v) - left) % (right - left) for v in x.tolist()]
    gap = (turned(x, domain) - torch.tensor([float(v) for v in exact], dtype=torch.float64)).abs()
    assert torch.minimum(gap, (b - a) - gap).max() < 1e-14


def test_turning_has_derivative_one_under_all_transformations():
    x = torch.tensor([-7.25, -0.3, 0.1, 0.8, 1.1, 2.2, 30.0], dtype=torch.float64)

    def of(x):
        return turned(x, (-0.3, 1.1))

    one = torch.ones_like(x)
    assert torch.equal(torch.func.jvp(of, (x,), (one,))[1], one)
    assert torch.equal(torch.func.jacrev(of)(x), torch.eye(len(x), dtype=x.dtype))
    assert torch.equal(torch.func.vmap(torch.func.grad(of))(x), one)
    cubes = torch.func.vmap(torch.func.grad(torch.func.grad(lambda x: of(x) ** 3)))
    torch.testing.assert_close(cubes(x), 6 * of(x))
    wanted = x.clone().requires_grad_()
    assert torch.equal(torch.autograd.grad(of(wanted).sum(), wanted)[0], one)


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
