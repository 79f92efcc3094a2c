"""One level: any torch optimizer, exact histories, divergence, Ctrl-C, resuming, bad input."""

import io
import math
import os
import pickle
import subprocess
import sys
import textwrap
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    CyclicLR,
    LambdaLR,
    LinearLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Subset,
    TensorDataset,
)
from tqdm import tqdm

from kanlib import (
    KAN,
    GaussNewton,
    MeanSquaredError,
    QuasiNewton,
    ResidualLoss,
    Stop,
    Term,
    exponential_cycles,
    linear_ramp,
    paper_lbfgs,
    train,
)
from kanlib.training.checkpoints import load_checkpoint
from kanlib.training.iterations import Iteration
from kanlib.training.runs import History
from kanlib.training.trainer import DIVERGENCE_FACTOR

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
    assert (
        {len(v) for k, v in vars(history).items() if k not in ("metrics", "terms", "weights")}
        == {4}
        == {len(history)}
    )


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
    goal = lambda m: m(torch.ones(3, 1)).square().mean()  # noqa: E731
    run = train(KAN([1, 1], n=4), goal, 2, optimizer=OPTIMIZERS["sgd"], progress=False)
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


def test_losses_with_batches_are_evaluated_once_a_level():
    model, objective, data = batched_problem()
    calls = []

    def counting(model, batch):
        calls.append(1)
        return objective(model, batch)

    train(model, counting, 1, optimizer=OPTIMIZERS["sgd"], batches=batches_of(data))
    assert len(calls) == 3 + 3  # three steps, and the mean over three batches


def test_batches_are_trained_with_adam_by_default():
    def run(**options):
        model, objective, data = batched_problem()
        return train(model, objective, 2, batches=batches_of(data), progress=False, **options)

    assert numbers(run()) == numbers(run(optimizer=partial(torch.optim.Adam, lr=1e-3)))


# Steps


def stalling(**options):
    """Train on a loss that is below torch's absolute tolerances from the start."""
    model, objective = problem()
    small = MeanSquaredError(objective.x, 1e-5 * objective.y)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1e-3)
    return train(model, small, 10, progress=False, **options)


def test_epochs_without_a_step_are_counted_and_told():
    with pytest.warns(RuntimeWarning, match="no step was taken in .* of 10 epochs of level 0: L-B"):
        run = stalling(optimizer=paper_lbfgs)
    level = run.levels[0]
    assert (level.epochs, level.steps + level.idle) == (10, 10)
    assert level.idle > 0
    assert "tolerance_change = 1e-09: choose smaller ones, as kanlib.lbfgs" in run.message
    row = repr(run).splitlines()[2].split()
    assert row[3:6] == ["10", str(level.steps), str(level.evaluations)]


def test_default_optimizer_does_not_stall_on_small_losses():
    run = stalling()
    assert (run.levels[0].steps, run.message) == (10, "")
    with pytest.warns(RuntimeWarning):
        assert run.loss < 0.5 * stalling(optimizer=paper_lbfgs).loss


def test_reason_of_an_idle_epoch_is_named():
    def run(model, **options):
        with pytest.warns(RuntimeWarning, match="no step was taken"):
            return train(model, bowl, 2, progress=False, **options).message

    sgd = partial(torch.optim.SGD, lr=0.0)
    assert run(Bowl(), optimizer=sgd).endswith("the learning rate is 0")
    assert run(Bowl(0.0)).endswith("2 of 2 epochs of level 0: the gradient is zero")


def test_one_batch_that_moves_is_a_step_of_its_epoch():
    model, objective, data = batched_problem()
    batches = [*batches_of(data)]
    run = train(model, objective, 2, optimizer=OPTIMIZERS["sgd"], batches=batches, progress=False)
    assert (run.levels[0].steps, run.levels[0].idle) == (6, 0)


class Beside:
    """The loss (k w - 2)**2 of a bowl's w and a number k beside the model."""

    def __init__(self, k):
        self.k = k

    def __call__(self, model):
        return (self.k * model.w - 2.0).square()


