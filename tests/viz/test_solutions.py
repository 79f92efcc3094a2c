"""Pictures of solutions: values, errors and residuals stand where they belong."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from kanlib import KAN, Ensemble, Term
from kanlib.viz.solutions import contour_lines, draw_solution

BOX = [(0.0, 1.0), (-1.0, 2.0)]


class Known(nn.Module):
    """x + 10 t**2, and its double."""

    def forward(self, x):
        u = x[:, :1] + 10 * x[:, 1:] ** 2
        return torch.cat([u, 2 * u], dim=1)


def panel(fig, name):
    return next(trace for trace in fig.data if trace.name == name)


def test_map_has_the_first_coordinate_along_x():
    fig = draw_solution(Known(), BOX, points=5)
    (solution,) = fig.data
    x, t = np.linspace(0, 1, 5), np.linspace(-1, 2, 5)
    np.testing.assert_allclose(solution.x, x, atol=1e-6)
    np.testing.assert_allclose(solution.y, t, atol=1e-6)
    np.testing.assert_allclose(solution.z, x[None] + 10 * t[:, None] ** 2, rtol=1e-5, atol=1e-5)
    (double,) = draw_solution(Known(), BOX, points=5, output=1).data
    np.testing.assert_allclose(double.z, 2 * np.array(solution.z), rtol=1e-6)


@pytest.mark.parametrize("column", [True, False])
def test_error_is_the_distance_from_the_reference(column):
    fig = draw_solution(Known(), BOX, reference=lambda x: x[:, :1] if column else x[:, 0], points=4)
    t = np.linspace(-1, 2, 4)
    expected = np.repeat(10 * t[:, None] ** 2, 4, axis=1)
    np.testing.assert_allclose(panel(fig, "error").z, expected, rtol=1e-5, atol=1e-5)
    assert panel(fig, "error").zmid == 0


def test_residual_is_that_of_the_equation_without_its_weight():
    torch.manual_seed(0)
    net = KAN([2, 2, 1], n=3, r=5, dtype=torch.float64, input_domain=BOX)
    equations = Term(
        lambda u, x: torch.cat([u.d(0) - x[:, 1:], 3 * u.value], dim=1),
        torch.rand(4, 2, dtype=torch.float64),
        weight=0.01,
    )
    fig = draw_solution(net, BOX, term=equations, points=7)
    second = draw_solution(net, BOX, term=equations, points=7, output=0)
    solution = np.array(panel(fig, "solution").z)
    assert [trace.name for trace in fig.data if trace.name] == ["solution", "residual"]
    np.testing.assert_allclose(panel(second, "residual").z, panel(fig, "residual").z)
    x = torch.cartesian_prod(*(torch.linspace(a, b, 7, dtype=torch.float64) for a, b in BOX))
    x.requires_grad_()
    slope = torch.autograd.grad(net(x).sum(), x)[0][:, 0]
    expected = (slope - x[:, 1]).detach().reshape(7, 7).T
    np.testing.assert_allclose(panel(fig, "residual").z, expected, atol=1e-10)
    np.testing.assert_allclose(solution, net(x).detach().reshape(7, 7).T, atol=1e-12)


def test_maps_of_the_error_have_lines_of_the_reference():
    fig = draw_solution(Known(), BOX, reference=lambda x: x[:, 1], points=4)
    lines = [trace for trace in fig.data if trace.type == "contour"]
    assert {trace.yaxis for trace in lines} == {"y2"}  # the panel of the error
    t = np.repeat(np.linspace(-1, 2, 4)[:, None], 4, axis=1)
    for trace in lines:
        np.testing.assert_allclose(trace.z, t, atol=1e-6)
    assert not [t for t in draw_solution(Known(), BOX, points=4).data if t.type == "contour"]


def test_contour_lines_lie_between_the_extremes():
    dark, light = contour_lines([0, 1, 2], [0, 1], [[0, 1, 2], [3, 4, 8]], count=3)
    assert dark.contours == light.contours
    levels = np.arange(dark.contours.start, dark.contours.end, dark.contours.size)
    np.testing.assert_allclose(levels, [2, 4, 6])
    assert contour_lines([0, 1], [0, 1], [[5, 5], [5, 5]]) == []
    assert contour_lines([0, 1], [0, 1], [[math.nan, 5], [math.inf, 5]]) == []
    masked, _ = contour_lines([0, 1, 2], [0, 1], [[math.nan, 0, 2], [3, 4, math.inf]], count=3)
    assert (masked.contours.start, masked.contours.size) == (1, 1)
    assert np.isnan(masked.z).sum() == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": [[0.0, 1.0]]}, r"values must be \(2, 2\), a row for each y, got \(1, 2\)"),
        ({"count": 0}, "count must be at least 1"),
        ({"count": 1.5}, "count must be an integer"),
    ],
)
def test_contour_lines_name_mistakes(arguments, message):
    given = {"x": [0, 1], "y": [0, 1], "values": [[0, 1], [2, 3]]} | arguments
    with pytest.raises((TypeError, ValueError), match=message):
        contour_lines(**given)


def test_slices_are_curves_at_values_of_the_second_coordinate():
    fig = draw_solution(Known(), BOX, slices=[0.0, 2.0], reference=lambda x: x[:, 0], points=3)
    curves = [trace for trace in fig.data if trace.name in ("0", "2")]
    assert [trace.name for trace in curves] == ["0", "2"] * 2  # the solution, then the error
    np.testing.assert_allclose(curves[1].y, [40, 40.5, 41], rtol=1e-6)
    np.testing.assert_allclose(curves[3].y, [40, 40, 40], rtol=1e-6)
    dotted = [trace for trace in fig.data if trace.name == "reference"]
    np.testing.assert_allclose(dotted[1].y, [0, 0.5, 1], atol=1e-6)


def test_coordinates_have_names():
    fig = draw_solution(Known(), BOX, slices=[0.0], names=("x", "t"), points=3)
    assert (fig.layout.xaxis.title.text, fig.layout.legend.title.text) == ("x", "t")
    maps = draw_solution(Known(), BOX, reference=lambda x: x[:, 0], names=("a", "b"), points=3)
    assert (maps.layout.xaxis2.title.text, maps.layout.xaxis.title.text) == ("a", None)
    assert (maps.layout.yaxis.title.text, maps.layout.yaxis2.title.text) == ("b", "b")


def test_one_coordinate_is_a_curve_and_features_come_before_the_network():
    net = KAN([1, 1], n=3, dtype=torch.float64)
    fig = draw_solution(net, [(0, 2)], features=lambda x: x / 2, points=9)
    with torch.no_grad():
        expected = net(torch.linspace(0, 1, 9, dtype=torch.float64)[:, None])
    np.testing.assert_allclose(fig.data[0].y, expected[:, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"box": [(0, 1)] * 3}, "box must have one or two intervals, got 3"),
        ({"box": [(1, 0)]}, r"box\[0\] must be a finite pair"),
        ({"slices": [3.0]}, "slices must lie in the second interval"),
        ({"box": [(0, 1)], "slices": [0.5]}, "slices must lie in the second interval"),
        ({"output": 2}, "output must be below 2, got 2"),
        ({"reference": lambda x: x}, "reference must return a value for each of 10201 points"),
        ({"points": 1}, "points must be at least 2"),
        ({"model": Ensemble([KAN([2, 1])])}, "model must return .* one member"),
        ({"model": 3}, "model must be a network, got 3"),
        ({"term": "u"}, "term must be a Term, got 'u'"),
        ({"reference": 1.0}, "reference must be a function"),
        ({"names": ["x"]}, r"names must be a string for each of 2 coordinates, got \['x'\]"),
        ({"names": "xt"}, "names must be a list of strings"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        draw_solution(**{"model": Known(), "box": BOX} | arguments)
