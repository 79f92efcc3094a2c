"""Knot sequences: the grid on which a spline space lives.

A grid is given by its order r and n + 1 strictly increasing breakpoints a = t_0 < ... < t_n = b.
The r - 1 exterior knots on either side, which B-splines need, repeat the spacing of the end
interval, so that a uniform grid has uniform knots throughout. They influence the basis functions
but not the spline space on [a, b]. On a periodic grid they repeat the breakpoints instead, a period
b - a further on, see :mod:`kanlib.splines.periodic`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from kanlib._checks import as_integer, as_interval, check_types, shown

__all__ = ["KnotGrid"]

#: Two breakpoints closer than this, relative to the magnitude of the grid, are the same point.
RELATIVE_TOLERANCE = 64 * torch.finfo(torch.float64).eps

#: Splines of any higher order take long to build, and are of no use.
MAX_ORDER = 32


@dataclass(frozen=True, init=False, repr=False)
class KnotGrid:
    """An immutable knot grid of a given order.

    Args:
        order: order r of the splines, from 1 to 32 (degree r - 1; r = 4 is cubic).
        breakpoints: n + 1 >= 2 strictly increasing finite numbers, as a sequence or tensor.
        periodic: whether a and b are one point of a circle, around which the knots wrap.

    Raises:
        TypeError: if ``order`` is not an integer, the breakpoints are not numbers, or ``periodic``
            is not a bool.
        ValueError: if ``order`` is out of range or the breakpoints are too few, not finite, not
            increasing, too close to be told apart, or out of the range of float64.

    Examples:
        >>> grid = KnotGrid(3, [0.0, 0.5, 1.0])
        >>> grid.n, grid.num_basis, grid.is_uniform
        (2, 4, True)
        >>> grid.knots
        tensor([-1.0000, -0.5000,  0.0000,  0.5000,  1.0000,  1.5000,  2.0000],
               dtype=torch.float64)
        >>> grid.refine()
        KnotGrid(order=3, n=4, domain=[0, 1], uniform)
        >>> KnotGrid(3, [0.0, 0.25, 1.0], periodic=True).knots
        tensor([-1.0000, -0.7500,  0.0000,  0.2500,  1.0000,  1.2500,  2.0000],
               dtype=torch.float64)
    """

    order: int
    _points: tuple[float, ...]
    periodic: bool = False

    def __init__(
        self, order: int, breakpoints: Iterable[float] | Tensor, *, periodic: bool = False
    ) -> None:
        check_types(KnotGrid.__init__, {"periodic": periodic})
        object.__setattr__(self, "order", as_integer("order", order, 1, MAX_ORDER))
        object.__setattr__(self, "_points", _checked_breakpoints(breakpoints))
        object.__setattr__(self, "periodic", periodic)

    @classmethod
    def uniform(
        cls,
        order: int,
        n: int,
        domain: tuple[float, float] = (0.0, 1.0),
        *,
        periodic: bool = False,
    ) -> KnotGrid:
        """Return the uniform grid of ``n`` intervals on ``domain``.

        Args:
            order: order r >= 1.
            n: number of intervals, at least 1.
            domain: end points (a, b) with a < b.
            periodic: whether a and b are one point of a circle.

        Raises:
            TypeError: if ``n`` is not an integer.
            ValueError: if ``n`` < 1 or the domain is not an increasing pair of finite numbers.
        """
        n, order = as_integer("n", n, minimum=1), as_integer("order", order, 1, MAX_ORDER)
        a, b = as_interval("domain", domain)
        problem = _unresolved(a, b, (b - a) / n)
        if problem:
            raise ValueError(f"breakpoints of domain = {shown(domain)} with n = {n} {problem}")
        return cls(order, [a + (b - a) * i / n for i in range(n)] + [b], periodic=periodic)

    @property
    def n(self) -> int:
        """Number of intervals."""
        return len(self._points) - 1

    @property
    def num_basis(self) -> int:
        """Number n + r - 1 of B-splines on [a, b], the dimension of the spline space.

        Of periodic splines, n of their coefficients are free.
        """
        return self.n + self.order - 1

    @property
    def domain(self) -> tuple[float, float]:
        """The end points (a, b)."""
        return self._points[0], self._points[-1]

    @property
    def h(self) -> float:
        """Mean spacing (b - a) / n, the mesh width of a uniform grid."""
        return (self._points[-1] - self._points[0]) / self.n

    @property
    def tolerance(self) -> float:
        """Distance below which two points of this grid count as one."""
        a, b = self.domain
        return RELATIVE_TOLERANCE * max(abs(a), abs(b))

    @property
    def is_uniform(self) -> bool:
        """Whether all intervals have the same length, up to rounding."""
        a, h = self._points[0], self.h
        return all(abs(t - (a + i * h)) <= self.tolerance for i, t in enumerate(self._points))

    @property
    def breakpoints(self) -> Tensor:
        """The n + 1 breakpoints, a new float64 tensor on the CPU."""
        return torch.tensor(self._points, dtype=torch.float64, device="cpu")

    @property
    def knots(self) -> Tensor:
        """The n + 2r - 1 knots t_{1-r}, ..., t_{n+r-1}, a new float64 tensor on the CPU."""
        t, exterior = self._points, range(1, self.order)
        if self.periodic:
            n, period, r = self.n, t[-1] - t[0], self.order
            wrapped = [
                t[i % n] + period * (i // n) for i in (*range(1 - r, 0), *range(n + 1, n + r))
            ]
            knots = [*wrapped[: r - 1], *t, *wrapped[r - 1 :]]
            return torch.tensor(knots, dtype=torch.float64, device="cpu")
        left = [t[0] - i * (t[1] - t[0]) for i in reversed(exterior)]
        right = [t[-1] + i * (t[-1] - t[-2]) for i in exterior]
        return torch.tensor([*left, *t, *right], dtype=torch.float64, device="cpu")

    def refine(self) -> KnotGrid:
        """Return the grid with every interval halved; all old breakpoints are kept exactly."""
        t = self._points
        midpoints = [0.5 * (left + right) for left, right in pairwise(t)]
        return self.with_breakpoints(sorted([*t, *midpoints]))

    def with_breakpoints(self, breakpoints: Iterable[float] | Tensor) -> KnotGrid:
        """Return a grid of the same order with other breakpoints, periodic if this one is."""
        return KnotGrid(self.order, breakpoints, periodic=self.periodic)

    def missing_from(self, finer: KnotGrid) -> list[float]:
        """Return the breakpoints of this grid that ``finer`` lacks (empty if nested)."""
        if not isinstance(finer, KnotGrid):
            raise TypeError(f"finer must be a KnotGrid, got {shown(finer)}")
        _, distance = nearest(self.breakpoints, finer.breakpoints)
        tolerance = max(self.tolerance, finer.tolerance)
        return [t for t, d in zip(self._points, distance.tolist(), strict=True) if d > tolerance]

    def __repr__(self) -> str:
        a, b = self.domain
        spacing = "uniform" if self.is_uniform else "non-uniform"
        wraps = ", periodic" if self.periodic else ""
        return (
            f"KnotGrid(order={self.order}, n={self.n}, domain=[{a:.12g}, {b:.12g}], "
            f"{spacing}{wraps})"
        )


def extended(breakpoints: Tensor, order: int) -> Tensor:
    """Return knots (..., n + 2r - 1): breakpoints (..., n + 1) and the r - 1 exterior knots a side.

    They repeat the spacing of the end interval, as :attr:`KnotGrid.knots` does for fixed grids;
    derivatives pass through.

    Examples:
        >>> extended(torch.tensor([0.0, 1.0, 3.0]), 3)
        tensor([-2., -1.,  0.,  1.,  3.,  5.,  7.])
    """
    steps = torch.arange(1, order, device=breakpoints.device)
    first, last = breakpoints[..., :1], breakpoints[..., -1:]
    left = first - steps.flip(0) * (breakpoints[..., 1:2] - first)
    right = last + steps * (last - breakpoints[..., -2:-1])
    return torch.cat([left, breakpoints, right], dim=-1)


def nearest(x: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index of the nearest of at least two increasing ``points``, and its distance."""
    right = torch.bucketize(x, points).clamp(1, points.numel() - 1)
    index = torch.where(x - points[right - 1] < points[right] - x, right - 1, right)
    return index, (x - points[index]).abs()


