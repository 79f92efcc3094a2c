"""Run records: what was run, with which settings, on what, and what came out, as JSON.

A record file holds the runs of one experiment and the paper's values beside them::

    {"schema": 1, "experiment": "regression", "provenance": {...}, "paper": {case: {...}},
     "runs": [{"case", "seed", "config", "num_parameters", "levels", "metrics", ...}]}

Files are replaced atomically; adding a run replaces an older run of the same case and seed.
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kanlib.files import write_atomically

SCHEMA = 1
FIELDS = {"schema": int, "experiment": str, "provenance": dict, "paper": dict, "runs": list}
RUN_FIELDS = {
    "case": str,
    "seed": int,
    "config": dict,
    "num_parameters": int,
    "status": str,
    "message": str,
    "levels": list,
    "metrics": dict,
}


def provenance() -> dict[str, Any]:
    """Return commit, versions, machine and date of this run."""
    import kanlib

    commit, dirty = _git_state(Path(__file__).parent)
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
        ValueError: if an argument is unknown.
    """
    if figure not in ("loss", "error") or against not in ("epoch", "work"):
        raise ValueError(
            'figure must be "loss" or "error" and against "epoch" or "work", got '
            f"{figure!r} and {against!r}"
        )
    history = run["history"]
    if figure == "loss":
        rows = zip(history["work"], history["epoch"], history["loss"], strict=True)
    else:
        rows = iter(history["errors"])
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

    Raises:
        OSError: if the file cannot be written; an old one is left as it was.
    """
    content = {**record, "provenance": provenance()}
    runs = [json.dumps(_plain(run), allow_nan=False) for run in content.pop("runs")]
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
        ValueError: if the file is truncated, is not a record, or belongs to another experiment.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"record {path} does not exist: create it with python -m kanlib run, or name another "
            "file with --out"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"record {path} is truncated or not JSON ({error}): restore or delete it"
        ) from None
    _require(record, FIELDS, f"record {path}")
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
    for position, run in enumerate(record["runs"]):
        _require(run, RUN_FIELDS, f"run {position} of record {path}")
    return record


def _require(value: Any, fields: dict[str, Any], name: str) -> None:
    """Raise ValueError unless ``value`` is a dict with entries of these types."""
    wrong = [*fields]
    if isinstance(value, dict):
        wrong = [key for key in fields if not isinstance(value.get(key), fields[key])]
    if wrong:
        raise ValueError(
            f"{name} is not of kanlib: it lacks {', '.join(wrong)}, or holds other types there; "
            "restore it, or choose another file"
        )


def _plain(value: Any) -> Any:
    """Return JSON-ready data, floats rounded to 7 digits and None where not finite."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value


def _git_state(folder: Path) -> tuple[str | None, bool | None]:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
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
