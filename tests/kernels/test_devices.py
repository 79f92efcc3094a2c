"""Networks where they are to run: devices, half precision, autocast, replicas, default devices."""

import copy
import importlib
import warnings

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch import nn

from kanlib import KAN, MLP, Jet, KnotGrid, SplineLayer, prolongation, propagate
from kanlib.kernels import operator
from kanlib.splines import bspline
from kanlib.splines import truncated_power as powers
from kanlib.splines.change_of_basis import ChangeOfBasis

GRADED = [0.0, 0.01, 0.07, 0.2, 0.5, 0.6, 1.0]
NETWORKS = {
    "spline": lambda: KAN([2, 3, 1]),
    "graded": lambda: KAN([2, 3, 1], breakpoints=GRADED),
    "affine": lambda: KAN([2, 3, 1], first="affine"),
    "linear": lambda: KAN([2, 3, 1], first="linear", normalisation="tanh"),
    "mapped": lambda: KAN([2, 3, 1], input_domain=((-1, 1), (0, 1))),
    "relu": lambda: KAN([2, 3, 1], r=3, basis="relu", init_basis="relu"),
    "free": lambda: KAN([2, 3, 1]).free(),
    "free relu": lambda: KAN([2, 3, 1], r=3, basis="relu", init_basis="relu").free("layer"),
    "perceptron": lambda: MLP([2, 3, 1]),
}
every_network = pytest.mark.parametrize("name", NETWORKS)
BACKENDS = ["torch", "numba"] if operator.has_numba() else ["torch"]


def make(name):
    torch.manual_seed(0)
    return NETWORKS[name]()


def points(count=20, low=0.0, high=1.0):
    generator = torch.Generator("cpu").manual_seed(1)
    return low + (high - low) * torch.rand(count, 2, generator=generator, device="cpu")


# Devices


@every_network
def test_networks_move_to_devices_without_float64(name):
    """As nn.Module.to does it for Apple's GPUs, which refuse every float64 tensor."""

    def move(tensor):
        if tensor.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return tensor.clone()

    model, x = make(name), points()
    expected = model(x)
    assert torch.equal(model._apply(move)(x), expected)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def test_a_move_that_fails_leaves_the_network_as_it_was():
    def fail(tensor):
        raise RuntimeError("out of memory")

    for name in ("spline", "free"):
        model, x = make(name), points()
        expected = model(x)
        with pytest.raises(RuntimeError, match="out of memory"):
            model._apply(fail)
        assert torch.equal(model(x), expected)


@every_network
def test_casts_there_and_back_keep_grids_and_floors(name):
    """Weights that half precision has exactly are the same function afterwards."""
    model, x = make(name).half().double(), points().double()
    expected = model(x)
    assert torch.equal(model.half().double()(x), expected)
    knots = [module.floor for module in model.modules() if hasattr(module, "floor")]
    assert all(float(floor) == 0.1 for floor in knots)


@every_network
def test_replicas_for_several_devices_compute(name, monkeypatch):
    """As DataParallel makes them: their weights are plain tensors, and no parameters."""

    def broadcast(tensors, devices, detach=False):
        return [[tensor.clone() for tensor in tensors] for _ in devices]

    parallel = importlib.import_module("torch.nn.parallel.replicate")
    monkeypatch.setattr(parallel, "_broadcast_coalesced_reshape", broadcast)
    monkeypatch.setattr(parallel, "_get_device_index", lambda device, optional: device)
    model, x = make(name), points()
    expected = model(x)
    expected.sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    first, second = parallel.replicate(model, [0, 1])
    outputs = torch.cat([first(x[:10]), second(x[10:])])
    torch.testing.assert_close(outputs, expected)
    outputs.sum().backward()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("grid", [KnotGrid.uniform(4, 7), KnotGrid(4, GRADED)])
