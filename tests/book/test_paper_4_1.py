"""Section 4.1 of the paper: nested hierarchies, with dense linear algebra as the oracle."""

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from kanlib import KAN, KnotGrid, prolongation, train_multilevel

ORDERS = [1, 2, 3, 4, 5]
BASES = ["spline", "relu"]


def network(order, basis, n=4):
    torch.manual_seed(order)
    return KAN([2, 3, 1], n=n, r=order, basis=basis, init_scale=0.5, dtype=torch.float64)


def data():
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(200, 2, generator=generator, dtype=torch.float64) - 0.5
    return x, torch.sin(6 * x[:, :1]) * x[:, 1:]


def loss(model):
    """Return the mean squared error, also at points beyond the splines."""
    x, y = data()
    return (model(x) - y).square().mean()


def least_squares(order, n=6):
    """Return the SciPy basis matrices of a grid and its refinement, and P, as NumPy arrays."""
    coarse = KnotGrid.uniform(order, n)
    x = np.linspace(0, 1, 300, endpoint=False)

    def basis(g):
        return BSpline(g.knots.numpy(), np.eye(g.num_basis), order - 1)(x)

    P = prolongation(coarse, coarse.refine()).dense().numpy()
    return basis(coarse), basis(coarse.refine()), P, np.sin(20 * x**2)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("order", ORDERS)
def test_hierarchy_is_properly_nested(order, basis):
    model = level = network(order, basis, n=5)
    x, _ = data()
    expected = model(x)
    # What can be stored of the weights: in the ReLU basis their condition grows like n^(r-1).
    tolerance = 1e-12 if basis == "spline" else 1e-13 * 320 ** (order - 1)
    while level.n < 320:
        level = level.refine()
        error = (level(x) - expected).abs().max() / expected.abs().max()
        assert error < tolerance


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("order", ORDERS)
def test_fine_gradient_restricts_to_the_coarse_gradient(order, basis):
    coarse = network(order, basis)
    fine = coarse.refine()
    for model in (coarse, fine):
        loss(model).backward()
    for c, f in zip(coarse.spline_layers, fine.spline_layers, strict=True):
        P = prolongation(c.grid, f.grid, basis).dense()
        torch.testing.assert_close(f.weight.grad @ P, c.weight.grad, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("order", ORDERS)
def test_coarse_least_squares_is_fine_least_squares_over_the_range_of_p(order):
    B, B_fine, P, y = least_squares(order)
    coarse = B @ np.linalg.lstsq(B, y, rcond=None)[0]
    Q, _ = np.linalg.qr(P)  # v = Q c runs through range(P)
    L, f = B_fine.T @ B_fine, B_fine.T @ y
    restricted = B_fine @ (Q @ np.linalg.solve(Q.T @ L @ Q, Q.T @ f))
    np.testing.assert_allclose(restricted, coarse, atol=1e-11)


@pytest.mark.parametrize("order", ORDERS)
def test_galerkin_operator_is_the_coarse_operator(order):
    B, B_fine, P, _ = least_squares(order)
    np.testing.assert_allclose(P.T @ (B_fine.T @ B_fine) @ P, B.T @ B, atol=1e-12 * len(B))


@pytest.mark.parametrize("order", ORDERS)
def test_descent_needs_a_minus_sign(order):
    B, B_fine, P, y = least_squares(order)
    L, f = B_fine.T @ B_fine, B_fine.T @ y
    step = 1 / np.linalg.eigvalsh(P.T @ L @ P).max()
    losses = {}
    for sign in (-1, 1):
        u = np.zeros(B.shape[1])
        for _ in range(50):
            u = u + sign * step * P.T @ (L @ P @ u - f)
        losses[sign] = np.mean((B @ u - y) ** 2)
    start = np.mean(y**2)
    assert losses[-1] < start < losses[1] / 1e6


@pytest.mark.parametrize("order", ORDERS)
def test_unit_diagonal_scaling_is_jacobi(order):
    _, B_fine, P, y = least_squares(order)
    L, f = B_fine.T @ B_fine, B_fine.T @ y
    Lc, fc = P.T @ L @ P, P.T @ f
    D = np.diag(Lc)
    scaled = P / np.sqrt(D)
    np.testing.assert_allclose(np.diag(scaled.T @ L @ scaled), 1)
    richardson, jacobi, damping = np.zeros(len(D)), np.zeros(len(D)), 0.5
    for _ in range(20):
        richardson = richardson - damping * scaled.T @ (L @ scaled @ richardson - f)
        jacobi = jacobi - damping * (Lc @ jacobi - fc) / D
        np.testing.assert_allclose(richardson / np.sqrt(D), jacobi, atol=1e-12)


@pytest.mark.parametrize("basis", BASES)
def test_algorithm_1_keeps_the_loss_at_each_switch(basis):
    run = train_multilevel(network(3, basis), loss, [3, 3, 3, 3], progress=False)
    history = run.history
    for i in range(1, len(history)):
        if history.level[i] > history.level[i - 1]:
            assert history.loss[i] == pytest.approx(history.loss[i - 1], rel=1e-8)
    assert history.level[-1] == 3
    assert history.loss[-1] < history.loss[0]
