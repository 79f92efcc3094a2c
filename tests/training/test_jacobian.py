"""Structured Jacobians, against automatic differentiation point by point and finite differences."""

import numpy as np
import pytest
import torch
from grids import KINDS, with_grids
from torch import nn
from torch.func import functional_call, jacrev, vmap

from kanlib import KAN, MLP, Jet, MeanSquaredError, SplineLayer, prolongation, propagate
from kanlib.kernels.operator import backend
from kanlib.objectives.residuals import ResidualLoss, Term
from kanlib.objectives.squares import Residual, sum_of_squares
from kanlib.training.coordinates import Coordinates
from kanlib.training.jacobian import jacobian
from kanlib.training.rows import rows

N = 23


def points(low=-1.0, high=1.0, dimensions=2):
    torch.manual_seed(5)
    return low + (high - low) * torch.rand(N, dimensions, dtype=torch.float64)


def flow(u, x):
    first = u.d(1)[:, :1] + u.value[:, :1] * u.d(0)[:, :1] - 0.1 * u.d(0, 0)[:, :1]
    return torch.cat([first, u.d(0, 1)[:, :1] * x[:, :1] + u.value[:, :1] ** 2], dim=1)


def meeting(u, v, x):
    return u.value[:, :1] * v.d(0)[:, :1] - 0.5 * v.value[:, :1] + u.d(1)[:, :1] ** 2


def mirrored(x):
    return x * torch.tensor([-1.0, 1.0], dtype=x.dtype)


def terms(x):
    pairs = [(0, 0), (0, 1)]
    return ResidualLoss(
        flow=Term(flow, x, pairs=pairs, weight=3.0),
        meeting=Term(meeting, x[:11], features=[torch.clone, mirrored]),
    )


def by_autodiff(model, objective):
    """Return residual and Jacobian by reverse differentiation of each point's own residual."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    values = {name: dict(model.named_parameters())[name].detach() for name in names}
    found = []
    for residual in objective.residuals():
        scale = (residual.weight / len(residual)) ** 0.5

        class One(nn.Module):
            def __init__(self, residual=residual):
                super().__init__()
                self.model, self.residual = model, residual

            def forward(self, channels, data):
                jets = [
                    propagate(self.model, Jet(c[:, None], j.directions, j.pairs))
                    for c, j in zip(channels, self.residual.jets, strict=True)
                ]
                return self.residual.function(*jets, *(d[None] for d in data))[0]

        one = One()

        def value(values, channels, data, one=one):
            named = {f"model.{name}": v for name, v in values.items()}
            return functional_call(one, named, (channels, data))

        channels = tuple(jet.channels for jet in residual.jets)
        with backend("torch"):
            each = vmap(jacrev(value), in_dims=(None, 1, 0))(values, channels, tuple(residual.data))
        blocks = [each[name].flatten(2) for name in names]
        count = blocks[0].shape[1]
        found.append(torch.cat(blocks, dim=2).flatten(0, 1) * scale / count**0.5)
    return torch.cat(found)


def check(model, objective, rtol=1e-10, **options):
    J = jacobian(model, objective, **options)
    expected = by_autodiff(model, objective)
    assert J.shape == expected.shape
    scale = expected.abs().max()
    assert (J.dense() - expected).abs().max() < rtol * scale
    v = torch.randn(J.shape[1], dtype=expected.dtype)
    y = torch.randn(J.shape[0], dtype=expected.dtype)
    assert (J.product(v) - expected @ v).abs().max() < rtol * (expected @ v).abs().max()
    back = expected.T @ y
    assert (J.transposed(y) - back).abs().max() < rtol * back.abs().max()
    gram = expected.T @ expected
    assert (J.gram() - gram).abs().max() < rtol * gram.abs().max()
    assert (J.squares() - gram.diagonal()).abs().max() < rtol * gram.abs().max()
    (loss,) = [objective(model)]
    gradient = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    half = 0.5 * torch.cat([g.flatten() for g in gradient])
    assert (J.gradient() - half).abs().max() < rtol * half.abs().max()
    torch.testing.assert_close(J.residual.square().sum(), loss.detach())


NETWORKS = {
    "plain": {},
    "affine": {"first": "affine"},
    "linear": {"first": "linear", "hidden_domain": (-2.0, 2.0)},
    "graded": {"breakpoints": [-1.0, -0.9, -0.5, 0.3, 1.0]},
    "tanh": {"normalisation": "tanh", "init_scale": 0.3},
    "mapped": {"input_domain": ((-1.0, 1.0), (-1.5, 1.0)), "normalisation": "sigmoid"},
    "clamp": {"extension": "clamp"},
    "none": {"extension": "none"},
    "order3": {"r": 3},
    "order6": {"r": 6, "n": 7},
}


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("name", NETWORKS)
def test_jacobian_equals_automatic_differentiation(name, basis):
    torch.manual_seed(1)
    options = {"n": 4, "r": 4, "domain": (-1.0, 1.0), "init_scale": 0.8, **NETWORKS[name]}
    model = KAN([2, 3, 2, 1], dtype=torch.float64, **options).to_basis(basis)
    check(model, terms(points()))


def waves(u, x):
    """Return the residuals of Korteweg-de Vries, with a plate's equation beside it."""
    kdv = u.d(1) + 6 * u.value * u.d(0) + u.d(0, 0, 0)
    return torch.cat([kdv, u.d(0, 0, 0, 0) + 2 * u.d(0, 0, 1, 1) - u.d(0, 0, 1) ** 2], dim=1)


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("name", ["plain", "affine", "graded", "tanh", "mapped", "none"])
def test_jacobian_of_third_and_fourth_derivatives(name, basis):
    torch.manual_seed(1)
    options = {"n": 4, "domain": (-1.0, 1.0), "init_scale": 0.8, **NETWORKS[name], "r": 6}
    model = KAN([2, 3, 1], dtype=torch.float64, **options).to_basis(basis)
    pairs = [(0, 0, 0), (0, 0, 0, 0), (0, 0, 1, 1)]
    check(model, ResidualLoss(waves=Term(waves, points(), pairs=pairs)))


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("kind", KINDS)
def test_jacobian_on_every_kind_of_grids(basis, kind):
    torch.manual_seed(1)
    model = KAN([2, 3, 1], n=2, r=5, domain=(-1.0, 1.0), init_scale=0.8, dtype=torch.float64)
    check(with_grids(model, kind).to_basis(basis), terms(points()))


