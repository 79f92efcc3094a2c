"""A race of starts: who goes on, what it costs, and that it can be resumed."""

import functools
import math

import pytest
import torch

from kanlib import (
    KAN,
    GaussNewton,
    MeanSquaredError,
    ResidualLoss,
    Sampler,
    Term,
    race,
    train,
    train_multilevel,
)

torch.manual_seed(2)
X = torch.rand(80, 1, dtype=torch.float64)
DATA = MeanSquaredError(X, torch.sin(15 * X))
TEST = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
X2 = torch.rand(5, 2)
ADAM = functools.partial(torch.optim.Adam, lr=1e-2)


def starts(count=4):
    found = {}
    for seed in range(10, 10 + count):
        torch.manual_seed(seed)
        found[seed] = KAN([1, 2, 1], n=3, init_scale=0.5, dtype=torch.float64)
    return found


def test_best_starts_go_on_and_the_winner_is_theirs():
    options = {"optimizer": GaussNewton(), "progress": False}
    run = race(starts(), DATA, [5, 4, 3], keep=[2, 1], **options)
    alone = {}
    for seed, model in starts().items():
        alone[seed] = float(train(model, DATA, 5, **options).loss)
    ranked = sorted(alone, key=alone.get)
    first = [e for e in run.pedigree if e.level == 0]
    assert [e.name for e in first] == ranked
    assert [e.kept for e in first] == [True, True, False, False]
    assert [e.loss for e in first] == [alone[seed] for seed in ranked]
    assert [e.level for e in run.pedigree] == [0] * 4 + [1] * 2 + [2]
    winner = run.pedigree[-1].name
    model = train(starts()[winner], DATA, 5, **options).model.refine()
    model = train(model, DATA, 4, **options).model.refine()
    assert train(model, DATA, 3, **options).loss == run.loss
    assert [level.n for level in run.levels] == [3, 6, 12]
    assert [level.work for level in run.levels] == [4 * 5, 2 * 4 * 2, 3 * 4]
    assert run.history.work[-1] == run.work == 48
    assert run.history.level == [0] * 6 + [1] * 5 + [2] * 4


def test_networks_are_ranked_by_what_validates():
    run = race(
        starts(),
        DATA,
        [2, 2],
        keep=[1],
        validate=lambda model: -float(DATA(model)),
        optimizer=ADAM,
        progress=False,
    )
    scores = [e.score for e in run.pedigree if e.level == 0]
    assert scores == sorted(scores)
    assert run.pedigree[0].loss == max(e.loss for e in run.pedigree if e.level == 0)


def test_who_diverges_is_out():
    field = starts()
    bad = field[11]
    bad.calls = 0

    def objective(model):
        if model is bad:
            bad.calls += 1
            return DATA(model) * 1e9 ** (bad.calls - 1)
        return DATA(model)

    run = race(field, objective, [4, 2], keep=[4], validate=DATA, optimizer=ADAM, progress=False)
    last = [e for e in run.pedigree if e.level == 0][-1]
    assert (last.name, last.status, last.score, last.kept) == (11, "diverged", math.inf, False)
    assert {e.name for e in run.pedigree if e.level == 1} == {10, 12, 13}
    assert run.status == "completed"


def moving():
    points = Sampler([(0, 1)], 60, every=2, share=0.3, dtype=torch.float64)
    return ResidualLoss(fit=Term(lambda u, x: u.value - torch.sin(15 * x), points))


def dampings(run, level):
    """Return the dampings of the steps on a level."""
    rates = zip(run.history.level, run.history.learning_rate, strict=True)
    return [rate for number, rate in rates if number == level]


@pytest.mark.parametrize("refine", [KAN.refine, None])
def test_damping_of_each_network_is_carried_over_the_levels(refine):
    options = {"optimizer": GaussNewton(), "refine": refine, "progress": False}
    first, second = moving(), moving()  # each level has an objective of its own
    carried = race(
        starts(), [first, second], [5, 4], keep=[2], optimizer_state="carried", **options
    )
    fresh = race(starts(), [first, second], [5, 4], keep=[2], **options)
    assert dampings(carried, 1)[0] == dampings(carried, 0)[-1] != GaussNewton().damping
    assert dampings(fresh, 1)[0] == GaussNewton().damping
    # Without a field the race is a training by levels.
    if refine is not None:
        alone = race([starts()[10]], DATA, [5, 4], keep=[1], optimizer_state="carried", **options)
        levels = {"optimizer": GaussNewton(), "optimizer_state": "carried", "progress": False}
        other = train_multilevel(starts()[10], DATA, [5, 4], **levels)
        assert alone.history.loss == other.history.loss
        assert alone.history.learning_rate == other.history.learning_rate


