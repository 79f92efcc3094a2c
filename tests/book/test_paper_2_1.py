"""Section 2.1 and Appendix B of the paper, statement by statement, in rational arithmetic."""

from fractions import Fraction
from itertools import pairwise
from math import comb, factorial

import pytest
import torch

from kanlib import KnotGrid, SplineLayer
from kanlib._checks import EXTENSIONS
from kanlib.splines import bspline, truncated_power
from kanlib.splines.change_of_basis import ChangeOfBasis
from tests import rational as q

ORDERS = [1, 2, 3, 4, 5]
GRIDS = {"uniform": q.uniform_breakpoints(4), "uneven": q.uneven_breakpoints(4)}
cases = pytest.mark.parametrize(
    ("order", "points"),
    [pytest.param(r, p, id=f"{r}-{name}") for name, p in GRIDS.items() for r in ORDERS],
)


def as_float(matrix):
    return torch.tensor([[float(v) for v in row] for row in matrix], dtype=torch.float64)


def grid(order, points):
    return KnotGrid(order, [float(t) for t in points])


def samples(points):
    """Three points in each interval, its left end among them."""
    return [
        s + (t - s) * v for s, t in pairwise(points) for v in (0, Fraction(1, 3), Fraction(5, 6))
    ]


@cases
def test_bsplines_agree_with_rational_arithmetic(order, points):
    knots = q.with_exterior(points, order)
    size = len(knots) - order
    exact = as_float(
        [[q.bspline(knots, order, i, x) for i in range(size)] for x in samples(points)]
    )
    x = torch.tensor([float(x) for x in samples(points)], dtype=torch.float64)
    for evaluate in (bspline.cox_de_boor, bspline.dense_basis):
        if order > 1:  # a piecewise constant function jumps where a knot is rounded
            torch.testing.assert_close(evaluate(x, grid(order, points)), exact, rtol=0, atol=1e-14)
        inside = torch.arange(len(x)) % 3 > 0
        torch.testing.assert_close(
            evaluate(x[inside], grid(order, points)), exact[inside], rtol=0, atol=1e-14
        )


@cases
def test_change_of_basis_agrees_with_lemma_2(order, points):
    exact = as_float(q.change_of_basis(q.with_exterior(points, order), order))
    code = ChangeOfBasis(grid(order, points)).dense()
    assert code.shape == (4 + order - 1, 4 + order - 1)
    torch.testing.assert_close(code, exact, rtol=1e-13, atol=1e-13 * exact.abs().max().item())


@cases
def test_change_of_basis_maps_truncated_powers_to_bsplines(order, points):
    knots = q.with_exterior(points, order)
    matrix = q.change_of_basis(knots, order)
    for x in samples(points):
        psi = [q.truncated_power(knots, order, j, x) for j in range(len(matrix))]
        for i, row in enumerate(matrix):
            mapped = sum(v * power for v, power in zip(row, psi, strict=True))
            assert mapped == q.bspline(knots, order, i, x)


@pytest.mark.parametrize("order", ORDERS)
def test_corollary_1_follows_from_lemma_2(order):
    n = 4
    matrix = q.change_of_basis(q.with_exterior(q.uniform_breakpoints(n), order), order)
    scale = Fraction(n) ** (order - 1) / factorial(order - 1)
    for i, row in enumerate(matrix):
        for j, entry in enumerate(row):
            s = j - i
            assert entry == (scale * (-1) ** s * comb(order, s) if 0 <= s <= order else 0)


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_lower_powers_cancel_in_the_proof_of_lemma_2(order):
    # The coefficients of ReLU(x - t_j)^(r-2), which the proof drops for smoothness.
    points = q.uneven_breakpoints(4)
    t = q.with_exterior(points, order)
    size = len(t) - order
    lower = q.change_of_basis(t[:-1], order - 1)
    for i in range(size - 1):
        for j in range(size):
            first = lower[i][j] * (t[j] - t[i]) / (t[i + order - 1] - t[i])
            second = lower[i + 1][j] * (t[j] - t[i + order]) / (t[i + order] - t[i + 1])
            assert first == second


