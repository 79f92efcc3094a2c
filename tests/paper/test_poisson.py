"""The Poisson problem: its manufactured solution, derived again by SymPy, solves it."""

import math
from functools import partial

import numpy as np
import pytest
import sympy
import torch
from functions import Function, residuals

from kanlib import KAN
from kanlib.nn.jets import Jet, propagate
from kanlib.paper.problems import poisson
from kanlib.paper.problems.poisson import LEVEL_SETS, Poisson, exact, source, volume_residual


def solution(z):
    """The solution as a smooth function of x, y and the level set |x|."""
    x, y, field = z[:, :1], z[:, 1:2], z[:, 2:]
    right, left = (x + field) / 2, (x - field) / 2
    return (torch.sin(2 * math.pi * right) + torch.sin(math.pi * left)) * torch.sin(3 * math.pi * y)


def points(count=200, seed=0):
    return torch.tensor(np.random.default_rng(seed).uniform(-1, 1, (count, 2)))


def test_points_are_those_of_the_paper():
    problem = Poisson()
    volume, boundary, interface = problem.points.values()
    assert volume.shape == (49 * 49, 2)
    assert boundary.shape == (200, 2)
    assert interface.shape == (49, 2)
    assert volume.abs().max() == 0.96
    assert (boundary.abs().amax(dim=1) == 1).all()
    assert interface[:, 0].tolist() == [0] * 49
    assert interface[:, 1].tolist() == sorted(set(volume[:, 1].tolist()))
    assert problem.weights == {"volume": 1e-2, "boundary": 1.0, "interface": 1e-1}


def test_right_hand_side_is_the_one_that_sympy_derives():
    x, y = sympy.symbols("x y")
    at = points()
    for side, eps, wave in ((-1, 1, 1), (1, sympy.Rational(1, 2), 2)):
        u = sympy.sin(wave * sympy.pi * x) * sympy.sin(3 * sympy.pi * y)
        f = sympy.lambdify((x, y), sympy.diff(eps * u.diff(x), x) + sympy.diff(eps * u.diff(y), y))
        here = at[at[:, 0] * side > 0]
        expected = f(here[:, 0].numpy(), here[:, 1].numpy())
        np.testing.assert_allclose(source(here)[:, 0].numpy(), expected, rtol=1e-12, atol=1e-12)


def test_solution_meets_boundary_and_jump_conditions():
    """By one-sided differences of the solution, not by its derivatives."""
    y = torch.linspace(-1, 1, 41, dtype=torch.float64)
    for x in (-1.0, 1.0):
        edge = torch.stack([torch.full_like(y, x), y], dim=1)
        assert exact(edge).abs().max() < 1e-15
        assert exact(edge.flip(1)).abs().max() < 1e-15
    h = 1e-6
    left, middle, right = (
        exact(torch.stack([torch.full_like(y, s), y], dim=1)) for s in (-h, 0.0, h)
    )
    assert middle.abs().max() == 0
    flux_left, flux_right = (middle - left) / h, 0.5 * (right - middle) / h
    np.testing.assert_allclose(flux_left, flux_right, atol=1e-9)
    np.testing.assert_allclose(flux_left[:, 0], math.pi * torch.sin(3 * math.pi * y), atol=1e-9)


def test_exact_solution_has_zero_residuals_and_error():
    problem = Poisson()
    found = residuals(problem, solution)
    assert found.keys() == problem.weights.keys()
    assert [tuple(r.shape) for r in found.values()] == [(2401, 1), (200, 1), (49, 1)]
    for residual in found.values():
        assert residual.abs().max() < 1e-12
    assert problem.error(Function(solution)) < 1e-15


@pytest.mark.parametrize("name", ["source", "coefficient"])
def test_planted_sign_errors_are_seen(name, monkeypatch):
    right = getattr(poisson, name)
    monkeypatch.setattr(poisson, name, lambda p: -right(p))
    assert residuals(Poisson(), solution)["volume"].abs().max() > 10


def test_wrong_sides_of_the_interface_are_seen():
    problem = Poisson()
    interface = problem.equations["interface"]
    sides = interface.keywords["features"][::-1]
    problem.equations["interface"] = partial(interface, features=sides)
    assert residuals(problem, solution)["interface"].abs().max() > 1


def test_residuals_of_other_functions_are_known_by_hand():
    problem = Poisson()
    x, y = problem.points["volume"].T
    found = residuals(problem, lambda z: z[:, :1] ** 2 * z[:, 1:2] + 3 * z[:, 2:])
    eps = torch.where(x < 0, 1.0, 0.5)
    np.testing.assert_allclose(
        found["volume"][:, 0],
        eps * 2 * y - source(problem.points["volume"])[:, 0],
        rtol=1e-12,
        atol=1e-12,
    )
    np.testing.assert_allclose(found["interface"], np.full((49, 1), -3 - 1.5))  # 3|x| has a kink
    assert problem.error(Function(lambda z: 0 * z[:, :1])) == 1.0
    assert problem.error(Function(lambda z: 3 * solution(z))) == pytest.approx(2.0)


