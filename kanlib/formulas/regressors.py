"""Edges handed over to a symbolic regressor, such as those of PySR or gplearn.

What the library does not have, a search over expressions may find. An edge is a function of one
variable that is known exactly, and the regressor gets it at points of a quadrature. What it finds
is a function like those of the library, and :func:`kanlib.formulas.formula.formula` takes it along.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import sympy
from sympy.core.function import AppliedUndef
from torch import Tensor

from kanlib._checks import as_integer, as_list, shown
from kanlib.analysis.importance import as_points, check_network
from kanlib.formulas.edges import edges
from kanlib.formulas.library import Function
from kanlib.nn.networks import KAN

__all__ = ["Expression", "Values", "regressed"]

#: The variable of a function that was found.
VARIABLE = sympy.Symbol("u", real=True)
NO_FORMULA = "regressor must have sympy() or a text that is a formula, got {}: take a symbolic one"
INFINITE = (sympy.zoo, sympy.oo, sympy.nan)
#: Names of functions in texts of regressors, where SymPy has other ones.
WORDS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "inv": lambda a: 1 / a,
    "abs": sympy.Abs,
    "max": sympy.Max,
    "min": sympy.Min,
    "sqrt": lambda a: sympy.sqrt(sympy.Abs(a)),  # of gplearn, which protects its arguments
    "log": lambda a: sympy.log(sympy.Abs(a)),
}


@dataclass(frozen=True)
class Expression:
    """A SymPy expression of ``VARIABLE`` as a function of another expression.

    Examples:
        >>> Expression(sympy.sin(VARIABLE) + 1)(sympy.Symbol("t"))
        sin(t) + 1
    """

    expression: Any

    def __call__(self, u: Any) -> Any:
        """Put an expression in the place of the variable."""
        return self.expression.xreplace({VARIABLE: u})


@dataclass(frozen=True)
class Values:
    """A SymPy expression of ``VARIABLE`` as a function on arrays.

    Examples:
        >>> Values(VARIABLE**2 + 1)(np.array([1.0, 2.0]))
        array([2., 5.])
    """

    expression: Any

    def __call__(self, u: Any) -> Any:
        """Evaluate on an array."""
        return _compiled(self.expression)(u) + np.zeros_like(u)


@lru_cache(maxsize=64)
def _compiled(expression: Any) -> Callable[[Any], Any]:
    return sympy.lambdify(VARIABLE, expression, "numpy")


def regressed(
    model: KAN, x: Tensor, edge: tuple[int, int, int], regressor: Any, *, name: str = "regressed"
) -> Function:
    """Return the function that a symbolic regressor finds for an edge.

    Args:
        model: the network; prune it before.
        x: inputs that say where edges are used, (N, P).
        edge: layer, input and output of the edge, as in ``Formula.edges``.
        regressor: an estimator as of scikit-learn, with ``fit(X, y)``, and with ``sympy()`` as of
            PySR, or with a text that is a formula, as of gplearn, best with ``metric="pearson"``,
            since a factor and a constant are fitted here. X is (K, 1), at K points of a quadrature;
            their weights, with mean one, go to an argument ``sample_weight`` or ``weights`` of
            ``fit``, if it has one.
        name: a name for the function.

    Returns:
        A function for the argument ``functions`` of ``formula``. It fits any edge as ``c f(x) + d``
        and is as complex as its expression has operations, and one more.

    Raises:
        TypeError: if an argument is of the wrong type, or the regressor gives no formula.
        ValueError: if the network has no such edge, the formula is not one of a single variable, or
            it has no real and finite values where the edge is used.

    Examples:
        >>> import torch
        >>> class Sine:  # a regressor with a single candidate
        ...     def fit(self, X, y):
        ...         return self
        ...     def __str__(self):
        ...         return "mul(X0, sin(X0))"
        >>> model = KAN([1, 1], n=4)
        >>> found = regressed(model, torch.rand(20, 1), (0, 0, 0), Sine())
        >>> found.symbolic(sympy.Symbol("t"))
        t*sin(t)
    """
    check_network(model)
    as_points("x", x, model)
    if not callable(getattr(regressor, "fit", None)):
        raise TypeError(f"regressor must have fit(X, y), got {shown(regressor)}: take an estimator")
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {shown(name)}")
    numbers = as_list("edge", edge, "numbers of a layer, an input and an output")
    if len(numbers) != 3:
        raise ValueError(f"edge must hold a layer, an input and an output, got {shown(edge)}")
    model = copy.deepcopy(model).double()
    layers = edges(model, x.detach().to(next(model.parameters())))
    layer = layers[as_integer("edge[0]", numbers[0], 0, len(layers) - 1)]
    if not isinstance(layer, list):
        raise ValueError(
            f"edge must be of a layer of splines, got layer {numbers[0]}, a linear map: its edges "
            "are straight lines"
        )
    q = as_integer("edge[2]", numbers[2], 0, len(layer) - 1)
    found = layer[q][as_integer("edge[1]", numbers[1], 0, len(layer[q]) - 1)]
    if found is None:
        raise ValueError(f"edge must be in the network, but {tuple(numbers)} is pruned")
    inner = {}
    accepted = inspect.signature(regressor.fit).parameters
    for word in ("sample_weight", "weights"):
        if word in accepted:
            inner[word] = found.weights * (len(found.weights) / found.weights.sum())
    regressor.fit(found.x[:, None], found.y, **inner)
    expression = _without_affine(_read(regressor))
    with np.errstate(all="ignore"):
        _check_values(expression, found.x)
    return Function(
        name,
        1 + int(sympy.count_ops(expression)),
        Values(expression),
        Expression(expression),
        "itself",
    )


def _read(regressor: Any) -> Any:
    """Return the expression that a regressor has found, in ``VARIABLE``."""
    if callable(getattr(regressor, "sympy", None)):
        expression = sympy.sympify(regressor.sympy())
    else:
        variables = dict.fromkeys(("X0", "x0", "x"), VARIABLE)
        try:
            expression = sympy.sympify(str(regressor), locals=WORDS | variables)
        except (sympy.SympifyError, SyntaxError, TypeError, AttributeError, ValueError) as error:
            raise TypeError(NO_FORMULA.format(shown(regressor))) from error
    if not isinstance(expression, sympy.Expr):
        raise TypeError(NO_FORMULA.format(shown(regressor)))
    if unknown := expression.atoms(AppliedUndef):
        names = ", ".join(sorted(str(each.func) for each in unknown))
        raise TypeError(
            f"regressor must find a formula of functions that SymPy knows, got {names}: give it "
            "sympy(), or other functions"
        )
    if len(expression.free_symbols) != 1 or expression.has(*INFINITE):
        raise ValueError(
            f"regressor must find a formula of one variable, got {shown(expression)}: look at its "
            "settings"
        )
    return expression.xreplace(dict.fromkeys(expression.free_symbols, VARIABLE))


def _check_values(expression: Any, x: Any) -> None:
    """Raise unless an expression can be computed at the points of its edge."""
    try:
        values = Values(expression)(x)
        fits = bool(np.isrealobj(values) and np.isfinite(values).all())
    except (NameError, TypeError, NotImplementedError, ArithmeticError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"regressor must find a formula with real, finite values that NumPy computes at the "
            f"points of the edge, got {shown(expression)}: look at its functions"
        )


def _without_affine(expression: Any) -> Any:
    """Return an expression without a constant added or a factor, which a fit has of its own."""
    rest = expression.as_independent(VARIABLE, as_Add=True)[1]
    rest = rest.as_independent(VARIABLE, as_Add=False)[1]
    return rest if rest.has(VARIABLE) else VARIABLE
