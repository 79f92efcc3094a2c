"""Formulas found from data made by formulas: those of the Feynman Lectures in the KAN paper.

Each formula of ``FORMULAS``, after table 2 of arXiv 2404.19756, gives 300 points, uniform in a box
that we choose, without noise or with noise of 1 % of the standard deviation. The same three shapes
of networks are tried for each, a sum, a function of a sum, and two of these added; six starts are
raced, the best is trained by Gauss-Newton over three levels, pruned and turned into a formula. The
formula with the smallest loss on 100 points that were held out is the answer, the shorter where
losses are within 10 %, or all are rounding. pykan gets the same data, see
:mod:`benchmarks.pykan_formulas`. A run that has used ``LIMIT`` seconds of the processor ends with
what it has.

A formula counts as recovered if it can be the truth: its form, with its constants fitted anew to
exact values, is within 1e-6 of the truth at 400 other points, in units of the standard deviation.
For data without noise the constants must be there already.

    python -m benchmarks.formulas [--library pykan] [--seeds 1234 1235 1236] [--out FILE]

Runs that the file has are not repeated, so that it can be stopped and started again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import sympy
import torch

from benchmarks import pykan_formulas
from benchmarks.laws import EXACT, FORMULAS, Answer, Data, shapes
from kanlib import KAN, GaussNewton, MeanSquaredError, race
from kanlib.analysis.pruning import prune
from kanlib.formulas.expressions import fit
from kanlib.formulas.formula import formula
from kanlib.paper.records import provenance
from kanlib.training.files import write_atomically

RESULTS = Path(__file__).resolve().parents[1] / "book" / "results"
RECORDS = {"kanlib": RESULTS / "formulas.json", "pykan": RESULTS / "formulas-pykan.json"}
NOISE = (0.0, 0.01)
STARTS = 6
#: Seconds of the processor for a run.
LIMIT = 40.0


def network(data: Data, widths: list[int], seed: int) -> KAN:
    """Train a network of some widths: the best of several starts, over three levels."""
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)[:, None]
    normalisation = "tanh" if len(widths) > 2 else None
    starts = []
    for start in range(STARTS if len(widths) > 2 else 1):
        torch.manual_seed(100 * seed + start)
        starts.append(
            KAN(
                widths,
                n=4,
                domain=(-1, 1),
                input_domain=data.box,
                init_scale=0.3,
                normalisation=normalisation,  # type: ignore[arg-type]
                dtype=torch.float64,
            )
        )
    objective = MeanSquaredError(x, y)
    run = race(
        starts, objective, [12, 15, 12], keep=[1, 1], optimizer=GaussNewton(), progress=False
    )
    return prune(run.model, objective, threshold=2e-3).model


def answers(data: Data, seed: int) -> Iterator[Answer]:
    """Yield the formula that each shape of our networks gives."""
    for widths in shapes(len(data.names)):
        model = network(data, widths, seed)
        x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)[:, None]
        found = formula(model, x, y, names=data.names, tries=5)
        yield Answer(found.expression, found.symbols, len(found.constants), found.network, widths)


class OutOfTime(BaseException):
    """The limit of a run is reached; no handler of errors is to catch it."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End what is inside after some seconds of the processor."""

    def stop(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)  # again and again, should somebody catch it
    try:
        yield
    except OutOfTime:
        pass
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


LIBRARIES: dict[str, Callable[[Data, int], Iterator[Answer]]] = {
    "kanlib": answers,
    "pykan": pykan_formulas.answers,
}


def solve(library: str, name: str, noise: float, seed: int) -> dict[str, Any]:
    """Return the record of one run."""
    begin = time.process_time()
    data = Data(name, noise, seed)
    rated: list[tuple[float, Answer]] = []
    with limited(LIMIT):
        for answer in LIBRARIES[library](data, seed):
            rated.append((data.error(answer.expression, answer.symbols, fresh=False), answer))
            if rated[-1][0] < EXACT:
                break
    shape = {"formula": name, "noise": noise, "seed": seed}
    seconds = {"shapes": len(rated), "seconds": time.process_time() - begin}
    if not rated:
        return {**shape, "recovered": False, **seconds}
    lowest = min(held_out for held_out, _ in rated)
    good = [each for each in rated if each[0] <= max(1.1 * lowest, EXACT)]
    held_out, found = min(good, key=lambda each: sympy.count_ops(each[1].expression))
    error = data.error(found.expression, found.symbols, fresh=True)
    form = error
    if noise:
        again = fit(found.expression, found.symbols, data.x, data.exact, steps=1000)
        form = data.error(again.expression, found.symbols, fresh=True)
    digits = {f: sympy.Float(f, 4) for f in found.expression.atoms(sympy.Float)}
    return {
        **shape,
        "found": str(found.expression),
        "latex": sympy.latex(found.expression.xreplace(digits)),
        "widths": found.widths,
        "constants": found.constants,
        "operations": int(sympy.count_ops(found.expression)),
        "operations_of_truth": data.operations,
        "network_error": found.network_error,
        "held_out_error": held_out,
        "error": error,
        "form_error": form,
        "recovered": bool(form < EXACT),
        **seconds,
    }


def main(arguments: list[str] | None = None) -> None:
    """Run what the record lacks, seed after seed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.formulas")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1234, 1235, 1236])
    parser.add_argument("--only", nargs="*", default=[*FORMULAS], help="some of the formulas")
    parser.add_argument("--noise", type=float, nargs="*", choices=NOISE, default=[*NOISE])
    parser.add_argument("--library", choices=LIBRARIES, default="kanlib")
    parser.add_argument("--out", type=Path, help="default: the record of the book")
    options = parser.parse_args(arguments)
    out = options.out or RECORDS[options.library]
    torch.set_num_threads(1)
    content: dict[str, Any] = {"experiment": "formulas", "library": options.library, "runs": []}
    if out.exists():
        content = json.loads(out.read_text(encoding="utf-8"))
        for run in content["runs"]:
            run.setdefault("commit", content["provenance"]["commit"])
    made_by = asdict(provenance("benchmarks"))
    made_by["versions"]["sympy"] = sympy.__version__
    if options.library != "kanlib":
        made_by["versions"][options.library] = version(options.library)
    known = {(run["formula"], run["noise"], run["seed"]) for run in content["runs"]}
    for seed in options.seeds:
        for noise in options.noise:
            for name in options.only:
                if (name, noise, seed) in known:
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)
                    run = solve(options.library, name, noise, seed)
                content["runs"].append({**rounded(run), "commit": made_by["commit"]})
                content["provenance"] = made_by  # of the newest run
                write_atomically(out, (json.dumps(content, indent=1) + "\n").encode())
                print(
                    f"{name:<9} {noise:<5} {seed} {run['seconds']:6.1f} s "
                    f"{'recovered' if run['recovered'] else '         '} "
                    f"{run.get('form_error', np.inf):.1e} "
                    f"{run.get('widths')} {run.get('latex', '')[:90]}",
                    flush=True,
                )


def rounded(run: dict[str, Any]) -> dict[str, Any]:
    """Return a run with four digits of each number; infinity becomes null."""

    def short(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.4g}") if np.isfinite(value) else None
        return value

    return {key: short(value) for key, value in run.items()}


if __name__ == "__main__":
    main()
