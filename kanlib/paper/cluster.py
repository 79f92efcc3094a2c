"""Runs on the workers of a Dask cluster, which may be on other machines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any, TypeVar

__all__ = ["on_cluster"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def on_cluster(
    scheduler: str, function: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[Result]:
    """Yield the results of a function on a cluster, in the order in which they come.

    An item whose worker is lost goes to another one. When the loop over the results ends early,
    items that wait are taken back; those that run are left to their workers.

    Args:
        scheduler: address of its scheduler, as tcp://10.0.0.1:8786.
        function: what the workers call; they import it by its name.
        items: its arguments.

    Raises:
        ModuleNotFoundError: if there is no dask.distributed here.
        ConnectionError: if the scheduler cannot be reached, or is lost.
        ChildProcessError: if an item has cost several workers their lives.
        ValueError: if a worker has several threads, which would share random numbers.

    Examples:
        >>> from distributed import LocalCluster
        >>> options = {"threads_per_worker": 1, "processes": False, "dashboard_address": None}
        >>> with LocalCluster(n_workers=1, **options) as cluster:
        ...     sorted(on_cluster(cluster.scheduler_address, abs, [-3, 2]))
        [2, 3]
    """
    try:
        from distributed import Client, as_completed
        from distributed.scheduler import KilledWorker
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "scheduler needs dask.distributed: pip install 'kanlib[dask]'"
        ) from None
    try:
        client = Client(scheduler, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"scheduler {scheduler!r} does not answer ({error}): start one with `dask scheduler`, "
            "and give the address that it prints"
        ) from error
    with client:
        if not client.scheduler_info()["workers"]:
            print(f"{scheduler} has no workers yet: waiting for some", file=sys.stderr, flush=True)
        futures = [client.submit(_in_one_thread, function, each, pure=False) for each in items]
        try:
            for future in as_completed(futures, loop=client.loop):
                yield future.result()
        except KilledWorker as error:
            raise ChildProcessError(
                "several workers were killed at the same run, perhaps for lack of memory: go on "
                "with --resume on workers that have more"
            ) from error
        except CancelledError as error:
            raise ConnectionError(
                f"scheduler {scheduler!r} is lost: start it again, and go on with --resume"
            ) from error
        finally:
            client.cancel(futures)


def _in_one_thread(function: Callable[[Any], Any], item: Any) -> Any:
    """Return the result of a function in a worker."""
    import torch
    from distributed import get_worker

    threads = get_worker().state.nthreads
    if threads > 1:
        raise ValueError(
            f"workers must have one thread each, since threads share random numbers, got {threads}:"
            " start them with `dask worker --nthreads 1`"
        )
    torch.set_num_threads(1)
    return function(item)
