"""Run records: what was run, with which settings, on what, and what came out, as JSON.

A record file holds the runs of one experiment and the paper's values beside them::

    {"schema": 1, "experiment": "regression", "provenance": {...}, "paper": {case: {...}},
     "runs": [{"case", "seed", "config", "num_parameters", "levels", "metrics", ..., "digest"}]}

Files are replaced atomically; adding a run replaces an older run of the same case and seed. The
digest of a run is that of its content: what was changed by hand or by accident is not read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import reprlib
import subprocess
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kanlib.training.files import read, write_atomically

#: Where the records of the book are, if this is kanlib in its repository.
RESULTS = Path(__file__).resolve().parents[2] / "book" / "results"

SCHEMA = 1
NUMBER = (int, float, type(None))
#: What a record holds, as types, lists and objects of them; what ends in ? may be missing.
RECORD = {
    "schema": int,
    "experiment": str,
    "provenance": dict,
    "paper": {str: {"mean": NUMBER, "stdev": NUMBER}},
    "runs": list,
}
RUN = {
    "case": str,
    "seed": int,
    "config": dict,
    "num_parameters": int,
    "status": str,
    "message": str,
    "levels": [
        {
            "n": (int, type(None)),
            "num_parameters": int,
            "steps": int,
            "loss": NUMBER,
            "error": NUMBER,
            "work": NUMBER,
            "evaluations": int,
            "seconds": NUMBER,
        }
    ],
    "metrics": {str: NUMBER},
    "history?": {
        "level": [int],
        "epoch": [int],
        "work": [NUMBER],
        "evaluations": [int],
        "loss": [NUMBER],
        "errors?": [[NUMBER]],
    },
    "solutions?": {str: list},
    "provenance?": dict,
    "digest?": str,
}
NAMES = {str: "a text", int: "an integer", float: "a number", dict: "an object", list: "a list"}


def provenance() -> dict[str, Any]:
    """Return commit, versions, machine and date of this run.

    The commit is None unless git has these files in a folder ``kanlib`` at the top of a repository;
    an installed kanlib has its version.
    """
    import kanlib

    commit, dirty = _git_state(Path(kanlib.__file__).resolve())
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": {
            "kanlib": kanlib.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
        "threads": torch.get_num_threads(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def new_record(experiment: str, paper: dict[str, Any]) -> dict[str, Any]:
    """Return an empty record of an experiment, with the paper's values by case."""
    return {"schema": SCHEMA, "experiment": experiment, "paper": paper, "runs": []}


def find_run(record: dict[str, Any], case: str, seed: int) -> dict[str, Any] | None:
    """Return the run of a case and seed, or None."""
    matches = (run for run in record["runs"] if (run["case"], run["seed"]) == (case, seed))
    return next(matches, None)


def add_run(record: dict[str, Any], run: dict[str, Any]) -> None:
    """Add a run to the record, in place of an older one of the same case and seed."""
    others = [r for r in record["runs"] if (r["case"], r["seed"]) != (run["case"], run["seed"])]
    record["runs"] = [*others, run]


def runs_of(record: dict[str, Any], case: str) -> list[dict[str, Any]]:
    """Return all runs of a case, ordered by seed."""
    return sorted((run for run in record["runs"] if run["case"] == case), key=lambda r: r["seed"])


def curve(
    run: dict[str, Any], figure: str = "loss", against: str = "epoch"
) -> tuple[list[float], list[float]]:
    """Return how the loss or the error of a recorded run went.

    Args:
        run: a run of a record.
        figure: "loss" or "error".
        against: "epoch", counted through all levels, or "work", in coarse epochs.

    Returns:
        Epochs or work, and the loss or the error there.

    Raises:
        ValueError: if an argument is unknown, or nothing was recorded on the way.
    """
    if figure not in ("loss", "error") or against not in ("epoch", "work"):
        raise ValueError(
            'figure must be "loss" or "error" and against "epoch" or "work", got '
            f"{figure!r} and {against!r}"
        )
    history = run.get("history", {})
    if figure == "loss":
        names = ("work", "epoch", "loss")
        rows = [*zip(*(history.get(name, []) for name in names), strict=True)]
    else:
        rows = history.get("errors", [])
    if not rows:
        raise ValueError(
            f"run {run['case']} with seed {run['seed']} has no {figure} recorded along the way: "
            "take its levels, or run the experiment again"
        )
    work, epochs, values = (list(column) for column in zip(*rows, strict=True))
    if against == "work":
        return work, values
    total, before, counted = 0, 0, []
    for epoch in epochs:
        total += before if epoch < before else 0  # epochs restart on each level
        before = epoch
        counted.append(total + epoch)
    return counted, values


