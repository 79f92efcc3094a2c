"""From a network to a formula.

Each edge is fitted by a function of the library, and the functions are put together as the network
puts together its edges. Most laws have products, which a network of sums makes as the exponential
of a sum of logarithms: g(u) of a unit u is also g(log(v) / rate) of the product v of exponentials
of rate times its edges. These are fitted instead where they are the simpler or better functions.
The constants of the whole are then fitted to all data, and simple numbers put in where the data
allow it. Where the first choice of functions does not reach the accuracy of the network, the second
and third best of an edge are tried, one edge at a time.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kanlib._checks import as_integer, as_list, check_tensor, shown
from kanlib.analysis.importance import as_points, check_network
from kanlib.formulas.edges import Edge, edges
from kanlib.nn.maps import Circle, InputMap
from kanlib.nn.networks import KAN

try:
    import sympy

    from kanlib.formulas.expressions import (
        Array,
        Fitted,
        fit,
        rounding,
        scaled,
        simple,
        simplified,
        tidy,
    )
    from kanlib.formulas.library import LIBRARY, Fit, Function, fits, score
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"kanlib.formulas needs SymPy and SciPy, and {error.name} is missing: "
        "pip install 'kanlib[formulas]'"
    ) from None

__all__ = ["Constant", "Formula", "formula"]

#: A formula is as good as its network if its loss is at most this many times as large.
AS_GOOD = 1.1
#: Errors of edges below this, in units of their standard deviation, count as equal.
ACCURACY = 1e-4
#: Digits of constants in print.
DIGITS = 4
#: The largest logarithm of a factor.
LARGEST = 300.0
#: The largest ratio of two values of a product, or of a factor, as a logarithm.
RANGE = 30.0


class Constant(NamedTuple):
    """A constant of a formula: its symbol in the template, its value and its standard error.

    Examples:
        >>> half = Constant(sympy.Symbol("c0"), 0.5, 0.01)
        >>> half.value, half.error
        (0.5, 0.01)
    """

    symbol: Any
    value: float
    error: float

    def __repr__(self) -> str:
        return f"{self.symbol} = {self.value:.6g} +- {self.error:.2g}"


@dataclass(frozen=True, eq=False)
class Formula:
    """A formula for one output of a network.

    Attributes:
        expression: the formula, a SymPy expression.
        symbols: its variables, the inputs of the network.
        template: the formula with symbols for its constants.
        constants: their values and standard errors; the error is infinite where data do not tell
            a constant apart from others.
        error: root mean square of what the formula leaves of the data, in units of their standard
            deviation.
        network: the same of the network.
        edges: the function of each edge, by layer, input and output.

    Examples:
        >>> from kanlib import GaussNewton, MeanSquaredError, train
        >>> x = 1 + torch.rand(200, 1, dtype=torch.float64)
        >>> model = KAN([1, 1], n=8, domain=(1, 2), dtype=torch.float64)
        >>> data = MeanSquaredError(x, 3 * torch.exp(-x))
        >>> run = train(model, data, 5, optimizer=GaussNewton(), progress=False)
        >>> found = formula(run.model, x, 3 * torch.exp(-x))
        >>> found.latex()
        '3 e^{- x_{1}}'
        >>> float(found.lambdify()(0.0))
        3.0
    """

    expression: Any
    symbols: tuple[Any, ...]
    template: Any
    constants: tuple[Constant, ...]
    error: float
    network: float
    edges: dict[tuple[int, int, int], Fit]

    def latex(self, digits: int = DIGITS) -> str:
        """Return the formula in LaTeX, constants with a number of digits."""
        return str(sympy.latex(_rounded(self.expression, digits)))

    def lambdify(self, modules: str = "numpy") -> Callable[..., Any]:
        """Return a function of the inputs, one argument each, as of ``sympy.lambdify``."""
        return sympy.lambdify(self.symbols, self.expression, modules)

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate at x (N, P), as the network is evaluated; the result is (N, 1)."""
        check_tensor("x", x, len(self.symbols))
        found = self.lambdify("numpy")(*x.detach().cpu().numpy().T)
        column = torch.as_tensor(np.broadcast_to(found, len(x)).copy()[:, None])
        return column.to(x)

    def __repr__(self) -> str:
        return f"Formula({_rounded(self.expression, DIGITS)}, error={self.error:.2g})"


