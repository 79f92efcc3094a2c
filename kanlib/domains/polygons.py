"""Polygons, with holes if wanted, by shapely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
import torch
from torch import Tensor

from kanlib._checks import as_list, shown
from kanlib.domains.shapes import Domain

__all__ = ["Polygon"]

Vertices = Sequence[tuple[float, float]]


class Polygon(Domain):
    """A polygon in the plane.

    Args:
        vertices: its corners in order, of either direction.
        holes: corners of polygons that are taken away, which lie in it and do not meet.

    Raises:
        ValueError: if there are fewer than three corners, sides cross, or a hole stands out.

    Examples:
        >>> triangle = Polygon([(0, 0), (1, 0), (0, 1)])
        >>> bool(triangle.contains(triangle.points(100)).all())
        True
        >>> triangle.normal(torch.tensor([[0.5, 0.0]]))
        tensor([[ 0., -1.]])
    """

    dimension = 2

    def __init__(self, vertices: Vertices, holes: Sequence[Vertices] = ()) -> None:
        rings = [_ring("vertices", vertices)]
        rings += [
            _ring(f"holes[{i}]", hole) for i, hole in enumerate(as_list("holes", holes, "polygons"))
        ]
        shape = shapely.Polygon(rings[0], rings[1:])
        if not shape.is_valid:
            raise ValueError(
                "vertices must make a polygon whose sides do not cross and whose holes lie in it, "
                f"got {shapely.is_valid_reason(shape)}: give the corners in order"
            )
        self.shape = shapely.orient_polygons(shape)  # the inside is on the left of each side
        corners = [np.asarray(ring.coords) for ring in (self.shape.exterior, *self.shape.interiors)]
        start = torch.from_numpy(np.concatenate([ring[:-1] for ring in corners]))
        side = torch.from_numpy(np.concatenate([np.diff(ring, axis=0) for ring in corners]))
        long = side.norm(dim=1) > 0  # a corner may be given twice
        self._start, self._side = start[long], side[long]
        self.size = float(start.abs().max())
        pieces = shapely.get_parts(shapely.constrained_delaunay_triangles(self.shape))
        triangles = [np.asarray(piece.exterior.coords)[:3] for piece in pieces]
        self._triangles = torch.from_numpy(np.stack(triangles))  # (K, 3, 2)
        self._areas = torch.from_numpy(shapely.area(pieces))

    def __repr__(self) -> str:
        return f"Polygon({self.shape.wkt})"

    def contains(self, x: Tensor) -> Tensor:
        """Return whether points lie in the polygon."""
        at = self._checked(x).detach().cpu().double().numpy()
        inside = shapely.intersects_xy(self.shape, at[:, 0], at[:, 1])
        return torch.from_numpy(inside).to(x.device) | (self.distance(x) <= self._rounding(x))

    def _nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distance (N,) of points from the nearest side, and its number (N,)."""
        start, side = self._start.to(x), self._side.to(x)
        offset = self._checked(x)[:, None] - start  # (N, K, 2)
        share = (offset * side).sum(dim=2) / side.square().sum(dim=1)
        found = (offset - share.clamp(0, 1)[..., None] * side).norm(dim=2).min(dim=1)
        return found.values, found.indices

    def distance(self, x: Tensor) -> Tensor:
        """Return distances from the nearest side."""
        return self._nearest(x)[0]

    def normal(self, x: Tensor) -> Tensor:
        """Return outward normals."""
        side = self._side.to(x)[self._nearest(x)[1]]
        right = torch.stack([side[:, 1], -side[:, 0]], dim=1)
        return torch.nn.functional.normalize(right, dim=1)

    @property
    def traced(self) -> float:
        """The length of all sides."""
        return float(self.shape.length)

    def fill(self, unit: Tensor) -> Tensor:
        """Return points of the polygon."""
        number, rest = self._part(unit[:, 0], self._areas)
        corner, second, third = self._triangles[number].unbind(dim=1)
        across = rest.sqrt()[:, None]  # uniform in a triangle: its width grows from the corner on
        along = unit[:, 1:]
        return corner + across * (second - corner + along * (third - second))

    def trace(self, unit: Tensor) -> Tensor:
        """Return points of the sides."""
        number, rest = self._part(unit[:, 0], self._side.norm(dim=1))
        return self._start[number] + rest[:, None] * self._side[number]


def _ring(name: str, vertices: Vertices) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    try:
        ring = np.asarray(vertices, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        ring = np.zeros(0)
    if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3 or not np.isfinite(ring).all():
        raise ValueError(f"{name} must be at least three pairs (x, y), got {shown(vertices)}")
    return ring
