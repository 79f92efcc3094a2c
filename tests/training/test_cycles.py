"""Cycles and additive levels, against dense linear algebra on a quadratic problem and autograd."""

from functools import partial

import numpy as np
import pytest
import torch
from resumption import whole_and_resumed
from scipy.interpolate import BSpline
from torch import nn

from kanlib import (
    KAN,
    MLP,
    GaussNewton,
    HardConditions,
    KnotGrid,
    MeanSquaredError,
    QuasiNewton,
    ResidualLoss,
    SplineLayer,
    Term,
    Unknowns,
    lbfgs,
    train,
    train_multilevel,
)
from kanlib.training.additive import Additive
from kanlib.training.cycles import Cycle, visits
from kanlib.training.displacements import Displacements
from kanlib.training.hierarchy import Hierarchy, coarsened
from kanlib.training.iterations import Iteration
from kanlib.training.runs import EndOfLevel

torch.manual_seed(3)
X = torch.rand(150, 2, dtype=torch.float64)
Y = torch.sin(9 * X[:, :1]) * X[:, 1:] + 0.1 * torch.rand(150, 1, dtype=torch.float64)
DATA = MeanSquaredError(X, Y)
GRADED = [0.0, 0.1, 0.15, 0.3, 0.45, 0.5, 0.8, 0.95, 1.0]
descent = partial(torch.optim.SGD, lr=0.4)
adam = partial(torch.optim.Adam, lr=1e-2)
short = partial(lbfgs, max_iter=5)


def own_grids():
    """Grids of two inputs that share neither breakpoints nor spacing, of seven intervals."""
    points = [0.0, 0.05, 0.2, 0.3, 0.45, 0.7, 0.75, 1.0]
    return [KnotGrid(3, points), KnotGrid(3, [1.0 - t for t in reversed(points)])]


def linear(kind, basis="spline"):
    """A model that is linear in its weights, so that its loss on the data is quadratic."""
    torch.manual_seed(1)
    if kind == "grids":
        return nn.Sequential(SplineLayer(2, 1, own_grids(), basis=basis, dtype=torch.float64))
    where = {"graded": {"breakpoints": GRADED}, "uniform": {"n": 8}, "odd": {"n": 7}}[kind]
    return KAN([2, 1], r=3, basis=basis, dtype=torch.float64, **where)


def network(basis="spline", n=9, **options):
    torch.manual_seed(1)
    return KAN([2, 3, 1], n=n, init_scale=0.3, dtype=torch.float64, **options).to_basis(basis)


