"""Hard conditions against SymPy, nested autograd, SciPy and what they promise on the boundary."""

import copy
import itertools
import math
import pickle
from functools import partial

import numpy as np
import pytest
import sympy
import torch
from resumption import whole_and_resumed
from scipy.integrate import solve_bvp
from scipy.interpolate import BPoly
from torch import nn

from kanlib import (
    KAN,
    MLP,
    Ensemble,
    GaussNewton,
    HardConditions,
    Jet,
    MeanSquaredError,
    ResidualLoss,
    Sampler,
    Term,
    lbfgs,
    propagate,
    race,
    train,
    train_multilevel,
)
from kanlib._checks import BASES
from kanlib.nn.transfinite import blends
from kanlib.training.jacobian import jacobian

pytestmark = pytest.mark.usefixtures("float64")
SQUARE = [(-1, 1), (0, 2)]
ADAM = partial(torch.optim.Adam, lr=1e-2)


def points(count=29, seed=0, box=SQUARE):
    torch.manual_seed(seed)
    low, high = torch.tensor(box, dtype=torch.float64).T
    return low + (high - low) * torch.rand(count, len(box))


def network(seed=0, n=4, r=6, q=1, **options):
    torch.manual_seed(seed)
    options = {"domain": (-1, 1), "input_domain": SQUARE, "init_scale": 0.5} | options
    return KAN([2, 3, q], n=n, r=r, **options)


def start(x):
    return torch.sin(math.pi * x[:, :1])


def wall(x):
    return (1 - x[:, :1] ** 2) * torch.exp(-x[:, 1:])


def moon(x):
    return torch.cos(x[:, :1]) * x[:, 1:] ** 2


def hard(seed=0, **options):
    return HardConditions(network(seed, **options), moon, wall)


def nested(function, x, directions):
    """Return a derivative at each point by that many backward passes."""
    x = x.clone().requires_grad_()
    found = function(x)[:, 0]
    for a in directions:
        found = torch.autograd.grad(found.sum(), x, create_graph=True)[0][:, a]
    return found.detach()[:, None]


def on(face, count=17):
    """Return points on the face (coordinate, place) of the square."""
    x = points(count, seed=7)
    x[:, face[0]] = face[1]
    return x


# the product rule


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("inputs", [None, torch.tanh])
def test_derivatives_to_order_four_are_those_of_autograd(basis, inputs):
    model = HardConditions(network(basis=basis), moon, wall, inputs=inputs)
    x = points()
    pairs = [(0, 0, 1, 1), (0, 0, 0, 0), (0, 1, 1)]
    jet = propagate(model, Jet.at(x, pairs=pairs))
    torch.testing.assert_close(jet.value, model(x))
    for directions in [(0,), (1,), (0, 1), *pairs]:
        torch.testing.assert_close(
            jet.d(*directions), nested(model, x, directions), rtol=1e-9, atol=1e-9
        )


def test_product_of_jets_is_that_of_sympy():
    a, b = sympy.symbols("a b")
    f, g = sympy.sin(2 * a) * b**3, sympy.exp(a * b)
    x = points(5)

    def at(expression, directions):
        for each in directions:
            expression = sympy.diff(expression, (a, b)[each])
        value = sympy.lambdify((a, b), expression, "math")
        return [value(*point) for point in x.tolist()]

    def jet(expression):
        held = [(), (0,), (1,), (0, 0), (0, 1), (1, 1), (0, 0, 1), (0, 1, 1), (0, 0, 1, 1)]
        rows = [at(expression, directions) for directions in held]
        return Jet(torch.tensor(rows)[..., None], 2, tuple(held[3:]))

    torch.testing.assert_close(jet(f).times(jet(g)).channels, jet(f * g).channels)


def test_product_of_jets_needs_the_same_derivatives():
    x = points(3)
    with pytest.raises(ValueError, match="other must have the derivatives"):
        Jet.at(x).times(Jet.at(x, pairs=[(0, 0)]))
    with pytest.raises(ValueError, match="other must have 2 columns, or one, got 3"):
        Jet.at(x).times(Jet.at(x).through(lambda x: torch.cat([x, x[:, :1]], dim=1)))


