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
from kanlib.adaptive import bisected, indicators, jumps, refine_adaptively

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


def test_bisection_refuses_what_does_not_fit():
    grid = KnotGrid.uniform(4, 5)
    with pytest.raises(ValueError, match="n must be at least 5"):
        bisected(grid, torch.ones(5), 4)
    for bad in (torch.ones(4), -torch.ones(5), torch.full((5,), math.nan)):
        with pytest.raises(ValueError, match="indicator must hold 5 numbers"):
            bisected(grid, bad, 6)


@pytest.mark.parametrize("per", [None, "layer", "input"])
@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_adaptive_refinement_keeps_the_function(per, basis):
    torch.manual_seed(0)
    model = KAN([2, 3, 1], n=4, r=3, init_scale=1.0)
    with torch.no_grad():
        next(model.spline_layers).weight[:, 0, 0] *= 1000.0
    model = model.to_basis(basis)
    model = model.free(per) if per else model
    fine = refine_adaptively(model)
    x = 1.4 * torch.rand(60, 2) - 0.2
    torch.testing.assert_close(fine(x), model(x), rtol=1e-8, atol=1e-8)
    assert fine.n == 8
    assert refine_adaptively(model, 5).n == 5
    grids = next(fine.spline_layers).grids
    assert (grids[0] == grids[1]) is (per != "input")


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