def check_powers(grid: KnotGrid) -> None:
    """Raise ValueError unless powers of distances on a grid, up to its order, are in float64."""
    a, b = grid.domain
    limit = 1e300 ** (1 / grid.order)
    smallest = min(right - left for left, right in pairwise(grid._points))
    if smallest < 1 / limit or max(abs(a), abs(b)) > limit:
        raise ValueError(
            f"grid must have powers of order {grid.order} within float64 for the ReLU basis, got "
            f"{grid}: scale the domain"
        )


def check_resolved(grid: KnotGrid, dtype: torch.dtype) -> None:
    """Raise ValueError unless numbers of ``dtype`` tell points of the domain of a grid apart."""
    a, b = grid.domain
    limits = torch.finfo(dtype)
    rounded = torch.tensor(grid.domain, dtype=torch.float64, device="cpu").to(dtype).tolist()
    spacings = grid.breakpoints.diff()
    shift = max(abs(rounded[0] - a) / spacings[0], abs(rounded[1] - b) / spacings[-1])
    if (
        16 * limits.eps * max(abs(a), abs(b)) > b - a
        or float(spacings.min()) < limits.tiny
        or not shift < 0.25
    ):
        raise ValueError(
            f"domain [{a!r}, {b!r}] with n = {grid.n} is not resolved by numbers of {dtype}: scale "
            "and shift it, as input_domain does, or take dtype=torch.float64"
        )


