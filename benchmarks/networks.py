"""The workloads, and the same function computed in several ways."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kanlib import KAN, SplineLayer
from kanlib.analysis.cost import evaluate
from kanlib.kernels import operator, reference
from kanlib.nn.ensemble import Ensemble
from kanlib.nn.jets import Jet, propagate
from kanlib.splines import bspline

Step = Callable[[], object]

DOMAIN = (-1.0, 1.0)
SPREAD = 0.3
"""Standard deviation of the hidden values: they visit the grid and rarely leave [-1, 1]."""


class Workload(NamedTuple):
    """A network, a batch and the grids it is measured on."""

    widths: list[int]
    batch: int
    intervals: tuple[int, ...]


WORKLOADS = {
    "a": Workload([2, 5, 1], 20_000, (5, 50)),
    "b": Workload([64, 64, 64, 64], 1024, (5, 20, 50, 200)),
    "c": Workload([784, 64, 10], 256, (5, 20, 50)),
}


def network(widths: list[int], n: int, r: int = 4, first: str = "spline", seed: int = 0) -> KAN:
    """Return a KAN whose hidden values spread over the domain of its splines."""
    torch.manual_seed(seed)
    model = KAN(widths, n=n, r=r, domain=DOMAIN, first=first)
    with torch.no_grad():
        for layer in model.spline_layers:
            layer.weight.normal_(std=SPREAD * (2 / layer.in_features) ** 0.5)
    return model


def points(batch: int, features: int) -> Tensor:
    """Return random points of the domain."""
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.rand(batch, features, generator=generator) - 1


class Evaluated(nn.Module):
    """A KAN whose layers are evaluated in another way, with the same weights."""

    def __init__(self, model: KAN, evaluate: Callable[[SplineLayer, Tensor], Tensor]) -> None:
        super().__init__()
        self.layers, self.evaluate = model.layers, evaluate

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the network at x of shape (N, P)."""
        for layer in self.layers:
            x = self.evaluate(layer, x)
        return x


def recursion(model: KAN) -> nn.Module:
    """Evaluate by the vectorised recursion and one product of matrices, as efficient-kan does."""
    return Evaluated(model, partial(evaluate, method="cox-de boor"))


def dense(model: KAN) -> nn.Module:
    """Evaluate by local B-splines, scattered into dense rows, and one product of matrices."""

    def by_product(layer: SplineLayer, x: Tensor) -> Tensor:
        (points,), (table,) = layer.pieces()
        index, values = bspline.local_basis(x, points, table)
        basis = bspline.scatter(index, values, layer.grid.num_basis)
        return basis.flatten(-2) @ layer.weight.flatten(1).T

    return Evaluated(model, by_product)


def gather(model: KAN) -> nn.Module:
    """Evaluate by the polynomials on all intervals, of which every point picks one an edge."""

    def by_look_up(layer: SplineLayer, x: Tensor) -> Tensor:
        points, table = layer.pieces()
        pieces = layer.weight.unfold(-1, layer.grid.order, 1) @ table[0, 0]
        return reference.evaluate(x[None], reference.Splines(pieces.flatten(-2), points, None))[0]

    return Evaluated(model, by_look_up)


def plain(step: Step) -> Step:
    """Return the step with the layers evaluated by plain PyTorch, without the fused kernels."""

    def run() -> object:
        with operator.backend("torch"):
            return step()

    return run


def training_step(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """Return one step of training without the optimizer: forward, mean squared error, backward."""

    def step() -> Tensor:
        model.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss.detach()

    return step


def ensemble_step(ensemble: Ensemble, x: Tensor, y: Tensor) -> Step:
    """Return one step of training of all networks: the gradient of the sum of their losses."""

    def step() -> None:
        ensemble.zero_grad()
        (ensemble(x) - y).square().mean((-2, -1)).sum().backward()

    return step


def pinn_step(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """Return one step for the residual u_t + u u_x - u_xx by double backward."""
    x = x.clone().requires_grad_()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step() -> Tensor:
        model.zero_grad()
        u = model(x)
        (gradient,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        u_x, u_t = gradient[:, :1], gradient[:, 1:]
        (second,) = torch.autograd.grad(u_x.sum(), x, create_graph=True)
        loss = (u_t + u * u_x - second[:, :1]).square().mean()
        loss.backward(inputs=parameters)
        return loss.detach()

    return step


def propagated_step(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """Return the step of :func:`pinn_step` by forward propagation of derivatives."""
    jet = Jet.at(x, pairs=[(0, 0)])

    def step() -> Tensor:
        model.zero_grad()
        u = propagate(model, jet)
        loss = (u.d(1) + u.value * u.d(0) - u.d(0, 0)).square().mean()
        loss.backward()
        return loss.detach()

    return step
