"""Points that move: drawn anew every few steps, so that nothing is fitted between them.

A network with many weights can make its residual small at fixed points and large between them. A
:class:`Sampler` in the place of the points of a :class:`kanlib.objectives.residuals.Term` draws
others every few steps, if wanted more of them where the residual is large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from kanlib._checks import (
    as_integer,
    as_number,
    check_factory,
    check_option,
    check_tensor,
    check_types,
    shown,
)

__all__ = ["Region", "Sampler"]

KINDS = ("uniform", "sobol")


@runtime_checkable
class Region(Protocol):
    """A set that one can draw points of, such as a domain of :mod:`kanlib.domains.shapes`.

    Examples:
        >>> from kanlib.domains.shapes import Disc
        >>> disc = Disc((0.0, 0.0), 1.0)
        >>> isinstance(disc, Region), disc.dimension
        (True, 2)
        >>> disc.points(100, "sobol", 0).shape
        torch.Size([100, 2])
    """

    @property
    def dimension(self) -> int:
        """The number P of coordinates."""

    def points(self, count: int, kind: str, seed: int) -> Tensor:
        """Return points (count, P) of a kind, the same for the same seed."""


class Sampler:
    """Points in a box or another domain, or in its image under a map.

    Draw k depends on the seed and on k only, and so do resumed runs.

    Args:
        box: one interval (low, high) for each coordinate; low = high fixes a coordinate. Or a
            domain of :mod:`kanlib.domains.shapes`, or its boundary.
        count: number of points.
        kind: "uniform" for independent points, "sobol" for scrambled Sobol points; a domain may
            have further kinds.
        every: steps between draws.
        share: share of the points that are drawn, with probabilities in proportion to the size of
            the residual, from ``pool`` times as many; the others do not depend on it.
        pool: see ``share``.
        map: function from points (N, P) of the box to points, e.g. one that draws them together.
        seed: seed of the draws.
        device: device of the points.
        dtype: floating-point type of the points.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if an argument is out of range.

    Examples:
        >>> start = Sampler([(-1, 1), (0, 0)], 100, dtype=torch.float64)
        >>> start.draw(0).shape, float(start.draw(1)[:, 1].abs().max())
        (torch.Size([100, 2]), 0.0)
    """

    def __init__(
        self,
        box: Sequence[tuple[float, float]] | Region,
        count: int,
        *,
        kind: str = "uniform",
        every: int = 1,
        share: float = 0.0,
        pool: int = 5,
        map: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        check_types(Sampler.__init__, locals() | {"box": [(0.0, 1.0)]})
        check_factory(device, dtype)
        self._region = box if isinstance(box, Region) else None
        intervals = [(0.0, 1.0)] * box.dimension if isinstance(box, Region) else box
        try:
            ends = [[as_number("an end", end) for end in (low, high)] for low, high in [*intervals]]
        except (TypeError, ValueError):
            ends = []
        if not ends or any(low > high for low, high in ends):
            raise ValueError(
                "box must be a list of one pair (low, high), low <= high, for each coordinate, as "
                f"[(0, 1)] for one, got {shown(box)}"
            )
        if self._region is None:
            check_option("kind", kind, KINDS)
        else:
            self._region.points(1, kind, 0)  # which says what is wrong with its kind
        if not 0 <= as_number("share", share) <= 1:
            raise ValueError(f"share must be from 0 to 1, got {share!r}")
        self.count = as_integer("count", count, minimum=1)
        self.every = as_integer("every", every, minimum=1)
        self.pool = as_integer("pool", pool, minimum=1)
        self.seed = as_integer("seed", seed, minimum=0)
        self.kind, self.share, self.map = kind, float(share), map
        like = torch.empty(0, device=device, dtype=dtype)
        self.device, self.dtype = like.device, like.dtype
        low, high = torch.tensor(ends, dtype=torch.float64, device="cpu").T
        self._low, self._width = low, high - low

    def draw(self, number: int, size: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return the points (count, P) of a draw.

        Args:
            number: which draw, from 0.
            size: size of the residual (N,) at points (N, P); without it, ``share`` counts as 0.
        """
        generator = torch.Generator("cpu").manual_seed(1_000_003 * self.seed + number)
        chosen = 0 if size is None else round(self.share * self.count)
        points = self._in_box(self.count - chosen, generator)
        if chosen and size is not None:
            candidates = self._in_box(self.pool * self.count, generator)
            weights = size(candidates).detach().cpu().double()
            weights = weights.nan_to_num(0.0, 0.0, 0.0) + torch.finfo(torch.float64).tiny
            rows = torch.multinomial(weights, chosen, generator=generator)
            points = torch.cat([points, candidates[rows.to(candidates.device)]])
        return points

    def _in_box(self, count: int, generator: torch.Generator) -> Tensor:
        dimension = len(self._low)
        with torch.device("cpu"):  # whatever the default is, a seed gives the same points
            if self._region is not None:
                seed = int(torch.randint(2**31, (1,), generator=generator))
                unit = self._region.points(count, self.kind, seed).to("cpu", torch.float64)
            elif self.kind == "sobol":
                seed = int(torch.randint(2**31, (1,), generator=generator))
                engine = SobolEngine(dimension, scramble=True, seed=seed)
                unit = engine.draw(count, dtype=torch.float64)
            else:
                unit = torch.rand(count, dimension, generator=generator, dtype=torch.float64)
        points = (self._low + self._width * unit).to(self.device, self.dtype)
        if self.map is None:
            return points
        mapped = self.map(points)
        check_tensor("what map returns", mapped)
        if mapped.ndim != 2 or len(mapped) != count:
            raise ValueError(
                f"map must return one row for each of {count} points, got shape {(*mapped.shape,)}"
            )
        return mapped

    def reseeded(self, seed: int) -> Sampler:
        """Return a sampler of other points in the same box, none of them chosen by residual."""
        other = object.__new__(Sampler)
        other.__dict__.update(self.__dict__, seed=seed, share=0.0)
        return other
