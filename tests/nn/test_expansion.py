"""Layers and networks in any basis: against sums written out, splines, autograd and themselves."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

from kanlib import (
    Ensemble,
    GaussNewton,
    HardConditions,
    Jet,
    KnotGrid,
    MeanSquaredError,
    ResidualLoss,
    SplineLayer,
    Term,
    lbfgs,
    propagate,
    race,
    refine_adaptively,
    train,
    train_multilevel,
)
from kanlib.analysis.importance import importance
from kanlib.analysis.pruning import prune
from kanlib.bases.fourier import Fourier
from kanlib.bases.multiscale import HierarchicalSplines, SplineWavelets
from kanlib.bases.polynomials import Chebyshev, Legendre
from kanlib.bases.projections import nesting_error
from kanlib.bases.radial import Radial
from kanlib.formulas.formula import formula
from kanlib.interop.export import to_numpy
from kanlib.nn.expansion import ExpansionKAN, ExpansionLayer
from kanlib.objectives.penalties import SquaredNorms
from kanlib.training.jacobian import jacobian
from kanlib.viz.drawings import draw_network

NESTED = [
    Chebyshev(4),
    Legendre(5, (-1.0, 1.0)),
    Fourier(3, (-1.0, 2.0)),
    HierarchicalSplines(KnotGrid.uniform(2, 3), 1),
    HierarchicalSplines(KnotGrid(6, [-1.0, -0.9, 0.0, 1.0]), 1),
    SplineWavelets(KnotGrid.uniform(6, 5), 1),
]
ALL = [*NESTED, Radial(5, (-1.0, 1.0))]


def named(bases):
    return pytest.mark.parametrize("basis", bases, ids=lambda b: f"{type(b).__name__} {b.size}")


def network(basis, widths=(2, 3, 2), seed=0, **options):
    torch.manual_seed(seed)
    options = {"init_scale": 0.3, "dtype": torch.float64, **options}
    return ExpansionKAN([*widths], basis, **options)


def points(count=30, dimensions=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(count, dimensions, generator=generator, dtype=torch.float64)
    return (2.6 * x - 1.3).to(dtype)  # some lie outside of every domain


@named(ALL)
def test_layer_is_the_sum_over_inputs_and_functions(basis):
    torch.manual_seed(0)
    layer = ExpansionLayer(2, 3, basis, dtype=torch.float64)
    x = points()
    expected = torch.zeros(30, 3, dtype=torch.float64)
    for q, p, i in itertools.product(range(3), range(2), range(basis.size)):
        phi = basis.derivatives(x[:, p], 0)[0, :, i]
        expected[:, q] += layer.weight[q, p, i].detach() * phi
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(layer(x.reshape(5, 6, 2)), expected.reshape(5, 6, 3))


@named(ALL)
def test_gradients_are_right(basis):
    model = network(basis, (2, 2, 1))
    names, values = zip(*model.named_parameters(), strict=True)
    x = points(5).requires_grad_()

    def function(x, *values):
        return functional_call(model, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *values))


@pytest.mark.filterwarnings("ignore:refine")
@named(ALL)
def test_single_precision_follows_double(basis):
    model = network(basis)
    x = points()
    single = copy.deepcopy(model).float()
    assert single(x.float()).dtype == torch.float32
    y = model(x).detach()
    scale = float(y.abs().max())
    torch.testing.assert_close(single(x.float()).detach().double(), y, rtol=0, atol=1e-5 * scale)
    assert single.refine()(x.float()).dtype == torch.float32
    half = copy.deepcopy(model).bfloat16()
    assert half(x.bfloat16()).dtype == torch.bfloat16


def test_one_seed_is_one_function_in_every_dtype():
    weight = network(Chebyshev(4), dtype=torch.float32).layers[0].weight
    assert torch.equal(weight, network(Chebyshev(4)).layers[0].weight.float())


@named(ALL)
def test_jets_against_nested_autograd(basis):
    top = int(min(4, basis.smoothness))
    model = network(basis)
    x = points().requires_grad_()
    wanted = [d for k in range(2, top + 1) for d in itertools.product(range(2), repeat=k)]
    jet = propagate(model, Jet.at(x.detach(), pairs=wanted))
    y = model(x)
    for q in range(2):
        known = {(): y[:, q]}
        for k in range(top):
            for directions in itertools.combinations_with_replacement(range(2), k):
                (slopes,) = torch.autograd.grad(
                    known[directions].sum(), x, create_graph=True, materialize_grads=True
                )
                for a in range(directions[-1] if directions else 0, 2):
                    known[(*directions, a)] = slopes[:, a]
        for directions, expected in known.items():
            found = jet.d(*directions)[:, q] if directions else jet.value[:, q]
            scale = max(1.0, float(expected.detach().abs().max()))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * scale)


def test_jets_know_how_smooth_the_basis_is():
    hats = network(HierarchicalSplines(KnotGrid.uniform(2, 3)))
    jet = propagate(hats, Jet.at(points(), pairs=[(0, 0)]))
    assert jet.d(0).shape == (30, 2)
    with pytest.raises(ValueError, match="does not exist"):
        jet.d(0, 0)


@pytest.mark.parametrize("kind", [HierarchicalSplines, SplineWavelets])
@pytest.mark.parametrize("order", [1, 2, 4, 5])
def test_splines_by_scales_are_spline_layers_in_other_coordinates(kind, order):
    torch.manual_seed(0)
    basis = kind(KnotGrid(order, [-1.0, -0.7, 0.1, 1.0]), 2)
    layer = ExpansionLayer(2, 3, basis, dtype=torch.float64)
    spline = SplineLayer(2, 3, basis.grid, dtype=torch.float64)
    with torch.no_grad():
        spline.weight.copy_(layer.weight @ basis.matrix.T)
    x = points()
    pairs = [(0, 0), (0, 1)] if order > 2 else []
    ours, theirs = (propagate(each, Jet.at(x, pairs=pairs)).channels for each in (layer, spline))
    torch.testing.assert_close(
        ours, theirs, rtol=1e-9, atol=1e-10 * float(theirs.detach().abs().max())
    )
    fine, refined = layer.refine(), spline.refine()
    coefficients = fine.weight @ fine.basis.matrix.T
    torch.testing.assert_close(coefficients, refined.weight, rtol=1e-10, atol=1e-10)


@named(NESTED)
def test_refinement_keeps_the_network(basis):
    model = network(basis, first="affine", input_domain=((-1.3, 1.3), (-1.3, 1.3)))
    x, fine = points(200), model.refine().refine()
    assert fine.n > model.n
    assert type(fine) is ExpansionKAN
    y = model(x).detach()
    assert (fine(x) - y).abs().max() < 1e-12 * max(1.0, float(y.abs().max()))
    given = model.refine(basis.refine().refine())
    assert [layer.basis for layer in given.expansion_layers] == [
        layer.basis for layer in fine.expansion_layers
    ]
    torch.testing.assert_close(given(x), y, rtol=1e-12, atol=1e-12)
    each = model.refine(lambda old: old.refine().refine())
    assert torch.equal(each(x), fine(x))


def test_refining_radial_functions_tells_what_it_loses():
    basis = Radial(5, (-1.0, 1.0))
    model, x = network(basis), points(500)
    lost = nesting_error(basis, basis.refine())
    with pytest.warns(RuntimeWarning, match=f"by up to {lost:.2g} of their size"):
        fine = model.refine()
    change = (fine(x) - model(x)).detach().abs().max() / model(x).abs().max()
    assert 1e-4 < change < 1


def dense_jacobian(model, residual, x):
    """The rows of residual(model, x) by reverse differentiation, point by point."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    values = {name: dict(model.named_parameters())[name].detach() for name in names}

    def value(values, point):
        return residual(lambda z: functional_call(model, values, (z,)), point[None])[0]

    found = vmap(jacrev(value), in_dims=(None, 0))(values, x)
    return torch.cat([found[name].flatten(2) for name in names], dim=2).flatten(0, 1)


