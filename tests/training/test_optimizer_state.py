"""Optimizer state carried to a finer grid, against prolongations found by least squares."""

from functools import partial

import numpy as np
import pytest
import torch
from grids import with_grids
from scipy.interpolate import BSpline
from torch import nn

from kanlib import KAN, MeanSquaredError
from kanlib.training.iterations import Iteration
from kanlib.training.optimizer_state import carried_optimizer
from kanlib.training.optimizers import new_optimizer

OPTIMIZERS = {
    "momentum": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=0.02),
    "amsgrad": partial(torch.optim.Adam, lr=0.02, amsgrad=True),
    "adamw": partial(torch.optim.AdamW, lr=0.02),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01, momentum=0.5, centered=True),
    "lbfgs": partial(torch.optim.LBFGS, max_iter=5, line_search_fn="strong_wolfe"),
}
#: What is kept of gradients, of their squares, and of steps.
GRADIENTS = {"momentum": ["momentum_buffer"], "rmsprop": ["grad_avg"]}
SQUARES = {"momentum": [], "rmsprop": ["square_avg"], "amsgrad": ["exp_avg_sq", "max_exp_avg_sq"]}


def oracle(coarse, fine, basis):
    """Return P such that coarse functions are P of fine ones, by least squares on [a, b]."""

    def values(grid, x):
        t, r = grid.knots.numpy(), grid.order
        if basis == "relu":
            return np.maximum(x[:, None] - t[None, : grid.num_basis], 0.0) ** (r - 1)
        return BSpline(t, np.eye(grid.num_basis), r - 1)(x)

    x = np.linspace(*coarse.domain, 402)[1:-1]
    return np.linalg.lstsq(values(fine, x), values(coarse, x), rcond=None)[0]


def trained(make, basis="spline", steps=4, frozen=None):
    """Return a coarse network, its optimizer after some steps, its refinement and P."""
    torch.manual_seed(0)
    coarse = KAN([2, 3, 1], n=3, r=3, first="affine", basis=basis, dtype=torch.float64)
    if frozen is not None:
        coarse.layers[frozen].requires_grad_(False)
    x = torch.rand(40, 2, dtype=torch.float64)
    objective = MeanSquaredError(x, torch.sin(6 * x[:, :1]) * x[:, 1:])
    optimizer = new_optimizer(make, coarse)

    def closure():
        optimizer.zero_grad()
        loss = objective(coarse)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    fine = coarse.refine()
    grids = [next(model.spline_layers).grid for model in (coarse, fine)]
    return coarse, optimizer, fine, oracle(*grids, basis)


def spline_states(make, basis="spline"):
    """Return the optimizer state of the spline weights, coarse and carried, and P."""
    coarse, optimizer, fine, p = trained(make, basis)
    carried = carried_optimizer(make, optimizer, coarse, fine)
    old = optimizer.state[coarse.layers[1].weight]
    new = carried.state[fine.layers[1].weight]
    return old, new, p


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("name", ["momentum", "adam", "adamw", "rmsprop"])
def test_lifted_gradient_restricts_to_the_coarse_one(name, basis):
    old, new, p = spline_states(OPTIMIZERS[name], basis)
    for key in GRADIENTS.get(name, ["exp_avg"]):
        g, lifted = old[key].numpy(), new[key].numpy()
        assert np.abs(g).max() > 0
        np.testing.assert_allclose(lifted @ p, g, rtol=1e-9, atol=1e-9 * np.abs(g).max())