def formula(
    model: KAN,
    x: Tensor,
    y: Tensor | None = None,
    *,
    names: Sequence[str] | None = None,
    output: int = 0,
    functions: Sequence[Function] = LIBRARY,
    tries: int = 12,
) -> Formula:
    """Return a formula for what a network has learned.

    Args:
        model: the network; prune it before.
        x: inputs of the data, (N, P).
        y: their targets, (N, Q), to which the constants are fitted; by default what the network
            says.
        names: names of the inputs; by default x1, x2, ....
        output: which output, counted from zero.
        functions: functions that an edge may be; straight lines always are.
        tries: how many choices of functions are fitted to the data at most.

    Returns:
        The formula with the smallest loss, by the Bayesian information criterion.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if the network overrides forward or has hooks, or data, names or the output do
            not fit it.
        ModuleNotFoundError: without SymPy or SciPy.

    Examples:
        >>> from kanlib import GaussNewton, MeanSquaredError, train_multilevel
        >>> x = 1 + torch.rand(300, 2, dtype=torch.float64)
        >>> y = x[:, :1] ** 2 + torch.exp(-x[:, 1:])
        >>> model = KAN([2, 1], n=5, domain=(1, 2), dtype=torch.float64)
        >>> run = train_multilevel(
        ...     model, MeanSquaredError(x, y), [5, 5], optimizer=GaussNewton(), progress=False
        ... )
        >>> formula(run.model, x, y).expression
        x1**2 + exp(-x2)
    """
    check_network(model)
    if any(layer.periodic for layer in model.spline_layers):
        raise ValueError(
            "model must have no splines whose knots wrap to have a formula: take "
            "periodic_as='circle', which gives cosines and sines"
        )
    as_points("x", x, model)
    output = as_integer("output", output, 0, model.widths[-1] - 1)
    tries = as_integer("tries", tries, 1)
    chosen = tuple(as_list("functions", functions, "functions of kanlib.formulas.library"))
    if not all(isinstance(each, Function) for each in chosen):
        raise TypeError(
            f"functions must hold functions of kanlib.formulas.library, got {shown(functions)}"
        )
    inputs = x.detach().cpu().double().numpy()
    symbols = _symbols(names, inputs)
    model = copy.deepcopy(model).double()
    moved = x.detach().to(next(model.parameters()))
    with torch.no_grad():
        own = model(moved)
    targets = own if y is None else _targets(y, own)
    column, learned = (each[:, output].detach().cpu().double().numpy() for each in (targets, own))
    scale = float(column.std()) if column.var() > rounding(column) else 1.0
    missed = float(np.sqrt(np.mean((learned - column) ** 2)))
    search = _Search(
        edges(model, moved),
        symbols,
        _entering(model, symbols),
        chosen,
        max(missed / scale, ACCURACY),
    )
    best = _best(search, output, inputs, column, missed**2, tries)
    found = simplified(best.fitted, symbols, inputs, column)
    constants = zip(found.constants, found.values, found.errors, strict=True)
    return Formula(
        found.expression,
        symbols,
        found.template,
        tuple(Constant(c, float(v), float(e)) for c, v, e in constants),
        math.sqrt(found.loss) / scale,
        missed / scale,
        best.edges,
    )


class _Choice(NamedTuple):
    """A formula before simple numbers are put in, and the functions of its edges."""

    fitted: Fitted
    edges: dict[tuple[int, int, int], Fit]


