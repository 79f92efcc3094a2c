"""Domains: points in them and on their boundaries, and outward normals.

A domain stands in the place of the box of a :class:`kanlib.objectives.samplers.Sampler`, and so
does its boundary; normals are a function of points, for residuals::

    plate = Difference(Box([(-1, 1), (-1, 1)]), Disc((0, 0), 0.5))

    def insulated(u, x):  # no flux through the boundary
        normal = plate.normal(x)
        return u.d(0) * normal[:, :1] + u.d(1) * normal[:, 1:]

    loss = ResidualLoss(
        inside=Term(heat, Sampler(plate, 2000), pairs=[(0, 0), (1, 1)]),
        rim=Term(insulated, Sampler(plate.boundary, 400)),
    )

All points are float64 on the CPU; a sampler moves them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from scipy.stats import qmc
from torch import Tensor

from kanlib._checks import as_integer, as_interval, as_number, check_option, check_tensor, shown

__all__ = ["Boundary", "Box", "Difference", "Disc", "Domain"]

KINDS = ("uniform", "sobol", "latin")
#: At most this many candidates are drawn for a point that is wanted.
CANDIDATES = 2**12
#: How far beside a boundary one looks which side of it a difference has, relative to its size.
BESIDE = 1e-7


class Domain(ABC):
    """A bounded domain in P dimensions.

    Attributes:
        dimension: the number P of coordinates.
        size: the largest coordinate of its points, for tolerances.

    Examples:
        >>> domain = Box([(0, 2), (0, 1)])
        >>> isinstance(domain, Domain), domain.dimension
        (True, 2)
        >>> domain.contains(torch.tensor([[0.5, 0.5], [3.0, 0.5]]))
        tensor([ True, False])
        >>> domain.distance(torch.tensor([[1.0, 0.75]]))
        tensor([0.2500])
    """

    dimension: int
    size: float

    @abstractmethod
    def contains(self, x: Tensor) -> Tensor:
        """Return whether points (N, P) lie in the domain or on its boundary, of shape (N,)."""

    @abstractmethod
    def distance(self, x: Tensor) -> Tensor:
        """Return the distance (N,) of points (N, P) from the boundary, on either side of it."""

    @abstractmethod
    def normal(self, x: Tensor) -> Tensor:
        """Return the outward unit normals (N, P) at points (N, P) of the boundary.

        A point that lies beside the boundary has the normal of a nearest point of it; at a corner,
        one of the sides counts.
        """

    @property
    @abstractmethod
    def traced(self) -> float:
        """The size of the set that :meth:`trace` covers, boundary and refused points."""

    @abstractmethod
    def fill(self, unit: Tensor) -> Tensor:
        """Return points (N, P) of the domain, uniform if those of the unit cube (N, P) are.

        Rows that are refused, because they lie in a hole, are NaN.
        """

    @abstractmethod
    def trace(self, unit: Tensor) -> Tensor:
        """Return points (N, P) of the boundary, NaN where refused, uniform if ``unit`` is.

        Args:
            unit: points of the unit cube, of shape (N, max(P - 1, 1)).
        """

    def points(self, count: int, kind: str = "sobol", seed: int = 0) -> Tensor:
        """Return points (count, P) of the domain.

        Args:
            count: number of points.
            kind: "uniform" for independent points, "sobol" for scrambled Sobol points, "latin" for
                a Latin hypercube.
            seed: the same seed gives the same points.

        Raises:
            TypeError: if an argument is of the wrong type.
            ValueError: if it is out of range, or the domain has next to no points.
        """
        return _drawn(self.fill, self.dimension, count, kind, seed)

    @property
    def boundary(self) -> Boundary:
        """The boundary, of which one can draw points."""
        return Boundary(self)

    def __sub__(self, other: Domain) -> Difference:
        return Difference(self, other)

    def _rounding(self, x: Tensor) -> float:
        """Return how far rounding may take points from where they are meant to be."""
        return 64 * torch.finfo(x.dtype).eps * self.size

    def _checked(self, x: Tensor) -> Tensor:
        """Return points if they are (N, P)."""
        check_tensor("x", x, self.dimension)
        if x.ndim != 2:
            raise ValueError(f"x must have shape (N, {self.dimension}), got {(*x.shape,)}")
        return x

    @staticmethod
    def _part(unit: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of K parts, in proportion to sizes (K,), numbers (N,) of [0, 1) are in.

        And where in it, in [0, 1], so that one number of a point of the cube serves for both.
        """
        share = sizes / sizes.sum()
        ends = share.cumsum(0)
        number = torch.searchsorted(ends, unit.contiguous(), right=True).clamp_max(len(sizes) - 1)
        return number, ((unit - (ends - share)[number]) / share[number]).clamp(0, 1)


