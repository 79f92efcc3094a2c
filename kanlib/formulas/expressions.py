"""Expressions with constants: their normal form, their fit to data, and which constants are simple.

Constants are the floating-point numbers of an expression. They are fitted together to all data by
damped Gauss-Newton steps (SciPy), with derivatives by SymPy. At a minimum of ``|r|^2`` their
covariance is s^2 (J^T J)^{-1} with ``s^2 = |r|^2 / (N - K)``, to first order in the errors of the
data. A constant close to a simple number, or to a quarter turn, becomes that number if the fit gets
no worse than its errors explain.
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import sympy
from scipy.optimize import least_squares

Array = np.ndarray[Any, Any]

#: Squares of residuals below this share of the variance of the data, or of their mean square, are
#: rounding.
ROUNDING, EPSILON = 1e-20, 1e-30
#: How near to a simple number a constant of exact data must be.
NEAR = 1e-4
#: Standard errors within which a constant may be a simple number.
ERRORS = 4.0
#: The largest distance between the two.
LARGEST = 0.1
#: How many times as long an expression may become by being multiplied out.
LONGER = 2


@dataclass(frozen=True, eq=False)
class Fitted:
    """An expression in symbols and constants, fitted to data.

    Attributes:
        template: the expression with symbols for its constants.
        constants: these symbols.
        values: their values.
        errors: their standard errors, infinite where data do not determine a constant.
        loss: mean square of the residuals.
    """

    template: sympy.Expr
    constants: tuple[sympy.Symbol, ...]
    values: Array
    errors: Array
    loss: float

    @property
    def expression(self) -> sympy.Expr:
        """The expression with numbers for its constants."""
        return self.template.xreplace(
            {c: sympy.Float(float(v)) for c, v in zip(self.constants, self.values, strict=True)}
        )


def rounding(y: Array) -> float:
    """Return the mean square of residuals that are only rounding, a positive number."""
    own = max(ROUNDING * float(y.var()), EPSILON * float(np.mean(y**2)))
    return max(own, float(np.finfo(float).tiny))


def tidy(expression: sympy.Expr) -> sympy.Expr:
    """Return an expression with exponentials joined, and multiplied out if it stays short."""
    found = sympy.powsimp(sympy.expand_power_exp(expression), combine="all")
    expanded = sympy.expand_mul(found) if found.is_Add else found
    return expanded if expanded.count_ops() <= LONGER * found.count_ops() else found


def scaled(expression: sympy.Expr, signed: bool) -> tuple[sympy.Expr, sympy.Expr]:
    """Return a factor and the rest of a sum, whose largest term that is no constant has factor one.

    Args:
        expression: the sum.
        signed: whether the factor may be negative.
    """
    terms = sympy.Add.make_args(sympy.expand_mul(expression))
    varying = [term for term in terms if term.free_symbols]
    if not varying:
        return sympy.Integer(1), expression
    term = max(varying, key=lambda term: abs(term.as_coeff_Mul()[0]))
    factor, rest = term.as_coeff_Mul()
    if factor < 0 and not signed:
        factor, rest = -factor, -rest
    return factor, rest + sympy.Add(*(each / factor for each in terms if each is not term))


def fit(expression: sympy.Expr, symbols: Any, x: Array, y: Array, steps: int = 200) -> Fitted:
    """Fit the floating-point constants of an expression to data.

    Args:
        expression: the expression, whose floating-point numbers are where the fit starts.
        symbols: symbols of the P inputs.
        x: inputs, (N, P).
        y: targets, (N,).
        steps: evaluations at most.
    """
    template, constants, start = _template(expression, {s.name for s in symbols})
    columns = [*x.T]
    slopes = [sympy.diff(template, c) for c in constants]
    function = sympy.lambdify([*symbols, *constants], [template, *slopes], "numpy", cse=True)
    size, scale = len(y), float(y.std()) or 1.0

    def evaluated(values: Array) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            parts = [np.broadcast_to(part, size) for part in function(*columns, *values)]
        found = np.stack(parts).astype(complex if any(map(np.iscomplexobj, parts)) else float)
        good = np.isfinite(found).all(0) & (abs(found.imag) == 0).all(0)
        found = np.where(good, found.real, 0.0)
        residual = np.where(good, found[0] - y, 10 * scale)
        return residual, found[1:].T

    values = np.array(start)
    residual, rows = evaluated(values)
    if len(values) and size >= len(values):
        result = least_squares(
            lambda v: evaluated(v)[0],
            values,
            lambda v: evaluated(v)[1],
            method="lm",
            x_scale="jac",
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
            max_nfev=steps,
        )
        if result.cost <= 0.5 * float(residual @ residual):
            values = result.x
            residual, rows = evaluated(values)
    loss = float(residual @ residual) / size
    return Fitted(template, constants, values, _errors(rows, loss), loss)


def _errors(rows: Array, loss: float) -> Array:
    """Return the standard errors of constants from the rows of their Jacobian."""
    size, columns = rows.shape
    if not columns:
        return np.zeros(0)
    lengths = np.linalg.norm(rows, axis=0)
    lengths = np.where(lengths > 0, lengths, 1.0)
    _, s, v = np.linalg.svd(rows / lengths, full_matrices=False)
    used = s > 1e-12 * s[0]
    inverse = ((v[used] / s[used, None]) ** 2).sum(0)
    unseen = (v[~used] ** 2).sum(0) > 1e-8
    variance = loss * size / max(size - columns, 1)
    return np.where(unseen, np.inf, np.sqrt(variance * inverse) / lengths)


def _template(
    expression: sympy.Expr, taken: Container[str] = ()
) -> tuple[sympy.Expr, tuple[Any, ...], list[float]]:
    """Return an expression with a symbol for each floating-point number, and the numbers."""
    free = (name for i in count(1) if (name := f"c{i}") not in taken)
    names: list[Any] = []
    start: list[float] = []

    def walk(part: Any) -> Any:
        if isinstance(part, sympy.Float):
            names.append(sympy.Symbol(next(free), real=True))
            start.append(float(part))
            return names[-1]
        return part.func(*map(walk, part.args)) if part.args else part

    return walk(expression), tuple(names), start


def simple(value: float, reach: float) -> sympy.Expr | None:
    """Return the half integer, or the third, within reach of a number, the simplest first."""
    for denominator in (1, 2, 3):
        nearest = round(value * denominator)
        if abs(value - nearest / denominator) <= reach and abs(nearest) <= 12:
            return sympy.Rational(nearest, denominator)
    return None


def turns(value: float, reach: float) -> sympy.Expr | None:
    """Return the multiple of a quarter turn, pi / 2, within reach of a number, up to a turn."""
    count = round(value / (math.pi / 2))
    if 0 < abs(count) <= 4 and abs(value - count * math.pi / 2) <= reach:
        return count * sympy.pi / 2
    return None


def simplified(fitted: Fitted, symbols: Any, x: Array, y: Array) -> Fitted:
    """Return the fit with as few terms, and as many simple numbers, as the data allow.

    First, terms of sums are left out that the data do not need, those with most constants first.
    One number after the other, that which is nearest in units of its error first, is put in and
    the rest fitted anew. It stays if log(loss) grows by no more than log(N) / N, which is what one
    constant is worth by the Bayesian information criterion.
    """
    size, floor = len(y), rounding(y)
    allowed = np.log(size) / size
    fitted = _shortened(fitted, symbols, x, y)
    refused: set[tuple[float, Any]] = set()
    while True:
        for c, value, number in _near(fitted):
            tried = float(f"{value:.2g}"), number
            if tried in refused:
                continue
            refused.add(tried)
            numbers = dict(zip(fitted.constants, map(sympy.Float, fitted.values), strict=True))
            try:
                other = fit(tidy(fitted.template.xreplace(numbers | {c: number})), symbols, x, y)
            except (TypeError, ValueError, ZeroDivisionError):  # such as 1 / 0
                continue
            if np.log(max(other.loss, floor) / max(fitted.loss, floor)) <= allowed:
                fitted = other
                refused.discard(tried)
                break
        else:
            return fitted


def _shortened(fitted: Fitted, symbols: Any, x: Array, y: Array) -> Fitted:
    """Return the fit without the terms of sums that are not worth their constants."""
    size, floor = len(y), rounding(y)
    while True:
        for expression, saved in _shorter(fitted.expression):
            other = fit(expression, symbols, x, y)
            growth = np.log(max(other.loss, floor) / max(fitted.loss, floor))
            if growth <= saved * np.log(size) / size:
                fitted = other
                break
        else:
            return fitted


def _shorter(expression: sympy.Expr) -> list[tuple[sympy.Expr, int]]:
    """Return an expression without one term of a sum, and the constants that this saves."""
    found = []
    for total in sorted(expression.atoms(sympy.Add), key=sympy.count_ops, reverse=True):
        for term in total.args:
            rest = total.func(*(each for each in total.args if each is not term))
            constants = len(_template(term)[1])
            if term.free_symbols and rest.free_symbols and constants:
                found.append((expression.xreplace({total: rest}), constants))
    return sorted(found, key=lambda each: -each[1])


def _near(fitted: Fitted) -> list[tuple[sympy.Symbol, float, sympy.Expr]]:
    """Return the constants that are close to simple numbers, the nearest first."""
    found = []
    for c, value, error in zip(fitted.constants, fitted.values, fitted.errors, strict=True):
        known = ERRORS * error if np.isfinite(error) else 0.0  # any number would do: keep this one
        reach = min(max(known, NEAR * max(1.0, abs(value))), LARGEST)
        for number in (simple(float(value), reach), turns(float(value), reach)):
            if number is not None:
                found.append((abs(value - float(number)) / max(error, 1e-12), c, value, number))
    return [(c, value, number) for _, c, value, number in sorted(found, key=lambda each: each[0])]
