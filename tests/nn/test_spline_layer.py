import copy
import io
import json
import pickle
import warnings

import numpy as np
import pytest
import scipy.interpolate
import torch
from grids import GRID_NAMES, GRIDS, ORDERS, grids, nested_grids
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call, grad, hessian, jacrev, stack_module_state, vmap
from torch.nn.utils import parametrizations, prune

from kanlib import KnotGrid, SplineLayer
from kanlib._checks import BASES, EXTENSIONS
from kanlib.kernels.operator import backend
from kanlib.nn.spline_layer import convert_weights
from kanlib.splines import bspline, truncated_power
from kanlib.splines.change_of_basis import ChangeOfBasis
from kanlib.splines.prolongation import prolongation

EPS = np.finfo(float).eps
MODULES = {"spline": bspline, "relu": truncated_power}
every_grid = pytest.mark.parametrize("points", GRIDS, ids=GRID_NAMES)
every_order = pytest.mark.parametrize("r", ORDERS)
every_basis = pytest.mark.parametrize("basis", BASES)
every_extension = pytest.mark.parametrize("extension", EXTENSIONS)
#: Few outputs: edge polynomials are looked up. Many: a dense basis is multiplied.
NARROW, WIDE = 2, 11
every_width = pytest.mark.parametrize("outputs", [NARROW, WIDE], ids=["narrow", "wide"])


def make_layer(points=GRIDS[1], r=4, inputs=3, outputs=NARROW, seed=0, **options):
    torch.manual_seed(seed)
    options = {"dtype": torch.float64, "init_scale": 1.0} | options
    return SplineLayer(inputs, outputs, KnotGrid(r, points), **options)


def inputs_around(grid, count=60, features=3, seed=1):
    """Return points inside and outside the domain, with a few on breakpoints and at the ends."""
    a, b = grid.domain
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, features, generator=generator, dtype=torch.float64)
    x = a + (b - a) * (1.6 * x - 0.3)
    t = grid.breakpoints
    x[: len(t), 0] = t
    x[:2, 1], x[2:4, 1] = a, b
    return x


def magnitude(layer, x):
    """Return sum_j |w_j| |psi_j(x)|, the scale on which a backward stable evaluation errs."""
    module, grid = MODULES[layer.basis], layer.grid
    inside = x.clamp(*grid.domain)
    psi = module.dense_basis(inside, grid).abs()
    if layer.extension == "linear" and grid.order > 1:
        psi = psi + (x - inside).abs()[..., None] * module.dense_basis(inside, grid, 1).abs()
    return torch.einsum("...pi,qpi->...q", psi, layer.weight.detach().abs())


