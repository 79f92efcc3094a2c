"""Levels that end where the loss no longer falls at points that no training has seen."""

import functools

import pytest
import torch

from kanlib import (
    KAN,
    GaussNewton,
    MeanSquaredError,
    ResidualLoss,
    Sampler,
    Schedule,
    Stagnation,
    Term,
    race,
    train,
    train_multilevel,
)
from kanlib.training.stagnation import JUDGED

X = torch.linspace(0, 1, 60, dtype=torch.float64)[:, None]
DATA = MeanSquaredError(X, torch.sin(20 * X))
ADAM = functools.partial(torch.optim.Adam, lr=1e-2)


def network(seed=0):
    torch.manual_seed(seed)
    return KAN([1, 2, 1], n=3, init_scale=0.5, dtype=torch.float64)


def moving():
    points = Sampler([(0, 1)], 60, every=2, share=0.3, dtype=torch.float64)
    return ResidualLoss(fit=Term(lambda u, x: u.value - torch.sin(20 * x), points))


def trained(values, epochs=(9, 9), **options):
    """Train on two levels that are judged by the values, one after the other."""
    queue = iter(values)
    until = Stagnation(validate=lambda model: next(queue), **options)
    return train_multilevel(network(), DATA, Schedule(epochs, until), progress=False)


def test_level_ends_after_patience_and_the_next_one_begins():
    falling, flat = [2.0**-k for k in range(4)], [0.124] * 20
    run = trained([*falling, *flat], patience=3, gain=0.1)
    # Measured before each epoch: 1, 1/2, 1/4, 1/8, then three times no gain.
    assert [level.epochs for level in run.levels] == [6, 3]
    why = "what validates fell by less than 0.1 of 0.125 in 3 epochs"
    assert run.levels[0].message == why
    assert run.status == "completed"
    header, first = repr(run).splitlines()[1:3]
    assert header.endswith("  end")
    assert first.endswith(f"  {why}")


def test_level_with_gains_ends_at_its_cap():
    run = trained([0.5**k for k in range(30)], patience=1, gain=0.4)
    assert [level.epochs for level in run.levels] == [9, 9]
    assert repr(run).splitlines()[2].endswith("  all epochs")


def test_energies_below_zero_fall_by_a_share_of_their_size():
    falls = trained([-(1.2**k) for k in range(30)], patience=1, gain=0.1)
    stands = trained([-(1.05**k) for k in range(30)], patience=1, gain=0.1)
    assert [level.epochs for level in falls.levels] == [9, 9]
    assert [level.epochs for level in stands.levels] == [1, 1]


def test_values_that_are_no_number_are_no_gain():
    nan = float("nan")
    assert [v.epochs for v in trained([1.0, nan, nan, nan] * 2, patience=3).levels] == [3, 3]
    assert [v.epochs for v in trained([nan, 1.0, 1.0, 1.0, 1.0], [4], patience=3).levels] == [4]


def test_level_is_measured_every_few_epochs_and_each_measurement_counts():
    run = trained([1.0] * 20, epochs=[20], patience=2, every=3)
    (level,) = run.levels
    assert level.epochs == 6
    plain = train(network(), DATA, 6, progress=False)
    assert level.evaluations == plain.levels[0].evaluations + 3
    assert level.loss == plain.loss


def test_level_is_judged_at_points_of_its_own():
    objective, seen = moving(), []

    def note(state):
        fresh = float(moving().fresh(JUDGED)(state.model).detach())
        seen.append((fresh, [*state.judged]))

    until = Stagnation(patience=2)
    train(network(), objective, Schedule([4], until), callbacks=[note], progress=False)
    after, judged = zip(*seen, strict=True)
    assert judged[-1][1:] == [
        *after[:-1]
    ]  # what is measured before an epoch is that after the last
    assert float(objective(network()).detach()) != judged[0][0]