@named(ALL)
@pytest.mark.parametrize("frozen", [False, True])
def test_jacobian_against_automatic_differentiation(basis, frozen):
    model = network(basis, first="affine")
    if frozen:
        model.layers[0].weight.requires_grad_(False)
    x = points()
    y = torch.cos(3 * x)
    found = jacobian(model, MeanSquaredError(x, y), points=7)
    expected = dense_jacobian(model, lambda f, z: f(z), x) / 30**0.5 / 2**0.5
    scale = expected.abs().max()
    assert (found.dense() - expected).abs().max() < 1e-10 * scale
    gram = expected.T @ expected
    assert (found.gram() - gram).abs().max() < 1e-10 * gram.abs().max()


@named([basis for basis in ALL if basis.smoothness > 2])
def test_jacobian_of_a_residual_with_derivatives(basis):
    model, x = network(basis, (2, 3, 1)), points()

    def residual(u, x):
        return u.d(1) + u.value * u.d(0) - 0.1 * u.d(0, 0)

    def by_autograd(f, z):
        def scalar(w):
            return f(w[None])[0, 0]

        z = z[0]
        slope, curvature = torch.func.grad(scalar)(z), torch.func.hessian(scalar)(z)
        return (slope[1] + scalar(z) * slope[0] - 0.1 * curvature[0, 0]).reshape(1, 1)

    loss = ResidualLoss(volume=Term(residual, x, pairs=[(0, 0)]))
    expected = dense_jacobian(model, by_autograd, x) / 30**0.5
    found = jacobian(model, loss).dense()
    assert (found - expected).abs().max() < 1e-10 * expected.abs().max()