@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_lifted_gradient_is_the_smallest_that_restricts_to_the_coarse_one(basis):
    old, new, p = spline_states(OPTIMIZERS["adam"], basis)
    expected = old["exp_avg"].numpy() @ np.linalg.pinv(p)
    np.testing.assert_allclose(new["exp_avg"].numpy(), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("per", ["layer", "input"])
@pytest.mark.parametrize("name", ["adam", "lbfgs"])
def test_state_is_carried_from_the_grid_of_each_input(name, per):
    torch.manual_seed(0)
    model = KAN([2, 1], n=3, r=3, dtype=torch.float64)
    coarse = with_grids(model, "own") if per == "input" else model
    x, make = torch.rand(40, 2, dtype=torch.float64), OPTIMIZERS[name]
    optimizer = new_optimizer(make, coarse)

    def closure():
        optimizer.zero_grad()
        loss = MeanSquaredError(x, torch.sin(6 * x[:, :1]) * x[:, 1:])(coarse)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    fine = with_grids(coarse, "own", seed=1)
    carried = carried_optimizer(make, optimizer, coarse, fine)
    key = "d" if name == "lbfgs" else "exp_avg"
    (old,), (new,) = (next(model.spline_layers).parameters() for model in (coarse, fine))
    before, after = optimizer.state[old][key].view_as(old), carried.state[new][key].view_as(new)
    grids = zip(coarse.layers[0].grids, fine.layers[0].grids, strict=True)
    for p, pair in enumerate(grids):
        matrix = oracle(*pair, "spline")
        if name == "lbfgs":  # a step is prolonged, a gradient lifted
            expected, found = before[0, p].numpy() @ matrix.T, after[0, p].numpy()
        else:
            expected, found = before[0, p].numpy(), after[0, p].numpy() @ matrix
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["adam", "amsgrad", "rmsprop"])
def test_squares_are_scaled_by_column_sums_and_spread(name):
    old, new, p = spline_states(OPTIMIZERS[name])
    for key in SQUARES.get(name, ["exp_avg_sq"]):
        expected = (old[key].numpy() / p.sum(axis=0) ** 2) @ p.T
        assert (new[key] >= 0).all()
        np.testing.assert_allclose(new[key].numpy(), expected, rtol=1e-9)


def test_momentum_of_rmsprop_is_carried_as_the_step_it_is():
    old, new, p = spline_states(OPTIMIZERS["rmsprop"])
    expected = old["momentum_buffer"].numpy() @ p.T
    np.testing.assert_allclose(new["momentum_buffer"].numpy(), expected, rtol=1e-9, atol=1e-14)


def test_state_of_an_iteration_is_carried_in_the_basis_of_its_gradient():
    make = Iteration(OPTIMIZERS["momentum"], geometry="spline", gradient="spline")
    coarse, optimizer, fine, _ = trained(make, basis="relu")
    carried = carried_optimizer(make, optimizer, coarse, fine)
    p = oracle(*(next(model.spline_layers).grid for model in (coarse, fine)), "spline")
    buffer = optimizer.state[coarse.layers[1].weight]["momentum_buffer"].numpy()
    lifted = carried.state[fine.layers[1].weight]["momentum_buffer"].numpy()
    np.testing.assert_allclose(lifted @ p, buffer, rtol=1e-9, atol=1e-12)


def test_step_counts_go_on_and_are_not_shared():
    old, new, _ = spline_states(OPTIMIZERS["adam"])
    assert new["step"] == old["step"] == 4
    new["step"] += 1
    assert old["step"] == 4


@pytest.mark.parametrize("name", ["momentum", "adam", "rmsprop"])
def test_state_of_unrefined_parameters_is_copied(name):
    coarse, optimizer, fine, _ = trained(OPTIMIZERS[name])
    carried = carried_optimizer(OPTIMIZERS[name], optimizer, coarse, fine)
    for old, new in zip(coarse.layers[0].parameters(), fine.layers[0].parameters(), strict=True):
        assert carried.state[new].keys() == optimizer.state[old].keys()
        for key, value in carried.state[new].items():
            assert torch.equal(value, optimizer.state[old][key])
            assert value is not optimizer.state[old][key]


# L-BFGS


def lbfgs_states(basis="spline", **options):
    """Return L-BFGS's state, coarse and carried, and P of all parameters together."""
    make = OPTIMIZERS["lbfgs"]
    coarse, optimizer, fine, p = trained(make, basis, **options)
    carried = carried_optimizer(make, optimizer, coarse, fine)
    old = optimizer.state[next(coarse.parameters())]
    new = carried.state[next(fine.parameters())]
    affine, splines = 9, 3
    blocks = torch.block_diag(torch.eye(affine), *[torch.tensor(p)] * splines).double()
    return old, new, blocks


@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_lbfgs_steps_are_prolonged_and_gradients_lifted(basis):
    old, new, p = lbfgs_states(basis)
    assert len(old["old_stps"]) == len(new["old_stps"]) > 5

    def close(left, right):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-9 * float(right.abs().max()))

    close(new["d"], p @ old["d"])
    close(p.T @ new["prev_flat_grad"], old["prev_flat_grad"])
    for s_old, s_new in zip(old["old_stps"], new["old_stps"], strict=True):
        close(s_new, p @ s_old)
    for y_old, y_new in zip(old["old_dirs"], new["old_dirs"], strict=True):
        close(p.T @ y_new, y_old)


