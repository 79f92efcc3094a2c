"""Unknowns of an equation: trained by every optimizer, refined, resumed, raced."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from kanlib import (
    KAN,
    MLP,
    Ensemble,
    GaussNewton,
    MeanSquaredError,
    QuasiNewton,
    ResidualLoss,
    Term,
    Unknowns,
    lbfgs,
    race,
    train,
    train_multilevel,
)
from kanlib.training.iterations import Iteration
from kanlib.training.jacobian import jacobian

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:no step was taken"),  # L-BFGS is done early
]
ADAM = partial(torch.optim.Adam, lr=1e-2)
OPTIMIZERS = {"adam": ADAM, "lbfgs": lbfgs, "gauss-newton": GaussNewton(), "w-u": Iteration(ADAM)}
OPTIMIZERS |= {"qr": GaussNewton(solver="qr"), "cg": GaussNewton(solver="cg")}


def points(n=24):
    return torch.linspace(-1, 1, n)[:, None]


def wave(u, x, q):
    return u.d(0, 0) + q.k * u.value


def problem(unknowns=None, equation=wave):
    """Return the loss of u'' + k u = 0 with values of sin 2x, so that k = 4."""
    unknowns = Unknowns(k=1.0) if unknowns is None else unknowns
    return ResidualLoss(
        wave=Term(equation, points(), pairs=[(0, 0)], unknowns=unknowns, weight=0.1),
        data=Term(lambda u, x: u.value - torch.sin(2 * x), points(20)),
    )


class Scaled(nn.Module):
    """An objective with a parameter of its own, whose minimum is at 2."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, model):
        return (model(points()) - self.scale).square().mean() + (self.scale - 2).square()


def network(seed=0, n=4):
    torch.manual_seed(seed)
    return KAN([1, 1], n=n, r=5, domain=(-1, 1))


def test_loss_reads_the_unknowns():
    model, x = network(), points().requires_grad_()
    u = model(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), x)
    for k in (0.0, 2.5):
        expected = 0.1 * (curve + k * u).square().mean()
        torch.testing.assert_close(problem(Unknowns(k=k)).parts(model)["wave"], expected)


@pytest.mark.parametrize("name", ["lbfgs", "gauss-newton", "qr"])
def test_unknown_is_found_over_levels(name):
    run = train_multilevel(
        network(), problem(), [12, 12], optimizer=OPTIMIZERS[name], progress=False
    )
    assert run.objective.unknowns["k"] == pytest.approx(4, abs=2e-3)
    assert "k" not in dict(run.model.named_parameters())


def test_adam_takes_its_step_in_the_unknown():
    loss, model = problem(), network()
    (slope,) = torch.autograd.grad(loss(model), [dict(loss.named_parameters())["k"]])
    train(model, loss, 1, optimizer=ADAM, progress=False)
    assert loss.unknowns["k"] == pytest.approx(1 - 1e-2 * float(slope.sign()), abs=1e-6)