def test_kept_jets_follow_the_points():
    """The same memory may hold other points, and functions may be exchanged."""
    model, x = hard(), points()
    for seed in range(5):
        x.copy_(points(seed=seed))
        torch.testing.assert_close(propagate(model, Jet.at(x)).value, model(x))
        torch.testing.assert_close(propagate(model, Jet(x[None], 0)).value, model(x))
    for _ in range(100):
        y = points(seed=int(torch.randint(1000, ())))
        torch.testing.assert_close(propagate(model, Jet(y[None], 0)).value, model(y))
    model.g = 2.0
    torch.testing.assert_close(propagate(model, Jet(x[None], 0)).value, model(x))
    jet = propagate(model, Jet.at(x, pairs=[(0, 0)]))
    torch.testing.assert_close(jet.d(0), nested(model, x, (0,)))


def test_gradient_flows_to_the_points():
    model, x = hard(), points(4).requires_grad_()
    (found,) = torch.autograd.grad(propagate(model, Jet.at(x)).value.sum(), x)
    torch.testing.assert_close(found[:, :1], nested(model, x.detach(), (0,)))


# refinement, and all that trains


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_refinement_keeps_the_function_and_the_conditions(basis, dtype):
    model = HardConditions(
        network(n=3, r=4, basis=basis, dtype=dtype, breakpoints=None), moon, wall
    )
    fine, x = model.refine().refine(), points().to(dtype)
    assert (model.n, fine.n) == (3, 12)
    tolerance = 1e-4 if dtype == torch.float32 or basis == "relu" else 1e-12
    torch.testing.assert_close(fine(x), model(x), rtol=tolerance, atol=tolerance)
    ends = on((0, 1.0)).to(dtype)
    torch.testing.assert_close(fine(ends), moon(ends))
    assert fine.network is not model.network


def equation(u, x):
    return u.d(1) + u.value * u.d(0) - 0.1 * u.d(0, 0) - x[:, :1]


def meeting(u, v, x):
    return u.d(0) - 2 * v.d(0) * v.value


def loss(x=None):
    x = points(60) if x is None else x
    return ResidualLoss(
        inside=Term(equation, x, pairs=[(0, 0)]),
        meeting=Term(meeting, points(13, 1), features=[None, lambda x: x * x.new_tensor([-1, 1])]),
    )


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("inputs", [None, torch.tanh])
@pytest.mark.parametrize("block", [7, 4096])
def test_structured_rows_are_finite_differences(basis, inputs, block):
    model = HardConditions(network(n=3, r=4, basis=basis), moon, wall, inputs=inputs)
    objective = loss()
    found = jacobian(model, objective, points=block)
    parameters = torch.nn.utils.parameters_to_vector(model.parameters()).detach()

    def residual(values):
        torch.nn.utils.vector_to_parameters(values, model.parameters())
        with torch.no_grad():
            return torch.cat([r(model).flatten() for r in objective.residuals()])

    columns = []
    for unit in torch.eye(len(parameters))[::5]:
        step = 1e-6 * unit
        columns.append((residual(parameters + step) - residual(parameters - step)) / 2e-6)
    torch.testing.assert_close(
        found.dense()[:, ::5], torch.stack(columns, dim=1), rtol=1e-6, atol=1e-6
    )


def test_rows_of_splines_stay_short():
    """The Jacobian has the runs of the layers, not one full row for the whole network."""
    model = hard(n=32)
    runs = [run for block in jacobian(model, loss())._blocks for run in block.runs]
    assert max(run.values.shape[1] for run in runs) == 6 * 3


@pytest.mark.parametrize("optimizer", [ADAM, lbfgs, GaussNewton(), GaussNewton(solver="cg")])
@pytest.mark.parametrize("state", ["fresh", "carried"])
def test_training_over_levels(optimizer, state):
    run = train_multilevel(
        hard(r=4), loss(), [4, 4], optimizer=optimizer, optimizer_state=state, progress=False
    )
    assert run.model.n == 8
    assert run.loss < run.history.loss[0]
    ends = on((0, -1.0))
    torch.testing.assert_close(run.model(ends), moon(ends))


