"""One level: any torch optimizer, exact histories, divergence, Ctrl-C, resuming, bad input."""

import io
import math
import os
import subprocess
import sys
import textwrap
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CyclicLR, LinearLR, ReduceLROnPlateau, SequentialLR, StepLR
from torch.utils.data import DataLoader, RandomSampler, TensorDataset
from tqdm import tqdm

from kanlib import KAN, MeanSquaredError, exponential_cycles, linear_ramp, train
from kanlib.runs import History, Stop
from kanlib.training import DIVERGENCE_FACTOR

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
    "adam": partial(torch.optim.Adam, lr=0.05, amsgrad=True),
    "adamw": partial(torch.optim.AdamW, lr=0.05, weight_decay=0.1),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01, momentum=0.5, centered=True),
    "adagrad": partial(torch.optim.Adagrad, lr=0.1),
    "rprop": partial(torch.optim.Rprop, lr=0.01),
    "lbfgs": partial(torch.optim.LBFGS, lr=0.5, max_iter=3),
    "lbfgs-wolfe": partial(torch.optim.LBFGS, max_iter=3, line_search_fn="strong_wolfe"),
}


def problem(seed=0, points=24):
    """Return a small network and its objective, both in float64."""
    torch.manual_seed(seed)
    x = torch.rand(points, 2, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    return model, MeanSquaredError(x, torch.sin(3 * x[:, :1]) + x[:, 1:] ** 2)


def batched_problem(seed=0):
    """Return the same with an objective of batches."""
    model, objective = problem(seed)
    data = TensorDataset(objective.x, objective.y)
    return model, lambda model, batch: MeanSquaredError(*batch)(model), data


class Bowl(nn.Module):
    """The loss a w**2 / 2 of one number w, for which every SGD step is known by hand."""

    def __init__(self, start=1.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self):
        return 0.5 * self.w**2


def bowl(model):
    return model()


def values(model):
    return [t.detach().clone() for t in model.state_dict().values()]


def value(loss):
    return float(loss.detach())


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def by_hand(model, objective, make, epochs):
    """Train with torch alone; return losses and parameters before each step and at the end."""
    optimizer = make(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = objective(model)
        loss.backward()
        return loss

    losses, parameters = [], []
    for step in range(epochs + 1):
        losses.append(value(objective(model)))
        parameters.append(values(model))
        if step < epochs:
            optimizer.step(closure)
    return losses, parameters


def at_call(number, function, what):
    """Return the function, but raise or return ``what`` instead at that call, counted from 1."""
    calls = iter(range(1, 10**9))

    def wrapped(*arguments):
        if next(calls) == number:
            if isinstance(what, BaseException):
                raise what
            return function(*arguments) * what
        return function(*arguments)

    return wrapped


class Killed(BaseException):
    """Stands for kill -9 inside one process."""


# History


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_train_equals_a_loop_written_by_hand(make):
    losses, parameters = by_hand(*problem(), make, epochs=6)
    model, objective = problem()
    run = train(model, objective, 6, optimizer=make, progress=False)
    assert run.history.loss == losses
    assert same(values(model), parameters[-1])
    assert run.status == "completed"
    assert run.model is model
    assert run.loss == losses[-1]


def test_history_of_gradient_descent_equals_the_formula():
    run = train(Bowl(2.0), bowl, 5, optimizer=partial(torch.optim.SGD, lr=0.25), progress=False)
    np.testing.assert_allclose(run.history.loss, [0.5 * (2 * 0.75**k) ** 2 for k in range(6)])
    assert run.history.level == [0] * 6
    assert run.history.epoch == [0, 1, 2, 3, 4, 5]
    assert run.history.work == [0, 1, 2, 3, 4, 5]
    assert run.history.learning_rate == [0.25] * 6
    assert run.history.seconds == sorted(run.history.seconds)


def test_history_has_one_length_for_all_lists():
    model, objective = problem()
    history = train(model, objective, 3, progress=False).history
    assert {len(v) for k, v in vars(history).items() if k != "metrics"} == {4} == {len(history)}


@pytest.mark.parametrize("name", ["sgd", "lbfgs-wolfe"])
def test_history_counts_every_evaluation(name):
    model, objective = problem()
    calls = []
    run = train(
        model,
        lambda m: calls.append(1) or objective(m),
        4,
        optimizer=OPTIMIZERS[name],
        progress=False,
    )
    assert run.history.evaluations[-1] == run.levels[0].evaluations == len(calls)


def test_train_without_epochs_records_the_loss_and_changes_nothing():
    model, objective = problem()
    before = values(model)
    run = train(model, objective, 0, progress=False)
    assert run.history.loss == [value(objective(model))]
    assert same(values(model), before)
    assert (run.work, run.levels[0].epochs, len(run.history)) == (0, 0, 1)


def test_history_holds_the_loss_before_a_step_whatever_the_optimizer_returns():
    class Silent(torch.optim.SGD):
        def step(self, closure):
            super().step(closure)
            closure()  # what another optimizer might return is the loss after the step

    losses, _ = by_hand(*problem(), partial(torch.optim.SGD, lr=0.1), epochs=3)
    model, objective = problem()
    run = train(model, objective, 3, optimizer=partial(Silent, lr=0.1), progress=False)
    assert run.history.loss == losses


def test_work_counts_the_cost_of_an_epoch():
    model, objective = problem()
    run = train(
        model, objective, 3, optimizer=OPTIMIZERS["sgd"], work_per_epoch=8.0, progress=False
    )
    assert run.history.work == [0, 8, 16, 24]
    assert run.work == run.levels[0].work == 24


def test_metrics_are_recorded_at_their_epochs_and_at_the_end():
    run = train(
        Bowl(1.0),
        bowl,
        5,
        optimizer=partial(torch.optim.SGD, lr=0.5),
        metrics={"w": lambda model: model.w},
        metrics_every=2,
        progress=False,
    )
    rows = [(row["epoch"], row["w"], row["work"]) for row in run.history.metrics]
    assert rows == [(0, 1.0, 0.0), (2, 0.25, 2.0), (4, 0.0625, 4.0), (5, 0.03125, 5.0)]


def test_run_prints_its_levels_and_status():
    run = train(KAN([1, 1], n=4), lambda m: m(torch.ones(3, 1)).square().mean(), 2, progress=False)
    lines = repr(run).splitlines()
    assert lines[0] == "Run(completed)"
    assert lines[2].split()[:4] == ["0", "4", "7", "2"]
    assert repr(run.history).startswith("History(3 entries, loss ")
    assert repr(History()) == "History(empty)"


def test_train_leaves_frozen_parameters_alone():
    model, objective = problem()
    model[0].requires_grad_(False)
    frozen = values(model[0])
    for make in (OPTIMIZERS["adamw"], OPTIMIZERS["lbfgs-wolfe"]):
        run = train(model, objective, 3, optimizer=make, progress=False)
        assert run.history.loss[-1] < run.history.loss[0]
    assert same(values(model[0]), frozen)


def test_train_accepts_parameter_groups():
    model, objective = problem()

    def make(parameters):
        first, *others = parameters
        groups = [{"params": others, "lr": 0.1}, {"params": [first], "lr": 0.0}]
        return torch.optim.SGD(groups)

    before = values(model)
    run = train(model, objective, 3, optimizer=make, progress=False)
    assert run.history.learning_rate == [0.1] * 4
    assert torch.equal(before[0], model[0].weight)
    assert not torch.equal(before[1], model[0].bias)


# Learning rates


def learning_rates(make, schedule, epochs):
    optimizer = make([nn.Parameter(torch.zeros(1))])
    scheduler = schedule(optimizer)
    rates = []
    for _ in range(epochs + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


SCHEDULERS = {
    "ramp": linear_ramp(1e-3, 4),
    "cycles": exponential_cycles(1e-3, 3, 0.9),
    "cyclic": lambda o: CyclicLR(o, 1e-3, 1e-2, step_size_up=3),  # cycles the momentum too
    "sequential": lambda o: SequentialLR(
        o, [LinearLR(o, 0.1, total_iters=3), StepLR(o, 2, 0.5)], milestones=[3]
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS)
def test_learning_rates_are_those_of_torch(schedule):
    make = partial(torch.optim.Adam, lr=0.02)
    model, objective = problem()
    run = train(model, objective, 9, optimizer=make, scheduler=schedule, progress=False)
    assert run.history.learning_rate == learning_rates(make, schedule, 9)


def test_linear_ramp_rises_from_the_initial_rate_to_that_of_the_optimizer():
    rates = learning_rates(partial(torch.optim.Adam, lr=1e-2), linear_ramp(1e-4, 10), 14)
    expected = [1e-4 + (1e-2 - 1e-4) * min(k, 10) / 10 for k in range(15)]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_exponential_cycles_rise_to_the_rate_of_the_optimizer_and_decay():
    rates = learning_rates(partial(torch.optim.Adam, lr=1e-2), SCHEDULERS["cycles"], 20)
    hat = [1 - abs((k % 6) / 3 - 1) for k in range(21)]
    expected = [1e-3 + 9e-3 * height * 0.9**k for k, height in enumerate(hat)]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_exponential_cycles_keep_the_ratio_of_groups_and_the_momentum():
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, (0.4, 0.0), strict=True)]
    optimizer = torch.optim.Adam(groups)
    scheduler = exponential_cycles(0.1, 2, 1.0)(optimizer)
    for expected in (0.1, 0.25, 0.4, 0.25, 0.1):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        assert optimizer.param_groups[1]["lr"] == 0.0
        assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
        optimizer.step()
        scheduler.step()


# Batches


def test_batches_take_one_step_each_and_the_scheduler_one_an_epoch():
    model, objective, data = batched_problem()
    loader = DataLoader(data, batch_size=10)
    run = train(
        model,
        objective,
        3,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        scheduler=lambda o: StepLR(o, 1, 0.5),
        batches=loader,
        progress=False,
    )
    assert run.history.epoch == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert run.history.learning_rate == [0.1] * 3 + [0.05] * 3 + [0.025] * 3 + [0.0125]
    assert run.history.work == [0] * 3 + [1] * 3 + [2] * 3 + [3]
    mean = sum(value(objective(model, batch)) for batch in loader) / 3
    assert run.loss == pytest.approx(mean, rel=1e-14)


def test_batches_shuffled_with_a_seed_give_the_same_numbers():
    def losses(seed):
        model, objective, data = batched_problem()
        shuffle = torch.Generator().manual_seed(seed)
        loader = DataLoader(data, batch_size=10, shuffle=True, generator=shuffle)
        make = OPTIMIZERS["adam"]
        return train(model, objective, 3, optimizer=make, batches=loader, progress=False).history

    assert losses(1).loss == losses(1).loss
    assert losses(1).loss != losses(2).loss


def test_batches_are_not_drawn_before_training():
    model, objective, data = batched_problem()
    state = torch.get_rng_state()
    loader = DataLoader(data, batch_size=10, shuffle=True)
    by_hand_first = next(iter(loader))
    torch.set_rng_state(state)
    seen = []

    def recording(model, batch):
        seen.append(batch[0])
        return objective(model, batch)

    train(model, recording, 1, optimizer=OPTIMIZERS["sgd"], batches=loader, progress=False)
    assert torch.equal(seen[0], by_hand_first[0])


# Divergence


def test_explosion_is_reported_with_its_step_and_undone():
    rate = 12.0  # w -> -11 w: the loss grows by 121 a step
    run_away = partial(torch.optim.SGD, lr=rate)
    steps = next(k for k in range(99) if 0.5 * 121.0**k > DIVERGENCE_FACTOR)
    model = Bowl(1.0)
    with pytest.warns(RuntimeWarning, match=f"level 0, epoch {steps}, step {steps}"):
        run = train(model, bowl, 50, optimizer=run_away, progress=False)
    assert run.status == "diverged"
    assert run.message in repr(run)
    assert f"step {steps}" in run.message
    assert value(model.w) == (1 - rate) ** (steps - 1)
    assert run.loss == 0.5 * 121.0 ** (steps - 1)
    assert run.levels[0].epochs == steps


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["sgd", "adamw", "lbfgs"])
def test_loss_that_is_not_finite_ends_the_run_with_the_last_finite_model(name, bad):
    make = OPTIMIZERS[name]
    _, parameters = by_hand(*problem(), make, epochs=8)
    model, objective = problem()
    per_step = 3 if name == "lbfgs" else 1
    objective = at_call(5 * per_step + 1, objective, bad)  # first evaluation of step 5
    with pytest.warns(RuntimeWarning, match="epoch 5, step 5"):
        run = train(model, objective, 8, optimizer=make, progress=False)
    assert run.status == "diverged"
    assert same(values(model), parameters[4])
    assert all(map(math.isfinite, run.history.loss))
    assert run.history.epoch == [0, 1, 2, 3, 4, 5]


def test_steps_to_parameters_that_are_not_finite_are_undone():
    def root(model):  # NaN left of 0, whence gradient descent steps
        return torch.sqrt(model.w)

    model = Bowl(0.01)
    with pytest.warns(RuntimeWarning, match="nan at level 0, epoch 1"):
        run = train(model, root, 5, optimizer=partial(torch.optim.SGD, lr=1.0), progress=False)
    assert value(model.w) == 0.01
    assert run.loss == pytest.approx(0.1)


def test_divergence_of_the_last_step_is_seen():
    model, objective = problem()
    make = OPTIMIZERS["sgd"]
    _, parameters = by_hand(*problem(), make, epochs=4)
    with pytest.warns(RuntimeWarning, match="epoch 4, step 4"):
        run = train(model, at_call(5, objective, math.nan), 4, optimizer=make, progress=False)
    assert same(values(model), parameters[3])
    assert run.work == 4


def test_divergence_within_an_epoch_of_batches_is_undone():
    model, objective, data = batched_problem()
    batches = [*DataLoader(data, batch_size=6)]
    reached = []

    def recording(model, batch):
        reached.append(values(model))
        return objective(model, batch)

    make = OPTIMIZERS["sgd"]
    with pytest.warns(RuntimeWarning, match="epoch 1, step 6"):
        train(
            model,
            at_call(7, recording, math.nan),
            4,
            optimizer=make,
            batches=batches,
            progress=False,
        )
    assert same(values(model), reached[5])


def test_divergence_restores_buffers_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
    _, objective = problem()
    poisoned = iter(range(99))

    def sometimes(model):
        scale = math.nan if next(poisoned) == 3 else 1.0
        return (model(objective.x * scale) - objective.y).square().mean()

    with pytest.warns(RuntimeWarning):
        train(model, sometimes, 6, optimizer=OPTIMIZERS["sgd"], progress=False)
    assert all(torch.isfinite(t).all() for t in model.state_dict().values())


def test_growth_from_a_tiny_loss_is_no_divergence():
    run = train(Bowl(1e-9), bowl, 3, optimizer=partial(torch.optim.Adam, lr=1e-2), progress=False)
    assert run.status == "completed"
    assert max(run.history.loss) > 1e9 * run.history.loss[0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["adam", "lbfgs", "lbfgs-wolfe"])
@pytest.mark.parametrize("epochs", [0, 3])
def test_initial_loss_that_is_not_finite_is_refused_and_nothing_changed(name, bad, epochs):
    model, objective = problem()
    before = values(model)
    with pytest.raises(ValueError, match=f"objective is {bad} for the initial model: check"):
        train(
            model,
            lambda m: objective(m) * bad,
            epochs,
            optimizer=OPTIMIZERS[name],
            progress=False,
        )
    assert same(values(model), before)


def test_error_inside_a_step_leaves_the_model_as_before_the_step():
    make = OPTIMIZERS["lbfgs-wolfe"]
    _, parameters = by_hand(*problem(), make, epochs=1)
    model, objective = problem()
    first = int(by_calls(make))
    broken = at_call(first + 3, objective, ZeroDivisionError("mine"))
    with pytest.raises(ZeroDivisionError, match="mine"):
        train(model, broken, 5, optimizer=make, progress=False)
    assert same(values(model), parameters[1])


def by_calls(make):
    """Return the number of evaluations of the first epoch."""
    model, objective = problem()
    return train(model, objective, 1, optimizer=make, progress=False).history.evaluations[0]


# Ctrl-C


@pytest.mark.parametrize("name", ["adam", "lbfgs-wolfe"])
def test_interrupt_at_any_evaluation_leaves_the_last_completed_step(name):
    make, epochs = OPTIMIZERS[name], 3
    losses, parameters = by_hand(*problem(), make, epochs)
    model, objective = problem()
    total = train(model, objective, epochs, optimizer=make, progress=False).history.evaluations[-1]
    for number in range(1, total + 1):
        model, objective = problem()
        interrupted = at_call(number, objective, KeyboardInterrupt())
        run = train(model, interrupted, epochs, optimizer=make, progress=False)
        steps = len(run.history) - 1
        assert run.status == "interrupted"
        assert run.message == f"at level 0, epoch {steps}"
        assert same(values(model), parameters[steps])
        assert run.history.loss == losses[: steps + 1]
        assert run.work == run.levels[0].epochs == steps


def test_interrupt_in_a_metric_keeps_the_completed_step():
    make = OPTIMIZERS["adam"]
    _, parameters = by_hand(*problem(), make, epochs=3)
    model, objective = problem()
    metric = at_call(3, objective, KeyboardInterrupt())
    run = train(model, objective, 3, optimizer=make, metrics={"error": metric}, progress=False)
    assert (run.status, run.work, len(run.history)) == ("interrupted", 2, 3)
    assert same(values(model), parameters[2])
    assert [row["epoch"] for row in run.history.metrics] == [0, 1, 2]


def test_interrupt_right_after_a_diverging_step_leaves_a_finite_model():
    model = Bowl(0.01)
    run = train(
        model,
        lambda m: torch.sqrt(m.w),
        5,
        optimizer=partial(torch.optim.SGD, lr=1.0),
        metrics={"w": at_call(2, lambda m: m.w, KeyboardInterrupt())},
        progress=False,
    )
    assert run.status == "interrupted"
    assert value(model.w) == 0.01
    assert run.loss == pytest.approx(0.1)


def test_second_interrupt_is_not_held_up():
    model, _ = problem()

    def stubborn(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, stubborn, 3, progress=False)


# Resuming


def numbers(run):
    """Return all that a resumed run must share with an uninterrupted one: everything but time."""
    history = vars(run.history) | {"seconds": None}
    levels = [vars(level) | {"seconds": None} for level in run.levels]
    return history, levels, run.status, run.message


def lbfgs_run(wrap=lambda f: f, **options):
    model, objective = problem()
    return train(
        model,
        wrap(objective),
        3,
        optimizer=OPTIMIZERS["lbfgs-wolfe"],
        metrics={"error": objective},
        progress=False,
        **options,
    )


def scheduled_run(name, wrap=lambda f: f, **options):
    model, objective = problem()
    return train(
        model,
        wrap(objective),
        8,
        optimizer=OPTIMIZERS["adam"],
        scheduler=SCHEDULERS[name],
        progress=False,
        **options,
    )


def shuffled_run(own_generator, wrap=lambda f: f, **options):
    model, objective, data = batched_problem()
    sampler = None
    if own_generator == "sampler":
        sampler = RandomSampler(data, generator=torch.Generator().manual_seed(7))
    loader = DataLoader(
        data,
        batch_size=10,
        sampler=sampler,
        shuffle=None if sampler else True,
        generator=torch.Generator().manual_seed(7) if own_generator == "loader" else None,
    )
    return train(
        model,
        wrap(objective),
        3,
        optimizer=OPTIMIZERS["momentum"],
        batches=loader,
        progress=False,
        **options,
    )


RUNS = {
    "lbfgs": lbfgs_run,
    "ramp": partial(scheduled_run, "ramp"),
    "cycles": partial(scheduled_run, "cycles"),
    "cyclic": partial(scheduled_run, "cyclic"),
    "sequential": partial(scheduled_run, "sequential"),
    "shuffled": partial(shuffled_run, None),
    "shuffled-loader": partial(shuffled_run, "loader"),
    "shuffled-sampler": partial(shuffled_run, "sampler"),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_resume_after_a_kill_at_any_evaluation_ends_with_the_same_numbers(run, tmp_path):
    whole = run()
    for number in range(1, whole.history.evaluations[-1] + 1):
        options = {"checkpoint": tmp_path / f"{number}.pt", "checkpoint_every": 0.0}
        with pytest.raises(Killed):
            run(lambda objective, n=number: at_call(n, objective, Killed()), **options)
        again = run(resume=True, **options)
        assert numbers(again) == numbers(whole)
        assert same(values(again.model), values(whole.model))


def test_resume_after_many_kills_ends_with_the_same_numbers(tmp_path):
    whole = lbfgs_run()
    options = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 0.0, "resume": True}
    for _ in range(99):
        try:
            again = lbfgs_run(lambda objective: at_call(5, objective, Killed()), **options)
            break
        except Killed:
            pass
    assert numbers(again) == numbers(whole)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_resume_after_a_kill_while_a_checkpoint_is_written(call, tmp_path, monkeypatch):
    whole = lbfgs_run()
    saves = 5  # at the beginning, after each epoch and at the end of the level
    for number in range(1, saves + 1):
        options = {"checkpoint": tmp_path / f"{number}.pt", "checkpoint_every": 0.0}
        with monkeypatch.context() as patch:
            patch.setattr(os, call, at_call(number, getattr(os, call), Killed()))
            with pytest.raises(Killed):
                lbfgs_run(**options)
        assert numbers(lbfgs_run(resume=True, **options)) == numbers(whole)


def test_resume_of_a_finished_run_returns_it_without_a_step(tmp_path):
    options = {"checkpoint": tmp_path / "c.pt"}
    whole = lbfgs_run(**options)
    calls = []
    again = lbfgs_run(lambda f: lambda model: calls.append(1) or f(model), resume=True, **options)
    assert numbers(again) == numbers(whole)
    assert len(calls) == 2  # the loss it ends with


def test_resume_without_a_checkpoint_starts_from_the_beginning(tmp_path):
    again = lbfgs_run(checkpoint=tmp_path / "none" / "c.pt", resume=True)
    assert numbers(again) == numbers(lbfgs_run())


@pytest.mark.filterwarnings("ignore:training diverged:RuntimeWarning")
@pytest.mark.parametrize("checkpoint_every", [0.0, 1e9])
def test_resume_of_a_diverging_run_ends_with_the_same_model(tmp_path, checkpoint_every):
    def run(killed_at=0, **options):
        objective = at_call(killed_at, bowl, Killed())
        make = partial(torch.optim.SGD, lr=12.0)
        return train(Bowl(1.0), objective, 9, optimizer=make, progress=False, **options)

    whole = run()
    for number in range(1, whole.history.evaluations[-1] + 1):
        options = {"checkpoint": tmp_path / f"{number}", "checkpoint_every": checkpoint_every}
        with pytest.raises(Killed):
            run(number, **options)
        again = run(resume=True, **options)
        assert numbers(again) == numbers(whole)
        assert same(values(again.model), values(whole.model))


def test_resume_after_ctrl_c_ends_with_the_same_numbers(tmp_path):
    whole = lbfgs_run()
    options = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 0.0}
    stopped = lbfgs_run(lambda f: at_call(7, f, KeyboardInterrupt()), **options)
    assert stopped.status == "interrupted"
    assert numbers(lbfgs_run(resume=True, **options)) == numbers(whole)


