"""The four iterations of Table 1: realisations against each other and against dense algebra."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch
from grids import with_grids
from scipy.interpolate import BSpline
from torch import Tensor
from torch.optim import LBFGS, SGD, Adam, AdamW, RMSprop

from kanlib import KAN, KnotGrid, MeanSquaredError, linear_ramp, train, train_multilevel
from kanlib._checks import BASES
from kanlib.training.iterations import Iteration

ROWS = [("relu", "relu"), ("relu", "spline"), ("spline", "spline"), ("spline", "relu")]
FIRST_ORDER = {
    "descent": partial(SGD, lr=0.02),
    "momentum": partial(SGD, lr=0.005, momentum=0.9),
    "Adam": partial(Adam, lr=0.01),
    "RMSprop": partial(RMSprop, lr=0.003),
}
CURVATURE = partial(LBFGS, lr=1.0, max_iter=5, line_search_fn="strong_wolfe")


def network(basis: str, r: int = 3, n: int = 4) -> KAN:
    """Return one and the same function, with weights of either basis, behind an affine map."""
    torch.manual_seed(0)
    return KAN([2, 3, 1], n=n, r=r, basis=basis, first="affine", dtype=torch.float64)


def objective() -> MeanSquaredError:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(60, 2, generator=generator, dtype=torch.float64)
    return MeanSquaredError(x, torch.sin(3 * x[:, :1]) * x[:, 1:])


def trajectory(optimizer: Iteration, basis: str, steps: int = 10, **options: int) -> Tensor:
    """Return the outputs of a network before each step and at the end."""
    seen: list[Tensor] = []
    metrics = {"outputs": lambda model: seen.append(model(objective().x).detach()) or 0.0}
    model = network(basis, **options)
    train(model, objective(), steps, optimizer=optimizer, metrics=metrics, progress=False)
    return torch.stack(seen)


def change_of_basis(grid: KnotGrid) -> np.ndarray:
    """Return A with b = A psi on [a, b], by least squares on values of SciPy's B-splines."""
    knots, r, size = grid.knots.numpy(), grid.order, grid.num_basis
    x = (np.arange(20 * grid.n) + 0.5) / (20 * grid.n)  # in [0, 1], off the knots
    b = np.stack([BSpline.basis_element(knots[i : i + r + 1], False)(x) for i in range(size)], 1)
    distance = x[:, None] - knots[:size]
    psi = np.where(distance >= 0, distance.clip(min=0) ** (r - 1), 0)
    return np.linalg.lstsq(psi, np.nan_to_num(b), rcond=None)[0].T


@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_gradients_change_by_the_matrix_between_the_bases(r):
    gradients = {}
    for basis in BASES:
        model = network("spline", r=r).to_basis(basis)
        objective()(model).backward()
        gradients[basis] = model.layers[-1].weight.grad.numpy()
    a = change_of_basis(model.layers[-1].grid)
    np.testing.assert_allclose(gradients["spline"], gradients["relu"] @ a.T, atol=1e-10)