def roundtrip(state):
    """Save and load a state as a user would."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# Values and derivatives


@every_grid
@every_order
@every_width
def test_layer_is_a_sum_of_splines_over_its_inputs(points, r, outputs):
    layer = make_layer(points, r, outputs=outputs)
    grid, weight = layer.grid, layer.weight.detach().numpy()
    x = inputs_around(grid).clamp(*grid.domain)
    expected = np.zeros((len(x), outputs))
    for q in range(outputs):
        for p in range(3):
            spline = scipy.interpolate.BSpline(grid.knots.numpy(), weight[q, p], r - 1)
            expected[:, q] += spline(x[:, p])
    far = 1 + max(map(abs, grid.domain)) / min(np.diff(points))
    tolerance = 2e-14 * far * 2**r * np.abs(weight).max()
    np.testing.assert_allclose(layer(x).detach(), expected, atol=tolerance)


@every_grid
@every_order
@every_extension
def test_relu_layer_is_a_sum_of_truncated_powers(points, r, extension):
    layer = make_layer(points, r, basis="relu", extension=extension)
    x = inputs_around(layer.grid)
    psi = truncated_power.dense_basis(x, layer.grid, 0, extension)
    expected = torch.einsum("npi,qpi->nq", psi, layer.weight)
    assert ((layer(x) - expected).abs() <= 50 * EPS * magnitude(layer, x)).all()


@pytest.mark.parametrize("points", GRIDS[:3], ids=GRID_NAMES[:3])
@pytest.mark.parametrize("r", [1, 2, 4])
@every_extension
def test_both_contractions_agree_in_value_and_gradient(points, r, extension):
    """Which one runs depends on the number of outputs: the same weights go through each."""
    wide = make_layer(points, r, outputs=2 * NARROW + 16, extension=extension)
    assert wide.out_features > wide.grid.num_basis >= NARROW
    x = inputs_around(wide.grid).requires_grad_()
    y = wide(x)
    direction = torch.randn_like(y)
    slopes = torch.autograd.grad(y, (x, wide.weight), direction)
    sums = [torch.zeros_like(x), []]
    for first in range(0, wide.out_features, NARROW):
        part = slice(first, first + NARROW)
        narrow = make_layer(points, r, extension=extension)
        narrow.weight.data.copy_(wide.weight[part])
        torch.testing.assert_close(narrow(x), y[:, part], rtol=1e-13, atol=1e-13)
        by_x, by_weight = torch.autograd.grad(narrow(x), (x, narrow.weight), direction[:, part])
        sums[0] += by_x
        sums[1].append(by_weight)
    scale = slopes[0].abs().max().item()
    torch.testing.assert_close(sums[0], slopes[0], rtol=0, atol=1e-13 * scale)
    torch.testing.assert_close(torch.cat(sums[1]), slopes[1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("basis", "outputs"), [("spline", NARROW), ("spline", WIDE), ("relu", NARROW)]
)
@every_extension
def test_gradients_of_first_and_second_order_agree_with_differences(basis, outputs, extension):
    layer = make_layer([0.0, 0.5, 2.0], 4, 2, outputs, basis=basis, extension=extension)
    x = torch.tensor([[0.2, 1.1], [-0.4, 2.6]], dtype=torch.float64, requires_grad=True)
    weight = layer.weight.detach().requires_grad_()

    def evaluate(x, weight):
        return functional_call(layer, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(evaluate, (x, weight))
    assert torch.autograd.gradgradcheck(evaluate, (x, weight))


@pytest.mark.parametrize("r", [2, 3, 4, 5])
@pytest.mark.parametrize(("basis", "outputs"), [("spline", 1), ("spline", 19), ("relu", 1)])
@every_extension
def test_input_derivatives_by_autograd_agree_with_the_evaluated_ones(r, basis, outputs, extension):
    """First and second derivatives: between and at the breakpoints, at a and b, and outside."""
    layer = make_layer(GRIDS[1], r, 1, outputs, basis=basis, extension=extension)
    x = inputs_around(layer.grid, features=2)[:, :1].requires_grad_()
    slope = torch.autograd.grad(layer(x)[:, -1].sum(), x, create_graph=True)[0]
    derivatives = [slope, torch.autograd.grad(slope.sum(), x)[0]]
    for order, computed in enumerate(derivatives[: r - 1], start=1):
        dense = MODULES[basis].dense_basis(x[:, 0], layer.grid, order, extension)
        scale = (dense.abs() @ layer.weight[-1, 0].abs()).max().item()
        expected = dense @ layer.weight[-1, 0]
        torch.testing.assert_close(computed[:, 0], expected, rtol=0, atol=1e-13 * scale)


@every_width
def test_float32_layer_keeps_float32_accuracy_on_fine_grids(outputs):
    layer = make_layer(np.linspace(0, 1, 201), 4, outputs=outputs + 200)
    x = torch.rand(500, 3)
    exact = layer(x.double())
    computed = layer.float()(x)
    assert (computed - exact).abs().max() < 3e-6
    assert computed.dtype == torch.float32


# Shapes and bad input


@every_width
@every_basis
@pytest.mark.parametrize("shape", [(3,), (0, 3), (5, 3), (2, 0, 3), (2, 4, 3)])
def test_leading_dimensions_are_kept(outputs, basis, shape):
    layer = make_layer(outputs=outputs, basis=basis)
    x = torch.rand(shape, dtype=torch.float64)
    y = layer(x)
    assert y.shape == (*shape[:-1], outputs)
    torch.testing.assert_close(y.reshape(-1, outputs), layer(x.reshape(-1, 3)))


@every_width
@every_basis
@every_extension
@pytest.mark.parametrize("r", [1, 3])
def test_nan_stays_in_its_row(outputs, basis, extension, r):
    layer = make_layer(r=r, outputs=outputs, basis=basis, extension=extension)
    x = torch.rand(4, 3, dtype=torch.float64)
    x[2, 1] = float("nan")
    y = layer(x)
    assert y[2].isnan().all()
    assert y[[0, 1, 3]].isfinite().all()


@every_width
@every_basis
def test_strided_inputs_do_not_warn(outputs, basis):
    layer = make_layer(outputs=outputs, basis=basis)
    x = torch.rand(3, 8, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(layer(x.T), layer(x.T.contiguous()))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.rand(5, 2), ValueError, r"x must have 3 entries in its last dimension, .*\(5, 2\)"),
        (torch.tensor(0.5), ValueError, r"x must have 3 entries .* got shape \(\)"),
        (
            torch.rand(5, 3).double(),
            TypeError,
            r"torch\.float32, got torch\.float64: make or cast it",
        ),
        (torch.zeros(5, 3, dtype=torch.int64), TypeError, "x must be a floating-point tensor"),
        (np.zeros((5, 3)), TypeError, "x must be a floating-point tensor, got ndarray"),
        ([[0.0, 0.0, 0.0]], TypeError, "x must be a floating-point tensor, got list"),
    ],
)
@every_basis
def test_forward_refuses_bad_inputs(x, error, message, basis):
    layer = make_layer(basis=basis, dtype=torch.float32)
    with pytest.raises(error, match=message):
        layer(x)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"in_features": 0}, ValueError, "in_features must be at least 1, got 0"),
        ({"in_features": 2.0}, TypeError, r"in_features must be an integer .* got 2\.0"),
        ({"out_features": -1}, ValueError, "out_features must be at least 1, got -1"),
        ({"out_features": True}, TypeError, "out_features must be an integer .* got True"),
        ({"grid": 5}, TypeError, "grid must be a KnotGrid, or a list of them, got 5"),
        ({"basis": "bspline"}, ValueError, r"basis must be one of \('spline', 'relu'\), got 'bsp"),
        ({"init_basis": "w"}, ValueError, "basis must be one of .* got 'w'"),
        ({"extension": "zero"}, ValueError, "extension must be one of .* got 'zero'"),
        (
            {"init_scale": -1.0},
            ValueError,
            r"init_scale must be a finite number of at least 0, got -1\.0",
        ),
        ({"init_scale": float("nan")}, ValueError, "init_scale must be a finite .* got nan"),
        ({"init_scale": float("inf")}, ValueError, "init_scale must be a finite .* got inf"),
        ({"init_scale": "1"}, TypeError, "init_scale must be a finite .* got '1'"),
        ({"dtype": torch.int64}, TypeError, "floating-point"),
        ({"dtype": torch.complex64}, TypeError, r"dtype must be a floating-point type .* got .*64"),
        ({"prolonged_from": 5}, TypeError, "prolonged_from must be a KnotGrid, got 5"),
        ({"prolonged_from": KnotGrid.uniform(4, 3)}, ValueError, "not nested: .* lacks 2 break"),
        ({"prolonged_from": KnotGrid.uniform(3, 2)}, ValueError, "same order, got 3 and 4"),
    ],
)
def test_constructor_refuses_bad_arguments(options, error, message):
    arguments = {"in_features": 2, "out_features": 3, "grid": KnotGrid.uniform(4, 10)} | options
    if "dtype" in options and options["dtype"] == torch.int64:
        message = "floating.point|gradients"  # torch itself refuses integer parameters
    with pytest.raises((error, RuntimeError), match=message):
        SplineLayer(**arguments)


def test_sizes_may_be_integers_of_numpy():
    layer = SplineLayer(np.int64(2), np.int32(3), KnotGrid.uniform(4, 5))
    assert (layer.in_features, layer.out_features) == (2, 3)
    assert layer.weight.shape == (3, 2, 8)


# Initial weights


@pytest.mark.parametrize("init_basis", BASES)
@pytest.mark.parametrize("prolonged_from", [None, KnotGrid(3, [0.0, 0.25, 1.0])])
def test_a_seed_gives_one_function_in_every_dtype_and_basis(init_basis, prolonged_from):
    options = {"init_basis": init_basis, "prolonged_from": prolonged_from}
    points = [0.0, 0.25, 0.5, 1.0]
    reference = make_layer(points, 3, **options)
    x = inputs_around(reference.grid)
    expected = reference(x)
    scale = expected.abs().max().item()
    for basis in BASES:
        for dtype, accuracy in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
            y = make_layer(points, 3, basis=basis, dtype=dtype, **options)(x.to(dtype))
            torch.testing.assert_close(y.double(), expected, rtol=0, atol=accuracy * scale)


@every_basis
def test_initial_weights_are_scaled_normal_numbers_in_the_initial_basis(basis):
    layer = make_layer(inputs=40, outputs=50, basis=basis, init_basis=basis, init_scale=0.03)
    weight = layer.weight.detach()
    assert abs(weight.std() / 0.03 - 1) < 0.02
    assert abs(weight.mean()) < 1e-3
    torch.manual_seed(0)
    draw = 0.03 * torch.randn(50, 40, layer.grid.num_basis, dtype=torch.float64)
    torch.testing.assert_close(weight, draw, rtol=0, atol=0)
    other = make_layer(inputs=40, outputs=50, basis=basis, init_scale=0.06, init_basis=basis)
    torch.testing.assert_close(other.weight, 2 * layer.weight)


def test_zero_scale_gives_the_zero_function():
    assert not make_layer(init_scale=0.0).weight.any()


@every_basis
def test_prolonged_start_is_the_function_of_the_coarse_grid(basis):
    coarse = make_layer([0.0, 0.5, 1.0], basis=basis)
    points = [0.0, 0.25, 0.5, 0.7, 1.0]
    fine = make_layer(points, basis=basis, prolonged_from=coarse.grid)
    x = inputs_around(coarse.grid)
    torch.testing.assert_close(fine(x), coarse(x), rtol=0, atol=1e-11)
    assert fine.grid.n == 4


def test_reset_draws_anew_from_the_global_generator():
    layer = make_layer()
    first = layer.weight.detach().clone()
    layer.reset_parameters()
    assert not torch.equal(layer.weight, first)
    torch.manual_seed(0)
    layer.reset_parameters()
    torch.testing.assert_close(layer.weight.detach(), first, rtol=0, atol=0)


# Change of basis


@pytest.mark.parametrize("r", [1, 2, 3, 4])
@every_extension
def test_changing_the_basis_keeps_the_function_everywhere(r, extension):
    layer = make_layer(r=r, extension=extension)
    x = inputs_around(layer.grid)
    state = torch.get_rng_state()
    relu = layer.to_basis("relu")
    assert torch.equal(torch.get_rng_state(), state)
    bound = 50 * EPS * (magnitude(relu, x) + magnitude(layer, x))
    assert ((relu(x) - layer(x)).abs() <= bound).all()
    back = relu.to_basis("spline")
    assert ((back(x) - layer(x)).abs() <= bound).all()
    assert (relu.basis, back.basis, layer.basis) == ("relu", "spline", "spline")


@given(grids(max_order=4, max_n=5), st.integers(0, 9))
def test_weights_convert_as_w_equals_a_transposed_u(grid, seed):
    u = torch.randn(2, grid.num_basis, generator=torch.Generator().manual_seed(seed)).double()
    w = convert_weights(u, grid, "spline", "relu")
    matrix = ChangeOfBasis(grid).dense()
    scale = (u.abs() @ matrix.abs()).max().item()
    torch.testing.assert_close(w, u @ matrix, rtol=0, atol=1e-14 * scale)
    assert convert_weights(u, grid, "spline", "spline") is u
    for name, names in (("target", ("spline", "u")), ("source", ("u", "relu"))):
        with pytest.raises(ValueError, match=rf"{name} must be one of .* got 'u'"):
            convert_weights(u, grid, *names)


@every_basis
def test_a_changed_layer_keeps_its_options(basis):
    layer = make_layer(basis=basis, extension="clamp", init_scale=0.5, dtype=torch.float32).eval()
    layer.weight.requires_grad_(False)
    for changed in (layer.refine(), layer.to_basis("relu")):
        assert changed.extension == "clamp"
        assert changed.init_scale == 0.5
        assert changed.weight.dtype == torch.float32
        assert not changed.weight.requires_grad
        assert not changed.training


# Refinement


@given(nested_grids(max_order=5), st.sampled_from(EXTENSIONS))
def test_refined_spline_layer_is_the_same_function(hierarchy, extension):
    coarse_grid, fine_grid = hierarchy
    torch.manual_seed(0)
    layer = SplineLayer(3, 2, coarse_grid, extension=extension, dtype=torch.float64)
    x = inputs_around(coarse_grid)
    change = (layer.refine(fine_grid)(x) - layer(x)).abs()
    assert change.max() <= 1e-12 * magnitude(layer, x).max()


@given(nested_grids(max_order=5), st.sampled_from(EXTENSIONS))
def test_refined_relu_layer_is_the_same_function_up_to_backward_stability(hierarchy, extension):
    """Coefficients of size h**(1-r) cancel, and with them digits: no more than this bound."""
    coarse_grid, fine_grid = hierarchy
    torch.manual_seed(0)
    layer = SplineLayer(
        3, 2, coarse_grid, basis="relu", extension=extension, init_scale=1.0, dtype=torch.float64
    )
    fine = layer.refine(fine_grid)
    x = inputs_around(coarse_grid)
    absolute = copy.deepcopy(fine)
    p = prolongation(coarse_grid, fine_grid, "relu").dense()
    absolute.weight.data = layer.weight.detach().abs() @ p.abs().T
    bound = 100 * EPS * (magnitude(layer, x) + magnitude(absolute, x))
    assert ((fine(x) - layer(x)).abs() <= bound).all()


@every_basis
@every_extension
@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_refinement_keeps_value_and_derivatives_just_outside(basis, extension, r):
    layer = make_layer(GRIDS[1], r, 1, 1, basis=basis, extension=extension)
    fine = layer.refine()
    a, b = layer.grid.domain
    x = torch.tensor([[a - 1e-6], [b + 1e-6], [a - 1.0], [b + 1.0]], dtype=torch.float64)
    for order in range(min(r, 3)):
        values = []
        for level in (layer, fine):
            module = MODULES[basis]
            dense = module.dense_basis(x[:, 0], level.grid, order, extension)
            values.append(dense @ level.weight.detach()[0, 0])
        torch.testing.assert_close(*values, rtol=1e-8, atol=1e-9)


@every_basis
def test_refine_leaves_the_layer_and_the_generator_untouched(basis):
    layer = make_layer(basis=basis)
    before, state = copy.deepcopy(layer.state_dict()), torch.get_rng_state()
    fine = layer.refine()
    fine.weight.data.zero_()
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert (layer.grid.n, fine.grid.n) == (5, 10)
    assert fine.grid.breakpoints[::2].tolist() == GRIDS[1]


def test_refine_refuses_a_grid_that_is_not_finer():
    layer = make_layer([0.0, 0.5, 1.0])
    with pytest.raises(ValueError, match=r"not nested: .* lacks 1 breakpoint.*0\.5"):
        layer.refine(KnotGrid(4, [0.0, 0.25, 1.0]))
    with pytest.raises(ValueError, match="same order"):
        layer.refine(KnotGrid.uniform(3, 4))
    with pytest.raises(TypeError, match="must be a KnotGrid, or a list of them, got 4"):
        layer.refine(4)


# A plain module


@every_basis
def test_casting_there_and_back_keeps_the_grid_exact(basis):
    layer = make_layer(np.linspace(0.1, 0.7, 7), basis=basis)
    tables = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    weight = layer.weight.detach().clone()
    for low in (torch.float32, torch.bfloat16, torch.float16):
        layer.to(low)
        assert layer.weight.dtype == low
        assert layer(torch.rand(4, 3, dtype=low)).dtype == low
        layer.double()
        torch.testing.assert_close(dict(layer.named_buffers()), tables, rtol=0, atol=0)
        torch.testing.assert_close(layer.weight.detach(), weight.to(low).double())
        layer.weight.data.copy_(weight)


@every_basis
def test_layer_can_be_built_without_memory_and_filled_later(basis):
    original = make_layer(basis=basis)
    arguments = (3, NARROW, original.grid)
    options = {"basis": basis, "dtype": torch.float64}
    with torch.device("meta"):
        in_context = SplineLayer(*arguments, **options)
    empty = SplineLayer(*arguments, device="meta", **options)
    x = torch.rand(5, 3, dtype=torch.float64)
    for layer in (in_context, empty, make_layer(basis=basis).to("meta")):
        assert {t.device.type for t in [layer.weight, *layer.buffers()]} == {"meta"}
        assert layer(x.to("meta")).shape == (5, NARROW)
        assigned = copy.deepcopy(layer)
        assigned.load_state_dict(original.state_dict(), assign=True)
        layer.to_empty(device="cpu").load_state_dict(original.state_dict())
        for filled in (layer, assigned):
            torch.testing.assert_close(filled(x), original(x), rtol=0, atol=0)


def test_assigned_weights_of_another_dtype_bring_their_tables():
    layer = make_layer(dtype=torch.float32)
    original = make_layer(seed=3)
    layer.load_state_dict(original.state_dict(), assign=True)
    x = torch.rand(5, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x), original(x), rtol=0, atol=0)


@every_basis
@every_width
def test_copies_are_the_same_function(basis, outputs):
    layer = make_layer(basis=basis, outputs=outputs, extension="clamp")
    x = inputs_around(layer.grid)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)
        assert other.grid == layer.grid
        other.weight.data.zero_()
    assert layer.weight.all()


@every_basis
@every_width
def test_function_transforms_agree_with_loops(basis, outputs):
    layers = [make_layer([0.0, 0.5, 2.0], basis=basis, outputs=outputs, seed=s) for s in range(3)]
    layer = layers[0]
    x = torch.rand(4, 3, dtype=torch.float64)
    expected = torch.stack([each(x) for each in layers])

    def evaluate(parameters, x):
        return functional_call(layer, parameters, (x,))

    stacked = {"weight": torch.stack([each.weight for each in layers])}
    ensemble = vmap(evaluate, in_dims=(0, None))(stacked, x)
    torch.testing.assert_close(ensemble, expected)
    states = stack_module_state(layers)
    ensemble = vmap(lambda p, b: functional_call(layer, (p, b), (x,)))(*states)
    torch.testing.assert_close(ensemble, expected)
    torch.testing.assert_close(vmap(layer)(x), layer(x))

    weights = {"weight": layer.weight.detach()}
    jacobian = jacrev(evaluate)(weights, x)["weight"]
    loops = torch.autograd.functional.jacobian(lambda w: evaluate({"weight": w}, x), layer.weight)
    torch.testing.assert_close(jacobian, loops)
    each = vmap(grad(lambda p, x: evaluate(p, x).sum()), in_dims=(None, 0))(weights, x)["weight"]
    torch.testing.assert_close(each, jacobian.sum(1))

    second = vmap(hessian(lambda x: layer(x)[-1]))(x)
    loops = [torch.autograd.functional.hessian(lambda x: layer(x)[-1], point) for point in x]
    torch.testing.assert_close(second, torch.stack(loops))


def test_repr_shows_order_intervals_domain_basis_and_extension():
    assert repr(make_layer([1e6, 1e6 + 1], 2, basis="relu", extension="none")) == (
        "SplineLayer(3, 2, order=2, n=1, domain=[1000000, 1000001], uniform, "
        "basis=relu, extension=none)"
    )
    assert "order=4, n=5, domain=[0, 0.96875], non-uniform, basis=spline" in repr(make_layer())


# Checkpoints


@every_basis
@every_extension
@pytest.mark.parametrize("points", GRIDS[:2], ids=GRID_NAMES[:2])
def test_state_holds_the_weights_and_a_description(basis, extension, points):
    options = {"points": points, "basis": basis, "extension": extension}
    layer = make_layer(**options)
    state = roundtrip(layer.state_dict())
    assert sorted(state) == ["_extra_state", "weight"]
    description = json.loads(bytes(map(round, state["_extra_state"].tolist())))
    assert description["n"] == layer.grid.n
    assert description["extension"] == extension
    other = make_layer(**options, seed=1)
    assert other.load_state_dict(state) == ([], [])
    torch.testing.assert_close(other.state_dict(), layer.state_dict(), rtol=0, atol=0)


def test_state_of_a_refined_layer_loads_into_a_layer_built_for_that_level():
    layer = make_layer([0.0, 0.3, 1.1])
    for _ in range(3):
        layer = layer.refine()
    rebuilt = make_layer(layer.grid.breakpoints)
    rebuilt.load_state_dict(roundtrip(layer.state_dict()))
    uniform = SplineLayer(3, 2, KnotGrid.uniform(4, 3, (0.1, 0.7)))
    for _ in range(4):
        uniform = uniform.refine()
    rebuilt = SplineLayer(3, 2, KnotGrid.uniform(4, 48, (0.1, 0.7)))
    rebuilt.load_state_dict(roundtrip(uniform.state_dict()))
    x = torch.rand(9, 3)
    torch.testing.assert_close(rebuilt(x), uniform(x))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": np.linspace(0, 1, 11)}, r"n = 10 \(model: 5\); build .* or refine\(\)"),
        ({"r": 3}, r"order = 3 \(model: 4\); build the model with these options"),
        ({"points": np.linspace(0, 2, 6)}, r"domain = \[0\.0, 2\.0\] \(model: \[0\.0, 1\.0\]\)"),
        (
            {"points": [0.0, 0.2, 0.4, 0.5, 0.8, 1.0]},
            r"breakpoints = \[0\.0, 0\.2, 0\.4, 0\.5, 0\.8, 1\.0\] \(model: uniform\)",
        ),
        ({"points": np.linspace(0, 1, 21) ** 2}, r"breakpoints = \[0\.0, 0\.0025.{,60}\.\.\. \("),
        ({"basis": "relu"}, r"basis = relu \(model: spline\); build the model with these"),
        ({"extension": "none"}, r"extension = none \(model: linear\)"),
        ({"inputs": 2}, r"in_features = 2 \(model: 3\)"),
        ({"outputs": 7}, r"out_features = 7 \(model: 2\)"),
        ({"r": 3, "extension": "clamp"}, r"order = 3 \(model: 4\), extension = clamp"),
    ],
)
def test_loading_another_layer_says_what_differs(options, message, strict):
    points = np.linspace(0, 1, 6)
    layer = make_layer(points)
    before = layer.weight.detach().clone()
    state = roundtrip(make_layer(**({"points": points} | options)).state_dict())
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(state, strict=strict)
    torch.testing.assert_close(layer.weight.detach(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "foreign",
    [
        torch.tensor([1, 2, 3], dtype=torch.uint8),
        torch.tensor([*b"[]"], dtype=torch.uint8),
        torch.tensor([*b'{"order": 4}'], dtype=torch.uint8),
        torch.tensor([0.5]),
        torch.tensor([-1, 300]),
        torch.tensor(7, dtype=torch.uint8),
        {"version": 1},
        "text",
    ],
    ids=str,
)
def test_loading_a_foreign_description_is_refused(foreign):
    layer = make_layer()
    state = layer.state_dict() | {"_extra_state": foreign}
    with pytest.raises(RuntimeError, match=r"is not the state of a SplineLayer|n = None"):
        layer.load_state_dict(state)


def test_loading_follows_the_rules_of_torch_for_missing_keys():
    layer, state = make_layer(), make_layer(seed=1).state_dict()
    weight = state["weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*_extra_state"):
        layer.load_state_dict({"weight": weight})
    assert layer.load_state_dict({"weight": weight}, strict=False).missing_keys == ["_extra_state"]
    torch.testing.assert_close(layer.weight, weight)
    del state["weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*weight"):
        layer.load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        layer.load_state_dict({"weight": weight[..., :-1]}, strict=False)


def test_state_of_a_default_device_context_is_complete():
    layer = make_layer()
    with torch.device("meta"):
        state = layer.state_dict()
    assert json.loads(bytes(map(round, state["_extra_state"].tolist()))) == layer.describe()


def test_averages_over_state_dicts_keep_the_description():
    layer, other = make_layer(), make_layer(seed=1)
    average = make_layer(seed=2)
    states = [layer.state_dict(), other.state_dict()]
    assert all(value.is_floating_point() for state in states for value in state.values())
    mean = {key: torch.stack([s[key].float() for s in states]).mean(0) for key in states[0]}
    average.load_state_dict(mean)
    torch.testing.assert_close(
        average.weight, (0.5 * (layer.weight + other.weight)).to(layer.weight)
    )
    moving = {key: value.clone() for key, value in layer.state_dict().items()}
    for _ in range(200):
        for key, value in other.state_dict().items():
            moving[key].mul_(0.9).add_(value, alpha=0.1)
    average.load_state_dict(moving)
    torch.testing.assert_close(average.weight, other.weight)
    for half in (torch.float16, torch.bfloat16):
        average.load_state_dict({key: value.to(half) for key, value in states[0].items()})


class Louder(SplineLayer):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gain = torch.nn.Parameter(torch.tensor(2.0, dtype=self.weight.dtype))

    def forward(self, x):
        return self.gain * super().forward(x)


class Squashed(SplineLayer):
    def forward(self, x):
        return super().forward(x) * self.weight.square().sum()


def test_refined_layer_keeps_its_class_and_hooks():
    layer = Louder(2, 3, KnotGrid(4, [0, 0.2, 0.5, 1]), dtype=torch.float64)
    layer.register_forward_hook(lambda module, inputs, y: y + 1)
    x = torch.rand(20, 2, dtype=torch.float64)
    before = torch.get_rng_state()
    for other in (layer.refine(), layer.to_basis("relu"), layer.refine().to_basis("relu")):
        assert type(other) is Louder
        assert other.gain is not layer.gain
        torch.testing.assert_close(other(x), layer(x))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("change", [SplineLayer.refine, lambda layer: layer.to_basis("relu")])
def test_layer_that_would_become_another_function_is_refused(change):
    grid = KnotGrid.uniform(4, 5)
    with pytest.raises(ValueError, match=r"must keep the function, but Squashed.*its own"):
        change(Squashed(2, 3, grid))
    patched = SplineLayer(2, 3, grid)
    patched.forward = lambda x: x.sum(-1, keepdim=True)
    with pytest.raises(ValueError, match="forward method that was put on one SplineLayer"):
        change(patched)
    pruned = SplineLayer(2, 3, grid)
    prune.random_unstructured(pruned, "weight", 0.5)
    with pytest.raises(ValueError, match="cannot honour 'weight' of SplineLayer"):
        change(pruned)
    normed = SplineLayer(2, 3, grid)
    parametrizations.weight_norm(normed)
    with pytest.raises(ValueError, match="weight must be a parameter of its own"):
        change(normed)


# Grids of the inputs

OWN = [[0.0, 0.25, 0.5, 1.0], [0.0, 0.1, 0.75, 1.0], [0.0, 1 / 3, 2 / 3, 1.0]]


def own_layer(r=4, **options):
    """Return a layer of three inputs with a grid each, of which the last is uniform."""
    torch.manual_seed(0)
    options = {"dtype": torch.float64, "init_scale": 1.0} | options
    return SplineLayer(3, 2, [KnotGrid(r, points) for points in OWN], **options)


def scipys(layer, x):
    """Return the sums of SciPy's splines on the grid of each input."""
    weight = layer.to_basis("spline").weight.detach().numpy()
    y = np.zeros((len(x), layer.out_features))
    for p, grid in enumerate(layer.grids):
        for q in range(layer.out_features):
            spline = scipy.interpolate.BSpline(grid.knots.numpy(), weight[q, p], grid.order - 1)
            y[:, q] += spline(x[:, p])
    return y