class Boundary:
    """The boundary of a domain, for a :class:`kanlib.objectives.samplers.Sampler`.

    Args:
        domain: the domain.

    Examples:
        >>> circle = Disc((0.0, 0.0), 2.0).boundary
        >>> x = circle.points(5)
        >>> torch.allclose(x.norm(dim=1), torch.tensor(2.0).to(x))
        True
    """

    def __init__(self, domain: Domain) -> None:
        self.domain, self.dimension = domain, domain.dimension

    def points(self, count: int, kind: str = "sobol", seed: int = 0) -> Tensor:
        """Return points (count, P) of the boundary, see :meth:`Domain.points`."""
        return _drawn(self.domain.trace, max(self.dimension - 1, 1), count, kind, seed)


def _drawn(
    place: Callable[[Tensor], Tensor], dimension: int, count: int, kind: str, seed: int
) -> Tensor:
    """Return that many points of those that points of the unit cube are placed at."""
    count, seed = as_integer("count", count, minimum=1), as_integer("seed", seed, minimum=0)
    check_option("kind", kind, KINDS)
    number = count
    while number <= CANDIDATES * count:
        found = place(_unit(number, dimension, kind, seed))
        found = found[found.isfinite().all(dim=1)]
        if len(found) >= count:
            return found[:count]
        number *= 2
    raise ValueError(
        f"the domain must have points, got {len(found)} among {number // 2} candidates: what is "
        "taken away from it must leave some of it"
    )


def _unit(number: int, dimension: int, kind: str, seed: int) -> Tensor:
    """Return points (number, dimension) of the unit cube."""
    if kind == "uniform":
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.rand(number, dimension, generator=generator, dtype=torch.float64, device="cpu")
    if kind == "latin":
        return torch.from_numpy(qmc.LatinHypercube(dimension, rng=seed).random(number))
    engine = qmc.Sobol(dimension, rng=seed)
    return torch.from_numpy(engine.random_base2(math.ceil(math.log2(number)))[:number])