def objective():
    x = points(200)
    return MeanSquaredError(x, torch.sin(3 * x[:, :1] + x[:, 1:]))


@named(NESTED)
@pytest.mark.parametrize("optimizer", [GaussNewton(), lbfgs], ids=["gauss-newton", "lbfgs"])
def test_training_on_levels_goes_on_where_it_was(basis, optimizer):
    start = network(basis, (2, 2, 1), normalisation="tanh")
    run = train_multilevel(start, objective(), [4, 4], optimizer=optimizer, progress=False)
    first, second = run.levels
    assert second.n > first.n
    assert run.work == 4 + 4 * second.n / first.n
    entry = run.history.level.index(1)
    assert run.history.loss[entry] == pytest.approx(first.loss, rel=1e-9)
    assert run.loss < first.loss < run.history.loss[0]


@pytest.mark.parametrize("solver", ["cholesky", "qr", "cg"])
def test_gauss_newton_solves_a_linear_problem_in_a_few_steps(solver):
    x = torch.linspace(-1, 1, 100, dtype=torch.float64)[:, None]
    model = network(Legendre(9, (-1.0, 1.0)), (1, 1))
    target = torch.exp(x)
    optimizer = GaussNewton(solver=solver)
    run = train(model, MeanSquaredError(x, target), 12, optimizer=optimizer, progress=False)
    vandermonde = model.layers[0].basis.derivatives(x[:, 0], 0)[0]
    best = vandermonde @ torch.linalg.lstsq(vandermonde, target).solution
    assert run.loss < 2 * float((best - target).square().mean()) + 1e-22


def test_a_race_is_run():
    starts = {seed: network(Chebyshev(3), (2, 2, 1), seed) for seed in range(4)}
    run = race(starts, objective(), [3, 3], keep=[2], optimizer=GaussNewton(), progress=False)
    assert run.model.n == 6
    assert len(run.pedigree) == 6