def test_helpers_do_not_ask_for_the_default_device(grid):
    """Where that is a GPU, tables are made on the CPU all the same; "meta" tensors have no data."""
    x, u = points()[:, 0], torch.ones(grid.num_basis)
    fine = grid.refine()

    def results():
        model = KAN([2, 3, 1], n=4, prolonged_from=2, first="affine", device="cpu", dtype=x.dtype)
        change, transfer = ChangeOfBasis(grid), prolongation(grid, fine, "relu")
        yield from (grid.refine().knots, KnotGrid(3, [0, 1, 3]).knots)
        yield from (bspline.pieces(grid), powers.pieces(grid), *bspline.supports(grid))
        yield from (bspline.dense_basis(x, grid), powers.dense_basis(x, grid))
        yield from (change.apply(u), change.solve(u), transfer.apply(u), transfer.dense())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0.5)
        for changed in (model, model.refine(), model.to_basis("relu"), model.free().refine()):
            yield changed(points())
        yield propagate(model, Jet.at(points(), pairs=[(0, 1)])).channels
        yield model.calibrate_(points()).layers[0].weight

    expected = list(results())
    with torch.device("meta"):
        computed = list(results())
    for a, b in zip(computed, expected, strict=True):
        assert torch.equal(a, b)


# Half precision and autocast


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [7, 300])
def test_half_precision_is_accurate_outside_the_domain(n, backend, dtype):
    """The terms of the linear continuation are larger than any number of float16 is."""
    torch.manual_seed(0)
    layer = SplineLayer(2, 3, KnotGrid.uniform(4, n), init_scale=1e-3, dtype=dtype)
    x = torch.tensor([[-60.0, 0.5], [0.25, 90.0], [-0.5, 1.5], [0.3, 0.7]], dtype=dtype)
    with operator.backend(backend):
        y = layer(x)
    assert y.dtype == dtype
    weight, knots = layer.weight.detach().double().numpy(), layer.grid.knots.numpy()
    z = x.double().numpy()
    ends = z.clip(0, 1)
    expected = np.zeros((4, 3))
    for p in range(2):
        for q in range(3):
            spline = BSpline(knots, weight[q, p], 3)
            slope = spline.derivative()(ends[:, p])
            expected[:, q] += spline(ends[:, p]) + slope * (z - ends)[:, p]
    accuracy = torch.finfo(dtype).eps
    np.testing.assert_allclose(y.detach().double(), expected, rtol=accuracy, atol=1e-5)


@every_network
@pytest.mark.parametrize("backend", BACKENDS)
def test_networks_compute_under_autocast(name, backend):
    """Splines in single precision; linear maps in the lower one, as everywhere."""
    model, x = make(name), points()
    with operator.backend(backend):
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x)
            after = nn.Sequential(nn.Linear(2, 2), model)(x)
        y.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert after.isfinite().all()
    if any(isinstance(module, nn.Linear) for module in model.modules()):
        torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    else:
        assert torch.equal(y, expected)


@pytest.mark.parametrize("name", ["spline", "relu", "free"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives_under_autocast_are_those_without(name, backend):
    """Those that are propagated; and those by autograd, where no product of PyTorch's is in it."""
    model, x = make(name), points().requires_grad_()

    def slopes():
        jet = propagate(model, Jet.at(points(), pairs=[(0, 0), (0, 1)])).channels
        if backend == "torch":
            return [jet]
        return jet, torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]

    with operator.backend(backend):
        expected = slopes()
        with torch.autocast("cpu", torch.bfloat16):
            computed = slopes()
        for a, b in zip(computed, expected, strict=True):
            scale = b.abs().max().item()
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6 * scale)
        by_weight = [
            torch.autograd.grad(y.square().sum(), [*model.parameters()])
            for y in (computed[-1], expected[-1])
        ]
    for a, b in zip(*by_weight, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6 * b.abs().max().item())


def test_another_dtype_is_refused_under_autocast():
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(TypeError, match=r"x must have the dtype of the model, torch.float32"),
    ):
        make("spline")(points().double())


def test_state_and_copies_do_not_depend_on_where_the_tables_are():
    for name in NETWORKS:
        model, x = make(name), points()
        other = copy.deepcopy(model)
        with warnings.catch_warnings(action="error"):
            other.load_state_dict(model.to("cpu").state_dict())
        assert torch.equal(other(x), model(x))
