"""Regression on five tables: kanlib, trees, a perceptron, a linear function, and pykan.

The tables are those that scikit-learn ships or makes, with noise: that of Friedman's functions is
what he gave them, a third of the spread of the values or less. Every regressor has one setting for
all tables. Each is scored by three folds with three seeds, which shuffle the rows and start the
training. pykan is used as its documentation does, with five hidden units and 20 steps of LBFGS from
standardised values, and with the two units that the network of kanlib has; a fit of it that has
used ``LIMIT`` seconds ends with what it has. Seconds are those of the processor for a fit, on one
thread.

    python -m benchmarks.tables [--only pykan] [--seeds 0 1 2] [--rows 500] [--out FILE]

Runs that the file has are not repeated, so that it can be stopped and started again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.datasets import (
    load_diabetes,
    make_friedman1,
    make_friedman2,
    make_friedman3,
    make_swiss_roll,
)
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks.formulas import limited
from kanlib.estimators.regression import KANRegressor
from kanlib.paper.records import provenance
from kanlib.training.files import write_atomically

RECORD = Path(__file__).resolve().parents[1] / "book" / "results" / "tables.json"
ROWS, SEEDS, FOLDS = 500, (0, 1, 2), 3
#: Seconds of the processor for a fit of pykan.
LIMIT = 60.0
#: Hidden units of pykan.
UNITS = {"pykan": 5, "pykan, two units": 2}
REGRESSORS = ("KANRegressor", "gradient boosting", "perceptron", "ridge regression", *UNITS)


class Pykan(RegressorMixin, BaseEstimator):
    """The network of pykan with one hidden layer, in float64."""

    def __init__(self, seed: int = 0, hidden: int = 5, steps: int = 20) -> None:
        self.seed, self.hidden, self.steps = seed, hidden, steps

    def fit(self, X: np.ndarray, y: np.ndarray) -> Pykan:
        """Train with inputs (N, P) and targets (N,)."""
        import kan

        self.inputs_ = StandardScaler().fit(X)
        self.targets_ = StandardScaler().fit(y[:, None])
        x = torch.from_numpy(self.inputs_.transform(X))
        z = torch.from_numpy(self.targets_.transform(y[:, None]))
        points = {"train_input": x, "train_label": z, "test_input": x, "test_label": z}
        self.whole_ = False
        with doubles(), contextlib.redirect_stderr(io.StringIO()), limited(LIMIT):
            widths = [x.shape[1], self.hidden, 1]
            self.model_ = kan.KAN(width=widths, grid=3, k=3, seed=self.seed, auto_save=False)
            self.model_.fit(points, opt="LBFGS", steps=self.steps)
            self.whole_ = True
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return values (N,)."""
        with doubles(), torch.no_grad():
            values = self.model_(torch.from_numpy(self.inputs_.transform(X)))
        return self.targets_.inverse_transform(values.numpy())[:, 0]


@contextlib.contextmanager
def doubles() -> Iterator[None]:
    """Make float64 torch's default, since pykan has no argument for it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def tables(rows: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return inputs (N, P) and targets (N,) of each table."""
    x, y = load_diabetes(return_X_y=True)
    return {
        "diabetes": (x[:rows], y[:rows]),
        "Friedman 1": make_friedman1(rows, noise=1.0, random_state=0),
        "Friedman 2": make_friedman2(rows, noise=125.0, random_state=0),
        "Friedman 3": make_friedman3(rows, noise=0.1, random_state=0),
        "Swiss roll": make_swiss_roll(rows, noise=0.5, random_state=0),
    }


def regressor(name: str, seed: int) -> Any:
    """Return an estimator in its one setting."""
    if name == "KANRegressor":
        return KANRegressor(
            hidden=(2,),
            n=2,
            r=3,
            schedule=(20, 10),
            early_stopping=True,
            validation_fraction=0.2,
            random_state=seed,
        )
    if name == "gradient boosting":
        return HistGradientBoostingRegressor(random_state=seed)
    if name == "perceptron":
        perceptron = MLPRegressor(
            hidden_layer_sizes=(50,),
            learning_rate_init=0.01,
            max_iter=500,
            early_stopping=True,
            random_state=seed,
        )
        return make_pipeline(StandardScaler(), perceptron)
    if name == "ridge regression":
        return make_pipeline(StandardScaler(), RidgeCV())
    return Pykan(seed, UNITS[name])


def solve(name: str, x: np.ndarray, y: np.ndarray, seed: int) -> dict[str, Any]:
    """Return the explained share of the variance and the seconds of each fold."""
    scores, seconds, cut = [], [], 0
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(x):
        model = regressor(name, seed)
        began = time.process_time()
        model.fit(x[train], y[train])
        seconds.append(round(time.process_time() - began, 4))
        scores.append(round(float(model.score(x[test], y[test])), 5))
        cut += not getattr(model, "whole_", True)
    return {"scores": scores, "seconds": seconds, "fits at the limit": cut}


def main(arguments: list[str] | None = None) -> None:
    """Run what the record lacks, seed after seed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables")
    parser.add_argument("--only", nargs="*", choices=REGRESSORS, default=[*REGRESSORS])
    parser.add_argument("--seeds", type=int, nargs="*", default=[*SEEDS])
    parser.add_argument("--rows", type=int, default=ROWS, help="of each table, at most")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    content: dict[str, Any] = {"schema": 1, "experiment": "tables", "runs": []}
    if options.out.exists():
        content = json.loads(options.out.read_text(encoding="utf-8"))
    made_by = asdict(provenance("benchmarks"))
    before = content.get("provenance", {}).get("versions", {})  # of runs that this one leaves alone
    made_by["versions"] = {**before, **made_by["versions"], "scikit-learn": version("scikit-learn")}
    if {*UNITS} & {*options.only}:
        made_by["versions"]["pykan"] = version("pykan")
    known = {(run["table"], run["regressor"], run["seed"]) for run in content["runs"]}
    for seed in options.seeds:
        for table, (x, y) in tables(options.rows).items():
            for name in options.only:
                if (table, name, seed) in known:
                    continue
                with threadpool_limits(1):
                    found = solve(name, x, y, seed)
                shape = {"table": table, "rows": len(x), "inputs": x.shape[1]}
                run = {**shape, "regressor": name, "seed": seed, **found}
                content["runs"].append({**run, "commit": made_by["commit"]})
                content["provenance"] = made_by  # of the newest run
                write_atomically(options.out, (json.dumps(content, indent=1) + "\n").encode())
                print(table, name, seed, found["scores"], found["seconds"], flush=True)


if __name__ == "__main__":
    main()