def test_tensor_that_nothing_changes_is_told():
    for k in (
        nn.Parameter(torch.ones(())),
        torch.tensor(1.0, requires_grad=True),
        nn.Parameter(torch.ones(1)).requires_grad_(),
    ):
        with pytest.warns(RuntimeWarning, match=r"objective reads tensors of shapes \[\(.*\)\]"):
            train(Bowl(), lambda m, k=k: Beside(k)(m).sum(), 1, optimizer=OPTIMIZERS["sgd"])


def test_parameter_that_the_optimizer_lacks_is_told():
    model, objective = problem()
    make = lambda p: torch.optim.SGD([*p][:1], lr=0.1)  # noqa: E731
    with pytest.warns(RuntimeWarning, match=r"lacks 0.bias, 2.weight, 2.bias of the model"):
        train(model, objective, 1, optimizer=make, progress=False)


def test_points_that_require_gradients_are_no_mistake():
    x = torch.rand(9, 2, dtype=torch.float64, requires_grad=True)
    model, _ = problem()

    def slopes(model):
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return (slope - 1.0).square().mean()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, slopes, 2, optimizer=OPTIMIZERS["sgd"], progress=False)


def beside_run(wrap=lambda f: f, **options):
    k = nn.Parameter(torch.ones((), dtype=torch.float64))
    make = lambda p: torch.optim.Adam([*p, k], lr=0.1)  # noqa: E731
    run = train(Bowl(), wrap(Beside(k)), 6, optimizer=make, progress=False, **options)
    return run, value(k)


def test_tensor_beside_the_model_is_trained_saved_and_put_back(tmp_path):
    whole, k = beside_run()
    assert k > 1.3
    options = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 0.0}
    with pytest.raises(Killed):
        beside_run(lambda f: at_call(9, f, Killed()), **options)
    again, resumed = beside_run(resume=True, **options)
    assert (numbers(again), resumed) == (numbers(whole), k)
    stopped, half = beside_run(lambda f: at_call(4, f, KeyboardInterrupt()))
    assert stopped.loss == pytest.approx((half * value(stopped.model.w) - 2.0) ** 2)
    with pytest.warns(RuntimeWarning, match="diverged"):
        spoiled, undone = beside_run(lambda f: at_call(4, f, math.nan))
    assert spoiled.loss == pytest.approx((undone * value(spoiled.model.w) - 2.0) ** 2)


# Divergence


def test_energies_may_fall_far_below_zero():
    run = train(
        Bowl(1e5),
        lambda m: m() - 5e9,  # from 0 down to -5e9
        5,
        optimizer=partial(torch.optim.SGD, lr=0.5),
        progress=False,
    )
    assert run.status == "completed"
    assert run.history.loss[0] == 0.0
    assert run.loss < -4e9


def test_explosion_from_a_low_energy_is_divergence():
    with pytest.warns(RuntimeWarning, match="diverged: loss became"):
        run = train(
            Bowl(1.0),
            lambda m: m() - 1e3,
            50,
            optimizer=partial(torch.optim.SGD, lr=12.0),
            progress=False,
        )
    assert run.status == "diverged"
    assert 0 < run.loss < 1e9 * 1.001


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


def own_batches(data):
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(7))
    return DataLoader(data, batch_sampler=BatchSampler(sampler, 10, drop_last=False))


def distributed(data):
    sampler = DistributedSampler(data, num_replicas=1, rank=0, shuffle=True)
    return DataLoader(data, batch_size=10, sampler=sampler)


def sampled_run(load, wrap=lambda f: f, **options):
    model, objective, data = batched_problem()
    return train(
        model,
        wrap(objective),
        3,
        optimizer=OPTIMIZERS["sgd"],
        batches=load(data),
        progress=False,
        **options,
    )


