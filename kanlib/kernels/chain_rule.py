"""The chain rule for higher derivatives: which products of derivatives of x a function s(x) needs.

The derivative of s(x) along directions i1, ..., ik is a sum over all partitions of them into blocks
(Faà di Bruno's formula), of the derivative of s of as many orders as there are blocks, times the
derivatives of x along the directions of each block:

    s(x)_ab  = s'' x_a x_b + s' x_ab,
    s(x)_aab = s''' x_a x_a x_b + s'' (2 x_a x_ab + x_aa x_b) + s' x_aab.

A derivative is a tuple of its directions, counted from zero. A point carries as channels its value,
the first derivatives along D directions, and higher derivatives in the order of a list, in which
each one has all its parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import combinations
from typing import Any, NamedTuple

__all__ = ["closed", "products"]

#: The directions of each higher derivative, two to four.
Higher = Sequence[tuple[int, ...]]

#: The highest order of a derivative.
HIGHEST = 4


class Product(NamedTuple):
    """A term of the chain rule: so many times s of order len(factors) times these channels of x."""

    times: int
    factors: tuple[int, ...]


def closed(wanted: Iterable[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Return higher derivatives and the higher ones among their parts, lower orders first.

    Examples:
        >>> closed([(0, 0, 1)])
        ((0, 0), (0, 1), (0, 0, 1))
    """
    known = {tuple(sorted(each)): None for each in wanted}
    for each in [*known]:
        for size in range(2, len(each)):
            known |= dict.fromkeys(combinations(each, size))
    return tuple(sorted(known, key=len))


def check_channels(shape: Sequence[int], higher: Higher) -> int:
    """Return the number D of directions of channels (1 + D + K, ..., P), or raise.

    Raises:
        ValueError: if shape or directions do not fit.
    """
    directions = shape[0] - 1 - len(higher) if len(shape) > 1 else -1
    if directions < 0:
        raise ValueError(
            f"channels must have shape (1 + D + K, ..., P) with K = {len(higher)} pairs, "
            f"got {tuple(shape)}"
        )
    if any(direction not in range(directions) for pair in higher for direction in pair):
        raise ValueError(
            f"pairs must hold directions from 0 to D - 1 = {directions - 1}, got {higher}"
        )
    if any(not 2 <= len(each) <= HIGHEST for each in higher):
        raise ValueError(f"pairs must hold two to four directions each, got {higher}")
    missing = {*closed(higher)} - {tuple(sorted(each)) for each in higher}
    if missing:
        raise ValueError(
            f"pairs must hold all parts of each derivative, got {higher}: add {sorted(missing)}"
        )
    return directions


def products(directions: int, higher: tuple[tuple[int, ...], ...]) -> list[list[Product]]:
    """Return the terms of each higher derivative, more factors first.

    Args:
        directions: number D of directions.
        higher: the higher derivatives, in the order of their channels.

    Raises:
        KeyError: if a part of one is not among them.

    Examples:
        >>> products(1, ((0, 0), (0, 0, 0)))[1]
        [Product(times=1, factors=(1, 1, 1)), Product(times=3, factors=(1, 2)), \
Product(times=1, factors=(3,))]
    """
    return _products(directions, higher)


products.__dict__["_dynamo_marked_constant"] = True  # torch.compile shall not look inside


@cache
def _products(directions: int, higher: tuple[tuple[int, ...], ...]) -> list[list[Product]]:
    listed = [*((a,) for a in range(directions)), *map(_sorted, higher)]
    channels = {each: channel for channel, each in enumerate(listed, 1)}

    def terms(derivative: tuple[int, ...]) -> list[Product]:
        blocks = (tuple(sorted(channels[b] for b in p)) for p in _partitions(derivative))
        found = [Product(count, factors) for factors, count in Counter(blocks).items()]
        return sorted(found, key=lambda term: -len(term.factors))

    return [terms(_sorted(each)) for each in higher]


def _sorted(derivative: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(derivative))


def _partitions(directions: tuple[int, ...]) -> Iterator[list[tuple[int, ...]]]:
    """Yield all partitions of a list into blocks, each in its order."""
    if not directions:
        yield []
        return
    first, *others = directions
    for size in range(len(directions)):
        for chosen in combinations(range(len(others)), size):
            left = tuple(others[i] for i in range(len(others)) if i not in chosen)
            block = (first, *(others[i] for i in chosen))
            yield from ([block, *rest] for rest in _partitions(left))


def total(terms: Sequence[Product], orders: Sequence[Any], channels: Any) -> Any:
    """Return the sum of the terms of a derivative.

    Args:
        terms: its terms.
        orders: s(x) and its derivatives by x, those that occur.
        channels: all channels of x.
    """

    def value(term: Product) -> Any:
        found = orders[len(term.factors)]
        for channel in term.factors:
            found = found * channels[channel]
        return found if term.times == 1 else term.times * found

    found = value(terms[0])
    for term in terms[1:]:
        found = found + value(term)
    return found


def flattened(higher: Higher) -> list[int]:
    """Return the directions as a list of HIGHEST integers each, -1 where there are fewer."""
    return [i for each in higher for i in (*each, *[-1] * (HIGHEST - len(each)))]


def unflattened(flat: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the derivatives that :func:`flattened` made a list of."""
    chunks = (flat[i : i + HIGHEST] for i in range(0, len(flat), HIGHEST))
    return tuple(tuple(i for i in chunk if i >= 0) for chunk in chunks)
