"""Products of the chain rule, against derivatives that SymPy forms."""

from itertools import combinations_with_replacement

import pytest
import sympy

from kanlib.kernels.chain_rule import closed, flattened, products, total, unflattened

ALL = [d for k in (2, 3, 4) for d in combinations_with_replacement(range(2), k)]


@pytest.mark.parametrize("derivative", ALL)
def test_sum_of_products_is_the_derivative_of_a_composition(derivative):
    """s(x) for s = exp(3 x) and a polynomial x of two coordinates, at a point."""
    t = sympy.symbols("a b")
    x = (1 + t[0] + 2 * t[1]) ** 4 / 7 + t[0] ** 3 * t[1] - t[1] ** 2
    v = sympy.Symbol("v")
    s = sympy.exp(3 * v)
    higher = closed([derivative])
    at = {t[0]: sympy.Rational(1, 3), t[1]: sympy.Rational(-2, 5)}

    def along(f, directions):
        return sympy.diff(f, *(t[i] for i in directions)) if directions else f

    channels = [along(x, d).subs(at) for d in ((), (0,), (1,), *higher)]
    orders = [sympy.diff(s, v, j).subs(v, channels[0]) for j in range(5)]
    found = total(products(2, higher)[higher.index(derivative)], orders, channels)
    assert sympy.simplify(found - along(s.subs(v, x), derivative).subs(at)) == 0


@pytest.mark.parametrize(("order", "count"), [(2, 2), (3, 5), (4, 15)])
def test_every_partition_counts_once(order, count):
    """Bell's numbers."""
    higher = closed([(0,) * order, tuple(range(order))])
    for derivative, terms in zip(higher, products(4, higher), strict=True):
        if len(derivative) == order:
            assert sum(term.times for term in terms) == count


def test_parts_are_found_and_lists_restored():
    assert closed([(1, 1), (0, 1, 0)]) == ((1, 1), (0, 0), (0, 1), (0, 0, 1))
    assert closed([(2, 1)]) == ((1, 2),)
    assert closed([]) == ()
    assert unflattened(flattened(closed(ALL))) == closed(ALL)
    with pytest.raises(KeyError):
        products(2, ((0, 0, 1),))
