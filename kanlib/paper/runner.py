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
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from kanlib._checks import as_integer
from kanlib.paper.cluster import on_cluster
from kanlib.paper.experiments import find_case, find_experiment
from kanlib.paper.problems import as_seed
from kanlib.paper.records import (
    Measurement,
    Record,
    RecordedHistory,
    RecordedLevel,
    RecordedRun,
    add_run,
    find_run,
    load_record,
    provenance,
    save_record,
)
from kanlib.training.files import located, locked, sweep
from kanlib.training.runs import History, Level

__all__ = ["recorded_levels", "run_and_record"]

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
    scheduler: str | None = None,
) -> Iterator[RecordedRun]:
    """Run cases with seeds, add each to the record file ``out``, and yield it.

    With ``resume``, runs that are already recorded with these settings are yielded as they are, and
    unfinished ones go on from their checkpoints, which are kept in a folder beside ``out``.
    Processes may share ``out``: none loses runs of another, and of two that are to compute the same
    run the second waits for the first, and with ``resume`` takes what that has recorded.
    Workers of a scheduler leave recording to this process, a moment later.

    Args:
        experiment: name of the experiment.
        cases: names of cases.
        seeds: seeds.
        out: record file.
        quick: run the small version; it never replaces a full run.
        device: torch device.
        resume: continue.
        workers: number of runs at a time, each in a process of its own with one thread.
        scheduler: address of the scheduler of a Dask cluster, whose workers then do the runs. This
            process alone writes the record. Where workers see the folder of ``out``, a run whose
            worker is lost goes on from its checkpoint on another; elsewhere it begins anew.

    Yields:
        The recorded runs.

    Raises:
        ValueError: if a name is unknown, a seed is out of range, a quick run would replace a full
            one, a file is damaged or belongs to other settings, or there are both workers and a
            scheduler.
        KeyboardInterrupt: after Ctrl-C; checkpoints are kept for what was not finished.
        OSError: if ``out`` cannot be written, a worker was killed, or the scheduler is lost.

    Examples:
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp()) / "regression.json"
        >>> (run,) = run_and_record("regression", ["mlp-5"], [1234], out, quick=True)
        >>> run.status, out.exists()
        ('completed', True)
    """
    for case in cases:
        find_case(experiment, case)
    seeds = [as_seed(seed) for seed in seeds]
    workers = as_integer("workers", workers, 1)
    if scheduler is not None and workers > 1:
        raise ValueError(
            f"workers must be left out where a scheduler has its own, got {workers}: start more "
            "with `dask worker`"
        )
    record = _record(experiment, out)
    jobs, done = [], []
    for case, seed in itertools.product(dict.fromkeys(cases), dict.fromkeys(seeds)):
        settings = _settings(experiment, case, quick, device)
        alone = workers == 1 and scheduler is None
        job = _Job(experiment, case, seed, settings, located(out), resume, alone)
        old = _recorded(job, record)
        if old is None:
            jobs.append(job)
        else:
            done.append(old)
    if jobs:  # fails now rather than after hours if it cannot be written
        with locked(out):
            save_record(out, _record(experiment, out))
    yield from done
    found = _results(jobs, workers) if scheduler is None else _elsewhere(jobs, scheduler)
    for job, result in found:
        if scheduler is not None:
            _add(job, result)
            _discard(job.checkpoint)
        yield result
    with contextlib.suppress(OSError):  # there is none, or others still use it
        _checkpoints(located(out)).rmdir()


@dataclass(frozen=True)
class _Job:
    """One run: a case, a seed, and where it is recorded."""

    experiment: str
    case: str
    seed: int
    settings: dict[str, Any]
    out: Path
    resume: bool
    progress: bool

    @property
    def checkpoint(self) -> Path:
        """The checkpoint file of the run; other settings have another file."""
        identity = json.dumps([self.experiment, self.settings], sort_keys=True)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        return _checkpoints(self.out) / f"{self.case}-{self.seed}-{digest}.pt"


def _recorded(job: _Job, record: Record) -> RecordedRun | None:
    """Return the run of a job from a record if the job resumes it, or None if it is to be run."""
    old = find_run(record, job.case, job.seed)
    if old is None:
        return None
    if job.settings["quick"] and old.config.get("quick") is not True:
        raise ValueError(
            f"{job.out} holds the full run of {job.case} with seed {job.seed}, which a quick one "
            "would replace: name another file with --out"
        )
    return old if job.resume and old.config == job.settings else None


def _add(job: _Job, result: RecordedRun) -> None:
    """Add a result to what the record holds by now."""
    made = provenance()  # asks git, so before the lock
    with locked(job.out):
        record = _record(job.experiment, job.out)
        _recorded(job, record)
        add_run(record, result)
        record.provenance, record.paper = made, find_experiment(job.experiment).paper
        save_record(job.out, record)


