"""Domains: areas, lengths, normals and uniform points, against formulas and quadrature."""

import math

import pytest
import torch
from scipy import integrate

from kanlib import Sampler, Term
from kanlib.domains.shapes import KINDS, Boundary, Box, Difference, Disc

COUNT = 4096
BOX, DISC = Box([(-1, 2), (0, 1)]), Disc((0.5, 0.5), 0.25)
HOLE, CORNER = BOX - DISC, Box([(0, 1), (0, 1)]) - Disc((0, 0), 0.5)
SIZES = {  # domain, area, perimeter
    "box": (BOX, 3.0, 8.0),
    "disc": (Disc((2.0, -1.0), 1.5), math.pi * 2.25, 3 * math.pi),
    "hole": (HOLE, 3 - math.pi / 16, 8 + math.pi / 2),
    "corner": (CORNER, 1 - math.pi / 16, 3 + math.pi / 4),
    "flush": (Box([(0, 2), (-2, 0)]) - Box([(1, 2), (-1, 0)]), 3.0, 8.0),
    "beside": (Box([(0, 2), (0, 1)]) - Box([(2, 3), (0, 1)]), 2.0, 6.0),
    "two": (HOLE - Box([(1.5, 3), (0.5, 3)]), 3 - math.pi / 16 - 0.25, 8 + math.pi / 2),
}


@pytest.fixture(params=SIZES, ids=str)
def sized(request):
    return SIZES[request.param]


@pytest.mark.parametrize("kind", KINDS)
def test_points_lie_in_the_domain(sized, kind):
    domain = sized[0]
    x = domain.points(500, kind, seed=3)
    assert x.shape == (500, 2)
    assert domain.contains(x).all()
    assert len(x.unique(dim=0)) == 500
    assert torch.equal(x, domain.points(500, kind, seed=3))
    assert not torch.equal(x, domain.points(500, kind, seed=4))


def test_area_by_counting_points_of_a_box_around(sized):
    domain, area, _ = sized
    around = Box([(-1.5, 4.5), (-3.0, 1.5)])
    share = domain.contains(around.points(4 * COUNT)).double().mean()
    assert share * 27 == pytest.approx(area, rel=2e-2)


def test_divergence_theorem_on_uniform_points_of_the_boundary(sized):
    """The mean of x·n over the boundary is 2 area / perimeter, and that of n is zero."""
    domain, area, perimeter = sized
    x = domain.boundary.points(4 * COUNT)
    n = domain.normal(x)
    assert (n.norm(dim=1) - 1).abs().max() < 1e-14
    assert (x * n).sum(dim=1).mean() * perimeter == pytest.approx(2 * area, abs=0.02 * perimeter)
    assert n.mean(dim=0).abs().max() < 5e-3


def test_normals_point_outwards(sized):
    domain = sized[0]
    x = domain.boundary.points(500)
    assert domain.distance(x).max() < 1e-12
    step = 1e-6 * domain.normal(x)
    away = (domain.contains(x - step) & ~domain.contains(x + step)).double().mean()
    assert away > 0.99  # but at corners


@pytest.mark.parametrize("domain", [BOX, DISC], ids=["box", "disc"])
def test_distance_is_that_from_the_nearest_of_many_boundary_points(domain):
    x = Box([(-2, 3), (-1, 2)]).points(100)
    nearest = torch.cdist(x, domain.boundary.points(2**15)).amin(dim=1)
    assert (domain.distance(x) - nearest).abs().max() < 1e-3


def test_integral_over_a_disc_agrees_with_scipy():
    disc = Disc((0.3, 0.0), 0.8)
    x = disc.points(COUNT)
    found = torch.exp(x[:, 0] * x[:, 1] + x[:, 0]).mean() * math.pi * 0.64
    exact, _ = integrate.dblquad(
        lambda r, a: r * math.exp((0.3 + r * math.cos(a)) * (1 + r * math.sin(a))),
        0, 2 * math.pi, 0, 0.8,
    )  # fmt: skip
    assert float(found) == pytest.approx(exact, rel=1e-3)