class Box(Domain):
    """The product of intervals, of any dimension.

    Args:
        intervals: one pair (low, high) for each coordinate.

    Raises:
        TypeError: if there is no list of pairs of numbers.
        ValueError: if an interval is empty.

    Examples:
        >>> square = Box([(0, 1), (0, 1)])
        >>> square.points(5).shape
        torch.Size([5, 2])
        >>> square.normal(torch.tensor([[0.0, 0.3], [0.6, 1.0]]))
        tensor([[-1.,  0.],
                [ 0.,  1.]])
    """

    def __init__(self, intervals: Sequence[tuple[float, float]]) -> None:
        if not isinstance(intervals, Sequence) or not len(intervals):
            raise ValueError(
                "intervals must be a list of one pair (low, high) for each coordinate, got "
                f"{shown(intervals)}"
            )
        ends = [as_interval(f"intervals[{i}]", each) for i, each in enumerate(intervals)]
        self.intervals, self.dimension = ends, len(ends)
        self._low, high = torch.tensor(ends, dtype=torch.float64, device="cpu").T
        self._width = high - self._low
        self.size = max(abs(end) for pair in ends for end in pair)

    def __repr__(self) -> str:
        return f"Box({self.intervals})"

    def _gaps(self, x: Tensor) -> Tensor:
        """Return how far (N, 2 P) points lie within each side: low ones, then high ones."""
        low = self._low.to(x)
        return torch.cat([x - low, low + self._width.to(x) - x], dim=1)

    def contains(self, x: Tensor) -> Tensor:
        """Return whether points lie in the box, see :meth:`Domain.contains`."""
        return (self._gaps(self._checked(x)) >= -self._rounding(x)).all(dim=1)

    def distance(self, x: Tensor) -> Tensor:
        """Return distances from the boundary, see :meth:`Domain.distance`."""
        gaps = self._gaps(self._checked(x))
        inner, outer = gaps.amin(dim=1), (-gaps).clamp_min(0).norm(dim=1)
        return torch.where(inner >= 0, inner, outer)

    def normal(self, x: Tensor) -> Tensor:
        """Return outward normals, see :meth:`Domain.normal`."""
        side = self._gaps(self._checked(x)).argmin(dim=1)  # outside, the one most violated
        normal = torch.zeros_like(x)
        sign = torch.where(side < self.dimension, -1.0, 1.0).to(x)
        return normal.scatter(1, side[:, None] % self.dimension, sign[:, None])

    @property
    def traced(self) -> float:
        """The size of the boundary; an interval has two ends."""
        return float(2 * (self._width.prod() / self._width).sum())

    def fill(self, unit: Tensor) -> Tensor:
        """Return points of the box, see :meth:`Domain.fill`."""
        return self._low + self._width * unit

    def trace(self, unit: Tensor) -> Tensor:
        """Return points of the boundary, see :meth:`Domain.trace`."""
        size = self._width.prod() / self._width  # of a side, by the coordinate that it fixes
        number, rest = self._part(unit[:, 0], size.repeat_interleave(2))
        axis, end = number // 2, (number % 2).to(unit)
        place = torch.cat([rest[:, None], unit[:, 1:]], dim=1)[:, : self.dimension - 1]
        along = torch.arange(self.dimension)
        column = along - (along > axis[:, None]).long()  # which of the rest a coordinate takes
        padded = torch.cat([place, place.new_zeros(len(place), 1)], dim=1)
        cube = padded.gather(1, column).scatter(1, axis[:, None], end[:, None])
        return self._low + self._width * cube


class Disc(Domain):
    """A disc in the plane.

    Args:
        centre: its two coordinates.
        radius: its radius.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if there are not two coordinates, or the radius is not positive.

    Examples:
        >>> disc = Disc((1.0, 0.0), 2.0)
        >>> disc.normal(torch.tensor([[1.0, 2.0]]))
        tensor([[0., 1.]])
    """

    dimension = 2

    def __init__(self, centre: Sequence[float], radius: float) -> None:
        if not isinstance(centre, Sequence) or len(centre) != 2:
            raise ValueError(f"centre must be two numbers, got {shown(centre)}")
        self.centre = tuple(as_number("centre", each) for each in centre)
        self.radius = as_number("radius", radius, above=0)
        self.size = max(map(abs, self.centre)) + self.radius
        self._centre = torch.tensor(self.centre, dtype=torch.float64, device="cpu")

    def __repr__(self) -> str:
        return f"Disc({self.centre}, {self.radius})"

    def _radius(self, x: Tensor) -> Tensor:
        return (self._checked(x) - self._centre.to(x)).norm(dim=1)

    def contains(self, x: Tensor) -> Tensor:
        """Return whether points lie in the disc, see :meth:`Domain.contains`."""
        return self._radius(x) <= self.radius + self._rounding(x)

    def distance(self, x: Tensor) -> Tensor:
        """Return distances from the circle, see :meth:`Domain.distance`."""
        return (self._radius(x) - self.radius).abs()

    def normal(self, x: Tensor) -> Tensor:
        """Return outward normals, see :meth:`Domain.normal`."""
        return torch.nn.functional.normalize(self._checked(x) - self._centre.to(x), dim=1)

    @property
    def traced(self) -> float:
        """The length of the circle."""
        return 2 * math.pi * self.radius

    def fill(self, unit: Tensor) -> Tensor:
        """Return points of the disc, see :meth:`Domain.fill`."""
        return self._at(unit[:, 1], unit[:, :1].sqrt())

    def trace(self, unit: Tensor) -> Tensor:
        """Return points of the circle, see :meth:`Domain.trace`."""
        return self._at(unit[:, 0], 1.0)

    def _at(self, turn: Tensor, share: Tensor | float) -> Tensor:
        angle = 2 * math.pi * turn
        circle = torch.stack([angle.cos(), angle.sin()], dim=1)
        return self._centre + self.radius * share * circle