def _best(search: _Search, output: int, x: Array, y: Array, missed: float, tries: int) -> _Choice:
    """Return the best of some choices of functions, by the Bayesian information criterion."""
    size, floor = len(y), rounding(y)
    best, lowest = None, math.inf
    for ranks in search.choices(output, tries):
        expression, used = search.expression(output, ranks)
        found = fit(expression, search.symbols, x, y)
        count = len(found.values) + sum(each.complexity for each in used.values())
        value = size * math.log(max(found.loss, floor)) + count * math.log(size)
        if best is None or value < lowest:
            best, lowest = _Choice(found, used), value
        if found.loss <= max(AS_GOOD * missed, floor):
            break
    assert best is not None
    return best


class _Key(NamedTuple):
    """The function of an edge, or a function that is made of it.

    Attributes:
        layer: its layer.
        input: its input.
        output: its output.
        rate: the function is the exponential of this times the edge, unless it is zero.
        inner: its variable is the exponential of this times that of the edge, unless it is zero.
    """

    layer: int
    input: int
    output: int
    rate: float = 0.0
    inner: float = 0.0


class _Way(NamedTuple):
    """An edge, or the exponential of rate times it, and the unit that it comes from."""

    layer: int
    input: int
    output: int
    rate: float


#: Which fit an edge takes, and which way, counted from the best.
_Ranks = dict[_Key | _Way, int]


