"""The GPU kernels: interpreted and compiled on any machine, and run where there is a GPU."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from grids import GRID_NAMES, GRIDS
from test_operators import assert_close, jets, make_layer, run
from torch._subclasses import FakeTensorMode

from kanlib import KAN
from kanlib._checks import EXTENSIONS
from kanlib.kernels import operator
from kanlib.nn.ensemble import Ensemble

needs_triton = pytest.mark.skipif(not operator.has_triton(), reason="needs Triton, on Linux")
#: A build of torch for GPUs pretends to have tensors there only where a driver is.
needs_fakes = pytest.mark.skipif(
    torch.version.cuda is not None and not torch.cuda.is_available(),
    reason="this build of torch needs a driver for pretended tensors of a GPU",
)
needs_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and operator.has_triton()), reason="needs a GPU and Triton"
)
every_grid = pytest.mark.parametrize("points", GRIDS[:3], ids=GRID_NAMES[:3])


@pytest.fixture
def deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


# On any machine


@needs_triton
@pytest.mark.slow
def test_interpreted_kernels_agree_with_the_reference():
    """Triton decides when it is imported whether it interprets, so this takes a new process."""
    tests = Path(__file__).with_name("interpreted.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(tests)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("name", ["_forward", "_backward", "_by_rows_in_order"])
def test_kernels_compile_without_tensor_cores(name, large, dtype, tmp_path, monkeypatch):
    """For sizes of which all are one, which the compiler knows as constants, or none is."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from kanlib.kernels import gpu_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"FIRST": 3, "CHANNELS": 5, "PAIRS": (0, 0, 0, 1), "ORDER": 4, "STRIDE": 1}
    constants |= {"SEARCH": 3, "PIECEWISE": True, "EXTENSION": 0, "C": 8, "B": 8, "Q": 16, "R": 16}
    if not large:
        sizes = ("points", "inputs", "outputs", "size", "n")
        constants |= dict.fromkeys(("FIRST", "CHANNELS", "ORDER", "C", "Q", *sizes), 1)
        constants |= {"PAIRS": (), "SEARCH": 0, "PIECEWISE": False, "EXTENSION": 2}
    constants |= {"TO_X": True, "TO_ROWS": True}
    kernel = getattr(gpu_triton, name)
    types = {}
    for argument in inspect.signature(kernel.fn).parameters:
        if argument in constants:
            types[argument] = "constexpr"
        elif argument in ("x", "rows", "tables", "grad", "y", "by_x", "by_rows"):
            types[argument] = f"*{dtype}"
        else:
            types[argument] = "*fp64" if argument == "breakpoints" else "i32"
    constants = {name: value for name, value in constants.items() if name in types}
    compiled = triton.compile(ASTSource(kernel, types, constants), target=GPUTarget("cuda", 80, 32))
    assert "cubin" in compiled.asm
    assert "tf32" not in compiled.asm["ptx"]
    assert "mma" not in compiled.asm["ptx"]


@needs_triton
@needs_fakes
@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("auto", torch.float32, False),  # until the kernels have run on a GPU
        ("triton", torch.float64, True),
        ("triton", torch.float32, True),
        ("triton", torch.int64, False),
        ("numba", torch.float32, False),
        ("torch", torch.float32, False),
    ],
)
def test_tensors_of_a_gpu_take_triton_where_it_was_asked_for(name, dtype, expected, monkeypatch):
    if name == "numba" and not operator.has_numba():
        pytest.skip("needs numba")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with FakeTensorMode(), operator.backend(name):
        assert operator._fits(torch.empty(1, 3, 2, dtype=dtype, device="cuda"), 2) == expected


