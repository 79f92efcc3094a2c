"""Curvature matrices against finite differences and dense algebra, rates against theory."""

import math
import sys
from functools import partial

import numpy as np
import pytest
import scipy.interpolate
import torch

from kanlib import KAN, MLP, MeanSquaredError
from kanlib.analysis.conditioning import (
    best_descent,
    condition_number,
    evaluations_to,
    gauss_newton,
    hessian,
    lanczos,
    predicted_steps,
    unit_diagonal,
)
from kanlib.analysis.ntk import jacobian
from kanlib.splines.change_of_basis import ChangeOfBasis

pytestmark = pytest.mark.usefixtures("float64")


def points(count=30, inputs=1):
    return torch.rand(count, inputs, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("first", ["spline", "affine"])
def test_hessian_agrees_with_finite_differences_of_gradients(basis, first):
    torch.manual_seed(0)
    model = KAN([2, 2, 1], n=3, r=4, first=first, init_scale=0.5).to_basis(basis)
    x = points(25, 2)
    objective = MeanSquaredError(x, torch.sin(3 * x.sum(1, keepdim=True)))
    parameters = [*model.parameters()]
    flat = torch.nn.utils.parameters_to_vector(parameters).detach()

    def slope(vector):
        torch.nn.utils.vector_to_parameters(vector, parameters)
        slopes = torch.autograd.grad(objective(model), parameters)
        return torch.cat([g.flatten() for g in slopes])

    step = 1e-6
    columns = [
        (slope(flat + step * e) - slope(flat - step * e)) / (2 * step) for e in torch.eye(len(flat))
    ]
    torch.nn.utils.vector_to_parameters(flat, parameters)
    found = hessian(model, objective)
    torch.testing.assert_close(found, torch.stack(columns, 1), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found, found.T, rtol=0, atol=0)


@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_lanczos_finds_both_ends_of_the_dense_spectrum(basis):
    torch.manual_seed(0)
    model, x = KAN([2, 3, 1], n=4, r=3, init_scale=0.5).to_basis(basis), points(40, 2)
    objective = MeanSquaredError(x, torch.sin(3 * x.sum(1, keepdim=True)))
    dense = torch.linalg.eigvalsh(hessian(model, objective))
    scale = float(dense.abs().max())
    highest, lowest = (lanczos(model, objective, 5, lowest=low) for low in (False, True))
    torch.testing.assert_close(highest, dense.flip(0)[:5], rtol=0, atol=1e-12 * scale)
    torch.testing.assert_close(lowest, dense[:5], rtol=0, atol=1e-12 * scale)
    assert lowest[0] < 0 < highest[0]


def test_larger_networks_have_steeper_spectra_in_truncated_powers():
    x = points(200, 2)
    objective = MeanSquaredError(x, torch.cos(4 * x[:, :1]) + (x[:, 1:] - 0.4).abs())
    torch.manual_seed(0)
    model = KAN([2, 20, 1], n=40, first="affine", prolonged_from=5).calibrate_(x)
    falls = []
    for basis in ("spline", "relu"):
        values = lanczos(model.to_basis(basis), objective, 60)
        falls.append(float(values[0] / values[-1]))
    assert falls[1] > 10 * falls[0]


def test_lanczos_refuses_what_it_cannot_do():
    model, x = KAN([1, 1], n=5), points()
    with pytest.raises(ValueError, match="count must be from 1 to 7 for 8 parameters, got 8"):
        lanczos(model, MeanSquaredError(x, x), 8)
    with pytest.raises(TypeError, match=r"model\.double\(\)"):
        lanczos(model.float(), MeanSquaredError(x.float(), x.float()), 2)


def test_lanczos_without_scipy_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    with pytest.raises(ModuleNotFoundError, match="pip install scipy"):
        lanczos(KAN([1, 1], n=5), lambda model: model(points()).sum(), 2)


def test_hessian_of_a_network_that_is_linear_in_its_weights_is_gauss_newton():
    torch.manual_seed(0)
    model, x = KAN([1, 1], n=5), points()
    dense = torch.linalg.eigvalsh(hessian(model, MeanSquaredError(x, x))).flip(0)
    torch.testing.assert_close(gauss_newton(model, x), dense, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("r", [2, 3, 4])
def test_gauss_newton_is_that_of_scipys_design_matrix(r):
    model, x = KAN([1, 1], n=6, r=r), points(50)
    grid = next(model.spline_layers).grid
    design = scipy.interpolate.BSpline.design_matrix(x[:, 0].numpy(), grid.knots.numpy(), r - 1)
    dense = design.toarray()
    expected = np.linalg.eigvalsh(2 / 50 * dense.T @ dense)[::-1]
    np.testing.assert_allclose(gauss_newton(model, x).numpy(), expected, rtol=1e-9, atol=1e-14)
    relu = model.to_basis("relu")
    change = ChangeOfBasis(grid).dense().numpy()
    rows = dense @ np.linalg.inv(change).T
    values = gauss_newton(relu, x)
    assert condition_number(values, 0.0)[0] == pytest.approx(np.linalg.cond(rows) ** 2, rel=1e-5)


def test_gauss_newton_has_a_zero_for_each_weight_too_many():
    model = KAN([2, 3, 1], n=4)
    values = gauss_newton(model, points(10, 2))
    assert values.shape == (model.num_parameters,)
    assert (values[10:] == 0).all()
    assert condition_number(values, 0.0)[1] == 10


def test_constants_moved_between_edges_are_null_directions():
    """Three inputs and two outputs: two constants can move at each output."""
    model = KAN([3, 2], n=4)
    _, rank = condition_number(gauss_newton(model, points(400, 3)))
    assert rank == model.num_parameters - 4


def test_condition_number_refuses_a_zero_matrix():
    with pytest.raises(ValueError, match="positive entry"):
        condition_number(torch.zeros(3))


def test_unit_diagonal_undoes_any_diagonal_scaling():
    rows = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    matrix, scale = rows.T @ rows, torch.tensor([1.0, 1e3, 1e-2, 5.0, 1e-4, 10.0])
    found = unit_diagonal(scale[:, None] * matrix * scale)
    torch.testing.assert_close(found, unit_diagonal(matrix))
    torch.testing.assert_close(found.diagonal(), torch.ones(6))


@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("kappa", [4.0, 100.0, 2500.0])
def test_descent_takes_the_steps_that_theory_predicts(kappa, momentum):
    """A diagonal problem, its error in the two extreme directions: the worst case."""
    rows = torch.diag(torch.tensor([1.0, 1 / math.sqrt(kappa)]))
    start = torch.tensor([1.0, math.sqrt(kappa)])
    sgd = partial(torch.optim.SGD, **best_descent(kappa, 2.0 / 2, momentum))
    found = evaluations_to(rows, torch.zeros(2), start, sgd, 1e-10, limit=20_000)
    predicted = predicted_steps(kappa, 1e-10, momentum)
    if momentum:  # a double eigenvalue: the rate holds up to a polynomial factor
        assert predicted < found < 2 * predicted + 10
    else:
        assert found == pytest.approx(predicted, abs=1.0)


def test_steps_stop_at_the_limit_and_where_the_loss_overflows():
    rows = torch.eye(2)
    for rate, limit in ((1e-9, 5), (1e9, 100)):
        sgd = partial(torch.optim.SGD, lr=rate)
        assert evaluations_to(rows, torch.zeros(2), torch.ones(2), sgd, limit=limit) is None


def test_newtons_step_is_the_same_function_in_both_bases():
    torch.manual_seed(0)
    model, x = KAN([1, 1], n=5, r=3, init_scale=1.0), points(40)
    y = torch.sin(6 * x)
    fits = []
    for basis in ("spline", "relu"):
        own = model.to_basis(basis)
        rows = jacobian(own, x)
        slope = rows.T @ (own(x) - y).flatten()
        step = torch.linalg.solve(rows.T @ rows, slope)
        with torch.no_grad():
            next(own.spline_layers).weight -= step
        fits.append(own(x))
    torch.testing.assert_close(fits[0], fits[1], rtol=1e-7, atol=1e-8)


def test_bounded_in_splines_growing_in_truncated_powers():
    x = torch.linspace(0, 1, 2000)[:, None]
    for r in (2, 3):
        kappa = {}
        for basis in ("spline", "relu"):
            models = [KAN([1, 1], n=n, r=r, basis=basis) for n in (16, 32)]
            kappa[basis] = [condition_number(gauss_newton(m, x), 0.0)[0] for m in models]
        assert kappa["spline"][1] < 1.1 * kappa["spline"][0]
        slope = math.log2(kappa["relu"][1] / kappa["relu"][0])
        assert 2 * r - 1 < slope < 2 * r + 1


def test_mlps_have_curvature_too():
    torch.manual_seed(0)
    model, x = MLP([2, 4, 1], "tanh"), points(30, 2)
    values = torch.linalg.eigvalsh(hessian(model, MeanSquaredError(x, x[:, :1])))
    assert len(values) == model.num_parameters
    assert float(values.min()) < 0 < float(values.max())


def test_lbfgs_depends_little_on_the_condition_number():
    """It learns the curvature of each direction: on three of them, kappa = 1e8 is no obstacle."""
    rows = torch.diag(torch.tensor([1.0, 1e2, 1e4]))
    lbfgs = partial(torch.optim.LBFGS, max_iter=200, line_search_fn="strong_wolfe")
    found = evaluations_to(rows, torch.zeros(3), torch.ones(3), lbfgs)
    assert 3 < found < 60 < 0.01 * predicted_steps(1e8, 1e-6, momentum=True)


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1.0, 1e25])
def test_zero_eigenvalues_are_relative_to_the_largest(scale):
    values = scale * torch.tensor([4.0, 2.0, 1e-15, -1e-15], dtype=torch.float64)
    number, rank = condition_number(values)
    assert (number, rank) == (pytest.approx(2.0), 2)


@pytest.mark.parametrize("values", [[4.0, -3.0], [4.0, float("nan")], [], [-1.0]])
def test_condition_number_wants_a_semidefinite_matrix(values):
    with pytest.raises(ValueError, match=r"values must .* got"):
        condition_number(torch.tensor(values))


@pytest.mark.parametrize(("kappa", "tolerance"), [(10, 2), (10, 1), (10, 0), (1, 0.1), (0.5, 0.1)])
def test_predicted_steps_wants_a_reduction(kappa, tolerance):
    with pytest.raises(ValueError, match=r"(kappa|tolerance) must be .* got"):
        predicted_steps(kappa, tolerance)
