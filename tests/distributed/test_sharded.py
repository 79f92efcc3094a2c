"""Two and four processes give the numbers of one, one that dies ends the run, any number resumes.

Processes take seconds to start: each start makes many checks, which tests then look at one by one.
"""

import os
import re
import signal
import time
from datetime import timedelta
from functools import partial
from unittest import mock

import pytest
import torch
from torch import distributed, nn
from torch.utils.data import DataLoader, TensorDataset

from kanlib import (
    KAN,
    Attention,
    Balance,
    Causal,
    Cycle,
    Ensemble,
    GaussNewton,
    MeanSquaredError,
    QuasiNewton,
    ResidualLoss,
    Sampler,
    Schedule,
    Stagnation,
    Term,
    Unknowns,
    race,
    train,
    train_multilevel,
)
from kanlib.analysis.estimates import estimates
from kanlib.analysis.smoothing import smoothing_weight
from kanlib.distributed.checksums import checksum
from kanlib.distributed.sharded import Sharded
from kanlib.objectives.penalties import Norms, Penalised, SquaredNorms
from kanlib.training.checkpoints import save_checkpoint
from kanlib.training.jacobian import jacobian
from kanlib.training.multigrid import hierarchy
from tests.distributed.processes import together

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not distributed.is_available(), reason="torch has no processes"),
]
F64 = {"dtype": torch.float64}


def network():
    torch.manual_seed(1)
    return KAN([2, 3, 1], n=4, **F64)


def points(count=61):
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(0), **F64)


def regression():
    x = points()
    return MeanSquaredError(x, torch.sin(5 * x[:, :1]) * x[:, 1:])


def poisson(u, x):
    return u.d(0, 0) + u.d(1, 1) + torch.sin(3 * x[:, :1])


def edge(u, x):
    return u.value - x[:, :1]


def pde(**options):
    """Poisson's equation; a boundary of three points, fewer than some have processes."""
    ends = torch.tensor([[0.0, 0.3], [1.0, 0.2], [0.5, 1.0]], **F64)
    return ResidualLoss(
        inside=Term(poisson, points(), pairs=[(0, 0), (1, 1)], **options.pop("inside", {})),
        edge=Term(edge, ends, weight=10.0),
        **options,
    )


def inverse():
    """Two equations at a point, an unknown, moving points, causal weights and a balance."""
    unknowns = Unknowns(k=torch.tensor([0.5, 2.0], **F64))

    def equation(u, x, q):
        return torch.cat([u.d(1) - q.k[0] * u.d(0, 0), u.d(0) - q.k[1]], dim=1)

    inside = Sampler([(0, 1), (0, 1)], 31, every=2, share=0.5, seed=3, **F64)
    return ResidualLoss(
        equation=Term(
            equation, inside, pairs=[(0, 0)], unknowns=unknowns, causal=Causal((0, 1), slices=3)
        ),
        data=Term(lambda u, x: u.value - x[:, :1] ** 2, points(17)),
        balance=Balance(every=2),
    )


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-2)


# The losses of one process are followed over so many steps only: each iteration of a quasi-Newton
# method multiplies the differences of rounding.
OPTIMIZERS = {
    "adam": (adam, [4, 4]),
    "lbfgs": (lambda p: torch.optim.LBFGS(p, max_iter=5, line_search_fn="strong_wolfe"), [2, 2]),
    "quasi-newton": (QuasiNewton(iterations=3), [2, 2]),
    "cholesky": (GaussNewton(), [3, 3]),
    "qr": (GaussNewton(solver="qr"), [2, 2]),
    "cg": (GaussNewton(solver="cg", points=7), [2, 1]),
}
PROBLEMS = {"regression": regression, "pde": pde}
RUNS = [(problem, optimizer) for problem in PROBLEMS for optimizer in OPTIMIZERS]
RUNS.remove(("regression", "cg"))  # many messages
RUNS_OF_FOUR = [("regression", "qr"), ("pde", "adam"), ("pde", "lbfgs"), ("pde", "cholesky")]


