"""Error modes of gradient descent: against SciPy, and against the optimizers themselves."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch.optim import SGD, Adam

from kanlib import KAN, KnotGrid, SplineLayer, train
from kanlib._checks import BASES
from kanlib.analysis.relaxation import (
    attenuation,
    coarse_correction,
    cosine_modes,
    gram,
    largest_stable_step,
    propagator,
    quadrature,
    rate_matrix,
    spectrum,
)
from kanlib.analysis.spectra import sign_changes
from kanlib.splines.change_of_basis import ChangeOfBasis
from kanlib.training.iterations import Iteration

ROWS = [("relu", "relu"), ("relu", "spline"), ("spline", "spline"), ("spline", "relu")]
GRIDS = [KnotGrid.uniform(r, 6) for r in (1, 2, 3, 4)] + [KnotGrid(3, [-1.0, 0.0, 0.5, 2.0])]


def collocation(grid: KnotGrid, points: int, derivative: int = 0) -> tuple[np.ndarray, ...]:
    """Return points, weights of a quadrature in every interval, and values of SciPy's B-splines."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    left, right = grid.breakpoints.numpy()[:-1, None], grid.breakpoints.numpy()[1:, None]
    x = ((left + right) / 2 + (right - left) / 2 * nodes).ravel()
    spline = BSpline(grid.knots.numpy(), np.eye(grid.num_basis), grid.order - 1)
    return x, ((right - left) / 2 * weights).ravel(), spline(x, nu=derivative)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_gram_holds_the_inner_products_of_scipy(grid):
    for derivative in range(grid.order):
        _, weights, b = collocation(grid, 8, derivative)
        expected = b.T @ (weights[:, None] * b)
        np.testing.assert_allclose(gram(grid, derivative), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("points", [1, 2, 7])
def test_quadrature_is_exact_for_all_degrees_below_twice_its_points(points):
    grid = KnotGrid(3, [-1.0, -0.9, 0.5, 2.0])
    x, weights = quadrature(grid, points)
    assert x.shape == weights.shape == (3 * points,)
    for k in range(2 * points):
        exact = (2.0 ** (k + 1) - (-1.0) ** (k + 1)) / (k + 1)
        assert float(weights @ x**k) == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_modes_are_orthonormal_and_ordered_by_frequency(grid):
    a, b = grid.domain
    x, weights, basis = collocation(grid, 12)
    modes = basis @ cosine_modes(grid).numpy()
    gramian = modes.T @ (weights[:, None] * modes)
    np.testing.assert_allclose(gramian, np.eye(grid.num_basis), atol=1e-12)
    np.testing.assert_allclose(modes[:, 0], (b - a) ** -0.5, rtol=1e-12)
    cosines = np.cos(np.pi * (x - a) / (b - a) * np.arange(grid.num_basis)[:, None])
    overlaps = modes.T @ (weights * cosines).T  # of mode i with cosine j
    assert np.abs(np.tril(overlaps, -1)).max() < 1e-11  # cosine j lies in modes 0, ..., j
    assert (np.diag(overlaps) > 0).all()


@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_mode_k_changes_sign_k_times(r):
    grid = KnotGrid.uniform(r, 16)
    _, _, b = collocation(grid, 12)
    changes = sign_changes(torch.tensor(b) @ cosine_modes(grid), tolerance=1e-3)
    assert changes[:14].tolist() == list(range(14))


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize(("geometry", "gradient"), ROWS)
@pytest.mark.parametrize("r", [1, 2, 4])
def test_rates_are_those_of_the_optimizer(r, geometry, gradient, basis):
    """One step of SGD on a coarse layer, seen in the modes of the fine grid."""
    coarse = KnotGrid.uniform(r, 3)
    fine = coarse.refine()
    torch.manual_seed(0)
    layer = SplineLayer(1, 1, coarse, basis=basis, dtype=torch.float64)
    x, weights, b = (torch.tensor(v) for v in collocation(fine, 6))
    target = b @ torch.randn(fine.num_basis, dtype=torch.float64)
    modes = (weights[:, None] * b @ cosine_modes(fine)).T  # from values to modes

    before = modes @ (layer(x[:, None])[:, 0] - target).detach()
    loss = (weights * (layer(x[:, None])[:, 0] - target).square()).sum() / 2
    loss.backward()
    Iteration(partial(SGD, lr=0.1), geometry, gradient)(layer).step()
    after = modes @ (layer(x[:, None])[:, 0] - target).detach()
    rates = rate_matrix(coarse, geometry, gradient, fine=fine)
    torch.testing.assert_close(after, before - 0.1 * rates @ before, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("geometry", "gradient"), ROWS)
def test_rates_of_derivatives_are_those_of_their_loss(geometry, gradient):
    grid = KnotGrid.uniform(4, 5)
    _, weights, second = collocation(grid, 6, derivative=2)
    hessian = torch.tensor(second.T @ (weights[:, None] * second))
    plain = rate_matrix(grid, geometry, gradient)  # V^{-1} B V^{-T}
    modes = cosine_modes(grid)
    rates = rate_matrix(grid, geometry, gradient, derivative=2)
    expected = plain @ modes.T @ hessian @ modes
    torch.testing.assert_close(rates, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("geometry", "gradient", "derivative"),
    [*((*row, 0) for row in ROWS), ("spline", "spline", 1), ("relu", "relu", 1)],
)
def test_spectrum_is_that_of_the_rate_matrix(geometry, gradient, derivative):
    grid = KnotGrid.uniform(2, 8)
    values = spectrum(grid, geometry, gradient, derivative=derivative)
    rates = rate_matrix(grid, geometry, gradient, derivative=derivative)
    expected = torch.linalg.eigvals(rates)
    expected = expected[expected.abs().argsort(descending=True)]
    torch.testing.assert_close(values.to(expected), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("geometry", "gradient"), [("relu", "spline"), ("spline", "relu")])
@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_mixed_descent_has_positive_spectrum_but_can_rise_from_second_order_on(
    r, geometry, gradient
):
    """A^{-T}, A^{-1} and G are totally nonnegative, and so are their products."""
    grid = KnotGrid.uniform(r, 10)
    values = spectrum(grid, geometry, gradient)
    assert values.imag.abs().max() <= 1e-9 * values.abs().max()
    assert values.real.min() > 0
    rates = rate_matrix(grid, geometry, gradient)
    rises = torch.linalg.eigvalsh(rates + rates.T)[0] < 0
    assert rises == (r > 1)


@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_smallest_rates_scale_with_the_grid_like_h_and_like_h_to_the_power_2r_minus_1(r):
    for row, power in (("spline", 1), ("relu", 2 * r - 1)):
        coarse, fine = (float(spectrum(KnotGrid.uniform(r, n), row, row)[-1]) for n in (16, 32))
        assert np.log2(coarse / fine) == pytest.approx(power, abs=0.02)


@pytest.mark.parametrize("r", [1, 2, 3])
def test_largest_steps_of_splines_outgrow_those_of_truncated_powers(r):
    """Like n**2, and so like n**(2 r) if the powers are scaled by h**(1 - r) (Remark 1)."""
    sizes, ratios = (80, 160), []
    for n in sizes:
        grid = KnotGrid.uniform(r, n)
        x, weights, b = collocation(grid, r + 1)
        distance = x[:, None] - grid.knots.numpy()[: grid.num_basis]
        psi = np.where(distance >= 0, distance.clip(min=0) ** (r - 1), 0)
        steps = [2 / np.linalg.eigvalsh(f.T @ (weights[:, None] * f))[-1] for f in (b, psi)]
        for row, step in zip(BASES, steps, strict=True):
            assert largest_stable_step(spectrum(grid, row, row)) == pytest.approx(step)
        ratios.append(steps[0] / steps[1])
    power = np.log2(ratios[1] / ratios[0])
    assert power == pytest.approx(2, abs=0.15)


def test_largest_stable_step_is_set_by_the_eigenvalue_nearest_to_growth():
    turning = torch.tensor([[0.5, 1.0], [-1.0, 0.5]])  # eigenvalues 0.5 +- i
    step = largest_stable_step(torch.linalg.eigvals(turning))
    assert step == pytest.approx(0.8)
    for factor, grows in ((0.99, False), (1.01, True)):
        radius = torch.linalg.eigvals(torch.eye(2) - factor * step * turning).abs().max()
        assert (radius > 1) == grows
    assert largest_stable_step(torch.tensor([1.0, -1.0])) == 0.0


def test_attenuation_is_the_spread_of_white_errors():
    """Against a sample of errors, on a coarse grid and then on the fine one."""
    coarse = KnotGrid.uniform(2, 4)
    fine = coarse.refine()
    rates = [rate_matrix(grid, "spline", "spline", fine=fine) for grid in (coarse, fine)]
    generator = torch.Generator().manual_seed(0)
    errors = torch.randn(fine.num_basis, 100_000, generator=generator, dtype=torch.float64)
    for matrix, steps in zip(rates, (3, 2), strict=True):
        for _ in range(steps):
            errors = errors - 2.0 * matrix @ errors
    start = torch.linalg.matrix_power(torch.eye(fine.num_basis) - 2.0 * rates[0], 3)
    left = attenuation(rates[1], 2.0, [0, 2], start)
    torch.testing.assert_close(left[1], errors.std(dim=1), rtol=0.02, atol=0)
    torch.testing.assert_close(left[0], attenuation(rates[0], 2.0, [3])[0])


def test_rate_matrix_rejects_unknown_rows_and_grids_that_are_not_nested():
    grid = KnotGrid.uniform(2, 4)
    with pytest.raises(ValueError, match="geometry must be"):
        rate_matrix(grid, "u", "spline")
    with pytest.raises(ValueError, match="not nested"):
        rate_matrix(grid, fine=KnotGrid.uniform(2, 6))
    with pytest.raises(ValueError, match="derivative must be from 0 to r - 1 = 1"):
        rate_matrix(grid, derivative=2)


@pytest.mark.parametrize(("geometry", "gradient"), [("spline", "spline"), ("relu", "relu")])
@pytest.mark.parametrize("derivative", [0, 2])
def test_propagator_is_what_training_does(geometry, gradient, derivative):
    levels = [KnotGrid.uniform(4, 4), KnotGrid.uniform(4, 8)]
    layer = SplineLayer(1, 1, levels[0], dtype=torch.float64)
    torch.nn.init.zeros_(layer.weight)
    x, weights, values = (torch.tensor(v) for v in collocation(levels[1], 6))
    x = x[:, None].requires_grad_()
    modes = cosine_modes(levels[1])
    u = modes @ torch.randn(11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.tensor(collocation(levels[1], 6, derivative)[2]) @ u

    def derivatives():
        f = layer(x)
        for _ in range(derivative):
            (f,) = torch.autograd.grad(f.sum(), x, create_graph=True)
        return f[:, 0]

    for grid, steps in zip(levels, (7, 5), strict=True):
        layer = layer.refine(grid)
        step = largest_stable_step(spectrum(grid, geometry, gradient, derivative=derivative)) / 2
        optimizer = Iteration(partial(SGD, lr=step), geometry, gradient)(layer)
        for _ in range(steps):
            optimizer.zero_grad()
            ((weights * (derivatives() - target).square()).sum() / 2).backward()
            optimizer.step()
    project = (weights[:, None] * values @ modes).T  # from values to modes
    before, after = project @ -(values @ u), project @ (layer(x)[:, 0].detach() - values @ u)
    matrix = propagator(levels, (7, 5), geometry, gradient, derivative=derivative)
    torch.testing.assert_close(after, matrix @ before, rtol=1e-6, atol=1e-8)


def test_propagator_wants_steps_for_every_level():
    with pytest.raises(ValueError, match="one entry a level, got 2 for 1 levels"):
        propagator([KnotGrid.uniform(2, 4)], [1, 2])


def test_coarse_correction_is_where_training_on_the_coarse_grid_ends():
    coarse, fine = KnotGrid.uniform(3, 4), KnotGrid.uniform(3, 8)
    trained = propagator([coarse, fine], [5000, 0])
    torch.testing.assert_close(coarse_correction(coarse, fine), trained, rtol=0, atol=1e-9)


@pytest.mark.parametrize("derivative", [0, 1, 2])
def test_coarse_correction_leaves_an_error_that_coarse_splines_cannot_reduce(derivative):
    coarse, fine = KnotGrid.uniform(4, 5), KnotGrid.uniform(4, 10)
    left = cosine_modes(fine) @ coarse_correction(coarse, fine, derivative)
    _, weights, error = collocation(fine, 8, derivative)
    error = error @ left.numpy()
    x = collocation(fine, 8)[0]
    spline = BSpline(coarse.knots.numpy(), np.eye(coarse.num_basis), 3)
    slopes = spline(x, nu=derivative).T @ (weights[:, None] * error)
    scale = np.abs(spline(x, nu=derivative)).max() * np.abs(error).max()
    assert np.abs(slopes).max() < 1e-9 * scale
    matrix = coarse_correction(coarse, fine, derivative)
    torch.testing.assert_close(matrix @ matrix, matrix, rtol=0, atol=1e-8)


@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_relu_metric_is_an_inverse_derivative_of_order_2r(r):
    """By the singular values of A^{-1}, whose entries are sums of positive numbers."""
    grid = KnotGrid.uniform(r, 256)
    inverse = ChangeOfBasis(grid).solve(torch.eye(grid.num_basis, dtype=torch.float64))
    values = np.linalg.svd(inverse.numpy(), compute_uv=False) ** 2
    k = np.arange(4, 32)
    power = np.polyfit(np.log(k + 0.5), np.log(values[k]), 1)[0]
    assert power == pytest.approx(-2 * r, abs=0.03)


@pytest.mark.parametrize(("r", "d"), [(1, 0), (3, 0), (4, 0), (2, 1), (4, 1), (4, 2), (4, 3)])
def test_rates_of_waves_grow_with_derivatives_and_fall_in_the_relu_geometry(r, d):
    """Like k**(2 d) with spline weights and like k**(2 d - 2 r) with ReLU weights."""
    grid, k = KnotGrid.uniform(r, 128), np.arange(4, 16)
    for row, power, tolerance in (("spline", 2 * d, 0.3 * d + 0.1), ("relu", 2 * d - 2 * r, 0.02)):
        values = spectrum(grid, row, row, derivative=d).numpy()
        if power > 0:
            values = values[: len(values) - d][::-1]
        found = np.polyfit(np.log(k + 0.5), np.log(values[k]), 1)[0]
        assert found == pytest.approx(power, abs=tolerance)


@pytest.mark.parametrize("r", [2, 3, 4])
@pytest.mark.parametrize("n", [5, 8, 12])
def test_refinement_is_used_in_the_spline_geometry_only(r, n):
    coarse = KnotGrid.uniform(r, n)
    new = slice(n, 2 * n)
    for row, low, high in (("spline", 0.0, 0.35), ("relu", 0.99, 1.0)):
        before, after = (
            propagator([coarse, coarse.refine()], [1000, steps], row, row)[new].norm()
            for steps in (0, 10)
        )
        assert low < after / before < high


def white_residual(grid: KnotGrid, derivative: int) -> torch.Tensor:
    """Return errors, as columns of modes, whose d-th derivatives are orthonormal."""
    modes = cosine_modes(grid)
    values, vectors = torch.linalg.eigh(modes.T @ gram(grid, derivative) @ modes)
    return vectors[:, derivative:] * values[derivative:].rsqrt()


@pytest.mark.parametrize("r", [2, 3, 4])
def test_coarse_levels_pay_for_losses_with_derivatives_only(r):
    """Error after equal work on the finest of three levels, over the error after all three."""
    levels = [KnotGrid.uniform(r, n) for n in (8, 16, 32)]
    for row, derivative, low, high in (
        ("spline", 0, 0.0, 1.0),
        ("relu", 0, 0.99, 1.02),
        ("spline", min(2, r - 1), 2.0, 20.0),
        ("relu", min(2, r - 1), 1.0, 1.15),
    ):
        start = white_residual(levels[-1], derivative)
        kept = start @ torch.linalg.pinv(start)  # removes what the loss cannot see
        all_levels, finest = (
            kept @ propagator(levels, steps, row, row, derivative=derivative) @ start
            for steps in ((200, 100, 50), (0, 0, 150))
        )
        assert low < finest.norm() / all_levels.norm() < high


@pytest.mark.parametrize(("r", "derivative", "bound"), [(2, 1, 0.25), (3, 2, 0.6), (4, 2, 0.25)])
def test_two_levels_in_turn_converge_at_a_rate_free_of_the_grid(r, derivative, bound):
    for n in (8, 32):
        coarse, fine = KnotGrid.uniform(r, n), KnotGrid.uniform(r, 2 * n)
        seen = torch.linalg.qr(white_residual(fine, derivative)).Q
        correction = coarse_correction(coarse, fine, derivative)
        factors = []
        for row in BASES:
            smoother = propagator([fine], [2], row, row, derivative=derivative)
            cycle = seen.T @ smoother @ correction @ seen
            factors.append(float(torch.linalg.eigvals(cycle).abs().max()))
        assert factors[0] < bound
        assert factors[1] > 0.99


@pytest.mark.parametrize(
    ("r", "derivative", "factor"),
    [(2, 1, 1 / 3), (3, 2, 3 / 5), (4, 2, 1 / 3), (4, 3, 7 / 9)],
)
def test_smoothing_factors_of_the_spline_geometry(r, derivative, factor):
    """From the rates of waves that a coarse grid does not hold, on an infinite grid."""
    n = 64
    _, weights, b = collocation(KnotGrid.uniform(r, n, (0.0, n)), r, derivative)
    middle = (b[:, n // 2] * weights) @ b
    theta = np.linspace(np.pi / 2, np.pi, 201)
    offsets = np.arange(len(middle)) - n // 2
    rates = np.cos(theta[:, None] * offsets) @ middle
    step = 2 / (rates.max() + rates.min())
    assert np.abs(1 - step * rates).max() == pytest.approx(factor)
    for m in (16, 32):  # the step is stable on the whole grid, and the factor that of a fine grid
        grid = KnotGrid.uniform(r, m)
        largest = largest_stable_step(spectrum(grid, derivative=derivative))
        assert largest > 0.9 * step * m ** (1 - 2 * derivative)


@pytest.mark.slow
def test_networks_use_a_refinement_in_the_spline_geometry_only(float64):
    n, left = 8, {}
    x, weights, _ = (torch.tensor(v) for v in collocation(KnotGrid.uniform(1, 2 * n), 4))
    waves = 2**0.5 * torch.cos(torch.pi * x[:, None] * torch.arange(2 * n))
    target = waves[:, 1:].sum(dim=1) / (2 * n - 1) ** 0.5

    def loss(model):
        return (weights * (model(x[:, None])[:, 0] - target).square()).sum() / 2

    def new_waves(model):
        error = model(x[:, None])[:, 0].detach() - target
        return (weights * error @ waves)[n:].norm()

    for row in BASES:
        left[row] = []
        for seed in range(3):
            torch.manual_seed(seed)
            model = KAN([1, 3, 1], n=n, r=4, extension="clamp")
            adam = Iteration(partial(Adam, lr=0.01), row, row)
            train(model, loss, 200, optimizer=adam, progress=False)
            fine = model.refine()
            before = new_waves(fine)
            train(fine, loss, 200, optimizer=adam, progress=False)
            left[row].append(float(new_waves(fine) / before))
    assert np.median(left["spline"]) < 0.5
    assert min(left["relu"]) > 0.95


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1.0, 1e25])
def test_zero_eigenvalues_bound_no_step_at_any_scale(scale):
    values = scale * torch.tensor([4.0, 1.0, 1e-14, -1e-14, 0.0], dtype=torch.float64)
    assert largest_stable_step(values) * scale == pytest.approx(0.5)
    assert largest_stable_step(0 * values) == float("inf")
    assert largest_stable_step(scale * torch.tensor([4.0, -1.0], dtype=torch.float64)) == 0