def test_moving_points():
    sampler = Sampler(SQUARE, 50, share=0.5, dtype=torch.float64)
    run = train(hard(r=4), loss(sampler), 5, optimizer=GaussNewton(), progress=False)
    assert run.loss < 0.5 * run.history.loss[0]


@pytest.mark.parametrize("optimizer", [ADAM, GaussNewton()])
def test_resumed_run_ends_with_the_same_numbers(optimizer, tmp_path):
    whole, resumed = whole_and_resumed(
        lambda: (hard(r=4), loss()), tmp_path, 2, optimizer=optimizer
    )
    assert resumed.history.loss == whole.history.loss
    x = points()
    torch.testing.assert_close(resumed.model(x), whole.model(x), rtol=0, atol=0)


def test_weights_and_copies():
    model, x = hard(), points()
    other = hard(seed=1)
    other.load_state_dict(model.state_dict())
    propagate(model, Jet.at(x))
    for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)
    assert not pickle.loads(pickle.dumps(model))._known


def test_race():
    starts = {seed: hard(seed, r=4) for seed in range(4)}
    run = race(starts, loss(), [3, 3], keep=[2], optimizer=GaussNewton(), progress=False)
    ends = on((0, 1.0))
    assert run.model.n == 8
    torch.testing.assert_close(run.model(ends), moon(ends))


def test_ensemble_is_its_members():
    members = [hard(seed, r=4) for seed in range(3)]
    together, x, jet = Ensemble(members), points(), Jet.at(points(), pairs=[(0, 0)])
    torch.testing.assert_close(together(x), torch.stack([m(x) for m in members]))
    torch.testing.assert_close(
        propagate(together, jet).channels,
        torch.stack([propagate(m, jet).channels for m in members], dim=1),
    )
    run = train_multilevel(together, loss(), [3, 3], optimizer=ADAM, progress=False)
    alone = train_multilevel(members[1], loss(), [3, 3], optimizer=ADAM, progress=False)
    torch.testing.assert_close(run.model.members()[1](x), alone.model(x))


def test_data_and_other_networks():
    x = points()
    data = MeanSquaredError(x, moon(x) + wall(x))
    assert train(hard(), data, 20, optimizer=GaussNewton(), progress=False).loss < 1e-6
    torch.manual_seed(0)
    model = HardConditions(MLP([2, 5, 1], "tanh"), moon, wall)
    run = train(model, loss(), 5, optimizer=GaussNewton(), progress=False)
    torch.testing.assert_close(run.model(on((0, 1.0))), moon(on((0, 1.0))))
    with pytest.raises(TypeError, match="model must be a KAN, or have the number of intervals"):
        train_multilevel(model, loss(), [1], progress=False)


def test_named_outputs():
    model = HardConditions(network(q=2, outputs=("u", "p")), 0.0, wall)
    jet = propagate(model, Jet.at(points()))
    torch.testing.assert_close(jet.of("p").value, model(points())[:, 1:])


# boxes

FACES = [(0, -1.0), (0, 1.0), (1, 0.0), (1, 2.0)]


def solution(x):
    return torch.sin(x[:, :1]) * torch.exp(0.5 * x[:, 1:]) + x[:, :1] ** 3 * x[:, 1:]


def slope_of(j):
    return lambda x: Jet.at(x).through(solution).d(j)


SIDES = ["", "v", "s", "vs"]


