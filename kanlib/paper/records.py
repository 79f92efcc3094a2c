"""Run records: what was run, with which settings, on what, and what came out, as JSON.

A record file holds the runs of one experiment and the paper's values beside them::

    {"schema": 1, "experiment": "regression", "paper": {case: {...}}, "provenance": {...},
     "runs": [{"case", "seed", "config", "num_parameters", "levels", "metrics", ..., "digest"}]}

Its fields are those of `Record` and of `RecordedRun`. Files are replaced atomically; adding a run
replaces an older run of the same case and seed. The digest of a run is that of its content: what
was changed by hand or by accident is not read.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from kanlib.paper.decoding import decode, encode
from kanlib.training.files import read, write_atomically

__all__ = [
    "RESULTS",
    "Measurement",
    "PaperValue",
    "Provenance",
    "Record",
    "RecordedHistory",
    "RecordedLevel",
    "RecordedRun",
    "add_run",
    "curve",
    "find_run",
    "load_record",
    "provenance",
    "runs_of",
    "save_record",
    "value_at",
]

T = TypeVar("T")

_ROOT = Path(__file__).resolve().parents[2]

#: Where the records of the book are, in kanlib's repository or in the kanbook that is beside it.
RESULTS = next(
    (found for name in ("book", "kanbook/book") if (found := _ROOT / name / "results").is_dir()),
    _ROOT / "book" / "results",
)

SCHEMA = 1


@dataclass(frozen=True)
class Provenance:
    """Where a run or a record comes from; commit and dirty are None where git does not know.

    Examples:
        >>> provenance().threads == torch.get_num_threads()
        True
    """

    commit: str | None
    dirty: bool | None
    versions: dict[str, str]
    machine: str
    threads: int
    date: str


@dataclass(frozen=True)
class PaperValue:
    """What the paper prints for a case, and in which table or figure.

    Examples:
        >>> PaperValue(mean=1.1e-2, stdev=8.3e-3, source="Table 2")
        PaperValue(mean=0.011, stdev=0.0083, source='Table 2')
    """

    mean: float
    stdev: float
    source: str


@dataclass(frozen=True)
class RecordedLevel:
    """One level of a run: its own steps, work, evaluations and seconds, and how it ended.

    ``n`` is None for a network without a grid, a loss or an error None where it is not finite.

    Examples:
        >>> RecordedLevel(5, 40, 32, 1e-3, 2e-3, 32.0, 50, 0.1).error
        0.002
    """

    n: int | None
    num_parameters: int
    steps: int
    loss: float | None
    error: float | None
    work: float
    evaluations: int
    seconds: float


class Measurement(NamedTuple):
    """The error along the way of a run: after how much work, at which epoch of its level.

    Examples:
        >>> Measurement(work=4.0, epoch=2, error=0.1)
        Measurement(work=4.0, epoch=2, error=0.1)
    """

    work: float
    epoch: int
    error: float | None


@dataclass(frozen=True)
class RecordedHistory:
    """How a run went: lists of the same length, and the errors, which are measured less often.

    Epochs start anew on each level; work, in coarse epochs, and evaluations do not.

    Examples:
        >>> history = RecordedHistory(level=[0, 0], epoch=[0, 1], work=[0.0, 1.0], loss=[2.0, 0.5])
        >>> history.errors
        []
    """

    level: list[int] = field(default_factory=list)
    epoch: list[int] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    loss: list[float | None] = field(default_factory=list)
    errors: list[Measurement] = field(default_factory=list)


@dataclass(frozen=True)
class RecordedRun:
    """One case with one seed.

    Attributes:
        case: name of the case.
        seed: seed.
        config: settings of the case, "quick" and "device".
        num_parameters: those of the network at the end.
        status: as in `kanlib.training.runs.Run`.
        message: as there.
        levels: the levels, coarsest first.
        metrics: figures of the network at the end, None where one is not finite, and the
            ``processor_seconds`` of a run where they are known.
        history: what was recorded along the way; empty if nothing was.
        provenance: where the run comes from.
        solutions: the weights at the end of each level, by level, as nested lists; empty but for
            one seed of some cases.

    Examples:
        >>> level = RecordedLevel(5, 40, 32, 1e-3, 2e-3, 32.0, 50, 0.1)
        >>> run = RecordedRun("coarse", 1234, {}, 40, "completed", "", [level], {"error": 2e-3})
        >>> run.work, run.seconds
        (32.0, 0.1)
    """

    case: str
    seed: int
    config: dict[str, Any]
    num_parameters: int
    status: str
    message: str
    levels: list[RecordedLevel]
    metrics: dict[str, float | None]
    history: RecordedHistory = field(default_factory=RecordedHistory)
    provenance: Provenance | None = None
    solutions: dict[int, list[Any]] = field(default_factory=dict)

    @property
    def work(self) -> float:
        """Work of all levels, in coarse epochs."""
        return sum(level.work for level in self.levels)

    @property
    def seconds(self) -> float:
        """Seconds of all levels."""
        return sum(level.seconds for level in self.levels)


@dataclass
class Record:
    """The runs of one experiment.

    ``paper`` has the paper's values by case; ``provenance`` says where the record comes from.

    Examples:
        >>> record = Record("regression")
        >>> record.runs, record.paper
        ([], {})
    """

    experiment: str
    paper: dict[str, PaperValue] = field(default_factory=dict)
    runs: list[RecordedRun] = field(default_factory=list)
    provenance: Provenance = field(default_factory=lambda: provenance())


@dataclass
class _File:
    """What a record file holds; its runs, with their digests, are read one by one."""

    schema: int
    experiment: str
    paper: dict[str, PaperValue]
    provenance: Provenance
    runs: list[Any]


def provenance(*beside: str) -> Provenance:
    """Return commit, versions, machine and date of this run.

    The commit is None unless git has these files in a folder ``kanlib`` at the top of a repository;
    an installed kanlib has its version.

    Args:
        *beside: folders at the top of the repository, such as "benchmarks", whose changes count as
            those of kanlib do.

    Examples:
        >>> sorted(provenance().versions)
        ['kanlib', 'numpy', 'python', 'torch']
    """
    import kanlib

    commit, dirty = _git_state(Path(kanlib.__file__).resolve(), beside)
    return Provenance(
        commit=commit,
        dirty=dirty,
        versions={
            "kanlib": kanlib.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        machine=f"{platform.system()} {platform.machine()}, {_processor()}",
        threads=torch.get_num_threads(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def find_run(record: Record, case: str, seed: int) -> RecordedRun | None:
    """Return the run of a case and seed, or None.

    Examples:
        >>> record = Record("regression")
        >>> add_run(record, RecordedRun("fine", 1, {}, 40, "completed", "", [], {"error": 0.1}))
        >>> find_run(record, "fine", 1).metrics
        {'error': 0.1}
        >>> find_run(record, "fine", 2) is None
        True
    """
    return next((run for run in record.runs if (run.case, run.seed) == (case, seed)), None)


def add_run(record: Record, run: RecordedRun) -> None:
    """Add a run to the record, in place of an older one of the same case and seed.

    Examples:
        >>> record = Record("regression")
        >>> for error in (0.2, 0.1):  # the second takes the place of the first
        ...     metrics = {"error": error}
        ...     add_run(record, RecordedRun("fine", 1, {}, 40, "completed", "", [], metrics))
        >>> [run.metrics for run in record.runs]
        [{'error': 0.1}]
    """
    others = [old for old in record.runs if (old.case, old.seed) != (run.case, run.seed)]
    record.runs = [*others, run]


def runs_of(record: Record, case: str) -> list[RecordedRun]:
    """Return all runs of a case, ordered by seed.

    Examples:
        >>> record = Record("regression")
        >>> for seed in (2, 1):
        ...     add_run(record, RecordedRun("fine", seed, {}, 40, "completed", "", [], {}))
        >>> [run.seed for run in runs_of(record, "fine")]
        [1, 2]
    """
    return sorted((run for run in record.runs if run.case == case), key=lambda run: run.seed)


def curve(
    run: RecordedRun, figure: str = "loss", against: str = "epoch"
) -> tuple[list[float], list[float | None]]:
    """Return how the loss or the error of a recorded run went.

    Args:
        run: a run of a record.
        figure: "loss" or "error".
        against: "epoch", counted through all levels, or "work", in coarse epochs.

    Returns:
        Epochs or work, and the loss or the error there, None where it was not finite.

    Raises:
        ValueError: if an argument is unknown, or nothing was recorded on the way.

    Examples:
        >>> history = RecordedHistory(level=[0, 0], epoch=[0, 1], work=[0.0, 2.0], loss=[2.0, 0.5])
        >>> run = RecordedRun("fine", 1, {}, 40, "completed", "", [], {}, history)
        >>> curve(run, "loss", against="work")
        ([0.0, 2.0], [2.0, 0.5])
    """
    if figure not in ("loss", "error") or against not in ("epoch", "work"):
        raise ValueError(
            'figure must be "loss" or "error" and against "epoch" or "work", got '
            f"{figure!r} and {against!r}"
        )
    history = run.history
    rows: list[tuple[float, int, float | None]]
    if figure == "loss":
        rows = [*zip(history.work, history.epoch, history.loss, strict=True)]
    else:
        rows = [*history.errors]
    if not rows:
        raise ValueError(
            f"run {run.case} with seed {run.seed} has no {figure} recorded along the way: "
            "take its levels, or run the experiment again"
        )
    values = [value for *_, value in rows]
    if against == "work":
        return [work for work, *_ in rows], values
    total, before, counted = 0, 0, list[float]()
    for _, epoch, _ in rows:
        total += before if epoch < before else 0  # epochs restart on each level
        before = epoch
        counted.append(total + epoch)
    return counted, values


def value_at(run: RecordedRun, figure: str, work: float) -> float | None:
    """Return the loss or the error of a recorded run as it was after an amount of work.

    Args:
        run: a run of a record.
        figure: "loss" or "error".
        work: in coarse epochs.

    Returns:
        What was recorded last by then, None if it was not finite.

    Raises:
        ValueError: if the figure is unknown, or nothing was recorded by then.

    Examples:
        >>> history = RecordedHistory(
        ...     level=[0, 0, 0], epoch=[0, 1, 2], work=[0.0, 2.0, 4.0], loss=[2.0, 0.5, 0.1]
        ... )
        >>> run = RecordedRun("fine", 1, {}, 40, "completed", "", [], {}, history)
        >>> value_at(run, "loss", work=3.0)
        0.5
    """
    spent, values = curve(run, figure, "work")
    before = [value for done, value in zip(spent, values, strict=True) if done <= work]
    if not before:
        raise ValueError(
            f"work must be at least {spent[0]:.6g}, where the {figure} was recorded first, "
            f"got {work!r}"
        )
    return before[-1]


def save_record(path: str | Path, record: Record) -> None:
    """Write a record atomically; numbers that are not finite become null.

    Raises:
        OSError: if the file cannot be written; an old one is left as it was.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "regression.json"
        >>> save_record(file, Record("regression", {"fine": PaperValue(1.1, 0.2, "Table 2")}))
        >>> load_record(file).paper["fine"].mean
        1.1
    """
    file = _File(SCHEMA, record.experiment, record.paper, record.provenance, record.runs)
    content = encode(file)
    runs = [json.dumps({**run, "digest": _digest(run)}) for run in content.pop("runs")]
    head = json.dumps(content, indent=1, allow_nan=False)
    body = head[: head.rindex("\n}")] + ',\n "runs": [' + ",".join(f"\n  {r}" for r in runs)
    write_atomically(path, (body + "\n ]\n}\n").encode())


def load_record(path: str | Path, experiment: str | None = None) -> Record:
    """Read a record.

    Args:
        path: the file.
        experiment: the experiment that it must belong to, if given.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it is not a file or cannot be read.
        ValueError: if the file is truncated, is not a record, holds what a record cannot hold, was
            changed since it was written, or belongs to another experiment.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "regression.json"
        >>> save_record(file, Record("regression"))
        >>> load_record(file, "regression").runs
        []
    """
    try:
        text = read(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"record {path} does not exist: create it with python -m kanlib run, or name another "
            f"file; the records of the book are in book/results of kanlib's repository"
        ) from None
    try:
        content = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"record {path} is truncated or not JSON ({error}): restore or delete it"
        ) from None
    file = _required(_File, content, f"record {path}")
    if file.schema != SCHEMA:
        raise ValueError(
            f"record {path} has schema {file.schema!r}, this version reads {SCHEMA}: "
            "run the experiment again"
        )
    if experiment is not None and file.experiment != experiment:
        raise ValueError(
            f"record {path} belongs to experiment {file.experiment!r}, not {experiment!r}: "
            "choose another file"
        )
    record = Record(file.experiment, file.paper, provenance=file.provenance)
    for position, entry in enumerate(file.runs):
        name = f"run {position} of record {path}"
        run = _sealed(entry, name)
        if find_run(record, run.case, run.seed):
            raise ValueError(
                f"{name} is a second one of {run.case} with seed {run.seed}: remove one"
            )
        record.runs.append(run)
    return record


def _sealed(entry: Any, name: str) -> RecordedRun:
    """Return a run as it was written, if nobody changed it since."""
    digest = entry.pop("digest", None) if isinstance(entry, dict) else None
    run = _required(RecordedRun, entry, name)
    history = run.history
    lengths = {
        len(history.level),
        len(history.epoch),
        len(history.work),
        len(history.evaluations),
        len(history.loss),
    }
    if digest not in (None, _digest(entry)) or len(lengths) > 1:
        raise ValueError(
            f"{name}, {run.case} with seed {run.seed}, was changed after it was written: "
            "restore the file, or run the case again into another"
        )
    return run


def _required(kind: type[T], value: Any, name: str) -> T:
    """Return what a file holds as a dataclass; ValueError names the file."""
    try:
        return decode(kind, value)
    except ValueError as error:
        raise ValueError(
            f"{name} is not of kanlib: {error}; restore it, or choose another file"
        ) from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _digest(run: dict[str, Any]) -> str:
    """Return a digest of what is written of a run."""
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]


def _git_state(file: Path, beside: Sequence[str] = ()) -> tuple[str | None, bool | None]:
    """Return commit and whether there are changes, if git has this file of kanlib."""
    folder = file.parent
    # Variables such as GIT_DIR, which git sets for its hooks, speak of another repository.
    ours = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
    environment = {key: value for key, value in os.environ.items() if key not in ours}

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", file.name)
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.parent:
            return None, None
        places = [".", *(f":/{each}" for each in beside)]
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *places)
        return git("rev-parse", "HEAD"), bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _processor() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"
