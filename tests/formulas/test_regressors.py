"""Edges handed over to symbolic regressors: what they find is a function of a formula."""

import pickle

import numpy as np
import pytest
import sympy
import torch

from kanlib import KAN, GaussNewton, MeanSquaredError, train
from kanlib.analysis.pruning import prune
from kanlib.formulas.formula import formula
from kanlib.formulas.library import LIBRARY
from kanlib.formulas.regressors import regressed

pytestmark = pytest.mark.usefixtures("float64")
FIRST = (0, 0, 0)


class Oscillations:
    """A regressor that knows x^k sin(w x), fits c and d, and takes the best k and w."""

    def fit(self, X, y, sample_weight):
        x, root = X[:, 0], np.sqrt(sample_weight)
        assert np.isclose(sample_weight.mean(), 1)
        best = np.inf
        for power in (0, 1, 2):
            for rate in np.arange(1, 13) / 2:
                columns = np.stack([x**power * np.sin(rate * x), np.ones_like(x)], axis=1)
                solution, *_ = np.linalg.lstsq(root[:, None] * columns, root * y, rcond=None)
                lost = float(np.sum((root * (columns @ solution - y)) ** 2))
                if lost < best:
                    best, self.found = lost, (power, rate, *solution)
        return self

    def sympy(self):
        power, rate, c, d = self.found
        x0 = sympy.Symbol("x0")
        return c * x0**power * sympy.sin(rate * x0) + d


class Text:
    """A regressor that says something."""

    def __init__(self, text):
        self.text = text

    def fit(self, X, y):
        return self

    def __str__(self):
        return self.text


@pytest.fixture(scope="module")
def sums():
    """x sin(2 x), which the library does not have, and another input."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    x = 3 * torch.rand(400, 2)
    y = 2 * x[:, :1] * torch.sin(2 * x[:, :1]) + x[:, 1:] ** 2
    data = MeanSquaredError(x, y)
    start = KAN([2, 1], n=16, domain=(0, 3))
    model = train(start, data, 6, optimizer=GaussNewton(), progress=False).model
    torch.set_default_dtype(torch.float32)
    return x, y, model


def test_function_that_the_library_lacks_is_found_by_a_regressor(sums):
    x, y, model = sums
    learned = regressed(model, x, FIRST, Oscillations(), name="x sin")
    found = formula(model, x, y, functions=(*LIBRARY, learned))
    first, second = found.symbols
    truth = 2 * first * sympy.sin(2 * first) + second**2
    assert sympy.simplify(found.expression - truth) == 0
    assert found.edges[FIRST].name == "x sin"
    assert formula(model, x, y).error > 1e-3


def test_regressor_gets_the_edge_in_its_own_variable(sums):
    x, _, model = sums
    calls = []

    class Kept(Text):
        def fit(self, X, y):
            calls.append((X, y))

    regressed(model, x, (0, 1, 0), Kept("x0"))
    (points, values), span = calls[0], x[:, 1]
    assert points.shape == (len(values), 1)
    assert span.min() <= points.min() < points.max() <= span.max()
    inside = torch.from_numpy(points).repeat(1, 2)
    alone = model.layers[0].masked(torch.tensor([[False, True]]))
    np.testing.assert_allclose(values, alone(inside)[:, 0].detach(), atol=1e-12)


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("add(mul(0.25, X0), div(X0, sub(X0, 9.0)))", "t/4 + t/(t - 9)"),
        ("sqrt(neg(X0))", "sqrt(Abs(t))"),
        ("3*x0**2 + 7", "t**2"),
        ("inv(X0) * -1.5 - 2.0", "1/t"),
    ],
)
def test_texts_are_read(sums, text, truth):
    x, _, model = sums
    learned = regressed(model, x, FIRST, Text(text))
    t = sympy.Symbol("t")
    assert sympy.simplify(learned.symbolic(t) - sympy.sympify(truth, {"t": t})) == 0
    points = np.linspace(1, 2, 5)
    expected = [float(sympy.sympify(truth).subs("t", float(p))) for p in points]
    np.testing.assert_allclose(learned.values(points), expected)
    assert pickle.loads(pickle.dumps(learned)) == learned


def test_gplearn_finds_an_edge(sums):
    genetic = pytest.importorskip("gplearn.genetic")
    x, y, model = sums
    regressor = genetic.SymbolicRegressor(
        population_size=500,
        generations=15,
        function_set=("add", "mul", "sin"),
        metric="pearson",
        parsimony_coefficient=1e-4,
        random_state=0,
    )
    learned = regressed(model, x, FIRST, regressor)
    found = formula(model, x, y, functions=(*LIBRARY, learned))
    first, second = found.symbols
    truth = 2 * first * sympy.sin(2 * first) + second**2
    assert sympy.simplify(found.expression - truth) == 0


def test_what_has_no_edge_or_no_formula_is_refused(sums):
    x, y, model = sums
    with pytest.raises(TypeError, match=r"regressor must have fit\(X, y\), got 3"):
        regressed(model, x, FIRST, 3)
    with pytest.raises(ValueError, match="edge must hold a layer, an input and an output"):
        regressed(model, x, (0, 0), Text("x0"))
    with pytest.raises(ValueError, match=r"edge\[1\] must be at most 1"):
        regressed(model, x, (0, 2, 0), Text("x0"))
    with pytest.raises(TypeError, match="a text that is a formula"):
        regressed(model, x, FIRST, Text("<nothing>"))
    with pytest.raises(ValueError, match="formula of one variable, got X1 \\+ u"):
        regressed(model, x, FIRST, Text("add(X0, X1)"))
    with pytest.raises(ValueError, match="edge must be of a layer of splines"):
        regressed(KAN([2, 2, 1], first="affine"), x, FIRST, Text("x0"))
    data = MeanSquaredError(x, y - y.mean())
    pruned = prune(model, data, threshold=0.9).model
    gone = next(p for p in range(2) if not pruned.layers[0].mask[0, p])
    with pytest.raises(ValueError, match="is pruned"):
        regressed(pruned, x, (0, gone, 0), Text("x0"))


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("LinearRegression()", TypeError, "got LinearRegression"),
        ("Ridge(alpha=2.0)", TypeError, "a text that is a formula"),
        ("sig(X0)", TypeError, "functions that SymPy knows, got sig"),
        ("nan", ValueError, "formula of one variable, got nan"),
        ("div(X0, sub(X0, X0))", ValueError, "one variable"),
        ("3.0", ValueError, "one variable, got 3.0"),
        ("I*X0 + sin(X0)*I*X0", ValueError, "real, finite values"),
        ("gamma(X0)", ValueError, "that NumPy computes"),
        ("X0**X0**9", ValueError, "real, finite values"),
        ("(X0 - 5)**0.5", ValueError, "real, finite values"),
    ],
)
def test_texts_that_are_no_formula_are_refused(sums, text, error, words):
    x, _, model = sums
    with pytest.raises(error, match=words):
        regressed(model, 40 * x if "**9" in text else x, FIRST, Text(text))


def test_estimators_that_are_not_symbolic_are_refused(sums):
    linear = pytest.importorskip("sklearn.linear_model")
    x, _, model = sums
    with pytest.raises(TypeError, match="LinearRegression"):
        regressed(model, x, FIRST, linear.LinearRegression())
