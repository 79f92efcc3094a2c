"""Formulas by pykan, by the recipe of its documentation, from the data of the benchmark.

Steps and numbers are those of its first tutorial: train 50 steps of LBFGS with a penalty, prune,
train, refine to ten intervals, train, let ``auto_symbolic`` choose a function for each edge, and
train the constants. The network has one hidden unit, which is enough for most of what kanlib
recovers; with the five of the tutorial a run takes longer than the limit. In favour of pykan, it
chooses among the functions that kanlib has, in float64, and its constants are polished by the fit
of kanlib.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from typing import Any

import sympy
import torch

from benchmarks.laws import Answer, Data
from kanlib.formulas.expressions import fit

STEPS = 50
PENALTY = 1e-3
COARSE, FINE = 3, 10
#: The functions of kanlib's library, by their names in pykan.
FUNCTIONS = [
    *("x", "x^2", "x^3", "x^4", "1/x", "1/x^2", "sqrt", "1/sqrt(x)", "exp", "log"),
    *("sin", "tanh", "gaussian", "arcsin", "arctan", "arctanh"),
]


def answers(data: Data, seed: int) -> Iterator[Answer]:
    """Yield the formula of pykan, if it has one."""
    torch.set_default_dtype(torch.float64)  # pykan has no argument for it
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        found = _answer(data, [len(data.names), 1, 1], seed, folder)
    if found is not None:
        yield found


def _answer(data: Data, widths: list[int], seed: int, folder: str) -> Answer | None:
    """Return the formula of one network, or None if pykan has none."""
    import kan

    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)[:, None]
    points = {"train_input": x, "train_label": y, "test_input": x, "test_label": y}
    model = kan.KAN(width=[*widths], grid=COARSE, k=3, seed=seed, ckpt_path=f"{folder}/model")
    try:
        model.fit(points, opt="LBFGS", steps=STEPS, lamb=PENALTY)
        model = model.prune()
        model.fit(points, opt="LBFGS", steps=STEPS)
        model = model.refine(FINE)
        model.fit(points, opt="LBFGS", steps=STEPS)
        error = float((model(x) - y).detach().square().mean().sqrt()) / data.scale
        model.auto_symbolic(lib=FUNCTIONS, verbose=0)
        model.fit(points, opt="LBFGS", steps=STEPS)
        symbols = data.symbols
        expression: Any = model.symbolic_formula(var=[*symbols])[0][0]
    except (IndexError, NameError, RuntimeError, TypeError, ValueError):  # all pruned, or NaN
        return None
    if not isinstance(expression, sympy.Expr) or expression.has(sympy.nan, sympy.zoo, sympy.oo):
        return None
    polished = fit(expression, symbols, data.x, data.y)
    return Answer(polished.expression, symbols, len(polished.constants), error, widths)
