"""Weights of other libraries: the same functions, by formulas written from their definitions."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from kanlib import (
    Ensemble,
    GaussNewton,
    Jet,
    KnotGrid,
    MeanSquaredError,
    SplineLayer,
    propagate,
    train_multilevel,
)
from kanlib.analysis.importance import importance
from kanlib.analysis.pruning import prune
from kanlib.formulas.formula import formula
from kanlib.interop.branches import BranchedLayer
from kanlib.interop.weights import from_efficient_kan, from_fast_kan, from_pykan
from kanlib.viz.drawings import draw_network

PYKAN = torch.load(Path(__file__).parent / "pykan.pt", weights_only=True)
LOADED = ("plain", "adapted", "identity", "zero")
BASES = {"identity": "identity", "zero": None}


def pykan(name):
    return from_pykan(PYKAN[name]["state"], BASES.get(name, "silu"))


def silu(x):
    return x / (1 + np.exp(-x))


def basis(x, knots, degree):
    """Return B-splines (N, n + degree) of all knots, zero beyond them, by SciPy."""
    parts = [
        BSpline.basis_element(knots[i : i + degree + 2], extrapolate=False)(x)
        for i in range(len(knots) - degree - 1)
    ]
    return np.nan_to_num(np.stack(parts, axis=-1))


def efficient_state(widths, n=5, degree=3, dtype=torch.float64, adapted=False, scaler=True):
    """Return a state with the names and shapes of efficient-kan."""
    generator, state = torch.Generator().manual_seed(3), {}
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    for i, (p, q) in enumerate(pairwise(widths)):
        steps = torch.full((p, n + 2 * degree), 2 / n, dtype=torch.float64)
        if adapted:
            steps = steps * (1 + torch.rand(steps.shape, generator=generator)) ** 2
        grid = torch.cat([torch.zeros(p, 1).double(), steps.cumsum(1)], 1) - 1 - degree * 2 / n
        state |= {
            f"layers.{i}.base_weight": draw(q, p),
            f"layers.{i}.spline_weight": draw(q, p, n + degree),
            f"layers.{i}.grid": grid,
        }
        if scaler:
            state[f"layers.{i}.spline_scaler"] = draw(q, p)
    return {name: value.to(dtype) for name, value in state.items()}


def efficient(state, x, degree=3):
    """Return the values of efficient-kan: a linear map of silu(x), and scaled splines."""
    for i in range(len([name for name in state if name.endswith("grid")])):
        part = {
            name.split(".")[-1]: value.double().numpy()
            for name, value in state.items()
            if name.startswith(f"layers.{i}.")
        }
        y = silu(x) @ part["base_weight"].T
        for p, knots in enumerate(part["grid"]):
            weight = part["spline_weight"][:, p]
            if "spline_scaler" in part:
                weight = part["spline_scaler"][:, p, None] * weight
            y = y + basis(x[:, p], knots, degree) @ weight.T
        x = y
    return x


def points(count=200, inputs=2, dtype=torch.float64):
    """Return points in, around and far from [-1, 1]."""
    x = torch.randn(count, inputs, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return 2 * x


@pytest.mark.parametrize("name", LOADED)
def test_network_of_pykan_is_the_same_function(name):
    found = pykan(name)(PYKAN["x"]).detach()
    expected = PYKAN[name]["y"]
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()
    assert (PYKAN["x"].abs() > 2).any()  # beyond the last knots, too


def test_pruned_edge_of_pykan_stays_zero():
    layer = pykan("adapted").layers[0]
    assert layer.splines.weight[1, 0].abs().max() == layer.base.weight[1, 0] == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("symbolic", "layer 0 has a formula on the edge from input 0 to output 0"),
        ("product", "layer 0 multiplies 3 values into 2 units"),
    ],
)
def test_network_of_pykan_that_is_no_spline_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        pykan(name)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("scaler", [False, True])
def test_network_of_efficient_kan_is_the_same_function(adapted, degree, scaler):
    state = efficient_state([2, 3, 1], n=4, degree=degree, adapted=adapted, scaler=scaler)
    x = points()
    expected = efficient(state, x.numpy(), degree)
    found = from_efficient_kan(state)(x).detach().numpy()
    assert np.abs(found - expected).max() < 1e-12 * np.abs(expected).max()


def test_knots_that_are_equal_up_to_single_precision_are_uniform():
    model = from_efficient_kan(efficient_state([2, 3, 1], dtype=torch.float32))
    assert all(layer.grid.is_uniform for layer in model.spline_layers)
    x = points(dtype=torch.float32)
    expected = efficient(efficient_state([2, 3, 1], dtype=torch.float32), x.double().numpy())
    assert np.abs(model(x).detach().numpy() - expected).max() < 1e-4 * np.abs(expected).max()


def fast_state(widths, centres=8, base=True):
    """Return a state with the names and shapes of fast-kan."""
    generator, state = torch.Generator().manual_seed(4), {}
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    for i, (p, q) in enumerate(pairwise(widths)):
        state |= {
            f"layers.{i}.layernorm.weight": 1 + 0.3 * draw(p),
            f"layers.{i}.layernorm.bias": 0.3 * draw(p),
            f"layers.{i}.rbf.grid": torch.linspace(-2, 2, centres, dtype=torch.float64),
            f"layers.{i}.spline_linear.weight": draw(q, p * centres),
        }
        if base:
            state |= {
                f"layers.{i}.base_linear.weight": draw(q, p),
                f"layers.{i}.base_linear.bias": draw(q),
            }
    return state


def fast(state, x, layers, base=True):
    """Return the values of fast-kan: Gaussians of normed inputs, and a linear map of silu(x)."""
    for i in range(layers):
        part = {
            name.split(".", 2)[2]: value.numpy()
            for name, value in state.items()
            if f".{i}." in name
        }
        mean, spread = x.mean(1, keepdims=True), x.var(1, keepdims=True)
        z = (x - mean) / np.sqrt(spread + 1e-5) * part["layernorm.weight"] + part["layernorm.bias"]
        centres = part["rbf.grid"]
        phi = np.exp(-(((z[..., None] - centres) / (4 / (len(centres) - 1))) ** 2))
        y = phi.reshape(len(x), -1) @ part["spline_linear.weight"].T
        if base:
            y = y + silu(x) @ part["base_linear.weight"].T + part["base_linear.bias"]
        x = y
    return x


@pytest.mark.parametrize("base", [True, False])
def test_network_of_fast_kan_is_as_near_as_it_says(base):
    state = fast_state([3, 2], base=base)
    x = points(inputs=3)
    expected = fast(state, x.numpy(), 1, base)
    before = None
    for n in (32, 64, 128):
        model, error = from_fast_kan(state, n=n, r=4)
        off = np.abs(model(x).detach().numpy() - expected).max()
        assert off <= 3 * error  # three edges enter each output
        if before is not None:
            assert error < before / 12  # fourth order
        before = error
    assert error < 3e-5


def test_deep_network_of_fast_kan_is_near():
    state = fast_state([3, 4, 1])
    x = points(inputs=3)
    found = from_fast_kan(state, n=256, r=6).model(x).detach().numpy()
    assert np.abs(found - fast(state, x.numpy(), 2)).max() < 1e-6


@pytest.mark.parametrize("change", ["refine", "relu", "free", "saved", "ensemble"])
def test_loaded_network_stays_the_same_function(change, tmp_path):
    model, x = pykan("adapted"), points()
    expected = model(x).detach()
    if change == "refine":
        other = model.refine()
        assert [layer.n for layer in other.spline_layers] == [16, 16]
    elif change == "relu":
        other = model.to_basis("relu")
    elif change == "free":
        other = model.free()
    elif change == "ensemble":
        other = Ensemble([model, model])
    else:
        torch.save(model.state_dict(), tmp_path / "state.pt")
        other = pykan("adapted").refine().refine()
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        with pytest.raises(RuntimeError, match="n = 8"):
            other.load_state_dict(state)
        other = pykan("adapted")
        torch.nn.init.zeros_(other.layers[0].base.weight)
        other.load_state_dict(state)
    found = other(x)
    found = found[0] if change == "ensemble" else found
    tolerance = 1e-6 if change == "relu" else 1e-12
    assert (found - expected).abs().max() < tolerance * expected.abs().max()


def test_loaded_network_has_derivatives_by_propagation():
    model, x = pykan("plain"), points(20).requires_grad_()
    u = propagate(model, Jet.at(x.detach(), pairs=[(0, 0)]))
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope[:, 0].sum(), x)
    torch.testing.assert_close(u.d(1)[:, 0], slope[:, 1])
    torch.testing.assert_close(u.d(0, 0)[:, 0], bend[:, 0])


def test_loaded_network_goes_on_over_levels_with_gauss_newton():
    torch.manual_seed(0)
    model, x = pykan("plain"), 0.9 * (2 * torch.rand(300, 2, dtype=torch.float64) - 1)
    objective = MeanSquaredError(x, torch.sin(3 * x[:, :1]) * x[:, 1:])
    before = float(objective(model).detach())
    run = train_multilevel(model, objective, [20, 10], optimizer=GaussNewton(), progress=False)
    assert run.loss < 1e-3 * before
    assert [level.n for level in run.levels] == [9, 18]


@pytest.mark.parametrize("load", [from_pykan, from_efficient_kan, from_fast_kan])
@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (None, TypeError, "state must be a dict of names and tensors"),
        ({"a": 1}, TypeError, "state must be a dict of names and tensors"),
        ({}, ValueError, "state must be that of a network of"),
        ({"weight": torch.ones(2)}, ValueError, r"got \['weight'\]"),
    ],
)
def test_foreign_states_are_refused(load, state, error, message):
    with pytest.raises(error, match=message):
        load(state)


def test_incomplete_state_is_refused():
    state = efficient_state([2, 1])
    del state["layers.0.base_weight"]
    with pytest.raises(ValueError, match=r"'layers\.0\.base_weight' is missing"):
        from_efficient_kan(state)


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("layers.1.base_weight", (1, 1), r"base weights of shape \(1, 3\).*got \(1, 1\)"),
        (
            "layers.0.spline_scaler",
            (3, 1),
            r"spline_scaler of shape \(3, 2\) in layer 0, got \(3, 1\)",
        ),
    ],
)
def test_shapes_of_a_state_must_fit(key, shape, message):
    state = efficient_state([2, 3, 1], scaler=True) | {key: torch.ones(shape, dtype=torch.float64)}
    with pytest.raises(ValueError, match=message):
        from_efficient_kan(state)


def test_layers_of_a_state_must_fit_each_other():
    first, second = efficient_state([2, 3, 1]), efficient_state([2, 4, 1])
    state = first | {key: value for key, value in second.items() if key.startswith("layers.1")}
    with pytest.raises(ValueError, match="layer 0 has 3 outputs and layer 1 has 4 inputs"):
        from_efficient_kan(state)


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.select([[0], [0, 1], [0]]),
        draw_network,
        lambda model: importance(model, points()),
        lambda model: prune(model, MeanSquaredError(points(), points()[:, :1]), points()),
        lambda model: formula(model, points()),
    ],
    ids=["select", "draw_network", "importance", "prune", "formula"],
)
def test_edges_that_are_more_than_splines_are_refused(use):
    with pytest.raises(ValueError, match=r"BranchedLayer as layer 0, whose edges.*: train a KAN"):
        use(from_efficient_kan(efficient_state([2, 3, 1])))


def test_branched_layer_refuses_bad_arguments():
    layer = SplineLayer(1, 1, KnotGrid.uniform(3, 2))
    with pytest.raises(ValueError, match="activation must be one of"):
        BranchedLayer(layer, "relu")
    with pytest.raises(TypeError, match="splines must be a SplineLayer, got Linear"):
        BranchedLayer(torch.nn.Linear(1, 1))
