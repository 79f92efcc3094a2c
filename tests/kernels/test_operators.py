"""The operators behind the spline layers: sizes, intervals, vmap, compilation and threads."""

import hashlib
import importlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from grids import GRID_NAMES, GRIDS
from scipy.interpolate import BSpline
from torch.func import functional_call, stack_module_state, vmap

from kanlib import KAN, KnotGrid, SplineLayer
from kanlib._checks import BASES, EXTENSIONS
from kanlib.kernels import operator
from kanlib.kernels.chain_rule import flattened
from kanlib.kernels.reference import Splines

MAIN = threading.main_thread()
pytestmark = pytest.mark.skipif(not operator.has_numba(), reason="needs numba: pip install .[fast]")


#: Value; value and two directions; and with the second derivatives along (0, 0), (0, 1), (1, 1).
CHANNELS = {"value": (0, ()), "first": (2, ()), "second": (2, ((0, 0), (0, 1), (1, 1)))}
every_basis = pytest.mark.parametrize("basis", BASES)
every_extension = pytest.mark.parametrize("extension", EXTENSIONS)
every_grid = pytest.mark.parametrize("points", GRIDS[:3], ids=GRID_NAMES[:3])
every_channels = pytest.mark.parametrize("channels", CHANNELS)


def make_layer(points=GRIDS[1], r=4, inputs=3, outputs=5, seed=0, **options):
    torch.manual_seed(seed)
    return SplineLayer(
        inputs,
        outputs,
        KnotGrid(r, points),
        **({"dtype": torch.float64, "init_scale": 1.0} | options),
    )


def around(grid, *shape, seed=1):
    """Return points inside and outside of the domain, some on breakpoints and at the ends."""
    a, b = grid.domain
    generator = torch.Generator().manual_seed(seed)
    x = a + (b - a) * (1.6 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 0.3)
    t = grid.breakpoints
    x[: len(t), 0] = t[: len(x)]
    return x


def jets(grid, count, inputs, channels, seed=2):
    """Return channels of points around a grid, and the pairs."""
    directions, pairs = CHANNELS[channels]
    generator = torch.Generator().manual_seed(seed)
    shape = directions + len(pairs), count, inputs
    rest = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return torch.cat([around(grid, count, inputs)[None], rest]), pairs


def run(name, layer, z, pairs, direction):
    """Return outputs and gradients of a layer by a back end."""
    z = z.clone().requires_grad_()
    with operator.backend(name):
        y = layer.propagate(z, pairs)
        return y, *torch.autograd.grad(y, (z, layer.weight), direction)