def flat(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def prolongations(model, coarsest=2):
    """P of each coarser level for all weights, by SciPy: coarse functions in those of the grid."""
    (layer,) = (m for m in model.modules() if isinstance(m, SplineLayer))
    grids = layer.grids
    found = []
    while -(-grids[0].n // 2) >= coarsest:
        kept = [grid.breakpoints.numpy() for grid in grids]
        kept = [np.unique([*t[::2], t[-1]]) for t in kept]
        grids = [KnotGrid(layer.order, t) for t in kept]
        found.append(blocks(layer, grids))
    return found


def blocks(layer, grids):
    parts = []
    x = np.linspace(0, 1, 400)
    for fine, coarse in zip(layer.grids, grids, strict=True):
        theirs, ours = (values(grid, layer, x) for grid in (coarse, fine))
        parts.append(np.linalg.lstsq(ours, theirs, rcond=None)[0])
    matrix = np.zeros((sum(p.shape[0] for p in parts), sum(p.shape[1] for p in parts)))
    row = column = 0
    for p in parts:
        matrix[row : row + p.shape[0], column : column + p.shape[1]] = p
        row, column = row + p.shape[0], column + p.shape[1]
    return matrix


def values(grid, layer, x):
    """Values of the basis functions on [0, 1], which SciPy or the definition gives."""
    knots = grid.knots.numpy()
    if layer.basis == "spline":
        return BSpline(knots, np.eye(grid.num_basis), layer.order - 1)(x)
    starts = knots[: grid.num_basis]
    return np.maximum(x[:, None] - starts, 0.0) ** (layer.order - 1)


def quadratic(model):
    """A, b and c of the loss x^T A x - 2 b^T x + c, from the values of the basis functions."""
    (layer,) = (m for m in model.modules() if isinstance(m, SplineLayer))
    columns = [values(grid, layer, X[:, p].numpy()) for p, grid in enumerate(layer.grids)]
    rows, y = np.concatenate(columns, axis=1), Y[:, 0].numpy()
    return rows.T @ rows / len(y), rows.T @ y / len(y), y @ y / len(y)


KINDS = ["uniform", "odd", "graded", "grids"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["V", "W"])
@pytest.mark.parametrize("coarse", ["subspace", "fas"])
def test_cycle_of_descent_is_known_by_dense_algebra(kind, shape, coarse):
    model = linear(kind)
    A, b, _ = quadratic(model)
    matrices = [*reversed(prolongations(model)), np.eye(len(b))]
    x = flat(model).numpy().copy()
    rate, steps = 0.05, 3
    order = [*visits(len(matrices), shape)]
    for number in order:  # on quadratics both schemes have the same coarse problem
        P = matrices[number]
        for _ in range(steps):
            x = x - rate * P @ P.T @ (2 * A @ x - 2 * b)
    smoother = partial(torch.optim.SGD, lr=rate)
    cycle = Cycle(smoother, shape, steps, coarse, coarsest=2).bind(model, DATA)
    assert len(cycle.hierarchy) == len(matrices) >= 3
    cycle.step()
    np.testing.assert_allclose(flat(model).numpy(), x, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_gauss_newton_solves_the_galerkin_system_of_each_level(kind, basis):
    model = linear(kind, basis)
    A, b, _ = quadratic(model)
    matrices = [*reversed(prolongations(model)), np.eye(len(b))]
    x = flat(model).numpy().copy()
    damping = 1e-3
    for number in visits(len(matrices)):
        P = matrices[number]
        system = P.T @ A @ P
        D = damping * np.diag(np.diag(system))
        x = x - P @ np.linalg.solve(system + D, P.T @ (A @ x - b))
    smoother = GaussNewton(damping=damping)
    cycle = Cycle(smoother, coarsest=2).bind(model, DATA)
    for each in cycle.smoothers:
        each._reward = lambda gain: None  # the damping stays as it is
    cycle.step()
    np.testing.assert_allclose(flat(model).numpy(), x, rtol=1e-6, atol=1e-8 * abs(x).max())


def test_gauss_newton_on_a_coarse_level_is_the_one_of_the_coarse_network():
    coarse = network(n=4)
    fine = coarse.refine()
    level = Hierarchy(fine, DATA, 4).levels[0]
    GaussNewton(solver="qr").bind(coarse, DATA).step()
    GaussNewton(solver="qr").bind(fine, DATA, level.transfers).step()
    torch.testing.assert_close(flat(fine), flat(coarse.refine()), rtol=1e-9, atol=1e-9)
    for solver in ("cholesky", "cg"):
        other = network(n=4).refine()
        GaussNewton(solver=solver, tolerance=1e-6).bind(other, DATA, level.transfers).step()
        torch.testing.assert_close(other(X), coarse(X), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", [short, adam])
def test_coarse_level_of_a_refined_network_trains_as_the_coarse_network(make):
    coarse = network(n=4)
    fine = coarse.refine()
    cycle = Cycle(make, steps=4, coarsest=4).bind(fine, DATA)
    cycle._loss, cycle._ended = float(DATA(fine).detach()), []
    cycle._smooth(0, None)
    run = train(coarse, DATA, 4, optimizer=make, progress=False)
    assert float(DATA(fine).detach()) == pytest.approx(run.loss, rel=1e-9)
    torch.testing.assert_close(fine(X), coarse(X), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("coarsest", [1, 3])
def test_loss_of_displacements_has_the_gradient_of_autograd(basis, coarsest):
    model = network(basis, breakpoints=GRADED)
    hierarchy = Hierarchy(model, DATA, coarsest)
    parts = [pair for level in hierarchy.levels for pair in enumerate(level.transfers)]
    space = Displacements(model, DATA, hierarchy.parameters, parts)
    space.start()
    torch.manual_seed(0)
    with torch.no_grad():
        for each in space.displaced:
            each.copy_(0.05 * torch.randn_like(each))
    base = [p.detach().clone() for p in hierarchy.parameters]
    leaves = [e.detach().clone().requires_grad_() for e in space.displaced]
    moved = list(base)
    for (number, transfer), leaf in zip(parts, leaves, strict=True):
        image = leaf
        if transfer is not None:
            matrix = transfer._each[0].dense()
            image = leaf @ matrix.T
        moved[number] = moved[number] + image
    names = [name for name, _ in model.named_parameters()]
    prediction = torch.func.functional_call(model, dict(zip(names, moved, strict=True)), X)
    expected = (prediction - Y).square().mean()
    found = space()
    found.backward()
    slopes = torch.autograd.grad(expected, leaves)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    for each, slope in zip(space.displaced, slopes, strict=True):
        torch.testing.assert_close(each.grad, slope, rtol=1e-10, atol=1e-13)
    gradient = space.gradient()
    for each, restricted in zip(space.displaced, space.restricted(gradient), strict=True):
        torch.testing.assert_close(each.grad, restricted)


SMOOTHERS = {
    "lbfgs": short,
    "adam": partial(torch.optim.Adam, lr=0.3),  # far too large: it must be held back
    "sgd": partial(torch.optim.SGD, lr=5.0),
    "quasi-newton": QuasiNewton(iterations=3),
    "gauss-newton": GaussNewton(),
}


@pytest.mark.parametrize(
    ("name", "shape", "coarse", "basis"),
    [
        *((name, "V", "subspace", "spline") for name in SMOOTHERS),
        *((name, "W", "fas", "spline") for name in SMOOTHERS if name != "gauss-newton"),
        *((name, "V", "fas", "relu") for name in ("lbfgs", "adam")),
        ("gauss-newton", "W", "subspace", "relu"),
    ],
)
def test_no_cycle_raises_the_loss(name, shape, coarse, basis):
    optimizer = Cycle(SMOOTHERS[name], shape, 2, coarse, coarsest=2)
    run = train(network(basis, n=5), DATA, 3, optimizer=optimizer, progress=False)
    losses = np.array(run.history.loss)
    assert (np.diff(losses) <= 1e-14 * losses[1:]).all()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("name", "coarse"),
    [
        *((name, "subspace") for name in ("lbfgs", "sgd", "quasi-newton", "gauss-newton")),
        *((name, "fas") for name in ("lbfgs", "sgd", "quasi-newton")),
    ],
)
def test_minimiser_is_a_fixed_point(name, coarse):
    model = linear("odd")
    target = model(X).detach()  # which the model meets exactly
    data = MeanSquaredError(X, target)
    before = flat(model)
    cycle = Cycle(SMOOTHERS[name], coarse=coarse, coarsest=2).bind(model, data)
    try:
        assert cycle.step() == 0.0
    except EndOfLevel:
        assert name in ("gauss-newton", "quasi-newton")
    atol = 1e-9 if coarse == "fas" else 1e-15  # there the way leads over a projection
    torch.testing.assert_close(flat(model), before, rtol=0, atol=atol)


def test_fixed_point_of_the_full_approximation_scheme_is_the_minimiser_of_the_fine_grid():
    """Its coarse problem alone, without the tilt, has another minimiser."""
    model = linear("uniform")
    A, b, c = quadratic(model)
    best = np.linalg.lstsq(A, b, rcond=None)[0]
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.from_numpy(best), model.parameters())
    before = float(DATA(model).detach())
    cycle = Cycle(short, coarse="fas", coarsest=2).bind(model, DATA)
    cycle.step()
    assert float(DATA(model).detach()) == pytest.approx(before, rel=1e-12)
    assert before == pytest.approx(c - b @ best, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_hierarchy_halves_the_grids(kind):
    hierarchy = Hierarchy(linear(kind), coarsest=1)
    sizes = [level.n for level in hierarchy.levels]
    assert sizes == ([1, 2, 4, 7] if kind in ("odd", "grids") else [1, 2, 4, 8])
    assert [level.num_parameters for level in hierarchy.levels] == [2 * (n + 2) for n in sizes]
    assert [level.work for level in hierarchy.levels] == [n / sizes[-1] for n in sizes]
    assert hierarchy.levels[-1].transfers == (None,)


@pytest.mark.parametrize("grid", [KnotGrid.uniform(4, 5), KnotGrid(2, GRADED), *own_grids()])
def test_coarsened_grid_undoes_a_refinement(grid):
    assert coarsened(grid.refine()) == grid
    assert not coarsened(grid).missing_from(grid)
    assert coarsened(KnotGrid.uniform(3, 1)) == KnotGrid.uniform(3, 1)


@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_projection_is_the_nearest_prolonged_spline(basis):
    model = linear("grids", basis)
    transfer = Hierarchy(model, coarsest=2).levels[0].transfers[0]
    matrix = prolongations(model)[-1]
    weights = flat(model).numpy()
    expected = matrix @ np.linalg.lstsq(matrix, weights, rcond=None)[0]
    found = transfer.project(model[0].weight.detach())
    np.testing.assert_allclose(found.flatten().numpy(), expected, rtol=1e-7, atol=1e-9)


def test_table_of_levels_says_sizes_and_work():
    cycle = Cycle(GaussNewton(), "W").bind(KAN([2, 5, 1], n=20, first="affine"), None)
    head, *table = repr(cycle).splitlines()
    assert head == "W-cycles of 4.5 epochs with LevenbergMarquardt"
    assert [line.split() for line in table[1:]] == [
        ["level", "n", "parameters", "work"],
        ["0", "5", "55", "0.25"],
        ["1", "10", "80", "0.5"],
        ["2", "20", "130", "1"],
    ]
    assert "Additive levels with Adam" in repr(Additive(adam).bind(KAN([2, 5, 1], n=20), None))


def test_visits_of_a_w_cycle_are_those_of_its_definition():
    def defined(level):
        inner = [] if level == 0 else defined(level - 1) * (2 if level > 1 else 1)
        return [level, *inner, level] if level else [0]

    for levels in range(1, 6):
        assert [*visits(levels, "W")] == defined(levels - 1)
        assert sorted(visits(levels)) == sorted([*range(1, levels)] * 2 + [0])


def test_work_and_evaluations_are_counted():
    calls = []

    def objective(model):
        calls.append(1)
        return DATA(model)

    optimizer = Cycle(descent, steps=2, coarsest=2)
    run = train(network(n=8), objective, 3, work_per_epoch=4, optimizer=optimizer, progress=False)
    assert run.work == 4 * 3 * 2 * (2 * 1 + 2 * 0.5 + 0.25)
    assert run.history.evaluations[-1] == len(calls) - 1  # one is spent on a check


def test_full_multigrid_carries_the_smoothers():
    options = {"optimizer": Cycle(adam, coarsest=3), "progress": False}
    data = MeanSquaredError(X, Y)
    carried = train_multilevel(network(n=3), data, [4, 4], optimizer_state="carried", **options)
    fresh = train_multilevel(network(n=3), data, [4, 4], **options)
    assert carried.loss != fresh.loss
    assert [level.work for level in fresh.levels] == [4, 4 * 2 * 2.5]
    old = Cycle(adam, coarsest=3).bind(network(n=3), data)
    old.step()
    new = old.refined(network(n=3).refine(), data)
    theirs, own = (each.state_dict()["state"] for each in (old.smoothers[0], new.smoothers[0]))
    assert own.keys() == theirs.keys() != set()
    for key, state in own.items():
        assert all(torch.equal(value, theirs[key][name]) for name, value in state.items())
    assert not new.smoothers[1].state


def terms():
    x = 2 * X - 1
    return ResidualLoss(
        flow=Term(lambda u, x: u.d(1) - 0.1 * u.d(0, 0) + u.value * u.d(0), x, pairs=[(0, 0)]),
        start=Term(
            lambda u, x: u.value + torch.sin(torch.pi * x[:, :1]),
            x * x.new_tensor([1, 0]),
            weight=9,
        ),
    )


OPTIMIZERS = {
    "V-lbfgs": Cycle(short, coarsest=2),
    "W-adam": Cycle(adam, "W", coarsest=2),
    "fas": Cycle(short, coarse="fas", coarsest=2),
    "gauss-newton": Cycle(GaussNewton(), coarsest=2),
    "quasi-newton": Cycle(QuasiNewton(iterations=2), coarsest=2),
    "additive-adam": Additive(adam, coarsest=2),
    "additive-lbfgs": Additive(short, coarsest=2),
    "additive-quasi-newton": Additive(QuasiNewton(iterations=2), coarsest=2),
}


@pytest.mark.parametrize(
    ("name", "state"),
    [*((name, "fresh") for name in OPTIMIZERS), ("V-lbfgs", "carried"), ("fas", "carried")],
)
def test_resumed_run_is_the_same_bit_for_bit(tmp_path, name, state):
    def make():
        return network(n=3, r=5, domain=(-1.0, 1.0)), terms()

    options = {"optimizer": OPTIMIZERS[name], "optimizer_state": state}
    whole, resumed = whole_and_resumed(make, tmp_path, 2, **options)
    assert torch.equal(flat(whole.model), flat(resumed.model))
    assert whole.loss == resumed.loss < whole.history.loss[0]
    assert whole.work == resumed.work
    assert whole.history.evaluations[-2] <= resumed.history.evaluations[-2]


def test_checkpoint_of_another_cycle_is_refused(tmp_path):
    options = {"checkpoint": tmp_path / "run.pt", "progress": False}
    train(network(), DATA, 1, optimizer=Cycle(short), **options)
    for other in (Cycle(short, "W"), Cycle(adam), Cycle(short, coarsest=2)):
        with pytest.raises(ValueError, match="belongs to another run"):
            train(network(), DATA, 2, optimizer=other, resume=True, **options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_interrupted_cycle_leaves_the_network_as_it_was(name):
    calls = []

    class Pressed(MeanSquaredError):
        def __call__(self, model, batch=None):
            calls.append(1)
            if len(calls) == 30:
                raise KeyboardInterrupt
            return super().__call__(model, batch)

    if name == "gauss-newton":
        return
    run = train(network(), Pressed(X, Y), 40, optimizer=OPTIMIZERS[name], progress=False)
    assert run.status == "interrupted"
    assert run.loss == pytest.approx(float(DATA(run.model).detach()))
    assert run.history.loss[-1] <= run.history.loss[0]


def test_terms_and_unknowns_train_on_all_levels():
    x = torch.linspace(-1, 1, 60, dtype=torch.float64)[:, None]

    def objective():
        unknowns = Unknowns(k=0.1, dtype=torch.float64)
        return ResidualLoss(
            sink=Term(lambda u, x, q: u.d(0) + q.k * u.value, x, unknowns=unknowns),
            data=Term(lambda u, x: u.value - torch.exp(-0.7 * x), x),
        )

    for optimizer in (Cycle(lbfgs), Cycle(GaussNewton()), Additive(lbfgs)):
        loss = objective()
        model = KAN([1, 1], n=8, domain=(-1.0, 1.0), init_scale=0.0, dtype=torch.float64)
        run = train(model, loss, 12, optimizer=optimizer, progress=False)
        (k,) = (p for name, p in loss.named_parameters() if name.endswith("k"))
        assert float(k.detach()) == pytest.approx(0.7, abs=1e-3)
        assert run.history.terms.keys() == {"sink", "data"}
        sums = sum(np.array(values) for values in run.history.terms.values())
        np.testing.assert_allclose(sums, run.history.loss, rtol=1e-12)


@pytest.mark.parametrize("optimizer", [Cycle(short), Cycle(short, coarse="fas"), Additive(short)])
def test_objective_may_take_derivatives_by_autograd(optimizer):
    def slope(model):
        x = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None].requires_grad_()
        (found,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return (found - torch.cos(3 * x)).square().mean()

    model = KAN([1, 1], n=8, dtype=torch.float64)
    assert train(model, slope, 4, optimizer=optimizer, progress=False).loss < 1e-5


def test_network_behind_hard_conditions_has_levels():
    x = torch.rand(40, 1, dtype=torch.float64)
    inner = KAN([1, 1], n=8, dtype=torch.float64)
    model = HardConditions(inner, 0.0, lambda z: z)
    data = MeanSquaredError(x, torch.sin(3 * x))
    run = train(model, data, 4, optimizer=Cycle(short), progress=False)
    assert len(Hierarchy(model).levels) == 2
    assert run.loss < 1e-6


# Additive levels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_additive_descent_is_preconditioned_by_the_sum_of_all_levels(kind, basis):
    model = linear(kind, basis)
    A, b, _ = quadratic(model)
    matrices = [*prolongations(model), np.eye(len(b))]
    preconditioner = sum(P @ P.T for P in matrices)
    x = flat(model).numpy().copy()
    optimizer = Additive(partial(torch.optim.SGD, lr=0.02), coarsest=2).bind(model, DATA)
    losses = []
    for _ in range(4):
        losses.append(optimizer.step())
        x = x - 0.02 * preconditioner @ (2 * A @ x - 2 * b)
        np.testing.assert_allclose(flat(model).numpy(), x, rtol=1e-6, atol=1e-8)
    assert optimizer.evaluations == 4


def test_additive_levels_hold_other_parameters_once():
    model = KAN([2, 3, 1], n=8, first="affine", dtype=torch.float64)
    gradients = torch.autograd.grad(DATA(model), [*model.parameters()])
    affine = model.layers[0]
    before = affine.weight.detach().clone()
    Additive(descent).bind(model, DATA).step()
    torch.testing.assert_close(affine.weight.detach(), before - 0.4 * gradients[0])


def test_additive_lbfgs_goes_on_between_steps():
    """Ten steps of one iteration are one step of ten, though displacements start anew."""
    whole, parts = network(), network()
    Additive(partial(lbfgs, max_iter=10)).bind(whole, DATA).step()
    optimizer = Additive(partial(lbfgs, max_iter=1)).bind(parts, DATA)
    for _ in range(10):
        optimizer.step()
    torch.testing.assert_close(flat(whole), flat(parts), rtol=1e-6, atol=1e-8)


def test_lbfgs_learns_nothing_of_what_other_levels_did():
    cycle = Cycle(short, coarsest=2).bind(network(), DATA)
    for _ in range(3):
        cycle.step()
    for smoother in cycle.smoothers:
        (state,) = smoother.state.values()
        pairs = [*zip(state["old_dirs"], state["old_stps"], strict=True)]
        assert len(pairs) > 3
        (own,) = {p.numel() for p in [torch.cat([q.flatten() for q in smoother._params])]}
        assert all(len(change) == own for change, _ in pairs)
    model = linear("uniform")
    A, b, _ = quadratic(model)
    cycle = Cycle(partial(lbfgs, max_iter=3), coarsest=2).bind(model, DATA)
    for _ in range(3):
        cycle.step()
    matrices = [*reversed(prolongations(model)), np.eye(len(b))]
    for smoother, P in zip(cycle.smoothers, matrices, strict=True):
        (state,) = smoother.state.values()
        for change, way in zip(state["old_dirs"], state["old_stps"], strict=True):
            expected = 2 * P.T @ A @ P @ way.numpy()  # the change of the gradient on that way
            np.testing.assert_allclose(change.numpy(), expected, rtol=1e-6, atol=1e-12)


def test_cycle_on_one_grid_is_its_smoother():
    whole, cycled = network(n=4), network(n=4)
    options = {"max_eval": 200}  # torch's own would end a step before its last iteration
    train(whole, DATA, 1, optimizer=partial(lbfgs, max_iter=12, **options), progress=False)
    smoother = partial(lbfgs, max_iter=3, **options)
    train(cycled, DATA, 4, optimizer=Cycle(smoother), progress=False)
    torch.testing.assert_close(flat(whole), flat(cycled), rtol=1e-6, atol=1e-8)


# Bad arguments


@pytest.mark.parametrize(
    ("make", "options", "text"),
    [
        (Cycle, {"kind": "F"}, "kind must be one of"),
        (Cycle, {"coarse": "galerkin"}, "coarse must be one of"),
        (Cycle, {"steps": 0}, "steps must be at least 1"),
        (Cycle, {"coarsest": 0}, "coarsest must be at least 1"),
        (Cycle, {"smoother": GaussNewton(), "coarse": "fas"}, "coarse must be 'subspace' with"),
        (Additive, {"coarsest": 0}, "coarsest must be at least 1"),
    ],
)
def test_bad_options_are_named(make, options, text):
    with pytest.raises(ValueError, match=text):
        make(**options)


@pytest.mark.parametrize(
    ("make", "name"), [(lambda o: Cycle(smoother=o), "smoother"), (Additive, "make")]
)
def test_what_is_no_factory_is_refused(make, name):
    with pytest.raises(TypeError, match=f"{name} must be a function from parameters"):
        make(torch.optim.Adam([torch.zeros(1)]))


@pytest.mark.parametrize(
    ("optimizer", "model", "text"),
    [
        (Cycle(), lambda: MLP([2, 3, 1]).double(), "must have a spline layer that trains"),
        (Additive(), lambda: network().free(), "must have fixed knots"),
        (Cycle(Iteration(adam)), network, "smoother must be an optimizer of parameters alone"),
        (Additive(GaussNewton()), network, "make must be an optimizer of parameters alone"),
        (Cycle(partial(torch.optim.AdamW)), network, "must not decay displacements"),
    ],
)
def test_what_does_not_go_with_levels_is_refused(optimizer, model, text):
    with pytest.raises(ValueError, match=text):
        train(model(), DATA, 1, optimizer=optimizer, progress=False)


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("smoother", [lbfgs, GaussNewton()], ids=["lbfgs", "gauss-newton"])
def test_smoothers_are_carried_between_equal_grids_only(n, smoother):
    model = KAN([2, 1], n=n, dtype=torch.float64)
    options = {"optimizer": Cycle(smoother), "optimizer_state": "carried", "progress": False}
    run = train_multilevel(model, MeanSquaredError(X, Y), [2, 2, 2], **options)
    assert run.status == "completed"
    old = Cycle(smoother).bind(model, MeanSquaredError(X, Y))
    third = model.refine(torch.linspace(0, 1, 3 * n + 1, dtype=torch.float64))
    new = old.refined(third, MeanSquaredError(X, Y))
    shared = [level.grids for level in new.hierarchy.levels if level.grids in old.hierarchy.levels]
    assert shared == []


class Moving:
    """A loss that no step lowers, on points that move."""

    moves = True

    def __call__(self, model):
        return 0 * sum(p.square().sum() for p in model.parameters()) + 1


@pytest.mark.parametrize("make", [Cycle, Additive])
def test_levels_know_that_points_move(make):
    model = KAN([1, 1], n=8, dtype=torch.float64)
    run = train(model, Moving(), 3, optimizer=make(QuasiNewton()), progress=False)
    assert run.levels[0].epochs == 3


def test_a_cycle_is_no_smoother_of_a_cycle():
    with pytest.raises(ValueError, match=r"solver='multigrid'.*use solver='cholesky' or 'cg'"):
        Cycle(GaussNewton(solver="multigrid"))