@pytest.mark.parametrize("r", [1, 2, 3, 4])
@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("name", ["auto", "torch"])
def test_layer_on_a_grid_for_each_input_has_the_values_of_scipys_splines(r, basis, name):
    layer, x = own_layer(r, basis=basis, init_basis="spline"), torch.rand(50, 3).double()
    with backend(name):
        for changed in (layer, layer.refine(), layer.to_basis("relu").to_basis("spline")):
            np.testing.assert_allclose(changed(x).detach(), scipys(layer, x), atol=1e-10)


def test_grids_of_the_inputs_are_kept_by_casts_states_and_copies():
    layer, x = own_layer(), torch.rand(50, 3).double()
    assert layer.float().double().grids == [KnotGrid(4, points) for points in OWN]
    assert "n=3, domain=[0, 1], non-uniform per input" in repr(layer)
    other = own_layer(init_scale=0.0)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    shared = SplineLayer(3, 2, KnotGrid(4, OWN[0]), dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"breakpoints = \[\[0.0, 0.25, .* \(model: \[0.0, 0.25"):
        shared.load_state_dict(layer.state_dict())
    narrow = KnotGrid(4, sorted({t for points in OWN for t in points}))
    finer = layer.refine(narrow)
    assert finer.grids == [narrow] * 3 == finer.distinct_grids
    np.testing.assert_allclose(finer(x).detach(), layer(x).detach(), atol=1e-12)


