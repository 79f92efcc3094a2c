"""Objectives, against NumPy."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kanlib import KAN, Ensemble, MeanSquaredError, train


def test_mean_squared_error_equals_numpy():
    rng = np.random.default_rng(0)
    x, y = rng.random((7, 2)), rng.random((7, 3))
    objective = MeanSquaredError(torch.tensor(x), torch.tensor(y))
    model = nn.Linear(2, 3).double()
    weight, bias = (p.detach().numpy() for p in model.parameters())
    expected = np.mean((x @ weight.T + bias - y) ** 2)
    assert float(objective(model).detach()) == pytest.approx(expected, rel=1e-14)


X, Y = torch.zeros(4, 2), torch.zeros(4, 1)
NOT_FINITE = torch.tensor([[0.0], [math.nan], [math.inf], [0.0]])


@pytest.mark.parametrize(
    ("x", "y", "kind", "text"),
    [
        (X.numpy(), Y, TypeError, "x must be a floating-point tensor, got ndarray"),
        (X, Y.long(), TypeError, "y must be a floating-point tensor, got torch.int64"),
        (X[:, 0], Y, ValueError, r"x must have shape \(N, features\).*got \(4,\)"),
        (X[:0], Y[:0], ValueError, r"x must have .*N >= 1, got \(0, 2\)"),
        (X, NOT_FINITE, ValueError, r"y must be finite.*2 row\(s\), the first at 1: remove"),
        (X, Y[:3], ValueError, r"agree in rows.*\(4, 2\).*\(3, 1\)"),
        (X, Y.double(), ValueError, "agree in .*float32.*float64"),
    ],
)
def test_mean_squared_error_names_the_mistake(x, y, kind, text):
    with pytest.raises(kind, match=text):
        MeanSquaredError(x, y)


def test_mean_squared_error_refuses_to_broadcast():
    with pytest.raises(ValueError, match=r"shape \(4,\) but y has \(4, 1\): the last width"):
        MeanSquaredError(X, Y)(lambda x: x[:, 0])


@pytest.mark.parametrize("at", [-0.1, 1.1])
@pytest.mark.parametrize("options", [{}, {"input_domain": [(0, 1), (0, 1)], "domain": (-2, 2)}])
def test_data_outside_the_splines_are_refused(at, options):
    x = torch.full((4, 2), 0.5)
    x[2, 1] = at
    with pytest.raises(ValueError, match=rf"points x must lie in .*got \[0\.5, {at}.* at point 2"):
        MeanSquaredError(x, Y)(KAN([2, 1], **options))
    with pytest.raises(ValueError, match="points x must lie in"):
        MeanSquaredError()(KAN([2, 1], **options), (x, Y))
    MeanSquaredError(x, Y)(KAN([2, 3, 1], first="affine"))


def test_batches_train_as_the_same_steps_by_hand():
    torch.manual_seed(0)
    x = torch.rand(30, 2)
    y = x.prod(1, keepdim=True)
    model, other = KAN([2, 1]), KAN([2, 1])
    other.load_state_dict(model.state_dict())
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    sgd = torch.optim.SGD(other.parameters(), lr=0.1)
    train(
        model, MeanSquaredError(), 2, batches=loader, progress=False,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    )  # fmt: skip
    for _ in range(2):
        for xs, ys in loader:
            sgd.zero_grad()
            (other(xs) - ys).square().mean().backward()
            sgd.step()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("objective", "batch", "text"),
    [
        (MeanSquaredError(X, Y), (X, Y), r"takes no batches.*MeanSquaredError\(\)"),
        (MeanSquaredError(), None, "has no data: give it x and y, or train with batches="),
        (MeanSquaredError(), X, r"batches must yield pairs \(x, y\).*got Tensor"),
        (MeanSquaredError(), (X, Y, Y), "batches must yield pairs"),
        (MeanSquaredError(), (X, Y[:, 0]), r"y must have shape \(N, features\)"),
        (MeanSquaredError(), (X, Y[:3]), "agree in rows"),
    ],
)
def test_mistakes_with_batches_are_named(objective, batch, text):
    with pytest.raises(ValueError, match=text):
        objective(nn.Linear(2, 1), batch)


def test_error_of_an_ensemble_is_the_sum_over_its_networks():
    torch.manual_seed(0)
    x, y = torch.rand(9, 2), torch.rand(9, 1)
    models = [KAN([2, 1]) for _ in range(3)]
    each = sum((model(x) - y).square().mean() for model in models)
    torch.testing.assert_close(MeanSquaredError(x, y)(Ensemble(models)), each)
    with pytest.raises(ValueError, match=r"shape \(3, 9, 1\) but y has \(9, 2\)"):
        MeanSquaredError(x, y.expand(9, 2))(Ensemble(models))