@pytest.mark.parametrize("low", SIDES)
@pytest.mark.parametrize("high", SIDES)
@pytest.mark.parametrize(("first", "last"), [("v", ""), ("vs", "v"), ("s", "s"), ("", "")])
def test_combinations_on_a_square(low, high, first, last):
    """Values and slopes of a known function hold on the faces whatever the network."""
    given = dict(zip(FACES, (low, high, first, last), strict=True))
    value = {face: solution for face, kind in given.items() if "v" in kind}
    slope = {face: slope_of(face[0]) for face, kind in given.items() if "s" in kind}
    if not value | slope:
        return
    model = HardConditions.on_box(network(), SQUARE, value=value, slope=slope)
    for face, kind in given.items():
        x = on(face)
        jet = propagate(model, Jet.at(x))
        off = (jet.value - solution(x)).abs()
        bent = (jet.d(face[0]) - slope_of(face[0])(x)).abs()
        assert (off.max() < 1e-12) == ("v" in kind)
        assert (bent.max() < 1e-12) == ("s" in kind)
    assert float(model.d(points(2000)).abs().max()) <= 1 + 1e-12
    assert float(model.d(points(20)).abs().min()) > 0


def test_cube_with_values_on_all_faces():
    box = [(0, 1), (-1, 2), (3, 5)]

    def target(x):
        return x[:, :1] * x[:, 1:2] ** 2 + torch.sin(x[:, 2:]) * x[:, :1] ** 2

    torch.manual_seed(0)
    model = HardConditions.on_box(KAN([3, 1], domain=(-1, 5)), box, value=target)
    for j, end in itertools.product(range(3), (0, 1)):
        x = points(9, box=box)
        x[:, j] = box[j][end]
        torch.testing.assert_close(model(x), target(x))
    x = points(9, box=box)
    assert (model(x) - target(x)).abs().max() > 1e-3


def test_blends_are_hermite_polynomials():
    """Value and slope at both ends give the cubics that SciPy interpolates with."""
    s = np.linspace(0, 1, 9)
    for k, coefficients in enumerate(blends(((0, 0), (0, 1), (1, 0), (1, 1)))):
        data = np.zeros(4)
        data[k] = 1.0
        expected = BPoly.from_derivatives([0, 1], data.reshape(2, 2))(s)
        np.testing.assert_allclose(np.polyval(coefficients[::-1], s), expected, atol=1e-14)


def test_some_outputs_and_then_others():
    pair = network(q=3, outputs=("u", "v", "p"))
    first = HardConditions.on_box(pair, SQUARE, value=start_pair, of=("u", "v"))
    both = HardConditions.on_box(first, SQUARE, value={(1, 2.0): 5.0}, of=["p"])
    x, top = on((0, 1.0)), on((1, 2.0))
    torch.testing.assert_close(first(x)[:, :2], start_pair(x))
    torch.testing.assert_close(first(x)[:, 2], pair(x)[:, 2])
    torch.testing.assert_close(both(x)[:, :2], start_pair(x))
    torch.testing.assert_close(both(top)[:, 2], torch.full((17,), 5.0))
    assert (both(x)[:, 2] - 5).abs().max() > 0.1
    jet = propagate(both, Jet.at(x, pairs=[(0, 0)]))
    torch.testing.assert_close(jet.of("p").d(0), nested(lambda x: both(x)[:, 2:], x, (0,)))
    found = jacobian(both, ResidualLoss(p=Term(lambda w, x: w.of("p").d(1) + w.of("u").value, x)))
    assert found.dense().norm() > 0


def start_pair(x):
    return torch.cat([x[:, :1] * x[:, 1:], 1 + x[:, 1:] ** 2], dim=1)


def test_clamped_beam_is_that_of_scipy():
    """u'''' = e^x, clamped at one end, supported at the other: one Term and no weights."""
    box = [(0.0, 1.0)]
    torch.manual_seed(0)
    beam = HardConditions.on_box(
        KAN([1, 1], n=4, r=8), box, value={(0, 0): 1.0, (0, 1): 0.0}, slope={(0, 0): -2.0}
    )
    line = torch.linspace(0, 1, 60)[:, None]
    end = torch.ones(1, 1)
    objective = ResidualLoss(
        load=Term(lambda u, x: u.d(0, 0, 0, 0) - x.exp(), line, pairs=[(0, 0, 0, 0)]),
        moment=Term(lambda u, x: u.d(0, 0), end, pairs=[(0, 0)]),
    )
    run = train_multilevel(beam, objective, [10, 5], optimizer=GaussNewton(), progress=False)
    exact = solve_bvp(
        lambda x, y: [y[1], y[2], y[3], np.exp(x)],
        lambda a, b: [a[0] - 1, a[1] + 2, b[0], b[2]],
        np.linspace(0, 1, 20),
        np.zeros((4, 20)),
        tol=1e-10,
    )
    found = run.model(line).detach()[:, 0].numpy()
    np.testing.assert_allclose(found, exact.sol(line[:, 0].numpy())[0], atol=1e-7)