class Difference(Domain):
    """What is left of a domain where another one is taken away; also ``base - hole``.

    Args:
        base: the domain.
        hole: what is taken away, of the same dimension. It may stand out of the base.

    Raises:
        TypeError: if one is no domain.
        ValueError: if their dimensions differ.

    Examples:
        >>> plate = Difference(Box([(-1, 1), (-1, 1)]), Disc((0, 0), 0.5))
        >>> bool(plate.contains(plate.points(100)).all())
        True
        >>> plate.normal(torch.tensor([[0.5, 0.0]]))  # out of the plate, into the hole
        tensor([[-1., -0.]])
    """

    def __init__(self, base: Domain, hole: Domain) -> None:
        for name, domain in (("base", base), ("hole", hole)):
            if not isinstance(domain, Domain):
                raise TypeError(f"{name} must be a domain, such as a Box, got {shown(domain)}")
        if base.dimension != hole.dimension:
            raise ValueError(
                f"base and hole must have the same dimension, got {base.dimension} and "
                f"{hole.dimension}"
            )
        self.base, self.hole, self.dimension, self.size = base, hole, base.dimension, base.size

    def __repr__(self) -> str:
        return f"{self.base!r} - {self.hole!r}"

    def contains(self, x: Tensor) -> Tensor:
        """Return whether points lie in the difference, see :meth:`Domain.contains`."""
        away = self.hole.contains(x)
        rim = away & (self.hole.distance(x) <= self.hole._rounding(x))
        return self.base.contains(x) & (~away | rim & self._beyond(x))

    def _beyond(self, x: Tensor) -> Tensor:
        """Return whether the domain is beside points of the boundary of the hole."""
        return self.base.contains(x + BESIDE * self.size * self.hole.normal(x))

    def distance(self, x: Tensor) -> Tensor:
        """Return distances from the nearer boundary, see :meth:`Domain.distance`.

        Where parts of a boundary are cut away by the other domain, they count still, so that it is
        a lower bound there.
        """
        return torch.minimum(self.base.distance(x), self.hole.distance(x))

    def normal(self, x: Tensor) -> Tensor:
        """Return outward normals, those of the hole turned, see :meth:`Domain.normal`."""
        nearer = self.hole.distance(x) < self.base.distance(x)
        return torch.where(nearer[:, None], -self.hole.normal(x), self.base.normal(x))

    @property
    def traced(self) -> float:
        """The size of both boundaries, as they are without the other domain."""
        return self.base.traced + self.hole.traced

    def fill(self, unit: Tensor) -> Tensor:
        """Return points of the difference, see :meth:`Domain.fill`."""
        found = self.base.fill(unit)
        return found.where(self.contains(found)[:, None], math.nan)

    def trace(self, unit: Tensor) -> Tensor:
        """Return points of what is left of the boundaries, see :meth:`Domain.trace`."""
        sizes = torch.tensor([self.base.traced, self.hole.traced], dtype=unit.dtype)
        number, rest = self._part(unit[:, 0], sizes)
        own = torch.cat([rest[:, None], unit[:, 1:]], dim=1)
        outer, inner = self.base.trace(own), self.hole.trace(own)
        within = outer - BESIDE * self.size * self.base.normal(outer)
        outer = outer.where(~self.hole.contains(within)[:, None], math.nan)
        shared = self.base.distance(inner) <= self.base._rounding(inner)  # the base has these
        inner = inner.where((self._beyond(inner) & ~shared)[:, None], math.nan)
        return torch.where(number[:, None] == 0, outer, inner)
