"""Levels, smoothers and V-cycles for Gauss-Newton, against dense linear algebra."""

from functools import partial

import pytest
import torch
from grids import KINDS, with_grids
from resumption import whole_and_resumed
from torch import nn

from kanlib import (
    KAN,
    MLP,
    GaussNewton,
    KnotGrid,
    MeanSquaredError,
    ResidualLoss,
    SplineLayer,
    Term,
    Unknowns,
    prolongation,
    race,
    train,
)
from kanlib.objectives.penalties import Penalised, SquaredNorms
from kanlib.training import gauss_newton, multigrid
from kanlib.training.coordinates import Coordinates
from kanlib.training.gauss_newton import conjugate_gradients
from kanlib.training.hierarchy import coarsened
from kanlib.training.jacobian import jacobian
from kanlib.training.multigrid import hierarchy

torch.manual_seed(3)
X = 2 * torch.rand(90, 2, dtype=torch.float64) - 1

#: Several levels of small networks.
LEVELS = partial(gauss_newton.Multigrid, direct=20)
EXACT = GaussNewton(solver="multigrid", tolerance=1e-6)


def flow(u, x):
    return u.d(1) + u.value * u.d(0) - 0.1 * u.d(0, 0) + torch.sin(3 * x[:, :1])


def meeting(u, v, x):
    return torch.cat([u.value - v.value, u.d(0) - v.d(0)], dim=1)


def mirrored(x):
    return x * x.new_tensor([-1.0, 1.0])


def terms(**options):
    ends = Term(meeting, X[:30], features=[torch.clone, mirrored], weight=2.0)
    return ResidualLoss(flow=Term(flow, X, pairs=[(0, 0)], **options), ends=ends)


def network(widths=(2, 3, 1), **options):
    torch.manual_seed(1)
    options = {"n": 6, "r": 4, "domain": (-1.0, 1.0), "init_scale": 0.5, **options}
    return KAN([*widths], dtype=torch.float64, **options)


def several():
    """Return a network whose layers have different numbers of intervals, one of them one."""
    torch.manual_seed(1)
    grids = [KnotGrid.uniform(4, n, (-1.0, 1.0)) for n in (7, 1, 12)]
    layers = [SplineLayer(3, 3, grid, init_scale=0.3) for grid in grids]
    return nn.Sequential(nn.Linear(2, 3), *layers, nn.Linear(3, 1)).double()


def unknown():
    def equation(u, x, q):
        return q.k * flow(u, x)

    term = Term(equation, X, pairs=[(0, 0)], unknowns=Unknowns(k=1.3, dtype=X.dtype))
    return network(), ResidualLoss(flow=term)


def masked():
    mask = torch.tensor([[True, False], [False, True], [True, True]])
    model = network()
    return model.mapped(lambda layer: layer.masked(mask) if layer.out_features == 3 else layer)


CASES = {
    "uniform": lambda: (network(), terms()),
    "odd": lambda: (network(n=5), terms()),
    "order 1": lambda: (network(r=1, n=7), MeanSquaredError(X, X[:, :1] ** 2)),
    "order 6": lambda: (network(r=6, n=5), terms()),
    "relu": lambda: (network(basis="relu"), terms()),
    "affine": lambda: (network((2, 4, 3, 1), first="affine"), terms()),
    "layers": lambda: (several(), terms()),
    "unknown": unknown,
    "masked": lambda: (masked(), terms()),
    "penalised": lambda: (network(), Penalised(terms(), rough=SquaredNorms(0.1))),
    **{f"{kind} grids": lambda kind=kind: (with_grids(network(n=4), kind), terms())
       for kind in KINDS},
}  # fmt: skip


def dense(product, size):
    """Return the matrix of a linear map of vectors of that size."""
    return torch.stack([product(e) for e in torch.eye(size, dtype=torch.float64)], dim=1)


def transfer(layer, coarser):
    """Return P of a layer, by columns (input, basis, output), from SciPy-tested prolongations."""
    pairs = zip(coarser, layer.grids, strict=True)
    each = [prolongation(*pair).dense() for pair in pairs]
    eye = torch.eye(layer.out_features, dtype=torch.float64)
    return torch.block_diag(*[torch.kron(P, eye) for P in each])


