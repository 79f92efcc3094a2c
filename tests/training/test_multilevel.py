"""Several levels: schedules, work, equal losses at a switch, carried state, Ctrl-C, kill -9."""

import math
import os
import random
import signal
import threading
import time
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kanlib import (
    KAN,
    MLP,
    KnotGrid,
    MeanSquaredError,
    Schedule,
    linear_ramp,
    train,
    train_multilevel,
)
from kanlib.nn.ensemble import Ensemble
from kanlib.training.adaptive import refine_adaptively

sgd = partial(torch.optim.SGD, lr=0.05)
adam = partial(torch.optim.Adam, lr=0.02)
lbfgs = partial(torch.optim.LBFGS, max_iter=3, line_search_fn="strong_wolfe")


def network(seed=0, **options):
    torch.manual_seed(seed)
    return KAN([2, 2, 1], n=3, first="affine", dtype=torch.float64, **options)


def data():
    x = torch.rand(30, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, torch.sin(6 * x[:, :1]) * x[:, 1:]


def run(schedule, *, wrap=lambda f: f, model=None, optimizer=sgd, **options):
    objective = wrap(MeanSquaredError(*data()))
    model = model or network()
    return train_multilevel(
        model, objective, schedule, optimizer=optimizer, progress=False, **options
    )


def values(model):
    return [p.detach().clone() for p in model.parameters()]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def numbers(run):
    """Return all that a resumed run must share with an uninterrupted one: everything but time."""
    history = vars(run.history) | {"seconds": None}
    levels = [vars(level) | {"seconds": None} for level in run.levels]
    return history, levels, run.status, run.message


def at_call(number, function, error):
    """Return the function, but raise ``error`` instead at that call, counted from 1."""
    calls = iter(range(1, 10**9))

    def wrapped(*arguments):
        if next(calls) == number:
            raise error
        return function(*arguments)

    return wrapped


class Killed(BaseException):
    """Stands for kill -9 inside one process."""


# Schedule and work


@pytest.mark.parametrize(
    ("epochs", "work"),
    [
        ([32, 16, 8, 4], [32, 32, 32, 32]),
        ([128, 0, 0, 0], [128, 0, 0, 0]),
        ([0, 0, 0, 16], [0, 0, 0, 128]),
        ([3], [3]),
    ],
)
def test_work_of_the_schedules_of_table_2(epochs, work):
    finished = run(epochs)
    assert [level.work for level in finished.levels] == work
    assert finished.work == finished.history.work[-1] == sum(work) == Schedule(epochs).work
    assert [level.epochs for level in finished.levels] == epochs
    assert [level.n for level in finished.levels] == [3 * 2**k for k in range(len(epochs))]
    # 2 x 2 weights and 2 biases before 2 splines of n + 3 coefficients
    assert [v.num_parameters for v in finished.levels] == [
        6 + 2 * (v.n + 3) for v in finished.levels
    ]


@pytest.mark.parametrize("epochs", [[], [1, -1], [1.0], [True], "32", None, 5, [np.nan]], ids=repr)
def test_schedule_names_the_mistake(epochs):
    with pytest.raises(ValueError, match="epochs must be a list of integers of at least 0, one"):
        Schedule(epochs)
    with pytest.raises(ValueError, match="epochs must be a list of integers of at least 0, one"):
        run(epochs)


def test_schedule_cannot_be_changed():
    epochs = [1, 2]
    schedule = Schedule(epochs)
    epochs.append(3)
    assert schedule.epochs == (1, 2)
    assert schedule.num_levels == 2
    with pytest.raises(AttributeError):
        schedule.epochs = (1,)


def test_work_follows_any_refinement():
    def thirds(model):
        t = next(model.spline_layers).grid.breakpoints
        left, h = t[:-1], t[1:] - t[:-1]
        points = torch.cat([left, left + h / 3, left + 2 * h / 3, t[-1:]])
        return model.refine(points.sort().values)

    finished = run([2, 2, 1], refine=thirds)
    assert [level.n for level in finished.levels] == [3, 9, 27]
    assert [level.work for level in finished.levels] == [2, 6, 9]


# What a run records


def switches(finished):
    """Return the pairs of losses (end of a level, beginning of the next)."""
    loss, level = finished.history.loss, finished.history.level
    return [(loss[i], loss[i + 1]) for i in range(len(loss) - 1) if level[i] != level[i + 1]]


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("optimizer", [adam, lbfgs], ids=["adam", "lbfgs"])
@pytest.mark.parametrize("state", ["fresh", "carried"])
def test_loss_does_not_change_at_a_refinement(basis, optimizer, state):
    model = network(basis=basis)
    finished = run([3, 0, 2, 2], model=model, optimizer=optimizer, optimizer_state=state)
    assert len(switches(finished)) == 3
    for before, after in switches(finished):
        assert after == pytest.approx(before, rel=1e-12)
    assert finished.loss < finished.history.loss[0]


def test_history_counts_epochs_of_each_level():
    history = run([2, 0, 1]).history
    assert history.level == [0, 0, 0, 1, 2, 2]
    assert history.epoch == [0, 1, 2, 0, 0, 1]
    assert history.work == [0, 1, 2, 2, 2, 6]
    assert history.evaluations == sorted(history.evaluations)


@pytest.mark.parametrize("optimizer", [adam, lbfgs], ids=["adam", "lbfgs"])
def test_train_multilevel_equals_algorithm_1_by_hand(optimizer):
    model, objective, losses = network(), MeanSquaredError(*data()), []
    for level, epochs in enumerate([3, 2, 2]):
        if level:
            model = model.refine()
        single = train(model, objective, epochs, optimizer=optimizer, progress=False)
        losses += single.history.loss
    finished = run([3, 2, 2], optimizer=optimizer)
    assert finished.history.loss == losses
    assert same(values(finished.model), values(model))


def test_train_multilevel_trains_the_given_model_on_level_0():
    model = network()
    finished = run([4, 0], model=model)
    x, _ = data()
    assert model.n == 3
    assert finished.model.n == 6
    torch.testing.assert_close(finished.model(x), model(x), rtol=1e-12, atol=1e-14)


def test_train_multilevel_works_in_float32():
    torch.manual_seed(0)
    x, y = (t.float() for t in data())
    model = KAN([2, 2, 1], n=3, first="affine")
    finished = train_multilevel(model, MeanSquaredError(x, y), [3, 3], progress=False)
    (pair,) = switches(finished)
    assert pair[1] == pytest.approx(pair[0], rel=1e-5)
    assert {p.dtype for p in finished.model.parameters()} == {torch.float32}


def test_metrics_hold_the_level_they_belong_to():
    finished = run([2, 1], metrics={"n": lambda model: model.n}, metrics_every=9)
    rows = [(row["level"], row["epoch"], row["n"]) for row in finished.history.metrics]
    assert rows == [(0, 0, 3), (0, 2, 3), (1, 0, 6), (1, 1, 6)]


def test_linear_ramp_restarts_on_each_level():
    finished = run([4, 3], optimizer=adam, scheduler=linear_ramp(0.004, 2))
    rates = [0.004, 0.012, 0.02, 0.02, 0.02, 0.004, 0.012, 0.02, 0.02]
    np.testing.assert_allclose(finished.history.learning_rate, rates, rtol=1e-12)


def test_batches_work_on_every_level():
    loader = DataLoader(TensorDataset(*data()), batch_size=15)

    def objective(model, batch):
        return MeanSquaredError(*batch)(model)

    finished = train_multilevel(
        network(), objective, [2, 1], optimizer=sgd, batches=loader, progress=False
    )
    assert finished.history.epoch == [0, 0, 1, 1, 2, 0, 0, 1]
    assert finished.work == 4


@pytest.mark.parametrize("state", ["fresh", "carried"])
@pytest.mark.parametrize("position", [0, 1])
def test_frozen_layers_keep_their_function_on_finer_levels(position, state):
    x, _ = data()
    model = network()
    frozen = model.layers[position].requires_grad_(False)
    before = [layer(x).detach() for layer in model.layers]
    finished = run([2, 2, 2], model=model, optimizer=adam, optimizer_state=state)
    after = [layer(x).detach() for layer in finished.model.layers]
    torch.testing.assert_close(after[position], before[position], rtol=1e-12, atol=1e-14)
    assert (after[1 - position] - before[1 - position]).abs().max() > 1e-3
    fine = finished.model.layers[position]
    assert type(fine) is type(frozen)
    assert not any(p.requires_grad for p in fine.parameters())


# Fresh or carried optimizer state


def states_at_the_start(optimizer_state, make):
    """Return the number of state entries of the optimizer at the start of each level."""
    made = []

    def remembering(parameters):
        made.append(make(parameters))
        return made[-1]

    sizes = []
    objective = MeanSquaredError(*data())
    levels = set()

    def looking(model):
        if model.n not in levels:
            levels.add(model.n)
            sizes.append(len(made[-1].state))
        return objective(model)

    train_multilevel(
        network(),
        looking,
        [2, 2],
        optimizer=remembering,
        optimizer_state=optimizer_state,
        progress=False,
    )
    return sizes


def test_optimizer_state_is_carried_only_on_request():
    assert states_at_the_start("fresh", adam) == [0, 0]
    assert states_at_the_start("carried", adam) == [0, 3]
    assert states_at_the_start("carried", lbfgs)[1] == 1


def test_optimizer_state_without_rule_is_refused_with_the_remedy():
    make = partial(torch.optim.Adadelta, lr=0.1)
    with pytest.raises(ValueError, match=r"transfer the state 'acc_delta'.*'fresh'"):
        run([1, 1], optimizer=make, optimizer_state="carried")
    assert run([1, 1], optimizer=make).status == "completed"


def test_optimizer_state_names_the_mistake():
    with pytest.raises(ValueError, match=r"must be one of \('fresh', 'carried'\), got 'stale'"):
        run([1], optimizer_state="stale")


@pytest.mark.parametrize("model", [MLP([2, 3, 1]), nn.Linear(2, 1), None], ids=repr)
def test_model_without_grids_is_refused(model):
    with pytest.raises(TypeError, match=f"model must be a KAN.*got {type(model).__name__}: use"):
        train_multilevel(model, lambda m: m, [1, 1])


# Divergence and Ctrl-C


def test_divergence_on_a_fine_level_ends_the_run_there():
    def poisoned(objective):
        fine = []

        def wrapped(model):
            fine.extend([1] if model.n == 6 else [])
            return objective(model) * (math.nan if len(fine) == 3 else 1.0)

        return wrapped

    whole = run([3, 5, 5])
    with pytest.warns(RuntimeWarning, match="level 1, epoch 2, step 6"):
        finished = run([3, 5, 5], wrap=poisoned)
    assert finished.status == "diverged"
    assert [level.epochs for level in finished.levels] == [3, 2]
    assert finished.model.n == 6
    assert finished.history.loss == [*whole.history.loss[:6], whole.history.loss[5]]


def test_interrupt_at_any_evaluation_leaves_a_usable_run():
    whole = run([2, 2, 1])
    objective = MeanSquaredError(*data())
    for number in range(1, whole.history.evaluations[-1] + 1):
        finished = run([2, 2, 1], wrap=lambda f, n=number: at_call(n, f, KeyboardInterrupt()))
        level, n = len(finished.levels) - 1, finished.model.n
        assert finished.status == "interrupted"
        assert n == 3 * 2**level
        steps = len(finished.history)
        assert finished.history.loss[:-1] == whole.history.loss[: steps - 1]
        assert finished.loss == float(objective(finished.model).detach())
        assert finished.loss == whole.history.loss[steps - 1]
        assert finished.levels[-1].n == n
        assert finished.work == finished.history.work[-1]


def test_interrupt_during_a_refinement_leaves_the_coarser_level():
    refine = at_call(2, KAN.refine, KeyboardInterrupt())
    finished = run([2, 2, 2], refine=refine)
    assert finished.status == "interrupted"
    assert finished.message == "at level 1, epoch 2"
    assert finished.model.n == 6
    assert len(finished.levels) == 2


# Resuming

CASES = {
    "coarse": ([4, 0, 0], "fresh"),
    "fine": ([0, 0, 2], "fresh"),
    "multilevel": ([2, 1, 2], "fresh"),
    "carried": ([2, 1, 2], "carried"),
}
OPTIMIZERS = {"adam": adam, "lbfgs": lbfgs}
JOBS = [(case, name) for case in CASES for name in OPTIMIZERS]


def job(case, name, **options):
    epochs, state = CASES[case]
    optimizer = OPTIMIZERS[name]
    return run(epochs, optimizer=optimizer, optimizer_state=state, checkpoint_every=0.0, **options)


@pytest.mark.parametrize(("case", "name"), JOBS)
def test_resume_after_a_kill_at_any_evaluation_ends_with_the_same_numbers(case, name, tmp_path):
    whole = job(case, name)
    for number in range(1, whole.history.evaluations[-1] + 1):
        checkpoint = tmp_path / f"{number}.pt"
        with pytest.raises(Killed):
            job(case, name, wrap=lambda f, n=number: at_call(n, f, Killed()), checkpoint=checkpoint)
        again = job(case, name, checkpoint=checkpoint, resume=True)
        assert numbers(again) == numbers(whole)
        assert same(values(again.model), values(whole.model))


def test_resume_after_a_kill_at_a_refinement_ends_with_the_same_numbers(tmp_path):
    whole = job("carried", "lbfgs")
    for number in (1, 2):
        options = {"checkpoint": tmp_path / f"{number}.pt"}
        with pytest.raises(Killed):
            job("carried", "lbfgs", refine=at_call(number, KAN.refine, Killed()), **options)
        assert numbers(job("carried", "lbfgs", resume=True, **options)) == numbers(whole)


def test_resume_of_a_finished_run_returns_it(tmp_path):
    options = {"checkpoint": tmp_path / "c.pt"}
    whole = job("multilevel", "lbfgs", **options)
    again = job("multilevel", "lbfgs", resume=True, **options)
    assert numbers(again) == numbers(whole)
    assert same(values(again.model), values(whole.model))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schedule": [2, 1]}, r"epochs = \[1, 1\], this run has \[2, 1\]"),
        ({"schedule": [1]}, r"epochs = \[1, 1\], this run has \[1\]"),
        ({"optimizer_state": "carried"}, "optimizer_state = fresh, this run has carried"),
        ({"model": network(extension="clamp")}, "'extension': 'linear'.*'extension': 'clamp'"),
        ({"model": KAN([2, 2, 1], n=5, first="affine").double()}, "'n': 3.*'n': 5"),
        ({"wrap": lambda f: lambda model: 1.01 * f(model)}, "the loss .* objective or data"),
    ],
    ids=["schedule", "levels", "state", "extension", "intervals", "objective"],
)
def test_resume_with_other_settings_is_refused(change, reason, tmp_path):
    options = {"schedule": [1, 1], "checkpoint": tmp_path / "c.pt"}
    run(**options)
    with pytest.raises(ValueError, match=rf"c\.pt belongs to another run: .*{reason}.*; delete"):
        run(**{**options, **change}, resume=True)


