"""The GPU kernels on the CPU, by Triton's interpreter; test_gpu.py runs this in a process apart.

The kernels take the place of those of the CPU, so that layers reach them through the operators.
"""

import pytest
import torch
from grids import GRIDS
from test_operators import (
    CHANNELS,
    arguments,
    around,
    assert_close,
    assert_operators_agree,
    grid_each,
    jets,
    make_layer,
    run,
)

from kanlib import KAN
from kanlib._checks import EXTENSIONS
from kanlib.kernels import gpu_triton, operator
from kanlib.nn.ensemble import Ensemble

DTYPES = {torch.float32: 3e-6, torch.float64: 1e-13}
every_grid = pytest.mark.parametrize("points", GRIDS[:2], ids=["uniform", "graded"])


@pytest.fixture(autouse=True)
def ran(monkeypatch):
    """Send tensors of the CPU to the GPU kernels; return the names of those that ran."""
    names = []
    launch = gpu_triton._launch

    def record(kernel, *arguments, **options):
        names.append(kernel.fn.__name__)
        launch(kernel, *arguments, **options)

    monkeypatch.setattr(gpu_triton, "_launch", record)
    monkeypatch.setattr(operator, "_launcher", lambda _: gpu_triton)
    monkeypatch.setattr(operator, "_obstacle", lambda *_: None)
    yield names
    torch.use_deterministic_algorithms(False)


def assert_agrees(layer, count, channels, ran):
    """Assert that outputs and gradients are those of the reference, also where order is fixed."""
    dtype = layer.weight.dtype
    z, pairs = jets(layer.grid, count, layer.in_features, channels)
    z, direction = z.to(dtype), torch.randn(len(z), count, layer.out_features, dtype=dtype)
    expected = run("torch", layer, z, pairs, direction)
    assert ran == []
    assert_close(run("auto", layer, z, pairs, direction), expected, DTYPES[dtype])
    assert ran == ["_forward", "_backward"]
    torch.use_deterministic_algorithms(True)
    with operator.backend("auto"):
        y = layer.propagate(z, pairs)
        by_weight = torch.autograd.grad(y, layer.weight, direction)
    assert_close(by_weight, expected[2:], DTYPES[dtype])
    assert ran[2:] == ["_forward", "_by_rows_in_order"]


@pytest.mark.parametrize("r", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_every_order(basis, r, ran):
    points = GRIDS[(r + (basis == "relu")) % 2]
    assert_agrees(make_layer(points, r, 1, 3, basis=basis), 20, "second", ran)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_extension(extension, channels, ran):
    assert_agrees(make_layer(GRIDS[1], 4, 1, 3, extension=extension), 20, channels, ran)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "inputs", "outputs", "count"), [(1, 1, 1, 129), (20, 3, 33, 17), (5, 2, 8, 1)]
)
def test_sizes_around_whole_tiles(n, inputs, outputs, count, dtype, ran):
    points = [(i / n) ** 2 if count > 1 else i / n for i in range(n + 1)]
    layer = make_layer(points, 3, inputs, outputs).to(dtype)
    assert_agrees(layer, count, "first", ran)


def test_no_points_and_nan():
    layer = make_layer(inputs=2)
    x = torch.tensor([[float("nan"), 0.5], [0.5, 0.5]], dtype=torch.float64)
    y = layer(x)
    assert y[0].isnan().all()
    assert torch.equal(y[1], layer(x[1:])[0])
    y = layer(x[:0])
    assert y.shape == (0, 5)
    y.sum().backward()
    assert torch.equal(layer.weight.grad, torch.zeros_like(layer.weight))


@pytest.mark.parametrize("shift", [0.0, 1e6])
@every_grid
def test_intervals_are_those_of_the_reference(points, shift):
    """The spline of order 1 whose weights are 0, 1, ... is the index of the interval."""
    layer = make_layer([shift + t for t in points], 1, 1, 1)
    layer.weight.data[0, 0] = torch.arange(float(layer.grid.n))
    t = layer.grid.breakpoints
    near = torch.cat([t, torch.nextafter(t, t + 1), torch.nextafter(t, t - 1)])[:, None]
    with operator.backend("torch"):
        expected = layer(near)
    assert torch.equal(layer(near), expected)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("in_order", [True, False])
def test_networks_have_grids_of_their_own(shared, in_order):
    """Three networks that share a grid or do not, and the gradients of the second alone."""
    grids = [GRIDS[1], [2.0 * t for t in GRIDS[1]], [t**2 for t in GRIDS[1]]]
    layers = [make_layer(grids[0 if shared else s], seed=s, inputs=2) for s in range(3)]
    z = torch.stack([jets(layer.grid, 20, 2, "second", s)[0] for s, layer in enumerate(layers)])
    each = [arguments(layer, z[0], CHANNELS["second"][1]) for layer in layers]
    weight, *tables = (torch.cat([given[i] for given in each]) for i in (1, 2, 3))
    if shared:
        tables = [v[:1] for v in tables]
    options = each[0][4:]
    torch.use_deterministic_algorithms(in_order)
    inputs = z.requires_grad_(), weight.detach().requires_grad_()
    y, expected = (f(*inputs, *tables, *options) for f in (operator.fused, operator._by_reference))
    assert_close([y], [expected], 1e-13)
    chosen = torch.zeros_like(y)
    chosen[1] = torch.randn_like(chosen[1])
    computed, expected = (torch.autograd.grad(v, inputs, chosen) for v in (y, expected))
    assert_close(computed, expected, 1e-13)
    assert not computed[0][0].any()
    assert not computed[1][2].any()


@pytest.mark.parametrize(("uniform", "in_order"), [(True, False), (False, True)])
def test_inputs_have_grids_of_their_own(uniform, in_order):
    torch.use_deterministic_algorithms(in_order)
    assert_operators_agree(grid_each(uniform))


def test_ensemble_equals_its_members():
    members = [KAN([2, 3, 1], n=3, dtype=torch.float64) for _ in range(2)]
    ensemble = Ensemble(members)
    x = around(members[0].layers[0].grid, 9, 2)
    y = ensemble(x)
    assert_close(y, [member(x) for member in members], 1e-14)
    y.square().sum().backward()
    for member in members:
        member(x).square().sum().backward()
    for stacked, *each in zip(ensemble.stacked, *(m.parameters() for m in members), strict=True):
        assert_close(stacked.grad, [p.grad for p in each], 1e-13)


def test_gradients_are_those_of_finite_differences():
    layer = make_layer(r=4, inputs=1, outputs=1)
    z, pairs = jets(layer.grid, 2, 1, "second")
    given = arguments(layer, (0.3 + 0.1 * z).requires_grad_(), pairs)
    given = given[0], given[1].detach().requires_grad_(), *given[2:]
    assert torch.autograd.gradcheck(operator.fused, given, atol=1e-5)
    torch.library.opcheck(operator.fused, given, test_utils=["test_schema", "test_faketensor"])