def transfers(model, coordinates, levels):
    """Return P from each level to the finest, in columns."""
    layers = {id(layer.weight): layer for layer in multigrid.spline_layers(model)}
    grids = {key: layer.grids for key, layer in layers.items()}
    for _ in range(levels):
        yield torch.block_diag(*[
            transfer(layers[id(p)], grids[id(p)]) if id(p) in layers
            else torch.eye(p.numel(), dtype=torch.float64)
            for p in coordinates.parameters
        ])  # fmt: skip
        grids = {key: [coarsened(grid) for grid in each] for key, each in grids.items()}


def system(model, objective, damping=1e-3):
    """Return the coordinates, J, and the diagonal D, in columns and dense."""
    coordinates = Coordinates(model, objective, "spline")
    rows = jacobian(model, objective, basis="spline").dense()
    J = coordinates.to_columns(rows)
    squares = J.square().sum(0)
    return coordinates, J, damping * squares.clamp(min=1e-12 * float(squares.max()))


@pytest.mark.parametrize("name", CASES)
def test_levels_are_those_of_dense_galerkin_products(name):
    model, objective = CASES[name]()
    coordinates, J, diagonal = system(model, objective)
    found = hierarchy(model, objective, direct=0)
    assert len(found.levels) >= 3
    assert all(part.n == 1 for part in found.levels[-1].parts)
    chain = transfers(model, coordinates, len(found.levels))
    for level, P in zip(found.levels, chain, strict=True):
        rows = dense(level.product, level.size)
        assert (rows - J @ P).abs().max() < 1e-12 * J.abs().max()
        back = dense(level.transposed, len(J))
        assert (back - rows.T).abs().max() < 1e-12 * J.abs().max()
        squares = rows.square().sum(0)
        assert (level.squares() - squares).abs().max() < 1e-12 * squares.max()
        damping = dense(lambda v, level=level: level.damp(diagonal, v), level.size)
        expected = P.T @ (diagonal[:, None] * P)
        assert (damping - expected).abs().max() < 1e-12 * expected.abs().max()
        if level is found.levels[-1]:
            assert (found._gram - rows.T @ rows).abs().max() < 1e-12 * squares.max()
    assert "level  n" in repr(found)
    assert len(repr(found).splitlines()) == 1 + len(found.levels)


