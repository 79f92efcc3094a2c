import copy
import io
import pickle
import shutil

import numpy as np
import pytest
import torch
from grids import nested_grids
from hypothesis import given
from torch import nn
from torch.func import functional_call, hessian, jacrev, stack_module_state, vmap
from torch.utils.data import DataLoader, TensorDataset

from kanlib import KAN, MLP, KnotGrid, SplineLayer
from kanlib._checks import BASES, EXTENSIONS
from kanlib.nn.maps import InputMap, Normalisation
from kanlib.splines import bspline, truncated_power

MODULES = {"spline": bspline, "relu": truncated_power}
UNEVEN = [0.0, 0.1, 0.15, 0.5, 0.9, 1.0]
every_basis = pytest.mark.parametrize("basis", BASES)
every_first = pytest.mark.parametrize("first", ["spline", "affine", "linear"])
every_extension = pytest.mark.parametrize("extension", EXTENSIONS)


def make_kan(widths=(2, 5, 1), seed=0, **options):
    torch.manual_seed(seed)
    return KAN(widths, **({"dtype": torch.float64, "init_scale": 1.0} | options))


def points(count=200, features=2, dtype=torch.float64):
    """Return points inside and outside [0, 1], with some exactly on breakpoints and ends."""
    x = 1.5 * torch.rand(count, features, generator=torch.Generator().manual_seed(7)) - 0.25
    x[:6, 0] = torch.tensor(UNEVEN)[:count]
    x[:6, 1] = torch.linspace(0, 1, 6)[:count]
    return x.to(dtype)


def trace(model, x):
    """Return the inputs of all layers."""
    result = [x]
    for layer in model.layers:
        result.append(layer(result[-1]))
    return result[:-1]


def relative_change(coarse, fine, x):
    with torch.no_grad():
        y = coarse(x)
        return ((fine(x) - y).abs().max() / y.abs().max()).item()