class _Search:
    """The edges of a network, the functions that fit them, and expressions made of these."""

    def __init__(
        self,
        layers: Sequence[nn.Linear | list[list[Edge | None]]],
        symbols: tuple[Any, ...],
        entering: tuple[Any, ...],
        functions: tuple[Function, ...],
        accuracy: float,
    ) -> None:
        self.layers, self.symbols, self.entering = layers, symbols, entering
        self.functions, self.accuracy = functions, accuracy
        self._known: dict[_Key, list[Fit]] = {}
        self._ways: dict[_Way, list[tuple[float, float]]] = {}

    def _edge(self, layer: int, p: int, q: int) -> Edge:
        row = self.layers[layer]
        assert isinstance(row, list)
        edge = row[q][p]
        assert edge is not None
        return edge

    def fits(self, key: _Key) -> list[Fit]:
        """Return the ranked fits of an edge, or of what is made of it."""
        if key not in self._known:
            edge = self._edge(*key[:3])
            x, y = edge.x, edge.y
            if key.inner:
                x = np.exp(key.inner * (x - edge.weights @ x))
            if key.rate:  # a factor: its size goes into the product
                y = np.exp(key.rate * (y - edge.weights @ y))
            self._known[key] = fits(x, y, edge.weights, self.functions, self.accuracy)
        return self._known[key]

    def _score(self, key: _Key) -> float:
        return score(self.fits(key)[0], self.accuracy)

    def ways(self, way: _Way) -> list[tuple[float, float]]:
        """Return scores and rates of the ways to read an edge and its unit, the best first.

        The unit is the sum of its edges u, with rate zero, or a product, exp(rate u). This takes a
        unit of splines with a single edge onwards. The rate is that of an exponential that the edge
        is, or the one that makes a power of an edge into the unit that is a logarithm.
        """
        if way not in self._ways:
            number, p = way[:2]
            inputs = self._inputs(number, p)
            found = [(self._score(_Key(*way)) + self._scores(number, inputs, p, 0.0), 0.0)]
            for rate in self._rates(way, inputs) if len(inputs) > 1 else ():
                outer = self._score(_Key(*way, inner=rate))
                found.append((outer + self._scores(number, inputs, p, rate), rate))
            self._ways[way] = sorted(found, key=lambda each: each[0])
        return self._ways[way]

    def _inputs(self, number: int, p: int) -> list[int]:
        """Return the inputs of a unit whose sum may be a product."""
        layer, before = self.layers[number], self.layers[number - 1] if number else None
        if not isinstance(layer, list) or not isinstance(before, list):
            return []
        if sum(row[p] is not None for row in layer) > 1:
            return []
        return [i for i, edge in enumerate(before[p]) if edge is not None]

    def _scores(self, number: int, inputs: list[int], p: int, rate: float) -> float:
        return sum(self._score(_Key(number - 1, i, p, rate)) for i in inputs)

    def _rates(self, way: _Way, inputs: list[int]) -> Iterator[float]:
        number, p, q = way[:3]
        found = [each.a for each in self.fits(_Key(*way))[:4] if each.name == "exp"]
        for i in inputs:
            both = self.fits(_Key(number - 1, i, p))[:2]
            found += [1 / each.c for each in both if each.name == "log" and each.c]
        spread = float(np.ptp(self._edge(number, p, q).x))
        spread = max(spread, *(float(np.ptp(self._edge(number - 1, i, p).y)) for i in inputs))
        yield from (rate for rate in found if 0 < abs(rate) * spread < RANGE)

    def choices(self, output: int, tries: int) -> Iterator[_Ranks]:
        """Yield which fit and way each edge takes, the best first: then others, one at a time."""
        yield {}
        used: list[_Key] = []
        ways: list[_Way] = []
        self._expression(len(self.layers) - 1, output, {}, used, 0.0, ways)
        options: list[tuple[float, _Key | _Way, int]] = []
        for key in used:
            scores = [score(each, self.accuracy) for each in self.fits(key)]
            options += [(s - scores[0], key, rank) for rank, s in enumerate(scores[:4]) if rank]
        for way in ways:
            found = self.ways(way)
            options += [(s - found[0][0], way, rank) for rank, (s, _) in enumerate(found) if rank]
        for _, which, rank in sorted(options, key=lambda each: each[0])[: tries - 1]:
            yield {which: rank}

    def expression(self, output: int, ranks: _Ranks) -> tuple[Any, dict[tuple[int, int, int], Fit]]:
        """Return the expression of an output, and the functions of its edges."""
        used: list[_Key] = []
        found = tidy(self._expression(len(self.layers) - 1, output, ranks, used, 0.0, []))
        return found, {key[:3]: self.fits(key)[ranks.get(key, 0)] for key in used}

    def _expression(
        self,
        number: int,
        q: int,
        ranks: _Ranks,
        used: list[_Key],
        rate: float,
        ways: list[_Way],
    ) -> Any:
        """Return unit q after a layer, or, for a rate, the exponential of rate times it."""
        layer = self.layers[number]
        if isinstance(layer, nn.Linear):
            weight, bias = layer.weight[q].tolist(), layer.bias[q].item()
            terms = [w * s for w, s in zip(weight, self.entering, strict=True)]
            return sympy.Add(*terms) + bias
        if not rate:
            return sympy.Add(*self._terms(number, q, ranks, used, 0.0, ways))
        row = [edge for edge in layer[q] if edge is not None]
        size = _exp(rate * sum(float(edge.weights @ edge.y) for edge in row))
        return size * sympy.Mul(*self._terms(number, q, ranks, used, rate, ways))

    def _terms(
        self,
        number: int,
        q: int,
        ranks: _Ranks,
        used: list[_Key],
        rate: float,
        ways: list[_Way],
    ) -> list[Any]:
        """Return the terms of a sum, or the factors of a product."""
        layer, terms = self.layers[number], []
        assert isinstance(layer, list)
        for p, edge in enumerate(layer[q]):
            if edge is None:
                continue
            way, inner_rate = _Way(number, p, q, rate), 0.0
            if len(self._inputs(number, p)) > 1:
                ways.append(way)
                inner_rate = self.ways(way)[ranks.get(way, 0)][1]
            key = _Key(number, p, q, rate, inner_rate)
            used.append(key)
            found = self.fits(key)[ranks.get(key, 0)]
            if found.function is None and not found.c:
                terms.append(sympy.Float(found.d))
                continue
            if number:
                inner = self._expression(number - 1, p, ranks, used, inner_rate, ways)
            else:
                inner = self.entering[p]
            if inner_rate:
                inner = _exp(-inner_rate * float(edge.weights @ edge.x)) * inner
            terms.append(_applied(found, inner))
        return terms