def test_error_is_measured_on_a_grid_that_training_does_not_see():
    """On the training points of 4 cells, sin 3 pi y is -1, 0 and 1 only; the error knows more."""
    x, y = np.meshgrid(np.linspace(-1, 1, 201), np.linspace(-1, 1, 201), indexing="ij")
    u = np.sin(np.where(x < 0, 1, 2) * np.pi * x) * np.sin(3 * np.pi * y)
    wrong = x * y
    expected = np.linalg.norm(wrong - u) / np.linalg.norm(u)
    for cells in (4, 50):
        found = Poisson(cells).error(Function(lambda z: z[:, :1] * z[:, 1:2]))
        assert found == pytest.approx(expected, rel=1e-12)


def test_error_of_a_model_with_two_outputs_is_refused():
    with pytest.raises(ValueError, match=r"value must have the shape \(40401, 1\) .*one output"):
        Poisson(4).error(Function(lambda z: z[:, :2]))


@pytest.mark.parametrize("function", [exact, source, poisson.coefficient])
def test_functions_want_points_in_the_plane(function):
    with pytest.raises(ValueError, match=r"points must have 2 entries .*, got shape \(4, 3\)"):
        function(torch.zeros(4, 3))


def test_summed_terms_are_sums_over_their_points():
    model = KAN([3, 4, 1], n=4, domain=(-1.0, 1.0), init_scale=0.5, dtype=torch.float64)
    means, sums = Poisson(cells=6), Poisson(cells=6, summed=True)
    counts = {"volume": 25, "boundary": 24, "interface": 5}
    parts = means.loss().parts(model)
    expected = {key: counts[key] * part for key, part in parts.items()}
    torch.testing.assert_close(sums.loss().parts(model), expected)


def test_level_sets_and_their_slopes_on_both_sides():
    at = torch.tensor([[-0.5, 0.1], [0.0, 0.1], [0.5, 0.1]], dtype=torch.float64)
    values = {"abs": [0.5, 0, 0.5], "relu": [0, 0, 0.5], "step": [-1, 1, 1], "none": [-0.5, 0, 0.5]}
    slopes = {"abs": (-1, 1), "relu": (0, 1), "step": (0, 0), "none": (1, 1)}
    assert {*values} == {*LEVEL_SETS}
    for name, value in values.items():
        problem = Poisson(level_set=name)
        inputs = problem.inputs(at)
        assert inputs[:, :2].equal(at)
        assert inputs[:, 2].tolist() == value
        sides = problem.loss().terms["interface"].jets
        for jet, slope in zip(sides, slopes[name], strict=True):
            assert jet.d(0)[:, 2].unique().tolist() == [slope]
            assert (jet.value[:, 0] == 0).all()


def test_interface_points_in_the_volume_are_taken_from_the_right():
    problem = Poisson()
    points, (jet,) = problem.points["volume"], problem.loss().terms["volume"].jets
    middle = points[:, 0] == 0
    assert int(middle.sum()) == 49
    assert (jet.d(0)[middle][:, 2] == 1).all()
    assert (poisson.coefficient(points[middle]) == 0.5).all()


def test_volume_residual_takes_any_jet():
    left = points()
    left = left[left[:, 0] < 0]
    u = propagate(Function(exact), Jet.at(left, pairs=[(0, 0), (1, 1)]))
    assert volume_residual(u, left).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_have_the_dtype_asked_for(dtype):
    problem = Poisson(4, dtype=dtype)
    jets = [jet.channels for term in problem.loss().terms.values() for jet in term.jets]
    assert {t.dtype for t in [*problem.points.values(), *jets, problem.reference]} == {dtype}
    assert problem.points["volume"].shape == (9, 2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"cells": 7}, "cells must be even, .*, got 7"),
        ({"cells": 0}, "cells must be at least 2, got 0"),
        ({"cells": 4.0}, "cells must be an integer of at least 2, got 4.0"),
        ({"dtype": torch.int32}, "dtype must be a floating-point type .*, got torch.int32"),
        ({"device": "abacus"}, "device must be one that .*, got 'abacus'"),
        ({"level_set": "x"}, r"level_set must be one of \('abs', .*, got 'x'"),
    ],
)
def test_poisson_names_the_mistake(arguments, text):
    with pytest.raises((TypeError, ValueError), match=text):
        Poisson(**arguments)