@pytest.mark.parametrize("jets", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_smoothers_solve_for_the_columns_of_an_input(name, jets):
    model, objective = CASES[name]()
    if jets == 1 and name != "unknown":
        objective = MeanSquaredError(X, X[:, :1] ** 2)
    _, _, diagonal = system(model, objective, 1e-2)
    found = hierarchy(model, objective, direct=0)
    cycle = found.damped(diagonal)
    for level, smoothers in zip(found.levels, cycle._smoothers, strict=False):
        rows = dense(level.product, level.size)
        damping = dense(lambda v, level=level: level.damp(diagonal, v), level.size)
        A = rows.T @ rows + damping
        for own, factors in zip(level.columns, smoothers, strict=True):
            block = A[own.span, own.span]
            inverse = dense(factors.solve, len(block))
            scale = block.diagonal().sqrt()
            product = inverse @ block / scale[:, None] * scale
            values = torch.linalg.eigvals(product).real
            assert values.max() < 1 + 1e-7
            if jets == 1:  # else a bound of the block
                torch.testing.assert_close(values, torch.ones_like(values), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_cycle_is_a_symmetric_positive_definite_preconditioner(name):
    model, objective = CASES[name]()
    _, J, diagonal = system(model, objective)
    A = J.T @ J + torch.diag(diagonal)
    cycle = hierarchy(model, objective, direct=0).damped(diagonal)
    scale = A.diagonal().sqrt()
    M = dense(cycle, len(A)) * scale[:, None] * scale
    assert (M - M.T).abs().max() < 1e-7 * M.abs().max()
    factor = torch.linalg.cholesky(A / scale[:, None] / scale)
    values = torch.linalg.eigvalsh(factor.T @ (0.5 * (M + M.T)) @ factor)
    assert values.min() > 0
    assert values.max() < 1 + 1e-6  # A - A M A is positive semidefinite


@pytest.mark.parametrize("damping", [1e-1, 1e-3])
@pytest.mark.parametrize("name", CASES)
def test_step_is_that_of_the_dense_equations(name, damping):
    model, objective = CASES[name]()
    coordinates, J, diagonal = system(model, objective, damping)
    r = jacobian(model, objective).residual
    A = J.T @ J + torch.diag(diagonal)
    expected = coordinates.transposed(torch.linalg.solve(A, -J.T @ r))
    multi = gauss_newton.Multigrid(model, objective, coordinates, EXACT, direct=10)
    assert len(multi.hierarchy.levels) > 2
    assert multi.loss == pytest.approx(float(r.square().sum()), rel=1e-12)
    step = multi.solve(coordinates.transposed(diagonal))
    error = coordinates.to_columns(step - expected)
    size = coordinates.to_columns(expected)
    assert error @ A @ error < (1e-4) ** 2 * (size @ A @ size)


def test_cycles_save_iterations():
    model = network((2, 3, 3, 1), n=16)
    x = 2 * torch.rand(900, 2, dtype=torch.float64, generator=torch.manual_seed(0)) - 1
    objective = ResidualLoss(flow=Term(flow, x, pairs=[(0, 0)]))
    _, J, diagonal = system(model, objective)
    A = J.T @ J + torch.diag(diagonal)
    right = -J.T @ jacobian(model, objective).residual
    cycle = hierarchy(model, objective, direct=100).damped(diagonal)
    one, by_levels = conjugate_gradients(lambda v: A @ v, right, cycle, 1e-6)
    scale = 1 / A.diagonal()
    other, by_diagonal = conjugate_gradients(lambda v: A @ v, right, lambda v: scale * v, 1e-6)
    error = one - other
    assert error @ A @ error < 1e-9 * (one @ A @ one)
    assert by_levels < 0.3 * by_diagonal


def trained(solver, **options):
    model = network((2, 3, 3, 1), n=4)
    optimizer = GaussNewton(solver=solver, tolerance=1e-6, **options)
    return train(model, terms(), 6, optimizer=optimizer, progress=False)


def test_training_is_that_by_cholesky(monkeypatch):
    monkeypatch.setitem(gauss_newton.SYSTEMS, "multigrid", LEVELS)
    one, other = trained("cholesky"), trained("multigrid")
    assert one.history.loss == pytest.approx(other.history.loss, rel=1e-4)
    assert other.loss < 0.2 * other.history.loss[0]


@pytest.mark.parametrize("solver", ["cg", "multigrid"])
def test_tolerance_bounds_the_error_of_a_step(solver):
    model, objective = network((2, 3, 3, 1), n=6), terms()
    coordinates, J, diagonal = system(model, objective, 1e-2)
    A = J.T @ J + torch.diag(diagonal)
    right = -J.T @ jacobian(model, objective).residual
    exact = torch.linalg.solve(A, right)
    errors = []
    for tolerance in (0.3, 1e-2, 1e-4, 1e-8):
        options = GaussNewton(solver=solver, tolerance=tolerance)
        kind = LEVELS if solver == "multigrid" else gauss_newton.SYSTEMS[solver]
        found = kind(model, objective, coordinates, options).solve(coordinates.transposed(diagonal))
        error = coordinates.to_columns(found) - exact
        errors.append(float((error @ A @ error / (exact @ A @ exact)) ** 0.5))
    assert errors == sorted(errors, reverse=True)
    assert 1e-4 < errors[1] < 0.5
    assert errors[-1] < 1e-6


def test_resumed_levels_are_the_same_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setitem(gauss_newton.SYSTEMS, "multigrid", LEVELS)
    options = {"optimizer": GaussNewton(solver="multigrid"), "optimizer_state": "carried"}
    whole, resumed = whole_and_resumed(lambda: (network(n=4), terms()), tmp_path, 2, **options)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert whole.history.loss == resumed.history.loss
    assert whole.history.learning_rate == resumed.history.learning_rate


def test_race_trains_by_multigrid(monkeypatch):
    monkeypatch.setitem(gauss_newton.SYSTEMS, "multigrid", LEVELS)
    field = {seed: network(n=4, init_scale=0.1 * (1 + seed)) for seed in range(3)}
    first = [float(terms()(model).detach()) for model in field.values()]
    run = race(field, terms(), [3, 3], keep=(1,), optimizer=GaussNewton(solver="multigrid"),
               progress=False)  # fmt: skip
    assert run.loss < 0.1 * min(first)
    assert run.model.n == 8


def test_matrix_without_factors_is_solved_without_them(monkeypatch):
    monkeypatch.setitem(gauss_newton.SYSTEMS, "multigrid", LEVELS)
    optimizer = GaussNewton(solver="multigrid", damping=1e-30)
    with pytest.warns(RuntimeWarning, match="goes on as with solver='cg'"):
        run = train(network(), terms(), 2, optimizer=optimizer, progress=False)
    assert run.loss < run.history.loss[0]


class Hard(KAN):
    def forward(self, x):
        return x[:, :1] * super().forward(x)


def test_altered_layers_are_refused():
    model = Hard([2, 3, 1], n=4, domain=(-1.0, 1.0), dtype=torch.float64)
    with pytest.raises(ValueError, match="use solver='cg'"):
        hierarchy(model, MeanSquaredError(X, X[:, :1]))


def test_relu_geometry_is_refused():
    model = network(basis="relu")
    optimizer = GaussNewton(solver="multigrid")
    with pytest.raises(ValueError, match="give geometry='spline'"):
        train(model, terms(), 1, optimizer=optimizer, progress=False)
    spline = GaussNewton(solver="multigrid", geometry="spline")
    assert train(model, terms(), 4, optimizer=spline, progress=False).loss < float(
        terms()(network()).detach()
    )


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"direct": -1}, ValueError, "direct must be at least 0"),
        ({"direct": 1.5}, TypeError, "direct must be an integer"),
        ({"points": 0}, ValueError, "points must be at least 1"),
    ],
)
def test_hierarchy_names_the_mistake(options, error, text):
    with pytest.raises(error, match=text):
        hierarchy(network(), terms(), **options)