def test_lbfgs_pairs_keep_their_curvature():
    old, new, _ = lbfgs_states()
    for k, (s, y) in enumerate(zip(new["old_stps"], new["old_dirs"], strict=True)):
        curvature = old["old_stps"][k] @ old["old_dirs"][k]
        assert float(s @ y) == pytest.approx(float(curvature), rel=1e-12)
        assert float(new["ro"][k]) == pytest.approx(1 / float(curvature), rel=1e-12)
    assert float(new["H_diag"]) == pytest.approx(float(s @ y / (y @ y)), rel=1e-15)
    for key in ("n_iter", "func_evals", "t", "prev_loss"):
        assert new[key] == old[key]


def test_lbfgs_carried_takes_the_coarse_step_on_a_coarse_gradient():
    """With s and y alone (no H_0), the two-loop recursion gives P times the coarse direction."""
    old, new, p = lbfgs_states()
    k = len(old["old_stps"]) - 1

    def last_pair_direction(state, gradient):
        s, y = state["old_stps"][k], state["old_dirs"][k]
        return s * (s @ gradient) / (s @ y)

    g = torch.linspace(-1, 1, p.shape[1], dtype=torch.float64)
    lifted = torch.linalg.pinv(p).T @ g
    expected = p @ last_pair_direction(old, g)
    torch.testing.assert_close(last_pair_direction(new, lifted), expected, rtol=1e-8, atol=1e-10)


def test_lbfgs_state_of_the_coarse_optimizer_is_untouched():
    make = OPTIMIZERS["lbfgs"]
    coarse, optimizer, fine, _ = trained(make)
    state = optimizer.state[next(coarse.parameters())]
    before = {key: repr(value) for key, value in state.items()}
    carried_optimizer(make, optimizer, coarse, fine)
    assert {key: repr(value) for key, value in state.items()} == before


# Little or no state


def only_trainable(make):
    return lambda parameters: make([p for p in parameters if p.requires_grad])


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_carry_nothing(name, frozen, filtered):
    make = only_trainable(OPTIMIZERS[name]) if filtered else OPTIMIZERS[name]
    coarse, optimizer, fine, _ = trained(make, frozen=frozen)
    carried = carried_optimizer(make, optimizer, coarse, fine)
    assert len(carried.state) == len([s for s in optimizer.state.values() if s])
    carried.state_dict()  # refuses state of foreign parameters
    fine(torch.rand(5, 2, dtype=torch.float64)).sum().backward()
    before = [p.detach().clone() for p in fine.parameters()]
    carried.step(lambda: torch.zeros(()))
    for p, q in zip(fine.parameters(), before, strict=True):
        assert p.requires_grad or torch.equal(p, q)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_that_took_no_step_carries_nothing(name):
    make = OPTIMIZERS[name]
    coarse, optimizer, fine, _ = trained(make, steps=0)
    carried = carried_optimizer(make, optimizer, coarse, fine)
    assert not any(carried.state.values())


def test_lbfgs_that_started_at_a_minimum_carries_on():
    make = OPTIMIZERS["lbfgs"]
    coarse = KAN([1, 1], n=3, init_scale=0.0, dtype=torch.float64)
    x = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]
    optimizer = make(coarse.parameters())
    optimizer.step(lambda: nn.functional.mse_loss(coarse(x), 0 * x))  # no gradient yet: no step
    carried = carried_optimizer(make, optimizer, coarse, coarse.refine())
    (state,) = carried.state.values()
    assert state["n_iter"] == 0


UNKNOWN = {
    "acc_delta": torch.optim.Adadelta,
    "sum": torch.optim.Adagrad,
    "mu_product": torch.optim.NAdam,
    "exp_inf": torch.optim.Adamax,
    "prev": torch.optim.Rprop,
    "eta": torch.optim.ASGD,
}


@pytest.mark.parametrize(("key", "make"), UNKNOWN.items(), ids=UNKNOWN)
def test_state_without_rule_is_refused(key, make):
    coarse, optimizer, fine, _ = trained(make)
    with pytest.raises(ValueError, match=rf"carried.*'{key}'.*optimizer_state='fresh'"):
        carried_optimizer(make, optimizer, coarse, fine)


def test_carried_optimizer_has_the_options_of_a_new_one():
    make = partial(torch.optim.Adam, lr=0.3, betas=(0.5, 0.6))
    coarse, optimizer, fine, _ = trained(make)
    optimizer.param_groups[0]["lr"] = 0.01  # as a scheduler might
    carried = carried_optimizer(make, optimizer, coarse, fine)
    (group,) = carried.param_groups
    assert (group["lr"], group["betas"]) == (0.3, (0.5, 0.6))
    assert [*map(id, group["params"])] == [*map(id, fine.parameters())]