def told(run):
    """All that a run tells of its numbers."""
    return {
        "loss": torch.tensor(run.history.loss, **F64),
        "terms": {k: torch.tensor(v, **F64) for k, v in run.history.terms.items()},
        "weights": {k: torch.tensor(v, **F64) for k, v in run.history.weights.items()},
        "parameters": [p.detach() for p in run.model.parameters()],
    }


def run_of(problem, optimizer, wrap):
    make, epochs = OPTIMIZERS[optimizer]
    objective = wrap(PROBLEMS[problem]())
    return told(train_multilevel(network(), objective, epochs, optimizer=make, progress=False))


def carried(wrap):
    """Stagnation at fresh points, and optimizers that are carried to the next level."""
    schedule = Schedule([6, 3], until=Stagnation(patience=1, gain=0.5))
    objective = wrap(inverse())
    run = train_multilevel(
        network(), objective, schedule, optimizer=adam, optimizer_state="carried", progress=False
    )
    unknowns = {k: p.detach() for k, p in objective.named_parameters()}
    return told(run) | {"unknowns": unknowns, "epochs": [v.epochs for v in run.levels]}


def others(wrap):
    """A cycle over grids, and a race."""
    cycle = Cycle(GaussNewton(), coarsest=4)
    cycled = train(network().refine(), wrap(regression()), 1, optimizer=cycle, progress=False)
    field = [network(), network().refine()]
    raced = race(field, wrap(pde()), [2, 1], keep=(1,), optimizer=GaussNewton(), progress=False)
    return [told(cycled), told(raced)]


def penalised(wrap, penalty, optimizer):
    objective = Penalised(wrap(pde()), small=penalty)
    return told(train(network(), objective, 2, optimizer=optimizer, progress=False))


def batched(wrap, split):
    """Batches whose rows cannot be divided; with points of their own, uneven numbers of them."""
    objective = regression()
    data = TensorDataset(objective.x, objective.y)
    if split:
        generator = torch.Generator().manual_seed(5)
        batches = DataLoader(data, 15, shuffle=True, generator=generator)
    else:
        batches = [[objective.x[a:b], objective.y[a:b]] for a, b in parts_of_rank()]
    return told(
        train(
            network(), wrap(MeanSquaredError()), 2, batches=batches, optimizer=adam, progress=False
        )
    )


def parts_of_rank():
    """The rows of two batches, of 21 and 40 points, that this process has; all if it is alone."""
    if not distributed.is_initialized():
        return [(0, 21), (21, 61)]
    return [[(0, 4), (21, 51)], [(4, 21), (51, 61)]][distributed.get_rank()]


def own_points(optimizer):
    """Losses of processes that have been given different numbers of points."""
    objective, rows = regression(), slice(None)
    if distributed.is_initialized():
        rows = [slice(0, 50), slice(50, None)][distributed.get_rank()]
    own = MeanSquaredError(objective.x[rows], objective.y[rows])
    objective = Sharded(own, split=False) if distributed.is_initialized() else own
    return told(train(network(), objective, 2, optimizer=optimizer, progress=False))


def message_of(function):
    """Return the kind and the words of the error that a function raises."""
    try:
        function()
    except Exception as error:
        return type(error).__name__, str(error)
    return None


class Shifted(MeanSquaredError):
    """Its residuals do not belong to it."""

    def __call__(self, model, batch=None):
        return super().__call__(model, batch) + 1


