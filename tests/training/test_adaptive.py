"""Adaptive refinement: jumps against SciPy, bisection, exactness, and what it gains."""

import math

import numpy as np
import pytest
import torch
from grids import nested_grids
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from kanlib import KAN, KnotGrid, MeanSquaredError, SplineLayer, train_multilevel
from kanlib.nn.spline_layer import tie
from kanlib.splines.periodic import partners
from kanlib.training.adaptive import (
    bisected,
    gradient_indicator,
    indicators,
    jump_indicator,
    jumps,
    refine_adaptively,
    residual_indicator,
)

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_jumps_are_those_of_scipys_derivative(basis, r):
    grid = KnotGrid(r, [-1.0, -0.6, 0.1, 0.3, 1.0])
    torch.manual_seed(0)
    layer = SplineLayer(1, 1, grid, init_scale=1.0)
    spline = BSpline(grid.knots.numpy(), layer.weight[0, 0].detach().numpy(), r - 1)
    steps = spline.derivative(r - 1) if r > 1 else spline
    t = grid.breakpoints.numpy()
    middles = steps(0.5 * (t[:-1] + t[1:]))
    found = jumps(layer.to_basis(basis).weight, grid, basis)[0, 0]
    np.testing.assert_allclose(found.numpy(), np.diff(middles), rtol=1e-10, atol=1e-10)


def test_indicator_is_that_of_the_formula_on_a_graded_grid():
    grid = KnotGrid(2, [0.0, 0.5, 0.75, 1.0])
    layer = SplineLayer(1, 1, grid)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[0.0, 1.0, 1.0, 0.0]]]))  # slopes 2, 0, -4
    expected = torch.tensor([[0.5 * 2, 0.25 * 3, 0.25 * 4]])
    torch.testing.assert_close(indicators(layer), expected)


@given(nested_grids(levels=1), st.integers(0, 12), st.randoms(use_true_random=False))
def test_bisection_nests_and_has_the_intervals_wanted(hierarchy, more, random):
    grid = hierarchy[0]
    indicator = torch.tensor([random.random() for _ in range(grid.n)])
    fine = bisected(grid, indicator, grid.n + more)
    assert fine.n == grid.n + more
    assert grid.missing_from(fine) == []


def test_bisection_of_equal_indicators_is_uniform_refinement():
    grid = KnotGrid.uniform(4, 5)
    assert bisected(grid, torch.ones(5), 10) == grid.refine()
    assert bisected(grid, torch.zeros(5), 10) == grid.refine()


@pytest.mark.parametrize("r", [1, 2, 4])
def test_halves_have_the_indicator_of_their_interval_over_two_to_the_order(r):
    grid = KnotGrid.uniform(r, 2)
    for size, second in ((0.75 * 2**r, 0.25), (1.5 * 2**r, 0.625)):
        # The halves of [1/2, 1] have 3/4, less than [0, 1/2], or 3/2, more than that.
        fine = bisected(grid, torch.tensor([1.0, size]), 4)
        assert fine.breakpoints.tolist() == sorted([0.0, 0.5, 0.75, 1.0, second])


def test_bisection_refuses_what_does_not_fit():
    grid = KnotGrid.uniform(4, 5)
    with pytest.raises(ValueError, match="n must be at least 5"):
        bisected(grid, torch.ones(5), 4)
    for bad in (torch.ones(4), -torch.ones(5), torch.full((5,), math.nan)):
        with pytest.raises(ValueError, match="indicator must hold 5 numbers"):
            bisected(grid, bad, 6)


@pytest.mark.parametrize("free", [None, "layer", "input"])
@pytest.mark.parametrize("per", ["layer", "input"])
@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_adaptive_refinement_keeps_the_function(free, per, basis):
    torch.manual_seed(0)
    model = KAN([2, 3, 1], n=4, r=3, init_scale=1.0)
    with torch.no_grad():
        next(model.spline_layers).weight[:, 0, 0] *= 1000.0
    model = model.to_basis(basis)
    model = model.free(free) if free else model
    fine = refine_adaptively(model, per=per)
    x = 1.4 * torch.rand(60, 2) - 0.2
    torch.testing.assert_close(fine(x), model(x), rtol=1e-8, atol=1e-8)
    assert fine.n == 8
    assert refine_adaptively(model, 5).n == 5
    assert refine_adaptively(fine, 9).n == 9
    layer = next(fine.spline_layers)
    assert (layer.grids[0] == layer.grids[1]) is ("input" not in (free, per))
    assert (layer.knots is None) is (free is None)


def test_adaptive_refinement_beats_uniform_on_a_layer():
    """At equal parameters, knots gathered around a steep layer are worth a factor of ten."""
    x = torch.linspace(0, 1, 800)[:, None]
    objective = MeanSquaredError(x, torch.tanh(100 * (x - 0.37)))
    loss = {}
    for name, refine in (("uniform", KAN.refine), ("adaptive", refine_adaptively)):
        torch.manual_seed(0)
        model = KAN([1, 1], n=4)
        run = train_multilevel(model, objective, [4, 4, 4, 4], refine=refine, progress=False)
        assert run.model.n == 32
        loss[name] = run.loss
    assert loss["adaptive"] < 0.1 * loss["uniform"]