def test_boundaries_in_one_and_three_dimensions():
    ends = Box([(2, 5)]).boundary.points(64)
    assert set(ends.flatten().tolist()) == {2.0, 5.0}
    assert Box([(2, 5)]).normal(ends).flatten().equal((ends.flatten() - 3.5).sign())
    cube = Box([(0, 1), (0, 2), (0, 3)])
    x = cube.boundary.points(COUNT)
    mean = (x * cube.normal(x)).sum(dim=1).mean()
    assert mean * 22 == pytest.approx(18, rel=1e-2)  # 3 volumes over a surface of 22
    assert cube.normal(x).abs().mean(dim=0).tolist() == pytest.approx(
        [6 / 11, 3 / 11, 2 / 11], abs=5e-3
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("domain", [BOX, Disc((3.0, -2e3), 0.7), HOLE], ids=repr)
def test_boundary_belongs_to_the_domain(domain, dtype):
    assert domain.contains(domain.boundary.points(1000).to(dtype)).all()


@pytest.mark.parametrize("domain", [BOX, DISC], ids=repr)
def test_normal_beside_the_boundary_is_the_slope_of_the_distance(domain):
    x = torch.tensor([[-3.0, 0.001], [0.9, 4.0], [2.5, 0.9], [0.6, 0.4]], dtype=torch.float64)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(domain.distance(x).sum(), x)
    outside = ~domain.contains(x)
    expected = torch.where(outside[:, None], slope, -slope)
    torch.testing.assert_close(domain.normal(x.detach()), expected)


def test_what_is_taken_away_flush_with_a_side_has_no_boundary_there():
    shape = SIZES["flush"][0]
    corner = torch.tensor([[1.7, 0.0], [2.0, -0.5], [1.5, -1.0], [0.5, 0.0]], dtype=torch.float64)
    assert shape.contains(corner).tolist() == [False, False, True, True]
    ends = (Box([(0, 3)]) - Box([(2, 3)])).boundary.points(20)
    assert sorted(ends.unique().tolist()) == [0.0, 2.0]
    with pytest.raises(ValueError, match="must leave some of it"):
        (DISC - DISC).boundary.points(10)


def test_sampler_draws_from_domains():
    plate = CORNER
    points = Sampler(plate, 200, every=2, share=0.5, seed=1, dtype=torch.float32)
    x = points.draw(3, size=lambda x: x[:, 0])
    assert x.dtype == torch.float32
    assert x.shape == (200, 2)
    assert plate.contains(x.double()).all()
    assert torch.equal(points.draw(2), points.draw(2))
    assert not torch.equal(points.draw(2), points.draw(3))
    rim = Sampler(plate.boundary, 50, kind="latin", dtype=torch.float64)
    assert plate.distance(rim.draw(0)).max() < 1e-12
    assert not torch.equal(rim.draw(0), rim.reseeded(5).draw(0))
    term = Term(lambda u, x: u.d(0) * plate.normal(x)[:, :1], rim)
    assert term.points.shape == (50, 2)


def test_sampler_of_a_domain_checks_the_kind_at_once():
    with pytest.raises(ValueError, match="kind must be"):
        Sampler(DISC, 5, kind="grid")


def test_boundary_knows_its_domain():
    assert isinstance(HOLE.boundary, Boundary)
    assert HOLE.boundary.domain is HOLE
    assert repr(HOLE) == "Box([(-1.0, 2.0), (0.0, 1.0)]) - Disc((0.5, 0.5), 0.25)"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Box([]), "intervals must be a list of one pair"),
        (lambda: Box([(1, 0)]), r"intervals\[0\]"),
        (lambda: Disc((0, 0), 0), "radius must be"),
        (lambda: Disc((0, 0, 0), 1), "centre must be two numbers"),
        (lambda: Difference(BOX, Box([(0, 1)])), "same dimension, got 2 and 1"),
        (lambda: (DISC - BOX).points(3), "must leave some of it"),
        (lambda: BOX.points(3, "grid"), "kind must be one of"),
        (lambda: BOX.points(0), "count must be"),
        (lambda: BOX.contains(torch.zeros(3, 3)), "x must have 2"),
        (lambda: BOX.normal(torch.zeros(2)), r"x must have shape \(N, 2\)"),
        (lambda: Sampler(BOX, 5, kind="grid").draw(0), "kind must be one of"),
    ],
)
def test_bad_domains(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_difference_needs_domains():
    with pytest.raises(TypeError, match="hole must be a domain, such as a Box, got 1"):
        Difference(BOX, 1)