def adaptively(model):
    return refine_adaptively(model, model.n + 3)


def adaptively_per_input(model):
    return refine_adaptively(model, model.n + 3, per="input")


def to_relu(model):
    return model.refine().to_basis("relu")


def freely(model):
    free = any(layer.knots is not None for layer in model.spline_layers)
    return model.refine() if free else model.refine().free("input")


@pytest.mark.parametrize("refine", [adaptively, adaptively_per_input, to_relu, freely])
@pytest.mark.parametrize("start", [lambda m: m, lambda m: m.free("layer")], ids=["fixed", "free"])
def test_resume_after_any_refinement_ends_with_the_same_numbers(refine, start, tmp_path):
    def job(wrap=lambda f: f, **options):
        given = {"model": start(network()), "optimizer": adam, "refine": refine, **options}
        return run([3, 2, 2], wrap=wrap, checkpoint_every=0.0, **given)

    whole = job()
    for number in range(4, whole.history.evaluations[-1] + 1, 3):
        options = {"checkpoint": tmp_path / f"{number}.pt"}
        with pytest.raises(Killed):
            job(lambda f, n=number: at_call(n, f, Killed()), **options)
        again = job(resume=True, **options)
        assert numbers(again) == numbers(whole)
        assert same(values(again.model), values(whole.model))
        for left, right in zip(again.model.spline_layers, whole.model.spline_layers, strict=True):
            assert all(map(KnotGrid.__eq__, left.grids, right.grids))
            assert left.basis == right.basis