def roundtrip(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# Architecture


@pytest.mark.parametrize(
    ("model", "counts"),
    [
        (KAN([2, 5, 1], n=5, first="affine"), [55, 80, 130, 230]),
        (KAN([3, 5, 1], n=4), [140, 220, 380, 700]),
        (KAN([2, 20, 20, 1], n=5, first="linear"), [3400, 5500, 9700]),
        (KAN([2, 5, 1], n=5), [120, 195, 345, 645]),
    ],
    ids=["regression", "poisson", "burgers", "all-spline"],
)
def test_parameter_counts_of_the_paper(model, counts):
    for count in counts:
        assert model.num_parameters == count
        assert f"parameters={count}" in repr(model)
        model = model.refine()


@pytest.mark.parametrize(
    ("widths", "count"),
    [
        ([2, 5, 1], 20),
        ([2, 30, 1], 120),
        ([2, 20, 20, 1], 500),
        ([2, 56, 56, 1], 3416),
        ([3, 16, 16, 1], 352),
    ],
)
def test_parameter_counts_of_the_papers_perceptrons(widths, count):
    assert MLP(widths).num_parameters == count


def test_number_of_parameters_counts_the_trainable_ones():
    model = KAN([2, 5, 1], first="affine")
    model.layers[0].requires_grad_(False)
    assert model.num_parameters == 40


@every_first
def test_first_layer_is_as_chosen(first):
    model = make_kan(first=first)
    kinds = [type(layer) for layer in model.layers]
    assert kinds == [SplineLayer if first == "spline" else nn.Linear, SplineLayer]
    assert [*model.spline_layers] == [m for m in model.layers if isinstance(m, SplineLayer)]
    if first != "spline":
        assert (model.layers[0].bias is not None) == (first == "affine")
    x = points()
    expected = model.layers[1](model.layers[0](x))
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


def test_options_reach_every_spline_layer():
    coarse = KnotGrid(3, [-1.0, 2.0])
    model = KAN(
        [2, 3, 4, 1], 6, 3, (-1, 2), "relu", extension="clamp", init_scale=0.5,
        init_basis="relu", prolonged_from=coarse, dtype=torch.float64,
    )  # fmt: skip
    assert model.n == 6
    for layer in model.spline_layers:
        assert layer.grid == KnotGrid.uniform(3, 6, (-1.0, 2.0))
        assert (layer.basis, layer.extension) == ("relu", "clamp")
        assert (layer.init_scale, layer.init_basis) == (0.5, "relu")
        assert layer.prolonged_from == coarse
        assert layer.weight.dtype == torch.float64
    by_count = KAN([2, 3, 1], 6, 3, (-1, 2), prolonged_from=np.int64(1))
    assert {layer.prolonged_from for layer in by_count.spline_layers} == {coarse}


MAPS = {
    "domain": (-1, 1),
    "input_domain": ((-1, 1), (0, 1)),
    "hidden_domain": (-2, 3),
    "normalisation": "sigmoid",
}


@every_first
def test_maps_enter_where_they_should(first):
    model = make_kan([2, 4, 3, 1], first=first, prolonged_from=1, **MAPS)
    maps, *layers = model.layers
    assert [type(layer) for layer in layers[1::2]] == [Normalisation, Normalisation]
    assert isinstance(maps, InputMap)
    assert [*model.layers.parameters()] == [p for layer in layers[::2] for p in layer.parameters()]
    x = points()
    z = layers[0](x * torch.tensor([1.0, 2.0]) - torch.tensor([0.0, 1.0]))
    for layer in layers[2::2]:
        z = layer(-2 + 5 * torch.sigmoid(z))
    torch.testing.assert_close(model(x), z)
    hidden = KnotGrid.uniform(4, 5, (-2, 3))
    assert {layer.grid for layer in layers[2::2]} == {hidden}
    assert {layer.prolonged_from for layer in layers[2::2]} == {KnotGrid.uniform(4, 1, (-2, 3))}
    if first == "spline":
        assert layers[0].grid == KnotGrid.uniform(4, 5, (-1, 1))


def test_options_of_maps_are_independent():
    default = make_kan([2, 3, 1])
    assert [type(layer) for layer in default.layers] == [SplineLayer, SplineLayer]
    for name, value in MAPS.items():
        model = make_kan([2, 3, 1], **{name: value})
        kinds = [type(layer) for layer in model.layers]
        assert kinds == [InputMap] * (name == "input_domain") + [SplineLayer] + [Normalisation] * (
            name == "normalisation"
        ) + [SplineLayer]
        domains = [layer.grid.domain for layer in model.spline_layers]
        expected = {"domain": [(-1, 1), (-1, 1)], "hidden_domain": [(0, 1), (-2, 3)]}
        assert domains == expected.get(name, [(0, 1), (0, 1)])
        torch.testing.assert_close([*model.parameters()], [*default.parameters()])


@every_first
@every_basis
def test_maps_are_kept_by_all_that_keeps_the_function(first, basis):
    options = {"first": first, "basis": basis, "r": 3, **MAPS}
    model, x = make_kan([2, 4, 3, 1], **options), points()
    y, fine = model(x), model.refine()
    kept = [fine, fine.refine(), model.to_basis("relu"), model.to_basis("spline")]
    kept += [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    rebuilt = make_kan([2, 4, 3, 1], n=10, seed=1, **options)
    rebuilt.load_state_dict(roundtrip(fine.state_dict()))
    for other in [*kept, rebuilt]:
        scale = y.abs().max().item()
        torch.testing.assert_close(other(x), y, rtol=0, atol=1e-9 * scale)
        assert "InputMap([-1, 1] x [0, 1] to [-1, 1])" in repr(other)
        assert repr(other).count("onto [-2, 3]\n      (activation): Sigmoid()") == 2
    assert {layer.grid.domain for layer in fine.spline_layers} - {(-1, 1)} == {(-2, 3)}
    with pytest.raises(ValueError, match="breakpoints must fit all spline layers") as error:
        make_kan([2, 3, 1], **MAPS).refine([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert "[(-2.0, 3.0), (-1.0, 1.0)]" in str(error.value)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"input_domain": None}, "layers.0"),
        (
            {"input_domain": ((-1, 1), (0, 2))},
            r"layers\.0 has intervals = .* 1\.0\]\] \(mod",
        ),
        (
            {"domain": (-1, 2)},
            r"layers\.0 has domain = \[-1\.0, 1\.0\] \(model: \[-1\.0, 2",
        ),
        ({"normalisation": None}, "layers.2"),
        ({"normalisation": "tanh"}, r"layers\.2 has activation = Sigmoid \(model: Tanh\); build"),
        ({"hidden_domain": (-2, 2)}, r"layers\.2 has domain = \[-2\.0, 3\.0\] \(model: \[-2\.0, 2"),
    ],
)
def test_checkpoint_of_a_network_with_other_maps_is_refused(other, message):
    state = make_kan([2, 3, 1], **MAPS).state_dict()
    with pytest.raises(RuntimeError, match=message):
        make_kan([2, 3, 1], **{**MAPS, **other}).load_state_dict(state)