@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_least_loss_does_not_depend_on_the_basis(r):
    grid, x = KnotGrid.uniform(r, 6), np.random.default_rng(0).random(200)
    target = np.exp(np.sin(9 * x))
    b = BSpline.design_matrix(x, grid.knots.numpy(), r - 1).toarray()
    distance = x[:, None] - grid.knots.numpy()[: grid.num_basis]
    psi = np.where(distance >= 0, distance.clip(min=0) ** (r - 1), 0)
    losses = [np.linalg.lstsq(m, target, rcond=None)[1].item() for m in (b, psi)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert losses[0] > 1e-6


@pytest.mark.parametrize(("geometry", "gradient"), ROWS)
@pytest.mark.parametrize("name", FIRST_ORDER)
def test_realisations_visit_the_same_functions(name, geometry, gradient):
    optimizer = Iteration(FIRST_ORDER[name], geometry, gradient)
    in_u, in_w = (trajectory(optimizer, basis) for basis in ("spline", "relu"))
    assert (in_u - in_w).abs().max() < 1e-10
    assert (in_u[-1] - in_u[0]).abs().max() > 1e-2


@pytest.mark.parametrize(("geometry", "gradient"), ROWS)
def test_realisations_visit_the_same_functions_where_each_input_has_its_grid(geometry, gradient):
    ends = []
    for basis in ("spline", "relu"):
        model = with_grids(network("spline"), "own").to_basis(basis)
        optimizer = Iteration(FIRST_ORDER["momentum"], geometry, gradient)
        train(model, objective(), 6, optimizer=optimizer, progress=False)
        ends.append(model(objective().x).detach())
    assert (ends[0] - ends[1]).abs().max() < 1e-12
    assert (ends[0] - network("spline")(objective().x)).abs().max() > 1e-2


@pytest.mark.parametrize("row", BASES)
def test_realisations_of_lbfgs_visit_the_same_functions(row):
    optimizer = Iteration(CURVATURE, row, row)
    in_u, in_w = (trajectory(optimizer, basis, steps=3) for basis in ("spline", "relu"))
    assert (in_u - in_w).abs().max() < 1e-7  # 15 iterations and their line searches
    assert (in_u[-1] - in_u[0]).abs().max() > 1e-1


@pytest.mark.parametrize("make", FIRST_ORDER.values(), ids=FIRST_ORDER)
def test_rows_are_four_different_iterations(make):
    ends = [trajectory(Iteration(make, *row), "spline")[-1] for row in ROWS]
    distances = [(p - q).abs().max() for i, p in enumerate(ends) for q in ends[:i]]
    assert min(distances) > 1e-3


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize(("geometry", "gradient"), ROWS)
@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_step_is_that_of_dense_algebra(r, geometry, gradient, basis):
    make = partial(Adam, lr=0.01, eps=0.5)  # an eps of this size makes D depend on the scale
    model = network(basis, r)
    layer = model.layers[1]
    before = layer.weight.detach().numpy().copy()
    objective()(model).backward()
    stored = layer.weight.grad.numpy().copy()

    a = change_of_basis(layer.grid)
    grad_u = stored if basis == "spline" else stored @ a.T
    seen = grad_u if gradient == "spline" else grad_u @ np.linalg.inv(a).T
    taken = -0.01 * seen / (np.abs(seen) + 0.5)  # Adam's first step
    step_u = taken if geometry == "spline" else taken @ np.linalg.inv(a)
    expected = before + (step_u if basis == "spline" else step_u @ a)

    Iteration(make, geometry, gradient)(model).step()
    np.testing.assert_allclose(layer.weight.detach(), expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(layer.weight.grad, stored)


@pytest.mark.parametrize("row", BASES)
def test_descent_is_steepest_in_the_norm_of_its_geometry(row):
    """Lemma 5: the step is -M^{-1} nabla_u L, M = A A^T (w) or I (u), to which M is dual."""
    model = network("spline")
    layer = model.layers[1]
    before = layer.weight.detach().clone()
    loss = objective()(model)
    loss.backward()
    gradient = layer.weight.grad.clone()
    Iteration(partial(SGD, lr=1.0), row, row)(model).step()
    ascent = (before - layer.weight.detach()).flatten(0, 1)

    a = change_of_basis(layer.grid)
    metric = torch.tensor(a @ a.T if row == "relu" else np.eye(len(a)))
    directions = torch.randn(*ascent.shape, dtype=torch.float64)
    derivative = (gradient.flatten(0, 1) * directions).sum()
    torch.testing.assert_close((ascent @ metric * directions).sum(), derivative)


@pytest.mark.parametrize(("geometry", "gradient"), ROWS)
def test_parameters_outside_spline_layers_get_the_plain_step(geometry, gradient):
    model = network("spline")
    affine = model.layers[0]
    before = [p.detach().clone() for p in affine.parameters()]
    objective()(model).backward()
    Iteration(partial(SGD, lr=0.1), geometry, gradient)(model).step()
    for old, new in zip(before, affine.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old - 0.1 * new.grad, rtol=0, atol=1e-16)


@pytest.mark.parametrize("own", BASES)
def test_iteration_of_the_basis_of_the_layers_is_the_plain_optimizer(own):
    ends = []
    for optimizer in (AdamW, Iteration(AdamW, own, own)):
        model = network(own)
        train(model, objective(), 5, optimizer=optimizer, progress=False)
        ends.append(model.layers[1].weight.detach())
    assert torch.equal(*ends)


def test_step_without_closure_equals_step_with_closure():
    with_closure, without = network("spline"), network("spline")
    train(with_closure, objective(), 4, optimizer=Iteration(Adam), progress=False)
    optimizer = Iteration(Adam)(without)
    for _ in range(4):
        optimizer.zero_grad()
        objective()(without).backward()
        optimizer.step()
    assert torch.equal(with_closure.layers[1].weight, without.layers[1].weight)


@pytest.mark.parametrize("state", ["fresh", "carried"])
@pytest.mark.parametrize(("geometry", "gradient"), ROWS)
def test_realisations_agree_across_refinement(geometry, gradient, state):
    optimizer = Iteration(partial(Adam, lr=0.01), geometry, gradient)
    ends = []
    for basis in ("spline", "relu"):
        run = train_multilevel(
            network(basis, r=2),
            objective(),
            [5, 5],
            optimizer=optimizer,
            optimizer_state=state,
            progress=False,
        )
        assert [level.n for level in run.levels] == [4, 8]
        ends.append(run.model(objective().x).detach())
    # Adam magnifies rounding where a gradient is zero, as outside the data.
    assert (ends[0] - ends[1]).abs().max() < 1e-8


def test_lbfgs_curvature_is_carried_in_the_basis_of_the_geometry():
    ends = []
    for basis in ("spline", "relu"):
        run = train_multilevel(
            network(basis, r=2),
            objective(),
            [2, 1],
            optimizer=Iteration(CURVATURE, "spline", "spline"),
            optimizer_state="carried",
            progress=False,
        )
        ends.append(run.model(objective().x).detach())
    assert (ends[0] - ends[1]).abs().max() < 1e-8


def test_iteration_works_with_schedulers_and_checkpoints(tmp_path):
    calls = count()

    def interrupted(model: KAN) -> Tensor:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return objective()(model)

    def weights(objective: Callable[[KAN], Tensor], **options: object) -> Tensor:
        model, make = network("spline"), Iteration(partial(Adam, lr=0.01))
        ramp = linear_ramp(1e-3, steps=4)
        train(model, objective, 8, optimizer=make, scheduler=ramp, progress=False, **options)
        return model.layers[1].weight.detach()

    file = {"checkpoint": tmp_path / "checkpoint.pt", "checkpoint_every": 0.0}
    straight, cut = weights(objective()), weights(interrupted, **file)
    assert not torch.equal(cut, straight)
    assert torch.equal(weights(objective(), resume=True, **file), straight)


def test_objective_that_fails_within_a_step_leaves_the_weights():
    model, calls = network("spline"), count()
    before = model.layers[1].weight.detach().clone()
    optimizer = Iteration(CURVATURE)(model)

    def closure() -> Tensor:
        if next(calls) == 3:
            raise RuntimeError("no data")
        optimizer.zero_grad()
        loss = objective()(model)
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="no data"):
        optimizer.step(closure)
    assert torch.equal(model.layers[1].weight, before)


def test_frozen_layer_stays():
    model = network("spline")
    model.layers[1].weight.requires_grad_(False)
    before = model.layers[1].weight.clone()
    train(model, objective(), 2, optimizer=Iteration(Adam), progress=False)
    assert torch.equal(model.layers[1].weight, before)


@pytest.mark.parametrize("name", ["geometry", "gradient"])
def test_iteration_rejects_unknown_bases(name):
    with pytest.raises(ValueError, match=f"{name} must be one of .* got 'u'"):
        Iteration(Adam, **{name: "u"})


@pytest.mark.parametrize(("geometry", "gradient"), [("relu", "spline"), ("spline", "relu")])
def test_lbfgs_rejects_gradients_of_the_other_basis(geometry, gradient):
    with pytest.raises(ValueError, match="L-BFGS needs geometry and gradient in the same basis"):
        Iteration(CURVATURE, geometry, gradient)(network("spline"))


def test_iteration_rejects_weight_decay():
    with pytest.raises(ValueError, match=r"weight_decay must be 0 .* got 0.01"):
        Iteration(AdamW)(network("spline"))
