"""Jets against two backward passes of autograd, finite differences, and formulas by hand."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from kanlib import KAN, MLP, KnotGrid, SplineLayer
from kanlib._checks import BASES, EXTENSIONS
from kanlib.kernels.operator import backend
from kanlib.nn.jets import Jet, propagate
from kanlib.nn.networks import ACTIVATIONS

PAIRS = [(0, 0), (0, 1), (1, 1)]
UNEVEN = [0.0, 0.1, 0.15, 0.5, 0.9, 1.0]
every_basis = pytest.mark.parametrize("basis", BASES)


def points(count=60, features=2, seed=3):
    """Return points inside and outside [0, 1], some on breakpoints."""
    x = 1.4 * torch.rand(count, features, generator=torch.Generator().manual_seed(seed)) - 0.2
    x[:6, 0] = torch.tensor(UNEVEN)
    return x.double()


def with_level_set(x):
    return torch.cat([x, (x[:, :1] - 0.43).abs() * x[:, 1:2]], dim=1)


def make_kan(widths=(2, 4, 1), seed=0, **options):
    torch.manual_seed(seed)
    return KAN(widths, **({"dtype": torch.float64, "init_scale": 0.5} | options))


def by_autograd(function, x):
    """Return value, gradient (N, 2) and Hessian (N, 2, 2) of a scalar function of x."""
    x = x.clone().requires_grad_()
    value = function(x)
    gradient = torch.autograd.grad(value.sum(), x, create_graph=True)[0]
    rows = []
    for a in range(x.shape[1]):
        total = gradient[:, a].sum() + 0 * x.sum()
        rows.append(torch.autograd.grad(total, x, create_graph=True)[0])
    return value, gradient, torch.stack(rows, dim=1)


def assert_equal_to_autograd(model, x, features=None, rtol=1e-12):
    jet = propagate(model, Jet.at(x, pairs=PAIRS, features=features))
    value, gradient, hessian = by_autograd(lambda x: model(features(x) if features else x), x)
    computed = jet.channels  # d() refuses derivatives that are zero between jumps
    expected = [value[:, 0], *gradient.T, *(hessian[:, a, b] for a, b in PAIRS)]
    for c, e in zip(computed, expected, strict=True):
        scale = max(e.abs().max().item(), 1e-3)
        torch.testing.assert_close(c[:, 0], e, rtol=0, atol=rtol * scale)
    return jet, value, gradient, hessian


# Networks


@every_basis
@pytest.mark.parametrize("r", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("first", ["spline", "affine"])
def test_jet_of_a_kan_equals_autograd(basis, r, first):
    model = make_kan((2, 4, 3, 1), r=r, basis=basis, first=first, breakpoints=UNEVEN)
    assert_equal_to_autograd(model, points(), rtol=1e-10 if basis == "relu" else 1e-12)


@every_basis
@pytest.mark.parametrize("normalisation", [None, "sigmoid", "tanh"])
@pytest.mark.parametrize("first", ["spline", "linear"])
def test_jet_of_a_kan_with_maps_equals_autograd(basis, normalisation, first):
    model = make_kan(
        (2, 3, 3, 1), n=4, domain=(-1, 1), basis=basis, first=first, normalisation=normalisation,
        hidden_domain=(-2, 3), input_domain=((-1, 1.5), (0.5, 0.75)),
    )  # fmt: skip
    assert_equal_to_autograd(model, points())


@pytest.mark.parametrize("activation", [*ACTIVATIONS])
def test_jet_of_a_perceptron_equals_autograd(activation):
    torch.manual_seed(0)
    assert_equal_to_autograd(MLP([2, 7, 6, 1], activation, dtype=torch.float64), points())
    mapped = MLP([2, 7, 1], activation, input_domain=((-1, 2), (3, 5)), dtype=torch.float64)
    assert_equal_to_autograd(mapped, points())


def test_jet_of_a_sequence_equals_autograd():
    torch.manual_seed(0)
    layers = [nn.Linear(2, 5), nn.Sigmoid(), nn.Linear(5, 4, bias=False), nn.Identity(), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(4, 1)).double()
    assert_equal_to_autograd(model, points())


@pytest.mark.parametrize("model", [make_kan((3, 4, 1)), MLP([3, 5, 1], "tanh").double()])
def test_level_set_enters_as_a_feature(model):
    assert_equal_to_autograd(model, points(), features=with_level_set)


def test_slope_of_relu_at_zero_is_that_of_autograd():
    x = torch.zeros(1, 2, dtype=torch.float64)
    assert_equal_to_autograd(nn.Sequential(nn.ReLU(), nn.Linear(2, 1).double()), x)


@every_basis
def test_jet_equals_finite_differences(basis):
    model, x, h = make_kan(r=5, n=4, basis=basis), points()[6:], 1e-4
    jet = propagate(model, Jet.at(x, pairs=PAIRS))
    e = h * torch.eye(2, dtype=torch.float64)

    def f(*shifts):
        with torch.no_grad():
            return model(x + sum(shifts))

    for a in range(2):
        slope = (f(e[a]) - f(-e[a])) / (2 * h)
        torch.testing.assert_close(jet.d(a), slope, rtol=0, atol=1e-5)
    for a, b in PAIRS:
        bend = (f(e[a], e[b]) - f(e[a], -e[b]) - f(-e[a], e[b]) + f(-e[a], -e[b])) / (4 * h * h)
        torch.testing.assert_close(jet.d(a, b), bend, rtol=0, atol=2e-3)


# Third and fourth derivatives

HIGHER = [(0, 0, 0), (0, 0, 1), (0, 0, 1, 1), (1, 1, 1, 1)]


def nested(function, x, directions):
    """Return a derivative (N,) of a scalar function of x by autograd, one direction at a time."""
    x = x.clone().requires_grad_()
    y = function(x)[:, 0]
    for a in directions:
        (slopes,) = torch.autograd.grad(y.sum() + 0 * x.sum(), x, create_graph=True)
        y = slopes[:, a]
    return y.detach()


def networks():
    """Return networks of many kinds, smooth enough for fourth derivatives."""
    torch.manual_seed(0)
    options = {"r": 6, "breakpoints": UNEVEN}
    yield "spline", make_kan((2, 4, 3, 1), **options)
    yield "relu basis", make_kan(basis="relu", **options)
    yield "clamp", make_kan(extension="clamp", **options)
    yield "none", make_kan(extension="none", **options)
    yield "affine", make_kan(first="affine", **options)
    yield "free", make_kan(**options).free()
    yield (
        "maps",
        make_kan(
            (2, 3, 1),
            r=6,
            n=4,
            domain=(-1, 1),
            normalisation="tanh",
            input_domain=((-1, 2), (-1, 3)),
        ),
    )
    yield "sigmoid", make_kan((2, 3, 1), r=5, n=7, normalisation="sigmoid", first="linear")
    for name in ("tanh", "silu", "gelu"):
        yield name, MLP([2, 5, 4, 1], name, dtype=torch.float64)
    yield "sequence", nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1)).double()
    yield "no rule", nn.Sequential(nn.Linear(2, 3), Cosine(), nn.Linear(3, 1)).double()
    yield "network without a rule", Square([2, 3, 1], r=6, dtype=torch.float64)


class Cosine(nn.Module):
    def forward(self, z):
        return z.cos()


class Square(KAN):
    def forward(self, x):
        return super().forward(x) ** 2


@pytest.mark.parametrize("name", ["torch", "auto"])
@pytest.mark.parametrize("model", [pytest.param(m, id=name) for name, m in networks()])
def test_third_and_fourth_derivatives_are_those_of_nested_autograd(model, name):
    x = points(20)
    with backend(name):
        u = propagate(model, Jet.at(x, pairs=HIGHER))
    assert {*HIGHER} < {*u.pairs}
    with backend("torch"):
        for each in u.pairs:
            expected = nested(model, x, each)
            scale = max(float(expected.abs().max()), 1e-3)
            computed = u.d(*each)[:, 0].detach()
            torch.testing.assert_close(computed, expected, rtol=0, atol=1e-9 * scale)


@pytest.mark.parametrize("name", ["torch", "auto"])
def test_gradients_of_third_and_fourth_derivatives_equal_those_through_autograd(name):
    model, x = make_kan(r=6, breakpoints=UNEVEN), points(20)
    with backend(name):
        u = propagate(model, Jet.at(x, pairs=[(0, 0, 0), (0, 0, 1, 1)]))
        ours = (u.d(1) + 6 * u.value * u.d(0) + u.d(0, 0, 0) + u.d(0, 0, 1, 1)).square().mean()
        found = torch.autograd.grad(ours, [*model.parameters()])
    with backend("torch"):
        t = x.clone().requires_grad_()

        def d(y, *directions):
            for a in directions:
                y = torch.autograd.grad(y.sum(), t, create_graph=True)[0][:, a]
            return y

        y = model(t)[:, 0]
        residual = d(y, 1) + 6 * y * d(y, 0) + d(y, 0, 0, 0) + d(y, 0, 0, 1, 1)
        theirs = residual.square().mean()
        expected = torch.autograd.grad(theirs, [*model.parameters()])
    for g, e in zip(found, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-11 * e.abs().max().item())


def test_third_derivative_equals_finite_differences():
    model, x, h = make_kan(r=7, n=3), points()[6:], 1e-3
    u = propagate(model, Jet.at(x, pairs=[(0, 0, 1)]))
    e = h * torch.eye(2, dtype=torch.float64)

    def bend(x):
        return (model(x + e[0]) - 2 * model(x) + model(x - e[0])) / h**2

    with torch.no_grad():
        expected = (bend(x + e[1]) - bend(x - e[1])) / (2 * h)
    scale = expected.abs().max().item()
    torch.testing.assert_close(u.d(0, 1, 0), expected, rtol=0, atol=1e-3 * scale)


def test_third_derivative_of_features_equals_a_formula():
    x = points()
    jet = Jet.at(x, pairs=[(0, 0, 1, 1)], features=lambda x: x[:, :1] ** 3 * x[:, 1:] ** 2)
    s, t = x[:, :1], x[:, 1:]
    torch.testing.assert_close(jet.d(0, 0, 1), 12 * s * t)
    torch.testing.assert_close(jet.d(0, 0, 1, 1), 12 * s)


def test_third_derivatives_compile_without_a_graph_break():
    model, x = make_kan((2, 3, 1), r=5), points()
    jet = Jet.at(x, pairs=[(0, 0, 1)])

    def residual():
        return propagate(model, jet).d(0, 0, 1)

    for name in ("torch", "auto"):
        torch._dynamo.reset()
        with backend(name):
            compiled = torch.compile(residual, backend="aot_eager", fullgraph=True)
            torch.testing.assert_close(compiled(), residual())
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("model", "order"),
    [
        (make_kan(r=3), 3),
        (make_kan(r=4), 4),
        (nn.Sequential(nn.Linear(2, 3), nn.ELU(), nn.Linear(3, 1)).double(), 3),
        (nn.Sequential(nn.Linear(2, 3), nn.ELU(0.5), nn.Linear(3, 1)).double(), 2),
    ],
)
def test_derivative_of_the_order_of_the_splines_is_refused(model, order):
    u = propagate(model, Jet.at(points(), pairs=[(0,) * 4]))
    assert u.d(*(0,) * (order - 1)).any()
    message = rf"splines of order {order} .* r >= {order + 1} \(from {order + 2} on"
    with pytest.raises(ValueError, match=message):
        u.d(*(0,) * order)


def test_rule_without_third_derivatives_is_refused_where_they_are_wanted():
    z = torch.tensor([[0.5]])
    jet = Jet.at(z, pairs=[(0, 0, 0)])
    assert jet.chain(2 * z, 2.0).d(0, 0, 0).item() == 0
    with pytest.raises(ValueError, match=r"higher must hold .* up to order 3, .* got 0"):
        jet.chain(z**3, 3 * z**2, 6 * z)
    assert jet.chain(z**3, 3 * z**2, 6 * z, 6.0).d(0, 0, 0).item() == 6


# Layers


@every_basis
@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("r", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("outputs", [1, 12])
def test_spline_layer_propagates_any_channels(basis, extension, r, outputs):
    """Channels that are not those of the coordinates: the chain rule, with autograd for s."""
    torch.manual_seed(0)
    grid = KnotGrid(r, UNEVEN)
    layer = SplineLayer(2, outputs, grid, basis=basis, extension=extension, dtype=torch.float64)
    x = points()
    channels = torch.cat([x[None], torch.randn(5, *x.shape, dtype=torch.float64)])
    out = layer.propagate(channels, PAIRS)
    for q in range(outputs):
        value, gradient, hessian = by_autograd(lambda x, q=q: layer(x)[:, q : q + 1], x)
        first = [(gradient * channels[1 + a]).sum(1) for a in range(2)]
        second = [
            torch.einsum("ni,nij,nj->n", channels[1 + a], hessian, channels[1 + b])
            + (gradient * channels[3 + k]).sum(1)
            for k, (a, b) in enumerate(PAIRS)
        ]
        expected = torch.stack([value[:, 0], *first, *second])
        scale = max(expected.abs().max().item(), 1.0)
        torch.testing.assert_close(out[..., q], expected, rtol=0, atol=1e-11 * scale)


@every_basis
def test_spline_layer_keeps_leading_dimensions(basis):
    layer = make_kan((3, 2), basis=basis).layers[0]
    channels = torch.randn(4, 5, 6, 3, dtype=torch.float64)
    out = layer.propagate(channels, [(0, 1)])
    flat = layer.propagate(channels.flatten(1, 2), [(0, 1)])
    torch.testing.assert_close(out, flat.view(4, 5, 6, 2))


# Gradients with respect to the weights


@pytest.mark.parametrize(
    "model",
    [make_kan(), make_kan(basis="relu"), make_kan(first="affine"), MLP([2, 5, 1], "tanh").double()],
    ids=["spline", "relu", "affine", "mlp"],
)
def test_gradients_of_a_residual_equal_those_through_autograd(model):
    x = points()

    def loss(value, u_x, u_t, u_xx, u_xt):
        return (u_t + value * u_x - 0.1 * u_xx + u_xt).square().mean()

    jet = propagate(model, Jet.at(x, pairs=[(0, 0), (0, 1)]))
    ours = loss(jet.value, jet.d(0), jet.d(1), jet.d(0, 0), jet.d(0, 1))
    value, gradient, hessian = by_autograd(model, x)
    theirs = loss(value, gradient[:, :1], gradient[:, 1:], hessian[:, 0, :1], hessian[:, 0, 1:])
    parameters = [*model.parameters()]
    for g, e in zip(
        torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True
    ):
        torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-12 * e.abs().max().item())


class Residual(nn.Module):
    """The mean square of u u_t - u_xx at fixed points."""

    def __init__(self, model, jet):
        super().__init__()
        self.model, self.jet = model, jet

    def forward(self):
        u = propagate(self.model, self.jet)
        return (u.value * u.d(1) - u.d(0, 0)).square().mean()


def test_jets_work_under_vmap_over_networks():
    jet = Jet.at(points(), pairs=PAIRS)
    models = [make_kan((2, 3, 1), normalisation="tanh", seed=seed) for seed in range(3)]
    losses = [Residual(model, jet) for model in models]
    states = stack_module_state(losses)

    def loss(parameters, buffers):
        return functional_call(losses[0], (parameters, buffers), ())

    batched = vmap(grad_and_value(loss))(*states)
    for i, each in enumerate(losses):
        torch.testing.assert_close(batched[1][i], each())
        expected = torch.autograd.grad(each(), [*each.parameters()])
        for (name, _), e in zip(each.named_parameters(), expected, strict=True):
            torch.testing.assert_close(batched[0][name][i], e)


def test_propagation_compiles_without_a_graph_break():
    model = make_kan((2, 3, 1), input_domain=((-1, 2), (0, 1)), normalisation="tanh")
    loss = Residual(model, Jet.at(points(), pairs=PAIRS))
    compiled = torch.compile(loss.forward, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(), loss())
    parameters = [*model.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(compiled(), parameters), torch.autograd.grad(loss(), parameters)
    )


# Precision


def test_float32_jets_are_accurate_on_fine_grids():
    """Largest error over largest value: 2e-6 for first, 1e-5 for second derivatives."""
    model = make_kan((2, 5, 5, 1), n=50, domain=(-1, 1), prolonged_from=5, init_scale=0.3)
    x = (2 * torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) - 1).double()
    exact = propagate(model, Jet.at(x.float().double(), pairs=PAIRS)).channels
    computed = propagate(model.float(), Jet.at(x.float(), pairs=PAIRS)).channels
    assert computed.dtype == torch.float32
    error = (computed - exact).abs().amax((1, 2)) / exact.abs().amax((1, 2))
    assert error[:3].max() < 2e-6
    assert error[3:].max() < 1e-5


# The input jet


def test_jet_of_coordinates_has_unit_vectors_and_no_curvature():
    x = points()
    jet = Jet.at(x, pairs=[(1, 0), (1, 1)])
    torch.testing.assert_close(jet.value, x, rtol=0, atol=0)
    for a in range(2):
        expected = torch.zeros_like(x)
        expected[:, a] = 1
        assert torch.equal(jet.d(a), expected)
    assert not jet.d(0, 1).any()
    assert not jet.d(1, 1).any()
    assert (jet.directions, jet.pairs) == (2, ((0, 1), (1, 1)))


def test_jet_of_features_equals_formulas():
    x = points()
    jet = Jet.at(x, pairs=PAIRS, features=lambda x: torch.stack([x[:, 0] ** 3 * x[:, 1]], dim=1))
    s, t = x[:, :1], x[:, 1:]
    expected = [s**3 * t, 3 * s**2 * t, s**3, 6 * s * t, 3 * s**2, 0 * s]
    torch.testing.assert_close(jet.channels, torch.stack(expected))


def test_directions_choose_coordinates():
    model, x = make_kan(), points()
    full = propagate(model, Jet.at(x, pairs=PAIRS))
    one = propagate(model, Jet.at(x, directions=[1], pairs=[(0, 0)]))
    assert one.channels.shape == (3, len(x), 1)
    torch.testing.assert_close(one.d(0), full.d(1))
    torch.testing.assert_close(one.d(0, 0), full.d(1, 1))
    value = propagate(model, Jet.at(x, directions=[]))
    torch.testing.assert_close(value.value, model(x))


def test_second_derivatives_are_found_in_any_order():
    jet = propagate(make_kan(), Jet.at(points(), pairs=[(1, 0)]))
    assert torch.equal(jet.d(0, 1), jet.d(1, 0))


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"directions": [2]}, ValueError, r"directions must be .* from 0 to 1, got \[2\]"),
        ({"pairs": [(0, 2)]}, ValueError, r"pairs must be .* from 0 to 1, .* got \[\(0, 2\)\]"),
        ({"pairs": (0, 0)}, ValueError, r"list of pairs .*e\.g\. \[\(0, 0\)\], got \(0, 0\)"),
        ({"pairs": [(0, 0, 0, 0, 0)]}, ValueError, r"pairs .*got \[\(0, 0, 0, 0, 0\)\]"),
        ({"pairs": [(0, 0.5)]}, ValueError, "pairs must be a list"),
        ({"pairs": [(True, 0)]}, ValueError, "pairs must be a list"),
        ({"pairs": [(-1, 0)]}, ValueError, "pairs must be a list"),
        ({"pairs": 1}, ValueError, "pairs must be a list"),
        ({"directions": [1], "pairs": [(0, 1)]}, ValueError, r"from 0 to 0, .* got \[\(0, 1\)\]"),
        ({"x": torch.tensor(0.5)}, ValueError, r"x must have shape \(N, P\)"),
        ({"features": lambda x: x.sum()}, ValueError, r"features must return \(60, Q\), one row"),
        ({"features": lambda x: 1.0}, ValueError, "features must return .* got float"),
        ({"x": torch.zeros(3, 2, dtype=torch.int64)}, TypeError, "x must be a floating-point"),
        ({"x": [[0.0, 1.0]]}, TypeError, "x must be a floating-point tensor, got list"),
    ],
)
def test_input_jet_names_the_mistake(options, error, message):
    with pytest.raises(error, match=message):
        Jet.at(**({"x": points()} | options))


@pytest.mark.parametrize(
    ("channels", "pairs", "message"),
    [(3, [(0, 0)], "must have 4 entries .* 2 first, 1 higher"), (4, [(1, 0)], "with a <= b")],
)
def test_jet_checks_its_channels(channels, pairs, message):
    with pytest.raises(ValueError, match=message):
        Jet(torch.zeros(channels, 5, 1), 2, pairs)
    with pytest.raises(ValueError, match="directions must be at least 0, got -1"):
        Jet(torch.zeros(1, 5, 1), -1)


@pytest.mark.parametrize(
    ("directions", "remedy"),
    [
        ((), r"d\(\) is not in this jet: take \.value"),
        ((2,), r"d\(2\) is not in this jet: it has the directions 0 to 1; choose .* directions="),
        ((-1,), r"d\(-1\) is not in this jet: it has the directions 0 to 1"),
        ((0, 2), r"d\(0, 2\) is not in this jet: it has the directions 0 to 1"),
        ((1, 0), r"d\(1, 0\) .*: ask for it by pairs=\[\(0, 1\)\] .*, beside \[\(0, 0\)\]$"),
        ((0, 0, 0), r"ask for it by pairs=\[\(0, 0, 0\)\] in Term\(\.\.\.\) or Jet\.at"),
    ],
)
def test_derivative_that_was_not_asked_for_is_refused(directions, remedy):
    jet = Jet.at(points(), pairs=[(0, 0)])
    with pytest.raises(ValueError, match=remedy):
        jet.d(*directions)
    with pytest.raises(ValueError, match="it has no derivatives at all; choose"):
        Jet.at(points(), directions=()).d(0)


@pytest.mark.parametrize(
    "model", [make_kan((3, 1)), make_kan((3, 2, 1), first="affine"), MLP([3, 2, 1]).double()]
)
def test_jet_of_other_inputs_is_refused(model):
    with pytest.raises(ValueError, match=r"x must have 3 entries .*got shape \(60, 2\)"):
        propagate(model, Jet.at(points()))
    with pytest.raises(TypeError, match=r"torch\.float64, got torch\.float32: make or cast it"):
        propagate(model, Jet.at(points(features=3).float()))


# What a module really computes


class Twice(nn.Linear):
    def forward(self, z):
        return 2 * super().forward(z) + z[:, :1] ** 2


class Around(nn.Sequential):
    def forward(self, z):
        return z.sum(1, keepdim=True).sin() + super().forward(z)


class Hard(KAN):
    def forward(self, x):
        return x[:, :1] * (1 - x[:, :1]) * super().forward(x)


class Bent(SplineLayer):
    def forward(self, x):
        return super().forward(x).tanh()


def hooked(register, hook):
    """Return a network whose layer has a hook."""
    model = make_kan(first="affine")
    register(model.layers[0], hook)
    return model


def pruned():
    model = make_kan(first="affine")
    prune.random_unstructured(model.layers[0], "weight", 0.4)
    prune.random_unstructured(model.layers[1], "weight", 0.4)
    return moved(model)


def normed(norm):
    model = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    norm(model[0])
    return moved(model)


def moved(model):
    """Return the model after a step, so that weights that are not computed anew are stale."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def patched():
    model = make_kan()
    model.layers[1].forward = lambda z: z.sum(1, keepdim=True).cos()
    return model