# bad arguments


def test_factor_that_does_not_vanish_is_an_error():
    circle = on((0, 1.0))
    HardConditions(network(), 0.0, wall, boundary=circle)
    wrong = torch.cat([circle, torch.tensor([[0.9, 0.0]])])
    with pytest.raises(ValueError, match=r"d must vanish on the boundary, but is .* at \[0.9, "):
        HardConditions(network(), 0.0, wall, boundary=wrong)
    with pytest.raises(ValueError, match="boundary must have shape"):
        HardConditions(network(), 0.0, wall, boundary=torch.ones(3))


def test_functions_must_be_functions_of_rows_and_constants():
    with pytest.raises(TypeError, match="d must be a function of points"):
        HardConditions(network(), 0.0, 1.0)
    with pytest.raises(TypeError, match="g must be a finite number"):
        HardConditions(network(), "zero", wall)
    with pytest.raises(ValueError, match="g must be a constant of the training"):
        HardConditions(network(), nn.Linear(2, 1), wall)
    flat = HardConditions(network(), 0.0, lambda x: x[:, 0])
    with pytest.raises(ValueError, match=r"d must return \(29, Q\), one row for each point"):
        propagate(flat, Jet.at(points()))
    HardConditions(network(), nn.Linear(2, 1).requires_grad_(False), wall)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "value or slope must be given on a face"),
        ({"value": {(0, 0.0): 1.0}}, r"value must name faces \(j, place\).* got \(0, 0.0\)"),
        ({"value": {2: 1.0}}, r"value must name faces"),
        ({"slope": {(2, 0.0): 1.0}}, r"slope must name faces"),
        ({"value": {(0, -1): "x"}}, r"value\[\(0, -1\)\] must be a finite number"),
        ({"value": {(0, -1): 0.0, (1, 0): 1.0}}, r"value on the face \(.*\) is off by 1 at"),
        ({"value": 0.0, "of": ["v"]}, "of must list outputs of the network"),
        ({"value": 0.0, "of": "u"}, "of must be a list of names"),
        ({"value": 0.0, "of": []}, "of must list outputs of the network"),
        ({"slope": 0.0, "of": ["u"]}, "slope without value on a face acts on the inputs"),
    ],
)
def test_bad_conditions_on_a_box(given, message):
    pair = network(q=2, outputs=("u", "p"))
    with pytest.raises((ValueError, TypeError), match=message):
        HardConditions.on_box(pair, SQUARE, **given)


@pytest.mark.parametrize(
    ("name", "g", "d"),
    [
        ("g", lambda x: x[:, 0], wall),
        ("g", lambda x: x[:, :1].expand(-1, 3), wall),
        ("g", lambda x: 0.0, wall),
        ("d", 0.0, lambda x: x[:, 0]),
        ("d", moon, lambda x: x[:, :1].expand(-1, 3)),
    ],
)
@pytest.mark.parametrize("q", [1, 2])
def test_shapes_of_functions_do_not_broadcast(name, g, d, q):
    model, x = HardConditions(network(q=q), g, d), points(5)
    with pytest.raises(ValueError, match=f"^{name} must return .*, got .*: slice columns as"):
        model(x)
    with pytest.raises(ValueError, match=f"^{name} must return "):
        propagate(model, Jet.at(x))


def test_one_column_serves_all_outputs():
    x = points(2)
    for columns in (1, 2):
        model = HardConditions(network(q=2), lambda x, k=columns: x[..., :k].sin(), lambda x: x)
        assert model(x).shape == propagate(model, Jet.at(x)).value.shape == (2, 2)
        assert model(x[0][None, None]).shape == (1, 1, 2)
        assert model(x[:0]).shape == (0, 2)


