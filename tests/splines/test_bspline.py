import warnings
from fractions import Fraction

import numpy as np
import pytest
import scipy.interpolate
import torch
from grids import GRID_NAMES, GRIDS, ORDERS, exact_knots, grids, sample
from hypothesis import given

from kanlib import KnotGrid
from kanlib._checks import EXTENSIONS
from kanlib.splines import bspline, truncated_power
from kanlib.splines.bspline import cox_de_boor, dense_basis, locate, pieces, scatter

MODULES = [bspline, truncated_power]
every_grid = pytest.mark.parametrize("points", GRIDS, ids=GRID_NAMES)
every_order = pytest.mark.parametrize("r", ORDERS)
every_module = pytest.mark.parametrize("module", MODULES, ids=["spline", "relu"])


def oracle(x, grid, derivative=0):
    """Evaluate all B-splines with SciPy, on [a, b]."""
    identity = np.eye(grid.num_basis)
    return scipy.interpolate.BSpline(grid.knots.numpy(), identity, grid.order - 1)(x, derivative)


def exact_values(x, grid):
    """Evaluate all B-splines on [a, b] by the recursion (eq. 2) in exact arithmetic."""
    t, x, b = exact_knots(grid), Fraction(float(x)), Fraction(grid.domain[1])
    last = t.index(b) - 1
    holds = [t[i] <= x < t[i + 1] if x < b else i == last for i in range(len(t) - 1)]
    values = [Fraction(h) for h in holds]
    for q in range(2, grid.order + 1):
        values = [
            (x - t[i]) / (t[i + q - 1] - t[i]) * values[i]
            + (t[i + q] - x) / (t[i + q] - t[i + 1]) * values[i + 1]
            for i in range(len(values) - 1)
        ]
    return values


def derivatives_by_autograd(function, x, order):
    """Return a function of x, entry by entry, and its derivatives up to ``order - 1``."""
    x = x.clone().requires_grad_()
    result = [function(x)]
    for _ in range(order - 1):
        result += torch.autograd.grad(result[-1].sum(), x, create_graph=True)
    return [values.detach() for values in result]


def some_spline(module, grid, derivative=0, extension="linear"):
    """Return a spline all of whose coefficients differ, as a function of x."""
    weights = torch.arange(1.0, grid.num_basis + 1).double().square().cos()
    return lambda x: module.dense_basis(x, grid, derivative, extension) @ weights


@every_grid
@every_order
def test_values_and_derivatives_agree_with_scipy(points, r):
    grid = KnotGrid(r, points)
    x = sample(grid)
    for derivative in range(r):
        expected = oracle(x, grid, derivative)
        computed = dense_basis(torch.tensor(x), grid, derivative)
        scale = np.abs(expected).max(axis=0)
        # The rounding of x - t_m counts where the domain is far from zero.
        far = 1 + max(map(abs, grid.domain)) / min(np.diff(points))
        assert np.all(np.abs(computed.numpy() - expected) <= 4e-15 * far * scale * 4**r)


@every_grid
@every_order
def test_values_agree_with_exact_arithmetic(points, r):
    grid = KnotGrid(r, points)
    x = sample(grid, 11)
    expected = np.array([exact_values(t, grid) for t in x]).astype(float)
    tolerance = 1e-15 * 2**r
    np.testing.assert_allclose(dense_basis(torch.tensor(x), grid), expected, atol=tolerance)
    np.testing.assert_allclose(cox_de_boor(torch.tensor(x), grid), expected, atol=tolerance)


@given(grids())
def test_recursion_agrees_with_the_local_closed_form(grid):
    x = torch.tensor(sample(grid))
    torch.testing.assert_close(cox_de_boor(x, grid), dense_basis(x, grid), rtol=0, atol=1e-13)