def test_checkpoints_wait_for_their_time(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("kanlib.training.save_checkpoint", lambda *_: saved.append(1))
    lbfgs_run(checkpoint=tmp_path / "c.pt", checkpoint_every=1e9)
    assert len(saved) == 2  # at both ends of the level
    lbfgs_run(checkpoint=tmp_path / "c.pt", checkpoint_every=0.0)
    assert len(saved) == 2 + 5


OTHERS = {
    "epochs": ({"epochs": 4}, "epochs = \\[3\\], this run has \\[4\\]"),
    "work": ({"work_per_epoch": 2.0}, "work_per_epoch = 1.0, this run has 2.0"),
    "optimizer": ({"optimizer": OPTIMIZERS["lbfgs"]}, "optimizer = Adam.*this run has LBFGS"),
    "rate": ({"optimizer": partial(torch.optim.Adam, lr=0.5)}, "lr=0.05.*lr=0.5"),
    "scheduler": ({"scheduler": None}, "scheduler = LinearLR, this run has NoneType"),
    "batches": ({"batches": [1]}, "batches = False, this run has True"),
    "width": ({"model": nn.Linear(2, 1).double()}, "Missing key"),
    "dtype": ({"model": problem()[0].float()}, "dtype of 0.weight = torch.float64"),
}


@pytest.mark.parametrize(("change", "reason"), OTHERS.values(), ids=OTHERS)
def test_resume_with_other_settings_is_refused(change, reason, tmp_path):
    model, objective = problem()
    options = {
        "model": model,
        "objective": objective,
        "epochs": 3,
        "optimizer": partial(torch.optim.Adam, lr=0.05),
        "scheduler": linear_ramp(0.01, 2),
        "checkpoint": tmp_path / "c.pt",
        "progress": False,
    }
    train(**options)
    before = (tmp_path / "c.pt").read_bytes()
    with pytest.raises(ValueError, match=f"checkpoint .*c.pt .*{reason}.*delete it") as error:
        train(**options | change, resume=True)
    assert str(tmp_path) in str(error.value)
    assert (tmp_path / "c.pt").read_bytes() == before


def test_resume_needs_a_checkpoint():
    with pytest.raises(ValueError, match="resume=True needs a checkpoint file: pass checkpoint="):
        lbfgs_run(resume=True)


def test_checkpoint_that_cannot_be_written_is_known_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("in the way")
    calls = []
    with pytest.raises(OSError, match=r"cannot write .*file/c\.pt .*choose"):
        lbfgs_run(
            lambda f: lambda model: calls.append(1) or f(model),
            checkpoint=tmp_path / "file" / "c.pt",
        )
    assert calls == []


# Callbacks and bound optimizers


def test_callbacks_see_the_state_after_each_epoch():
    seen = []

    def note(state):
        seen.append((state.epoch, state.work, state.evaluations, len(state.history)))
        assert state.model is model

    model, objective = problem()
    train(model, objective, 3, optimizer=OPTIMIZERS["sgd"], callbacks=[note], progress=False)
    assert seen == [(1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)]


def test_callback_ends_the_run_with_its_reason():
    def stop(state):
        if state.epoch == 3:
            raise Stop("three are enough")

    make = OPTIMIZERS["sgd"]
    losses, parameters = by_hand(*problem(), make, epochs=3)
    model, objective = problem()
    run = train(model, objective, 9, optimizer=make, callbacks=[stop], progress=False)
    assert (run.status, run.message) == ("stopped", "three are enough")
    assert "three are enough" in repr(run)
    assert run.history.loss == losses
    assert same(values(model), parameters[3])


class Newton:
    """Newton's method for the bowl, as an optimizer that knows model and objective."""

    def __init__(self, model, objective):
        self.model, self.objective, self.evaluations, self.damping = model, objective, 0, 0.5

    def step(self):
        loss = self.objective(self.model)
        self.evaluations += 2
        if loss < 1e-6:
            raise Stop("the bowl's bottom")
        with torch.no_grad():
            self.model.w *= self.damping
        self.damping *= 0.5
        return value(loss)

    def state_dict(self):
        return {"damping": self.damping, "evaluations": self.evaluations}

    def load_state_dict(self, state):
        self.damping, self.evaluations = state["damping"], state["evaluations"]


class NewtonFactory:
    bind = staticmethod(Newton)


def newton_run(wrap=lambda f: f, **options):
    return train(Bowl(), wrap(bowl), 9, optimizer=NewtonFactory(), progress=False, **options)


def test_bound_optimizer_steps_counts_and_stops():
    run = newton_run()
    assert (run.status, run.message) == ("stopped", "the bowl's bottom")
    w = [2.0 ** -(k * (k + 1) / 2) for k in range(6)]
    np.testing.assert_allclose(run.history.loss, [0.5 * v**2 for v in w[:5]])
    assert run.history.evaluations[:4] == [2, 4, 6, 8]
    assert set(run.history.learning_rate) == {1.0}


def test_bound_optimizer_is_resumed_with_the_same_numbers(tmp_path):
    whole = newton_run()
    for number in range(1, 5):
        options = {"checkpoint": tmp_path / f"{number}.pt", "checkpoint_every": 0.0}
        with pytest.raises(Killed):
            newton_run(lambda objective, n=number: at_call(n, objective, Killed()), **options)
        assert numbers(newton_run(resume=True, **options)) == numbers(whole)


def test_bound_optimizer_has_no_batches():
    with pytest.raises(ValueError, match="optimizer Newton evaluates the whole objective itself"):
        newton_run(batches=[1])


# Bad input


def vector(model):
    return model(torch.zeros(4, 2, dtype=torch.float64))


def adam(model):
    return torch.optim.Adam(model.parameters())


MISTAKES = {
    "objective": (lambda m: {"objective": None}, TypeError, "objective must be .*got None"),
    "vector": (lambda m: {"objective": vector}, ValueError, r"scalar tensor.*mean.*\(4, 1\)"),
    "float": (lambda m: {"objective": lambda m: 1.0}, ValueError, "objective must .*got 1.0"),
    "none": (lambda m: {"objective": lambda m: None}, ValueError, "objective must .*got None"),
    "detached": (
        lambda m: {"objective": lambda m: vector(m).mean().detach()},
        ValueError,
        "objective must depend on a trainable parameter.*avoid detach",
    ),
    "negative epochs": (lambda m: {"epochs": -1}, ValueError, "epochs must be integers.*-1"),
    "half epochs": (lambda m: {"epochs": 1.5}, ValueError, "epochs must be integers.*1.5"),
    "true epochs": (lambda m: {"epochs": True}, ValueError, "epochs must be integers.*True"),
    "optimizer": (
        lambda m: {"optimizer": adam(m)},
        TypeError,
        "optimizer must be a function .*partial.*got Adam",
    ),
    "no optimizer": (lambda m: {"optimizer": None}, TypeError, "optimizer must be .*got None"),
    "factory of nothing": (
        lambda m: {"optimizer": lambda p: None},
        TypeError,
        "optimizer must be .*it returned None",
    ),
    "scheduler": (
        lambda m: {"scheduler": StepLR(adam(m), 1)},
        TypeError,
        "scheduler must be a function .*got StepLR",
    ),
    "scheduler of nothing": (
        lambda m: {"scheduler": lambda o: None},
        TypeError,
        "scheduler must be .*it returned None",
    ),
    "plateau": (
        lambda m: {"scheduler": ReduceLROnPlateau},
        TypeError,
        "whose step.. takes no argument.*it returned ReduceLROnPlateau",
    ),
    "generator": (
        lambda m: {"batches": (x for x in "ab")},
        TypeError,
        "batches must be iterable again and again.*DataLoader.*got the iterator <generator",
    ),
    "empty": (
        lambda m: {"batches": [], "objective": lambda m, b: None},
        ValueError,
        "batches must hold at least one batch, got none",
    ),
    "work": (lambda m: {"work_per_epoch": 0.0}, ValueError, "work_per_epoch must be .*got 0.0"),
    "nan work": (lambda m: {"work_per_epoch": math.nan}, ValueError, "work_per_epoch .*got nan"),
    "metrics_every": (lambda m: {"metrics_every": 0}, ValueError, "metrics_every must .*got 0"),
    "metrics": (
        lambda m: {"metrics": {"epoch": value}},
        ValueError,
        r"metrics must not be named \['epoch'\]: rename",
    ),
}


@pytest.mark.parametrize(("change", "kind", "text"), MISTAKES.values(), ids=MISTAKES)
def test_train_names_the_mistake_and_changes_nothing(change, kind, text):
    model, objective = problem()
    before = values(model)
    options = {"objective": objective, "epochs": 2, "progress": True}
    with pytest.raises(kind, match=text):
        train(model, **options | change(model))
    assert same(values(model), before)
    assert not tqdm._instances


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0.0, 10), "initial_lr must be positive.*got 0.0, 10"),
        ((math.nan, 10), "initial_lr must be positive.*got nan, 10"),
        ((1e-3, 0), "steps at least 1, got 0.001, 0"),
    ],
)
def test_linear_ramp_names_the_mistake(arguments, text):
    with pytest.raises(ValueError, match=text):
        linear_ramp(*arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0.0, 10, 0.9), "initial_lr must be positive.*got 0.0, 10, 0.9"),
        ((1e-3, 0, 0.9), "steps at least 1.*got 0.001, 0, 0.9"),
        ((1e-3, 10, 0.0), r"gamma in \(0, 1\], got 0.001, 10, 0.0"),
        ((1e-3, 10, 1.1), r"gamma in \(0, 1\], got 0.001, 10, 1.1"),
        ((1e-3, 10, math.nan), r"gamma in \(0, 1\], got 0.001, 10, nan"),
    ],
)
def test_exponential_cycles_name_the_mistake(arguments, text):
    with pytest.raises(ValueError, match=text):
        exponential_cycles(*arguments)


