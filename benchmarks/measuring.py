"""Functions that take turns: seconds, ratios with their spread, and memory."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from kanlib.analysis.cost import measure

SHORTEST = 0.02
"""Seconds that one turn should take at least; a shorter function is called several times."""


@dataclass(frozen=True)
class Effort:
    """How much time a comparison may take, and how large its workloads are.

    Attributes:
        seconds: time for all rounds of one comparison.
        rounds: fewest and most rounds.
        shrink: what batches are divided by.
    """

    seconds: float = 3.0
    rounds: tuple[int, int] = (5, 21)
    shrink: int = 1


FULL, QUICK = Effort(), Effort(seconds=0.0, rounds=(2, 2), shrink=64)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the 10 % and 90 % quantiles."""
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return {"median": statistics.median(values), "low": tenths[0], "high": tenths[-1]}


def compare(
    functions: Mapping[str, Callable[[], object]], reference: str, effort: Effort = FULL
) -> dict[str, Any]:
    """Measure functions in turn, and their times relative to one of them.

    Args:
        functions: called without arguments, by name.
        reference: the name of the one that the others are divided by, round by round.
        effort: how long.

    Returns:
        "reference", "rounds", "seconds" and "ratio", the latter two as :func:`summary` by name.
    """
    once = {name: seconds[0] for name, seconds in measure(functions, 1).items()}
    shortest = SHORTEST if effort.seconds else 0.0
    calls = {name: max(1, round(shortest / seconds)) for name, seconds in once.items()}
    one_round = sum(once[name] * calls[name] for name in functions)
    least, most = effort.rounds
    rounds = min(max(least, int(effort.seconds / one_round)), most)
    turns = {name: partial(_repeat, function, calls[name]) for name, function in functions.items()}
    seconds = {
        name: [taken / calls[name] for taken in every]
        for name, every in measure(turns, rounds).items()
    }
    ratio = {
        name: [mine / other for mine, other in zip(every, seconds[reference], strict=True)]
        for name, every in seconds.items()
    }
    return {
        "reference": reference,
        "rounds": rounds,
        "seconds": {name: summary(every) for name, every in seconds.items()},
        "ratio": {name: summary(every) for name, every in ratio.items()},
    }


def _repeat(function: Callable[[], object], calls: int) -> None:
    for _ in range(calls):
        function()


def peak_memory(step: Callable[[], object], parameters: Sequence[torch.Tensor]) -> int:
    """Return the most bytes that a step holds at a time beside parameters and their gradients.

    These are the activations: what a step allocates on the CPU, from its begin to its end, as
    PyTorch's allocator reports it. The gradients that the step leaves behind are not counted.

    Args:
        step: runs forward and backward and leaves gradients in ``parameters``.
        parameters: the parameters.
    """
    step()  # tables and compiled kernels are made by the first call
    for parameter in parameters:
        parameter.grad = None
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    result = profiler.profiler
    assert result is not None
    assert result.kineto_results is not None
    gradients = {
        parameter.grad.data_ptr() for parameter in parameters if parameter.grad is not None
    }
    changes = [
        (event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size)
        for event in _allocations(result.kineto_results.experimental_event_tree())
    ]
    last = {pointer: i for i, (_, pointer, size) in enumerate(sorted(changes)) if size > 0}
    kept = {i for pointer, i in last.items() if pointer in gradients}
    held = peak = 0
    for i, (_, _, size) in enumerate(sorted(changes)):
        if i not in kept:
            held += size
            peak = max(peak, held)
    return peak


def share(step: Callable[[], object], operators: str = "kanlib::") -> float:
    """Return the part of a step's time that is spent in operators whose name begins like this."""
    step()
    with _quiet(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        begin = time.perf_counter()
        for _ in range(5):
            step()
        total = time.perf_counter() - begin
    found = [event for event in profiler.key_averages() if event.key.startswith(operators)]
    return sum(event.cpu_time_total for event in found) * 1e-6 / total


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the profiler writes to stderr when it starts and stops."""
    stderr = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _allocations(events: Sequence[Any]) -> list[Any]:
    """Return all events of the allocator in a tree of events."""
    found = []
    for event in events:
        if hasattr(event.extra_fields, "alloc_size"):
            found.append(event)
        found.extend(_allocations(event.children))
    return found