def test_perceptron_maps_its_inputs():
    torch.manual_seed(0)
    plain = MLP([2, 7, 1], "tanh", dtype=torch.float64)
    torch.manual_seed(0)
    mapped = MLP([2, 7, 1], "tanh", input_domain=((-1, 1), (0, 1)), dtype=torch.float64)
    assert mapped.num_parameters == plain.num_parameters
    x = points()
    torch.testing.assert_close(mapped(x), plain(x * torch.tensor([1, 2]) - torch.tensor([0, 1])))
    assert "InputMap([-1, 1] x [0, 1] to [-1, 1])" in repr(mapped)


def test_explicit_breakpoints_replace_n_and_domain():
    model = KAN([2, 3, 1], r=3, breakpoints=torch.tensor(UNEVEN, dtype=torch.float64))
    assert {layer.grid for layer in model.spline_layers} == {KnotGrid(3, UNEVEN)}
    assert model.n == 5


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "silu"])
def test_perceptron_is_affine_maps_and_activations_without_a_last_bias(activation):
    model = MLP([2, 7, 7, 3], activation, dtype=torch.float64)
    x, z = points(), points()
    function = getattr(torch.nn.functional, activation, torch.tanh)
    linear = [layer for layer in model.layers if isinstance(layer, nn.Linear)]
    for layer in linear[:-1]:
        z = function(z @ layer.weight.T + layer.bias)
    assert linear[-1].bias is None
    torch.testing.assert_close(model(x), z @ linear[-1].weight.T)


def test_repr_shows_widths_and_parameters():
    assert "widths=[2, 5, 1], parameters=55" in repr(KAN(np.array([2, 5, 1]), first="affine"))
    assert "SplineLayer(5, 1, order=4, n=5" in repr(KAN((2, 5, 1)))
    assert "widths=[2, 5, 1], parameters=20" in repr(MLP([2, 5, 1]))


# Refinement


