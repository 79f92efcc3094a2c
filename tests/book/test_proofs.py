"""The proofs of appendix B as exact identities, and kanlib's matrices against them."""

from fractions import Fraction
from functools import cache
from itertools import accumulate
from math import comb, factorial, prod

import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from sympy.polys.matrices import DomainMatrix

from kanlib import KnotGrid, SplineLayer
from kanlib.splines.change_of_basis import ChangeOfBasis

ORDERS = [1, 2, 3, 4, 5]


@cache
def symbols(r):
    """Return x and the knots t_0, ..., t_r in a field of rational functions."""
    _, x, *t = sympy.field(["x", *(f"t{i}" for i in range(r + 1))], sympy.QQ)
    return x, t


def closed_form(t, i, r):
    """Return entries i, ..., i + r of row i of A: (t_{i+r} - t_i) / prod (t_m - t_j)."""
    support = range(i, i + r + 1)
    return [(t[i + r] - t[i]) / prod(t[m] - t[j] for m in support if m != j) for j in support]


def recursion(t, i, r):
    """Return the same entries by Lemma 2."""
    if r == 1:
        return [t[0] ** 0, -(t[0] ** 0)]
    left, right = recursion(t, i, r - 1), recursion(t, i + 1, r - 1)
    rising, falling = t[i + r - 1] - t[i], t[i + r] - t[i + 1]
    return [
        a / rising - b / falling for a, b in zip([*left, 0 * t[0]], [0 * t[0], *right], strict=True)
    ]


def cox_de_boor(x, t, i, r):
    """Return the polynomials of B-spline i on its r intervals."""
    if r == 1:
        return [x**0]
    left, right = cox_de_boor(x, t, i, r - 1), cox_de_boor(x, t, i + 1, r - 1)
    rising = (x - t[i]) / (t[i + r - 1] - t[i])
    falling = (t[i + r] - x) / (t[i + r] - t[i + 1])
    pairs = zip([*left, 0 * x], [0 * x, *right], strict=True)
    return [rising * a + falling * b for a, b in pairs]


@pytest.mark.parametrize("r", ORDERS)
def test_recursion_closed_form_and_b_spline_agree_for_symbolic_knots(r):
    x, t = symbols(r)
    row = closed_form(t, 0, r)
    assert recursion(t, 0, r) == row
    pieces = [0 * x, *cox_de_boor(x, t, 0, r), 0 * x]
    for m in range(r + 1):
        assert pieces[m + 1] - pieces[m] == row[m] * (x - t[m]) ** (r - 1)


@pytest.mark.parametrize("r", [2, 3, 4, 5])
def test_terms_of_lower_power_cancel_for_symbolic_knots(r):
    _, t = symbols(r)
    left, right = closed_form(t, 0, r - 1), closed_form(t, 1, r - 1)
    for j in range(1, r):
        first = left[j] * (t[j] - t[0]) / (t[r - 1] - t[0])
        second = right[j - 1] * (t[j] - t[r]) / (t[r] - t[1])
        assert first
        assert first == second


@pytest.mark.parametrize("r", [2, 3, 4, 5])
def test_exterior_powers_of_lower_degree_are_dependent(r):
    x, t = symbols(r)
    weights = [1 / prod(u - v for u in t[:r] if u != v) for v in t[:r]]
    assert all(weights)
    assert sum(w * (x - v) ** (r - 2) for w, v in zip(weights, t[:r], strict=True)) == 0


@pytest.mark.parametrize("r", ORDERS)
def test_exterior_truncated_powers_are_independent(r):
    _, t = symbols(r - 1)
    rows = [[comb(r - 1, k) * (-knot) ** (r - 1 - k) for k in range(r)] for knot in t]
    vandermonde = prod(t[j] - t[i] for j in range(r) for i in range(j))
    binomials = prod(comb(r - 1, k) for k in range(r))
    domain = t[0].field.to_domain()
    assert DomainMatrix(rows, (r, r), domain).det() == binomials * vandermonde


