"""Command line: run sections in processes of their own, judge the targets, write the record."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks import peers, targets
from benchmarks.measuring import FULL, QUICK
from benchmarks.sections import SECTIONS, SINGLE
from kanlib.paper.records import provenance
from kanlib.training.files import write_atomically

SCHEMA = 1
ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "book" / "results" / "performance.json"


def run_section(name: str, threads: int, quick: bool) -> list[dict[str, Any]]:
    """Measure one section in this process, and print each measurement as it comes."""
    torch.set_num_threads(threads)
    found = []
    for measured in SECTIONS[name](QUICK if quick else FULL):
        case = {**measured.pop("case"), "threads": threads}
        found.append({"section": name, "case": case, **measured})
        print(summary_line(found[-1]), file=sys.stderr, flush=True)
    return found


def summary_line(measured: dict[str, Any]) -> str:
    """Return one line about a measurement: the case, and every ratio."""
    case = ", ".join(f"{key} {value}" for key, value in measured["case"].items())
    ratios = ", ".join(f"{k} {v['median']:.3g}" for k, v in measured["ratio"].items())
    missing = "".join(f"; without {k} ({v})" for k, v in measured["missing"].items())
    return f"{measured['section']} [{case}] {ratios}{missing}"


def run_apart(name: str, threads: int, quick: bool) -> list[dict[str, Any]]:
    """Measure one section in a process of its own."""
    command = [sys.executable, "-m", "benchmarks", "--worker", name, "--threads", str(threads)]
    command += ["--quick"] * quick
    numbers = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "NUMBA")}
    environment = {**os.environ, **numbers}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, cwd=ROOT)
    if result.returncode:
        print(f"section {name} failed on {threads} thread(s)", file=sys.stderr)
        return []
    return json.loads(result.stdout.splitlines()[-1])


def updated(old: list[dict[str, Any]], measurements: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return old measurements in which sections are replaced that were measured again."""
    again = {(m["section"], m["case"]["threads"]) for m in measurements}
    kept = [m for m in old if (m["section"], m["case"]["threads"]) not in again]
    return sorted(kept + measurements, key=lambda m: [*SECTIONS].index(m["section"]))


def record(measurements: list[dict[str, Any]], quick: bool) -> dict[str, Any]:
    """Return the record of some measurements, with the targets judged."""
    made_by = asdict(provenance("benchmarks"))
    del made_by["threads"]
    for package in (*peers.PACKAGES, "numba"):
        try:
            made_by["versions"][package] = version(package)
        except PackageNotFoundError:
            made_by["versions"][package] = None
    return {
        "schema": SCHEMA,
        "experiment": "performance",
        "provenance": made_by,
        "quick": quick,
        "targets": [targets.judged(target, measurements) for target in targets.TARGETS],
        "measurements": measurements,
    }


def text(content: dict[str, Any]) -> str:
    """Return a record as JSON, one line for each target and each measurement."""
    lines = []
    for key, value in rounded(content).items():
        if isinstance(value, list):
            rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in value)
            lines.append(f' "{key}": [\n{rows}\n ]')
        else:
            lines.append(f' "{key}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def rounded(value: Any) -> Any:
    """Return the value with four digits in every float."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 1 if a section failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure kanlib side by side with its peers."
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=[*SECTIONS])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="tiny and rough, to see that it runs")
    parser.add_argument("--out", type=Path, help="default: the book's record, if all is measured")
    parser.add_argument(
        "--update",
        action="store_true",
        help="replace in the record what is measured, keep the rest",
    )
    parser.add_argument("--worker", choices=SECTIONS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        output = run_section(options.worker, options.threads[0], options.quick)
        print(json.dumps(output))
        return 0
    measurements, failed = [], False
    for name in options.sections:
        for threads in options.threads[: 1 if name in SINGLE else None]:
            measured = run_apart(name, threads, options.quick)
            measurements += measured
            failed = failed or not measured
    commit = provenance().commit
    measurements = [{**m, "commit": commit} for m in measurements]
    if options.update:
        kept = json.loads((options.out or RECORD).read_text(encoding="utf-8"))["measurements"]
        measurements = updated(kept, measurements)
    content = record(measurements, options.quick)
    print(targets.table(content["targets"]))
    complete = options.sections == [*SECTIONS] and not options.quick and not failed
    out = options.out or (RECORD if complete or options.update else None)
    if out:
        write_atomically(out, text(content).encode())
        print(f"Written to {out}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