@pytest.mark.parametrize("r", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("breakpoints", [None, UNEVEN], ids=["uniform", "non-uniform"])
@every_extension
def test_refinement_keeps_the_function_from_5_to_320_intervals(r, breakpoints, extension):
    """At most 1e-12 in float64 and 1e-5 in float32, a level, inside and outside the domain.

    In float32 the end slope, hence the continuation, is known to eps * n. Without extension a
    network jumps where a hidden value enters or leaves [a, b]: values within rounding of the ends
    may fall on either side, and such inputs are left out (exact zeros stay exact zeros).
    """
    for dtype, accuracy, near in ((torch.float64, 1e-12, 1e-10), (torch.float32, 1e-5, 1e-5)):
        options = {"r": r, "breakpoints": breakpoints, "extension": extension, "init_scale": 0.1}
        model = make_kan([2, 5, 5, 2], **options).to(dtype)
        x = points(dtype=dtype)
        while model.n < 320:
            fine = model.refine()
            assert fine.n == 2 * model.n
            jumps = torch.tensor([0.0, 1.0], dtype=dtype)
            clear = torch.ones(len(x), dtype=torch.bool)
            if extension == "none":
                for hidden in trace(model, x)[1:]:
                    distance = (hidden[..., None] - jumps).abs()
                    clear &= ((distance > near) | (distance == 0)).flatten(1).all(1)
            assert clear.sum() > 190
            assert relative_change(model, fine, x[clear]) <= accuracy
            model = fine


@pytest.mark.parametrize("breakpoints", [None, UNEVEN], ids=["uniform", "non-uniform"])
@pytest.mark.parametrize("r", [1, 2])
def test_refinement_in_the_relu_basis_keeps_the_function_of_low_order(r, breakpoints):
    model = make_kan(r=r, breakpoints=breakpoints).to_basis("relu")
    while model.n < 320:
        fine = model.refine()
        assert relative_change(model, fine, points()) <= 1e-12
        model = fine


@every_first
@pytest.mark.parametrize("r", [1, 3, 4])
def test_refinement_keeps_the_function_after_any_first_layer(first, r):
    model = make_kan([2, 4, 3], r=r, first=first)
    assert relative_change(model, model.refine(), points()) <= 1e-12
    assert relative_change(model, model.refine().refine(), points()) <= 1e-12


@given(nested_grids(max_order=5))
def test_refinement_to_any_finer_grid_keeps_the_function(hierarchy):
    coarse, fine = hierarchy
    model = make_kan([2, 3, 1], r=coarse.order, breakpoints=coarse.breakpoints)
    a, b = coarse.domain
    x = a + (b - a) * points(40)
    refined = model.refine(fine.breakpoints)
    assert {layer.grid for layer in refined.spline_layers} == {fine}
    if coarse.order > 1:  # hidden values may lie on a jump of a step function
        assert relative_change(model, refined, x) <= 1e-10


def test_refinement_far_from_zero_is_limited_by_the_breakpoints_rounding():
    """On [1e6, 1e6 + 1] breakpoints carry errors of 1e-10, or 1e-10 / h of an interval."""
    a = 1e6
    model = make_kan([2, 1], n=5, domain=(a, a + 1))
    x = a + points()
    while model.n < 80:
        fine = model.refine()
        assert relative_change(model, fine, x) <= 1e-16 * a * 5 * 10
        model = fine


@pytest.mark.parametrize("domain", [(0.0, 1e-12), (-1e9, 1e9)])
def test_refinement_does_not_depend_on_the_scale_of_the_domain(domain):
    a, b = domain
    model = make_kan([2, 1], domain=domain)
    x = a + (b - a) * points()
    for _ in range(4):
        fine = model.refine()
        assert relative_change(model, fine, x) <= 1e-12
        model = fine


@every_first
@every_basis
def test_refine_leaves_the_network_and_the_generator_untouched(first, basis):
    model = make_kan(first=first, basis=basis)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    fine = model.refine()
    for parameter in fine.parameters():
        parameter.data.zero_()
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@every_first
def test_a_changed_network_keeps_flags_and_types(first):
    class Normalised(KAN):
        def forward(self, x):
            return super().forward(torch.sigmoid(x))

    torch.manual_seed(0)
    model = Normalised([2, 5, 1], first=first, dtype=torch.float64)
    model.note = "kept"
    model.layers[0].weight.requires_grad_(False)
    model.layers[1].eval()
    for changed in (model.refine(), model.to_basis("relu")):
        assert type(changed) is Normalised
        assert changed.note == "kept"
        assert [p.requires_grad for p in changed.parameters()] == [
            p.requires_grad for p in model.parameters()
        ]
        assert [m.training for m in changed.layers] == [True, False]
        assert {p.dtype for p in changed.parameters()} == {torch.float64}
        assert not {*changed.parameters()} & {*model.parameters()}
        torch.testing.assert_close(changed(points()), model(points()), rtol=1e-9, atol=1e-9)


@every_first
def test_changing_the_basis_keeps_the_function(first):
    model = make_kan(first=first, r=3)
    relu = model.to_basis("relu")
    assert {layer.basis for layer in relu.spline_layers} == {"relu"}
    assert relative_change(model, relu, points()) <= 1e-11
    assert relative_change(model, relu.to_basis("spline"), points()) <= 1e-11
    with pytest.raises(ValueError, match=r"basis must be one of .* got 'w'"):
        model.to_basis("w")


def test_refine_refuses_breakpoints_that_are_not_finer():
    model = make_kan([2, 1], n=2)
    with pytest.raises(ValueError, match=r"lacks 1 breakpoint.*0\.5"):
        model.refine([0.0, 0.25, 1.0])
    with pytest.raises(ValueError, match="strictly increasing"):
        model.refine([0.0, 0.5, 0.5, 1.0])
    with pytest.raises(TypeError, match="breakpoints must be a flat sequence"):
        model.refine(4)


# Initialisation


@every_first
@pytest.mark.parametrize("prolonged_from", [None, 2, KnotGrid(4, [0.0, 0.5, 1.0])])
def test_a_seed_gives_one_function_in_every_dtype_and_basis(first, prolonged_from):
    options = {"first": first, "n": 4, "prolonged_from": prolonged_from}
    x = points()
    expected = make_kan(**options)(x)
    scale = expected.abs().max().item()
    for basis in BASES:
        y = make_kan(basis=basis, **options)(x)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-10 * scale)
    y = make_kan(dtype=torch.float32, **options)(x.float())
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-4 * scale)


@every_first
def test_a_seed_and_a_coarse_grid_give_one_function_on_every_finer_grid(first):
    reference = make_kan(first=first, n=3)
    for n in (6, 9, 24):
        fine = make_kan(first=first, n=n, prolonged_from=3)
        assert fine.n == n
        assert relative_change(reference, fine, points()) <= 1e-12


def test_a_seed_gives_one_perceptron_in_every_dtype():
    torch.manual_seed(0)
    expected = MLP([2, 9, 1], dtype=torch.float64)(points())
    torch.manual_seed(0)
    y = MLP([2, 9, 1])(points(dtype=torch.float32))
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-6)