def test_ensemble_is_refined_by_default_and_resumed(tmp_path):
    def job(wrap=lambda f: f, **options):
        model = Ensemble([network(seed) for seed in range(2)])
        x, y = data()
        objective = wrap(lambda m: (m(x) - y).square().mean())
        return train_multilevel(
            model,
            objective,
            [2, 2],
            optimizer=adam,
            progress=False,
            checkpoint_every=0.0,
            **options,
        )

    whole = job()
    assert whole.model.n == 6
    with pytest.raises(Killed):
        job(lambda f: at_call(8, f, Killed()), checkpoint=tmp_path / "c.pt")
    again = job(checkpoint=tmp_path / "c.pt", resume=True)
    assert numbers(again) == numbers(whole)
    assert same(values(again.model), values(whole.model))


def test_extended_schedule_goes_on_with_the_numbers_of_the_longer_one(tmp_path):
    run([2, 1], checkpoint=tmp_path / "c.pt")
    for schedule in ([2, 3], [2, 3, 2]):
        longer = run(schedule, checkpoint=tmp_path / "c.pt", resume=True)
        assert numbers(longer) == numbers(run(schedule))


def test_frozen_parameters_stay_so_on_finer_grids(tmp_path):
    def job(wrap=lambda f: f, **options):
        model = network()
        model.layers[0].requires_grad_(False)
        return run([1, 3], wrap=wrap, model=model, checkpoint_every=0.0, **options)

    whole = job()
    with pytest.raises(Killed):
        job(lambda f: at_call(7, f, Killed()), checkpoint=tmp_path / "c.pt")
    again = job(checkpoint=tmp_path / "c.pt", resume=True)
    assert numbers(again) == numbers(whole)
    assert not again.model.layers[0].weight.requires_grad