def bent():
    model = make_kan()
    layer = model.layers[1]
    model.layers[1] = Bent(4, 1, layer.grid, dtype=torch.float64)
    return model


class Sine(nn.Module):
    def forward(self, z):
        return z.sin()


ALTERED = {
    "linear": lambda: nn.Sequential(Twice(2, 3), nn.Tanh(), nn.Linear(3, 1)).double(),
    "sequential": lambda: Around(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double(),
    "network": lambda: Hard([2, 4, 1], dtype=torch.float64),
    "relu basis": lambda: Hard([2, 4, 1], n=4, basis="relu", dtype=torch.float64),
    "free knots": lambda: Hard([2, 4, 1], dtype=torch.float64).free(),
    "layer": bent,
    "forward hook": lambda: hooked(nn.Module.register_forward_hook, lambda m, i, o: 3 * o),
    "always": lambda: hooked(
        partial(nn.Module.register_forward_hook, always_call=True), lambda m, i, o: o.sin()
    ),
    "pre-hook": lambda: hooked(nn.Module.register_forward_pre_hook, lambda m, i: (i[0] ** 2,)),
    "patched": patched,
    "pruned": pruned,
    "old weight norm": lambda: normed(nn.utils.weight_norm),
    "weight norm": lambda: normed(nn.utils.parametrizations.weight_norm),
    "no rule": lambda: nn.Sequential(nn.Linear(2, 3), Sine(), nn.Linear(3, 1)).double(),
    "layer norm": lambda: nn.Sequential(nn.Linear(2, 5), nn.LayerNorm(5), nn.Linear(5, 1)).double(),
    "GELU": lambda: nn.Sequential(nn.Linear(2, 5), nn.GELU("tanh"), nn.Linear(5, 1)).double(),
    "average": lambda: AveragedModel(make_kan()),
    "compiled": lambda: torch.compile(make_kan(), backend="eager"),
    "function": lambda: lambda x: (x[:, :1] * x[:, 1:]).exp(),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("make", [*ALTERED.values()], ids=[*ALTERED])
def test_jet_is_that_of_what_a_module_computes(make):
    torch.manual_seed(0)
    model, x = make(), points()
    assert_equal_to_autograd(model, x, rtol=1e-11)
    assert_equal_to_autograd(model, x, features=lambda x: x**2, rtol=1e-11)


def test_jet_is_that_of_what_a_module_computes_with_hooks_for_all_modules():
    model, x = make_kan(), points()
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, _, y: y + 1 if isinstance(module, SplineLayer) else y
    )
    try:
        assert_equal_to_autograd(model, x)
    finally:
        handle.remove()


def test_gradients_of_a_residual_of_an_overridden_forward_equal_those_through_autograd():
    torch.manual_seed(0)
    model, x = Hard([2, 4, 1], dtype=torch.float64), points()
    u = propagate(model, Jet.at(x, pairs=[(0, 0)]))
    ours = (u.d(0, 0) - u.value * u.d(1)).square().mean()
    value, gradient, hessian = by_autograd(model, x)
    theirs = (hessian[:, 0, 0] - value[:, 0] * gradient[:, 1]).square().mean()
    parameters = [*model.parameters()]
    for g, e in zip(
        torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True
    ):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-11)


