"""Laws to be found from data: formulas of the Feynman Lectures, and points made from them.

The formulas are those of table 2 of arXiv 2404.19756, the boxes of their variables are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy

POINTS, HELD_OUT, FRESH = 300, 100, 400
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
        self.symbols = tuple(
            sympy.Symbol(n, positive=True) if low > 0 else sympy.Symbol(n, real=True)
            for n, (low, _) in box.items()
        )
        truth = sympy.sympify(text, dict(zip(self.names, self.symbols, strict=True)))
        self.operations = int(sympy.count_ops(truth))
        function = sympy.lambdify(self.symbols, truth, "numpy")
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


@dataclass(frozen=True, eq=False)
class Answer:
    """What a library says about data.

    Attributes:
        expression: a formula, a SymPy expression.
        symbols: its variables.
        constants: how many constants were fitted.
        network_error: error of the network before it became a formula, over the training data, in
            units of their standard deviation.
        widths: the shape of the network.
    """

    expression: Any
    symbols: tuple[Any, ...]
    constants: int
    network_error: float
    widths: list[int]