def test_residual_indicator_shares_the_squared_residual_among_intervals():
    torch.manual_seed(0)
    model = KAN([2, 3, 1], n=4, r=3, init_scale=0.5)
    x = 1.2 * torch.rand(50, 2) - 0.1
    residual = (model(x) - x.sum(1, keepdim=True)).detach()
    first, second = residual_indicator(x, lambda m: m(x) - x.sum(1, keepdim=True))(model)
    assert (first.shape, second.shape) == ((2, 4), (3, 4))
    total = float(residual.square().sum())
    assert torch.allclose(first.sum(1), torch.tensor(total))
    assert torch.allclose(second.sum(1), torch.tensor(total))
    inside = (x[:, 0] >= 0.25) & (x[:, 0] < 0.5)
    assert float(first[0, 1]) == pytest.approx(float(residual[inside].square().sum()))
    hidden = model.layers[0](x)
    outer = hidden[:, 2] >= 0.75  # what leaves [a, b] counts for the outer intervals
    assert float(second[2, 3]) == pytest.approx(float(residual[outer].square().sum()))


@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_gradient_indicator_is_that_of_scipys_splines(basis):
    torch.manual_seed(0)
    model, r = KAN([1, 1], breakpoints=[0.0, 0.2, 0.5, 1.0], init_scale=0.5).to_basis(basis), 4
    x = torch.linspace(0, 1, 40)[:, None]
    y = torch.sin(9 * x)
    (found,) = gradient_indicator(MeanSquaredError(x, y))(model)
    t = next(model.refine().spline_layers).grid.knots.numpy()
    design = BSpline.design_matrix(x[:, 0].numpy().clip(0, 1 - 1e-15), t, r - 1).toarray()
    slope = 2 / 40 * design.T @ (model(x) - y)[:, 0].detach().numpy()
    left, right = t[: len(slope)].clip(min=0), t[r:].clip(max=1)
    expected = np.zeros(3)
    for value, a, b in zip(slope, left, right, strict=True):
        middle = (a + b) / 2
        expected[int(middle >= 0.2) + int(middle >= 0.5)] += value**2 / (b - a)
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-6)


def test_residual_sees_a_layer_that_coarse_jumps_do_not():
    x = torch.linspace(0, 1, 800)[:, None]
    objective = MeanSquaredError(x, torch.tanh(200 * (x - 0.37)))
    by_residual = residual_indicator(x, lambda model: model(x) - objective.y)
    shortest = {}
    for name, indicator in (("jumps", jump_indicator), ("residual", by_residual)):
        torch.manual_seed(0)
        run = train_multilevel(
            KAN([1, 1], n=4),
            objective,
            [6, 6, 6, 6],
            refine=lambda model, indicator=indicator: refine_adaptively(model, None, indicator),
            progress=False,
        )
        grid = next(run.model.spline_layers).grid
        steps = grid.breakpoints.diff()
        shortest[name] = float(steps.min())
    assert 0.35 < float(grid.breakpoints[int(steps.argmin())]) < 0.38
    assert shortest["residual"] <= 0.5 * shortest["jumps"]


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("r", [1, 2, 4])
def test_single_interval_has_an_indicator_and_is_bisected(basis, r, periodic):
    circle = {"periodic": [0], "periodic_as": "splines"} if periodic else {}
    model = KAN([1, 2, 1], n=1, r=r, basis=basis, **circle)
    found = jump_indicator(model)
    assert [tuple(each.shape) for each in found] == [(1, 1), (2, 1)]
    assert all(torch.equal(each, torch.zeros_like(each)) for each in found)
    fine = refine_adaptively(model, 4)
    assert fine.n == 4
    x = torch.rand(40, 1)
    torch.testing.assert_close(fine(x), model(x))


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("r", [1, 2, 4])
def test_indicator_of_a_circle_has_the_jump_of_scipys_derivative_at_the_seam(basis, r):
    grid = KnotGrid(r, [-1.0, -0.6, 0.1, 0.3, 1.0], periodic=True)
    torch.manual_seed(0)
    layer = SplineLayer(1, 1, grid, init_scale=1.0).to_basis(basis)
    with torch.no_grad():  # numbers that the function does not have
        change = torch.randn_like(layer.weight)
        layer.weight.add_(change - tie(change, [grid], basis))
    coefficients = layer.to_basis("spline").weight[0, 0].detach().numpy()
    spline = BSpline(grid.knots.numpy(), coefficients, r - 1)
    steps = spline.derivative(r - 1) if r > 1 else spline
    t = grid.breakpoints.numpy()
    middles = steps(0.5 * (t[:-1] + t[1:]))
    at = np.abs(np.diff(middles, prepend=middles[-1], append=middles[0]))
    expected = np.diff(t) ** (r - 1) * 0.5 * (at[:-1] + at[1:])
    np.testing.assert_allclose(indicators(layer)[0].numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("r", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("n", [3, 8])
def test_indicators_turn_with_a_network_on_a_circle(n, r):
    """The seam is a place like others: a turn by one interval turns all indicators by one."""
    x = (torch.arange(24 * n)[:, None] + 0.5) / (24 * n)
    target = torch.exp(torch.sin(2 * math.pi * x) + torch.cos(4 * math.pi * x - 1))
    torch.manual_seed(0)
    free = torch.randn(n)
    found = []
    for turn in range(n):
        model = KAN([1, 1], n=n, r=r, periodic=[0], periodic_as="splines")
        (layer,) = model.spline_layers
        with torch.no_grad():
            layer.weight.copy_(free.roll(turn)[partners(layer.grid)])
        y = target.roll(24 * turn, 0)
        objective = MeanSquaredError(x, y)
        indicators_of = [
            jump_indicator,
            residual_indicator(x, lambda m, y=y: m(x) - y),
            gradient_indicator(objective),
        ]
        found.append([each(model)[0][0].roll(-turn) for each in indicators_of])
    for turned in found:
        for one, other in zip(turned, found[0], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.max()))