@needs_triton
@needs_fakes
def test_third_derivatives_on_a_gpu_go_through_the_reference(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    operator._tell.cache_clear()
    with FakeTensorMode(), operator.backend("triton"), caplog.at_level("INFO", "kanlib"):
        z = torch.empty(4, 3, 2, device="cuda")
        assert operator._fits(z, 2)
        assert not operator._fits(z, 3)
    assert [m.rpartition(": ")[2] for m in caplog.messages] == [
        "those for cuda know no derivatives of order 3"
    ]


@needs_triton
def test_tensors_of_the_cpu_take_the_reference_where_triton_was_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    layer = make_layer()
    x = torch.rand(4, 3, dtype=torch.float64)
    with operator.backend("torch"):
        expected = layer(x)
    with operator.backend("triton"):
        assert torch.equal(layer(x), expected)


@needs_triton
def test_triton_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with (
        pytest.raises(RuntimeError, match=r"'triton' needs a CUDA device.*choose 'auto'"),
        operator.backend("triton"),
    ):
        pass


def test_everything_works_without_triton():
    code = """
import sys
sys.modules["triton"] = None
import torch
from kanlib.kernels import operator
from kanlib import KAN
model = KAN([2, 5, 1])
model(torch.rand(9, 2)).sum().backward()
assert all(p.grad is not None for p in model.parameters())
assert not operator.has_triton()
assert not operator._fits(torch.empty(1, 3, 2, device="meta"), 1)
from torch._subclasses import FakeTensorMode
with FakeTensorMode():
    assert not operator._fits(torch.empty(1, 3, 2, device="cuda"), 1)
try:
    operator.backend("triton").__enter__()
except ModuleNotFoundError as error:
    assert "pip install triton" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# On a GPU


def moved(layer, channels, count=300, dtype=torch.float64):
    """Return a layer on the GPU, channels around its grid, pairs, and a direction of outputs."""
    layer = layer.to("cuda", dtype)
    z, pairs = jets(layer.grid, count, layer.in_features, channels)
    direction = torch.randn(len(z), count, layer.out_features, dtype=dtype)
    return layer, z.to("cuda", dtype), pairs, direction.cuda()


@needs_gpu
@pytest.mark.parametrize("r", [1, 2, 4, 6])
@pytest.mark.parametrize("channels", ["value", "first", "second"])
@every_grid
@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_back_ends_agree_on_a_gpu(extension, basis, points, channels, r):
    given = moved(make_layer(points, r, basis=basis, extension=extension), channels)
    expected, computed = (run(name, *given) for name in ("torch", "triton"))
    assert_close(computed, expected, 1e-12)


@needs_gpu
@pytest.mark.parametrize("outputs", [1, 7, 33, 64])
@pytest.mark.parametrize("inputs", [1, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_back_ends_agree_for_all_sizes_on_a_gpu(dtype, inputs, outputs):
    for count in (1, 127, 1000):
        layer = make_layer([i / 60 for i in range(61)], 4, inputs, outputs)
        given = moved(layer, "second", max(count, 61), dtype)
        given = given[0], given[1][:, :count], given[2], given[3][:, :count]
        expected, computed = (run(name, *given) for name in ("torch", "triton"))
        assert_close(computed, expected, 1e-12 if dtype == torch.float64 else 3e-5)


@needs_gpu
def test_gradients_have_the_same_bits_where_that_is_asked_for(deterministic):
    given = moved(make_layer(inputs=9, outputs=17), "second", 5000, torch.float32)
    first, second = (run("triton", *given) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@needs_gpu
def test_single_precision_is_kept_where_tf32_is_allowed(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    given = moved(make_layer(inputs=40, outputs=40), "value", 1000, torch.float32)
    computed = run("triton", *given)
    exact = run("torch", given[0].double(), given[1].double(), given[2], given[3].double())
    for a, b in zip(computed, exact, strict=True):
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


@needs_gpu
def test_compiled_network_and_its_gradients_agree_on_a_gpu():
    torch._dynamo.reset()
    model = KAN([2, 5, 1], n=8, dtype=torch.float64).cuda()
    x = torch.rand(500, 2, dtype=torch.float64, device="cuda")
    results = []
    for call in (model, torch.compile(model, fullgraph=True)):
        model.zero_grad()
        with operator.backend("triton"):
            y = call(x)
        y.square().sum().backward()
        results.append([y, *(p.grad.clone() for p in model.parameters())])
    assert_close(results[1], results[0], 1e-12)
    torch._dynamo.reset()


@needs_gpu
def test_ensemble_equals_its_members_on_a_gpu():
    members = [KAN([2, 5, 1], n=8, dtype=torch.float64).cuda() for _ in range(3)]
    ensemble = Ensemble(members)
    x = torch.rand(500, 2, dtype=torch.float64, device="cuda")
    with operator.backend("triton"):
        y = ensemble(x)
    assert_close(y, [member(x) for member in members], 1e-12)
    y.square().sum().backward()
    for member in members:
        member(x).square().sum().backward()
    for stacked, *each in zip(ensemble.stacked, *(m.parameters() for m in members), strict=True):
        assert_close(stacked.grad, [p.grad for p in each], 1e-12)