def assert_close(computed, expected, accuracy):
    """Assert that tensors agree, relative to the largest entry."""
    for a, b in zip(computed, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        scale = b.abs().max().item()
        torch.testing.assert_close(a, b, rtol=0, atol=accuracy * scale + 1e-300)


# Back ends


@pytest.mark.parametrize("r", [1, 2, 4, 6])
@every_channels
@every_grid
@every_basis
@every_extension
def test_back_ends_agree_in_value_and_gradient(basis, extension, points, r, channels):
    layer = make_layer(points, r, basis=basis, extension=extension)
    z, pairs = jets(layer.grid, 150, 3, channels)
    direction = torch.randn(len(z), 150, 5, dtype=torch.float64)
    expected, computed = (run(name, layer, z, pairs, direction) for name in ("torch", "numba"))
    assert_close(computed, expected, 1e-13)


@pytest.mark.parametrize("outputs", [1, 7, 8, 40])
@pytest.mark.parametrize("inputs", [1, 9, 40])
@pytest.mark.parametrize("points", [GRIDS[1], [i / 60 for i in range(61)]], ids=["few", "many"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_back_ends_agree_for_all_sizes(points, inputs, outputs, dtype):
    """Sizes around whole vectors, blocks of points and groups of inputs."""
    layer = make_layer(points, 4, inputs, outputs).to(dtype)
    for count in (0, 1, 127, 129, 300):
        z, pairs = jets(layer.grid, max(count, 61), inputs, "second")
        z = z[:, :count].to(dtype)
        direction = torch.randn(len(z), count, outputs, dtype=dtype)
        expected, computed = (run(name, layer, z, pairs, direction) for name in ("torch", "numba"))
        if count:
            assert_close(computed, expected, 1e-12 if dtype == torch.float64 else 3e-5)
        else:
            assert not computed[2].any()
        assert [a.shape for a in computed] == [a.shape for a in expected]


@pytest.mark.parametrize("points", [GRIDS[1], [i / 64 for i in range(65)]])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_intervals_are_those_of_the_reference(points, shift):
    """The spline of order 1 whose weights are 0, 1, ... is the index of the interval."""
    points = [shift + t for t in points]
    layer = make_layer(points, 1, 1, 1)
    layer.weight.data[0, 0] = torch.arange(float(layer.grid.n))
    t = layer.grid.breakpoints
    near = torch.cat([t, torch.nextafter(t, t + 1), torch.nextafter(t, t - 1)])[:, None]
    values = []
    for name in ("torch", "numba"):
        with operator.backend(name):
            values.append(layer(near))
    assert torch.equal(*values)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request, monkeypatch):
    """Share the work, however little it is, among some threads."""
    from kanlib.kernels import cpu

    monkeypatch.setattr(cpu, "WORK", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    return request.param


def ugly(n, graded, shift=0.0):
    """Return breakpoints that floats do not have exactly."""
    return [shift + (i / n) ** (2 if graded else 1) for i in range(n + 1)]


def near_knots(grid):
    """Return the breakpoints and one unit in the last place on both sides, within [a, b]."""
    t = grid.breakpoints.numpy()
    points = np.concatenate([t, np.nextafter(t, np.inf)[:-1], np.nextafter(t, -np.inf)[1:]])
    return torch.from_numpy(points)


@pytest.mark.parametrize("name", ["torch", "numba"])
@pytest.mark.parametrize("shift", [0.0, 0.1, -3.7])
@pytest.mark.parametrize("graded", [False, True], ids=["uniform", "graded"])
@pytest.mark.parametrize("n", [7, 49, 107])
def test_points_next_to_knots_are_in_the_right_interval(n, graded, shift, name):
    """The spline of order 1 with weights 0, 1, ... against a search among the breakpoints."""
    layer = make_layer(ugly(n, graded, shift), 1, 1, 1)
    layer.weight.data[0, 0] = torch.arange(float(n))
    x, t = near_knots(layer.grid), layer.grid.breakpoints.numpy()
    expected = (np.searchsorted(t, x.numpy(), side="right") - 1).clip(0, n - 1)
    with operator.backend(name):
        assert layer(x[:, None])[:, 0].tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["torch", "numba"])
@pytest.mark.parametrize("r", [2, 4])
@pytest.mark.parametrize("graded", [False, True], ids=["uniform", "graded"])
@pytest.mark.parametrize("n", [7, 49])
def test_values_and_gradients_are_those_of_scipy(n, graded, r, name, threads):
    """At random points and next to knots, for many inputs, of which threads share the gradients."""
    inputs, outputs = 37, 3
    layer = make_layer(ugly(n, graded), r, inputs, outputs)
    knots, near = layer.grid.knots.numpy(), near_knots(layer.grid)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(len(near) + 130, inputs, dtype=torch.float64, generator=generator)
    for p in range(inputs):
        x[: len(near), p] = near.roll(p)
    direction = torch.randn(len(x), outputs, dtype=torch.float64, generator=generator)
    y, by_x, by_weight = run(name, layer, x[None], (), direction[None])
    w, g = layer.weight.detach().numpy(), direction.numpy()
    expected = [np.zeros(y.shape[1:]), np.zeros(x.shape), np.zeros(w.shape)]
    for p in range(inputs):
        functions = BSpline(knots, np.eye(layer.grid.num_basis), r - 1)
        basis, slopes = functions(x[:, p]), functions.derivative()(x[:, p])
        expected[0] += basis @ w[:, p].T
        expected[1][:, p] = ((slopes @ w[:, p].T) * g).sum(1)
        expected[2][:, p] = g.T @ basis
    computed = y[0].detach(), by_x[0], by_weight
    assert_close(computed, [torch.from_numpy(each) for each in expected], 1e-12)


def grid_each(uniform):
    """Return the arguments of the operator for two networks whose inputs have grids each."""
    points = GRIDS[0] if uniform else GRIDS[1]
    grids = [[t * (p + 1) if uniform else t ** (p + 1) for t in points] for p in range(4)]
    layers = [make_layer(grid, seed=p, inputs=2) for p, grid in enumerate(grids)]
    pairs = CHANNELS["second"][1]
    each = [
        arguments(layer, jets(layer.grid, 150, 2, "second", p)[0], pairs)
        for p, layer in enumerate(layers)
    ]
    points, pieces = (
        torch.cat([given[i][0] for given in each]).unflatten(0, (2, 2)) for i in (2, 3)
    )
    pieces *= torch.arange(1.0, 5.0).view(2, 2, 1, 1, 1)  # those of uniform grids are the same
    z, weight = (torch.cat([given[i] for given in each[::2]]).detach() for i in (0, 1))
    return z.requires_grad_(), weight.requires_grad_(), points, pieces, uniform, *each[0][5:]


def assert_operators_agree(given):
    """Assert that values and gradients of the fused operator are those of its reference."""
    results = []
    for function in (operator.fused, operator._by_reference):
        y = function(*given)
        direction = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(0))
        results.append([y, *torch.autograd.grad(y, given[:2], direction)])
    assert_close(results[0], results[1], 1e-13)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("uniform", [True, False])
def test_inputs_have_grids_of_their_own(uniform, shared):
    """Both networks have the same grids, or not."""
    given = grid_each(uniform)
    tables = [v[:1] if shared else v for v in given[2:4]]
    assert_operators_agree((*given[:2], *tables, *given[4:]))
    assert not torch.equal(tables[0][0, 0], tables[0][0, 1])


# Derivatives


@pytest.mark.parametrize("backend", ["torch", "numba"])
@every_basis
@every_extension
def test_propagated_derivatives_are_those_of_autograd(backend, basis, extension):
    """Along curves x(s, t): y, y_s, y_t, y_ss, y_st, y_tt by the chain rule of autograd."""
    layer = make_layer(basis=basis, extension=extension, outputs=2)
    torch.manual_seed(1)
    x, linear, quadratic = torch.rand(3), torch.randn(3, 2), torch.randn(3, 2, 2)
    x, linear, quadratic = 1.4 * x.double() - 0.2, linear.double(), quadratic.double()
    quadratic = quadratic + quadratic.mT

    def curve(s):
        with operator.backend("torch"):
            return layer(x + linear @ s + 0.5 * s @ quadratic @ s)

    origin = torch.zeros(2, dtype=torch.float64)
    first = torch.autograd.functional.jacobian(curve, origin)
    second = [
        torch.autograd.functional.hessian(lambda s, q=q: curve(s)[q], origin) for q in range(2)
    ]
    pairs = [(0, 0), (0, 1), (1, 1)]
    z = torch.stack([x, *linear.T, *(quadratic[:, a, b] for a, b in pairs)])
    with operator.backend(backend):
        y = layer.propagate(z, pairs)
    expected = [
        curve(origin),
        *first.T,
        *(torch.stack([h[a, b] for h in second]) for a, b in pairs),
    ]
    torch.testing.assert_close(y, torch.stack(expected), rtol=1e-12, atol=1e-12)


ORDERS = {
    "third": ((0, 0), (0, 1), (0, 0, 1)),
    "fourth": ((0, 0), (0, 0, 0), (0, 1), (1, 1), (0, 0, 1), (0, 1, 1), (0, 0, 1, 1), (0, 0, 0, 0)),
}


@pytest.mark.parametrize("higher", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("r", [1, 2, 4, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_basis
@every_extension
def test_back_ends_agree_in_third_and_fourth_derivatives(basis, extension, dtype, r, higher):
    layer = make_layer(GRIDS[1], r, basis=basis, extension=extension).to(dtype)
    z = torch.randn(3 + len(higher), 150, 3, dtype=torch.float64)
    z[0] = around(layer.grid, 150, 3)
    direction = torch.randn(len(z), 150, 5, dtype=dtype)
    results = [run(name, layer, z.to(dtype), higher, direction) for name in ("torch", "numba")]
    assert_close(results[1], results[0], 1e-12 if dtype == torch.float64 else 1e-4)


def test_fourth_derivatives_do_not_depend_on_threads_and_batches_of_vmap(threads):
    higher = ORDERS["fourth"]
    layer = make_layer(r=6)
    z = 0.3 * torch.randn(2, 3 + len(higher), 300, 3, dtype=torch.float64)
    each = torch.stack([layer.propagate(v, higher) for v in z])
    assert torch.equal(vmap(lambda v: layer.propagate(v, higher))(z), each)
    with operator.backend("torch"):
        assert_close([each], [torch.stack([layer.propagate(v, higher) for v in z])], 1e-12)


def test_gradients_of_fourth_derivatives_are_those_of_finite_differences():
    higher = ((0, 0), (0, 0, 0), (0, 0, 0, 0))
    layer = make_layer(r=6, inputs=2, outputs=1)
    z = torch.randn(5, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z[0] = 0.3 + 0.02 * z[0]
    tables = (each[None] for each in layer.pieces())
    given = z[None].requires_grad_(), layer.weight.detach()[None].requires_grad_(), *tables

    def function(*given):
        return operator.fused(*given, False, "linear", flattened(higher))

    assert torch.autograd.gradcheck(function, given, eps=1e-7, rtol=1e-5)


def test_third_derivatives_by_autograd_agree():
    model = KAN([2, 3, 1], n=4, r=5, init_scale=1.0, dtype=torch.float64)
    results = []
    for name in ("torch", "numba"):
        x = torch.rand(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        slopes = [x.requires_grad_()]
        with operator.backend(name):
            y = model(x)
            for _ in range(3):
                y = torch.autograd.grad(y.sum(), x, create_graph=True)[0][:, 0]
                slopes.append(y)
            slopes += torch.autograd.grad(y.square().sum(), [*model.parameters()])
        results.append(slopes)
    assert_close(results[1], results[0], 1e-12)


# An ordinary operator


def arguments(layer, z, pairs):
    """Return the arguments of the operator for a layer in the spline basis."""
    flat = flattened(pairs)
    tables = (each[None] for each in layer.pieces())
    return z[None], layer.weight[None], *tables, layer.grid.is_uniform, layer.extension, flat


@every_channels
@pytest.mark.parametrize("inputs", [1, 3])
def test_operators_pass_the_checks_of_torch(channels, inputs):
    layer = make_layer(inputs=inputs)
    z, pairs = jets(layer.grid, 9, inputs, channels)
    z, weight, *others = arguments(layer, z, pairs)
    given = z.requires_grad_(), weight.detach().requires_grad_(), *others
    torch.library.opcheck(operator.fused, given)
    grad = torch.randn(1, z.shape[1], 9, 5, dtype=torch.float64)
    given = z.detach(), weight.detach(), *others
    for needed in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(operator.fused_backward, (grad, *given, *needed))


@every_basis
@pytest.mark.parametrize("over", ["weights", "points", "both", "tables"])
def test_vmap_equals_one_by_one(basis, over):
    """Same numbers to the last bit, and the gradients through it."""
    layers = [make_layer(basis=basis, seed=seed) for seed in range(3)]
    x = torch.stack([around(layers[0].grid, 40, 3, seed=seed) for seed in range(3)])
    x = (x if over in ("points", "both") else x[0]).requires_grad_()
    dims = 0 if over in ("points", "both") else None
    if over == "tables":
        parameters, buffers = stack_module_state(layers)
        y = vmap(lambda p, b, x: functional_call(layers[0], (p, b), (x,)), (0, 0, None))(
            parameters, buffers, x
        )
        weight = parameters["weight"]
    elif over == "points":
        y = vmap(layers[0])(x)
        layers, weight = [layers[0]] * 3, None
    else:
        weight = torch.stack([layer.weight.detach() for layer in layers]).requires_grad_()
        y = vmap(lambda w, x: functional_call(layers[0], {"weight": w}, (x,)), (0, dims))(weight, x)
    each = [layer(x if dims is None else x[i]) for i, layer in enumerate(layers)]
    assert torch.equal(y, torch.stack(each))
    inputs = [x] if weight is None else [x, weight]
    leaves = [x] if weight is None else [x, *(layer.weight for layer in layers)]
    by_x, *by_weights = torch.autograd.grad(y.square().sum(), inputs)
    expected = torch.autograd.grad(torch.stack(each).square().sum(), leaves)
    torch.testing.assert_close(by_x, expected[0], rtol=1e-13, atol=1e-13)
    if weight is not None:
        assert torch.equal(by_weights[0], torch.stack(expected[1:]))


@every_basis
def test_nested_vmap_and_batched_gradients(basis):
    layers = [make_layer(basis=basis, seed=seed) for seed in range(6)]
    weights = torch.stack([layer.weight.detach() for layer in layers]).unflatten(0, (2, 3))
    x = around(layers[0].grid, 20, 3)

    def evaluate(weight, x):
        return functional_call(layers[0], {"weight": weight}, (x,))

    y = vmap(vmap(evaluate, (0, None)), (0, None))(weights, x)
    assert torch.equal(y.flatten(0, 1), torch.stack([layer(x) for layer in layers]))
    points = vmap(vmap(evaluate, (None, 0)), (0, None))(weights[:, 0], x)
    assert torch.equal(points, y[:, 0])
    y = layers[0](x)
    directions = torch.randn(4, *y.shape, dtype=torch.float64)
    batched = torch.autograd.grad(
        y, layers[0].weight, directions, is_grads_batched=True, retain_graph=True
    )[0]
    each = [torch.autograd.grad(y, layers[0].weight, d, retain_graph=True)[0] for d in directions]
    torch.testing.assert_close(batched, torch.stack(each), rtol=1e-13, atol=1e-13)


def test_compiled_graph_holds_the_operator():
    torch._dynamo.reset()
    exporting = torch.compile(lambda x: x + torch.compiler.is_exporting(), backend="eager")
    if exporting(torch.zeros(1)).item():
        pytest.skip("this compiler takes compiling for exporting, and kernels for plain PyTorch")
    graphs = []

    def record(graph, _):
        graphs.append(str(graph.graph))
        return graph

    x = torch.rand(30, 2, dtype=torch.float64)
    model = KAN([2, 3, 1], n=2, dtype=torch.float64)
    torch.compile(model, backend=record, fullgraph=True)(x)
    assert graphs[-1].count("kanlib.splines") == 2
    with operator.backend("torch"):
        torch.compile(model, backend=record, fullgraph=True)(x)
    assert len(graphs) == 2  # the choice of the back end is a guard
    assert "kanlib" not in graphs[-1]
    torch._dynamo.reset()


# Reproducibility and threads


@every_channels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_do_not_depend_on_the_number_of_threads(channels, dtype):
    layer = make_layer(inputs=40, outputs=33, dtype=dtype)
    z, pairs = jets(layer.grid, 700, 40, channels)
    z = z.to(dtype)
    direction = torch.randn(len(z), 700, 33, dtype=dtype)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            results.append(run("numba", layer, z, pairs, direction))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.fixture(params=["PyTorch's threads", "others"])
def cpu(request, monkeypatch):
    """Return the module that shares tasks, with each kind of threads."""
    from kanlib.kernels import cpu

    if request.param == "others":
        monkeypatch.setattr(cpu, "_openmp", None)
    elif cpu._openmp is None:
        pytest.skip("this build of PyTorch has no GNU OpenMP")
    return cpu


def test_threads_share_the_tasks(cpu, monkeypatch):
    """Each task runs once, also when there are fewer tasks than threads."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for tasks in (0, 1, 2, 3, 7):
        ran: list[int] = []
        cpu._share(lambda start, stop, ran=ran: ran.extend(range(start, stop)), tasks, 10**9)
        assert sorted(ran) == list(range(tasks))


def test_threads_work_at_the_same_time(cpu, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    both = threading.Barrier(2, timeout=120)
    cpu._share(lambda start, stop: both.wait(), 2, 10**9)


@pytest.mark.parametrize("where", [0, 1])
def test_error_in_a_thread_is_raised(cpu, monkeypatch, where):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def task(start, stop):
        if start == where:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        cpu._share(task, 2, 10**9)


@pytest.mark.parametrize("where", ["a task", "both tasks", "entry", "exit"])
def test_interrupt_while_threads_work_is_raised(cpu, monkeypatch, where):
    """Ctrl-C in either thread, and where OpenMP has just called Python, or is about to return."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    callback, both = cpu.CALLBACK, threading.Barrier(2, timeout=120)

    def interrupted(work):
        def enter(argument):
            if where == "entry":
                signal.raise_signal(signal.SIGINT)
            work(argument)
            if where == "exit":
                signal.raise_signal(signal.SIGINT)

        return callback(enter)

    def task(ran, start, stop):
        both.wait()
        if where == "both tasks" or (where == "a task" and threading.current_thread() is not MAIN):
            signal.raise_signal(signal.SIGINT)
        ran.append(start)

    if cpu._openmp is None and where in ("entry", "exit"):
        pytest.skip("OpenMP's threads only")
    monkeypatch.setattr(cpu, "CALLBACK", interrupted)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        cpu._share(partial(task, []), 2, 10**9)
        time.sleep(120)
    monkeypatch.setattr(cpu, "CALLBACK", callback)
    where, ran = "nowhere", []
    cpu._share(partial(task, ran), 2, 10**9)
    assert sorted(ran) == [0, 1]


def test_kernels_leave_storages_as_they_are():
    """They can still be resized, which sharded training does."""
    layer = make_layer()
    x = torch.rand(9, 3, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    for tensor in (x, layer.weight, x.grad, layer.weight.grad, *layer.pieces()):
        tensor.untyped_storage().resize_(0)


FORKED = """
import os, sys, torch
from kanlib import KAN
torch.manual_seed(0)
torch.set_num_threads(2)
model, x = KAN([64, 64]), torch.rand(400, 64)  # too little for threads of PyTorch
with torch.no_grad():
    expected = model(x)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(2)
        os._exit(0 if torch.equal(model(x), expected) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_kernel_runs_after_a_fork():
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=120)


# The choice


def test_import_takes_no_compiler_along():
    """Of the time that an import takes, torch's compiler would be half."""
    code = "import sys, kanlib; assert not {'torch._dynamo', 'numba', 'triton'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_everything_works_without_numba():
    code = """
import sys
import threading
import time
sys.modules["numba"] = None
import torch
from kanlib.kernels import operator
from kanlib import KAN
model = KAN([2, 5, 1])
model(torch.rand(9, 2)).sum().backward()
assert all(p.grad is not None for p in model.parameters())
assert not operator.has_numba()
try:
    operator.backend("numba").__enter__()
except ModuleNotFoundError as error:
    assert "pip install kanlib[fast]" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("shape", "pairs", "error", "message"),
    [
        ((3,), [], ValueError, r"channels must have shape \(1 \+ D \+ K, ..., P\)"),
        ((2, 4, 3), [(0, 0), (0, 0)], ValueError, r"with K = 2 pairs, got \(2, 4, 3\)"),
        ((3, 4, 3), [(0, 1)], ValueError, r"pairs must hold directions from 0 to D - 1 = 0, got"),
        ((3, 4, 3), [(-1, 0)], ValueError, r"pairs must hold directions from 0"),
        ((4, 4, 3), [(0, 0), (0, 0, 0, 0, 0)], ValueError, "pairs must hold two to four dir"),
        ((4, 4, 3), [(0, 0), (0, 0, 1)], ValueError, r"from 0 to D - 1 = 0"),
        ((4, 4, 3), [(0, 1, 1)], ValueError, r"all parts .*: add \[\(0, 1\), \(1, 1\)\]"),
        ((2, 4, 2), [], ValueError, "channels must have 3 entries in its last dimension"),
    ],
)
def test_propagate_refuses_bad_arguments(shape, pairs, error, message):
    with pytest.raises(error, match=message):
        make_layer().propagate(torch.zeros(shape, dtype=torch.float64), pairs)


def test_propagate_refuses_another_dtype():
    with pytest.raises(TypeError, match=r"channels must have the dtype of the model"):
        make_layer().propagate(torch.zeros(1, 4, 3), [])


@pytest.fixture
def unknown(monkeypatch):
    """Forget what is known about the fused kernels, now and afterwards."""
    operator._obstacle.cache_clear()
    yield monkeypatch
    operator._obstacle.cache_clear()


@pytest.mark.parametrize(
    "error",
    [
        NotImplementedError("<intrinsic lanes> is not usable in pure-python"),
        EOFError("Ran out of input"),
        OSError(28, "No space left on device"),
        AttributeError("module 'coverage' has no attribute 'types'"),
        ModuleNotFoundError("No module named 'llvmlite'", name="llvmlite"),
    ],
)
@pytest.mark.parametrize("when", ["imported", "compiled"])
def test_kernels_that_cannot_be_used_are_replaced_with_one_warning(error, when, unknown):
    from kanlib.kernels import cpu

    def fail(*_):
        raise error

    layer = make_layer()
    x = torch.rand(4, 3, dtype=torch.float64)
    with operator.backend("torch"):
        expected = layer(x)
    if when == "imported":
        unknown.setattr(operator, "_launcher", fail)
    else:
        unknown.setattr(cpu, "try_out", fail)
    with pytest.warns(RuntimeWarning, match="go through plain PyTorch") as told:
        computed = [layer(x) for _ in range(2)]
    assert torch.equal(computed[0], expected)
    assert [str(error) in str(warning.message) for warning in told] == [True]
    with pytest.warns(RuntimeWarning, match="float32"):
        assert not operator.has_numba()
    with (
        pytest.raises(RuntimeError, match=r"backend 'numba' cannot be used, .*choose 'torch'"),
        operator.backend("numba"),
    ):
        pass


def test_kernels_that_are_not_installed_are_no_matter_for_a_warning(unknown, caplog):
    def fail(_):
        raise ModuleNotFoundError("No module named 'numba'", name="numba")

    unknown.setattr(operator, "_launcher", fail)
    with caplog.at_level("INFO", logger="kanlib"), warnings.catch_warnings(action="error"):
        for _ in range(2):
            make_layer()(torch.rand(4, 3, dtype=torch.float64))
    assert caplog.text.count("No module named 'numba'") == 1
    with (
        pytest.raises(ModuleNotFoundError, match=r"pip install kanlib\[fast\]"),
        operator.backend("numba"),
    ):
        pass


def test_interrupted_import_is_finished_first(unknown):
    """Half an import of numba would break every later call."""
    steps = []

    def slow_import(name):
        signal.raise_signal(signal.SIGINT)
        steps.append(name)
        return sys.modules[name]

    importlib.import_module("kanlib.kernels.cpu")
    operator._launcher.cache_clear()
    unknown.setattr(importlib, "import_module", slow_import)
    with pytest.raises(KeyboardInterrupt):
        make_layer()(torch.rand(4, 3, dtype=torch.float64))
    assert steps == ["kanlib.kernels.cpu"]
    assert operator.has_numba()


def test_kernels_run_where_the_compiler_is_switched_off():
    """Numba's own switch for debugging: one warning, and the same numbers."""
    code = """
import warnings
import torch
from kanlib.kernels import operator
from kanlib import KAN
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for _ in range(2):
        KAN([2, 3, 1])(torch.rand(3, 2)).sum().backward()
assert len(told) == 1, told
assert not operator.has_numba()
"""
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_every_thread_chooses_its_back_end():
    """Also where blocks overlap in time; the choice ends with the block."""
    both = threading.Barrier(2, timeout=120)
    seen = {}

    def work(name):
        for _ in range(2):
            with operator.backend(name):
                both.wait()
                seen.setdefault(name, []).append(operator._choice.name)
                both.wait()
        seen[name].append(operator._choice.name)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("torch", "numba")]
    with operator.backend("torch"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == {name: [name, name, "auto"] for name in ("torch", "numba")}
    assert operator._choice.name == "auto"


def test_kernels_are_compiled_once_for_each_dtype():
    """What has been tried out is what runs: nothing is compiled where nobody would catch it."""
    from kanlib.kernels import cpu_numba

    for dtype in (torch.float32, torch.float64):
        for points in (GRIDS[0], GRIDS[1]):
            layer = make_layer(points, dtype=dtype)
            for channels in CHANNELS:
                z, pairs = jets(layer.grid, 9, 3, channels)
                run("numba", layer, z.to(dtype), pairs, torch.ones(len(z), 9, 5, dtype=dtype))
    for kernel in (cpu_numba.forward, cpu_numba.backward, cpu_numba.lay_out):
        assert len(kernel.signatures) == 2


def test_kept_code_is_named_after_its_sources():
    from kanlib.kernels import cpu_numba, cpu_vectors

    modules = (cpu_numba, cpu_vectors)
    sources = b"".join(Path(module.__file__).read_bytes() for module in modules)
    digest = hashlib.sha256(sources).hexdigest()[:12]
    assert {*Path(cpu_numba.forward.stats.cache_path).glob(f"cpu_numba.forward_{digest}-*.nbi")}


@pytest.mark.slow
def test_change_of_the_vectors_is_seen_by_kernels_that_are_kept(tmp_path):
    """In a copy of the sources, after lanes have been put in another order."""
    from kanlib.kernels import cpu_numba

    copy = tmp_path / "kanlib" / "kernels"
    copy.mkdir(parents=True)
    (copy / "__init__.py").touch()
    (copy.parent / "__init__.py").touch()
    for name in ("cpu_numba.py", "cpu_vectors.py"):
        (copy / name).write_bytes((Path(cpu_numba.__file__).parent / name).read_bytes())
    code = """
import numpy as np
from kanlib.kernels import cpu_numba as kernels
source, target = np.arange(16.0).reshape(1, 4, 1, 4), np.zeros((1, 1, 4, 4))
kernels.lay_out(source, target, 0, 1)
hits = kernels.lay_out.stats.cache_hits.values()
print(int((target[0, 0] == source[0, :, 0].T).all()), sum(hits))
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path)}

    def ask():
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return run.stdout.split()

    assert ask() == ["1", "0"]
    assert ask() == ["1", "1"]
    vectors = (copy / "cpu_vectors.py").read_text()
    order = "size * (i % 2) for i in range(2 * size)"
    assert order in vectors
    (copy / "cpu_vectors.py").write_text(vectors.replace(order, order.replace("% 2", "% 1")))
    assert ask() == ["0", "0"]


def test_vectors_may_be_added_in_any_order_and_products_fused():
    import numba

    from kanlib.kernels.cpu_vectors import load, store

    @numba.njit
    def square_and_add(x):
        v = load(x, (0,))
        store(x, (0,), v * v + v)

    x = np.arange(4.0)
    square_and_add(x)
    assert x.tolist() == [0.0, 2.0, 6.0, 12.0]
    code = square_and_add.inspect_llvm(square_and_add.signatures[0])
    for operation in ("fmul", "fadd"):
        assert re.search(rf"{operation} (reassoc contract|contract reassoc) <4 x double>", code)


def test_choice_is_automatic(monkeypatch):
    """The fused kernel runs by default, and not where the reference was asked for."""
    from kanlib.kernels import cpu

    calls = []
    original = cpu.forward
    monkeypatch.setattr(cpu, "forward", lambda *a: calls.append(1) or original(*a))
    layer = make_layer()
    x = torch.rand(4, 3, dtype=torch.float64)
    layer(x)
    assert len(calls) == 1
    with operator.backend("torch"):
        layer(x)
    assert len(calls) == 1


def hessian(layer, x):
    return torch.func.hessian(lambda x: layer(x).sum())(x)


def gradients_of_gradients(layer, x):
    x.requires_grad_()
    slope = torch.autograd.grad(layer(x).sum(), x, create_graph=True)[0]
    return torch.autograd.grad(slope.square().sum(), layer.weight)


def in_half_precision(layer, x):
    points, table = (each.to(torch.bfloat16) for each in layer.pieces())
    splines = Splines(layer.weight.bfloat16(), points, table)
    return operator.evaluate(x[None].bfloat16(), splines)


REASONS = {
    hessian: "they have no rule for Grad, Jvp",
    gradients_of_gradients: "their gradients are differentiated",
    in_half_precision: "they compute in float32 and float64, not in torch.bfloat16",
}


@pytest.mark.parametrize(("use", "reason"), REASONS.items())
def test_log_says_once_why_a_fused_kernel_is_not_used(use, reason, caplog):
    operator._tell.cache_clear()
    layer, x = make_layer(), torch.rand(4, 3, dtype=torch.float64)
    with caplog.at_level("INFO", logger=operator.__name__):
        layer(x)
        vmap(layer)(x[None])
        layer.half()(x.half())  # computes in single precision, by the fused kernel
        layer.double()
        with operator.backend("torch"):
            use(layer, x.clone())
        assert caplog.messages == []
        for _ in range(2):
            use(layer, x.clone())
    assert [message.rpartition(": ")[2] for message in caplog.messages] == [reason]
    assert {record.name for record in caplog.records} == {"kanlib.kernels.operator"}


def test_log_is_not_written_while_compiling(caplog):
    operator._tell.cache_clear()
    torch._dynamo.reset()
    with caplog.at_level("INFO", logger=operator.__name__):
        compiled = torch.compile(
            partial(in_half_precision, make_layer()), backend="eager", fullgraph=True
        )
        assert compiled(torch.rand(4, 3, dtype=torch.float64)).shape == (1, 4, 5)
    assert caplog.messages == []
    torch._dynamo.reset()


def test_kernels_are_compiled_where_they_cannot_be_kept():
    code = """
from numba.core import caching
caching.FunctionCache._impl_class._locator_classes = []
import torch
from kanlib.kernels import cpu
x = torch.rand(1, 3, 2, 5)
assert torch.equal(cpu._transposed(x)[..., :3], x.permute(0, 2, 3, 1))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