def test_distributed_sampler_has_another_order_each_epoch():
    model, objective, data = batched_problem()
    loader, seen = distributed(data), []

    def noting(model, batch):
        seen.append(batch[0])
        return objective(model, batch)

    train(model, noting, 2, optimizer=OPTIMIZERS["sgd"], batches=loader, progress=False)
    assert len(seen) == 9  # three batches in each epoch, and for the closing loss
    assert not torch.equal(torch.cat(seen[:3]), torch.cat(seen[3:6]))


RUNS = {
    "lbfgs": lbfgs_run,
    "ramp": partial(scheduled_run, "ramp"),
    "cycles": partial(scheduled_run, "cycles"),
    "cyclic": partial(scheduled_run, "cyclic"),
    "sequential": partial(scheduled_run, "sequential"),
    "shuffled": partial(shuffled_run, None),
    "shuffled-loader": partial(shuffled_run, "loader"),
    "shuffled-sampler": partial(shuffled_run, "sampler"),
    "shuffled-batch-sampler": partial(sampled_run, own_batches),
    "distributed": partial(sampled_run, distributed),
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
            again = lbfgs_run(lambda objective: at_call(9, objective, Killed()), **options)
            break
        except Killed:
            pass
    assert numbers(again) == numbers(whole)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_resume_after_a_kill_while_a_checkpoint_is_written(call, tmp_path, monkeypatch):
    whole = lbfgs_run()
    saves = 4  # at the beginning and after each epoch
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
    assert len(calls) == 2  # the loss it was saved with, and the one that it ends with


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
    monkeypatch.setattr(
        "kanlib.training.snapshot.save_checkpoint", lambda *_, **__: saved.append(1)
    )
    lbfgs_run(checkpoint=tmp_path / "c.pt", checkpoint_every=1e9)
    assert len(saved) == 2  # at both ends of the level
    lbfgs_run(checkpoint=tmp_path / "c.pt", checkpoint_every=0.0)
    assert len(saved) == 2 + 4  # and after each epoch


OTHER_DATA = MeanSquaredError(*(torch.full((24, k), 0.5, dtype=torch.float64) for k in (2, 1)))


def frozen(model):
    model[0].bias.requires_grad_(False)
    return model


OTHERS = {
    "epochs": ({"epochs": 2}, "epochs = \\[3\\], this run has \\[2\\]"),
    "work": ({"work_per_epoch": 2.0}, "work_per_epoch = 1.0, this run has 2.0"),
    "optimizer": ({"optimizer": OPTIMIZERS["lbfgs"]}, "optimizer = Adam.*this run has LBFGS"),
    "rate": ({"optimizer": partial(torch.optim.Adam, lr=0.5)}, "lr=0.05.*lr=0.5"),
    "group": (
        {"optimizer": lambda p: torch.optim.Adam([{"params": p, "betas": (0.5, 0.9)}], lr=0.05)},
        r"betas=\(0.9, 0.999\).*betas=\(0.5, 0.9\)",
    ),
    "groups": (
        {"optimizer": lambda p: torch.optim.Adam([{"params": [q]} for q in p], lr=0.05)},
        "for 4 tensors.*for 1 tensors",
    ),
    "scheduler": ({"scheduler": None}, "scheduler = LinearLR.*, this run has NoneType"),
    "ramp": ({"scheduler": linear_ramp(0.01, 500)}, "total_iters=2.*total_iters=500"),
    "batches": ({"batches": [1]}, "batches = None, this run has list of 1"),
    "width": ({"model": nn.Linear(2, 1).double()}, "model = Sequential.*this run has Linear"),
    "activation": (
        {"model": nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()},
        r"1 = Tanh\(\), this run has ReLU",
    ),
    "dtype": ({"model": problem()[0].float()}, "parameter 0.weight = .*torch.float64"),
    "frozen": ({"model": frozen(problem()[0])}, r"parameter 0.bias = .*this run has .*frozen"),
    "data": ({"objective": OTHER_DATA}, "network has the loss .*so that objective or data"),
    "objective": (
        {"objective": lambda m: problem()[1](m) * 1.001},
        "network has the loss .*so that objective or data",
    ),
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
    options = {**options, "model": problem()[0], **change}
    untrained, random = values(options["model"]), torch.get_rng_state()
    with pytest.raises(ValueError, match=f"c.pt belongs to another run: .*{reason}.*delete it"):
        train(**options, resume=True)
    assert (tmp_path / "c.pt").read_bytes() == before
    assert same(values(options["model"]), untrained)
    assert torch.equal(torch.get_rng_state(), random)


def batches_of(data, **options):
    return DataLoader(data, **{"batch_size": 8, **options})


def other_targets(data):
    x, y = data.tensors
    return TensorDataset(x, y + 1e-3)


OTHER_BATCHES = {
    "size": lambda data: batches_of(data, batch_size=4),
    "last": lambda data: batches_of(data, drop_last=True),
    "order": lambda data: batches_of(data, shuffle=True),
    "data": lambda data: batches_of(other_targets(data)),
    "fewer": lambda data: batches_of(Subset(data, range(16))),
    "list": lambda data: [*batches_of(data)],
}


@pytest.mark.parametrize("other", OTHER_BATCHES.values(), ids=OTHER_BATCHES)
def test_resume_with_other_batches_is_refused(other, tmp_path):
    model, objective, data = batched_problem()
    options = {"optimizer": OPTIMIZERS["sgd"], "checkpoint": tmp_path / "c.pt", "progress": False}
    train(model, objective, 2, batches=batches_of(data), **options)
    again = train(
        batched_problem()[0], objective, 2, batches=batches_of(data), resume=True, **options
    )
    assert again.status == "completed"
    with pytest.raises(ValueError, match=r"belongs to another run: it has batches = "):
        train(batched_problem()[0], objective, 2, batches=other(data), resume=True, **options)


def test_finished_run_is_extended_with_the_numbers_of_a_longer_one(tmp_path):
    def run(epochs, **options):
        model, objective = problem()
        make = OPTIMIZERS["adam"]
        return train(model, objective, epochs, optimizer=make, progress=False, **options)

    run(3, checkpoint=tmp_path / "c.pt")
    longer = run(6, checkpoint=tmp_path / "c.pt", resume=True)
    assert numbers(longer) == numbers(run(6))


def test_checkpoint_is_not_overwritten_without_resume(tmp_path):
    path = tmp_path / "c.pt"
    lbfgs_run(checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"c\.pt exists: pass resume=True .*delete it"):
        lbfgs_run(checkpoint=path)
    assert path.read_bytes() == before
    other = tmp_path / "notes"
    other.write_text("not a checkpoint")
    with pytest.raises(FileExistsError, match="notes exists: pass resume=True"):
        lbfgs_run(checkpoint=other)


def test_checkpoint_without_a_step_is_in_nobodys_way(tmp_path):
    def wrong(model):
        raise ZeroDivisionError

    options = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 0.0}
    for resume in (False, True):
        with pytest.raises(Killed):
            lbfgs_run(lambda f: at_call(3, f, Killed()), **options, resume=resume)
        assert (tmp_path / "c.pt").exists()
    with pytest.raises(ZeroDivisionError):
        lbfgs_run(lambda f: wrong, **options)
    assert numbers(lbfgs_run(resume=True, **options)) == numbers(lbfgs_run())


def test_relative_checkpoint_stays_where_it_was(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    lbfgs_run(checkpoint="c.pt", callbacks=[lambda state: os.chdir(tmp_path / "other")])
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["c.pt"]
    assert not [*(tmp_path / "other").iterdir()]


def test_seconds_go_on_from_those_before_an_interruption(tmp_path, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr("kanlib.training.snapshot.time.perf_counter", lambda: float(next(clock)))
    options = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 0.0}
    with pytest.raises(Killed):
        lbfgs_run(lambda f: at_call(9, f, Killed()), **options)
    before = load_checkpoint(tmp_path / "c.pt")["seconds"]
    run = lbfgs_run(resume=True, **options)
    assert before > 3
    assert run.history.seconds == sorted(run.history.seconds)
    assert run.history.seconds[-1] > before
    assert run.levels[0].seconds >= run.history.seconds[-1]


NUMPY = {
    "rate": {"optimizer": partial(torch.optim.Adam, lr=np.float64(0.05))},
    "betas": {"optimizer": partial(torch.optim.Adam, betas=(np.float64(0.5), np.float64(0.9)))},
    "lbfgs": {"optimizer": partial(torch.optim.LBFGS, lr=np.float64(0.5), max_iter=np.int64(3))},
    "step": {"scheduler": lambda o: StepLR(o, np.int64(2), gamma=np.float64(0.5))},
    "lambda": {"scheduler": lambda o: LambdaLR(o, lambda k: np.float64(0.5) ** k)},
    "ramp": {"scheduler": linear_ramp(np.float64(1e-3), np.int64(2))},
    "work": {"work_per_epoch": np.float64(2.0)},
}


@pytest.mark.parametrize("options", NUMPY.values(), ids=NUMPY)
def test_numbers_of_numpy_are_saved_and_resumed(options, tmp_path):
    def run(wrap=lambda f: f, **more):
        model, objective = problem()
        given = {"optimizer": OPTIMIZERS["adam"], **options, **more}
        return train(model, wrap(objective), 5, progress=False, **given)

    whole = run()
    more = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 0.0}
    with pytest.raises(Killed):
        run(lambda f: at_call(7, f, Killed()), **more)
    assert numbers(run(**more, resume=True)) == numbers(whole)


def test_state_that_could_not_be_read_again_is_known_before_it_is_needed(tmp_path):
    class Odd(torch.optim.SGD):
        def step(self, closure):
            loss = super().step(closure)
            self.state["odd"] = {"object": pytest}
            return loss

        def state_dict(self):
            return {**super().state_dict(), "odd": type("Odd", (), {}) if self.state else None}

    model, objective = problem()
    with pytest.raises((TypeError, AttributeError)):
        train(model, objective, 5, optimizer=Odd, checkpoint=tmp_path / "c", checkpoint_every=0.0)


@pytest.mark.parametrize("make", [torch.optim.NAdam, torch.optim.RAdam, torch.optim.ASGD])
def test_resumed_optimizer_keeps_the_types_of_its_state(make, tmp_path):
    def run(wrap=lambda f: f, **options):
        model, objective = problem()
        return train(model, wrap(objective), 6, optimizer=make, progress=False, **options)

    whole = run()
    options = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 0.0}
    with pytest.raises(Killed):
        run(lambda f: at_call(8, f, Killed()), **options)
    assert numbers(run(resume=True, **options)) == numbers(whole)


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