def value_at(run: dict[str, Any], figure: str, work: float) -> float:
    """Return the loss or the error of a recorded run as it was after an amount of work.

    Args:
        run: a run of a record.
        figure: "loss" or "error".
        work: in coarse epochs.

    Returns:
        What was recorded last by then.

    Raises:
        ValueError: if the figure is unknown, or nothing was recorded by then.
    """
    spent, values = curve(run, figure, "work")
    before = [value for done, value in zip(spent, values, strict=True) if done <= work]
    if not before:
        raise ValueError(
            f"work must be at least {spent[0]:.6g}, where the {figure} was recorded first, "
            f"got {work!r}"
        )
    return before[-1]


def save_record(path: str | Path, record: dict[str, Any]) -> None:
    """Write a record atomically; numbers that are not finite become null.

    A record without a provenance gets that of today.

    Raises:
        OSError: if the file cannot be written; an old one is left as it was.
    """
    content = {**record, "provenance": record.get("provenance") or provenance()}
    runs = [json.dumps({**run, "digest": _digest(run)}) for run in _plain(content.pop("runs"))]
    head = json.dumps(_plain(content), indent=1, allow_nan=False)
    body = head[: head.rindex("\n}")] + ',\n "runs": [' + ",".join(f"\n  {r}" for r in runs)
    write_atomically(path, (body + "\n ]\n}\n").encode())


def load_record(path: str | Path, experiment: str | None = None) -> dict[str, Any]:
    """Read a record.

    Args:
        path: the file.
        experiment: the experiment that it must belong to, if given.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it is not a file or cannot be read.
        ValueError: if the file is truncated, is not a record, holds what a record cannot hold, was
            changed since it was written, or belongs to another experiment.
    """
    try:
        text = read(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"record {path} does not exist: create it with python -m kanlib run, or name another "
            f"file; the records of the book are in book/results of kanlib's repository"
        ) from None
    try:
        record = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"record {path} is truncated or not JSON ({error}): restore or delete it"
        ) from None
    _require(record, RECORD, f"record {path}")
    if record["schema"] != SCHEMA:
        raise ValueError(
            f"record {path} has schema {record['schema']!r}, this version reads {SCHEMA}: "
            "run the experiment again"
        )
    if experiment is not None and record["experiment"] != experiment:
        raise ValueError(
            f"record {path} belongs to experiment {record['experiment']!r}, not {experiment!r}: "
            "choose another file"
        )
    seen: set[tuple[str, int]] = set()
    for position, run in enumerate(record["runs"]):
        name = f"run {position} of record {path}"
        _require(run, RUN, name)
        digest = run.pop("digest", None)
        lengths = {len(rows) for key, rows in run.get("history", {}).items() if key != "errors"}
        if digest not in (None, _digest(run)) or len(lengths) > 1:
            raise ValueError(
                f"{name}, {run['case']} with seed {run['seed']}, was changed after it was written: "
                "restore the file, or run the case again into another"
            )
        if (run["case"], run["seed"]) in seen:
            raise ValueError(
                f"{name} is a second one of {run['case']} with seed {run['seed']}: remove one"
            )
        seen.add((run["case"], run["seed"]))
    return record


def _require(value: Any, shape: Any, name: str) -> None:
    """Raise ValueError unless a value is what RECORD or RUN says."""
    wrong = next(_wrong(value, shape, ""), None)
    if wrong is not None:
        raise ValueError(f"{name} is not of kanlib: {wrong}; restore it, or choose another file")


def _wrong(value: Any, shape: Any, name: str) -> Iterator[str]:
    """Yield what is wrong with a value, such as "levels[0].n must be an integer, got 'a'"."""
    kinds = shape if isinstance(shape, tuple) else (shape,)
    kinds = tuple(kind if isinstance(kind, type) else type(kind) for kind in kinds)
    unfit = isinstance(value, bool) or (isinstance(value, int | float) and not abs(value) < 1e300)
    if unfit or not isinstance(value, kinds):
        kind = "a number" if float in kinds else NAMES[kinds[0]]
        yield f"{name.removeprefix('.') or 'it'} must be {kind}, got {reprlib.repr(value)}"
    elif isinstance(shape, list):
        for position, entry in enumerate(value):
            yield from _wrong(entry, shape[0], f"{name}[{position}]")
    elif isinstance(shape, dict) and str in shape:
        for key, entry in value.items():
            yield from _wrong(entry, shape[str], f"{name}.{key}")
    elif isinstance(shape, dict):
        for key, kind in shape.items():
            if key.rstrip("?") in value:
                yield from _wrong(value[key.rstrip("?")], kind, f"{name}.{key.rstrip('?')}")
            elif not key.endswith("?"):
                yield f"{f'{name}.{key}'.removeprefix('.')} is missing"


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _digest(run: dict[str, Any]) -> str:
    """Return a digest of what is written of a run."""
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Return JSON-ready data, floats rounded to 7 digits and None where not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value


def _git_state(file: Path) -> tuple[str | None, bool | None]:
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
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
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