def test_momenta_are_carried_over_levels_and_rounds():
    options = {"optimizer": ADAM, "progress": False}
    rounds = race([starts()[10]], DATA, [3, 4], keep=[1], refine=None, **options)
    carried = {"optimizer_state": "carried", **options}
    both = race([starts()[10]], DATA, [3, 4], keep=[1], refine=None, **carried)
    whole = train(starts()[10], DATA, 7, **options)
    assert both.loss == whole.loss != rounds.loss
    levels = race([starts()[10]], DATA, [3, 4], keep=[1], **carried)
    assert levels.loss == train_multilevel(starts()[10], DATA, [3, 4], **carried).loss


@pytest.mark.parametrize("state", ["fresh", "carried"])
def test_race_is_resumed_bit_for_bit(tmp_path, state):
    class Killed(Exception):
        pass

    def run(name, stop=0, **options):
        count = []

        def metric(model):
            count.append(1)
            if len(count) == stop:
                raise Killed
            return 0.0

        return race(
            starts(3),
            moving(),
            [4, 4],
            keep=[2],
            metrics={"count": metric},
            optimizer=GaussNewton(),
            optimizer_state=state,
            checkpoint=tmp_path / name,
            checkpoint_every=0.0,
            progress=False,
            **options,
        )

    whole = run("whole")
    for stop in (8, 19):
        with pytest.raises(Killed):
            run(str(stop), stop)
        resumed = run(str(stop), resume=True)
        assert resumed.pedigree == whole.pedigree
        assert resumed.history.loss == whole.history.loss
        assert resumed.history.learning_rate == whole.history.learning_rate
    assert (dampings(whole, 1)[0] == dampings(whole, 0)[-1]) == (state == "carried")
    scores = [e.score for e in whole.pedigree if e.level == 0]
    assert scores == sorted(scores)


def test_race_in_rounds_trains_the_winner_on_as_it_is():
    options = {"optimizer": GaussNewton(), "progress": False}
    run = race(starts(), DATA, [5, 4], keep=[2], refine=None, **options)
    alone = starts()[run.pedigree[-2].name]
    for epochs in (5, 4):
        alone = train(alone, DATA, epochs, **options).model
    assert [level.n for level in run.levels] == [3, 3]
    torch.testing.assert_close(run.model(TEST), alone(TEST), rtol=0, atol=0)


def test_race_names_the_mistake():
    with pytest.raises(ValueError, match=r"0 starts, 1 entries and 2 levels"):
        race([], DATA, [1, 1], keep=[1])
    with pytest.raises(ValueError, match=r"4 starts, 0 entries and 2 levels"):
        race(starts(), DATA, [1, 1], keep=[])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"starts": KAN([2, 1])}, TypeError, "starts must be a sequence, got a KAN"),
        ({"starts": [KAN([2, 1]), None]}, TypeError, r"starts\[1\] must be a Module, got None"),
        ({"keep": None}, TypeError, "keep must be a sequence, got None"),
        ({"starts": [KAN([2, 1])] * 2}, ValueError, "different networks, got one twice"),
        ({"keep": [2]}, ValueError, r"keep\[0\] must be at most 1, got 2: 1 run on level 0"),
        ({"validate": lambda m: "best"}, TypeError, "validate must return a number, got 'best'"),
        ({"validate": lambda m: torch.ones(2)}, TypeError, "got a Tensor of shape .2,.: take a m"),
        ({"work": lambda m: None}, TypeError, r"work\(model\) must be a finite number .*got None"),
        ({"refine": lambda m: m}, ValueError, "a new, finer model, got the same model"),
        ({"refine": lambda m: None}, TypeError, "must return the finer model, got None"),
        (
            {"optimizer_state": "stale"},
            ValueError,
            "optimizer_state must be one of .*, got 'stale'",
        ),
        ({"resume": True}, ValueError, "resume=True needs a folder of checkpoints"),
    ],
)
def test_race_names_the_argument(change, error, text):
    options = {"starts": [KAN([2, 1])], "keep": [1], **change}
    with pytest.raises(error, match=text):
        race(options.pop("starts"), lambda m: m(X2).mean(), [1, 1], progress=False, **options)


def test_scores_that_are_not_finite_are_out():
    scores = iter([-math.inf, 1.0, math.nan, 2.0])
    run = race(starts(), DATA, [1], keep=[], validate=lambda m: next(scores), progress=False)
    assert [e.name for e in run.pedigree[:2]] == [11, 13]
    assert run.pedigree[0].kept
    assert [e.score for e in run.pedigree[2:]] == [math.inf] * 2
