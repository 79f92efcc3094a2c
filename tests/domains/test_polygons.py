"""Polygons: areas, normals and uniform points, against formulas by hand."""

import pytest
import torch
from numpy.polynomial import legendre

from kanlib.domains.polygons import Polygon
from kanlib.domains.shapes import KINDS, Box, Disc

SHAPE_L = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]  # area 3, perimeter 8
HOLLOW = Polygon([(0, 0), (0, 3), (3, 3), (3, 0)], [[(1, 1), (2, 1), (1, 2)]])  # 9 - 1/2


@pytest.mark.parametrize("vertices", [SHAPE_L, SHAPE_L[::-1]], ids=["left", "right"])
def test_normals_point_outwards_in_either_direction(vertices):
    shape = Polygon(vertices)
    x = torch.tensor([[1.5, 0.0], [2.0, 0.5], [1.5, 1.0], [1.0, 1.5], [0.5, 2.0], [0.0, 1.0]])
    right = torch.tensor([[0.0, -1], [1, 0], [0, 1], [1, 0], [0, 1], [-1, 0]])
    assert torch.equal(shape.normal(x), right)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [Polygon(SHAPE_L), HOLLOW], ids=["L", "hollow"])
def test_points_are_in_the_polygon(shape, kind):
    x = shape.points(1000, kind)
    assert shape.contains(x).all()
    assert shape.contains(shape.boundary.points(1000, kind)).all()


def test_contains_agrees_with_the_boxes_of_an_l():
    x = Box([(-1, 3), (-1, 3)]).points(4096)
    a, b = x.unbind(dim=1)
    right = (a >= 0) & (b >= 0) & (((a <= 2) & (b <= 1)) | ((a <= 1) & (b <= 2)))
    assert torch.equal(Polygon(SHAPE_L).contains(x), right)


@pytest.mark.parametrize(
    ("shape", "area", "perimeter"),
    [(Polygon(SHAPE_L), 3.0, 8.0), (HOLLOW, 8.5, 12 + 2 + 2**0.5)],
    ids=["L", "hollow"],
)
def test_divergence_theorem(shape, area, perimeter):
    x = shape.boundary.points(2**14)
    n = shape.normal(x)
    assert (x * n).sum(dim=1).mean() * perimeter == pytest.approx(2 * area, rel=5e-3)
    assert n.mean(dim=0).abs().max() < 1e-3


def test_integral_over_a_triangle():
    """The integral of x^2 y over the triangle (0, 0), (1, 0), (0, 1) is 1 / 60."""
    node, weight = legendre.leggauss(5)
    node, weight = (node + 1) / 2, weight / 2
    exact = sum(w * x**2 * (1 - x) ** 2 / 2 for x, w in zip(node, weight, strict=True))
    assert exact == pytest.approx(1 / 60)
    x = Polygon([(0, 0), (1, 0), (0, 1)]).points(2**14)
    assert float((x[:, 0] ** 2 * x[:, 1]).mean() / 2) == pytest.approx(exact, rel=2e-3)


def test_distance_is_that_from_the_nearest_of_many_boundary_points():
    x = Box([(-1, 4), (-1, 4)]).points(100)
    nearest = torch.cdist(x, HOLLOW.boundary.points(2**15)).amin(dim=1)
    assert (HOLLOW.distance(x) - nearest).abs().max() < 1e-3


def test_difference_with_a_disc():
    rest = Polygon(SHAPE_L) - Disc((0.5, 0.5), 0.25)
    x = rest.points(1000)
    assert rest.contains(x).all()
    assert (x - 0.5).norm(dim=1).min() >= 0.25
    assert torch.allclose(rest.normal(torch.tensor([[0.75, 0.5]])), torch.tensor([[-1.0, 0.0]]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([(0, 0), (1, 1), (1, 0), (0, 1)],), "sides do not cross"),
        (([(0, 0), (1, 1)],), "vertices must be at least three pairs"),
        (([(0, 0), (1, 1), (0, float("nan"))],), "vertices must be at least three pairs"),
        ((SHAPE_L, [[(5, 5), (6, 5), (5, 6)]]), "holes lie in it"),
        ((SHAPE_L, [[(5, 5)]]), r"holes\[0\] must be at least three"),
    ],
)
def test_bad_polygons(arguments, words):
    with pytest.raises(ValueError, match=words):
        Polygon(*arguments)


def test_a_corner_may_be_given_twice():
    once, twice = Polygon([(0, 0), (1, 0), (0, 1)]), Polygon([(0, 0), (0, 0), (1, 0), (0, 1)])
    x = torch.rand(50, 2, dtype=torch.float64)
    torch.testing.assert_close(twice.distance(x), once.distance(x))
    torch.testing.assert_close(twice.normal(x), once.normal(x))