def refusals(rank):
    """What Sharded objectives say no to."""
    stray = torch.tensor(1.0, requires_grad=True, **F64)
    jets = {"inside": {"attention": Attention()}}
    other = KAN([2, 3, 1], n=4, **F64)
    with torch.no_grad():
        other.layers[0].weight += rank
    uneven = MeanSquaredError(points()[rank:], points()[rank:, :1])
    few = MeanSquaredError(points(1), points(1)[:, :1])
    x = points()
    calls = {
        "attention": lambda: Sharded(pde(**jets)),
        "causal": lambda: Sharded(pde(inside={"causal": Causal((0, 1))}), split=False),
        "balance": lambda: Sharded(pde(balance=Balance()), split=False),
        "function": lambda: Sharded(lambda model: model(x).mean())(network()),
        "penalty": lambda: Sharded(Penalised(regression(), s=SquaredNorms(1.0)))(network()),
        "stray": lambda: Sharded(ResidualLoss(a=Term(lambda u, x: stray * u.value - 1, x)))(
            network()
        ),
        "ensemble": lambda: Sharded(regression())(Ensemble([network(), network()])),
        "model": lambda: Sharded(regression())(other),
        "points": lambda: Sharded(uneven)(network()),
        "few": lambda: Sharded(few)(network()),
        "sum": lambda: Sharded(Shifted(x, x[:, :1]))(network()),
        "multigrid": lambda: train(
            network(),
            Sharded(regression()),
            1,
            optimizer=GaussNewton(solver="multigrid"),
            progress=False,
        ),
        "twice": lambda: torch.autograd.grad(
            torch.autograd.grad(
                (model := network()) and Sharded(regression())(model),
                model.layers[0].weight,
                create_graph=True,
            )[0].sum(),
            model.layers[0].weight,
        ),
    }
    return {name: message_of(call) for name, call in calls.items()}


class Times(nn.Module):
    """A network times a number that is no parameter."""

    def __init__(self, factor):
        super().__init__()
        self.network = network()
        self.register_buffer("factor", torch.tensor(factor, **F64))

    def forward(self, x):
        return self.factor * self.network(x)


def grown(x, k):
    """An equation with a number of its own."""
    return ResidualLoss(inside=Term(lambda u, x: u.d(0) - k * u.value, x))


def frozen(x, k):
    """An equation with a number that is given."""
    given = Unknowns(k=k, **F64).requires_grad_(False)
    return ResidualLoss(a=Term(lambda u, x, q: u.value - q.k, x, unknowns=given))


def hidden(u, x):
    """An equation that asks which process it is in."""
    return u.value - 1.0 - distributed.get_rank()


def mixing(u, x):
    """An equation that depends on all points, but for a network that is zero."""
    return u.value - u.value.mean() + 1.0


def squared(u, x):
    return u.value - u.value.square().mean() - x[:, :1]


def still():
    model = network()
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.zero_()
    return model


def differences(rank):
    """What Sharded objectives say of networks and losses that differ between processes."""
    every = 1 + rank
    x, own = points(), points()[rank::2]
    ends = [(float(a), float(b)) for a, b in zip(own.amin(0), own.amax(0), strict=True)]
    fit = MeanSquaredError(own, own[:, :1])

    def inside(split=False, **options):
        return ResidualLoss(inside=Term(edge, x if split else own, **options))

    def of(model, objective, split=False, batch=()):
        return lambda: Sharded(objective, split=split)(model(), *batch)

    def built(**options):
        torch.manual_seed(1)
        return KAN([2, 3, 1], n=4, **options, **F64)

    unknown = {"unknowns": Unknowns(k=torch.tensor(1.0 + rank, **F64))}
    asked = ResidualLoss(a=Term(lambda u, x, q: u.value - q.k, x, **unknown))
    more = {"b": Term(edge, own)} if rank else {}
    moving = partial(Sampler, [(0, 1), (0, 1)], 31, **F64)
    calls = {
        "grid": of(lambda: built(domain=(0, 1 + rank)), fit),
        "map": of(lambda: built(input_domain=ends), fit),
        "buffer": of(lambda: Times(1.0 + rank), fit),
        "extension": of(lambda: built(extension=["linear", "clamp"][rank]), fit),
        "unknown": of(network, asked),
        "unknown of all": of(network, asked, True),
        "weight": of(network, inside(weight=every)),
        "weight of all": of(network, inside(True, weight=every), True),
        "number of terms": of(network, ResidualLoss(a=Term(edge, own), **more)),
        "names": of(network, ResidualLoss(**{"ab"[rank]: Term(edge, own)})),
        "kind": of(network, [fit, inside()][rank]),
        "constant": of(network, grown(own, every)),
        "directions": of(network, inside(pairs=[(rank, rank)])),
        "balances": of(network, pde(balance=Balance(every=every)), True),
        "causal weights": of(network, inside(True, causal=Causal((0, 1), epsilon=every)), True),
        "sampler": of(network, ResidualLoss(a=Term(edge, moving(every=every))), True),
        "penalty of one": lambda: Penalised(Sharded(fit, split=False), s=SquaredNorms(every))(
            network()
        ),
        "frozen unknown": of(network, frozen(own, 1.0 + rank)),
        "hidden": of(network, ResidualLoss(a=Term(hidden, x)), True),
        "mixing": of(still, ResidualLoss(a=Term(mixing, x)), True),
        "mixing of own": of(still, ResidualLoss(b=Term(edge, own), a=Term(squared, own))),
        "mixing of one process": of(
            still, ResidualLoss(b=Term(edge, x), a=Term(squared, x[:3])), True
        ),
        "sum of own": of(network, Shifted(own, own[:, :1])),
        "network of batches": of(
            lambda: built(domain=(0, 1 + rank)), MeanSquaredError(), batch=([own, own[:, :1]],)
        ),
        "batch": of(network, MeanSquaredError(), True, ([x[rank:], x[rank:, :1]],)),
        "hierarchy": lambda: hierarchy(network(), Sharded(fit, split=False)),
    }
    return {name: message_of(call) for name, call in calls.items()}


