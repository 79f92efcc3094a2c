"""The weight of smoothing: by dense matrices of hat and residuals, and by what it is for."""

import copy

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from kanlib import KAN, GaussNewton, MeanSquaredError, train
from kanlib.analysis.smoothing import smoothing_weight
from kanlib.objectives.penalties import Penalised, SquaredNorms

pytestmark = pytest.mark.usefixtures("float64")
NOISE = 0.2


def data(seed=0):
    torch.manual_seed(seed)
    x = torch.rand(150, 1)
    truth = torch.sin(6 * x)
    return x, truth, truth + NOISE * torch.randn_like(x)


def matrices(x, n):
    t = KAN([1, 1], n=n).layers[0].grid.knots.numpy()
    B = BSpline.design_matrix(x[:, 0].numpy(), t, 3).toarray()
    points, weights = np.polynomial.legendre.leggauss(3)
    nodes = (np.arange(n)[:, None] + (1 + points) / 2).ravel() / n
    second = BSpline(t, np.eye(len(t) - 4), 3).derivative(2)(nodes)
    return B, second.T @ (np.tile(weights / (2 * n), n)[:, None] * second)


@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_weight_minimises_generalised_cross_validation(basis):
    x, _, y = data()
    B, P = matrices(x, 30)
    N = len(x)

    def gcv(weight):
        H = B @ np.linalg.solve(B.T @ B / N + weight * P, B.T / N)
        return N * ((y[:, 0].numpy() - H @ y[:, 0].numpy()) ** 2).sum() / (N - np.trace(H)) ** 2

    model = KAN([1, 1], n=30, basis=basis)
    found = smoothing_weight(model, MeanSquaredError(x, y))
    ratio = 10 ** (16 / 64)  # of neighbouring weights
    assert gcv(found) <= min(gcv(found * ratio), gcv(found / ratio)) + 1e-9
    grid = [gcv(weight) for weight in np.logspace(-12, 2, 60)]
    assert gcv(found) <= min(grid) * 1.01


def test_discrepancy_leaves_the_noise():
    x, _, y = data()
    B, P = matrices(x, 30)

    def left(weight):
        u = np.linalg.solve(B.T @ B / 150 + weight * P, B.T @ y[:, 0].numpy() / 150)
        return ((B @ u - y[:, 0].numpy()) ** 2).mean()

    found = smoothing_weight(KAN([1, 1], n=30), MeanSquaredError(x, y), noise=NOISE)
    assert left(found) <= NOISE**2 < left(found * 10 ** (16 / 64))


@pytest.mark.parametrize("noise", [None, NOISE])
def test_smoothed_network_is_nearer_to_the_truth(noise):
    x, truth, y = data()
    objective = MeanSquaredError(x, y)
    model = KAN([1, 1], n=40)
    weight = smoothing_weight(model, objective, noise=noise)
    loss = Penalised(objective, rough=SquaredNorms(weight))
    errors = []
    for each in (objective, loss):
        run = train(copy.deepcopy(model), each, 10, optimizer=GaussNewton(), progress=False)
        errors.append((run.model(x) - truth).square().mean().item())
    assert errors[1] < 0.5 * errors[0]


def test_deep_networks_are_linearised_where_they_are():
    torch.manual_seed(1)
    x = torch.rand(200, 2)
    y = torch.sin(4 * x[:, :1]) * x[:, 1:] + 0.05 * torch.randn(200, 1)
    objective = MeanSquaredError(x, y)
    model = train(KAN([2, 2, 1], n=6), objective, 15, optimizer=GaussNewton(), progress=False).model
    assert 0 < smoothing_weight(model, objective) < 1


def test_impossible_noise_and_penalised_objectives_are_refused():
    x, _, y = data()
    objective = MeanSquaredError(x, y)
    with pytest.raises(ValueError, match="less than the network leaves with any weight"):
        smoothing_weight(KAN([1, 1], n=3), objective, noise=1e-3)
    with pytest.raises(TypeError, match="objective must be a sum of squares without penalties"):
        smoothing_weight(KAN([1, 1], n=3), Penalised(objective, a=SquaredNorms(1.0)))


@pytest.mark.parametrize("layer", [0, 1])
def test_network_without_edges_is_refused(layer):
    x, y, *_ = data()
    model = KAN([1, 2, 1], n=4)
    none = model.layers[layer].masked(torch.zeros(model.layers[layer].weight.shape[:2]).bool())
    model.layers[layer] = none
    if layer == 0:
        model.layers[1] = model.layers[1].masked(torch.zeros(1, 2).bool())
    with pytest.raises(ValueError, match="model must have weights on which loss and penalty"):
        smoothing_weight(model, MeanSquaredError(x, y))
