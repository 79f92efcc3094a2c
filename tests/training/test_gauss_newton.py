"""Gauss-Newton, against SciPy's Levenberg-Marquardt and dense algebra."""

import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from torch import nn

from kanlib import KAN, MLP, MeanSquaredError, ResidualLoss, Term, train, train_multilevel
from kanlib.training.gauss_newton import SOLVERS, GaussNewton
from kanlib.training.jacobian import jacobian

torch.manual_seed(3)
X = torch.rand(120, 2, dtype=torch.float64)
Y = torch.sin(5 * X[:, :1]) * X[:, 1:] + 0.1 * torch.rand(120, 1, dtype=torch.float64)
DATA = MeanSquaredError(X, Y)


def network(basis="spline", n=3, **options):
    torch.manual_seed(1)
    options = {"init_scale": 0.3, "r": 4, **options}
    return KAN([2, 3, 1], n=n, dtype=torch.float64, **options).to_basis(basis)


def flat(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scaling", ["marquardt", "identity"])
def test_first_step_solves_the_damped_equations(solver, scaling):
    model = network()
    J = jacobian(model, DATA)
    rows, r = J.dense(), J.residual
    squares = rows.square().sum(0)
    squares = squares.clamp(min=1e-12 * float(squares.max()))
    D = squares if scaling == "marquardt" else squares.mean().expand_as(squares)
    stacked = torch.cat([rows, torch.diag((10 * D).sqrt())])
    right = torch.cat([r, torch.zeros(len(D), dtype=r.dtype)])
    expected = torch.linalg.lstsq(stacked, -right).solution
    before = flat(model)
    options = {"solver": solver, "scaling": scaling, "tolerance": 1e-6}
    optimizer = GaussNewton(damping=10, **options).bind(model, DATA)
    assert optimizer.step() == pytest.approx(float(DATA(network()).detach()), rel=1e-12)
    assert (flat(model) - before - expected).norm() < 1e-4 * expected.norm()
    if solver != "cg":
        assert (flat(model) - before - expected).norm() < 1e-8 * expected.norm()


@pytest.mark.parametrize("solver", [each for each in SOLVERS if each != "multigrid"])
def test_minimum_is_that_of_scipy(solver):
    x = torch.linspace(0, 1, 60, dtype=torch.float64)[:, None]
    data = MeanSquaredError(x, torch.tanh(5 * x - 2) + 0.05 * torch.cos(40 * x))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)).double()

    def residual(v):
        return ((torch.tanh(v[0] * x + v[1]) * v[2] + v[3] - data.y)[:, 0] / len(x) ** 0.5).numpy()

    def slopes(v):
        y = torch.tanh(v[0] * x + v[1])
        columns = [(1 - y**2) * v[2] * x, (1 - y**2) * v[2], y, torch.ones_like(x)]
        return torch.cat(columns, dim=1).numpy() / len(x) ** 0.5

    options = {"method": "lm", "xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "jac": slopes}
    found = least_squares(residual, flat(model).numpy(), **options)
    optimizer = GaussNewton(solver=solver, tolerance=1e-6)
    run = train(model, data, 200, optimizer=optimizer, progress=False)
    assert run.loss == pytest.approx(2 * found.cost, rel=1e-9)
    np.testing.assert_allclose(flat(model), found.x, rtol=1e-5)
    losses = np.array(run.history.loss)
    assert np.all(np.diff(losses) <= 1e-12 * losses[1:])  # the terms add up to rounding


def test_linear_model_is_solved_in_a_step_or_two():
    torch.manual_seed(0)
    model = KAN([1, 1], n=8, dtype=torch.float64)
    data = MeanSquaredError(X[:, :1], torch.sin(6 * X[:, :1]))
    best = np.linalg.lstsq(
        jacobian(model, data).dense().numpy() * len(X) ** 0.5, data.y.numpy(), rcond=None
    )[1]
    run = train(model, data, 40, optimizer=GaussNewton(damping=1e-12), progress=False)
    assert run.loss == pytest.approx(best[0] / len(X), rel=1e-9)
    assert run.status == "completed"
    assert run.levels[0].epochs < 40
    assert "no Gauss-Newton step lowers the loss" in run.levels[0].message


def trajectory(model, steps=6, **options):
    optimizer = GaussNewton(**options).bind(model, DATA)
    return [optimizer.step() for _ in range(steps)]


@pytest.mark.parametrize("scaling", ["marquardt", "identity"])
def test_geometry_makes_steps_of_both_bases_the_same(scaling):
    options = {"scaling": scaling, "geometry": "spline"}
    splines, relu = network(), network("relu")
    one, other = trajectory(splines, **options), trajectory(relu, **options)
    np.testing.assert_allclose(one, other, rtol=1e-8)
    np.testing.assert_allclose(splines(X).detach(), relu(X).detach(), atol=1e-8)
    np.testing.assert_allclose(trajectory(network(), scaling=scaling), one, rtol=1e-12)
    options = {"scaling": scaling, "geometry": "relu", "solver": "qr"}
    one, other = trajectory(network(), **options), trajectory(network("relu"), **options)
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_without_geometry_the_bases_differ():
    one, other = trajectory(network()), trajectory(network("relu"), solver="qr")
    assert abs(one[-1] - other[-1]) > 1e-3 * one[-1]


def terms():
    x = 2 * X - 1
    return ResidualLoss(
        flow=Term(lambda u, x: u.d(1) - 0.1 * u.d(0, 0) + u.value * u.d(0), x, pairs=[(0, 0)]),
        start=Term(
            lambda u, x: u.value + torch.sin(torch.pi * x[:, :1]),
            x * x.new_tensor([1, 0]),
            weight=9,
        ),
    )


def test_levels_train_and_carry_the_damping():
    def start():
        return network(n=3, r=5, domain=(-1.0, 1.0))

    options = {"optimizer": GaussNewton(), "progress": False}
    fresh = train_multilevel(start(), terms(), [8, 8], **options)
    carried = train_multilevel(start(), terms(), [8, 8], optimizer_state="carried", **options)
    assert fresh.loss < 5e-2 * fresh.history.loss[0]
    dampings = [r for level, r in zip(*both(carried), strict=True) if level == 1]
    assert dampings[0] == carried.history.learning_rate[8] != GaussNewton().damping
    restarted = [r for level, r in zip(*both(fresh), strict=True) if level == 1]
    assert restarted[0] == GaussNewton().damping


def both(run):
    return run.history.level, run.history.learning_rate


def test_resumed_run_is_the_same_bit_for_bit(tmp_path):
    class Killed(Exception):
        pass

    def run(stop, resume):
        count = []

        def metric(model):
            count.append(1)
            if stop and len(count) == stop:
                raise Killed
            return 0.0

        return train_multilevel(
            network(n=3, r=5, domain=(-1.0, 1.0)),
            terms(),
            [5, 5],
            optimizer=GaussNewton(),
            optimizer_state="carried",
            metrics={"count": metric},
            checkpoint=tmp_path / ("whole" if not (stop or resume) else "killed"),
            checkpoint_every=0.0,
            resume=resume,
            progress=False,
        )

    whole = run(0, False)
    with pytest.raises(Killed):
        run(9, False)
    resumed = run(0, True)
    assert torch.equal(flat(whole.model), flat(resumed.model))
    assert whole.history.loss == resumed.history.loss
    assert whole.history.learning_rate == resumed.history.learning_rate


def test_matrix_without_cholesky_factors_is_announced():
    model = network("relu", n=16, r=6)
    with pytest.warns(RuntimeWarning, match="goes on as with solver='qr'"):
        run = train(model, DATA, 3, optimizer=GaussNewton(damping=1e-18), progress=False)
    assert run.loss < run.history.loss[0]


def test_perceptrons_have_the_same_optimizer():
    model = MLP([2, 6, 1], activation="tanh", dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        run = train(model, DATA, 30, optimizer=GaussNewton(), progress=False)
    assert run.loss < 3e-3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"damping": 0}, "damping must be a finite number above 0"),
        ({"solver": "lu"}, "solver must be one of"),
        ({"scaling": "none"}, "scaling must be one of"),
        ({"geometry": "u"}, "geometry must be one of"),
        ({"tries": 0}, "tries must be at least 1"),
        ({"tolerance": 0}, "tolerance must be above 0 and below 1"),
        ({"tolerance": 1.0}, "tolerance must be above 0 and below 1"),
    ],
)
def test_gauss_newton_names_the_mistake(options, text):
    with pytest.raises(ValueError, match=text):
        GaussNewton(**options)


def test_objective_without_residuals_is_refused():
    with pytest.raises(TypeError, match="must offer its residuals"):
        train(network(), lambda m: m(X).square().mean(), 1, optimizer=GaussNewton(), progress=False)
