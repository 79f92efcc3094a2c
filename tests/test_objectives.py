"""Objectives, against NumPy."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from kanlib import MeanSquaredError


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