def test_linear_maps_are_initialised_as_by_torch():
    torch.manual_seed(0)
    expected = nn.Linear(2, 5, dtype=torch.float64)
    for layer in (make_kan(first="affine").layers[0], None):
        if layer is None:
            torch.manual_seed(0)
            layer = MLP([2, 5, 1], dtype=torch.float64).layers[0]
        torch.testing.assert_close(layer.state_dict(), expected.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("domain", [(0.0, 1.0), (-1.0, 1.0), (2.0, 5.0)])
def test_calibrate_spreads_every_hidden_coordinate_over_the_domain(domain):
    model = make_kan(first="affine", domain=domain)
    x = 100 * points() + 3
    z = model.layers[0](x).detach()
    assert model.calibrate_(x) is model
    image = model.layers[0](x).detach()
    ends = torch.tensor(domain, dtype=torch.float64)
    torch.testing.assert_close(image.amin(0), ends[0].expand(5), rtol=0, atol=1e-13)
    torch.testing.assert_close(image.amax(0), ends[1].expand(5), rtol=0, atol=1e-13)
    shares = (z - z.amin(0)) / (z.amax(0) - z.amin(0))
    torch.testing.assert_close(image, domain[0] + shares * (domain[1] - domain[0]))
    assert model.layers[0].weight.requires_grad


def test_calibrate_without_bias_scales_as_far_as_the_domain_permits():
    model = make_kan(first="linear", domain=(-1.0, 2.0))
    x = 10 * points() - 4
    before = model.layers[0].weight.detach().clone()
    model.calibrate_(x)
    image = model.layers[0](x).detach()
    assert (image >= -1 - 1e-14).all()
    assert (image <= 2 + 1e-14).all()
    touching = torch.minimum((image.amin(0) + 1).abs(), (image.amax(0) - 2).abs())
    torch.testing.assert_close(touching, torch.zeros(5).double(), rtol=0, atol=1e-14)
    ratio = model.layers[0].weight / before
    torch.testing.assert_close(ratio[:, 0], ratio[:, 1])
    assert (ratio > 0).all()


def test_calibrate_sees_mapped_inputs_and_refuses_normalised_values():
    model = make_kan(first="affine", input_domain=((-5, 5), (0, 9)))
    x = points()
    model.calibrate_(x)
    z = model.layers[1](model.layers[0](x))
    torch.testing.assert_close(z.amin(0), torch.zeros(5).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(z.amax(0), torch.ones(5).double(), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="no use where hidden values are normalised: choose"):
        make_kan(first="affine", normalisation="tanh").calibrate_(x)


def test_calibrate_leaves_constant_coordinates_in_the_domain():
    for first in ("affine", "linear"):
        model = make_kan(first=first, domain=(-1.0, 1.0))
        x = torch.full((9, 2), 0.7, dtype=torch.float64)
        x[:, 1] += 1e-16 * torch.arange(9)
        model.calibrate_(x)
        image = model.layers[0](x)
        assert image.isfinite().all()
        assert image.abs().max() <= 1 + 1e-12
        assert model.layers[0].weight.abs().max() < 100


@pytest.mark.parametrize(
    ("first", "x", "message"),
    [
        ("spline", torch.rand(5, 2), "calibrate_ needs first='affine' or first='linear'"),
        ("affine", torch.rand(5, 3), r"x must have 2 entries .* got shape \(5, 3\)"),
        ("affine", torch.rand(1, 2), r"x must have shape \(N, 2\) with N >= 2, got \(1, 2\)"),
        ("linear", torch.rand(2), r"got \(2,\)"),
        ("affine", torch.tensor([[0.0, 1.0], [float("nan"), 1.0]]), "finite, got NaN or inf"),
        ("affine", torch.tensor([[0.0, 1.0], [float("inf"), 1.0]]), "finite, got NaN or inf"),
    ],
)
def test_calibrate_refuses_bad_arguments(first, x, message):
    with pytest.raises(ValueError, match=message):
        make_kan(first=first).calibrate_(x.double())


# Bad input


@pytest.mark.parametrize("make", [KAN, MLP])
@pytest.mark.parametrize(
    "widths", [[], [2], 5, "25", None, [2, 0], [2, -1, 1], [2, 2.5], [2, True]]
)
def test_networks_refuse_bad_widths(make, widths):
    with pytest.raises(ValueError, match="widths must be at least two positive integers, got"):
        make(widths)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"first": "dense"}, ValueError, r"first must be one of \('spline', .* got 'dense'"),
        ({"n": 0}, ValueError, "n must be at least 1, got 0"),
        ({"n": 2.5}, TypeError, r"n must be an integer of at least 1, got 2\.5"),
        ({"r": 0}, ValueError, "r must be at least 1, got 0"),
        ({"domain": (1.0, 0.0)}, ValueError, r"domain must be .* got \(1\.0, 0\.0\)"),
        ({"breakpoints": [0.0, 0.0, 1.0]}, ValueError, "strictly increasing"),
        ({"breakpoints": "01"}, TypeError, "breakpoints must be a flat sequence"),
        ({"basis": "b"}, ValueError, "basis must be one of"),
        ({"extension": "zero"}, ValueError, "extension must be one of"),
        (
            {"init_scale": -1},
            ValueError,
            "init_scale must be a finite number of at least 0, got -1",
        ),
        ({"prolonged_from": 0}, ValueError, "prolonged_from must be at least 1, got 0"),
        ({"prolonged_from": True}, TypeError, "prolonged_from must be an integer"),
        ({"prolonged_from": 2.5}, TypeError, "prolonged_from must be an integer"),
        ({"prolonged_from": 3}, ValueError, r"not nested: .* lacks 2 .*0\.333333333333, 0\.666"),
        ({"prolonged_from": KnotGrid.uniform(3, 5)}, ValueError, "same order, got 3 and 4"),
        (
            {"input_domain": [(0, 1)]},
            ValueError,
            r"one pair .* of the 2 inputs.* \[\(0, 1\)\]",
        ),
        ({"input_domain": 5}, ValueError, r"one pair .* of the 2 inputs, .* got 5"),
        ({"input_domain": (0, 1)}, ValueError, r"one pair of finite numbers .* got \(0, 1\)"),
        ({"hidden_domain": (1, 0)}, ValueError, r"domain must be .* got \(1, 0\)"),
        ({"hidden_domain": (0, 2), "breakpoints": [0, 1]}, ValueError, "needs uniform splines"),
        ({"normalisation": "layer"}, ValueError, r"one of \('sigmoid', 'tanh'\), got 'layer'"),
    ],
)
def test_kan_refuses_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        KAN([2, 3, 1], **options)


