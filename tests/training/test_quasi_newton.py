"""BFGS and self-scaled Broyden against their matrix formulas, SciPy, and quadratics."""

import functools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from torch.nn.utils import parameters_to_vector

from kanlib import KAN, MeanSquaredError, QuasiNewton, ResidualLoss, Sampler, Term, Unknowns, train
from kanlib.training.quasi_newton import UPDATES, self_scaled, update

X = torch.linspace(0, 1, 60, dtype=torch.float64)[:, None]
DATA = MeanSquaredError(X, torch.sin(20 * X))


def network():
    torch.manual_seed(0)
    return KAN([1, 2, 1], n=3, init_scale=0.5, dtype=torch.float64)


class Point(nn.Module):
    """Parameters alone, of which objectives are functions."""

    def __init__(self, values):
        super().__init__()
        self.x = nn.Parameter(torch.tensor(values, dtype=torch.float64))


def rosenbrock(model):
    x = model.x
    return (100 * (x[1:] - x[:-1] ** 2).square() + (1 - x[:-1]).square()).sum()


def step_of(size, seed):
    """Return a positive definite H, and s and y with y^T s > 0."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    hessian = (lambda a: a @ a.T + 0.1 * np.eye(size))(rng.normal(size=(size, size)))
    step = rng.normal(size=size)
    return root @ root.T + 0.1 * np.eye(size), step, hessian @ step


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("seed", range(5))
def test_bfgs_is_the_product_of_matrices(size, seed):
    h, s, y = step_of(size, seed)
    rho, eye = 1 / (y @ s), np.eye(size)
    left = eye - rho * np.outer(s, y)
    expected = left @ h @ left.T + rho * np.outer(s, s)
    found = torch.tensor(h)
    update(found, torch.tensor(s), torch.tensor(y), s @ np.linalg.solve(h, s), "bfgs")
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 7, 49])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", UPDATES)
def test_updates_have_the_secant_and_stay_positive_definite(size, seed, name):
    h, s, y = step_of(size, seed)
    found = torch.tensor(h)
    update(found, torch.tensor(s), torch.tensor(y), s @ np.linalg.solve(h, s), name)
    np.testing.assert_allclose(found.numpy() @ y, s, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(found.numpy(), found.numpy().T, rtol=1e-9, atol=1e-9)
    assert np.linalg.eigvalsh(found.numpy()).min() > 0


def test_self_scaled_broyden_is_the_dual_of_its_update_of_the_hessian():
    """B+ = tau (B - B s s^T B / s^T B s + theta w w^T) + y y^T / y^T s has the inverse H+."""
    for seed in range(8):
        h, s, y = step_of(5, seed)
        hessian = np.linalg.inv(h)
        image, along = hessian @ s, y @ s
        b, across = s @ image / along, y @ h @ y / along
        phi, tau = self_scaled(b, across, 5)
        a = b * across - 1
        theta = (1 - phi) / (1 + phi * a)
        w = (s @ image) ** 0.5 * (y / along - image / (s @ image))
        inner = hessian - np.outer(image, image) / (s @ image) + theta * np.outer(w, w)
        expected = np.linalg.inv(tau * inner + np.outer(y, y) / along)
        found = torch.tensor(h)
        update(found, torch.tensor(s), torch.tensor(y), s @ image, "ssbroyden")
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7, atol=1e-8)


def test_scaling_only_ever_shrinks_large_eigenvalues_of_the_hessian():
    assert self_scaled(1.0, 1.0, 5) == (1.0, 1.0)  # the Hessian was right
    phi, tau = self_scaled(4.0, 0.5, 5)
    assert tau <= 0.25
    assert self_scaled(0.5, 4.0, 5)[1] <= 1.0
    assert np.isfinite([phi, tau]).all()


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("start", [[-1.2, 1.0], [2.0, -1.0, 0.5, 1.5, -0.3]])
def test_rosenbrock_is_solved_about_as_fast_as_by_scipy(name, start):
    model = Point(start)
    run = train(model, rosenbrock, 40, optimizer=QuasiNewton(name, iterations=10), progress=False)

    def function(x):
        point = Point(x)
        loss = rosenbrock(point)
        loss.backward()
        return float(loss.detach()), point.x.grad.numpy()

    known = minimize(function, np.array(start), jac=True, method="BFGS", options={"gtol": 1e-12})
    assert run.loss < 1e-20
    torch.testing.assert_close(model.x.detach(), torch.tensor(known.x), rtol=0, atol=1e-8)
    assert run.levels[0].evaluations < 3 * known.nfev + 40


def test_inverse_hessian_of_a_quadratic_is_learned():
    rng = np.random.default_rng(1)
    root = torch.tensor(rng.normal(size=(12, 6)))
    kept = []
    train(
        Point(rng.normal(size=6)),
        lambda model: 0.5 * (root @ model.x).square().sum(),
        1,
        optimizer=QuasiNewton("bfgs", iterations=40),
        callbacks=[lambda state: kept.append(state.optimizer.inverse)],
        progress=False,
    )
    torch.testing.assert_close(kept[0], torch.linalg.inv(root.T @ root), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", UPDATES)
def test_network_is_trained_further_than_by_adam(name):
    run = train(network(), DATA, 10, optimizer=QuasiNewton(name), progress=False)
    adam = functools.partial(torch.optim.Adam, lr=1e-2)
    other = train(network(), DATA, run.levels[0].evaluations, optimizer=adam, progress=False)
    assert run.loss < 0.1 * other.loss
    assert run.history.loss == sorted(run.history.loss, reverse=True)


def test_end_of_a_level_is_told_where_no_step_is_left():
    model = Point([1.0, 1.0])
    run = train(model, rosenbrock, 5, optimizer=QuasiNewton(), progress=False)
    assert run.levels[0].message == "no quasi-Newton step lowers the loss 0 (gradient 0)"
    assert model.x.tolist() == [1.0, 1.0]


def test_frozen_parameters_stay():
    model = network()
    frozen = next(model.parameters()).requires_grad_(False)
    before = frozen.clone()
    start = float(DATA(model).detach())
    assert train(model, DATA, 1, optimizer=QuasiNewton(), progress=False).loss < start
    assert torch.equal(frozen, before)


def test_unknowns_are_trained_with_the_network():
    unknowns = Unknowns(k=1.0, dtype=torch.float64)
    fit = Term(lambda u, x, q: u.value - q.k * torch.sin(3 * x), X, unknowns=unknowns)
    hint = Term(lambda u, x, q: q.k - 2.0 + 0 * u.value, X, unknowns=unknowns)
    loss = ResidualLoss(fit=fit, hint=hint)
    train(network(), loss, 5, optimizer=QuasiNewton(), progress=False)
    assert float(unknowns.k.detach()) == pytest.approx(2.0, abs=1e-3)


def test_training_is_resumed_bit_for_bit(tmp_path):
    class Killed(Exception):
        pass

    def run(name, at=0, **options):
        def killer(state):
            if state.epoch == at:
                raise Killed

        points = Sampler([(0, 1)], 60, every=2, dtype=torch.float64)
        objective = ResidualLoss(fit=Term(lambda u, x: u.value - torch.sin(20 * x), points))
        files = {"checkpoint": tmp_path / name, "checkpoint_every": 0.0}
        options |= {"callbacks": [killer], "progress": False, **files}
        return train(network(), objective, 6, optimizer=QuasiNewton(iterations=3), **options)

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", 4)
    resumed = run("killed", resume=True)
    assert resumed.history.loss == whole.history.loss
    assert resumed.history.evaluations == whole.history.evaluations
    assert resumed.history.terms == whole.history.terms == {"fit": whole.history.loss}
    ours, theirs = (parameters_to_vector(each.model.parameters()) for each in (resumed, whole))
    assert torch.equal(ours, theirs)


def test_quasi_newton_names_the_mistake():
    with pytest.raises(ValueError, match=r"update must be one of .*, got 'dfp'"):
        QuasiNewton("dfp")
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        QuasiNewton(iterations=0)