def test_columns_of_the_unknowns_are_those_of_differences():
    unknowns = Unknowns(k=torch.tensor([1.0, -0.5]), net=MLP([1, 2, 1], "tanh"), c=0.3)

    def equation(u, x, q):
        return torch.cat([u.d(0, 0) + q.k[0] * u.value**2, q.net(x) * u.d(0) + q.k[1] * q.c], 1)

    loss, model = problem(unknowns, equation), network()
    J = jacobian(model, loss)
    own = [*unknowns.parameters()]
    found = J.dense()[:, -sum(p.numel() for p in own) :]

    def residual():
        return torch.cat([part(model).flatten() for part in loss.residuals()]).detach()

    columns, h = [], 1e-6
    for p in own:
        for i in range(p.numel()):
            with torch.no_grad():
                p.view(-1)[i] += h
                above = residual()
                p.view(-1)[i] -= 2 * h
                columns.append((above - residual()) / (2 * h))
                p.view(-1)[i] += h
    torch.testing.assert_close(found, torch.stack(columns, dim=1), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("stop", [2, 6])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resumed_run_has_the_same_unknowns(name, stop, tmp_path):
    def once(stop=None, **options):
        def until(state):
            if stop is not None and len(state.history) >= stop:
                raise KeyboardInterrupt

        options |= {"callbacks": [until], "checkpoint_every": 0.0, "progress": False}
        return train_multilevel(network(), problem(), [3, 3], optimizer=OPTIMIZERS[name], **options)

    whole = once()
    once(stop, checkpoint=tmp_path / "run.pt")
    again = once(checkpoint=tmp_path / "run.pt", resume=True)
    assert again.history.loss == whole.history.loss
    assert torch.equal(again.objective.unknowns["k"], whole.objective.unknowns["k"])


def test_checkpoint_of_other_unknowns_is_refused(tmp_path):
    options = {"optimizer": ADAM, "checkpoint": tmp_path / "run.pt", "progress": False}
    train(network(), problem(), 2, **options)
    other = problem(Unknowns(k=1.0, c=0.0), lambda u, x, q: wave(u, x, q) + q.c)
    with pytest.raises(ValueError, match="belongs to another run: it has unknowns c = None"):
        train(network(), other, 2, resume=True, **options)


@pytest.mark.parametrize("make", [ADAM, lbfgs])
def test_state_of_the_unknowns_is_carried(make):
    """A level that starts with the state of the last one goes on as if there were no refinement.

    The step of Adam in the unknown depends on its own moments, which a fresh start forgets.
    """
    runs = {}
    for state in ("carried", "fresh"):
        loss = problem()
        train_multilevel(
            network(), loss, [5, 1], optimizer=make, optimizer_state=state, progress=False
        )
        runs[state] = loss.unknowns["k"]
    assert runs["carried"] != runs["fresh"]


def test_divergence_puts_unknowns_back():
    class Away:
        evaluations = 0

        def bind(self, model, objective):
            self.model, self.k = model, dict(objective.named_parameters())["k"]
            self.param_groups = [{"params": [self.k]}]
            return self

        def step(self):
            self.evaluations += 1
            with torch.no_grad():
                self.k.add_(1.0)
            return 1.0 if self.evaluations < 3 else float("nan")

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    loss = problem()
    with pytest.warns(RuntimeWarning, match="diverged"):
        train(network(), loss, 5, optimizer=Away(), progress=False)
    assert loss.unknowns["k"] == 2.0  # before the last step with a finite loss


def test_a_race_has_unknowns_for_each_start():
    loss = problem()
    run = race(
        [network(1), network(2)], loss, [6, 6], keep=[1], optimizer=GaussNewton(), progress=False
    )
    assert loss.unknowns["k"] == 1.0
    assert run.objective.unknowns["k"] == pytest.approx(4, abs=2e-2)
    torch.testing.assert_close(run.objective(run.model).item(), run.loss)


def test_a_race_ranks_networks_with_the_unknowns_that_they_have_found():
    starts = [network(seed) for seed in range(3)]
    run = race(starts, problem(), [5, 3], keep=[2], optimizer=GaussNewton(), progress=False)
    for entrant in run.pedigree:  # no sampler: the points of the race are those of the training
        assert entrant.score == pytest.approx(entrant.loss, rel=1e-9)
    first = [entrant for entrant in run.pedigree if entrant.level == 0]
    kept = max(entrant.loss for entrant in first if entrant.kept)
    assert kept <= min(entrant.loss for entrant in first if not entrant.kept)


@pytest.mark.parametrize("optimizer", [ADAM, lbfgs, GaussNewton()], ids=["adam", "lbfgs", "gn"])
@pytest.mark.parametrize("state", ["fresh", "carried"])
def test_unknowns_go_on_where_each_level_has_an_objective(optimizer, state, tmp_path):
    """The same equations on each level, as two objects or as one: the same race."""
    runs = []
    for i, levels in enumerate((problem(), [problem(), problem()])):
        runs.append(
            race(
                [network(1), network(2)],
                levels,
                [4, 3],
                keep=[1],
                optimizer=optimizer,
                optimizer_state=state,
                checkpoint=tmp_path / str(i),
                progress=False,
            )
        )
    one, two = runs
    assert two.history.loss == one.history.loss
    assert two.objective.unknowns["k"] == one.objective.unknowns["k"] != 1.0


def test_each_start_of_a_race_has_its_own_parameters_of_an_objective():
    run = race([network(1), network(2)], Scaled(), [3], keep=[], optimizer=ADAM, progress=False)
    alone = Scaled()
    train(network(2 if run.pedigree[0].name else 1), alone, 3, optimizer=ADAM, progress=False)
    assert run.objective.scale == alone.scale
    torch.testing.assert_close(run.objective(run.model).item(), run.loss)


def test_networks_of_an_ensemble_have_numbers_of_their_own():
    starts = torch.tensor([1.0, 3.0]).view(2, 1, 1)
    loss = problem(Unknowns(k=starts))
    both = Ensemble([network(1), network(2)])
    train(both, loss, 4, optimizer=ADAM, progress=False)
    for s, seed in enumerate((1, 2)):
        alone = problem(Unknowns(k=float(starts[s])))
        train(network(seed), alone, 4, optimizer=ADAM, progress=False)
        torch.testing.assert_close(loss.unknowns["k"][s, 0, 0], alone.unknowns["k"])


def test_objectives_of_modules_have_unknowns_too():
    loss = Scaled()
    train(network(), loss, 20, progress=False)
    assert loss.scale.item() == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize(
    "optimizer", [ADAM, GaussNewton(), QuasiNewton()], ids=["adam", "gauss-newton", "quasi-newton"]
)
def test_an_unknown_that_enters_nothing_is_named(optimizer):
    with pytest.raises(ValueError, match="unknown 'c' enters no residual"):
        train(network(), problem(Unknowns(k=1.0, c=2.0)), 1, optimizer=optimizer, progress=False)


def test_an_optimizer_without_the_unknown_is_told():
    def some(parameters):
        return torch.optim.Adam(parameters[:1], lr=1e-2)

    with pytest.warns(RuntimeWarning, match="the optimizer lacks k, which the objective reads"):
        train(network(), problem(), 1, optimizer=some, progress=False)


def test_a_frozen_unknown_stays():
    unknowns = Unknowns(k=1.0, c=2.0)
    unknowns.c.requires_grad_(False)
    train(network(), problem(unknowns), 1, optimizer=GaussNewton(), progress=False)
    assert unknowns.c.item() == 2.0


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: Unknowns(), ValueError, "at least one unknown, as in k=1.0"),
        (lambda: Unknowns(k="a"), TypeError, "unknown 'k' must be a finite number"),
        (lambda: Unknowns(k=torch.tensor(1)), TypeError, "unknown 'k' must be a floating-point"),
        (lambda: Unknowns(train=1.0), ValueError, "'train' has the name of a part of nn.Module"),
        (lambda: Term(wave, points(), unknowns={"k": 1.0}), TypeError, "unknowns must be a Module"),
        (
            lambda: ResidualLoss(
                **{n: Term(wave, points(), unknowns=Unknowns(k=1.0)) for n in ("a", "b")}
            ),
            ValueError,
            "different names, got 'k' twice: put them into one Unknowns",
        ),
        (
            lambda: train(network(), problem(Unknowns(k=1.0, dtype=torch.float32)), 1),
            TypeError,
            "unknown 'k' must be like the network, torch.float64 on cpu, got torch.float32 on cpu",
        ),
    ],
)
def test_mistakes_are_named(build, error, text):
    with pytest.raises(error, match=text):
        build()


def test_data_alone_have_no_unknowns():
    run = train(network(), MeanSquaredError(points(), points()), 1, progress=False)
    assert not hasattr(run.objective, "unknowns")


def test_unknown_of_another_name_is_refused():
    unknowns = Unknowns(k=1.0, source=nn.Linear(1, 1))
    with pytest.raises(AttributeError, match="there is no unknown 'c': there are 'k', 'source'"):
        unknowns.c  # noqa: B018
    assert not hasattr(unknowns, "c")
    assert copy.deepcopy(unknowns).k == 1.0