def test_stopped_run_is_resumed_where_it_stopped(tmp_path):
    def stop(state):
        if state.epoch == 3:
            raise Stop("three are enough")

    options = {"callbacks": [stop], "checkpoint": tmp_path / "c.pt"}
    model, objective = problem()
    make = OPTIMIZERS["sgd"]
    whole = train(model, objective, 9, optimizer=make, progress=False, **options)
    model, objective = problem()
    again = train(model, objective, 9, optimizer=make, progress=False, **options, resume=True)
    assert numbers(again) == numbers(whole)
    assert same(values(again.model), values(whole.model))


class Lowest:
    """A callback that remembers where the loss was lowest."""

    def __init__(self):
        self.epoch, self.loss = 0, math.inf

    def __call__(self, state):
        if state.history.loss[-1] < self.loss:
            self.epoch, self.loss = state.epoch, state.history.loss[-1]

    def state_dict(self):
        return {"epoch": self.epoch, "loss": self.loss}

    def load_state_dict(self, state):
        self.epoch, self.loss = state["epoch"], state["loss"]


def test_state_of_a_callback_is_in_the_checkpoint(tmp_path):
    options = {"optimizer": OPTIMIZERS["sgd"], "checkpoint": tmp_path / "c.pt", "progress": False}
    plain, one, two = (lambda state: None), Lowest(), Lowest()
    two.loss = 1e-30  # lower than any
    train(*problem(), 3, **options, callbacks=[plain, one, two])
    options["resume"] = True
    fresh = [Lowest(), Lowest()]
    train(*problem(), 3, **options, callbacks=[fresh[0], plain, fresh[1]])
    assert [(c.epoch, c.loss) for c in fresh] == [(3, one.loss), (0, 1e-30)]
    with pytest.raises(ValueError, match=r"belongs to another run: it has callbacks = .*Lowest"):
        train(*problem(), 3, **options, callbacks=[plain])
    fresh = [Lowest(), Lowest()]
    with pytest.raises(ValueError, match="objective or data are others"):
        train(problem()[0], OTHER_DATA, 3, **options, callbacks=fresh)
    assert [(c.epoch, c.loss) for c in fresh] == 2 * [(0, math.inf)]  # as if nothing was read


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