def test_new_weights_are_one_function_on_every_kind_of_grids():
    x, coarse = torch.rand(50, 3).double(), KnotGrid(4, [0.0, 1.0])
    layer = own_layer(prolonged_from=coarse)
    other = SplineLayer(3, 2, coarse, init_scale=1.0, dtype=torch.float64)
    for each in (layer, layer.refine(), layer.to_basis("relu"), other):
        torch.manual_seed(3)
        each.reset_parameters()
        np.testing.assert_allclose(each(x).detach(), layer(x).detach(), atol=1e-9)
    free = layer.free()
    with torch.no_grad():
        free.knots.logits += torch.randn_like(free.knots.logits)
    places = free.knots().detach()
    free.reset_parameters()
    assert torch.equal(free.knots(), places)
    np.testing.assert_allclose(free(x).detach(), scipys(free, x), atol=1e-10)


def test_fixed_layer_is_the_function_of_its_free_knots():
    x, layer = torch.rand(50, 3).double(), own_layer()
    free = layer.free()
    with torch.no_grad():
        free.knots.logits += torch.randn_like(free.knots.logits)
    fixed = free.fixed()
    assert fixed.grids == free.grids != layer.grids
    np.testing.assert_allclose(fixed(x).detach(), free(x).detach(), atol=1e-12)
    assert [name for name, _ in fixed.named_parameters()] == ["weight"]
    assert layer.fixed().grids == layer.grids
    assert repr(fixed) == repr(layer)


