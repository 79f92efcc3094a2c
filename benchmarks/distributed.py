"""One process against two: seconds of steps at the same points, and of messages.

Two processes with a thread each take turns: in each round the first does a step with all points
while the other waits, then both do the same step with half of the points each. So both are measured
in the same minutes, whatever else the machine does. Seconds are those of the clock, which others on
the machine prolong, and those of the processor, of all processes together. The solution of a step
of Gauss-Newton, which all processes do alike, and messages of several lengths are measured, too.

    python -m benchmarks.distributed [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing

from benchmarks.measuring import summary
from kanlib import KAN, GaussNewton, Jet, MeanSquaredError, ResidualLoss, Term
from kanlib.distributed.sharded import Sharded
from kanlib.paper.records import provenance
from kanlib.training.files import write_atomically

RECORD = Path(__file__).resolve().parents[1] / "book" / "results" / "distributed.json"
WIDTHS, INTERVALS, ORDER = [2, 8, 8, 1], 8, 4
#: Points of each problem, and steps that are measured together.
POINTS = {
    "regression, Adam": {2_000: 10, 20_000: 3, 200_000: 1},
    "Poisson, Adam": {2_000: 5, 20_000: 1, 100_000: 1},
    "Poisson, Gauss-Newton": {2_000: 1, 20_000: 1, 100_000: 1},
}
#: Numbers of a message, in double precision.
MESSAGES = (1, 1_000, 100_000, 1_000_000)
ROUNDS = 15
KINDS = ("clock", "processor")


def network() -> KAN:
    """Return the network of all problems."""
    torch.manual_seed(0)
    return KAN(WIDTHS, n=INTERVALS, r=ORDER, domain=(-1, 1), dtype=torch.float64)


def points(number: int) -> Tensor:
    """Return points of the square, the same in all processes."""
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.rand(number, 2, generator=generator, dtype=torch.float64) - 1


def poisson(u: Jet, x: Tensor) -> Tensor:
    """Return the residual of Poisson's equation."""
    right = torch.sin(torch.pi * x).prod(1, keepdim=True)
    return u.d(0, 0) + u.d(1, 1) + 2 * torch.pi**2 * right


def objective(problem: str, number: int) -> MeanSquaredError | ResidualLoss:
    """Return the loss of a problem at so many points."""
    x = points(number)
    if problem.startswith("regression"):
        return MeanSquaredError(x, torch.sin(3 * x).prod(1, keepdim=True))
    return ResidualLoss(inside=Term(poisson, x, pairs=[(0, 0), (1, 1)]))


def steps(problem: str, loss: Any, number: int) -> Callable[[], None]:
    """Return a function that does so many steps, always the same ones."""
    model = network()
    start = copy.deepcopy(model.state_dict())
    if problem.endswith("Gauss-Newton"):
        bound = GaussNewton().bind(model, loss)

        def one() -> None:
            bound.rate = 1e-3
            bound.step()
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)

        def one() -> None:
            optimizer.zero_grad()
            loss(model).backward()
            optimizer.step()

    def all_of_them() -> None:
        for _ in range(number):
            model.load_state_dict(start)
            one()

    return all_of_them


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of a function by the clock, and those of the processor."""
    began = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def compared(problem: str, number: int, count: int, rounds: int) -> dict[str, Any]:
    """Return seconds of a step in one process and in two, and the efficiency of two."""
    whole = objective(problem, number)
    alone, shared = steps(problem, whole, count), steps(problem, Sharded(whole), count)
    first = distributed.get_rank() == 0
    if first:
        alone()
    shared()
    rows = []
    for _ in range(rounds):
        distributed.barrier()
        one = timed(alone) if first else (0.0, 0.0)
        distributed.barrier()
        clock, processor = timed(shared)
        rows.append([*one, clock if first else 0.0, processor])
    seconds = torch.tensor(rows, dtype=torch.float64) / count
    distributed.all_reduce(seconds)
    found = dict(zip(KINDS, seconds.view(rounds, 2, 2).unbind(2), strict=True))
    return {
        "problem": problem,
        "points": number,
        "parameters": sum(p.numel() for p in network().parameters()),
        **{
            name: {
                "one": summary(pairs[:, 0].tolist()),
                "two": summary(pairs[:, 1].tolist()),
                "efficiency": summary((pairs[:, 0] / pairs[:, 1] / share).tolist()),
            }
            for (name, pairs), share in zip(found.items(), (2, 1), strict=True)
        },
    }


def alike(rounds: int) -> dict[str, Any]:
    """Return seconds of what all processes do alike in a step of Gauss-Newton: its solution."""
    system = GaussNewton().bind(network(), objective("Poisson", 2_000))._system()
    diagonal = 1e-3 * system.squares.clamp(min=1e-12)
    system.solve(diagonal)
    return summary([timed(lambda: system.solve(diagonal))[1] for _ in range(rounds)])


def message(numbers: int, rounds: int) -> dict[str, Any]:
    """Return seconds of the sum of so many numbers over two processes."""
    data = torch.ones(numbers, dtype=torch.float64)
    distributed.all_reduce(data)
    found = []
    for _ in range(rounds):
        distributed.barrier()
        found.append(timed(lambda: distributed.all_reduce(data))[0])
    return {"numbers": numbers, "seconds": summary(found)}


def measure(rank: int, folder: str, quick: bool) -> None:
    """Measure all in one of the two processes; the first writes what was found."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=10),
    )
    rounds = 3 if quick else ROUNDS
    cases = []
    for problem, sizes in POINTS.items():
        for number, count in [*sizes.items()][: 1 if quick else None]:
            cases.append(compared(problem, number, count, rounds))
            if rank == 0:
                shown = {k: round(cases[-1][k]["efficiency"]["median"], 3) for k in KINDS}
                print(problem, number, shown, flush=True)
    messages = [message(numbers, 3 * rounds) for numbers in MESSAGES[: 2 if quick else None]]
    if rank == 0:
        found = {"cases": cases, "solution": alike(rounds), "messages": messages}
        Path(folder, "found.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distributed")
    parser.add_argument("--quick", action="store_true", help="small and rough, to see that it runs")
    parser.add_argument("--out", type=Path, help="default: the book's record, unless quick")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    made_by, before = asdict(provenance("benchmarks")), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(measure, (folder, options.quick), nprocs=2)
        found = json.loads(Path(folder, "found.json").read_text())
    content = {
        "schema": 1,
        "experiment": "distributed",
        "provenance": made_by,
        "quick": options.quick,
        "network": {"widths": WIDTHS, "n": INTERVALS, "r": ORDER},
        "cores": os.cpu_count(),
        "load": [before, os.getloadavg()[0]],
        **found,
    }
    if out := options.out or (None if options.quick else RECORD):
        write_atomically(out, (json.dumps(content, indent=1) + "\n").encode())
        print(f"written to {out}")


if __name__ == "__main__":
    main()
