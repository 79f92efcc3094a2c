"""The terms of a loss in the history of a run: by every optimizer, over levels, when resumed."""

import math
from functools import partial

import pytest
import torch

from kanlib import (
    KAN,
    Ensemble,
    GaussNewton,
    MeanSquaredError,
    ResidualLoss,
    Sampler,
    Term,
    lbfgs,
    race,
    train,
    train_multilevel,
)
from kanlib.objectives.attention import Attention

pytestmark = pytest.mark.usefixtures("float64")
ADAM = partial(torch.optim.Adam, lr=1e-2)
OPTIMIZERS = {
    "adam": ADAM,
    "lbfgs": lbfgs,
    "cholesky": GaussNewton(points=7),
    "qr": GaussNewton(solver="qr", points=7),
    "cg": GaussNewton(solver="cg"),
}


def points(n=33):
    return torch.linspace(0, 1, n)[:, None]


def problem(attention=None, inside=None):
    """Return the loss of u'' + u = 0, u(0) = 0, u'(0) = 1, whose solution is the sine."""
    x = points() if inside is None else inside
    return ResidualLoss(
        equation=Term(lambda u, x: u.d(0, 0) + u.value, x, pairs=[(0, 0)], attention=attention),
        start=Term(lambda u, x: torch.cat([u.value, u.d(0) - 1], dim=-1), points()[:1], weight=7.0),
    )


def network(seed=0):
    torch.manual_seed(seed)
    return KAN([1, 2, 1], n=3, r=4)


def expected(model):
    """Return the two terms by nested automatic differentiation."""
    x = points().requires_grad_()
    u = model(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), x)
    ends = torch.stack([u[0, 0], slope[0, 0] - 1])
    return {
        "equation": (curve + u).square().mean().item(),
        "start": 7 * ends.square().mean().item(),
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_terms_are_those_of_the_network_and_add_up(name):
    model, seen = network(), []
    seen.append(expected(model))

    def look(state):
        seen.append(expected(state.model))

    run = train(model, problem(), 4, optimizer=OPTIMIZERS[name], callbacks=[look], progress=False)
    terms = run.history.terms
    assert [*terms] == ["equation", "start"]
    assert len(seen) == len(run.history) == 5
    for i, row in enumerate(seen):
        for term, value in row.items():
            assert terms[term][i] == pytest.approx(value, rel=1e-9)
        assert sum(values[i] for values in terms.values()) == pytest.approx(run.history.loss[i])


def test_terms_cost_no_evaluation_of_a_step():
    class Counted(ResidualLoss):
        calls = 0

        def parts(self, model):
            self.calls += 1
            return super().parts(model)

    objective = Counted(**problem().terms)
    run = train(network(), objective, 5, optimizer=ADAM, progress=False)
    assert run.history.evaluations[-1] == 6
    assert objective.calls == 6 + 2  # whether the terms add up is looked at once


def test_terms_go_on_over_levels_and_when_resumed(tmp_path):
    def once(stop=None, **options):
        def until(state):
            if stop is not None and len(state.history) == stop:
                raise KeyboardInterrupt

        return train_multilevel(
            network(),
            problem(Attention(0.1)),
            [3, 3],
            optimizer=ADAM,
            callbacks=[until],
            progress=False,
            **options,
        )

    whole = once()
    path = tmp_path / "run.pt"
    once(stop=5, checkpoint=path, checkpoint_every=0)
    again = once(checkpoint=path, resume=True)
    assert again.history.terms == whole.history.terms
    assert {len(v) for v in whole.history.terms.values()} == {len(whole.history)} == {8}


def test_terms_of_moving_points_and_of_ensembles():
    objective = problem(inside=Sampler([(0, 1)], 9, seed=3))
    history = train(network(), objective, 5, optimizer=GaussNewton(), progress=False).history
    for i, loss in enumerate(history.loss):
        assert sum(v[i] for v in history.terms.values()) == pytest.approx(loss)
    both = Ensemble([network(1), network(2)])
    history = train(both, problem(), 1, optimizer=ADAM, progress=False).history
    each = [expected(network(seed)) for seed in (1, 2)]
    for name, values in history.terms.items():
        assert values[0] == pytest.approx(sum(row[name] for row in each))


def test_a_race_joins_the_terms_of_the_winner():
    other = ResidualLoss(equation=problem().terms["equation"])
    run = race(
        [network(1), network(2)],
        [other, problem()],
        [2, 3],
        keep=[1],
        optimizer=ADAM,
        progress=False,
    )
    terms, count = run.history.terms, len(run.history)
    assert {len(values) for values in terms.values()} == {count} == {7}
    assert [math.isnan(v) for v in terms["start"]] == [True] * 3 + [False] * 4
    assert not any(map(math.isnan, terms["equation"]))


def test_objectives_without_terms_have_none():
    run = train(network(), MeanSquaredError(points(), points()), 2, progress=False)
    assert run.history.terms == {}
    run = train(network(), lambda model: problem()(model), 2, optimizer=ADAM, progress=False)
    assert run.history.terms == {}


def test_parts_that_do_not_add_up_are_refused():
    class Penalised(ResidualLoss):
        def __call__(self, model):
            return super().__call__(model) + model(points()).square().mean()

    with pytest.raises(ValueError, match=r"parts of the objective must add up .* override parts"):
        train(network(), Penalised(**problem().terms), 1, progress=False)


def test_an_optimizer_that_does_not_tell_terms_leaves_gaps():
    class Bound:
        evaluations = 0

        def bind(self, model, objective):
            self.model, self.objective = model, objective
            return self

        def step(self):
            self.evaluations += 1
            with torch.no_grad():
                next(self.model.parameters()).mul_(0.5)
            return 1.0

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    terms = train(network(), problem(), 2, optimizer=Bound(), progress=False).history.terms
    assert [math.isnan(value) for value in terms["start"]] == [True, True, False]


def test_the_bar_shows_the_terms(capsys, monkeypatch):
    from kanlib.training import trainer

    shown = []
    monkeypatch.setattr(
        trainer.tqdm, "set_postfix_str", lambda bar, text, refresh: shown.append(text)
    )
    history = train(network(), problem(), 1, optimizer=ADAM, progress=False).history
    e, s = (history.terms[name][0] for name in ("equation", "start"))
    assert shown == [f"loss {history.loss[0]:.2e}, equation {e:.2e}, start {s:.2e}"]