@named([Fourier(2, (-1.0, 1.0)), SplineWavelets(KnotGrid.uniform(4, 3))])
@pytest.mark.parametrize("optimizer", [GaussNewton(), torch.optim.Adam])
@pytest.mark.parametrize("stop", [0, 2])
def test_runs_resume_on_any_level(basis, optimizer, stop, tmp_path):
    def go(file, epochs):
        return train_multilevel(
            network(basis, (2, 2, 1)),
            objective(),
            epochs,
            optimizer=optimizer,
            checkpoint=tmp_path / file,
            resume=True,
            progress=False,
        )

    whole = go("whole.pt", [3, 4])
    go("parts.pt", [3, stop])
    resumed = go("parts.pt", [3, 4])
    assert resumed.history.loss == whole.history.loss
    for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_of_another_basis_is_refused(tmp_path):
    options = {"checkpoint": tmp_path / "c.pt", "resume": True, "progress": False}
    train_multilevel(network(Chebyshev(3), (2, 1)), objective(), [2, 2], **options)
    with pytest.raises(ValueError, match="belongs to another run"):
        train_multilevel(network(Legendre(3), (2, 1)), objective(), [2, 2], **options)


def test_weights_are_loaded_into_the_same_basis_only():
    state = network(Fourier(2)).state_dict()
    other = network(Fourier(2), seed=1)
    other.load_state_dict(state)
    assert torch.equal(other(points()), network(Fourier(2))(points()))
    with pytest.raises(RuntimeError, match=r"n = 2 \(model: 4\).*refine\(\) it"):
        network(Fourier(4)).load_state_dict(state)
    with pytest.raises(RuntimeError, match="period"):
        network(Fourier(2, period=3.0)).load_state_dict(state)


def test_hard_conditions_take_such_networks():
    model = HardConditions(
        network(Chebyshev(4), (2, 2, 1)), lambda x: x[:, :1], lambda x: x[:, :1] * (1 - x[:, :1])
    )
    x = points()
    assert torch.equal(model(x * 0)[:, 0], 0 * x[:, 0])
    torch.testing.assert_close(model.refine()(x), model(x), rtol=1e-12, atol=1e-12)


def test_ensembles_take_such_networks():
    members = [network(Legendre(3), seed=seed) for seed in range(3)]
    ensemble, x = Ensemble(members), points()
    for found, member in zip(ensemble.refine()(x), members, strict=True):
        torch.testing.assert_close(found, member(x), rtol=1e-12, atol=1e-12)
    jet = Jet.at(x, pairs=[(0, 1)])
    found = propagate(ensemble, jet).channels
    for s, member in enumerate(members):
        torch.testing.assert_close(found[:, s], propagate(member, jet).channels)
    with pytest.raises(ValueError, match="member 1 differs from member 0"):
        Ensemble([members[0], network(Chebyshev(3))])


def test_networks_have_the_options_of_a_kan():
    model = network(
        Chebyshev(3),
        periodic=[0],
        input_domain=((0.0, 2.0), (-1.0, 1.0)),
        normalisation="sigmoid",
        hidden_basis=Legendre(4, (-1.0, 1.0)),
        outputs=("u", "v"),
    )
    x = points()
    torch.testing.assert_close(model(x), model(x + torch.tensor([2.0, 0.0], dtype=x.dtype)))
    assert [type(layer.basis) for layer in model.expansion_layers] == [Chebyshev, Legendre]
    assert propagate(model, Jet.at(x)).of("v").value.shape == (30, 1)
    assert model.num_parameters == 3 * 3 * 4 + 3 * 2 * 5
    assert model.n == 4


def test_calibration_covers_the_domain():
    model = network(Legendre(4, (-1.0, 1.0)), first="affine")
    x = points(100)
    z = model.calibrate_(x).layers[0](x)
    torch.testing.assert_close(z.amin(0), -torch.ones(3, dtype=x.dtype))
    torch.testing.assert_close(z.amax(0), torch.ones(3, dtype=x.dtype))


