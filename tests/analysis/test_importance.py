"""Importance: norms and variances by SciPy's integration, effects by networks without an edge."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.interpolate import BSpline

from kanlib import KAN, MLP, Ensemble, HardConditions
from kanlib.analysis.importance import contributions, importance
from kanlib.nn.spline_layer import SplineLayer

pytestmark = pytest.mark.usefixtures("float64")
BREAKPOINTS = [0.0, 0.07, 0.3, 0.35, 0.8, 1.0]


def network(basis="spline", widths=(3, 4, 2), **options):
    torch.manual_seed(1)
    model = KAN([*widths], breakpoints=BREAKPOINTS, r=4, init_scale=0.5, **options)
    return model.to_basis(basis)


def entering(model, x):
    """Yield each layer with edges, and what enters it."""
    for layer in model.layers:
        if isinstance(layer, SplineLayer | torch.nn.Linear):
            yield layer, x
        x = layer(x)


def points():
    torch.manual_seed(2)
    x = torch.rand(200, 3)
    return torch.cat([x[:, :2], x[:, :1] ** 2], dim=1)  # dependent inputs


@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_norms_on_the_domain_are_integrals(basis):
    model = network(basis)
    worth = importance(model, points(), measure="domain").layers[0]
    layer = next(model.to_basis("spline").spline_layers)
    t = layer.grid.knots.numpy()
    for q, p in ((0, 0), (3, 2)):
        s = BSpline(t, layer.weight[q, p].detach().numpy(), 3)

        def integral(f):
            return sum(quad(f, a, b)[0] for a, b in pairwise(BREAKPOINTS))

        mean, square = integral(s), integral(lambda x, s=s: s(x) ** 2)
        assert float(worth.mean[q, p]) == pytest.approx(mean, abs=1e-12)
        assert float(worth.norm[q, p]) == pytest.approx(square**0.5, rel=1e-12)
        assert float(worth.deviation[q, p]) == pytest.approx((square - mean**2) ** 0.5, rel=1e-10)
    variance = worth.deviation.numpy() ** 2
    expected = variance / variance.sum(1, keepdims=True)  # Sobol: independent inputs
    np.testing.assert_allclose(worth.share.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("first", ["spline", "affine"])
def test_shares_of_data_are_those_of_the_covariance_matrix(first):
    model, x = network(first=first), points()
    found = importance(model, x)
    assert len(found.layers) == 2
    for worth, (layer, z) in zip(found.layers, entering(model, x), strict=True):
        values = contributions(layer, z).detach().numpy()
        for q in range(values.shape[1]):
            covariance = np.cov(values[:, q].T, bias=True)
            share = covariance.sum(1) / covariance.sum()
            np.testing.assert_allclose(worth.share[q].numpy(), share, atol=1e-12)
        np.testing.assert_allclose(worth.share.sum(1).numpy(), 1.0, rtol=1e-12)


@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_contributions_add_up_to_the_layer_outside_its_domain_too(basis):
    for extension in ("linear", "clamp", "none"):
        model = network(basis, extension=extension)
        x = 3 * points() - 1
        layer, z = next(entering(model, x))
        torch.testing.assert_close(contributions(layer, z).sum(-1), layer(z), rtol=0, atol=1e-11)


def test_removal_is_the_change_by_an_edge_that_is_constant():
    model, x = network(), points()
    found = importance(model, x)
    y = model(x).detach()
    spread = np.sqrt(y.numpy().var(0).sum())
    for number, q, p in ((0, 1, 2), (1, 0, 3)):
        other = copy.deepcopy(model)
        layer, z = [*entering(other, x)][number]
        mean = contributions(layer, z)[:, q, p].mean()
        with torch.no_grad():
            layer.weight[q, p] = mean  # B-splines add up to one
        change = np.sqrt(((other(x) - y).detach().numpy() ** 2).sum(1).mean())
        assert float(found.layers[number].removal[q, p]) == pytest.approx(change / spread, rel=1e-9)


def test_units_are_the_effect_of_all_their_edges():
    model, x = network(), points()
    worth = importance(model, x).layers[1]
    y, spread = model(x).detach(), model(x).detach().numpy().var(0).sum() ** 0.5
    *_, (layer, z) = entering(model, x)
    with torch.no_grad():
        layer.weight[:, 2] = contributions(layer, z)[:, :, 2].mean(0)[:, None]
    change = np.sqrt(((model(x) - y).detach().numpy() ** 2).sum(1).mean())
    assert float(worth.units[2]) == pytest.approx(change / spread, rel=1e-9)


def test_both_bases_refinement_and_float32_tell_the_same():
    model, x = network(), points()
    expected = importance(model, x, measure="domain")
    torch.testing.assert_close(expected.layers[1].units, importance(model, x).layers[1].units)
    for other in (model.to_basis("relu"), model.refine(), model.free("input")):
        found = importance(other, x, measure="domain")
        for one, two in zip(found.layers, expected.layers, strict=True):
            for name in ("norm", "mean", "deviation", "share", "removal", "units"):
                torch.testing.assert_close(
                    getattr(one, name), getattr(two, name), rtol=1e-8, atol=1e-9
                )
    single = importance(copy.deepcopy(model).float(), x.float()).layers[0].removal
    torch.testing.assert_close(single, importance(model, x).layers[0].removal, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("measure", ["data", "domain"])
def test_rounding_has_no_share(measure):
    model = network(widths=(2, 3, 1))
    with torch.no_grad():
        for layer in model.layers:  # constants that are no sums of powers of two
            layer.weight[:] = 0.1
    found = importance(model, torch.full((7, 2), 0.3), measure=measure)
    assert all(torch.count_nonzero(layer.share) == 0 for layer in found.layers)


def test_hard_conditions_are_refused_with_a_way_out():
    model = HardConditions(network(), lambda x: x[:, :1], lambda x: x[:, :1])
    with pytest.raises(TypeError, match="the network of hard conditions"):
        importance(model, points())


def test_a_constant_network_has_no_important_edge():
    model = network()
    with torch.no_grad():
        for layer in model.spline_layers:
            layer.weight.fill_(1.0)
    found = importance(model, points())
    assert float(found.layers[0].removal.max()) < 1e-6
    assert torch.isfinite(found.layers[0].share).all()


def test_table_has_the_most_important_edge_first():
    found = importance(network(), points())
    rows = found.rows()
    assert len(rows) == 3 * 4 + 4 * 2
    assert rows[0]["removal"] == max(float(layer.removal.max()) for layer in found.layers)
    assert len(str(found).splitlines()) == 21


def test_importance_refuses_what_is_no_sum_of_edges():
    class Twice(KAN):
        def forward(self, x):
            return 2 * super().forward(x)

    x = points()
    with pytest.raises(ValueError, match="forward method of Twice"):
        importance(Twice([3, 1]), x)
    with pytest.raises(TypeError, match="take a member of an ensemble, or the network of hard"):
        importance(Ensemble([network()]), x)
    with pytest.raises(TypeError, match="model must be a KAN"):
        importance(MLP([3, 1]), x)
    with pytest.raises(ValueError, match="x must have shape"):
        importance(network(), x[:, :2])
