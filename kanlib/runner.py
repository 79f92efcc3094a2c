"""Running cases: in parallel, killed and resumed, every result recorded at once."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from kanlib.experiments import find_case, find_experiment
from kanlib.problems.regression import check_seed
from kanlib.records import add_run, find_run, load_record, new_record, provenance, save_record
from kanlib.runs import History

#: About as many entries of a history are recorded.
HISTORY = 300


def run_and_record(
    experiment: str,
    cases: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    *,
    quick: bool = False,
    device: str = "cpu",
    resume: bool = False,
    workers: int = 1,
) -> Iterator[dict[str, Any]]:
    """Run cases with seeds, add each to the record file ``out``, and yield it.

    With ``resume``, runs that are already recorded with these settings are yielded as they are, and
    unfinished ones go on from their checkpoints, which are kept in a folder beside ``out``.

    Args:
        experiment: name of the experiment.
        cases: names of cases.
        seeds: seeds.
        out: record file.
        quick: run the small version.
        device: torch device.
        resume: continue.
        workers: number of runs at a time, each in a process of its own with one thread.

    Yields:
        The recorded runs.

    Raises:
        ValueError: if a name is unknown, a seed is out of range, or a file is damaged or belongs
            to other settings.
        KeyboardInterrupt: after Ctrl-C; checkpoints are kept for what was not finished.
        OSError: if ``out`` cannot be written, or a worker was killed.
    """
    for case in cases:
        find_case(experiment, case)
    for seed in seeds:
        check_seed(seed)
    if workers < 1:
        raise ValueError(f"workers must be at least 1 process, got {workers}")
    record = _record(experiment, out)
    save_record(out, record)  # fails now rather than after hours if it cannot be written
    jobs = []
    for case, seed in itertools.product(dict.fromkeys(cases), dict.fromkeys(seeds)):
        settings = _settings(experiment, case, quick, device)
        old = find_run(record, case, seed)
        if resume and old is not None and old["config"] == settings:
            yield old
        else:
            checkpoint = _checkpoint(out, experiment, case, seed, settings)
            jobs.append((experiment, case, seed, settings, checkpoint, resume, workers == 1))
    for result, checkpoint in _results(jobs, workers):
        record = _record(experiment, out)  # others may have added runs meanwhile
        add_run(record, result)
        save_record(out, record)
        _discard(checkpoint)
        yield result
    with contextlib.suppress(OSError):  # there is none, or others still use it
        _checkpoints(out).rmdir()


def _settings(experiment: str, case: str, quick: bool, device: str) -> dict[str, Any]:
    settings = {**asdict(find_case(experiment, case)), "quick": quick, "device": device}
    for unneeded in ("description", "paper"):
        settings.pop(unneeded)
    return json.loads(json.dumps(settings))


def _checkpoint(out: Path, experiment: str, case: str, seed: int, settings: Any) -> Path:
    """Return the checkpoint file of a run; other settings have another file."""
    digest = hashlib.sha256(json.dumps([experiment, settings], sort_keys=True).encode()).hexdigest()
    return _checkpoints(out) / f"{case}-{seed}-{digest[:12]}.pt"


def _checkpoints(out: Path) -> Path:
    return out.parent / f".{out.stem}.checkpoints"


def _discard(checkpoint: Path) -> None:
    """Remove a checkpoint and what a killed process may have left of writing it."""
    for file in checkpoint.parent.glob(f"*{checkpoint.name}*"):
        file.unlink(missing_ok=True)


def _results(jobs: list[tuple[Any, ...]], workers: int) -> Iterator[tuple[dict[str, Any], Path]]:
    if workers == 1:
        yield from map(_run_job, jobs)
        return
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker) as pool:
        futures = [pool.submit(_run_job, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()  # its checkpoint stays
            if isinstance(error, BrokenProcessPool):
                raise ChildProcessError(
                    "a worker process was killed, perhaps for lack of memory: go on with --resume "
                    "and fewer --workers"
                ) from error
            raise


def _start_worker() -> None:
    """Give a worker one thread; Ctrl-C is for its parent to handle, whose end is its own."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own, a semaphore, leaks when a worker is killed
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_job(job: tuple[Any, ...]) -> tuple[dict[str, Any], Path]:
    """Run one case with one seed; return what is recorded, and its checkpoint file."""
    experiment, case, seed, settings, checkpoint, resume, progress = job
    if not resume:
        _discard(checkpoint)
    run, metrics, solutions = find_experiment(experiment).execute(
        find_case(experiment, case),
        seed,
        quick=settings["quick"],
        device=settings["device"],
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )
    if run.status == "interrupted":
        raise KeyboardInterrupt(run.message)
    errors = {row["level"]: row["error"] for row in run.history.metrics}
    result = {
        "case": case,
        "seed": seed,
        "config": settings,
        "num_parameters": run.levels[-1].num_parameters,
        "status": run.status,
        "message": run.message,
        "levels": [
            {
                "n": level.n,
                "num_parameters": level.num_parameters,
                "steps": level.epochs,
                "loss": level.loss,
                "error": errors[number],
                "work": level.work,
                "evaluations": level.evaluations,
                "seconds": level.seconds,
            }
            for number, level in enumerate(run.levels)
        ],
        "metrics": metrics,
        "history": _thinned(run.history),
        "provenance": provenance(),
    }
    if seed == find_experiment(experiment).seeds[0] and solutions:
        result["solutions"] = solutions
    return result, checkpoint


def _thinned(history: History) -> dict[str, list[Any]]:
    """Return at most about HISTORY entries, the ends of levels among them, and the errors."""
    count = len(history)
    every = -(-count // HISTORY)
    kept = [
        i
        for i in range(count)
        if i % every == 0 or i + 1 == count or history.level[i] != history.level[i + 1]
    ]
    thinned: dict[str, list[Any]] = {
        key: [getattr(history, key)[i] for i in kept]
        for key in ("level", "epoch", "work", "evaluations", "loss")
    }
    thinned["errors"] = [[row["work"], row["epoch"], row["error"]] for row in history.metrics]
    return thinned


def _record(experiment: str, out: Path) -> dict[str, Any]:
    if out.exists():
        return load_record(out, experiment)
    found = find_experiment(experiment)
    paper = {
        name: {**case.paper, "source": found.source}
        for name, case in found.cases.items()
        if case.paper
    }
    return new_record(experiment, paper)