@given(grids())
def test_basis_is_a_nonnegative_partition_of_unity_with_local_support(grid):
    x = torch.tensor(sample(grid))
    b = dense_basis(x, grid)
    torch.testing.assert_close(b.sum(-1), torch.ones_like(x), rtol=0, atol=4e-14)
    assert b.min() >= -1e-14
    t, r = grid.knots, grid.order
    outside = (x[:, None] < t[: grid.num_basis]) | (x[:, None] > t[r:])
    assert not b[outside].any()
    inside = (x[:, None] > t[: grid.num_basis]) & (x[:, None] < t[r:])
    assert (b[inside] > -1e-15).all()
    assert (inside.sum(-1) <= r).all()


@given(grids(min_order=2))
def test_derivatives_of_the_partition_of_unity_vanish(grid):
    x = torch.tensor(sample(grid))
    for derivative in range(1, grid.order):
        slopes = dense_basis(x, grid, derivative)
        assert slopes.sum(-1).abs().max() <= 1e-13 * slopes.abs().max()


def test_basis_at_breakpoints_is_known_by_hand():
    for points in ([0.0, 0.25, 0.5, 1.0], [0.0, 1.0]):
        x = torch.tensor(points).double()
        steps = dense_basis(x, KnotGrid(1, points))
        expected = np.eye(len(points) - 1)[[*range(len(points) - 1), -1]]  # closed at b
        np.testing.assert_array_equal(steps, expected)
        np.testing.assert_array_equal(dense_basis(x, KnotGrid(2, points)), np.eye(len(points)))
    grid = KnotGrid.uniform(4, 4)
    b = dense_basis(grid.breakpoints, grid)
    expected = [np.roll([1, 4, 1, 0, 0, 0, 0], m) / 6 for m in range(5)]
    np.testing.assert_allclose(b, expected, atol=1e-16)
    assert b[-1].tolist()[:3] == [0.0] * 3  # the fourth ends here, up to rounding


def test_derivatives_at_breakpoints_are_right_continuous_and_left_continuous_at_b():
    grid = KnotGrid(2, [0.0, 0.5, 2.0])
    expected = [[-2, 2, 0], [0, -1 / 1.5, 1 / 1.5], [0, -1 / 1.5, 1 / 1.5]]
    np.testing.assert_allclose(dense_basis(grid.breakpoints, grid, 1), expected, rtol=1e-15)


def test_pieces_of_a_uniform_grid_are_those_of_integer_knots():
    cubic = [[1, -3, 3, -1], [4, 0, -6, 3], [1, 3, 3, -3], [0, 0, 0, 1]]
    for domain in ((0.0, 1.0), (0.1, 0.7), (1e6, 1e6 + 1), (0.0, 1e-12)):
        table = pieces(KnotGrid.uniform(4, 7, domain))
        assert table.shape == (1, 4, 4)
        np.testing.assert_allclose(table[0], np.array(cubic) / 6, rtol=1e-15, atol=1e-16)


@every_order
def test_pieces_are_the_taylor_coefficients_on_each_interval(r):
    grid = KnotGrid(r, GRIDS[1])
    table = pieces(grid)
    assert table.shape == (grid.n, r, r)
    left = grid.breakpoints[:-1].numpy()
    width = np.diff(grid.breakpoints)
    factorial = 1.0
    for k in range(r):
        factorial *= max(k, 1)
        taylor = oracle(left, grid, k) * width[:, None] ** k / factorial
        for m in range(grid.n):
            np.testing.assert_allclose(table[m, :, k], taylor[m, m : m + r], atol=1e-14)


def test_locate_closes_intervals_on_the_left_and_the_last_one_at_b():
    breakpoints = torch.tensor([0.0, 1.0, 3.0, 4.0])
    x = torch.tensor([-9.0, 0.0, 0.5, 1.0, 2.9, 3.0, 4.0, 9.0])
    assert locate(x, breakpoints).tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


def test_scatter_places_local_values():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    dense = scatter(torch.tensor([0, 2]), values, 4)
    assert dense.tolist() == [[1, 2, 0, 0], [0, 0, 3, 4]]


