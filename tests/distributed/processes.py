"""Functions in processes of a group, as torchrun would start them, and what they found."""

import os
from datetime import timedelta

import torch
from torch import distributed, multiprocessing


def _run(rank, size, function, folder, arguments):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    torch.save(function(rank, *arguments), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def together(size, function, folder, *arguments):
    """Return what function(rank, *arguments) returns in each process; None where one was killed."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("spawn")
    started = [
        context.Process(target=_run, args=(rank, size, function, folder, arguments))
        for rank in range(size)
    ]
    for process in started:
        process.start()
    try:
        for process in started:
            process.join(120)
    finally:
        for process in started:
            process.kill()
    return [
        torch.load(folder / f"{rank}.pt", weights_only=False)
        if (folder / f"{rank}.pt").exists()
        else None
        for rank in range(size)
    ]