def test_rule_is_for_the_class_and_its_forward():
    class Cube(nn.Module):
        def forward(self, z):
            return z**3

    calls = []

    @propagate.register(Cube)
    def rule(module, jet):
        calls.append(type(module))
        z = jet.value
        return jet.chain(z**3, 3 * z**2, 6 * z)

    class Same(Cube):
        pass

    class Other(Cube):
        def forward(self, z):
            return -super().forward(z)

    x = torch.tensor([[2.0]])
    for model, expected in ((Cube(), 12.0), (Same(), 12.0), (Other(), -12.0)):
        assert propagate(model, Jet.at(x, pairs=[(0, 0)])).d(0, 0).item() == expected
    assert calls == [Cube, Same]


class Noisy(nn.Module):
    def forward(self, z):
        return z + torch.randn_like(z)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (nn.Dropout(0.5), r"Dropout must give the same value .* model\.eval\(\)"),
        (Noisy(), "Noisy must give the same value"),
        (nn.BatchNorm1d(2), r"BatchNorm1d\(2.* mixes points: call model\.eval"),
        (nn.BatchNorm1d(2, track_running_stats=False).eval(), "mixes points"),
        (lambda x: x.sum(), r"function must return \(60, Q\), one row"),
    ],
)
def test_what_is_no_function_of_each_point_is_refused(model, text):
    with pytest.raises(ValueError, match=text):
        propagate(model, Jet.at(points().float()))


