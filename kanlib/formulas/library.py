"""A small library of functions, and how each is fitted: c f(a x + b) + d.

For given a and b the best c and d follow from a linear problem, and often an argument needs one
number only. A power of a x + b is a multiple of one of x + b / a, an exponential absorbs b, and a
sine of any phase is a sum of a sine and a cosine. What is left, one number or two, is searched on
a grid and then refined: variable projection (Golub and Pereyra, doi 10.1137/0710036).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
from scipy.optimize import minimize, minimize_scalar

__all__ = ["LIBRARY", "Fit", "Function", "fits"]

#: Largest and smallest distance of a singularity from the range of x, in units of its length.
FAR, NEAR = 1e2, 1e-6
#: Candidates for the number that is searched.
GRID = 60


@dataclass(frozen=True)
class Function:
    """A function of the library.

    Attributes:
        name: its name.
        complexity: what it counts in a ranking; 1 for a straight line.
        values: the function on arrays.
        symbolic: the function on SymPy expressions. A formula can be pickled if this and values
            can, as functions of a module.
        arguments: how its argument a x + b is searched, a key of ``SEARCHES``.

    Examples:
        >>> import sympy
        >>> gaussian = Function(
        ...     "gaussian", 2, lambda u: np.exp(-(u**2)), lambda u: sympy.exp(-(u**2)), "both"
        ... )
        >>> x = np.linspace(0, 1, 50)
        >>> fits(x, np.exp(-((3 * x - 1) ** 2)), np.ones(50), functions=[gaussian])[0].name
        'gaussian'
    """

    name: str
    complexity: int
    values: Callable[[Any], Any]
    symbolic: Callable[[Any], Any]
    arguments: str


@dataclass(frozen=True)
class _Power:
    """A power, which can be pickled, as a local function cannot."""

    exponent: Any

    def __call__(self, u: Any) -> Any:
        return u**self.exponent


def _gaussian(u: Any) -> Any:
    return np.exp(-(u**2))


def _symbolic_gaussian(u: Any) -> Any:
    return sympy.exp(-(u**2))


_HALF = sympy.Rational(1, 2)
#: The functions that are tried for every edge.
LIBRARY = (
    Function("square", 2, _Power(2.0), _Power(2), "centre"),
    Function("sqrt", 2, np.sqrt, _Power(_HALF), "positive"),
    Function("inverse", 2, _Power(-1.0), _Power(-1), "positive"),
    Function("exp", 2, np.exp, sympy.exp, "rate"),
    Function("log", 2, np.log, sympy.log, "positive"),
    Function("sin", 2, np.sin, sympy.sin, "frequency"),
    Function("cube", 3, _Power(3.0), _Power(3), "centre"),
    Function("fourth power", 3, _Power(4.0), _Power(4), "centre"),
    Function("inverse square", 3, _Power(-2.0), _Power(-2), "positive"),
    Function("inverse sqrt", 3, _Power(-0.5), _Power(-_HALF), "positive"),
    Function("tanh", 3, np.tanh, sympy.tanh, "both"),
    Function("gaussian", 3, _gaussian, _symbolic_gaussian, "both"),
    Function("arcsin", 3, np.arcsin, sympy.asin, "within"),
    Function("arctanh", 3, np.arctanh, sympy.atanh, "within"),
    Function("arctan", 3, np.arctan, sympy.atan, "both"),
)


@dataclass(frozen=True)
class Fit:
    """The function c f(a x + b) + d that fits an edge.

    Attributes:
        function: f, or None where it is the straight line c x + d, or a constant with c = 0.
        a: factor of the argument.
        b: shift of the argument.
        c: factor of the function.
        d: constant that is added.
        error: root mean square of what is left, in units of the standard deviation of the edge.

    Examples:
        >>> x = np.linspace(1, 2, 50)
        >>> fit = fits(x, 2 * np.exp(x) + 1, np.ones(50))[0]
        >>> fit.name, round(float(fit.d), 6)
        ('exp', 1.0)
    """

    function: Function | None
    a: float
    b: float
    c: float
    d: float
    error: float

    @property
    def name(self) -> str:
        """The name of the function."""
        if self.function is not None:
            return self.function.name
        return "linear" if self.c else "constant"

    @property
    def complexity(self) -> int:
        """What it counts in a ranking."""
        return self.function.complexity if self.function is not None else int(self.c != 0)

    def __call__(self, x: Any) -> Any:
        """Evaluate on an array."""
        u = self.a * x + self.b
        return self.c * (u if self.function is None else self.function.values(u)) + self.d

    def __repr__(self) -> str:
        u = f"{self.a:.4g} x + {self.b:.4g}"
        inner = f"({u})" if self.function is None else f" {self.name}({u})"
        return f"Fit({self.c:.4g}{inner} + {self.d:.4g}, error={self.error:.2g})"


def fits(
    x: np.ndarray[Any, Any],
    y: np.ndarray[Any, Any],
    weights: np.ndarray[Any, Any],
    functions: tuple[Function, ...] = LIBRARY,
    accuracy: float = 1e-4,
) -> list[Fit]:
    """Return the fit by a line and by each function, ranked by error and complexity.

    A step of complexity is worth it if it lowers the error by a factor of 1.8, down to the accuracy
    with which the values are known. Functions of complexity 3 are left out where simpler ones are
    as good as that.

    Args:
        x: points, (K,), e.g. those of a quadrature.
        y: values at the points, (K,).
        weights: positive weights of the points, (K,).
        functions: functions to try.
        accuracy: errors below this, in units of the standard deviation of y, count as equal.

    Examples:
        >>> x = np.linspace(1, 2, 50)
        >>> fits(x, 3 * np.log(x - 0.5), np.ones(50))[0].name
        'log'
    """
    problem = _Problem(x, y, weights)
    found = [problem.line()]
    if problem.variance > 0:
        with np.errstate(all="ignore"):
            for function in sorted(functions, key=lambda function: function.complexity):
                good = any(fit.error < accuracy for fit in found if fit.complexity < 3)
                if good and function.complexity >= 3:
                    break
                found += [fit for fit in problem.best(function) if np.isfinite(fit.error)]
    return sorted(found, key=lambda fit: score(fit, accuracy))


def score(fit: Fit, accuracy: float) -> float:
    """Return what a fit is ranked by; less is better."""
    return float(np.log10(np.hypot(fit.error, accuracy)) + 0.25 * fit.complexity)


class _Problem:
    """The values of an edge at weighted points."""

    def __init__(self, x: Any, y: Any, weights: Any) -> None:
        self.x, self.y, self.weights = x, y, weights / weights.sum()
        self.low, self.high = float(x.min()), float(x.max())
        self.length = (self.high - self.low) or 1.0
        self.mean = float(self.weights @ y)
        self.centred = y - self.mean
        variance = float(self.weights @ self.centred**2)
        self.variance = variance if variance > 1e-26 * float(np.abs(y).max()) ** 2 else 0.0

    def line(self) -> Fit:
        if not self.variance:
            return Fit(None, 1.0, 0.0, 0.0, self.mean, 0.0)
        return self._fit(None, 1.0, 0.0)

    def lost(self, values: Any) -> Any:
        """Return the mean square that c values + d leaves, for values (..., K)."""
        mean = values @ self.weights
        centred = values - mean[..., None]
        power = (centred**2) @ self.weights
        product = (centred * self.centred) @ self.weights
        lost = self.variance - product**2 / np.where(power > 1e-24 * mean**2, power, np.inf)
        return np.where(np.isfinite(lost), lost, np.inf)

    def _fit(self, function: Function | None, a: float, b: float) -> Fit:
        """Return the fit with the best c and d."""
        u = a * self.x + b
        values = u if function is None else function.values(u)
        mean = self.weights @ values
        centred = values - mean
        c = float(self.weights @ (centred * self.centred) / (self.weights @ centred**2))
        d = float(self.mean - c * mean)
        lost = self.weights @ (self.y - c * values - d) ** 2
        return Fit(function, float(a), float(b), c, d, float(np.sqrt(lost / self.variance)))

    def best(self, function: Function) -> Iterator[Fit]:
        """Yield the best fits of a function, one for each kind of argument."""
        if function.arguments == "frequency":
            yield self._sine(function)
        for starts, argument in SEARCHES[function.arguments]:
            yield self._searched(function, np.array([*starts()]), argument)

    def _searched(self, function: Function, starts: Any, argument: Any) -> Fit:
        """Return the best fit from the best of some starts (G, 1 or 2)."""

        def lost(t: Any) -> float:
            a, b = argument(self, np.asarray(t))
            return float(self.lost(function.values(a * self.x + b)))

        slopes, shifts = argument(self, starts.T)
        grid = self.lost(function.values(np.outer(slopes, self.x) + shifts[:, None]))
        at = int(grid.argmin())
        if starts.shape[1] == 1:
            ends = starts[max(at - 1, 0), 0], starts[min(at + 1, len(starts) - 1), 0]
            found = minimize_scalar(
                lambda t: lost([t]), bounds=ends, method="bounded", options={"xatol": 1e-12}
            )
            best = [found.x] if found.fun < grid[at] else starts[at]
        else:
            options = {"xatol": 1e-9, "fatol": 1e-16 * self.variance, "maxfev": 400}
            found = minimize(lost, starts[at], method="Nelder-Mead", options=options)
            best = found.x
        a, b = argument(self, np.asarray(best))
        return self._fit(function, float(a), float(b))

    def _sine(self, function: Function) -> Fit:
        root = np.sqrt(self.weights)

        def solved(rate: float) -> tuple[float, Any]:
            u = rate * (self.x - self.low)
            matrix = np.stack([np.sin(u), np.cos(u), np.ones_like(u)], axis=1)
            solution, *_ = np.linalg.lstsq(root[:, None] * matrix, root * self.y, rcond=None)
            return float(self.weights @ (self.y - matrix @ solution) ** 2), solution

        rates = np.geomspace(0.3, 40, GRID) / self.length
        at = int(np.argmin([solved(rate)[0] for rate in rates]))
        ends = rates[max(at - 1, 0)], rates[min(at + 1, GRID - 1)]
        rate = minimize_scalar(
            lambda t: solved(t)[0], bounds=ends, method="bounded", options={"xatol": 1e-12}
        ).x
        s, c, _ = solved(rate)[1]
        return self._fit(function, rate, float(np.arctan2(c, s)) - rate * self.low)


def _logarithms() -> Iterator[tuple[float]]:
    yield from ((float(t),) for t in np.linspace(np.log(NEAR), np.log(FAR), GRID))


def _centres() -> Iterator[tuple[float]]:
    yield from ((float(t),) for t in np.linspace(-4.5, 5.5, GRID))


def _rates() -> Iterator[tuple[float]]:
    yield from ((float(t),) for t in np.linspace(-15, 15, GRID))


def _pairs() -> Iterator[tuple[float, float]]:
    yield from (
        (float(s), float(t)) for s in np.linspace(-2, 2, 12) for t in np.linspace(-2, 3, 16)
    )


def _ends() -> Iterator[tuple[float, float]]:
    places = np.linspace(-4, 4, 16)
    yield from ((float(s), float(t)) for s in places for t in places if s < t)


def _nothing() -> Iterator[tuple[float]]:
    yield (0.0,)


def _same(p: _Problem, t: Any) -> Any:
    return np.ones_like(t[0]), np.zeros_like(t[0])


def _above(p: _Problem, t: Any) -> Any:
    return np.ones_like(t[0]), p.length * np.exp(t[0]) - p.low


def _below(p: _Problem, t: Any) -> Any:
    return -np.ones_like(t[0]), p.length * np.exp(t[0]) + p.high


def _centred(p: _Problem, t: Any) -> Any:
    return np.ones_like(t[0]), -p.low - p.length * t[0]


def _scaled(p: _Problem, t: Any) -> Any:
    return t[0] / p.length, 0 * t[0]


def _moved(p: _Problem, t: Any) -> Any:
    a = np.exp(t[0] + 1) / p.length
    return a, -a * (p.low + p.length * t[1])


def _between(p: _Problem, t: Any) -> Any:
    a = (np.tanh(t[1]) - np.tanh(t[0])) / p.length
    return a, np.tanh(t[0]) - a * p.low


# What is searched, and the argument a x + b that it makes: nothing, so that it is x, a singularity
# beyond either end of the range, a centre, a rate, a rate and a centre, or the values of the
# argument at the two ends.
SEARCHES: dict[str, list[tuple[Callable[[], Iterator[Any]], Callable[..., Any]]]] = {
    "itself": [(_nothing, _same)],
    "positive": [(_logarithms, _above), (_logarithms, _below)],
    "centre": [(_centres, _centred)],
    "rate": [(_rates, _scaled)],
    "both": [(_pairs, _moved)],
    "within": [(_ends, _between)],
    "frequency": [],
}