@pytest.mark.parametrize("order", ORDERS)
def test_closed_intervals_double_the_sum_at_knots(order):
    def closed(t, r, i, x):
        if r == 1:
            return Fraction(t[i] <= x <= t[i + 1])
        return (x - t[i]) / (t[i + r - 1] - t[i]) * closed(t, r - 1, i, x) + (t[i + r] - x) / (
            t[i + r] - t[i + 1]
        ) * closed(t, r - 1, i + 1, x)

    points = q.uneven_breakpoints(3)
    knots = q.with_exterior(points, order)
    indices = range(len(knots) - order)
    for x in points[1:-1]:
        assert sum(closed(knots, order, i, x) for i in indices) == 2
        assert sum(q.bspline(knots, order, i, x) for i in indices) == 1


def test_eq_4_needs_basis_functions_in_rows():
    order, points = 3, q.uniform_breakpoints(3)
    knots = q.with_exterior(points, order)
    size = len(knots) - order
    where = [Fraction(2 * k + 1, 2 * size) for k in range(size)]
    matrix = q.change_of_basis(knots, order)
    splines = [[q.bspline(knots, order, i, x) for x in where] for i in range(size)]
    powers = [[q.truncated_power(knots, order, i, x) for x in where] for i in range(size)]
    assert q.product(matrix, powers) == splines

    def transposed(m):
        return [list(column) for column in zip(*m, strict=True)]

    assert q.product(matrix, transposed(powers)) != transposed(splines)


def test_shift_of_appendix_b_is_transposed():
    matrix = q.change_of_basis([Fraction(i) for i in range(7)], 2)
    size = len(matrix)
    down = [[Fraction(i == j + 1) for j in range(size)] for i in range(size)]  # S e_j = e_{j+1}
    square = q.product(down, down)
    printed = [
        [Fraction(i == j) - 2 * down[i][j] + square[i][j] for j in range(size)] for i in range(size)
    ]
    assert printed != matrix
    assert [list(column) for column in zip(*printed, strict=True)] == matrix


@pytest.mark.parametrize("exponent", [1, 2, 3])
def test_proposition_2_holds_for_exponent_one(exponent):
    a, b = Fraction(-1, 3), Fraction(1, 5)
    for x in [Fraction(k, 7) for k in range(-7, 8)]:
        relu = max(x - b, Fraction(0))
        assert (x - a) * relu**exponent == relu ** (exponent + 1) + (b - a) * relu**exponent


@pytest.mark.parametrize("order", ORDERS)
def test_kan_layer_equals_multichannel_mlp_layer(order):
    torch.manual_seed(0)
    layer = SplineLayer(3, 2, KnotGrid.uniform(order, 6), dtype=torch.float64)
    x = torch.rand(200, 3, dtype=torch.float64)
    biases = layer.grid.knots[: layer.grid.num_basis]
    channels = x[:, :, None] - biases
    power_relu = (channels >= 0) * channels.abs() ** (order - 1)
    A = as_float(q.change_of_basis(q.with_exterior(q.uniform_breakpoints(6), order), order))
    mixed = torch.einsum("npj,qpi,ij->nq", power_relu, layer.weight, A)
    torch.testing.assert_close(mixed, layer(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(layer.to_basis("relu")(x), layer(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("order", ORDERS)
def test_extension_is_the_same_function_in_both_bases(order, extension):
    g = KnotGrid(order, [float(t) for t in q.uneven_breakpoints(4)])
    a, b = g.domain
    x = torch.linspace(a - 2, b + 2, 101, dtype=torch.float64)
    matrix = ChangeOfBasis(g).dense()
    splines = bspline.dense_basis(x, g, extension=extension)
    powers = truncated_power.dense_basis(x, g, extension=extension)
    torch.testing.assert_close(powers @ matrix.T, splines, rtol=0, atol=1e-10)
