"""Command line: ``python -m kanlib list | run | report``."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from kanlib.paper.experiments import EXPERIMENTS, find_experiment
from kanlib.paper.records import RESULTS, RecordedRun, load_record, runs_of
from kanlib.paper.runner import run_and_record

DEFAULT = "EXPERIMENT.json, in book/results inside the repository and here elsewhere"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    It is 0 if all is done, 1 if something failed or diverged, 2 for wrong usage, 130 after Ctrl-C
    and 141 if nobody reads the output any more.
    """
    options = _parser().parse_args(arguments)
    try:
        status = int(options.command(options))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("interrupted: start the same command with --resume to go on", file=sys.stderr)
        return 130
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kanlib", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="list | run | report")

    listing = commands.add_parser("list", help="list experiments and their cases")
    listing.set_defaults(command=_list)

    run = commands.add_parser("run", help="run cases of an experiment and record them")
    run.add_argument("experiment")
    run.add_argument("--case", action="append", help="a case (repeatable); default: all")
    run.add_argument("--seed", action="append", type=int, help="a seed (repeatable); default: all")
    run.add_argument("--quick", action="store_true", help="a small version, for trying it out")
    run.add_argument("--device", default="cpu", help="cpu or cuda")
    run.add_argument("--out", type=Path, help=f"record file; default: {DEFAULT}")
    run.add_argument("--workers", type=int, default=1, help="runs at a time, a process each")
    run.add_argument("--scheduler", metavar="tcp://…", help="Dask cluster whose workers run them")
    run.add_argument("--resume", action="store_true", help="keep finished runs, continue others")
    run.set_defaults(command=_run)

    report = commands.add_parser("report", help="print the paper's numbers beside the recorded")
    report.add_argument("experiment")
    report.add_argument("--quick", action="store_true", help="of the small version")
    report.add_argument(
        "--out", type=Path, help="record file; default: that of run, or that of the repository"
    )
    report.set_defaults(command=_report)
    return parser


def _list(options: argparse.Namespace) -> int:
    for name, experiment in EXPERIMENTS.items():
        print(f"{name}: {experiment.title} ({experiment.source}), seeds {list(experiment.seeds)}")
        width = max(map(len, experiment.cases))
        for case, details in experiment.cases.items():
            print(f"  {case:{width}s}  {details.description}")
    return 0


def _run(options: argparse.Namespace) -> int:
    experiment = find_experiment(options.experiment)
    cases = options.case or list(experiment.cases)
    _check_device(options.device)
    out = options.out or _default(options)
    if options.out is None:
        print(f"recording in {out}", file=sys.stderr, flush=True)
    failed = False
    for run in run_and_record(
        options.experiment,
        cases,
        options.seed or experiment.seeds,
        out,
        quick=options.quick,
        device=options.device,
        resume=options.resume,
        workers=options.workers,
        scheduler=options.scheduler,
    ):
        failed = failed or run.status != "completed"
        metrics = ", ".join(f"{key} {_number(v)}" for key, v in run.metrics.items())
        note = f" [{run.status}: {run.message}]" if run.message else ""
        print(f"{run.case} seed {run.seed}: {metrics}, {run.seconds:.1f} s{note}", flush=True)
    print(f"recorded in {out.expanduser().absolute()}")
    return int(failed)


def _report(options: argparse.Namespace) -> int:
    experiment = find_experiment(options.experiment)
    out = options.out or _default(options)
    if options.out is None and not out.exists() and (RESULTS / out.name).exists():
        out = RESULTS / out.name
    record = load_record(out, options.experiment)
    made = record.provenance
    print(f"{experiment.title}; recorded {made.date}, commit {made.commit}")
    width = max(map(len, experiment.cases))
    head = f"{'case':{width}s} {'par.':>5s} {'runs':>4s}  {'paper mean (stdev)':>22s}"
    print(f"{head}  ours mean (stdev)")
    for case in experiment.cases:
        runs = runs_of(record, case)
        if not runs:
            continue
        paper = record.paper.get(case)
        theirs = f"{paper.mean:.2e} ({paper.stdev:.2e})" if paper else "-"
        failed = sum(run.status != "completed" for run in runs)
        print(
            f"{case:{width}s} {runs[0].num_parameters:5d} {len(runs):4d}  {theirs:>22s}  "
            + "; ".join(f"{label}{_mean(runs, key)}" for key, label in experiment.labels.items())
            + (f"; {failed} diverged" if failed else "")
        )
    return 0


def _default(options: argparse.Namespace) -> Path:
    """Return the record of an experiment: the book's inside the repository, else one here."""
    name = f"{options.experiment}{'-quick' if options.quick else ''}.json"
    here = Path.cwd()
    inside = RESULTS.is_dir() and RESULTS.parents[1] in (here, *here.parents)
    return (RESULTS if inside else here) / name


def _mean(runs: list[RecordedRun], metric: str) -> str:
    values = [run.metrics.get(metric) for run in runs]
    finite = [v for v in values if v is not None]
    if len(finite) < len(values):
        return f"{len(values) - len(finite)} of {len(values)} not finite"
    spread = statistics.stdev(finite) if len(finite) > 1 else 0.0
    return f"{statistics.mean(finite):.2e} ({spread:.2e})"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3e}"


def _check_device(device: str) -> None:
    try:
        float(torch.zeros((), dtype=torch.float64, device=device))
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device must compute in float64 here, got {device!r} ({reason}): use cpu"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
