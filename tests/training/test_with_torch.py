"""Training with what else PyTorch has: accumulation, pruning, averages, processes."""

import copy

import pytest
import torch
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import prune
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, TensorDataset

from kanlib import KAN, GaussNewton, MeanSquaredError, lbfgs, train

F64 = {"dtype": torch.float64}


def data(count=60):
    x = torch.rand(count, 2, generator=torch.Generator().manual_seed(0), **F64)
    return x, torch.sin(5 * x[:, :1]) * x[:, 1:]


def network():
    torch.manual_seed(1)
    return KAN([2, 3, 1], n=4, **F64)


def test_accumulated_gradients_are_those_of_all_points():
    model, (x, y) = network(), data()
    MeanSquaredError(x, y)(model).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for part in range(3):
        rows = slice(20 * part, 20 * part + 20)
        (MeanSquaredError(x[rows], y[rows])(model) / 3).backward()
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("optimizer", [None, lbfgs, GaussNewton()])
def test_frozen_layer_stays_and_the_others_train(optimizer):
    model, objective = network(), MeanSquaredError(*data())
    model.layers[0].requires_grad_(False)
    frozen, before = model.layers[0].weight.clone(), model.layers[1].weight.clone()
    run = train(model, objective, 3, optimizer=optimizer, progress=False)
    assert torch.equal(model.layers[0].weight, frozen)
    assert not torch.equal(model.layers[1].weight, before)
    assert run.loss < run.history.loss[0]


def test_pruned_weights_stay_zero_in_training_and_after_it():
    model, objective = network(), MeanSquaredError(*data())
    layer = model.layers[0]
    prune.l1_unstructured(layer, "weight", amount=0.4)
    gone = layer.weight_mask == 0
    run = train(model, objective, 5, optimizer=lbfgs, progress=False)
    assert run.loss < 0.5 * run.history.loss[0]
    with pytest.raises(ValueError, match=r"prune\.remove"):
        model.refine()
    prune.remove(layer, "weight")
    assert gone.sum() == 17
    assert layer.weight[gone].abs().max() == 0
    torch.testing.assert_close(float(objective(model).detach()), run.loss)
    torch.testing.assert_close(model.refine()(objective.x), model(objective.x))


def test_averaged_weights_are_the_mean_of_those_on_the_way():
    model, objective = network(), MeanSquaredError(*data())
    mean, moving = (
        AveragedModel(model),
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5)),
    )
    seen = []

    def average(state):
        mean.update_parameters(state.model)
        moving.update_parameters(state.model)
        seen.append([p.detach().clone() for p in state.model.parameters()])

    train(
        model,
        objective,
        6,
        optimizer=lambda p: torch.optim.Adam(p, lr=1e-2),
        scheduler=lambda o: SWALR(o, swa_lr=5e-3, anneal_epochs=3),
        callbacks=[average],
        progress=False,
    )
    update_bn([objective.x], mean)
    for i, p in enumerate(mean.module.parameters()):
        expected = torch.stack([each[i] for each in seen]).mean(0)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-15)
    late = seen[0]
    for each in seen[1:]:
        late = [0.5 * a + 0.5 * b for a, b in zip(late, each, strict=True)]
    torch.testing.assert_close([p.detach() for p in moving.module.parameters()], late)
    torch.testing.assert_close(
        mean.module.refine()(objective.x), mean(objective.x), rtol=1e-12, atol=1e-13
    )


def test_data_parallel_on_the_cpu_is_the_network():
    model, (x, y) = network(), data()
    run = train(nn.DataParallel(model), MeanSquaredError(x, y), 2, progress=False)
    other = train(network(), MeanSquaredError(x, y), 2, progress=False)
    assert run.loss == other.loss


@pytest.mark.parametrize("half", ["parameters", "autocast"])
def test_half_precision_trains_and_gauss_newton_says_that_it_does_not(half):
    x, y = data()
    dtype = torch.bfloat16 if half == "parameters" else torch.float32
    objective = MeanSquaredError(x.to(dtype), y.to(dtype))

    def loss(model):
        with torch.autocast("cpu", torch.bfloat16, enabled=half == "autocast"):
            return objective(model)

    def rate(parameters):
        return torch.optim.Adam(parameters, lr=1e-2)

    for optimizer in (rate, lbfgs):
        run = train(network().to(dtype), loss, 5, optimizer=optimizer, progress=False)
        assert run.loss < 0.9 * run.history.loss[0]
    if half == "parameters":
        with pytest.raises(TypeError, match=r"model\.double\(\)"):
            train(network().to(dtype), objective, 1, optimizer=GaussNewton(), progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_batches_of_other_processes_are_those_of_one(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    losses = []
    for options in ({}, {"num_workers": 1, "multiprocessing_context": method}):
        batches = DataLoader(
            TensorDataset(*data()), 20, persistent_workers=bool(options), **options
        )
        run = train(network(), MeanSquaredError(), 2, batches=batches, progress=False)
        losses.append(run.history.loss)
    assert losses[0] == losses[1]


def _train_here(model, results):
    run = train(model, MeanSquaredError(*data()), 2, optimizer=GaussNewton(), progress=False)
    results.put(run.loss)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_networks_train_in_other_processes(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    context = multiprocessing.get_context(method)
    here, results = context.SimpleQueue(), context.SimpleQueue()
    _train_here(network(), here)
    child = context.Process(target=_train_here, args=(network(), results))
    child.start()
    found = results.get()
    child.join()
    assert child.exitcode == 0
    assert found == here.get()


def _step_of_a_rank(rank, file, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2
    )
    x, y = data()
    model = DistributedDataParallel(network())
    objective = MeanSquaredError(x[rank::2], y[rank::2])
    for _ in range(2):
        model.zero_grad()
        objective(model).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    if rank == 0:
        torch.save(model.module.state_dict(), results)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no processes")
def test_distributed_network_takes_the_steps_of_one(tmp_path):
    multiprocessing.spawn(
        _step_of_a_rank, (str(tmp_path / "rendezvous"), str(tmp_path / "state.pt")), nprocs=2
    )
    alone, objective = network(), MeanSquaredError(*data())
    for _ in range(2):
        alone.zero_grad()
        objective(alone).backward()
        with torch.no_grad():
            for p in alone.parameters():
                p -= 0.1 * p.grad
    together = copy.deepcopy(alone)
    together.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for a, b in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


def test_default_device_is_where_networks_and_points_are():
    """The CPU's own index is a device that is not the default."""
    before = torch.get_default_device()
    torch.set_default_device("cpu:0")
    try:
        model, (x, y) = KAN([2, 3, 1], first="affine"), (torch.rand(20, 2), torch.rand(20, 1))
        run = train(model, MeanSquaredError(x, y), 2, progress=False)
        assert run.loss < run.history.loss[0]
        assert model.refine()(x).device == model(x).device
    finally:
        torch.set_default_device(None if before == torch.device("cpu") else before)