class Doubled(ExpansionLayer):
    """A subclass that computes something else."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_altered_layers_are_honoured_or_refused():
    layer, x = Doubled(2, 2, Chebyshev(3), dtype=torch.float64), points()
    torch.testing.assert_close(layer.refine()(x), layer(x))
    slope = propagate(layer, Jet.at(x)).d(0)
    plain = ExpansionLayer(2, 2, Chebyshev(3), dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(slope, 2 * propagate(plain, Jet.at(x)).d(0))
    nn.utils.parametrizations.weight_norm(plain)
    with pytest.raises(ValueError, match="weight must be a parameter of its own"):
        plain.refine()


REFUSED = {
    "importance": lambda m, x: importance(m, x),
    "prune": lambda m, x: prune(m, MeanSquaredError(x, x[:, :1]), x),
    "formula": lambda m, x: formula(m, x),
    "draw_network": lambda m, x: draw_network(m),
    "to_numpy": lambda m, x: to_numpy(m, "network.npz"),
    "penalty": lambda m, x: SquaredNorms(1.0)(m),
    "refine_adaptively": lambda m, x: refine_adaptively(m),
    "carried": lambda m, x: train_multilevel(
        m,
        MeanSquaredError(x, x[:, :1]),
        [1, 1],
        optimizer=torch.optim.Adam,
        optimizer_state="carried",
        progress=False,
    ),
    "carried through conditions": lambda m, x: train_multilevel(
        HardConditions(m, lambda x: x[:, :1], lambda x: x[:, :1]),
        MeanSquaredError(x, x[:, :1]),
        [1, 1],
        optimizer=torch.optim.Adam,
        optimizer_state="carried",
        progress=False,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_splines_says_so(name):
    model = network(Chebyshev(3), (2, 2, 1))
    with pytest.raises((TypeError, ValueError), match=r"a KAN|fresh") as caught:
        REFUSED[name](model, points())
    assert "\n" not in str(caught.value)


def test_gauss_newton_carries_its_damping():
    run = train_multilevel(
        network(Chebyshev(3), (2, 2, 1)),
        objective(),
        [4, 4],
        optimizer=GaussNewton(),
        optimizer_state="carried",
        progress=False,
    )
    entry = run.history.level.index(1)
    assert run.history.learning_rate[entry] == run.history.learning_rate[entry - 1]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ExpansionKAN([2, 1], "spline"), TypeError, "basis must be a basis such as"),
        (lambda: ExpansionKAN([2, 1], Chebyshev), TypeError, "basis must be a basis such as"),
        (lambda: ExpansionKAN([2], Chebyshev(2)), ValueError, "widths must be at least two"),
        (
            lambda: ExpansionKAN([2, 1], Chebyshev(2), first="affine"),
            ValueError,
            "widths must have a hidden layer",
        ),
        (
            lambda: ExpansionKAN([2, 1], Chebyshev(2), first="spline"),
            ValueError,
            "first must be one of",
        ),
        (
            lambda: ExpansionKAN([2, 1, 1], Chebyshev(2), hidden_basis=3),
            TypeError,
            "hidden_basis must be a basis",
        ),
        (
            lambda: ExpansionKAN([2, 1], Chebyshev(2)).refine(4),
            TypeError,
            "basis must be a basis such as",
        ),
        (
            lambda: ExpansionKAN([2, 1], Chebyshev(2)).refine(Legendre(4)),
            ValueError,
            "finer must be a Chebyshev",
        ),
        (
            lambda: ExpansionKAN([2, 1], Chebyshev(2))(torch.rand(3, 1)),
            ValueError,
            "x must have 2 entries",
        ),
        (
            lambda: ExpansionKAN([2, 1], Chebyshev(2))(torch.rand(3, 2).double()),
            TypeError,
            "x must have the dtype of the model",
        ),
        (
            lambda: ExpansionKAN([2, 1], Chebyshev(2)).calibrate_(torch.rand(5, 2)),
            ValueError,
            "calibrate_ needs first='affine'",
        ),
        (lambda: ExpansionLayer(0, 1, Chebyshev(2)), ValueError, "in_features must be at least 1"),
        (
            lambda: ExpansionLayer(1, 1, Chebyshev(2)).propagate(torch.rand(2, 1), [(0, 0)]),
            ValueError,
            "pairs must hold directions",
        ),
    ],
)
def test_errors_are_one_sentence(make, error, message):
    with pytest.raises(error, match=message):
        make()