@every_grid
@pytest.mark.parametrize("r", [1, 2, 3, 4, 5])
@every_module
def test_linear_extension_continues_value_and_slope(points, r, module):
    grid = KnotGrid(r, points)
    a, b = grid.domain
    ends = grid.breakpoints[[0, -1]]
    value = module.dense_basis(ends, grid)
    slope = module.dense_basis(ends, grid, 1) if r > 1 else torch.zeros_like(value)
    for distance in (2.0**-20, 0.5, 64.0):
        x = torch.tensor([a - distance, b + distance], dtype=torch.float64)
        expected = value + torch.tensor([[-distance], [distance]]) * slope
        computed = module.dense_basis(x, grid)
        rounding = 1e-15 * 2**r * (1 + distance / min(np.diff(points)))
        torch.testing.assert_close(computed, expected, rtol=0, atol=rounding)
        for derivative in range(1, r):
            expected = slope if derivative == 1 else torch.zeros_like(slope)
            computed = module.dense_basis(x, grid, derivative)
            torch.testing.assert_close(computed, expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("extension", ["clamp", "none"])
@pytest.mark.parametrize("r", [1, 2, 3, 4, 5])
@every_module
def test_other_extensions_keep_the_end_value_or_vanish(extension, r, module):
    grid = KnotGrid(r, GRIDS[1])
    a, b = grid.domain
    keeps = float(extension == "clamp")
    value = keeps * module.dense_basis(grid.breakpoints[[0, -1]], grid)
    for distance in (1e-9, 0.5, 100.0):
        x = torch.tensor([a - distance, b + distance], dtype=torch.float64)
        computed = module.dense_basis(x, grid, 0, extension)
        torch.testing.assert_close(computed, value, rtol=0, atol=0)
        for derivative in range(1, r):
            assert not module.dense_basis(x, grid, derivative, extension).any()


@pytest.mark.parametrize("extension", EXTENSIONS)
@every_module
def test_extension_does_not_touch_the_closed_domain(extension, module):
    grid = KnotGrid(4, GRIDS[1])
    x = torch.tensor(sample(grid))
    for derivative in range(4):
        inside = module.dense_basis(x, grid, derivative, extension)
        torch.testing.assert_close(inside, module.dense_basis(x, grid, derivative), rtol=0, atol=0)
    if module is bspline:
        np.testing.assert_allclose(
            module.dense_basis(x, grid, 0, extension), oracle(x.numpy(), grid), atol=1e-14
        )


@every_grid
@every_order
@every_module
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_autograd_agrees_with_derivative_evaluation(points, r, module, extension):
    """Everywhere: between and exactly at the breakpoints, at a and b, and outside."""
    grid = KnotGrid(r, points)
    a, b = grid.domain
    outside = np.array([a - 3.0, a - 2.0**-20, b + 2.0**-20, b + 3.0])
    x = torch.tensor(np.concatenate([sample(grid, 7), outside]))
    by_autograd = derivatives_by_autograd(some_spline(module, grid, 0, extension), x, r)
    for derivative in range(r):
        expected = some_spline(module, grid, derivative, extension)(x)
        tolerance = 1e-13 * expected.abs().max().item()
        torch.testing.assert_close(by_autograd[derivative], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("n", [50, 200, 5000])
@pytest.mark.parametrize("domain", [(0.0, 1.0), (0.1, 0.7), (-3.0, 5.0)])
def test_float32_keeps_full_accuracy_on_fine_grids(n, domain):
    grid = KnotGrid.uniform(4, n, domain)
    x = torch.linspace(*domain, 9973, dtype=torch.float32)
    exact = dense_basis(x.double().clamp(*domain), grid)
    error = (dense_basis(x, grid).double() - exact).abs().max()
    assert error < 5e-7  # a grid rounded to float32 gives 4e-6 at n = 200, 1e-4 at n = 5000


def test_float32_survives_a_grid_finer_than_its_own_resolution():
    grid = KnotGrid.uniform(4, 50, (1e6, 1e6 + 1))
    x = torch.tensor([1e6, 1e6 + 0.5, 1e6 + 1], dtype=torch.float32)
    torch.testing.assert_close(dense_basis(x, grid), dense_basis(x.double(), grid).float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@every_module
def test_dtype_of_the_points_is_kept(dtype, module):
    x = torch.tensor([-0.5, 0.0, 0.25, 1.0, 2.0], dtype=dtype)
    grid = KnotGrid.uniform(3, 4)
    assert module.dense_basis(x, grid).dtype == dtype
    assert module.dense_basis(x, grid, 1).dtype == dtype
    assert cox_de_boor(x, grid).dtype == dtype


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0), (2, 3, 4)])
@every_module
def test_points_may_have_any_shape(shape, module):
    grid = KnotGrid.uniform(3, 5)
    x = torch.rand(shape, dtype=torch.float64)
    b = module.dense_basis(x, grid)
    assert b.shape == (*shape, grid.num_basis)
    flat = module.dense_basis(x.flatten(), grid).reshape(b.shape)
    torch.testing.assert_close(b, flat, rtol=0, atol=0)