class Product(nn.Module):
    """A module that kanlib has no rule for."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([[1.0, 2.0, -0.5]], dtype=torch.float64))

    def forward(self, z):
        return (z * self.factor).sin()


@propagate.register
def _(module: Product, jet):
    z, factor = jet.value * module.factor, module.factor
    return jet.chain(z.sin(), factor * z.cos(), -(factor**2) * z.sin())


def test_jacobian_of_modules_without_a_rule_and_of_perceptrons():
    torch.manual_seed(1)
    check(MLP([2, 4, 3, 1], activation="tanh", dtype=torch.float64), terms(points()))
    layers = [nn.Linear(2, 3).double(), Product(), KAN([3, 1], n=4, dtype=torch.float64)]
    check(nn.Sequential(*layers), terms(points()))


class Hard(KAN):
    def forward(self, x):
        return x[:, :1] * super().forward(x)


def test_jacobian_is_that_of_what_a_module_computes():
    torch.manual_seed(1)
    for basis in ("spline", "relu"):
        hard = Hard([2, 3, 1], n=4, domain=(-1.0, 1.0), basis=basis, dtype=torch.float64)
        check(hard, terms(points()))
    hooked = KAN([2, 3, 1], n=4, first="affine", dtype=torch.float64)
    hooked.layers[0].register_forward_hook(lambda module, inputs, y: y.sin())
    check(hooked, terms(points()))


def test_jacobian_leaves_out_what_is_fixed():
    torch.manual_seed(1)
    model = KAN([2, 3, 1], n=4, first="affine", dtype=torch.float64).free()
    model.layers[0].bias.requires_grad_(False)
    model.layers[1].knots.requires_grad_(False)
    check(model, terms(points()))
    model.layers[1].weight.requires_grad_(False)
    model.layers[1].knots.requires_grad_(True)
    check(model, terms(points()))
    assert [p.requires_grad for p in model.parameters()] == [True, False, False, True]


class Inverse(nn.Module):
    """An objective with trainable numbers of its own, beside one that the model holds."""

    def __init__(self, x):
        super().__init__()
        self.nu = nn.Parameter(torch.tensor(0.1, dtype=x.dtype))
        self.jet, self.x = Jet.at(x, pairs=[(0, 0)]), x
        self.model = None

    def residuals(self):
        def equation(u, x):
            rate = self.model[0].rate
            return u.d(1) - self.nu * u.d(0, 0) + rate[0] * u.value + rate[1] ** 2 * x[:, :1]

        yield Residual(equation, [self.jet], [self.x], 2.0)

    def forward(self, model):
        return sum_of_squares(model, self.residuals())


def test_jacobian_of_trainable_scalars_equals_finite_differences():
    torch.manual_seed(1)
    model = KAN([2, 3, 1], n=4, domain=(-1.0, 1.0), init_scale=0.5, dtype=torch.float64)
    model.rate = nn.Parameter(torch.tensor([0.3, 0.7], dtype=torch.float64))
    objective = Inverse(points())
    objective.model = [model]
    J = jacobian(model, objective)
    parameters = [*model.parameters(), *objective.parameters()]
    assert J.shape == (N, sum(p.numel() for p in parameters))
    coordinates, h = Coordinates(model, objective), 1e-6
    for column in [0, 5, J.shape[1] // 2, J.shape[1] - 3, J.shape[1] - 2, J.shape[1] - 1]:
        unit = torch.zeros(J.shape[1], dtype=torch.float64)
        unit[column] = h
        ends = []
        for sign in (1, -2):
            coordinates.add(sign * unit)
            ends.append(torch.cat([r(model).flatten() for r in objective.residuals()]).detach())
        coordinates.add(unit)
        slope = (ends[0] - ends[1]) / (2 * h)
        assert (J.product(unit / h) - slope).abs().max() < 1e-8 * J.dense().abs().max()


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_blocks_of_points_change_nothing(size):
    torch.manual_seed(1)
    model = KAN([2, 3, 1], n=7, domain=(-1.0, 1.0), dtype=torch.float64)
    check(model, terms(points()), points=size)


def test_gram_without_the_fused_kernel_is_the_same(monkeypatch):
    monkeypatch.setattr("kanlib.kernels.gram._fused", lambda: pytest.fail("it was fused"))
    torch.manual_seed(1)
    model = KAN([2, 3, 1], n=7, domain=(-1.0, 1.0), dtype=torch.float64)
    with backend("torch"):
        check(model, terms(points()))


@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_coarse_jacobian_is_that_of_the_coarse_network(basis):
    torch.manual_seed(1)
    coarse = KAN([2, 3, 1], n=3, r=4, domain=(-1.0, 1.0), first="affine", dtype=torch.float64)
    coarse = coarse.to_basis(basis)
    fine = coarse.refine()
    layer, finer = coarse.layers[1], fine.layers[1]
    transfers = [None, None, prolongation(layer.grid, finer.grid, basis)]
    objective = terms(points())
    found = jacobian(fine, objective).coarsen(transfers)
    expected = jacobian(coarse, objective)
    assert found.shape == expected.shape
    torch.testing.assert_close(found.dense(), expected.dense(), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found.gram(), expected.gram(), rtol=1e-9, atol=1e-11)
    v = torch.randn(found.shape[1], dtype=torch.float64)
    torch.testing.assert_close(found.product(v), expected.product(v), rtol=1e-9, atol=1e-11)
    with pytest.raises(ValueError, match=r"one entry for each of 3 .*got 1"):
        jacobian(fine, objective).coarsen([None])


def test_jacobian_in_the_other_basis_is_the_chain_rule():
    torch.manual_seed(1)
    model = KAN([2, 3, 1], n=5, domain=(-1.0, 1.0), dtype=torch.float64)
    objective = terms(points())
    found = jacobian(model, objective, basis="relu")
    expected = by_autodiff(model.to_basis("relu"), objective)
    assert (found.dense() - expected).abs().max() < 1e-10 * expected.abs().max()
    step = torch.randn(found.shape[1], dtype=torch.float64)
    twin = model.to_basis("relu")
    Coordinates(model, basis="relu").add(step)
    Coordinates(twin).add(step)
    x = points()
    torch.testing.assert_close(model(x), twin(x), rtol=1e-10, atol=1e-9)


def test_work_does_not_depend_on_the_intervals():
    sizes = []
    for n in (8, 64):
        model = KAN([2, 3, 1], n=n, domain=(-1.0, 1.0), dtype=torch.float64)
        objective = MeanSquaredError(points(), points()[:, :1])
        (residual,) = objective.residuals()
        found = rows(model, residual, [*model.parameters()])[1]
        sizes.append([run.values.numel() for run in found])
    assert sizes[0] == sizes[1] == [N * 4 * 3] * 2 + [N * 4] * 3


def test_residual_that_mixes_points_is_refused():
    model = KAN([2, 3, 1], n=4, dtype=torch.float64)
    residual = Residual(lambda u, x: u.value - u.value.mean(), [Jet.at(points())], [points()])

    class Mixed:
        def residuals(self):
            return [residual]

        def __call__(self, model):
            return sum_of_squares(model, self.residuals())

    with pytest.raises(ValueError, match="rows of the Jacobian do not belong to the loss"):
        jacobian(model, Mixed())


def test_objective_without_residuals_is_refused():
    with pytest.raises(TypeError, match=r"must offer its residuals .* got function"):
        jacobian(KAN([1, 1]), lambda model: model(torch.ones(1, 1)).sum())


def test_layer_in_the_middle_is_a_model_too():
    layer = SplineLayer(2, 3, KAN([2, 1], n=4).layers[0].grid, dtype=torch.float64)
    x = torch.rand(N, 2, dtype=torch.float64)
    J = jacobian(layer, MeanSquaredError(x, torch.zeros(N, 3, dtype=x.dtype)))
    np.testing.assert_allclose(
        J.product(layer.weight.detach().flatten()), layer(x).detach().flatten() / (3 * N) ** 0.5
    )
