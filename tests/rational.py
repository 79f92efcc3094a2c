"""B-splines, truncated powers and their matrices in rational arithmetic: without any rounding.

Functions are counted from zero; the i-th of order r lives on knots[i], ..., knots[i + r].
"""

from fractions import Fraction
from itertools import accumulate, pairwise


def uniform_breakpoints(n):
    return [Fraction(i, n) for i in range(n + 1)]


def uneven_breakpoints(n):
    """Return n + 1 breakpoints from 0 with the spacings 1, 2, 3, 1, 2, 3, ... over 7."""
    return [Fraction(0), *accumulate(Fraction(1 + i % 3, 7) for i in range(n))]


def with_exterior(points, order):
    """Return the knots of `points`: the end spacings repeat outside."""
    left, right = points[1] - points[0], points[-1] - points[-2]
    before = [points[0] - i * left for i in range(order - 1, 0, -1)]
    return before + list(points) + [points[-1] + i * right for i in range(1, order)]


def halved(points):
    middle = [(s + t) / 2 for s, t in pairwise(points)]
    return sorted([*points, *middle])


def bspline(knots, order, i, x):
    """Cox-de Boor on half-open intervals."""
    if order == 1:
        return Fraction(knots[i] <= x < knots[i + 1])
    left, right = knots[i + order - 1] - knots[i], knots[i + order] - knots[i + 1]
    return (x - knots[i]) / left * bspline(knots, order - 1, i, x) + (
        knots[i + order] - x
    ) / right * bspline(knots, order - 1, i + 1, x)


def truncated_power(knots, order, i, x):
    return (x - knots[i]) ** (order - 1) if x >= knots[i] else Fraction(0)


def change_of_basis(knots, order):
    """Lemma 2, entry by entry; the row after the last is zero."""
    size = len(knots) - order
    rows = [[Fraction((j == i) - (j == i + 1)) for j in range(size)] for i in range(size)]
    for k in range(2, order + 1):
        rows.append([Fraction(0)] * size)
        rows = [
            [
                rows[i][j] / (knots[i + k - 1] - knots[i])
                - rows[i + 1][j] / (knots[i + k] - knots[i + 1])
                for j in range(size)
            ]
            for i in range(size)
        ]
    return rows


def product(a, b):
    columns = list(zip(*b, strict=True))
    return [[sum(x * y for x, y in zip(row, c, strict=True)) for c in columns] for row in a]


def upper_inverse(a):
    """Inverse of an upper triangular matrix by back substitution."""
    size = len(a)
    inverse = [[Fraction(0)] * size for _ in range(size)]
    for j in range(size):
        for i in range(j, -1, -1):
            known = sum(a[i][k] * inverse[k][j] for k in range(i + 1, j + 1))
            inverse[i][j] = (Fraction(i == j) - known) / a[i][i]
    return inverse
