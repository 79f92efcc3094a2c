"""Fits of single functions: the one that made the values is found, with its constants."""

import numpy as np
import pytest

from kanlib.formulas.library import LIBRARY, Fit, fits, score

X = np.linspace(0.5, 3.0, 90)
TRUE = {
    "square": lambda x: 3 * (x - 1) ** 2 + 1,
    "sqrt": lambda x: np.sqrt(x + 0.2) - 4,
    "inverse": lambda x: 2 / (3.4 - x),
    "exp": lambda x: 1 - np.exp(-1.3 * x),
    "log": lambda x: np.log(5 - 1.5 * x),
    "sin": lambda x: 0.3 * np.sin(2.3 * x + 1),
    "cube": lambda x: (x - 2) ** 3,
    "fourth power": lambda x: (x - 1.5) ** 4,
    "inverse square": lambda x: 1 / (x + 0.3) ** 2,
    "inverse sqrt": lambda x: (x + 0.1) ** -0.5,
    "tanh": lambda x: np.tanh(3 * x - 4),
    "gaussian": lambda x: np.exp(-((1.3 * x - 2) ** 2)),
    "arcsin": lambda x: np.arcsin(0.3 * x + 0.05),
    "arctanh": lambda x: np.arctanh(0.5 * x - 0.9),
    "arctan": lambda x: np.arctan(3 * x - 4),
    "linear": lambda x: 2 * x + 1,
    "constant": lambda x: 0 * x + 2,
}


def test_every_function_is_tried():
    assert {each.name for each in LIBRARY} == TRUE.keys() - {"linear", "constant"}


@pytest.mark.parametrize("name", TRUE)
def test_function_that_made_the_values_comes_first(name):
    y = TRUE[name](X)
    best = fits(X, y, np.ones_like(X))[0]
    assert best.name == name
    np.testing.assert_allclose(best(X), y, atol=1e-6)
    assert best.error < 1e-6


def test_constants_are_the_best_for_their_argument():
    """c and d of a fit solve the normal equations, here by NumPy's least squares."""
    rng = np.random.default_rng(1)
    y, weights = rng.standard_normal(len(X)), rng.random(len(X)) + 0.1
    for fit in fits(X, y, weights):
        u = fit.a * X + fit.b
        f = u if fit.function is None else fit.function.values(u)
        root = np.sqrt(weights)
        matrix = root[:, None] * np.stack([f, np.ones_like(f)], axis=1)
        solution, left, *_ = np.linalg.lstsq(matrix, root * y, rcond=None)
        np.testing.assert_allclose([fit.c, fit.d], solution, rtol=1e-5, atol=1e-8)
        mean = weights @ y / weights.sum()
        assert fit.error**2 == pytest.approx(left[0] / (weights @ (y - mean) ** 2), rel=1e-6)


def test_noise_makes_simpler_functions_win():
    y = X + 1e-3 * np.sin(20 * X)
    assert fits(X, y, np.ones_like(X), accuracy=1e-2)[0].name == "linear"


def test_a_step_of_complexity_is_worth_a_factor():
    line, sine = (Fit(f, 1, 0, 1, 0, 0.1) for f in (None, LIBRARY[5]))
    assert score(sine, 0.0) - score(line, 0.0) == pytest.approx(0.25)
