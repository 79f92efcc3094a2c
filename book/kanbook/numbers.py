"""Numbers in sentences that code writes: powers of ten as one reads them, comparisons, shares.

Cells and records have ``1.3e-02``; pages have 1.3 × 10⁻².  `readable` turns one into the other in
plain text, as the Sphinx extension ``book_numbers`` does in the text of a page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from kanlib.paper.comparison import plain

NUMBER = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?)e([+-]?\d+)(?![\w.]*\w)")
"""A number with a power of ten, in the groups its factor and its exponent."""

LEVEL = 1.05
"""Ratio up to which two numbers are called level."""

NOTHING = 1e-12
"""Ratio below which a number is said to vanish."""

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def readable(text: str) -> str:
    r"""Return a text whose powers of ten are written as one reads them, and not broken by a line.

    >>> print(readable("from 1.0e+00 at 1e6 to -1.3e-02").replace("\u00a0", " "))
    from 1.0 at 10⁶ to −1.3 × 10⁻²
    """

    def written(found: re.Match[str]) -> str:
        factor, power = found[1].replace("-", "−"), int(found[2])
        if not power:
            return factor
        base = {"1": "10", "−1": "−10"}.get(factor, f"{factor}\u00a0×\u00a010")
        return base + str(power).translate(_RAISED)

    return NUMBER.sub(written, text)


def beside(value: float, other: float) -> str:
    """Return how a number lies beside another; both are positive.

    >>> beside(0.01, 0.12), beside(3.0, 2.0), beside(1.0, 1.01)
    ('12 times below', '1.5 times above', 'level with')
    """
    _check(value, other)
    ratio = max(value, other) / min(value, other)
    if ratio < LEVEL:
        return "level with"
    return f"{plain(ratio)} times {'below' if value < other else 'above'}"


def changes(ratio: float) -> str:
    """Return what becomes of a positive number that is multiplied by a ratio, zero or more.

    >>> changes(0.34), changes(2e-5), changes(73.0), changes(1.01), changes(1e-20)
    ('falls to 34 %', 'falls to 2.0e-05', 'grows 73 times', 'stays', 'vanishes')
    """
    if ratio == np.inf:
        return "grows without bound"
    if ratio:
        _check(ratio)
    if ratio > LEVEL:
        return f"grows {plain(ratio)} times"
    if ratio > 1 / LEVEL:
        return "stays"
    if ratio < NOTHING:
        return "vanishes"
    return f"falls to {f'{100 * ratio:.0f} %' if ratio >= 0.01 else f'{ratio:.1e}'}"


def ranked(values: Mapping[str, float]) -> str:
    """Return which of several positive numbers is lowest, and how far the others lie above it.

    >>> ranked({"fine": 0.12, "coarse": 0.02, "multilevel": 0.01})
    'multilevel ends lowest, at 1.0e-02; coarse 2.0 times above, fine 12 times above'
    >>> ranked({"fine": 2.0, "coarse": 2.01})
    'fine ends lowest, at 2.0e+00; coarse level with it'
    """
    _check(*values.values())
    (name, least), *others = sorted(values.items(), key=lambda pair: pair[1])
    above = [f"{each} {beside(value, least)}" for each, value in others]
    text = ", ".join(phrase + " it" * phrase.endswith("with") for phrase in above)
    return f"{name} ends lowest, at {least:.1e}" + (f"; {text}" if text else "")


def _check(*values: float) -> None:
    """Raise ValueError unless all numbers are positive and finite."""
    if not all(0 < value < np.inf for value in values):
        raise ValueError(f"a sentence needs positive, finite numbers, got {values}")


def concentrated(values: Any, weights: Any = 1.0) -> float:
    """Return on which part of a domain half of a non-negative quantity lies, at least.

    Args:
        values: the quantity on a grid, of any shape.
        weights: the area of each point; one for all of them if they are equal.

    >>> concentrated([8.0, 1.0, 1.0, 2.0])
    0.25
    """
    amount, area = np.asarray(values, dtype=float), np.broadcast_to(weights, np.shape(values))
    order = np.argsort(amount, axis=None)[::-1]
    held = np.cumsum((amount * area).ravel()[order])
    most = area.ravel()[order][: int(np.searchsorted(held, held[-1] / 2)) + 1]
    return float(most.sum() / area.sum())


def where_large(name: str, values: Any, x: Any, y: Any, time: str = "y", weights: Any = 1.0) -> str:
    """Return where a field is largest, and how concentrated it is.

    Args:
        name: what the field is called.
        values: its values, (N, M).
        x: places (M,) along the first coordinate.
        y: places (N,) along the second one.
        time: name of the second coordinate.
        weights: the area of each point, as `concentrated` takes it.

    >>> where_large("error", [[0.0, 0.0], [0.02, -0.1]], [0.0, 0.5], [0.0, 1.0])
    'The error is largest at x = 0.50, y = 1.00: 1.0e-01. Half of its square lies on 25 % of the \
domain.'
    """
    size = np.abs(np.asarray(values, dtype=float))
    if not size.any():
        return f"The {name} is zero everywhere."
    _check(size.max())
    row, column = np.unravel_index(int(size.argmax()), size.shape)
    place = ", ".join(
        f"{axis} = {round(float(at), 2) + 0.0:.2f}"
        for axis, at in (("x", x[int(column)]), (time, y[int(row)]))
    )
    return (
        f"The {name} is largest at {place}: {size[row, column]:.1e}. Half of its square lies on "
        f"{100 * concentrated(size**2, weights):.2g} % of the domain."
    )