@pytest.mark.parametrize(
    "grids",
    [
        [KnotGrid.uniform(4, 5)] * 2,
        [KnotGrid.uniform(4, 5)] * 2 + [KnotGrid.uniform(4, 6)],
        [KnotGrid.uniform(4, 5)] * 2 + [KnotGrid.uniform(3, 5)],
        [KnotGrid.uniform(4, 5)] * 2 + [KnotGrid.uniform(4, 5, (0.0, 2.0))],
    ],
)
def test_grids_that_do_not_fit_are_refused(grids):
    with pytest.raises(ValueError, match="a list of 3 with the same number of intervals, order"):
        SplineLayer(3, 2, grids)
    with pytest.raises(ValueError, match="grid must be one for all inputs, but each has its own"):
        _ = own_layer().grid


def test_layers_made_from_another_share_no_memory_with_it():
    layer = own_layer()
    before = layer.weight.detach().clone()
    for other in (layer.to_basis("spline"), layer.free(), layer.fixed(), layer.refine(layer.grids)):
        with torch.no_grad():
            other.weight.zero_()
        assert torch.equal(layer.weight, before)


def test_torchscript_is_refused_in_one_sentence():
    with pytest.raises(TypeError, match="cannot compile SplineLayer"):
        torch.jit.script(torch.nn.Sequential(SplineLayer(2, 1, KnotGrid.uniform(3, 4))))