def _exp(value: float) -> float:
    """Return the exponential of a number, within what other numbers can be multiplied with."""
    return math.exp(min(max(value, -LARGEST), LARGEST))


def _applied(found: Fit, inner: Any) -> Any:
    """Return c f(a u + b) + d of an expression u, without constants that others can replace."""
    argument = sympy.expand_mul(found.a * inner + found.b)
    if found.function is None:
        return sympy.expand_mul(found.c * argument) + found.d
    name, c, d = found.name, found.c, found.d
    if name in POWERS:
        factor, argument = scaled(argument, signed=float(POWERS[name]).is_integer())
        c *= float(factor) ** float(POWERS[name])
    elif name == "log":
        factor, argument = scaled(argument, signed=False)
        d += c * math.log(float(factor))
    elif name == "exp":
        constant, rest = argument.as_coeff_Add()
        c, argument = c * _exp(float(constant)), rest
    elif name == "sin":  # of a phase between -pi / 2 and pi / 2
        constant, rest = argument.as_coeff_Add()
        half_turns = round(float(constant) / math.pi)
        c, argument = c * (-1) ** half_turns, rest + float(constant) - half_turns * math.pi
    return c * found.function.symbolic(argument) + d


POWERS: dict[str, float] = {
    "square": 2,
    "cube": 3,
    "fourth power": 4,
    "inverse": -1,
    "inverse square": -2,
    "sqrt": 0.5,
    "inverse sqrt": -0.5,
}


def _symbols(names: Sequence[str] | None, x: Array) -> tuple[Any, ...]:
    """Return a symbol for each input, which is positive if its data are."""
    count = x.shape[1]
    if names is None:
        names = [f"x{p + 1}" for p in range(count)]
    listed = as_list("names", names, "names of the inputs")
    if len(listed) != count or len({n for n in listed if isinstance(n, str) and n}) < count:
        raise ValueError(
            f"names must hold {count} different names, one for each input, got {shown(names)}"
        )
    return tuple(
        sympy.Symbol(name, positive=True) if x[:, p].min() > 0 else sympy.Symbol(name, real=True)
        for p, name in enumerate(listed)
    )


def _entering(model: KAN, symbols: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return what enters the first layer: of periodic coordinates their cosines and sines."""
    before: InputMap | None = None
    for layer in model.layers:
        if isinstance(layer, InputMap):
            before = layer
        elif isinstance(layer, Circle):
            a, b = (_exact(end) for end in layer.domain)
            mapped = [*symbols]
            if before is not None:
                moved = zip(symbols, before.low.tolist(), before.width.tolist(), strict=True)
                mapped = [a + (b - a) * (s - _exact(low)) / _exact(w) for s, low, w in moved]
            angles = [sympy.expand(2 * sympy.pi * (s - a) / (b - a)) for s in mapped]
            middle, half = (a + b) / 2, (b - a) / 2
            for p in layer.coordinates:
                mapped[p] = middle + half * sympy.cos(angles[p])
            return *mapped, *(middle + half * sympy.sin(angles[p]) for p in layer.coordinates)
    return symbols


def _exact(value: float) -> Any:
    """Return a number as a half, a third or a multiple of pi, if it is one up to rounding."""
    for unit in (sympy.Integer(1), sympy.pi):
        number = simple(value / float(unit), 1e-12 * max(1.0, abs(value)))
        if number is not None and (number or not value):
            return number * unit
    return sympy.Float(value)


def _targets(y: Tensor, own: Tensor) -> Tensor:
    check_tensor("y", y)
    if y.shape != own.shape:
        raise ValueError(
            f"y must have the shape {tuple(own.shape)} of the outputs, got {tuple(y.shape)}"
        )
    if not torch.isfinite(y).all():
        raise ValueError("y must be finite, got NaN or infinite entries: remove those rows")
    return y


def _rounded(expression: Any, digits: int) -> Any:
    return expression.xreplace({f: sympy.Float(f, digits) for f in expression.atoms(sympy.Float)})