def test_printed_matrices_of_the_first_two_orders():
    _, t = symbols(2)
    h0, h1 = t[1] - t[0], t[2] - t[1]
    assert closed_form(t, 0, 1) == [1, -1]
    assert closed_form(t, 0, 2) == [1 / h0, -(1 / h0 + 1 / h1), 1 / h1]


@pytest.mark.parametrize("r", ORDERS)
def test_inserting_a_knot_splits_a_b_spline_into_two(r):
    _, s, *t = sympy.field(["s", *(f"t{i}" for i in range(r + 1))], sympy.QQ)

    def row(knots):
        """Coefficients of the powers in a B-spline over the length of its support."""
        length = knots[r] - knots[0]
        return dict(zip(knots, [a / length for a in closed_form(knots, 0, r)], strict=True))

    coarse, first, second = row(t), row([*t[:-1], s]), row([*t[1:], s])
    for u in [*t, s]:
        split = (s - t[0]) * first.get(u, 0) + (t[r] - s) * second.get(u, 0)
        assert split == (t[r] - t[0]) * coarse.get(u, 0)


@given(
    r=st.integers(1, 8),
    steps=st.lists(st.integers(1, 16), min_size=1, max_size=8),
)
def test_change_of_basis_has_the_closed_form_on_rational_knots(r, steps):
    grid = KnotGrid(r, [k / 8 for k in accumulate(steps, initial=0)])
    t = [Fraction(v) for v in grid.knots.tolist()]  # multiples of 1/8 are exact
    matrix = ChangeOfBasis(grid).dense()
    expected = torch.zeros_like(matrix)
    for i in range(grid.num_basis):
        for j, entry in enumerate(closed_form(t, i, r), start=i):
            if j < grid.num_basis:
                expected[i, j] = float(entry)
    torch.testing.assert_close(matrix, expected, rtol=1e-13, atol=0.0)


@pytest.mark.parametrize("r", ORDERS)
def test_uniform_change_of_basis_is_a_power(r):
    n = 7
    size = n + r - 1
    first = sympy.eye(size) - sympy.Matrix(size, size, lambda i, j: int(j == i + 1))
    expected = torch.tensor((first**r / factorial(r - 1)).tolist(), dtype=torch.float64)
    torch.testing.assert_close(ChangeOfBasis(KnotGrid.uniform(r, n, (0.0, n))).dense(), expected)


@pytest.mark.parametrize("r", ORDERS)
@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_layer_equals_a_sum_over_relu_channels(r, basis):
    torch.manual_seed(0)
    n = 6
    layer = SplineLayer(3, 2, KnotGrid.uniform(r, n), basis=basis, dtype=torch.float64)
    u = layer.to_basis("spline").weight.detach()
    knots = [Fraction(k, n) for k in range(1 - r, n + r)]
    x = torch.rand(40, 3, dtype=torch.float64)
    expected = torch.zeros(40, 2, dtype=torch.float64)
    for i in range(n + r - 1):
        for j, entry in enumerate(closed_form(knots, i, r), start=i):
            if j < n + r - 1:
                distance = x - float(knots[j])
                psi = distance.clamp(min=0) ** (r - 1) * (distance >= 0)
                expected += float(entry) * psi @ u[:, :, i].T
    torch.testing.assert_close(layer(x).detach(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("r", ORDERS)
def test_two_scale_relation_is_a_factorisation(r):
    z, h = sympy.symbols("z h", positive=True)
    weights = [sympy.Rational(comb(r, s), 2 ** (r - 1)) for s in range(r + 1)]
    mask = sum(w * z**s for s, w in enumerate(weights))
    coarse = h ** (1 - r) * (1 - z**2) ** r
    fine = (h / 2) ** (1 - r) * (1 - z) ** r
    assert sympy.cancel(mask * fine / coarse) == 1
    assert sum(weights) == 2