def _checked_breakpoints(breakpoints: Iterable[float] | Tensor) -> tuple[float, ...]:
    values = breakpoints.tolist() if isinstance(breakpoints, Tensor | np.ndarray) else breakpoints
    try:
        points = tuple(_number(t) for t in values)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(
            f"breakpoints must be a flat sequence of numbers, got {shown(breakpoints)}"
        ) from None
    if len(points) < 2:
        raise ValueError(f"breakpoints must hold at least the two end points, got {points}")
    if not all(math.isfinite(t) for t in points):
        bad = next(i for i, t in enumerate(points) if not math.isfinite(t))
        raise ValueError(f"breakpoints must be finite, got {points[bad]} at position {bad}")
    for i, (left, right) in enumerate(pairwise(points)):
        if not left < right:
            raise ValueError(
                "breakpoints must be strictly increasing, "
                f"got {left!r} then {right!r} at positions {i}, {i + 1}: sort them and drop repeats"
            )
        problem = _unresolved(points[0], points[-1], right - left)
        if problem:
            raise ValueError(
                f"breakpoints {left!r} and {right!r} at positions {i}, {i + 1} {problem}"
            )
    return points


def _unresolved(a: float, b: float, spacing: float) -> str:
    """Return what is wrong with a spacing in [a, b], or nothing."""
    size = max(abs(a), abs(b))
    if spacing <= 2 * RELATIVE_TOLERANCE * size:
        return (
            "are too close to be told apart in float64: drop one, or shift the domain to the origin"
        )
    limits = torch.finfo(torch.float64)
    if spacing < 4 * limits.tiny or size > limits.max / 1e3:
        return "leave the range of normal numbers in float64: scale the domain"
    return ""


def _number(value: float) -> float:
    if isinstance(value, bool | str | bytes):
        raise TypeError
    return float(value)
