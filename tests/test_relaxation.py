"""Error modes of gradient descent: against SciPy, and against the optimizers themselves."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch.optim import SGD

from kanlib import KnotGrid, SplineLayer
from kanlib.geometry import Iteration
from kanlib.relaxation import (
    attenuation,
    cosine_modes,
    gram,
    largest_stable_step,
    rate_matrix,
    spectrum,
)
from kanlib.spectra import sign_changes

ROWS = [("w", "w"), ("w", "u"), ("u", "u"), ("u", "w")]
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
    [*((*row, 0) for row in ROWS), ("u", "u", 1), ("w", "w", 1)],
)
def test_spectrum_is_that_of_the_rate_matrix(geometry, gradient, derivative):
    grid = KnotGrid.uniform(2, 8)
    values = spectrum(grid, geometry, gradient, derivative=derivative)
    rates = rate_matrix(grid, geometry, gradient, derivative=derivative)
    expected = torch.linalg.eigvals(rates)
    expected = expected[expected.abs().argsort(descending=True)]
    torch.testing.assert_close(values.to(expected), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("geometry", "gradient"), [("w", "u"), ("u", "w")])
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
    for row, power in (("u", 1), ("w", 2 * r - 1)):
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
        for row, step in zip("uw", steps, strict=True):
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
    rates = [rate_matrix(grid, "u", "u", fine=fine) for grid in (coarse, fine)]
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
        rate_matrix(grid, "spline", "u")
    with pytest.raises(ValueError, match="not nested"):
        rate_matrix(grid, fine=KnotGrid.uniform(2, 6))
    with pytest.raises(ValueError, match="derivative must be from 0 to r - 1 = 1"):
        rate_matrix(grid, derivative=2)