@pytest.mark.parametrize("first", ["affine", "linear"])
def test_kan_refuses_a_linear_first_layer_without_a_spline_layer(first):
    with pytest.raises(ValueError, match="widths must have a hidden layer when first = "):
        KAN([2, 1], first=first)


def test_perceptron_refuses_unknown_activations():
    with pytest.raises(ValueError, match=r"activation must be one of \('relu', .* got 'cos'"):
        MLP([2, 5, 1], "cos")


@pytest.mark.parametrize(
    "make", [KAN, MLP, lambda w: KAN(w, first="affine")], ids=["kan", "mlp", "affine"]
)
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.rand(5, 3), ValueError, r"x must have 2 entries .* got shape \(5, 3\)"),
        (
            torch.rand(5, 2).double(),
            TypeError,
            r"torch\.float32, got torch\.float64: make or cast it",
        ),
        (torch.zeros(5, 2, dtype=torch.int32), TypeError, "floating-point tensor, got torch.int32"),
        ([[0.0, 1.0]], TypeError, "x must be a floating-point tensor, got list"),
        (np.zeros((5, 2)), TypeError, "x must be a floating-point tensor, got ndarray"),
    ],
)
def test_networks_refuse_bad_inputs(make, x, error, message):
    with pytest.raises(error, match=message):
        make([2, 5, 1])(x)


# Plain modules


@every_first
def test_network_survives_a_walk_through_dtypes_and_devices(first):
    model = make_kan(first=first)
    y = model(points())
    model.to(torch.float32)
    assert {t.dtype for t in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model(points(dtype=torch.float32)).double(), y, rtol=0, atol=1e-4)
    model.to("meta").to_empty(device="cpu").double()
    model.load_state_dict(make_kan(first=first).state_dict())
    torch.testing.assert_close(model(points()), y, rtol=0, atol=0)


@every_first
def test_network_is_built_on_the_default_device(first):
    with torch.device("meta"):
        model, fine = make_kan(first=first), make_kan(first=first).refine()
    for built in (model, fine, MLP([2, 3, 1], device="meta")):
        assert {t.device.type for t in [*built.parameters(), *built.buffers()]} == {"meta"}
    original = make_kan(first=first)
    model.load_state_dict(original.state_dict(), assign=True)
    torch.testing.assert_close(model(points()), original(points()), rtol=0, atol=0)