def test_dropout_and_normalisation_are_functions_in_evaluation():
    torch.manual_seed(0)
    layers = [nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 1)]
    assert_equal_to_autograd(nn.Sequential(*layers).double().eval(), points())


@pytest.mark.parametrize(
    "register", ["register_full_backward_hook", "register_full_backward_pre_hook"]
)
def test_backward_hooks_are_refused(register):
    model = make_kan()
    getattr(model.layers[0], register)(lambda *_: None)
    with pytest.raises(ValueError, match=r"backward.*hooks of SplineLayer: remove them"):
        propagate(model, Jet.at(points()))
    with pytest.raises(TypeError, match="must be a network, a layer or a function, got str"):
        propagate("model", Jet.at(points()))


def test_jets_of_features_and_overridden_forwards_are_safe_in_threads():
    torch.manual_seed(0)
    model, x = Hard([2, 3, 1], dtype=torch.float64), points()

    def work(_):
        jet = Jet.at(x, pairs=PAIRS, features=torch.sin)
        return torch.cat([jet.channels, propagate(model, jet).channels.expand(-1, -1, 2)])

    expected = work(0)
    with ThreadPoolExecutor(8) as pool:
        assert all(torch.equal(found, expected) for found in pool.map(work, range(60)))


# Derivatives that do not exist