class Scaled(KAN):
    """A network with a number of its own beside the layers."""

    def __init__(self):
        super().__init__([2, 1], n=3, dtype=torch.float64)
        self.k = nn.Parameter(torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("state", ["fresh", "carried"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameter_of_the_network_is_trained_on_all_levels(name, state):
    x, y = data()
    model = Scaled()
    finished = train_multilevel(
        model,
        lambda m: (m(x) - m.k * y).square().mean() + (m.k - 3.0).square(),
        [3, 3],
        optimizer=OPTIMIZERS[name],
        optimizer_state=state,
        progress=False,
    )
    assert finished.status == "completed"
    assert float(finished.model.k.detach()) > float(model.k.detach()) > 1.0


def test_tensor_beside_the_network_is_carried():
    x, y = data()
    for make in (torch.optim.Adam, lbfgs):
        k = nn.Parameter(torch.ones((), dtype=torch.float64))
        train_multilevel(
            network(),
            lambda m, k=k: (m(x) - k * y).square().mean() + (k - 3.0).square(),
            [2, 2],
            optimizer=lambda p, k=k, make=make: make([*p, k]),
            optimizer_state="carried",
            progress=False,
        )
        assert float(k.detach()) > 1.0


def test_residual_that_reads_the_first_network_is_told():
    x, y = data()
    model = network()
    model.k = nn.Parameter(torch.ones((), dtype=torch.float64))
    with pytest.warns(RuntimeWarning, match=r"shapes \[\(\)\] at level 1 .*model.k = k") as caught:
        train_multilevel(
            model,
            lambda m: (m(x) - model.k * y).square().mean(),
            [1, 1],
            optimizer=adam,
            progress=False,
        )
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("refine", "kind", "text"),
    [
        (lambda model: None, TypeError, "refine must return the finer model, got None"),
        (lambda model: model, ValueError, "refine must return a new, finer .*got the same model"),
        (lambda model: network(), ValueError, "finer model, got n = 3 after n = 3: use KAN.refine"),
        (None, TypeError, "refine must be a function .*got None"),
    ],
)
def test_refinement_that_is_none_is_named(refine, kind, text):
    with pytest.raises(kind, match=text):
        run([1, 1], refine=refine)


def test_optimizer_of_the_coarse_network_is_refused_on_the_next_level():
    model = network()
    with pytest.raises(ValueError, match="optimizer Adam holds no parameter of this model"):
        run([1, 1], model=model, optimizer=lambda p: torch.optim.Adam(model.parameters()))


def test_schedule_takes_integers_of_numpy():
    assert run(np.array([2, 1])).work == 4
    assert train(network(), MeanSquaredError(*data()), np.int64(2), progress=False).work == 2


# Real signals to real processes

FORKS = torch.multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["kanlib", "torch._dynamo"])


def all_jobs(folder, delay):
    """Run all jobs from their checkpoints, but die after a delay; leave the numbers in a file."""
    torch.set_num_threads(1)
    if delay:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

    def slow(objective):
        return lambda model: time.sleep(0.005) or objective(model)

    runs = []
    for case, name in JOBS:
        checkpoint = folder / f"{case}-{name}.pt"
        runs.append(numbers(job(case, name, wrap=slow, checkpoint=checkpoint, resume=True)))
    (folder / "numbers").write_text(repr(runs))


@pytest.mark.slow
def test_resume_after_kill_9_at_random_moments_ends_with_the_same_numbers(tmp_path):
    rng = random.Random(0)
    codes = []
    for delay in [*(rng.uniform(0.05, 0.3) for _ in range(8)), None]:
        process = FORKS.Process(target=all_jobs, args=(tmp_path, delay))
        process.start()
        process.join()
        codes.append(process.exitcode)
    assert codes.count(-signal.SIGKILL) >= 4
    assert codes[-1] == 0
    whole = [numbers(job(case, name)) for case, name in JOBS]
    assert (tmp_path / "numbers").read_text() == repr(whole)


def interrupted_by_a_signal(queue):
    torch.set_num_threads(1)

    def wrap(objective):
        calls = []

        def counting(model):
            calls.append(1)
            if len(calls) == 40:
                os.kill(os.getpid(), signal.SIGINT)
            return objective(model)

        return counting

    finished = run([4, 10**6], optimizer=lbfgs, wrap=wrap)
    loss = float(MeanSquaredError(*data())(finished.model).detach())
    queue.put((finished.status, finished.model.n, finished.history.loss, loss))


def test_signal_of_ctrl_c_leaves_a_usable_run():
    queue = FORKS.SimpleQueue()
    process = FORKS.Process(target=interrupted_by_a_signal, args=(queue,))
    process.start()
    status, n, losses, loss = queue.get()
    process.join()
    assert (status, n) == ("interrupted", 6)
    assert losses[-1] == loss == min(losses)