def analysed(wrap):
    """What data tell of the smoothness of a network, and of unknowns of an equation."""
    x = points()
    y = torch.sin(5 * x[:, :1]) + 0.1 * torch.cos(99 * x[:, 1:])
    objective = wrap(MeanSquaredError(x, y))
    model = network()
    train(model, objective, 2, optimizer=GaussNewton(), progress=False)
    weights = [smoothing_weight(model, objective, noise=noise) for noise in (None, 0.3)]
    ends = torch.tensor([[0.0, 0.2]], **F64)
    loss = ResidualLoss(
        growth=Term(
            lambda u, x, q: u.d(0) - q.rate * u.value, x, unknowns=Unknowns(rate=1.0, **F64)
        ),
        data=Term(lambda u, x: u.value - torch.exp(x[:, :1]) + 0.01 * torch.sin(99 * x[:, 1:]), x),
        start=Term(lambda u, x: u.value - 1, ends),  # at one point, which one process has
    )
    fitted = train(network(), wrap(loss), 3, optimizer=GaussNewton(), progress=False)
    found = [
        vars(estimates(fitted.model, fitted.objective, noisy=noisy)["rate"])
        for noisy in (None, ["data"], ["data", "start"])
    ]
    return {"weights": weights, "estimates": found}


def raced(wrap):
    """A race of a loss with a state, which each network has a copy of."""
    loss = wrap(pde(balance=Balance(every=1)))
    field = [network(), network().refine()]
    return told(race(field, loss, [2, 1], keep=(1,), optimizer=adam, progress=False))


def steps_of_replicas(rank):
    """Networks in torch's own wrappers take the steps of one: parameters after two steps."""
    from torch.distributed.fsdp import fully_shard  # which takes seconds
    from torch.nn.parallel import DistributedDataParallel

    objective = regression()
    rows = slice(rank, 60, 2)
    own, found = MeanSquaredError(objective.x[rows], objective.y[rows]), {}
    for name, wrap in {"replicated": DistributedDataParallel, "sharded": fully_shard}.items():
        model = wrap(network())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            (own.y - model(own.x)).square().mean().backward()
            optimizer.step()
        found[name] = [
            p.full_tensor().detach() if hasattr(p, "full_tensor") else p.detach()
            for p in model.parameters()
        ]
    return found


def files(rank, folder):
    """Errors of a run with checkpoints, which one process writes and reads for all."""
    options = {"optimizer": adam, "checkpoint": folder / "run.pt", "progress": False}
    written = []

    def save(path, state, check):
        written.append(state["state"]["epoch"])
        save_checkpoint(path, state, check=check)

    with mock.patch("kanlib.training.snapshot.save_checkpoint", save):
        train_multilevel(network(), Sharded(pde()), [2, 1], checkpoint_every=0, **options)
    again = message_of(lambda: train(network(), Sharded(pde()), 1, **options))
    damaged = folder / "damaged.pt"
    if rank == 0:
        damaged.write_bytes(b"nothing")
    distributed.barrier()
    options |= {"checkpoint": damaged, "resume": True}
    wrong = message_of(lambda: train(network(), Sharded(pde()), 1, **options))
    return {"written": written, "again": again, "wrong": wrong}