PIECEWISE = [
    (make_kan(r=1), 1),
    (make_kan(r=2), 2),
    (make_kan(r=2, first="affine", normalisation="tanh"), 2),
    (make_kan(r=2, basis="relu"), 2),
    (make_kan(r=2).free(), 2),
    (Hard([2, 3, 1], r=2, dtype=torch.float64), 2),
    (MLP([2, 5, 1], "relu", dtype=torch.float64), 2),
    (nn.Sequential(nn.Linear(2, 5), nn.LeakyReLU(), nn.Linear(5, 1)).double(), 2),
    (nn.Sequential(make_kan((2, 3)), make_kan((3, 1), r=2)), 2),
]


@pytest.mark.parametrize(("model", "order"), PIECEWISE)
def test_derivative_that_is_zero_between_jumps_is_refused(model, order):
    u = propagate(model, Jet.at(points(), pairs=PAIRS))
    assert u.value.shape == (60, 1)
    for pair in PAIRS:
        with pytest.raises(ValueError, match=r"r >= 3 \(from 4 on it is continuous\), or a smooth"):
            u.d(*pair)
    if order == 1:
        with pytest.raises(ValueError, match=r"order 1 .* r >= 2"):
            u.d(0)
    else:
        assert u.d(0).any()


def test_jets_are_compared_by_identity():
    jet = Jet.at(points())
    assert jet == jet
    assert jet != Jet.at(points())


def test_points_may_be_a_view_with_strides_of_zero():
    x = torch.tensor([[0.25, 0.5]]).expand(7, 2)
    assert torch.equal(Jet.at(x).channels, Jet.at(x.clone()).channels)


def test_module_can_get_a_rule():
    model = nn.Sequential(nn.Linear(2, 3), Sine(), nn.Linear(3, 1)).double()
    used = []

    @propagate.register(Sine)
    def rule(module, jet):
        used.append(module)
        return jet.chain(jet.value.sin(), jet.value.cos(), -jet.value.sin())

    assert_equal_to_autograd(model, points())
    assert used


def test_a_function_of_outputs_has_no_names_of_theirs():
    net = KAN([2, 2], outputs=("u", "v"), dtype=torch.float64)
    jet = propagate(net, Jet.at(torch.rand(3, 2, dtype=torch.float64)))
    assert jet.through(lambda z: z.flip(-1)).outputs == ()
