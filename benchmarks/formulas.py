"""Formulas found from data made by formulas: those of the Feynman Lectures in the KAN paper.

Each formula of ``FORMULAS``, after table 2 of arXiv 2404.19756, gives 300 points, uniform in a box
that we choose, without noise or with noise of 1 % of the standard deviation. The same three shapes
of networks are tried for each, a sum, a function of a sum, and two of these added; six starts are
raced, the best is trained by Gauss-Newton over three levels, pruned and turned into a formula. The
formula with the smallest loss on 100 points that were held out is the answer, the shorter where
losses are within 10 %, or all are rounding.

A formula counts as recovered if it can be the truth: its form, with its constants fitted anew to
exact values, is within 1e-6 of the truth at 400 other points, in units of the standard deviation.
For data without noise the constants must be there already.

    python -m benchmarks.formulas [--seeds 1234 1235 1236] [--out FILE]

Runs that the file has are not repeated, so that it can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import sympy
import torch

from kanlib import KAN, GaussNewton, MeanSquaredError, race
from kanlib.analysis.pruning import prune
from kanlib.formulas.expressions import fit
from kanlib.formulas.formula import Formula, formula
from kanlib.paper.records import provenance
from kanlib.training.files import write_atomically

RECORD = Path(__file__).resolve().parents[1] / "book" / "results" / "formulas.json"
NOISE = (0.0, 0.01)
POINTS, HELD_OUT, FRESH = 300, 100, 400
STARTS = 6
#: Error below which a formula is the truth.
EXACT = 1e-6
WIDE, UNIT, ANGLE = (0.5, 2.0), (0.1, 0.9), (0.3, 2.8)
#: The formulas, their number in the lectures, and an interval for each variable, in their order.
FORMULAS: dict[str, tuple[str, dict[str, tuple[float, float]]]] = {
    "I.6.2": ("exp(-t**2/(2*s**2))/sqrt(2*pi*s**2)", {"t": (-2, 2), "s": WIDE}),
    "I.6.2b": (
        "exp(-(t-u)**2/(2*s**2))/sqrt(2*pi*s**2)",
        {"t": (-1, 1), "u": (-1, 1), "s": WIDE},
    ),
    "I.9.18": (
        "a/((b-1)**2+(c-d)**2+(e-f)**2)",
        {"a": WIDE, "b": (2, 3), "c": (1, 2), "d": (0, 1), "e": (1, 2), "f": (0, 1)},
    ),
    "I.12.11": ("1+a*sin(t)", {"a": WIDE, "t": ANGLE}),
    "I.13.12": ("a*(1/b-1)", {"a": WIDE, "b": WIDE}),
    "I.15.3x": ("(1-a)/sqrt(1-b**2)", {"a": UNIT, "b": UNIT}),
    "I.16.6": ("(a+b)/(1+a*b)", {"a": UNIT, "b": UNIT}),
    "I.18.4": ("(1+a*b)/(1+a)", {"a": WIDE, "b": WIDE}),
    "I.26.2": ("asin(n*sin(t))", {"n": UNIT, "t": (0.2, 1.4)}),
    "I.27.6": ("1/(1+a*b)", {"a": WIDE, "b": WIDE}),
    "I.29.16": ("sqrt(1+a**2-2*a*cos(t-u))", {"a": WIDE, "t": (0, 3), "u": (0, 3)}),
    "I.30.3": ("sin(n*t/2)**2/sin(t/2)**2", {"n": (1, 4), "t": (0.5, 2.5)}),
    "I.30.5": ("asin(a/n)", {"a": UNIT, "n": (1.0, 2.0)}),
    "I.37.4": ("1+a+2*sqrt(a)*cos(d)", {"a": WIDE, "d": (0, 3)}),
    "I.40.1": ("n*exp(-a)", {"n": WIDE, "a": WIDE}),
    "I.44.4": ("n*log(a)", {"n": WIDE, "a": (1.2, 4.0)}),
    "I.50.26": ("cos(a)+b*cos(a)**2", {"a": (0, 3), "b": UNIT}),
    "II.2.42": ("(a-1)*b", {"a": (1.2, 3.0), "b": WIDE}),
    "II.6.15a": ("c*sqrt(a**2+b**2)/(4*pi)", {"a": WIDE, "b": WIDE, "c": WIDE}),
    "II.11.7": ("n*(1+a*cos(t))", {"n": WIDE, "a": UNIT, "t": (0, 3)}),
    "II.11.27": ("n*a/(1-n*a/3)", {"n": UNIT, "a": WIDE}),
    "II.35.18": ("n/(exp(a)+exp(-a))", {"n": WIDE, "a": (-2, 2)}),
    "II.36.38": ("a+b*c", {"a": WIDE, "b": WIDE, "c": WIDE}),
    "II.38.3": ("a/b", {"a": WIDE, "b": WIDE}),
    "III.9.52": ("a*sin((b-c)/2)**2/((b-c)/2)**2", {"a": WIDE, "b": (2, 4), "c": (0, 1)}),
    "III.10.19": ("sqrt(1+a**2+b**2)", {"a": (-2, 2), "b": (-2, 2)}),
    "III.17.37": ("b*(1+a*cos(t))", {"b": WIDE, "a": UNIT, "t": (0, 3)}),
}


def shapes(inputs: int) -> list[list[int]]:
    """Return the widths that are tried."""
    return [[inputs, 1], [inputs, 1, 1], [inputs, 2, 1]]


class Data:
    """Points and values of a formula: for training, held out, and fresh ones without noise."""

    def __init__(self, name: str, noise: float, seed: int) -> None:
        text, box = FORMULAS[name]
        self.names, self.box = [*box], [*box.values()]
        truth = sympy.sympify(text, {n: sympy.Symbol(n) for n in self.names})
        self.operations = int(sympy.count_ops(truth))
        function = sympy.lambdify([sympy.Symbol(n) for n in self.names], truth, "numpy")
        generator = np.random.default_rng([seed, [*FORMULAS].index(name)])
        low, high = np.array(self.box, dtype=float).T
        x = low + (high - low) * generator.random((POINTS + HELD_OUT + FRESH, len(box)))
        exact = function(*x.T)
        self.scale = float(exact.std())
        y = exact + noise * self.scale * generator.standard_normal(len(x))
        parts = slice(POINTS), slice(POINTS, -FRESH), slice(-FRESH, None)
        self.x, self.held_x, self.fresh_x = (x[part] for part in parts)
        self.y, self.held_y, _ = (y[part] for part in parts)
        self.exact, _, self.fresh_y = (exact[part] for part in parts)

    def error(self, expression: Any, symbols: Any, fresh: bool) -> float:
        """Return the error of an expression at fresh points, or at those held out."""
        x, y = (self.fresh_x, self.fresh_y) if fresh else (self.held_x, self.held_y)
        with np.errstate(all="ignore"):
            found = sympy.lambdify(symbols, expression, "numpy")(*x.T)
        error = float(np.sqrt(np.mean(np.abs(found - y) ** 2))) / self.scale
        return error if np.isfinite(error) else float("inf")


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


def solve(name: str, noise: float, seed: int) -> dict[str, Any]:
    """Return the record of one run."""
    begin = time.process_time()
    data = Data(name, noise, seed)
    answers: list[tuple[float, Formula, list[int]]] = []
    for widths in shapes(len(data.names)):
        model = network(data, widths, seed)
        x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)[:, None]
        found = formula(model, x, y, names=data.names, tries=5)
        held_out = data.error(found.expression, found.symbols, fresh=False)
        answers.append((held_out, found, widths))
        if held_out < EXACT:
            break
    lowest = min(held_out for held_out, *_ in answers)
    good = [each for each in answers if each[0] <= max(1.1 * lowest, EXACT)]
    held_out, found, widths = min(good, key=lambda each: sympy.count_ops(each[1].template))
    error = data.error(found.expression, found.symbols, fresh=True)
    form = error
    if noise:
        again = fit(found.expression, found.symbols, data.x, data.exact, steps=1000)
        form = data.error(again.expression, found.symbols, fresh=True)
    return {
        "formula": name,
        "noise": noise,
        "seed": seed,
        "found": str(found.expression),
        "latex": found.latex(),
        "widths": widths,
        "constants": len(found.constants),
        "operations": int(sympy.count_ops(found.expression)),
        "operations_of_truth": data.operations,
        "network_error": found.network,
        "held_out_error": held_out,
        "error": error,
        "form_error": form,
        "recovered": bool(form < EXACT),
        "seconds": time.process_time() - begin,
    }


def main(arguments: list[str] | None = None) -> None:
    """Run what the record lacks, seed after seed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.formulas")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1234, 1235, 1236])
    parser.add_argument("--only", nargs="*", default=[*FORMULAS], help="some of the formulas")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    content: dict[str, Any] = {"experiment": "formulas", "runs": []}
    if options.out.exists():
        content = json.loads(options.out.read_text(encoding="utf-8"))
        for run in content["runs"]:
            run.setdefault("commit", content["provenance"]["commit"])
    made_by = asdict(provenance("benchmarks"))
    made_by["versions"]["sympy"] = sympy.__version__
    known = {(run["formula"], run["noise"], run["seed"]) for run in content["runs"]}
    for seed in options.seeds:
        for name in options.only:
            for noise in NOISE:
                if (name, noise, seed) in known:
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)
                    run = solve(name, noise, seed)
                content["runs"].append({**rounded(run), "commit": made_by["commit"]})
                content["provenance"] = made_by  # of the newest run
                write_atomically(options.out, (json.dumps(content, indent=1) + "\n").encode())
                print(
                    f"{name:<9} {noise:<5} {seed} {run['seconds']:6.1f} s "
                    f"{'recovered' if run['recovered'] else '         '} {run['form_error']:.1e} "
                    f"{run['widths']} {run['latex'][:90]}",
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
