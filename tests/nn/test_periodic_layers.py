"""Layers and networks with splines whose knots wrap."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch.func import functional_call, jacrev

from kanlib import (
    KAN,
    Cycle,
    Ensemble,
    GaussNewton,
    Jet,
    MeanSquaredError,
    ResidualLoss,
    Term,
    propagate,
    train,
    train_multilevel,
)
from kanlib._checks import BASES
from kanlib.analysis.conditioning import gauss_newton, hessian
from kanlib.analysis.importance import contributions, importance
from kanlib.analysis.ntk import tangent_kernel
from kanlib.analysis.pruning import prune
from kanlib.analysis.smoothing import smoothing_weight
from kanlib.formulas.edges import edges
from kanlib.interop.export import to_bspline, to_numpy
from kanlib.kernels.operator import backend
from kanlib.nn.spline_layer import SplineLayer, tie
from kanlib.objectives.penalties import Entropy, Norms, SquaredNorms
from kanlib.paper.refit import refit_at_greville, refit_on_samples
from kanlib.splines.knots import KnotGrid
from kanlib.splines.periodic import partners
from kanlib.training.adaptive import (
    gradient_indicator,
    jump_indicator,
    refine_adaptively,
    residual_indicator,
)
from kanlib.training.hierarchy import Hierarchy
from kanlib.training.jacobian import jacobian
from kanlib.viz.drawings import draw_network

pytestmark = pytest.mark.usefixtures("float64")
INTERVALS = [(-2.0, 1.0), (0.0, 2.0)]
GRADED = [-1.0, -0.7, 0.1, 0.4, 1.0]
each_basis = pytest.mark.parametrize("basis", BASES)


def network(basis="spline", seed=0, **options):
    torch.manual_seed(seed)
    given = {"n": 3, "r": 6, "domain": (-1, 1), "input_domain": INTERVALS, **options}
    return KAN([2, 3, 1], basis=basis, periodic=[0], periodic_as="splines", **given)


def points(count=25, seed=0):
    torch.manual_seed(seed)
    spread = torch.tensor([9.0, 2.0]) * torch.rand(count, 2)
    return spread - torch.tensor([5.0, 0.0])


@each_basis
def test_network_is_periodic_in_one_coordinate_only(basis):
    model, x = network(basis), points()
    period = torch.tensor([3.0, 0.0])
    torch.testing.assert_close(model(x), model(x + period), rtol=0, atol=1e-13)
    torch.testing.assert_close(model(x), model(x - 4 * period), rtol=0, atol=1e-12)
    assert (model(x) - model(x + torch.tensor([0.0, 3.0]))).abs().max() > 1e-3
    assert model.layers[1].periodic == [0]
    assert model.num_parameters == sum(p.numel() for p in model.parameters()) - 5 * 3


@each_basis
@pytest.mark.parametrize("points_of", ["uniform", "graded"])
def test_edge_is_the_periodic_spline_of_scipy(basis, points_of):
    knots = torch.linspace(-1, 1, 6).tolist() if points_of == "uniform" else GRADED
    grid = KnotGrid(5, knots, periodic=True)
    torch.manual_seed(0)
    layer = SplineLayer(2, 2, [grid, KnotGrid(5, knots)], basis=basis)
    x = torch.linspace(-6, 7, 301)
    own = layer.to_basis("spline").weight.detach()[1, 0].numpy()
    spline = BSpline(grid.knots.numpy(), own, 4, extrapolate="periodic")
    both = torch.stack([x, torch.zeros_like(x)], dim=1)
    rest = layer(torch.zeros(1, 2))[0, 1].item() - spline(0.0)
    expected = spline(x.numpy()) + rest
    np.testing.assert_allclose(layer(both)[:, 1].detach(), expected, atol=1e-11)
    again = to_bspline(layer, output=1, input=0)
    np.testing.assert_allclose(again(x.numpy()), spline(x.numpy()), atol=1e-11)
    edges = contributions(layer, both).detach()
    np.testing.assert_allclose(edges[:, 1, 0], spline(x.numpy()), atol=1e-11)


@each_basis
def test_refinement_keeps_the_function_and_its_period(basis):
    model, x = network(basis), points()
    finer = model.refine()
    assert finer.layers[1].periodic == [0]
    atol = 1e-12 if basis == "spline" else 1e-10
    torch.testing.assert_close(finer(x), model(x), rtol=0, atol=atol)
    torch.testing.assert_close(finer.refine()(x), model(x), rtol=0, atol=20 * atol)
    torch.testing.assert_close(finer(x), finer(x + torch.tensor([3.0, 0.0])), rtol=0, atol=atol)
    graded = [-1.0, -1 / 3, 0.2, 1 / 3, 1.0]
    torch.testing.assert_close(model.refine(graded)(x), model(x), rtol=0, atol=20 * atol)


def test_refinement_of_weights_that_are_apart_keeps_the_function():
    model, x = network(), points()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))  # coefficients at the seam are no longer equal
    torch.testing.assert_close(model.refine()(x), model(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(model.to_basis("relu")(x), model(x), rtol=0, atol=1e-11)


@each_basis
def test_bases_are_one_function(basis):
    model, x = network(basis), points()
    other = model.to_basis(BASES[1 - BASES.index(basis)])
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=1e-12)


def test_jets_agree_with_nested_autograd_and_at_the_seam():
    model = network(r=7)
    x = points().requires_grad_()
    pairs = [(0, 0, 0, 0), (0, 0, 1)]
    u = propagate(model, Jet.at(x.detach(), pairs=pairs))

    def nested(directions):
        found = model(x)[:, 0]
        for a in directions:
            found = torch.autograd.grad(found.sum(), x, create_graph=True)[0][:, a]
        return found.detach()[:, None]

    for directions in [(0,), (1,), (0, 0), (0, 0, 1), (0, 0, 0, 0)]:
        torch.testing.assert_close(u.d(*directions).detach(), nested(directions))
    ends = torch.tensor([[-2.0, 0.3], [1.0, 0.3]]) + torch.tensor([[1e-13, 0.0], [-1e-13, 0.0]])
    w = propagate(model, Jet.at(ends, pairs=pairs)).channels.detach()
    torch.testing.assert_close(w[:, 0], w[:, 1], rtol=1e-8, atol=1e-9)


def test_back_ends_agree():
    pytest.importorskip("numba")
    model, x = network(), points()
    jet = Jet.at(x, pairs=[(0, 0), (0, 1)])
    found = []
    for name in ("torch", "numba"):
        with backend(name):
            channels = propagate(model, jet).channels
            slopes = torch.autograd.grad(channels.square().sum(), [*model.parameters()])
            found.append([channels.detach(), *slopes])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def residual(u, x):
    return u.d(0, 0) + u.d(1) * u.value - x[:, :1]


@each_basis
def test_jacobian_agrees_with_a_transformation(basis):
    model, x = network(basis, r=5), points()
    jet = Jet.at(x, pairs=[(0, 0)])

    class Rows(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return residual(propagate(self.model, jet), x)[:, 0] / math.sqrt(len(x))

    names = [f"model.{name}" for name, _ in model.named_parameters()]

    def rows(*values):
        return functional_call(Rows(), dict(zip(names, values, strict=True)), (x,))

    values = [p.detach() for p in model.parameters()]
    parts = jacrev(rows, argnums=tuple(range(len(values))))(*values)
    expected = torch.cat([part.flatten(1) for part in parts], dim=1)
    loss = ResidualLoss(equation=Term(residual, x, pairs=[(0, 0)]))
    found = jacobian(model, loss)
    size = expected.abs().max()
    torch.testing.assert_close(found.dense(), expected, rtol=0, atol=1e-12 * size)
    torch.testing.assert_close(
        found.gram(), expected.T @ expected, rtol=0, atol=1e-12 * len(x) * size**2
    )
    v = torch.randn(found.shape[1])
    torch.testing.assert_close(found.product(v), expected @ v, rtol=0, atol=1e-11 * size)


def wave(x):
    return torch.sin(2 * math.pi * x[:, :1] / 3) * x[:, 1:]


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.Adam(p, 1e-2),
        lambda p: torch.optim.LBFGS(p, line_search_fn="strong_wolfe"),
        GaussNewton(),
        GaussNewton(solver="qr"),
        GaussNewton(solver="cg"),
    ],
    ids=["adam", "lbfgs", "cholesky", "qr", "cg"],
)
def test_optimizers_keep_coefficients_equal(optimizer):
    x = points(60)
    objective = MeanSquaredError(x, wave(x))
    run = train_multilevel(network(), objective, [3, 3], optimizer=optimizer, progress=False)
    layer = run.model.layers[1]
    torch.testing.assert_close(layer.coefficients(), layer.weight, rtol=0, atol=1e-10)
    assert run.loss < run.history.loss[0]
    period = torch.tensor([3.0, 0.0])
    torch.testing.assert_close(run.model(x), run.model(x + period), rtol=0, atol=1e-11)


def test_gauss_newton_solves_in_the_relu_basis_as_in_that_of_splines():
    x = points(60)
    runs = [
        train(
            network().to_basis(basis),
            MeanSquaredError(x, wave(x)),
            4,
            optimizer=GaussNewton(geometry="spline"),
            progress=False,
        )
        for basis in BASES
    ]
    torch.testing.assert_close(runs[0].loss, runs[1].loss, rtol=1e-5, atol=1e-12)


def test_of_an_angle_fewer_numbers_do_better_than_points_of_a_circle():
    """The target is exp(sin 3x + cos 5x); 128 coefficients against networks on the circle."""

    def target(x):
        return torch.exp(torch.sin(3 * x) + torch.cos(5 * x))

    places = torch.arange(400)[:, None] * (2 * math.pi / 400)
    between = places + math.pi / 400
    found = {}
    for kind, widths, n in (("splines", [1, 1], 64), ("circle", [1, 3, 1], 8)):
        torch.manual_seed(0)
        given = {"domain": (-1, 1), "input_domain": [(0, 2 * math.pi)], "r": 6}
        model = KAN(widths, n=n, periodic=[0], periodic_as=kind, **given)
        loss = MeanSquaredError(places, target(places))
        options = {"optimizer": GaussNewton(), "progress": False}
        model = train_multilevel(model, loss, [30, 30], **options).model
        off = model(between) - target(between)
        found[kind] = model.num_parameters, (off.norm() / target(between).norm()).item()
    (few, small), (many, large) = found["splines"], found["circle"]
    assert few < many
    assert small < min(1e-6, large)


def test_cycles_and_ensembles_train_them():
    x = points(40)
    objective = MeanSquaredError(x, wave(x))
    cycled = train(network(n=8), objective, 3, optimizer=Cycle(), progress=False)
    assert cycled.loss < cycled.history.loss[0]
    members = [network(seed=seed) for seed in range(2)]
    both = Ensemble(members)
    assert both.num_parameters == 2 * members[0].num_parameters
    torch.testing.assert_close(both(x)[1], members[1](x))
    torch.testing.assert_close(both.refine()(x)[1], members[1](x), rtol=0, atol=1e-12)


def test_checkpoints_go_on_with_periodic_splines(tmp_path):
    x = points(40)
    objective, calls = MeanSquaredError(x, wave(x)), itertools.count()

    def interrupted(model):
        if next(calls) == 11:
            raise KeyboardInterrupt
        return objective(model)

    def trained(objective, **options):
        given = {"optimizer": lambda p: torch.optim.Adam(p, 1e-2), "progress": False}
        return train_multilevel(network(), objective, [4, 4], **given, **options)

    whole = trained(objective)
    file = {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 0.0}
    half = trained(interrupted, **file)
    assert half.status == "interrupted"
    assert 0 < half.levels[-1].epochs < 4  # within the second level
    again = trained(objective, resume=True, **file)
    torch.testing.assert_close(again.model(x), whole.model(x), rtol=0, atol=0)
    state = network().state_dict()
    with pytest.raises(RuntimeError, match="periodic"):
        KAN([2, 3, 1], n=3, r=6, domain=(-1, 1), input_domain=INTERVALS).load_state_dict(state)


def test_penalties_see_equal_coefficients():
    model = network()
    with torch.no_grad():
        model.layers[1].weight.add_(torch.randn_like(model.layers[1].weight))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.layers[1].weight.copy_(twin.layers[1].coefficients())
    one, other = (SquaredNorms(1.0, derivative=2) for _ in range(2))
    torch.testing.assert_close(one(model), other(twin))


def test_initial_functions_do_not_depend_on_the_grid_they_are_prolonged_to():
    models = []
    for n in (4, 8):
        torch.manual_seed(0)
        models.append(KAN([2, 3, 1], n=n, prolonged_from=4, periodic=[0], periodic_as="splines"))
    x = torch.rand(20, 2) * 3 - 1
    x[:, 1] = x[:, 1].clamp(0, 1)
    torch.testing.assert_close(models[0](x), models[1](x), rtol=0, atol=1e-12)
    weight = models[0].layers[0].weight
    assert torch.equal(weight[:, 0], weight[:, 0][:, partners(models[0].layers[0].grids[0])])


def test_select_and_all_inputs_on_circles():
    model = KAN([3, 2, 1], n=4, periodic=[2, 0], periodic_as="splines")
    assert model.layers[0].periodic == [0, 2]
    assert model.select([[1, 2], [0, 1], [0]]).layers[0].periodic == [1]
    torus = KAN([2, 2, 1], n=4, periodic=[0, 1], periodic_as="splines")
    assert len(torus.layers[0].distinct_grids) == 1
    x = torch.rand(9, 2)
    torch.testing.assert_close(torus(x), torus(x + torch.tensor([2.0, -3.0])))


def test_adaptive_refinement_keeps_the_function_and_sees_points_outside():
    model, x = network(), points(40)
    finer = refine_adaptively(model, 7, residual_indicator(x, lambda model: model(x) - 1))
    assert finer.layers[1].periodic == [0]
    assert not finer.layers[1].grids[0].is_uniform
    torch.testing.assert_close(finer(x), model(x), rtol=0, atol=1e-11)
    period = torch.tensor([3.0, 0.0])
    where = [
        residual_indicator(z, lambda model, z=z: model(z) - 1)(model)[0]
        for z in (x, x + 2 * period)
    ]
    torch.testing.assert_close(*where)


def test_levels_count_free_coefficients():
    model = KAN([1, 2, 1], n=16, periodic=[0], periodic_as="splines")
    sizes = [level.num_parameters for level in Hierarchy(model).levels]
    assert sizes == [2 * n + 2 * (n + 3) for n in (4, 8, 16)]
    assert sizes[-1] == model.num_parameters


def test_programs_and_pictures_of_periodic_splines():
    model, x = network(), points(9)
    shapes = ({0: torch.export.Dim("points")},)
    program = torch.export.export(model, (x,), dynamic_shapes=shapes).module()
    torch.testing.assert_close(program(x[:4]), model(x[:4]))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
    assert len(draw_network(model).data) > 3
    half = KAN([1, 1], n=4, periodic=[0], periodic_as="splines").to(torch.bfloat16)
    z = torch.tensor([[0.25]], dtype=torch.bfloat16)
    torch.testing.assert_close(half(z), half(z + 4))


def test_what_periodic_splines_cannot_do_is_said():
    model = network()
    with pytest.raises(
        ValueError, match=r"free needs knots that do not wrap.*periodic_as='circle'"
    ):
        model.free()
    with pytest.raises(ValueError, match="first='spline'"):
        KAN([2, 3, 1], first="affine", periodic=[0], periodic_as="splines")
    with pytest.raises(ValueError, match="different coordinates from 0 to 1"):
        KAN([2, 3, 1], periodic=[0, 0], periodic_as="splines")
    with pytest.raises(ValueError, match=r"periodic_as must be one of .'circle', 'splines'."):
        KAN([2, 3, 1], periodic=[0], periodic_as="knots")
    with pytest.raises(ValueError, match="splines not periodic"):
        GaussNewton(solver="multigrid").bind(model, MeanSquaredError(points(), wave(points())))
    with pytest.raises(TypeError, match=r"no periodic splines.*to_onnx"):
        to_numpy(model, "model.npz")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("domain", [(0.1, 0.8), (-0.3, 1.1), (0.3, 0.7), (-math.pi, math.pi)])
def test_seam_is_a_place_like_others_whatever_the_domain(domain, dtype):
    (a, b), period = domain, domain[1] - domain[0]
    torch.manual_seed(0)
    options = {"periodic": [0], "periodic_as": "splines", "extension": "none", "dtype": dtype}
    model = KAN([1, 1], n=8, domain=domain, init_scale=1.0, **options)
    seams = torch.tensor([a + k * period for k in range(-30, 31)])[:, None].to(dtype)
    near = torch.tensor([[a + 1e-9 * period]])
    places = torch.linspace(a, b, 2001)[:, None]

    def jets(model, x):
        return propagate(model, Jet.at(x, pairs=[(0, 0)])).channels.detach()[..., 0].double()

    exact = copy.deepcopy(model).double()
    size = jets(exact, places[:-1]).abs().amax(1, keepdim=True)
    tolerance = 1e-7 if dtype == torch.float64 else 1e-3
    assert ((jets(model, seams) - jets(exact, near)).abs() <= tolerance * size).all()
    large = torch.tensor([[1e7], [1e10], [-1e20], [1e30]], dtype=dtype)
    assert model(large).abs().max() <= 1.001 * size[0]


def moved_apart(basis):
    """Return a network, and one that is the same function and has other weights on the circle."""
    model = network(basis, n=4, r=4)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for layer in twin.spline_layers:
            change = torch.randn_like(layer.weight)
            layer.weight.add_(change - tie(change, layer.distinct_grids, basis))
    return model, twin


def pruned(basis):
    """Return a network without some edges, and one that has numbers where these were."""
    torch.manual_seed(0)
    model = KAN([2, 3, 1], n=4, r=4, domain=(-1, 1), input_domain=[(-6, 5), (0, 2)], basis=basis)
    masks = [torch.tensor([[1, 0], [1, 1], [0, 1]]), torch.tensor([[1, 0, 1]])]
    given = dict(zip(model.spline_layers, (mask.bool() for mask in masks), strict=True))
    model = model.mapped(lambda layer: layer.masked(given[layer]))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for layer in twin.spline_layers:
            layer.weight.add_(torch.randn_like(layer.weight) * ~layer.mask[..., None])
    return model, twin


def splines_of(model):
    layers = [*model.spline_layers]
    places = [
        (l, q, p) for l in layers for q in range(l.out_features) for p in range(l.in_features)
    ]
    return [torch.as_tensor(to_bspline(l, q, p)(np.linspace(-0.9, 0.9, 9))) for l, q, p in places]


def worths(model, x, measure):
    found = importance(model, x, measure=measure).layers
    return [value for worth in found for value in vars(worth).values()]


def pruned_values(model, x):
    smaller = prune(model, MeanSquaredError(x, wave(x)), x, threshold=0.3)
    return [smaller.model(x), torch.tensor(smaller.after)]


def edges_of(model, x):
    layers = [layer for layer in edges(model, x) if isinstance(layer, list)]
    return [torch.as_tensor(edge.y) for layer in layers for row in layer for edge in row if edge]


def curves(model):
    return [torch.tensor([v for v in c.y if v is not None]) for c in draw_network(model).data]


def adam(parameters):
    return torch.optim.Adam(parameters, 1e-2)


def trained(model, x, optimizer):
    options = {"optimizer": optimizer, "progress": False}
    run = train(copy.deepcopy(model), MeanSquaredError(x, wave(x)), 2, **options)
    return [run.model(x), torch.tensor(run.history.loss)]


def refitted(model, x):
    return [refit_on_samples(model, x)(x), refit_at_greville(model)(x)]


def slopes(model, x):
    loss, parameters = MeanSquaredError(x, wave(x)), [*model.parameters()]
    return [*torch.autograd.grad(loss(model), parameters), jacobian(model, loss).dense()]


#: What reads a network; none may see weights that do not belong to its function.
READERS = {
    "values": lambda m, x: [m(x)],
    "jets": lambda m, x: [propagate(m, Jet.at(x, pairs=[(0, 0), (0, 1)])).channels],
    "coefficients": lambda m, x: [layer.coefficients() for layer in m.spline_layers],
    "refine": lambda m, x: [m.refine()(x)],
    "bases": lambda m, x: [m.to_basis(basis)(x) for basis in BASES],
    "select": lambda m, x: [m.select([[1, 0], [2, 0], [0]])(x)],
    "ensemble": lambda m, x: [Ensemble([m, m])(x), *(each(x) for each in Ensemble([m]).members())],
    "state": lambda m, x: [copy.deepcopy(m)(x)],
    "contributions": lambda m, x: [contributions(m.layers[1], m.layers[0](x))],
    "importance of data": lambda m, x: worths(m, x, "data"),
    "importance on the domain": lambda m, x: worths(m, x, "domain"),
    "prune": pruned_values,
    "edges for formulas": edges_of,
    "splines of scipy": lambda m, x: splines_of(m),
    "program": lambda m, x: [torch.export.export(m, (x,)).module()(x)],
    "drawing": lambda m, x: curves(m),
    "squared norms": lambda m, x: [SquaredNorms(1.0)(m), Norms(1.0)(m), Entropy(1.0)(m)],
    "smoothing weight": lambda m, x: [
        torch.tensor(smoothing_weight(m, MeanSquaredError(x, wave(x)))).log()
    ],
    "jumps": lambda m, x: jump_indicator(m),
    "residual": lambda m, x: residual_indicator(x, lambda model: model(x) - wave(x))(m),
    "gradient": lambda m, x: gradient_indicator(MeanSquaredError(x, wave(x)))(m),
    "adaptive refinement": lambda m, x: [
        row.breakpoints for each in refine_adaptively(m, 7).spline_layers for row in each.grids
    ],
    "refits": refitted,
    "slopes": slopes,
    "eigenvalues": lambda m, x: [gauss_newton(m, x), hessian(m, MeanSquaredError(x, wave(x)))],
    "kernel": lambda m, x: [tangent_kernel(m, x)],
    "adam": lambda m, x: trained(m, x, adam),
    "gauss-newton": lambda m, x: trained(m, x, GaussNewton()),
    "cycle": lambda m, x: trained(m, x, Cycle(adam, coarsest=1)),
    "full approximation": lambda m, x: trained(m, x, Cycle(adam, coarse="fas", coarsest=1)),
}


@pytest.mark.parametrize("twins", [moved_apart, pruned])
@each_basis
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_sees_weights_that_the_function_does_not_have(reader, basis, twins):
    model, twin = twins(basis)
    assert not all(
        torch.allclose(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True)
    )
    x = points(40)
    expected, found = READERS[reader](model, x), READERS[reader](twin, x)
    assert expected
    for one, other in zip(expected, found, strict=True):
        size = float(one.detach().abs().max())
        torch.testing.assert_close(other, one, rtol=1e-7, atol=1e-9 * size)


def test_plain_numpy_does_not_see_them_either(tmp_path):
    for name, model in zip(("one", "other"), pruned("relu"), strict=True):
        to_numpy(model, tmp_path / f"{name}.npz")
    one, other = (np.load(tmp_path / f"{name}.npz") for name in ("one", "other"))
    assert one.files == other.files
    for key in one.files:
        np.testing.assert_allclose(other[key], one[key], rtol=1e-9, atol=1e-12)


def test_rows_in_free_knots_do_not_see_edges_that_are_not_there():
    loss = MeanSquaredError(points(40), wave(points(40)))
    one, other = (jacobian(model.free(), loss).dense() for model in pruned("spline"))
    torch.testing.assert_close(other, one)
