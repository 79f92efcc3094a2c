"""Section 4.2 of the paper, statement by statement, in rational arithmetic."""

from fractions import Fraction
from itertools import pairwise
from math import comb, factorial

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from kanlib import KnotGrid, SplineLayer, prolongation
from kanlib.splines import bspline, truncated_power
from tests import rational as q

ORDERS = [1, 2, 3, 4, 5]
X = [Fraction(2 * k + 1, 97) for k in range(48)]  # inside (0, 1), no knot among them


def as_float(matrix):
    return torch.tensor([[float(v) for v in row] for row in matrix], dtype=torch.float64)


def grid(order, points):
    return KnotGrid(order, [float(t) for t in points])


def printed_formula(knots, fine_knots, order):
    """A_T I A_T'^{-1} as a (coarse, fine) matrix, and the number of zero rows of I."""
    size, fine_size = len(knots) - order, len(fine_knots) - order
    same = [[Fraction(s == t) for t in fine_knots[:fine_size]] for s in knots[:size]]
    inverse = q.upper_inverse(q.change_of_basis(fine_knots, order))
    matrix = q.product(q.product(q.change_of_basis(knots, order), same), inverse)
    return matrix, sum(not any(row) for row in same)


def is_exact(matrix, knots, fine_knots, order):
    return all(
        q.bspline(knots, order, i, x)
        == sum(v * q.bspline(fine_knots, order, j, x) for j, v in enumerate(row) if v)
        for i, row in enumerate(matrix)
        for x in X
    )


@pytest.mark.parametrize("order", ORDERS)
def test_inclusion_holds_one_way_only(order):
    coarse = KnotGrid.uniform(order, 4)
    fine = coarse.refine()
    x = np.linspace(0, 1, 200, endpoint=False)

    def basis(g):
        return BSpline(g.knots.numpy(), np.eye(g.num_basis), order - 1)(x)

    def distance(functions, space):
        return np.abs(functions - space @ np.linalg.lstsq(space, functions, rcond=None)[0]).max()

    assert distance(basis(coarse), basis(fine)) < 1e-13
    assert distance(basis(fine), basis(coarse)) > 0.01


@pytest.mark.parametrize("order", ORDERS)
def test_two_scale_relation_is_exact_in_rational_arithmetic(order):
    n = 4
    points = q.uniform_breakpoints(n)
    knots = q.with_exterior(points, order)
    fine_knots = q.with_exterior(q.halved(points), order)
    # Function i of the code is function i + 1 - r of the paper.
    stencil = {
        (i, j): Fraction(2) ** (1 - order) * comb(order, s)
        for i in range(n + order - 1)
        for j in range(2 * n + order - 1)
        if 0 <= (s := (j + 1 - order) - 2 * (i + 1 - order)) <= order
    }
    matrix = [
        [stencil.get((i, j), Fraction(0)) for j in range(2 * n + order - 1)]
        for i in range(n + order - 1)
    ]
    assert is_exact(matrix, knots, fine_knots, order)
    halves = [[v / 2 for v in row] for row in matrix]  # the printed factor 2^-r
    assert not is_exact(halves, knots, fine_knots, order)
    code = prolongation(grid(order, points), grid(order, q.halved(points))).dense()
    assert torch.equal(code, as_float(matrix).T)


@pytest.mark.parametrize("order", ORDERS)
def test_knot_insertion_is_exact_in_rational_arithmetic(order):
    points = [t / q.uneven_breakpoints(4)[-1] for t in q.uneven_breakpoints(4)]
    third = [s + (t - s) / 3 for s, t in pairwise(points)]
    fine_points = sorted([*points, *third])
    knots = q.with_exterior(points, order)
    fine_knots = q.with_exterior(fine_points, order)
    code = prolongation(grid(order, points), grid(order, fine_points)).dense()
    before = as_float([[q.bspline(knots, order, i, x) for i in range(code.shape[1])] for x in X])
    after = as_float(
        [[q.bspline(fine_knots, order, j, x) for j in range(code.shape[0])] for x in X]
    )
    torch.testing.assert_close(after @ code, before, rtol=0, atol=1e-14)
    torch.testing.assert_close(code.sum(1), torch.ones(code.shape[0], dtype=torch.float64))


@pytest.mark.parametrize("order", ORDERS)
def test_printed_general_formula_needs_nested_exterior_knots(order):
    points = q.uniform_breakpoints(3)
    knots, inside, e = q.with_exterior(points, order), q.halved(points), order - 1
    uniform = q.with_exterior(inside, order)
    kept = knots[:e] + inside + knots[len(knots) - e :]
    everywhere = q.halved(knots)

    matrix, zero_rows = printed_formula(knots, uniform, order)
    assert zero_rows == order // 2
    assert is_exact(matrix, knots, uniform, order) == (order == 1)

    matrix, zero_rows = printed_formula(knots, kept, order)
    assert zero_rows == 0
    assert is_exact(matrix, knots, kept, order)

    matrix, _ = printed_formula(knots, everywhere, order)
    assert is_exact(matrix, knots, everywhere, order)
    meets_domain = as_float(matrix)[:, e : len(matrix[0]) - e].T
    assert torch.equal(meets_domain, prolongation(grid(order, points), grid(order, inside)).dense())


@pytest.mark.parametrize("order", ORDERS)
def test_relu_prolongation_is_exact_in_rational_arithmetic(order):
    points = q.uniform_breakpoints(3)
    knots = q.with_exterior(points, order)
    fine_knots = q.with_exterior(q.halved(points), order)
    code = prolongation(grid(order, points), grid(order, q.halved(points)), "relu").dense()
    for i in range(code.shape[1]):
        column = [Fraction(v).limit_denominator(10**6) for v in code[:, i].tolist()]
        for x in X:
            assert q.truncated_power(knots, order, i, x) == sum(
                v * q.truncated_power(fine_knots, order, j, x) for j, v in enumerate(column)
            )


@pytest.mark.parametrize("order", ORDERS)
def test_relu_weights_condition_grows_with_the_order(order):
    condition = []
    for n in (80, 160):
        layer = SplineLayer(1, 1, KnotGrid.uniform(order, 5), init_scale=0.0, dtype=torch.float64)
        layer.weight.data.fill_(1.0)  # the constant function 1
        layer = layer.to_basis("relu").refine(KnotGrid.uniform(order, n))
        psi = truncated_power.dense_basis(torch.ones(1, dtype=torch.float64), layer.grid)
        condition.append((psi @ layer.weight[0, 0].abs()).item())
        # w_k = (-1)^k C(r-1, k) h^(1-r) / (r-1)! at the knots -k h
        terms = [comb(order - 1, k) * (n + k) ** (order - 1) for k in range(order)]
        assert condition[-1] == pytest.approx(sum(terms) / factorial(order - 1), rel=1e-9)
    assert np.log2(condition[1] / condition[0]) == pytest.approx(order - 1, abs=0.1)


@pytest.mark.parametrize("order", ORDERS)
def test_refitting_returns_the_exact_prolongation(order):
    coarse = KnotGrid.uniform(order, 5)
    fine = coarse.refine()
    x = torch.linspace(0, 1, 400, dtype=torch.float64)
    refit = np.linalg.lstsq(
        bspline.dense_basis(x, fine).numpy(), bspline.dense_basis(x, coarse).numpy(), rcond=None
    )[0]
    np.testing.assert_allclose(refit, prolongation(coarse, fine).dense().numpy(), atol=1e-12)