def checks_of_two(rank, folder):
    found = {case: run_of(*case, Sharded) for case in RUNS}
    found["carried"] = carried(Sharded)
    found["others"] = others(Sharded)
    found["squares"] = penalised(Sharded, SquaredNorms(1e-3, 0), GaussNewton())
    found["norms"] = penalised(Sharded, Norms(1e-3), adam)
    found["split batches"], found["own batches"] = (
        batched_in_two(split) for split in (True, False)
    )
    found["own points"] = [own_points(each) for each in (adam, GaussNewton())]
    own = jacobian(network(), Sharded(regression()))
    found["jacobian"] = own.dense()
    found["refusals"] = refusals(rank) | differences(rank)
    found["analysed"] = analysed(Sharded)
    found["raced"] = raced(partial(Sharded, group=distributed.new_group()))
    found["replicas"] = steps_of_replicas(rank)
    found["files"] = files(rank, folder)
    return found


def batched_in_two(split):
    return batched(lambda objective: Sharded(objective, split=split), split)


def checks_of_four(rank):
    return {case: run_of(*case, Sharded) for case in RUNS_OF_FOUR}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def two(folder):
    return together(2, checks_of_two, folder / "two", folder)


@pytest.fixture(scope="module")
def four(folder):
    return together(4, checks_of_four, folder / "four")


def agree(found, expected, rtol=1e-9):
    """Check that all processes have the same numbers, which are those of one to rounding."""
    for each in found[1:]:
        torch.testing.assert_close(each, found[0], rtol=0, atol=0)
    torch.testing.assert_close(found[0], expected, rtol=rtol, atol=rtol)


def alone(objective):
    return objective


@pytest.mark.parametrize(("problem", "optimizer"), RUNS)
def test_two_processes_give_the_numbers_of_one(two, problem, optimizer):
    expected = run_of(problem, optimizer, alone)
    assert expected["loss"][-1] < expected["loss"][0]
    rtol = 1e-5 if optimizer == "cg" else 1e-9  # it ends at a reduction by 1e-2
    agree([each[problem, optimizer] for each in two], expected, rtol)


@pytest.mark.parametrize(("problem", "optimizer"), RUNS_OF_FOUR)
def test_four_processes_give_the_numbers_of_one(four, problem, optimizer):
    """A boundary of three points leaves one of them without any there."""
    expected = run_of(problem, optimizer, alone)
    agree([each[problem, optimizer] for each in four], expected)


def test_unknowns_moving_points_balance_and_fresh_points_are_those_of_one(two):
    agree([each["carried"] for each in two], carried(alone))


def test_cycles_and_races_are_those_of_one(two):
    agree([each["others"] for each in two], others(alone))


def test_penalties_around_a_shared_loss_count_once(two):
    agree([e["squares"] for e in two], penalised(alone, SquaredNorms(1e-3, 0), GaussNewton()))
    agree([e["norms"] for e in two], penalised(alone, Norms(1e-3), adam))


def test_batches_are_weighted_by_their_rows(two):
    agree([each["split batches"] for each in two], batched(alone, True))
    agree([each["own batches"] for each in two], batched(alone, False))


def test_points_of_their_own_are_weighted_by_their_number(two):
    agree([each["own points"] for each in two], [own_points(o) for o in (adam, GaussNewton())])


def test_jacobian_of_a_process_has_its_rows(two):
    rows = torch.cat([each["jacobian"] for each in two])
    torch.testing.assert_close(rows, jacobian(network(), regression()).dense())


def test_weights_of_penalties_and_estimates_are_those_of_all_points(two):
    agree([each["analysed"] for each in two], analysed(alone), 1e-7)


def test_race_copies_a_shared_loss_with_a_state(two):
    agree([each["raced"] for each in two], raced(alone))