def test_hierarchy_of_other_losses_is_refused():
    with pytest.raises(TypeError, match="must offer its residuals"):
        hierarchy(network(), lambda model: model(X).square().mean())


def test_a_network_without_grids_is_refused():
    x = torch.rand(30, 2, dtype=torch.float64)
    model = MLP([2, 4, 1], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"needs spline layers that train.*use solver='cg'"):
        hierarchy(model, MeanSquaredError(x, x[:, :1]))


def test_a_failed_factor_leads_to_conjugate_gradients_and_not_to_a_dense_matrix():
    x = torch.rand(40, 1)
    model = KAN([1, 1], n=400)
    options = {"optimizer": GaussNewton(solver="multigrid", damping=1e-6), "progress": False}
    with pytest.warns(RuntimeWarning, match="goes on as with solver='cg'"):
        run = train(model, MeanSquaredError(x, torch.sin(6 * x)), 3, **options)
    assert run.loss < run.history.loss[0]


def test_prolongations_are_held_by_their_nonzeros():
    """Memory of the levels grows with the intervals, not with their square."""

    def held(n):
        x = torch.rand(20, 1, dtype=torch.float64)
        model = KAN([1, 1], n=n, dtype=torch.float64)
        levels = hierarchy(model, MeanSquaredError(x, x), direct=20).levels
        return sum(t.numel() for level in levels for window in level._windows for t in window)

    assert held(1600) < 8 * held(400)  # a level more, too


def test_conjugate_gradients_end_where_rounding_hides_the_curvature():
    right = torch.full((3,), 1e-20)
    found, iterations = conjugate_gradients(lambda v: 1e-25 * v, right, lambda v: v, 1e-2)
    assert found.isfinite().all()
    assert iterations == 0