def test_gauss_newton_stagnates_on_each_level():
    schedule = Schedule([60, 60], until=Stagnation(patience=4))
    run = train_multilevel(network(), DATA, schedule, optimizer=GaussNewton(), progress=False)
    assert all(0 < level.epochs < 60 for level in run.levels)
    assert all(level.message.startswith("the loss fell by less") for level in run.levels)


class Killed(Exception):
    pass


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("optimizer", [GaussNewton(), ADAM])
def test_levels_are_resumed_bit_for_bit(tmp_path, part, optimizer):
    def run(name, at=0, **options):
        calls = []

        def killer(state):
            calls.append(1)
            if len(calls) == at:
                raise Killed

        until = Stagnation(patience=3, gain=0.5)
        return train_multilevel(
            network(),
            moving(),
            Schedule([12, 12], until),
            optimizer=optimizer,
            callbacks=[killer],
            checkpoint=tmp_path / name,
            checkpoint_every=0.0,
            progress=False,
            **options,
        )

    whole = run("whole")
    assert whole.levels[0].message
    with pytest.raises(Killed):
        run("killed", round(part * sum(level.epochs for level in whole.levels)))
    resumed = run("killed", resume=True)
    assert resumed.history.loss == whole.history.loss
    assert [v.message for v in resumed.levels] == [v.message for v in whole.levels]
    assert [v.evaluations for v in resumed.levels] == [v.evaluations for v in whole.levels]


def test_another_criterion_is_another_run(tmp_path):
    options = {"checkpoint": tmp_path / "run.pt", "progress": False}
    train(network(), DATA, Schedule([4], Stagnation(patience=2)), **options)
    with pytest.raises(ValueError, match=r"until = patience 2, .*, this run has patience 3"):
        train(network(), DATA, Schedule([4], Stagnation(patience=3)), resume=True, **options)
    with pytest.raises(ValueError, match=r"until = patience 2, .*, this run has None"):
        train(network(), DATA, 4, resume=True, **options)


def test_race_ends_the_level_of_each_network_by_itself():
    starts = {seed: network(seed) for seed in range(3)}
    options = {"optimizer": GaussNewton(), "progress": False}
    until = Stagnation(patience=2, gain=0.3)
    run = race(starts, DATA, Schedule([30, 30], until), keep=[1], **options)
    for entrant in run.pedigree[:3]:
        alone = train(network(entrant.name), DATA, Schedule([30], until), **options)
        assert (entrant.epochs, entrant.message) == (
            alone.levels[0].epochs,
            alone.levels[0].message,
        )
        assert 0 < entrant.epochs < 30
    assert len({entrant.epochs for entrant in run.pedigree[:3]}) > 1
    assert run.levels[0].work == sum(entrant.epochs for entrant in run.pedigree[:3])
    assert run.levels[1].message.startswith("the loss fell by less than 0.3 of")


def test_batches_want_a_function():
    loader = [torch.rand(3, 1, dtype=torch.float64) for _ in range(2)]
    loss = lambda model, x: (model(x) - x).square().mean()  # noqa: E731
    with pytest.raises(ValueError, match="until must have a function of the network where there"):
        train(network(), loss, Schedule([2], Stagnation()), batches=loader, progress=False)
    until = Stagnation(patience=1, validate=lambda model: 1.0)
    run = train(network(), loss, Schedule([9], until), batches=loader, progress=False)
    assert run.levels[0].epochs == 1


def test_stagnation_names_the_mistake():
    with pytest.raises(ValueError, match=r"patience must be at least 1, got 0"):
        Stagnation(patience=0)
    with pytest.raises(ValueError, match=r"gain must be a share below 1, got 1.0"):
        Stagnation(gain=1.0)
    with pytest.raises(TypeError, match="until must be a Stagnation, got 5"):
        Schedule([1], until=5)
    with pytest.raises(TypeError, match="validate must return a number, got 'best'"):
        trained(["best"])
    with pytest.raises(ValueError, match=r"epochs must have one level, got 2: use train_multi"):
        train(network(), DATA, Schedule([1, 1]), progress=False)