def _settings(experiment: str, case: str, quick: bool, device: str) -> dict[str, Any]:
    settings = {**asdict(find_case(experiment, case)), "quick": quick, "device": device}
    for unneeded in ("description", "paper"):
        settings.pop(unneeded)
    return json.loads(json.dumps(settings))


def _checkpoints(out: Path) -> Path:
    return out.parent / f".{out.stem}.checkpoints"


def _discard(checkpoint: Path) -> None:
    """Remove a checkpoint and what a killed process may have left of writing it."""
    checkpoint.unlink(missing_ok=True)
    sweep(checkpoint)


def _results(jobs: list[_Job], workers: int) -> Iterator[tuple[_Job, RecordedRun]]:
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


def _elsewhere(jobs: list[_Job], scheduler: str) -> Iterator[tuple[_Job, RecordedRun]]:
    """Yield the results of a cluster; what has lost its worker goes on from its checkpoint."""
    for job in jobs:
        if not job.resume:
            with locked(job.checkpoint):
                _discard(job.checkpoint)
    yield from on_cluster(scheduler, partial(_run_job, elsewhere=True), jobs)


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


def _run_job(job: _Job, elsewhere: bool = False) -> tuple[_Job, RecordedRun]:
    """Run one case with one seed, and return what is recorded.

    It is recorded before another process that waits for this run may go on, except ``elsewhere``,
    on a worker of a cluster.
    """
    name = f"{job.case} with seed {job.seed}"
    with locked(job.checkpoint, f"another process computes {name}: waiting for it"):
        found = _recorded(job, _record(job.experiment, job.out))
        if found is None:
            found = _computed(replace(job, resume=job.resume or elsewhere))
            if not elsewhere:
                _add(job, found)
        if not elsewhere:
            _discard(job.checkpoint)
    return job, found


def _computed(job: _Job) -> RecordedRun:
    """Train one case with one seed, and return what is recorded."""
    if not job.resume:
        _discard(job.checkpoint)
    run, metrics, solutions = find_experiment(job.experiment).execute(
        find_case(job.experiment, job.case),
        job.seed,
        quick=job.settings["quick"],
        device=job.settings["device"],
        checkpoint=job.checkpoint,
        resume=job.resume,
        progress=job.progress,
    )
    if run.status == "interrupted":
        raise KeyboardInterrupt(run.message)
    errors = {row["level"]: row["error"] for row in run.history.metrics}
    levels = recorded_levels(run.levels, [errors[number] for number in range(len(run.levels))])
    first = job.seed == find_experiment(job.experiment).seeds[0]
    return RecordedRun(
        case=job.case,
        seed=job.seed,
        config=job.settings,
        num_parameters=run.levels[-1].num_parameters,
        status=run.status,
        message=run.message,
        levels=levels,
        metrics={**metrics},
        history=_thinned(run.history),
        provenance=provenance(),
        solutions=solutions if first else {},
    )


def recorded_levels(levels: Sequence[Level], errors: Sequence[float | None]) -> list[RecordedLevel]:
    """Return what is recorded of the levels of a run, and the errors at their ends.

    Examples:
        >>> level = Level(5, 40, 32, 1e-3, 32.0, 50, 0.1, 32, 0)
        >>> recorded_levels([level], [2e-3])[0].error
        0.002
    """
    return [
        RecordedLevel(
            n=level.n,
            num_parameters=level.num_parameters,
            steps=level.epochs,
            loss=level.loss,
            error=error,
            work=level.work,
            evaluations=level.evaluations,
            seconds=level.seconds,
        )
        for level, error in zip(levels, errors, strict=True)
    ]


def _thinned(history: History) -> RecordedHistory:
    """Return at most about HISTORY entries, the ends of levels among them, and the errors."""
    count = len(history)
    every = -(-count // HISTORY)
    kept = [
        i
        for i in range(count)
        if i % every == 0 or i + 1 == count or history.level[i] != history.level[i + 1]
    ]
    return RecordedHistory(
        level=[history.level[i] for i in kept],
        epoch=[history.epoch[i] for i in kept],
        work=[history.work[i] for i in kept],
        evaluations=[history.evaluations[i] for i in kept],
        loss=[history.loss[i] for i in kept],
        errors=[
            Measurement(row["work"], int(row["epoch"]), row["error"]) for row in history.metrics
        ],
    )


def _record(experiment: str, out: Path) -> Record:
    """Return the record in a file, or a new one if there is none."""
    if located(out).exists():
        return load_record(out, experiment)
    return Record(experiment, find_experiment(experiment).paper)