@pytest.mark.parametrize("schedule", [linear_ramp(0.1, 5), exponential_cycles(0.1, 5, 0.9)])
def test_schedules_go_up(schedule):
    with pytest.raises(ValueError, match=r"initial_lr = 0\.1 exceeds .* 0\.01: a .* goes up"):
        learning_rates(partial(torch.optim.Adam, lr=0.01), schedule, 1)


# The progress bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def output(monkeypatch, stream, **options):
    """Return what a run of many seconds, by a clock that runs ahead, writes to standard error."""
    monkeypatch.setattr("tqdm.std.time", iter(range(10**6)).__next__)
    monkeypatch.setattr("sys.stderr", stream)
    model, objective = problem()
    train(model, objective, 12, optimizer=OPTIMIZERS["sgd"], **options)
    assert not tqdm._instances
    return stream.getvalue()


def test_progress_shows_epochs_and_loss_on_a_terminal(monkeypatch):
    text = output(monkeypatch, Terminal())
    assert "training: 100%" in text
    assert "12/12" in text
    assert "loss " in text


@pytest.mark.parametrize(("stream", "progress"), [(Terminal(), False), (io.StringIO(), True)])
def test_progress_is_silent_where_it_should_be(stream, progress, monkeypatch):
    assert output(monkeypatch, stream, progress=progress) == ""


def test_progress_bar_closes_when_the_objective_fails(monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    model, objective = problem()
    with pytest.raises(ZeroDivisionError):
        train(model, at_call(5, objective, ZeroDivisionError()), 12)
    assert not tqdm._instances


def test_progress_in_notebooks_needs_no_widgets_and_uses_them():
    script = """
        import sys, types, warnings
        import IPython
        sys.modules["ipykernel.zmqshell"] = types.ModuleType("zmqshell")  # as inside a kernel
        sys.modules["ipywidgets"] = None if sys.argv[1] == "without" else __import__("ipywidgets")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            from kanlib import training
        print([w.category.__name__ for w in caught if "Tqdm" in w.category.__name__])
        print(training.tqdm.__mro__[1].__module__)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]

    def answer(widgets):
        done = subprocess.run([*command, widgets], capture_output=True, text=True, check=True)
        return done.stdout.split("\n")[:2]

    assert answer("without") == ["[]", "tqdm.std"]
    assert answer("with") == ["[]", "tqdm.notebook"]
