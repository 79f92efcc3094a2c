"""Refitting: exact where it should be, not where it cannot, against SciPy."""

import numpy as np
import pytest
import torch
from grids import KINDS, with_grids
from scipy.interpolate import BSpline

from kanlib import KAN, KnotGrid
from kanlib.paper.refit import refit_at_greville, refit_on_samples, resample
from kanlib.splines.bspline import greville

pytestmark = pytest.mark.usefixtures("float64")


def network(basis="spline", r=4, n=4, seed=0):
    torch.manual_seed(seed)
    return KAN([2, 3, 1], n=n, r=r, init_scale=0.5).to_basis(basis)


def points(count=400):
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(3))


def change(model, other, x):
    with torch.no_grad():
        return float((model(x) - other(x)).abs().max())


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("r", [2, 3, 4])
def test_refits_are_exact_on_nested_grids_where_data_suffice(basis, r):
    model, x = network(basis, r), points()
    assert change(model, refit_at_greville(model), x) < 1e-9
    assert change(model, refit_on_samples(model, x), x) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_refits_keep_the_kind_of_the_grids(kind, basis):
    model, x = with_grids(network(r=3), kind).to_basis(basis), points()
    for refitted in (refit_at_greville(model), refit_on_samples(model, x)):
        assert change(model, refitted, x) < 1e-7
        for old, new in zip(model.spline_layers, refitted.spline_layers, strict=True):
            assert len(new.distinct_grids) == len(old.distinct_grids)
            assert (new.knots is None) is (old.knots is None)


@pytest.mark.parametrize("kind", ["own", "free own"])
@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_resampling_takes_the_values_of_scipys_splines_on_each_grid(kind, basis):
    model = with_grids(KAN([2, 1], n=4, init_scale=0.5), kind)
    (old,), (new,) = (m.spline_layers for m in (model, resample(model.to_basis(basis))))
    new = new.to_basis("spline")
    for p, (grid, finer) in enumerate(zip(old.grids, new.grids, strict=True)):
        spline = BSpline(grid.knots.numpy(), old.weight[0, p].detach().numpy(), 3)
        expected = spline(greville(finer).numpy())
        np.testing.assert_allclose(new.weight[0, p].detach().numpy(), expected, atol=1e-10)


def test_refit_refuses_grids_of_different_sizes():
    def uneven(grid):
        return grid.refine() if grid == grids[0] else grid

    model = with_grids(network(), "own")
    grids = model.layers[0].grids
    with pytest.raises(ValueError, match="as many intervals for each input"):
        refit_at_greville(model, uneven)


def test_refit_on_few_samples_loses_the_function_elsewhere():
    model, x = network(), points()
    few = refit_on_samples(model, x[:8])
    assert change(model, few, x[:8]) < 1e-9
    assert change(model, few, x) > 1e-2
    assert change(model, model.refine(), x) < 1e-12


def test_refit_to_a_grid_that_is_not_nested_changes_the_function():
    model, x = network(), points()

    def other(grid):
        return KnotGrid.uniform(grid.order, 7, grid.domain)

    assert 1e-6 < change(model, refit_on_samples(model, x, other), x) < 1.0


def test_refit_on_samples_is_scipys_least_squares_spline():
    torch.manual_seed(0)
    model = KAN([1, 1], n=4, r=4, init_scale=0.5)
    x = points()[:, :1].sort(dim=0).values
    new = KnotGrid.uniform(4, 7)
    found = refit_on_samples(model, x, lambda grid: new)
    design = BSpline.design_matrix(x[:, 0].numpy(), new.knots.numpy(), 3).toarray()
    expected = np.linalg.lstsq(design, model(x)[:, 0].detach().numpy(), rcond=None)[0]
    spline = BSpline(new.knots.numpy(), expected, 3)
    np.testing.assert_allclose(
        found(x)[:, 0].detach().numpy(), spline(x[:, 0].numpy()), rtol=1e-9, atol=1e-10
    )


def test_resampling_is_exact_for_lines_and_of_second_order_beyond():
    errors = []
    for n in (8, 16, 32):
        grid = KnotGrid.uniform(4, n)
        t = grid.knots[1:-1].unfold(0, 3, 1).mean(-1)
        model = KAN([1, 1], n=n)
        with torch.no_grad():
            next(model.spline_layers).weight.copy_(t)
        x = torch.linspace(0, 1, 101)[:, None]
        inner = (x[:, 0] > 3 / n) & (x[:, 0] < 1 - 3 / n)
        assert change(model, resample(model), x[inner]) < 1e-12
        with torch.no_grad():
            next(model.spline_layers).weight.copy_(torch.sin(6 * t))
        errors.append(change(model, resample(model), x[(x[:, 0] > 0.4) & (x[:, 0] < 0.6)]))
    assert 3.0 < errors[0] / errors[1] < 5.0
    assert 3.0 < errors[1] / errors[2] < 5.0


def test_greville_points_are_those_of_the_identity():
    """sum_i xi_i b_i(x) = x, where no point is clipped."""
    grid = KnotGrid(3, [0.0, 0.1, 0.5, 0.6, 1.0])
    xi = greville(grid)
    spline = BSpline(grid.knots.numpy(), xi.numpy(), 2)
    np.testing.assert_allclose(spline(np.array([0.2, 0.3, 0.5])), [0.2, 0.3, 0.5], rtol=1e-12)


def test_greville_points_need_slopes():
    with pytest.raises(ValueError, match="at least 2"):
        greville(KnotGrid.uniform(1, 3))
