"""Appendix A of the paper: KAN layers as layers of an MLP."""

import pytest
import torch
from torch import nn

from kanlib import KnotGrid, SplineLayer

GRIDS = [KnotGrid.uniform(2, 5), KnotGrid(3, [-1.0, -0.2, 0.1, 1.0]), KnotGrid.uniform(4, 8)]


def multichannel(weight, knots, r):
    """x -> sum_pj weight[q, p, j] ReLU(x_p - t_j)**(r-1), as a Linear, a power and a Linear."""
    outputs, inputs, channels = weight.shape
    copy, combine = nn.Linear(inputs, inputs * channels), nn.Linear(inputs * channels, outputs)
    with torch.no_grad():
        copy.weight.zero_()
        combine.bias.zero_()
        for p in range(inputs):
            for j in range(channels):
                copy.weight[p * channels + j, p] = 1.0
                copy.bias[p * channels + j] = -knots[j]
                combine.weight[:, p * channels + j] = weight[:, p, j]
    return lambda x: combine(torch.relu(copy(x)) ** (r - 1))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_spline_layer_is_a_multichannel_mlp_layer(grid, basis):
    torch.manual_seed(0)
    layer = SplineLayer(3, 2, grid, basis=basis)
    a, b = grid.domain
    x = a + (b - a) * torch.rand(200, 3)
    weight = layer.weight.detach()
    if basis == "spline":
        # Solve sum_j w_j ReLU(z - t_j)**(r-1) = sum_i u_i b_i(z) by sampling, without A.
        z = torch.linspace(a, b, 400)
        one_edge = SplineLayer(1, 1, grid)
        rows = []
        for u in weight.reshape(-1, grid.num_basis):
            with torch.no_grad():
                one_edge.weight.copy_(u)
                rows.append(one_edge(z[:, None])[:, 0])
        powers = torch.relu(z[:, None] - grid.knots[: grid.num_basis]) ** (grid.order - 1)
        weight = torch.linalg.lstsq(powers, torch.stack(rows, dim=1)).solution.T.view_as(weight)
    expected = multichannel(weight, grid.knots, grid.order)(x)
    assert torch.allclose(layer(x), expected, rtol=0, atol=1e-9)