class Deaf(torch.optim.SGD):
    def step(self, closure=None):
        pass


class Closed(torch.optim.SGD):
    def step(self):
        pass


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
    "negative epochs": (lambda m: {"epochs": -1}, ValueError, "epochs must be at least 0, got -1"),
    "half epochs": (lambda m: {"epochs": 1.5}, TypeError, "epochs must be an integer.*1.5"),
    "true epochs": (lambda m: {"epochs": True}, TypeError, "epochs must be an integer.*True"),
    "optimizer": (
        lambda m: {"optimizer": adam(m)},
        TypeError,
        "optimizer must be a function .*partial.*got an Adam",
    ),
    "number for an optimizer": (
        lambda m: {"optimizer": 1e-3},
        TypeError,
        "optimizer must be .*got 0.001",
    ),
    "other parameters": (
        lambda m: {"optimizer": lambda p: torch.optim.Adam(nn.Linear(1, 1).parameters())},
        ValueError,
        "optimizer Adam holds no parameter of this model.*build it from the parameters",
    ),
    "no closure": (
        lambda m: {"optimizer": Deaf},
        TypeError,
        "optimizer must call the closure .*Deaf does not",
    ),
    "step without argument": (
        lambda m: {"optimizer": Closed},
        TypeError,
        r"optimizer must have step\(closure\).*Closed.step takes no argument",
    ),
    "other scheduler": (
        lambda m: {"optimizer": OPTIMIZERS["sgd"], "scheduler": lambda o: StepLR(adam(m), 1)},
        ValueError,
        "scheduler StepLR was built of another optimizer.*build it from",
    ),
    "option": (
        lambda m: {"metrics_evry": 2},
        TypeError,
        "there is no option 'metrics_evry': did you mean metrics_every",
    ),
    "text for batches": (
        lambda m: {"batches": "ab"},
        TypeError,
        "batches must be a DataLoader, or a list of batches.*got 'ab'",
    ),
    "number for batches": (lambda m: {"batches": 5}, TypeError, "batches must be .*got 5"),
    "tensor for batches": (
        lambda m: {"batches": torch.zeros(3, 2)},
        TypeError,
        "batches must be .*got a Tensor",
    ),
    "list of metrics": (
        lambda m: {"metrics": [value]},
        TypeError,
        "metrics must be a dict of names and functions .*got a list",
    ),
    "function for metrics": (
        lambda m: {"metrics": value},
        TypeError,
        "metrics must be a dict .*got a function",
    ),
    "number in metrics": (
        lambda m: {"metrics": {"error": 1.0}},
        TypeError,
        "metrics.'error'. must be a function, got 1.0",
    ),
    "function for callbacks": (
        lambda m: {"callbacks": value},
        TypeError,
        "callbacks must be a list of functions, got a function",
    ),
    "half metrics_every": (
        lambda m: {"metrics_every": 1.5},
        TypeError,
        "metrics_every must be an integer.*got 1.5",
    ),
    "true metrics_every": (
        lambda m: {"metrics_every": True},
        TypeError,
        "metrics_every must be an integer.*got True",
    ),
    "class of optimizers": (
        lambda m: {"optimizer": GaussNewton},
        TypeError,
        r"optimizer must be .*got the class GaussNewton: write GaussNewton\(...\)",
    ),
    "class of iterations": (
        lambda m: {"optimizer": Iteration},
        TypeError,
        "optimizer must be .*got the class Iteration: write",
    ),
    "class of schedulers": (
        lambda m: {"scheduler": linear_ramp},
        TypeError,
        "scheduler must be .*got the class linear_ramp: write",
    ),
    "class of callbacks": (
        lambda m: {"callbacks": [MeanSquaredError]},
        TypeError,
        r"callbacks\[0\] must be a function, got the class MeanSquaredError: write",
    ),
    "class of objectives": (
        lambda m: {"objective": MeanSquaredError},
        TypeError,
        "objective must be .*got the class MeanSquaredError: write",
    ),
    "class of models": (
        lambda m: {"model": KAN},
        TypeError,
        "model must be an nn.Module, got .*KAN.*build the network",
    ),
    "integer loss": (
        lambda m: {"objective": lambda m: torch.tensor(1)},
        ValueError,
        "objective must return a scalar tensor.*got a Tensor of shape",
    ),
    "checkpoint": (
        lambda m: {"checkpoint": True},
        TypeError,
        "checkpoint must be the path of a file.*got True",
    ),
    "negative checkpoint_every": (
        lambda m: {"checkpoint_every": -1},
        ValueError,
        "checkpoint_every must be a finite number of at least 0, got -1",
    ),
    "nan checkpoint_every": (
        lambda m: {"checkpoint_every": math.nan},
        ValueError,
        "checkpoint_every must be .*got nan",
    ),
    "resume": (
        lambda m: {"resume": "no"},
        TypeError,
        "resume must be True or False, got 'no'",
    ),
    "metric": (
        lambda m: {"metrics": {"error": vector}},
        TypeError,
        r"metric 'error' must return a number, got a Tensor of shape \(4, 1\): take a mean",
    ),
    "factory of nothing": (
        lambda m: {"optimizer": lambda p: None},
        TypeError,
        "optimizer must be .*it returned None",
    ),
    "scheduler": (
        lambda m: {"scheduler": StepLR(adam(m), 1)},
        TypeError,
        "scheduler must be a function .*got a StepLR",
    ),
    "scheduler of nothing": (
        lambda m: {"scheduler": lambda o: None},
        TypeError,
        "scheduler must be .*it returned None",
    ),
    "plateau": (
        lambda m: {"scheduler": ReduceLROnPlateau},
        TypeError,
        "whose step.. takes no argument.*it returned a ReduceLROnPlateau",
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
        train(**{"model": model} | options | change(model))
    assert same(values(model), before)
    assert not tqdm._instances


RATES = {
    "zero": ({"initial_lr": 0.0}, ValueError, "initial_lr must be a finite number above 0, got 0"),
    "nan": ({"initial_lr": math.nan}, ValueError, "initial_lr must be .*got nan"),
    "text": ({"initial_lr": "1"}, TypeError, "initial_lr must be .*got '1'"),
    "no steps": ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
    "nan steps": ({"steps": math.nan}, TypeError, "steps must be an integer.*got nan"),
    "half steps": ({"steps": 2.5}, TypeError, "steps must be an integer.*got 2.5"),
    "true steps": ({"steps": True}, TypeError, "steps must be an integer.*got True"),
}
CYCLES = {
    "gamma 0": ({"gamma": 0.0}, ValueError, "gamma must be .*above 0, got 0.0"),
    "gamma 1.1": ({"gamma": 1.1}, ValueError, "gamma must be at most 1, got 1.1"),
    "gamma nan": ({"gamma": math.nan}, ValueError, "gamma must be .*got nan"),
}


@pytest.mark.parametrize(("change", "error", "text"), RATES.values(), ids=RATES)
def test_schedulers_name_the_mistake(change, error, text):
    with pytest.raises(error, match=text):
        linear_ramp(**{"initial_lr": 1e-3, "steps": 10, **change})
    with pytest.raises(error, match=text):
        exponential_cycles(**{"initial_lr": 1e-3, "steps": 10, "gamma": 0.9, **change})


@pytest.mark.parametrize(("change", "error", "text"), CYCLES.values(), ids=CYCLES)
def test_cycles_name_a_wrong_decay(change, error, text):
    with pytest.raises(error, match=text):
        exponential_cycles(**{"initial_lr": 1e-3, "steps": 10, "gamma": 0.9, **change})


@pytest.mark.parametrize("schedule", [linear_ramp(1e-3, 5), exponential_cycles(1e-3, 5, 0.9)])
def test_schedulers_can_be_sent_to_other_processes(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule


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
    pytest.importorskip("IPython")
    pytest.importorskip("ipywidgets")
    script = """
        import sys, types, warnings
        import IPython
        sys.modules["ipykernel.zmqshell"] = types.ModuleType("zmqshell")  # as inside a kernel
        sys.modules["ipywidgets"] = None if sys.argv[1] == "without" else __import__("ipywidgets")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            from kanlib.training import trainer
        print([w.category.__name__ for w in caught if "Tqdm" in w.category.__name__])
        print(trainer.tqdm.__mro__[1].__module__)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]

    def answer(widgets):
        done = subprocess.run([*command, widgets], capture_output=True, text=True, check=True)
        return done.stdout.split("\n")[:2]

    assert answer("without") == ["[]", "tqdm.std"]
    assert answer("with") == ["[]", "tqdm.notebook"]


@pytest.mark.parametrize("optimizer", [GaussNewton(), QuasiNewton()], ids=["gn", "qn"])
def test_what_no_optimizer_changes_is_told_of_bound_optimizers_too(optimizer):
    torch.manual_seed(0)
    x = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    k = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    loss = ResidualLoss(data=Term(lambda u, x: u.value - k * x, x))
    with pytest.warns(RuntimeWarning, match="neither in the model nor in the optimizer"):
        train(KAN([1, 1], dtype=torch.float64), loss, 1, optimizer=optimizer, progress=False)


@pytest.mark.parametrize("optimizer", [GaussNewton(), QuasiNewton()], ids=["gn", "qn"])
def test_evaluations_count_the_step_that_ends_a_level(optimizer):
    torch.manual_seed(0)
    x = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    bound = []

    class Watched:
        def bind(self, model, objective):
            bound.append(optimizer.bind(model, objective))
            return bound[-1]

    loss = MeanSquaredError(x, torch.sin(3 * x))
    model = KAN([1, 1], n=2, dtype=torch.float64)
    run = train(model, loss, 200, optimizer=Watched(), progress=False)
    assert run.levels[0].message
    assert run.levels[0].evaluations == bound[0].evaluations + 1  # and the loss at the end


def test_terms_of_a_history_have_its_length_though_a_name_changes(tmp_path):
    x = torch.linspace(0, 1, 9)[:, None]
    for name, epochs in (("one", 2), ("other", 4)):
        loss = ResidualLoss(**{name: Term(lambda u, x: u.value - x, x)})
        torch.manual_seed(0)
        run = train(
            KAN([1, 1]),
            loss,
            epochs,
            optimizer=partial(torch.optim.Adam, lr=1e-3),
            checkpoint=tmp_path / "c.pt",
            resume=name == "other",
            progress=False,
        )
    assert {len(values) for values in run.history.terms.values()} == {len(run.history)}
