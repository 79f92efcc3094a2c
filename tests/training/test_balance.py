"""Balance between terms: factors against gradients and Jacobians by autograd."""

from functools import partial

import pytest
import torch
from resumption import whole_and_resumed
from torch.func import functional_call

from kanlib import (
    KAN,
    Balance,
    Causal,
    Ensemble,
    GaussNewton,
    ResidualLoss,
    Sampler,
    Term,
    Unknowns,
    race,
    train,
)
from kanlib.objectives.penalties import Penalised, SquaredNorms

pytestmark = pytest.mark.usefixtures("float64")
ADAM = partial(torch.optim.Adam, lr=1e-3)
MEASURES = ("gradient", "diagonal")
each_measure = pytest.mark.parametrize("by", MEASURES)


def network(seed=0, n=3):
    torch.manual_seed(seed)
    return KAN([1, 2, 1], n=n, r=4, domain=(-1, 1))


def bending(u, x):
    return 20 * u.d(0, 0) + u.value


def problem(balance=None, points=None, **options):
    line = torch.linspace(-1, 1, 30)[:, None] if points is None else points
    ends = torch.tensor([[-1.0], [1.0]])
    return ResidualLoss(
        inside=Term(bending, line, pairs=[(0, 0)], weight=3.0, **options),
        ends=Term(lambda u, x: u.value - x, ends),
        balance=balance,
    )


def sizes(model, by):
    """Return how strongly each term acts without weights, by autograd alone."""
    line = torch.linspace(-1, 1, 30)[:, None]
    ends = torch.tensor([[-1.0], [1.0]])
    values = {name: p.detach() for name, p in model.named_parameters()}

    def inside(values):
        x = line.clone().requires_grad_()
        u = functional_call(model, values, (x,))
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        return (20 * bend + u)[:, 0]

    def at_ends(values):
        return (functional_call(model, values, (ends,)) - ends)[:, 0]

    found = {}
    for name, residual in {"inside": inside, "ends": at_ends}.items():
        leaves = {k: v.clone().requires_grad_() for k, v in values.items()}
        rows = residual(leaves)
        if by == "gradient":
            parts = torch.autograd.grad(rows.square().mean(), [*leaves.values()])
            found[name] = torch.cat([p.flatten() for p in parts]).norm().item()
        else:
            squares = 0.0
            for row in rows:
                parts = torch.autograd.grad(row, [*leaves.values()], retain_graph=True)
                squares += sum(p.square().sum().item() for p in parts)
            found[name] = squares / len(rows)
    return found


@each_measure
@pytest.mark.parametrize("optimizer", [ADAM, GaussNewton()])
def test_factors_are_those_of_autograd(by, optimizer):
    loss, model = problem(Balance(by)), network()
    assert loss.weights == {"inside": 3.0, "ends": 1.0}
    train(model, loss, 1, optimizer=optimizer, progress=False)
    acting = sizes(model, by)
    mean = sum(acting.values()) / 2
    assert loss.weights["inside"] == pytest.approx(3 * mean / acting["inside"])
    assert loss.weights["ends"] == pytest.approx(mean / acting["ends"])
    assert loss.weights["inside"] / 3 < 1 < loss.weights["ends"]


@each_measure
def test_terms_then_act_equally(by):
    loss = problem(Balance(by, memory=0.0))
    loss.terms["inside"].weight = 1.0
    model = network()
    train(model, loss, 1, optimizer=ADAM, progress=False)
    norms = []
    for part in loss.parts(model).values():
        parts = torch.autograd.grad(part, [*model.parameters()], materialize_grads=True)
        norms.append(torch.cat([p.flatten() for p in parts]).norm().item())
    if by == "gradient":
        assert norms[0] == pytest.approx(norms[1])
    squares = [residual(model).square().sum().item() for residual in loss.residuals()]
    assert sum(squares) == pytest.approx(loss(model).item())