REFUSED = {
    "attention": (ValueError, "must not have an attention"),
    "causal": (ValueError, "all points for causal weights"),
    "balance": (ValueError, "all points for a balance"),
    "function": (TypeError, "must offer its residuals"),
    "penalty": (TypeError, r"Penalised\(Sharded"),
    "stray": (ValueError, "Unknowns"),
    "ensemble": (TypeError, "one network"),
    "model": (ValueError, "same parameters"),
    "points": (ValueError, "the same in all processes"),
    "few": (ValueError, "as many as the 2 processes"),
    "sum": (ValueError, "must add up"),
    "multigrid": (ValueError, "take 'cg'"),
    "grid": (ValueError, "model must be the same .* but SplineLayer 'layers.0' is not"),
    "map": (ValueError, "model must be the same .* but InputMap 'layers.0' is not"),
    "buffer": (ValueError, "model must be the same .* but Times is not"),
    "extension": (ValueError, "model must be the same .* but SplineLayer"),
    "unknown": (ValueError, "unknown 'k' must be the same"),
    "unknown of all": (ValueError, "unknown 'k' must be the same"),
    "weight": (ValueError, "weight of term 'inside' must be the same"),
    "weight of all": (ValueError, "weight of term 'inside' must be the same"),
    "number of terms": (ValueError, "its kind or its terms"),
    "names": (ValueError, "its kind or its terms"),
    "kind": (ValueError, "its kind or its terms"),
    "constant": (ValueError, "term 'inside' must be the same .* but its residual"),
    "directions": (ValueError, "term 'inside' must be the same .* but its residual"),
    "balances": (ValueError, "balance must be the same"),
    "causal weights": (ValueError, "term 'inside' must be the same .* an option"),
    "sampler": (ValueError, "term 'a' must be the same .* an option"),
    "penalty of one": (ValueError, "penalties must be the same"),
    "frozen unknown": (ValueError, "term 'a' must be the same .* but its residual"),
    "hidden": (ValueError, "the losses of one network at the same points range from"),
    "mixing": (ValueError, "term 'a' must depend on the network at its own point only"),
    "mixing of own": (ValueError, "term 'a' must depend on the network at its own point only"),
    "mixing of one process": (ValueError, "term 'a' must depend on the network at its own"),
    "sum of own": (ValueError, "must add up"),
    "network of batches": (ValueError, "model must be the same"),
    "batch": (ValueError, "batch must be the same"),
    "hierarchy": (ValueError, "give it without Sharded"),
    "twice": (RuntimeError, "create_graph"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_shared_loss_refuses_what_it_cannot_share(two, name):
    kind, words = REFUSED[name]
    for each in two:
        assert each["refusals"][name] is not None, "nothing was raised"
        found, message = each["refusals"][name]
        assert found == kind.__name__, message
        assert re.search(words, message)


@pytest.mark.parametrize("wrapper", ["replicated", "sharded"])
def test_networks_in_the_wrappers_of_torch_take_the_steps_of_one(two, wrapper):
    """DistributedDataParallel, and FSDP2, which keeps a part of each parameter in each process."""
    objective, model = regression(), network()
    own = MeanSquaredError(objective.x[:60], objective.y[:60])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        own(model).backward()
        optimizer.step()
    expected = [p.detach() for p in model.parameters()]
    agree([each["replicas"][wrapper] for each in two], expected, 1e-12)


def test_one_process_reads_and_writes_for_all(two, folder):
    assert [each["files"]["written"] for each in two] == [[0, 1, 2, 0, 1], []]
    for each in two:
        kind, message = each["files"]["again"]
        assert kind == "FileExistsError"
        assert "resume=True" in message
        kind, message = each["files"]["wrong"]
        assert kind == "ValueError"
        assert "truncated" in message
    options = {"optimizer": adam, "checkpoint": folder / "run.pt", "resume": True}
    run = train_multilevel(network(), pde(), [2, 4], progress=False, **options)
    expected = train_multilevel(network(), pde(), [2, 4], optimizer=adam, progress=False)
    agree([told(run)], told(expected))


def lost(rank, folder):
    """Runs in which process 1 does not answer in time, and is then killed; the errors of both."""

    def silent(state):
        if rank == 1 and state.level == 0 and state.epoch == 2:
            time.sleep(1.5 * SECONDS)

    def killed(state):
        if rank == 1 and state.level == 1 and state.epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    found = []
    for callback, seconds in ((silent, SECONDS), (killed, 60)):
        distributed.barrier()
        wrap = partial(Sharded, group=distributed.new_group(timeout=timedelta(seconds=seconds)))
        start = time.monotonic()
        error = message_of(partial(lossy, wrap, folder, [callback]))
        found.append((error, time.monotonic() - start))
    return found


#: A group waits for an answer so long.
SECONDS = 6


def lossy(wrap, folder, callbacks=()):
    return train_multilevel(
        network(),
        wrap(pde()),
        [3, 4],
        optimizer=adam,
        callbacks=callbacks,
        checkpoint=folder / "lossy.pt",
        checkpoint_every=0,
        resume=True,
        progress=False,
    )


def test_lost_process_ends_the_run_and_one_goes_on_from_its_checkpoint(folder):
    errors, killed = together(2, lost, folder / "lost", folder)
    assert killed is None
    for (kind, message), seconds in errors:
        assert kind == "ConnectionError"
        assert "process 0 of 2 lost the others" in message
        assert "resume=True" in message
        assert seconds < 30  # not those of the test's own processes
    assert errors[0][1] > SECONDS
    state = torch.load(folder / "lossy.pt", weights_only=True)["state"]
    assert (state["level"], state["epoch"]) == (1, 1)
    run = lossy(alone, folder)
    expected = train_multilevel(network(), pde(), [3, 4], optimizer=adam, progress=False)
    agree([told(run)], told(expected))


def test_checksum_knows_what_a_function_consists_of():
    def times(k, table=None):
        return lambda u: k * u if table is None else table[0] * u

    x, loop = torch.rand(3, generator=torch.Generator().manual_seed(0)), []
    loop.append(loop)
    same = {
        "numbers": lambda: (1, 2.5, "a", None, {"a": [1]}, {3, 4}),
        "function": lambda: times(2),
        "array": lambda: (x.clone(), x.clone().numpy()),
        "part": lambda: partial(times, 1, table=2),
        "network": network,
        "bound": lambda: network().forward,
        "cycle": lambda: loop,
    }
    sums = {name: checksum(make()) for name, make in same.items()}
    assert sums == {name: checksum(make()) for name, make in same.items()}
    different = [
        (1, 1.0),
        ([1, [2]], [[1], 2]),
        (times(2), times(3)),
        (times(1, [2]), times(1, [3])),
        (lambda u: u + 1, lambda u: u + 2),
        (lambda u: u.cos(), lambda u: u.sin()),
        (x, x + 1),
        (x, x.double()),
        (x, x[:, None]),
        (partial(times, 1), partial(times, 2)),
        (network(), network().refine()),
        (network(), still()),
        (nn.Tanh(), nn.Sigmoid()),
    ]
    for one, other in different:
        assert checksum(one) != checksum(other)
    assert checksum(x, data=False) == checksum(x[1:] + 1, data=False)
    assert checksum(times(x), data=False) == checksum(times(x[1:]), data=False)
    assert checksum(times(2), data=False) != checksum(times(3), data=False)


def test_bad_arguments_are_named(tmp_path):
    from tests.test_bad_arguments import BAD, fault  # which takes seconds

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        arguments = {"objective": regression(), "split": True, "group": None}
        run = train(network(), Sharded(**arguments), 2, optimizer=adam, progress=False)
        agree([told(run)], told(train(network(), regression(), 2, optimizer=adam, progress=False)))
        faults = {
            f"{name}={kind}": found
            for name in arguments
            for kind, value in BAD.items()
            if (found := fault(Sharded, arguments, name, value))
        }
        assert faults == {}
    finally:
        distributed.destroy_process_group()
    with pytest.raises(ValueError, match="init_process_group"):
        Sharded(regression())