@every_first
@every_basis
def test_checkpoint_of_a_refined_network_loads_into_one_built_for_that_level(first, basis):
    model = make_kan(first=first, basis=basis, domain=(0.1, 0.7))
    fine = model.refine().refine()
    state = roundtrip(fine.state_dict())
    rebuilt = make_kan(first=first, basis=basis, domain=(0.1, 0.7), n=20, seed=1)
    rebuilt.load_state_dict(state)
    torch.testing.assert_close(rebuilt(points()), fine(points()))
    refined = make_kan(first=first, basis=basis, domain=(0.1, 0.7), seed=1).refine().refine()
    refined.load_state_dict(state)
    torch.testing.assert_close(refined(points()), fine(points()), rtol=0, atol=0)
    with pytest.raises(
        RuntimeError,
        match=r"layers\.1 has n = 20 \(model: 5\); build the model with that n, or refine\(\) it",
    ):
        model.load_state_dict(state, strict=False)


def test_checkpoint_of_a_non_uniform_network_loads():
    model = make_kan(breakpoints=UNEVEN).refine()
    rebuilt = make_kan(breakpoints=model.layers[0].grid.breakpoints, seed=1)
    rebuilt.load_state_dict(roundtrip(model.state_dict()))
    torch.testing.assert_close(rebuilt(points()), model(points()), rtol=0, atol=0)


def test_checkpoint_of_another_architecture_is_refused():
    affine, spline = make_kan(first="affine"), make_kan(first="spline")
    with pytest.raises(RuntimeError, match=r"layers\.0"):
        affine.load_state_dict(spline.state_dict())
    with pytest.raises(RuntimeError, match=r"layers\.0"):
        spline.load_state_dict(affine.state_dict())
    with pytest.raises(RuntimeError, match=r"layers\.1 has in_features = 6 \(model: 5\)"):
        spline.load_state_dict(make_kan([2, 6, 1]).state_dict())


@every_first
def test_copies_are_independent(first):
    model = make_kan(first=first)
    y = model(points())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(points()), y, rtol=0, atol=0)
        assert relative_change(other, other.refine(), points()) <= 1e-12
        for parameter in other.parameters():
            parameter.data.zero_()
    torch.testing.assert_close(model(points()), y, rtol=0, atol=0)


@pytest.mark.parametrize("make", [lambda: make_kan(first="affine"), lambda: MLP([2, 9, 1])])
def test_training_with_a_data_loader_lowers_the_loss(make):
    model = make().float().train()
    x = points(dtype=torch.float32)
    y = torch.sin(3 * x).sum(1, keepdim=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)
    before = (model(x) - y).square().mean().item()
    for _ in range(15):
        for batch, target in loader:
            optimizer.zero_grad()
            (model(batch) - target).square().mean().backward()
            optimizer.step()
    after = (model.eval()(x) - y).square().mean().item()
    assert after < before / 2
    torch.testing.assert_close(model.train()(x), model.eval()(x), rtol=0, atol=0)


@every_basis
def test_function_transforms_agree_with_loops(basis):
    models = [make_kan([2, 9, 1], n=3, first="affine", basis=basis, seed=s) for s in range(2)]
    model, x = models[0], points(4)
    states = stack_module_state(models)
    ensemble = vmap(lambda p, b: functional_call(model, (p, b), (x,)))(*states)
    torch.testing.assert_close(ensemble, torch.stack([each(x) for each in models]))

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    jacobian = jacrev(lambda p: functional_call(model, p, (x,)))(parameters)
    for row in range(4):
        gradients = torch.autograd.grad(model(x)[row, 0], [*model.parameters()])
        for name, gradient in zip(parameters, gradients, strict=True):
            torch.testing.assert_close(jacobian[name][row, 0], gradient)

    def loss(p):
        return functional_call(model, p, (x,)).square().mean()

    blocks = hessian(loss)(parameters)
    first, *_, last = parameters
    gradient = torch.autograd.grad(
        model(x).square().mean(), model.get_parameter(first), create_graph=True
    )[0]
    mixed = torch.autograd.grad(gradient.sum(), model.get_parameter(last))[0]
    torch.testing.assert_close(blocks[first][last].sum(dim=(0, 1)), mixed)
    torch.testing.assert_close(blocks[last][first].flatten(-2).sum(-1), mixed)