def test_evaluation_of_strided_points_does_not_warn():
    grid = KnotGrid.uniform(3, 5)
    x = torch.rand(6, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(dense_basis(x.T, grid), dense_basis(x, grid).transpose(0, 1))


@pytest.mark.parametrize("r", [1, 2, 3])
@pytest.mark.parametrize("extension", EXTENSIONS)
@every_module
def test_nan_points_give_nan_values(r, extension, module):
    """A spline of order 1 is piecewise constant, but a constant must not hide a NaN."""
    grid = KnotGrid.uniform(r, 3)
    x = torch.tensor([0.5, float("nan")])
    for derivative in range(r):
        values = module.dense_basis(x, grid, derivative, extension).sum(-1)
        assert values.isnan().tolist() == [False, True]


@pytest.mark.parametrize("extension", ["clamp", "none"])
@every_module
def test_infinite_points_lie_outside(extension, module):
    grid = KnotGrid.uniform(3, 3)
    far = torch.tensor([-1e30, 1e30])
    infinite = torch.tensor([-float("inf"), float("inf")])
    torch.testing.assert_close(
        module.dense_basis(infinite, grid, 0, extension),
        module.dense_basis(far, grid, 0, extension),
    )


@every_module
def test_evaluation_ignores_the_default_device(module):
    grid = KnotGrid(3, GRIDS[1])
    x = torch.rand(4)
    expected = module.dense_basis(x, grid), module.pieces(grid)
    with torch.device("meta"):
        computed = module.dense_basis(x, grid), module.pieces(grid)
    torch.testing.assert_close(computed, expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.tensor([0, 1]), 0), TypeError, r"x must be a floating-point tensor, .*int64"),
        ((0.5, 0), TypeError, "x must be a floating-point tensor, got float"),
        (([0.5], 0), TypeError, "x must be a floating-point tensor, got list"),
        ((torch.rand(2), 3), ValueError, r"from 0 to r - 1 = 2 for order r = 3, got 3; raise"),
        ((torch.rand(2), -1), ValueError, "derivative must be from 0 .* got -1"),
        ((torch.rand(2), 1.0), ValueError, r"derivative must be from 0 .* got 1\.0"),
        ((torch.rand(2), None), ValueError, "derivative must be from 0 .* got None"),
        ((torch.rand(2), 0, "zero"), ValueError, r"one of \('linear', .*, got 'zero'"),
        ((torch.rand(2), 0, None), ValueError, "extension must be one of .*, got None"),
    ],
)
@every_module
def test_evaluation_refuses_bad_arguments(arguments, error, message, module):
    x, *options = arguments
    with pytest.raises(error, match=message):
        module.dense_basis(x, KnotGrid.uniform(3, 4), *options)


def test_recursion_refuses_points_that_are_no_floats():
    with pytest.raises(TypeError, match="x must be a floating-point tensor"):
        cox_de_boor(torch.tensor([0, 1]), KnotGrid.uniform(3, 4))
