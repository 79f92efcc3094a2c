"""Solve the problems of the gallery and record how well: ``python -m kanbook.gallery [NAME ...]``.

Each goes to the record when it is solved. Those that are named are solved anew; without names,
those that the record does not have yet.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kanbook.gallery import EXAMPLES, RECORD, Example
from kanlib.analysis.estimates import estimates
from kanlib.paper.records import (
    Record,
    RecordedRun,
    add_run,
    find_run,
    load_record,
    provenance,
    save_record,
)
from kanlib.paper.runner import recorded_levels

SEED = 0


def solved(example: Example, **options: Any) -> RecordedRun:
    """Solve a problem, and return what is recorded.

    Args:
        example: the problem.
        **options: arguments of its ``solve``, in the place of their defaults.
    """
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    began = time.process_time()
    run = example.module.solve(**options)
    seconds = time.process_time() - began
    metrics: dict[str, float | None] = {**example.errors(run.model), "cpu_seconds": seconds}
    if getattr(run.objective, "unknowns", None):
        for name, found in estimates(run.model, run.objective, noisy=["data"]).items():
            metrics |= {name: found.value, f"{name} low": found.low, f"{name} high": found.high}
    levels = recorded_levels(run.levels, [None] * len(run.levels))
    return RecordedRun(
        case=example.name,
        seed=SEED,
        config=json.loads(json.dumps(example.settings | options)),
        num_parameters=levels[-1].num_parameters,
        status=run.status,
        message=run.message,
        levels=levels,
        metrics=metrics,
        provenance=provenance("book/kanbook"),
        solutions={run.model.n: [p.tolist() for p in run.model.parameters()]},
    )


def main(names: Sequence[str], out: Path = RECORD, **options: Any) -> None:
    """Solve problems and record them in a file.

    Args:
        names: names of problems; none for all that the file does not have.
        out: the file.
        **options: see :func:`solved`.
    """
    known = {example.name: example for example in EXAMPLES}
    for name in names:
        if name not in known:
            raise ValueError(f"name must be one of {', '.join(known)}, got {name!r}")
    record = load_record(out, "gallery") if out.exists() else Record("gallery")
    missing = [name for name in known if find_run(record, name, SEED) is None]
    for name in names or missing:
        run = solved(known[name], **options)
        record = load_record(out, "gallery") if out.exists() else record
        add_run(record, run)
        record.provenance = provenance("book/kanbook")
        save_record(out, record)
        shown = {key: f"{value:.3g}" for key, value in run.metrics.items() if value is not None}
        print(f"{name}: {shown}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
