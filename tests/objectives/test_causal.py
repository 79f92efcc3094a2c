"""Causal weights against their formula, point by point."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from resumption import whole_and_resumed

from kanlib import (
    KAN,
    Causal,
    Ensemble,
    GaussNewton,
    HardConditions,
    ResidualLoss,
    Sampler,
    Term,
    lbfgs,
    train,
    train_multilevel,
)
from kanlib.training.jacobian import jacobian

pytestmark = pytest.mark.usefixtures("float64")
ADAM = partial(torch.optim.Adam, lr=1e-2)


def points(count=50):
    torch.manual_seed(1)
    return torch.rand(count, 2)


def network(seed=0, n=3):
    torch.manual_seed(seed)
    net = KAN([2, 3, 1], n=n, r=5, init_scale=0.5)
    return HardConditions(net, lambda x: torch.sin(math.pi * x[:, :1]), lambda x: x[:, 1:])


def heat(u, x):
    return u.d(1) - 0.1 * u.d(0, 0)


def problem(causal, x=None):
    x = points() if x is None else x
    return ResidualLoss(heat=Term(heat, x, pairs=[(0, 0)], weight=2.0, causal=causal))


def expected(residual, times, slices, epsilon):
    """Return the weight of each point, by loops."""
    place = [min(int(t * slices), slices - 1) for t in times]
    means = [
        np.mean([(r**2).mean() for r, p in zip(residual, place, strict=True) if p == i] or [0.0])
        for i in range(slices)
    ]
    return np.array([max(math.exp(-epsilon * sum(means[:p])), 1e-3) for p in place])


@pytest.mark.parametrize("slices", [1, 3, 40])
def test_weights_are_those_of_the_formula(slices):
    x, residual = points(), torch.randn(50, 2)
    causal = Causal((0, 1), slices=slices, epsilon=0.3)
    found = causal(residual, x)
    weights = expected(residual.numpy(), x[:, 1].tolist(), slices, 0.3)
    np.testing.assert_allclose(found, np.sqrt(weights)[:, None] * residual.numpy())
    again = causal(residual + 1, x)  # weights change between steps only
    np.testing.assert_allclose(again, np.sqrt(weights)[:, None] * (residual + 1).numpy())


def test_points_outside_belong_to_the_outer_slices():
    causal = Causal((0, 1), coordinate=0, slices=2)
    causal(torch.ones(4, 1), torch.tensor([[-3.0], [0.0], [1.0], [7.0]]))
    assert causal.roots(torch.tensor([[-9.0], [9.0]]))[:, 0].tolist() == pytest.approx(
        [1.0, math.exp(-0.5)]
    )


@pytest.mark.parametrize("optimizer", [ADAM, lbfgs, GaussNewton(), GaussNewton(solver="qr")])
def test_weights_follow_each_step(optimizer):
    causal, model = Causal((0, 1), slices=5, epsilon=0.1), network()
    loss = problem(causal)
    train(model, loss, 3, optimizer=optimizer, progress=False)
    x = points().requires_grad_()
    u = model(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope[:, 0].sum(), x)
    residual = (slope[:, 1:] - 0.1 * bend[:, :1]).detach().numpy()
    weights = expected(residual, x[:, 1].tolist(), 5, 0.1)
    np.testing.assert_allclose(causal.roots(x.detach())[:, 0] ** 2, weights, rtol=1e-6)
    total = 2 * np.mean(weights[:, None] * residual**2)
    assert loss(model).item() == pytest.approx(total, rel=1e-6)
    assert jacobian(model, loss).residual.square().sum().item() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("optimizer", [ADAM, GaussNewton()])
def test_resumed_run_ends_with_the_same_numbers(optimizer, tmp_path):
    def make():
        sampler = Sampler([(0, 1), (0, 1)], 40, share=0.5, dtype=torch.float64)
        return network(), problem(Causal((0, 1)), sampler)

    whole, resumed = whole_and_resumed(make, tmp_path, 1, optimizer=optimizer)
    assert resumed.history.loss == whole.history.loss


def test_early_times_come_first_and_all_count_in_the_end():
    causal = Causal((0, 1), slices=8, epsilon=10.0)
    loss, model = problem(causal), network()
    loss(model)
    assert causal.weights[0] == 1
    assert causal.weights[-1] == 1e-3
    run = train_multilevel(model, loss, [15, 10], optimizer=GaussNewton(), progress=False)
    assert causal.weights.min() > 0.9
    assert run.loss < 1e-2
    assert problem(None)(run.model) < 1e-2


def test_members_of_an_ensemble_have_weights_of_their_own():
    causal = Causal((0, 1), slices=4)
    members = [network(0), network(1)]
    together = Ensemble(members)
    train(together, problem(causal), 2, optimizer=ADAM, progress=False)
    for s, member in enumerate(members):
        alone = Causal((0, 1), slices=4)
        train(member, problem(alone), 2, optimizer=ADAM, progress=False)
        torch.testing.assert_close(causal.weights[s], alone.weights)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"interval must be a finite pair \(a, b\) with a < b"):
        Causal((1, 0))
    with pytest.raises(ValueError, match="slices must be at least 1"):
        Causal((0, 1), slices=0)
    with pytest.raises(ValueError, match="epsilon must be a finite number above 0"):
        Causal((0, 1), epsilon=0)
    with pytest.raises(ValueError, match="least must be at most 1, got 2"):
        Causal((0, 1), least=2)
    with pytest.raises(ValueError, match="coordinate must be one of the 2 of the points, got 5"):
        problem(Causal((0, 1), coordinate=5))(network())


def test_jacobian_has_the_weights_of_the_loss_before_any_evaluation():
    model, loss = network(), problem(Causal((0, 1), slices=4, epsilon=100.0))
    found = jacobian(model, loss)
    total = loss(model)
    parts = torch.autograd.grad(total, [*model.parameters()])
    flat = torch.cat([part.flatten() for part in parts])
    torch.testing.assert_close(2 * found.dense().T @ found.residual, flat)
    torch.testing.assert_close(found.residual.square().sum(), total.detach())


def test_terms_do_not_share_weights():
    causal = Causal((0, 1))
    with pytest.raises(ValueError, match=r"causal must not be shared, .* each term one Causal of"):
        ResidualLoss(
            early=Term(heat, points(), pairs=[(0, 0)], causal=causal),
            late=Term(heat, points(), pairs=[(0, 0)], causal=causal),
        )
