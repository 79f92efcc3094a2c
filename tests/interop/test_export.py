"""Networks in other programs: NumPy without torch, SciPy's splines, torch.export, ONNX, C++."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch import nn

from kanlib import KAN, MLP, Jet, KnotGrid, SplineLayer, propagate
from kanlib.interop import plain
from kanlib.interop.branches import BranchedLayer
from kanlib.interop.export import to_bspline, to_numpy, to_onnx
from kanlib.interop.weights import from_efficient_kan
from tests.interop.test_weights import efficient_state, pykan

F64 = {"dtype": torch.float64}
GRADED = [0.0, 0.1, 0.15, 0.6, 1.0]


def own_grids():
    grids = [KnotGrid(4, [0, 0.2, 1]), KnotGrid(4, [0, 0.7, 1])]
    return nn.Sequential(SplineLayer(2, 3, grids, init_scale=1.0, **F64), nn.Tanh())


NETWORKS = {
    "cubic": lambda: KAN([2, 3, 1], init_scale=1.0, **F64),
    "graded": lambda: KAN([2, 3, 2], breakpoints=GRADED, extension="clamp", init_scale=1.0, **F64),
    "zero outside": lambda: KAN([2, 2], n=3, r=3, extension="none", init_scale=1.0, **F64),
    "steps": lambda: KAN([2, 2], n=7, r=1, init_scale=1.0, **F64),
    "relu basis": lambda: KAN([2, 3, 1], basis="relu", first="affine", init_scale=1.0, **F64),
    "free": lambda: KAN([2, 3, 1], init_scale=1.0, **F64).free("input"),
    "refined": lambda: KAN([2, 3, 1], init_scale=1.0, r=5, first="linear", **F64).refine(),
    "maps": lambda: KAN(
        [2, 3, 1], domain=(-1, 1), input_domain=[(0, 2), (-3, 1)], normalisation="tanh",
        init_scale=1.0, **F64,
    ),
    "sigmoid": lambda: KAN([2, 3, 1], normalisation="sigmoid", init_scale=1.0, **F64),
    "own grids": own_grids,
    "perceptron": lambda: MLP([2, 5, 5, 1], "tanh", input_domain=[(0, 2), (-3, 1)], **F64),
    "silu": lambda: MLP([2, 5, 1], "silu", **F64),
    "pykan": lambda: pykan("adapted"),
    "efficient-kan": lambda: from_efficient_kan(efficient_state([2, 3, 1])),
}  # fmt: skip


def points(count=100, like=torch.float64):
    """Return points (N, 2) in [0, 1], on its ends, and outside."""
    x = 3 * torch.rand(count, 2, generator=torch.Generator().manual_seed(1), **F64) - 1
    x[0], x[1] = 0.0, 1.0
    return x.to(like)


def slopes(model, x):
    """Return the derivatives (N, Q, P) of a network, by autograd."""
    return torch.func.vmap(torch.func.jacrev(lambda row: model(row[None])[0]))(x)


@pytest.mark.parametrize("name", NETWORKS)
def test_plain_numpy_has_the_values_and_derivatives(name, tmp_path):
    torch.manual_seed(0)
    model, x = NETWORKS[name](), points()
    to_numpy(model, tmp_path / "network.npz")
    network = plain.Network(tmp_path / "network.npz")
    slope = network.jacobian(x.numpy())[1]
    expected = model(x).detach().numpy()
    np.testing.assert_allclose(network(x.numpy()), expected, atol=1e-12 * np.abs(expected).max())
    between = x[2:]  # at knots and ends a spline of low order has two derivatives
    size = np.abs(slope).max() + 1
    np.testing.assert_allclose(slope[2:], slopes(model, between).detach(), atol=1e-11 * size)


def test_plain_numpy_runs_without_torch_and_has_a_hundred_lines(tmp_path):
    torch.manual_seed(0)
    model, x = KAN([2, 4, 1], init_scale=1.0).double(), points(20)
    to_numpy(model, tmp_path / "surrogate.npz")
    program = (
        "import sys, json, numpy as np; sys.modules['torch'] = sys.modules['kanlib'] = None; "
        "from surrogate import Network; "
        f"y = Network('surrogate.npz')(np.array({x.tolist()})); print(json.dumps(y.tolist()))"
    )
    output = subprocess.check_output(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PATH": ""}, timeout=100
    )
    np.testing.assert_allclose(json.loads(output), model(x).detach(), atol=1e-13)
    assert len((tmp_path / "surrogate.py").read_text().splitlines()) < 100


def test_plain_numpy_of_single_precision_is_near(tmp_path):
    model, x = KAN([2, 3, 1], init_scale=1.0), points()
    to_numpy(model, tmp_path / "network.npz")
    arrays = dict(np.load(tmp_path / "network.npz"))
    assert {array.dtype for array in arrays.values()} == {np.dtype("float64")}
    y = plain.Network(tmp_path / "network.npz")(x.numpy())
    np.testing.assert_allclose(y, model(x.float()).detach(), atol=1e-5)


class Twice(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked():
    model = KAN([2, 1])
    model.layers[0].register_forward_hook(lambda module, x, y: 2 * y)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(Twice(2, 1)), "Twice has the forward method of Twice"),
        (hooked(), "SplineLayer has forward hooks"),
        (nn.Sequential(nn.GELU()), "got GELU: use to_onnx"),
        (pykan("identity"), "model must have SiLU beside its splines"),
        (None, "got NoneType: use to_onnx"),
    ],
)
def test_networks_that_plain_numpy_has_not_are_refused(model, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        to_numpy(model, tmp_path / "x.npz")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("file", ["x.py", "x", 3])
def test_file_of_another_kind_is_refused(file):
    with pytest.raises(ValueError, match=r"file must be a path that ends in \.npz"):
        to_numpy(KAN([2, 1]), file)


@pytest.mark.parametrize("name", ["cubic", "graded", "relu basis", "free", "own grids"])
def test_splines_of_edges_add_up_to_the_layer(name):
    torch.manual_seed(0)
    layer = next(part for part in NETWORKS[name]().modules() if isinstance(part, SplineLayer))
    x = torch.rand(50, layer.in_features, **F64)
    for q in range(layer.out_features):
        edges = [to_bspline(layer, q, p) for p in range(layer.in_features)]
        assert all(isinstance(edge, BSpline) and edge.k == layer.order - 1 for edge in edges)
        found = sum(edge(x[:, p]) for p, edge in enumerate(edges))
        np.testing.assert_allclose(found, layer(x)[:, q].detach(), atol=1e-10)
        assert np.isnan(edges[0]([-0.1, 1.1])).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((nn.Linear(1, 1), 0, 0), TypeError, "layer must be a SplineLayer"),
        ((SplineLayer(2, 3, KnotGrid.uniform(2, 2)), 3, 0), ValueError, "output must be at most 2"),
        ((SplineLayer(2, 3, KnotGrid.uniform(2, 2)), 0, 2), ValueError, "input must be at most 1"),
    ],
)
def test_edges_that_there_are_not_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        to_bspline(*arguments)


@pytest.mark.parametrize("strict", [False, True])
def test_exported_program_holds_plain_operators_and_takes_any_batch(strict, tmp_path):
    model = KAN([2, 3, 1], normalisation="tanh", **F64).eval()
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(model, (points(),), dynamic_shapes=(batch,), strict=strict)
    assert "kanlib" not in str(program.graph)
    torch.export.save(program, tmp_path / "kan.pt2")
    again = torch.export.load(tmp_path / "kan.pt2").module()
    for count in (3, 250):
        torch.testing.assert_close(again(points(count)), model(points(count)), rtol=0, atol=1e-14)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="it compiles C++")
def test_compiled_program_of_aotinductor_is_the_network(tmp_path):
    model = KAN([2, 2, 1], n=3, init_scale=1.0, **F64).eval()
    batch = {0: torch.export.Dim("batch", min=2)}
    program = torch.export.export(model, (points(),), dynamic_shapes=(batch,))
    file = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "k.pt2"))
    compiled = torch._inductor.aoti_load_package(file)
    for count in (3, 250):
        found = compiled(points(count))
        torch.testing.assert_close(found, model(points(count)), rtol=1e-12, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["single", "pykan"])
def test_onnx_agrees_in_values_and_first_derivatives(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = KAN([2, 3, 1], first="affine", init_scale=1.0) if name == "single" else pykan("plain")
    dtype = next(model.parameters()).dtype
    to_onnx(model, tmp_path / "kan.onnx", 2, derivatives=True)
    session = onnxruntime.InferenceSession(tmp_path / "kan.onnx")
    for count in (3, 250):
        x = points(count, dtype)
        y, slope = session.run(["y", "dy_dx"], {"x": x.numpy()})
        with torch.no_grad():
            u = propagate(model, Jet.at(x))
            found = torch.stack([u.d(0), u.d(1)], dim=2)
        np.testing.assert_allclose(y, u.value, rtol=0, atol=1e-6 * float(u.value.abs().max()))
        np.testing.assert_allclose(slope, found, rtol=0, atol=1e-6 * float(found.abs().max()))


@pytest.mark.slow
def test_onnx_of_the_exporter_of_torch_needs_no_setting(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, x = KAN([2, 3, 1], basis="relu").eval(), points(20, torch.float32)
    torch.onnx.export(model, (x,), tmp_path / "kan.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "kan.onnx")
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(y, model(x).detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((None, "x.onnx", 2), TypeError, "model must be an nn.Module, got None"),
        ((KAN([2, 1]), "x.onnx", 0), ValueError, "inputs must be at least 1, got 0"),
    ],
)
def test_onnx_names_a_bad_argument(arguments, error, message):
    with pytest.raises(error, match=message):
        to_onnx(*arguments)


def test_branched_layer_of_a_norm_is_refused_in_plain_numpy(tmp_path):
    layer = BranchedLayer(SplineLayer(2, 1, KnotGrid.uniform(3, 2)), "silu", nn.LayerNorm(2))
    with pytest.raises(TypeError, match="no LayerNorm before splines"):
        to_numpy(nn.Sequential(layer), tmp_path / "x.npz")