def test_updates_come_every_few_steps_and_are_smoothed():
    balance = Balance(every=3, memory=0.75)
    model, loss = network(), problem(balance)
    run = train(model, loss, 7, optimizer=ADAM, progress=False)
    seen = run.history.weights["ends"]
    assert len(seen) == len(run.history.loss) == 8
    assert seen[0] == 1.0
    assert seen[1] == seen[2] == seen[3] != seen[4]
    assert seen[4] == seen[5] == seen[6] != seen[7]
    fourth = network()
    train(fourth, problem(Balance(every=3, memory=0.75)), 4, optimizer=ADAM, progress=False)
    acting = sizes(fourth, "gradient")
    wanted = sum(acting.values()) / 2 / acting["ends"]
    assert seen[4] == pytest.approx(0.75 * seen[3] + 0.25 * wanted)


def test_history_has_no_weights_without_a_balance():
    run = train(network(), problem(), 2, optimizer=ADAM, progress=False)
    assert run.history.weights == {}
    assert run.objective.weights == {"inside": 3.0, "ends": 1.0}


@each_measure
@pytest.mark.parametrize("optimizer", [ADAM, GaussNewton()])
def test_resumed_run_ends_with_the_same_numbers(by, optimizer, tmp_path):
    def make():
        points = Sampler([(-1, 1)], 25, dtype=torch.float64)
        return network(), problem(Balance(by, every=2), points=points)

    whole, resumed = whole_and_resumed(make, tmp_path, 1, optimizer=optimizer)
    assert resumed.history.loss == whole.history.loss
    assert resumed.history.weights == whole.history.weights
    assert resumed.objective.weights == whole.objective.weights


def test_a_race_judges_all_by_the_same_weights():
    loss = problem(Balance(), points=Sampler([(-1, 1)], 25, dtype=torch.float64))
    starts = {seed: network(seed) for seed in range(3)}
    run = race(starts, loss, [2, 2], keep=[2], optimizer=GaussNewton(), progress=False)
    plain = problem(points=Sampler([(-1, 1)], 25, dtype=torch.float64)).fresh(2**31)
    assert run.pedigree[-2].score == pytest.approx(plain(run.model).item())
    assert loss.balance.factors == {}
    assert len(run.history.weights["ends"]) == len(run.history.loss)


def test_solved_and_unknown_terms_keep_factors_finite():
    x = torch.linspace(-1, 1, 9)[:, None]
    unknowns = Unknowns(k=2.0)
    loss = ResidualLoss(
        solved=Term(lambda u, x: 0 * u.value, x),
        rest=Term(lambda u, x, q: q.k * u.value - 1, x, unknowns=unknowns),
        balance=Balance(),
    )
    train(network(), loss, 2, optimizer=ADAM, progress=False)
    assert loss.weights["solved"] == pytest.approx(0.5e8)
    nothing = ResidualLoss(a=Term(lambda u, x: 0 * u.value, x), balance=Balance())
    train(network(), nothing, 1, optimizer=ADAM, progress=False)
    assert nothing.weights == {"a": 1.0}


def test_ensemble_shares_the_factors():
    together = Ensemble([network(0), network(1)])
    run = train(together, problem(Balance()), 2, optimizer=ADAM, progress=False)
    assert run.loss < run.history.loss[1]


def test_balance_goes_with_causal_weights():
    loss = problem(Balance("diagonal"), causal=Causal((-1, 1), slices=4))
    run = train(network(), loss, 3, optimizer=GaussNewton(), progress=False)
    assert run.loss < run.history.loss[1]


def test_bad_arguments():
    with pytest.raises(TypeError, match="balance must be a Balance, as in balance=Balance"):
        ResidualLoss(a=problem().terms["ends"], balance="gradient")
    with pytest.raises(ValueError, match="by must be one of"):
        Balance("norm")
    with pytest.raises(ValueError, match="memory must be below 1, got 1"):
        Balance(memory=1)


def test_weights_are_logged_with_penalties_beside_the_loss():
    runs = [
        train(network(), loss, 2, optimizer=ADAM, progress=False)
        for loss in (Penalised(problem(Balance()), smooth=SquaredNorms(1e-12)), problem(Balance()))
    ]
    weights, plain = (run.history.weights for run in runs)
    assert weights.keys() == plain.keys() == {"inside", "ends"}
    assert weights["ends"] == pytest.approx(plain["ends"])
    penalised = Penalised(problem(), smooth=SquaredNorms(1e-12))
    assert train(network(), penalised, 1, optimizer=ADAM, progress=False).history.weights == {}
