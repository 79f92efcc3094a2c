"""Confidence intervals of unknowns, against SciPy, repeated fits and exact linear algebra."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from kanlib import KAN, MLP, GaussNewton, MeanSquaredError, ResidualLoss, Term, Unknowns, train
from kanlib.analysis.estimates import estimates
from kanlib.splines import bspline

pytestmark = pytest.mark.usefixtures("float64")


def points(n):
    return torch.linspace(0, 1, n)[:, None]


def network(n=3):
    torch.manual_seed(0)
    return KAN([1, 1], n=n, r=4)


def fitted(loss, steps=30):
    return train(network(), loss, steps, optimizer=GaussNewton(damping=1e-8), progress=False)


@pytest.mark.filterwarnings("ignore:no step was taken")
@pytest.mark.parametrize("weight", [1.0, 7.0])
def test_intervals_are_those_of_curve_fit(weight):
    """A spline plus a sin(9 x + b): with all residuals noisy, SciPy has the same errors."""
    x = points(49)
    torch.manual_seed(2)
    y = torch.exp(x) + 0.8 * torch.sin(9 * x + 0.4) + 0.05 * torch.randn(49, 1)
    unknowns = Unknowns(a=0.7, b=0.3)

    def fit(u, x, q):
        return u.value + q.a * torch.sin(9 * x + q.b) - y

    run = fitted(ResidualLoss(fit=Term(fit, x, unknowns=unknowns, weight=weight)))
    basis = bspline.dense_basis(x[:, 0], next(run.model.spline_layers).grid).numpy()

    def curve(x, a, b, *c):
        return basis @ np.array(c) + a * np.sin(9 * x + b)

    start = [0.7, 0.3, *np.zeros(basis.shape[1])]
    best, covariance = scipy.optimize.curve_fit(curve, x[:, 0].numpy(), y[:, 0].numpy(), start)
    quantile = scipy.stats.t.ppf(0.95, 49 - len(best))
    for i, (name, found) in enumerate(estimates(run.model, run.objective, level=0.9).items()):
        assert name == "ab"[i]
        assert found.value == pytest.approx(best[i], rel=1e-5)
        assert found.error == pytest.approx(covariance[i, i] ** 0.5, rel=1e-4)
        assert found.high - found.low == pytest.approx(2 * quantile * found.error)
        assert found.low + found.high == pytest.approx(2 * found.value)


def growth(u, x, q):
    return u.d(0) - q.rate


def line(y, x, places, weight=20.0):
    return ResidualLoss(
        growth=Term(growth, places, unknowns=Unknowns(rate=0.0), weight=weight),
        data=Term(lambda u, x: u.value - y, x),
    )


def test_errors_of_data_alone_are_those_of_linear_algebra():
    """u' = rate as a penalty: the estimate is linear in the data, with weights from lstsq."""
    x, places = points(7), points(12)
    torch.manual_seed(3)
    y = 2 * x + 0.1 * torch.randn(7, 1)
    run = fitted(line(y, x, places))
    found = estimates(run.model, run.objective, noisy=["data"])["rate"]
    grid = next(run.model.spline_layers).grid
    slopes = bspline.dense_basis(places[:, 0], grid, derivative=1).numpy()
    values = bspline.dense_basis(x[:, 0], grid).numpy()
    equation = np.hstack([slopes, -np.ones((12, 1))]) * (20 / 12) ** 0.5
    data = np.hstack([values, np.zeros((7, 1))]) * (1 / 7) ** 0.5
    inverse = np.linalg.pinv(np.vstack([equation, data]))[:, 12:] * (1 / 7) ** 0.5
    assert found.value == pytest.approx(float((inverse @ y.numpy())[-1, 0]), rel=1e-6)
    rest = np.eye(7) - values @ inverse[:-1]
    variance = np.sum((rest @ y.numpy()) ** 2) / np.trace(rest.T @ rest)
    assert found.error == pytest.approx(math.sqrt(variance) * np.linalg.norm(inverse[-1]), rel=1e-5)


def test_intervals_hold_the_truth_as_often_as_they_say():
    x, places, hits = points(15), points(15), 0
    draws = torch.Generator().manual_seed(4)
    for _ in range(40):
        y = 2 * x + 0.1 * torch.randn(15, 1, generator=draws)
        run = fitted(line(y, x, places, weight=1e3), steps=3)
        found = estimates(run.model, run.objective, noisy=["data"], level=0.8)["rate"]
        hits += found.low < 2 < found.high
    low, high = scipy.stats.binom.ppf([0.005, 0.995], 40, 0.8)
    assert low <= hits <= high


def test_what_cannot_be_told_apart_is_said():
    x = points(20)

    def product(u, x, q):
        return u.d(0) - q.a * q.b * u.value + q.c

    loss = ResidualLoss(
        equation=Term(product, x, unknowns=Unknowns(a=1.0, b=2.0, c=0.1)),
        data=Term(lambda u, x: u.value - torch.exp(2 * x) - 0.01 * torch.sin(70 * x), x),
    )
    run = fitted(loss)
    with pytest.warns(RuntimeWarning, match="cannot be identified") as caught:
        found = estimates(run.model, run.objective)
    names = ["'a'" in str(w.message) for w in caught] + ["'b'" in str(w.message) for w in caught]
    assert names == [True, False, False, True]
    assert [math.isinf(found[name].error) for name in "abc"] == [True, True, False]


def test_entries_of_tensors_have_an_index_and_networks_none():
    x = points(30)
    unknowns = Unknowns(k=torch.tensor([[1.0, 2.0]]), net=MLP([1, 1]))
    loss = ResidualLoss(
        a=Term(lambda u, x, q: u.value * q.k[0, 0] - q.net(x) + q.k[0, 1], x, unknowns=unknowns),
        b=Term(lambda u, x: u.value - x.cos(), x),
    )
    assert [*estimates(network(), loss)] == ["k[0, 0]", "k[0, 1]"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda m, o: estimates(m, MeanSquaredError(points(9), points(9))), "unknown numbers"),
        (lambda m, o: estimates(m, o, noisy=["date"]), "noisy must name terms of .*'data'"),
        (lambda m, o: estimates(m, o, noisy=[]), "noisy must name at least one term"),
        (lambda m, o: estimates(m, o, level=1.0), "level must be between 0 and 1, got 1.0"),
        (
            lambda m, o: estimates(m, line(points(2), points(2), points(3))),
            "more residuals than they determine",
        ),
    ],
)
def test_mistakes_are_named(call, text):
    with pytest.raises(ValueError, match=text):
        call(network(), line(points(9), points(9), points(9)))