#: A graph with an affine map and both contractions of the spline layer, and one that is machine
#: code of the smallest network.
COMPILED = [("aot_eager", [2, 3, 11, 2], "affine"), ("inductor", [2, 1], "spline")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "widths", "first"), COMPILED[: 2 if shutil.which("gcc") else 1]
)
def test_compiled_network_agrees_with_eager(backend, widths, first):
    torch._dynamo.reset()
    model = make_kan(widths, n=3, first=first)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    x = points(64).requires_grad_()
    expected, y = model(x), compiled(x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    inputs = [x, *model.parameters()]
    slopes = torch.autograd.grad(y.square().mean(), inputs)
    torch.testing.assert_close(
        slopes, torch.autograd.grad(expected.square().mean(), inputs), rtol=1e-11, atol=1e-12
    )


def test_compiled_relu_network_agrees_with_eager():
    torch._dynamo.reset()
    model = make_kan([2, 3, 2], n=3, basis="relu")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(points()), model(points()))


# Subclasses, hooks and weights computed from others


class Hard(KAN):
    def forward(self, x):
        return x[:, :1] * super().forward(x / 4)


class Counting(KAN):
    def forward(self, x):
        return super().forward(x) + self.n


def hooked(model):
    model.register_forward_hook(lambda module, inputs, y: 2 * y)
    model.layers[0].register_forward_pre_hook(lambda module, inputs: (inputs[0] ** 2,))
    return model


@pytest.mark.parametrize("change", [KAN.refine, lambda m: m.to_basis("relu")])
@pytest.mark.parametrize("kind", [KAN, Hard])
def test_changed_network_keeps_its_class_and_hooks(change, kind):
    model = hooked(kind([2, 3, 1], n=4, dtype=torch.float64))
    other, x = change(model), torch.rand(20, 2, dtype=torch.float64)
    assert type(other) is kind
    torch.testing.assert_close(other(x), model(x))


@pytest.mark.parametrize("kind", [KAN, Hard])
def test_freed_and_fixed_networks_keep_their_class_and_hooks(kind):
    model, x = hooked(kind([2, 3, 1], n=4, dtype=torch.float64)), torch.rand(20, 2).double()
    for other in (model.free(), model.free().fixed()):
        assert type(other) is kind
        torch.testing.assert_close(other(x), model(x))


def test_network_that_would_become_another_function_is_refused():
    with pytest.raises(ValueError, match="refine must keep the function, but Counting"):
        Counting([2, 1], n=4).refine()
    patched = KAN([2, 1], n=4)
    patched.forward = lambda x: x
    with pytest.raises(ValueError, match=r"was put on one KAN.*subclass"):
        patched.refine()
    pruned = KAN([2, 3, 1], n=4, first="affine")
    torch.nn.utils.prune.random_unstructured(pruned.layers[0], "weight", 0.5)
    with pytest.raises(ValueError, match=r"'weight' of Linear.*prune\.remove"):
        pruned.refine()


def test_calibrate_sees_what_enters_the_first_layer():
    model = Hard([2, 3, 1], first="affine", dtype=torch.float64)
    x = 4 * torch.rand(50, 2, dtype=torch.float64)
    model.calibrate_(x)
    z = model.layers[0](x / 4)
    torch.testing.assert_close(z.amin(0), torch.zeros(3).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(z.amax(0), torch.ones(3).double())


def test_calibrate_refuses_an_altered_first_layer():
    with pytest.raises(ValueError, match="calibrate_ needs a plain first layer"):
        hooked(KAN([2, 3, 1], first="affine")).calibrate_(torch.rand(5, 2))
    normed = KAN([2, 3, 1], first="affine")
    torch.nn.utils.parametrizations.weight_norm(normed.layers[0])
    with pytest.raises(ValueError, match="calibrate_ needs a plain first layer"):
        normed.calibrate_(torch.rand(5, 2))


@pytest.mark.parametrize("x", [[[0.0, 1.0]], None, 3, torch.zeros(5, 2).numpy()])
def test_calibrate_needs_a_tensor(x):
    with pytest.raises(TypeError, match="x must be a floating-point tensor, got"):
        KAN([2, 3, 1], first="affine").calibrate_(x)


def test_calibrate_needs_the_dtype_of_the_network():
    with pytest.raises(TypeError, match="x must have the dtype of the model"):
        KAN([2, 3, 1], first="affine").calibrate_(torch.rand(5, 2).double())


@pytest.mark.parametrize("widths", [{2: 0, 1: 0}, {2, 1}, "21", 2, None])
def test_widths_are_a_sequence(widths):
    for kind in (KAN, MLP):
        with pytest.raises(ValueError, match="widths must be at least two positive integers"):
            kind(widths)


def test_state_of_another_activation_is_refused():
    with pytest.raises(RuntimeError, match="activation = tanh"):
        MLP([2, 3, 1]).load_state_dict(MLP([2, 3, 1], "tanh").state_dict())