@pytest.mark.parametrize("of", [None, ["u", "v"]])
@pytest.mark.parametrize("data", [lambda x: x[:, 1], lambda x: x[:, :1].expand(-1, 4)])
@pytest.mark.parametrize("kind", ["value", "slope"])
def test_shapes_of_data_do_not_broadcast(of, data, kind):
    three, face = network(q=3, outputs=("u", "v", "p")), {(0, -1): data}
    conditions = {"value": 0.0 if kind == "value" else {(0, -1): 0.0}, kind: face}
    message = rf"{kind}\[\(0, -1.0\)\] must return \(16, 1\) or \(16, [23]\), .* got \(16,"
    with pytest.raises(ValueError, match=message):
        HardConditions.on_box(three, SQUARE, of=of, **conditions)


def test_intervals_must_fit_the_network():
    with pytest.raises(ValueError, match=r"intervals must hold one pair .* 2 inputs .* got 3"):
        HardConditions.on_box(network(), [(0, 1)] * 3, value={(2, 0): 0.0})
    inner = nn.Sequential(network())
    for box, face in (([(0, 1)] * 3, (2, 0)), ([(0, 1)], (0, 0))):
        for kind in ("value", "slope"):
            model = HardConditions.on_box(inner, box, **{kind: {face: 0.0}})
            for evaluated in (model, lambda x, m=model: propagate(m, Jet.at(x))):
                with pytest.raises(ValueError, match="x must have one coordinate for each"):
                    evaluated(points())


class Scaled(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.register_buffer("a", torch.tensor(a))

    def forward(self, x):
        return self.a * torch.sin(x[:, 1:])


@pytest.mark.parametrize("boxed", [False, True])
def test_kept_jets_follow_tensors_of_modules(boxed):
    """So they do after ``load_state_dict``, as a run that is resumed has it."""
    g = Scaled(1.0)
    if boxed:
        model = HardConditions.on_box(network(), SQUARE, value={(0, 1): g})
    else:
        model = HardConditions(network(), g, wall)
    jet = Jet.at(points())
    for change in (
        lambda: g.load_state_dict(Scaled(3.0).state_dict()),
        lambda: g.a.fill_(5.0),
        lambda: setattr(g, "a", torch.tensor(7.0)),
    ):
        before = propagate(model, jet).value
        change()
        torch.testing.assert_close(propagate(model, jet).value, model(points()))
        assert (propagate(model, jet).value - before).abs().max() > 0.1


@pytest.mark.parametrize("name", ["g", "d", "inputs"])
def test_trainable_closures_are_an_error(name):
    a = nn.Parameter(torch.tensor(2.0))
    functions = {"g": moon, "d": wall, name: lambda x: a * x[:, : 2 if name == "inputs" else 1]}
    model = HardConditions(network(), **functions)
    for context in (torch.enable_grad(), torch.no_grad()):
        with context, pytest.raises(ValueError, match=f"^{name} must be a constant of the train"):
            propagate(model, Jet.at(points()))
    a.requires_grad_(False)
    propagate(model, Jet.at(points()))


@pytest.mark.parametrize("taken", [lambda x: x.numpy(), lambda x: x.detach().numpy()])
def test_functions_through_numpy_are_an_error(taken):
    model = HardConditions(network(), lambda x: torch.tensor(np.sin(taken(x[:, :1]))), wall)
    with pytest.raises(ValueError, match=r"^g must be made of functions of torch .* not np.sin"):
        propagate(model, Jet.at(points()))


def test_data_that_meet_at_simple_shares_only_are_an_error():
    def wave(x):
        return torch.sin(10 * math.pi * x[:, 2:])

    with pytest.raises(ValueError, match="value and slope must agree where faces meet"):
        HardConditions.on_box(KAN([3, 1]), [(0, 1)] * 3, value={(0, 0): wave, (1, 0): 0.0})
