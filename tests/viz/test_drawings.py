"""Drawings: the curves are the functions of the edges, the ticks their knots."""

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from kanlib import KAN, MLP
from kanlib.analysis.importance import importance
from kanlib.viz.drawings import HEIGHT, draw_network

pytestmark = pytest.mark.usefixtures("float64")


def pieces(fig, name):
    """Return the pieces of a trace as arrays of x and y."""
    (trace,) = (each for each in fig.data if each.name == name)
    found, x, y = [], [], []
    for a, b in zip(trace.x, trace.y, strict=True):
        if a is None:
            found.append((np.array(x), np.array(y)))
            x, y = [], []
        else:
            x.append(a)
            y.append(b)
    return found


def network(r=4, basis="spline", **options):
    torch.manual_seed(1)
    return KAN([2, 3, 1], n=4, r=r, init_scale=0.5, **options).to_basis(basis)


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("r", [1, 2, 4])
def test_curves_are_the_splines_of_the_edges(r, basis):
    model = network(r, basis)
    curves = pieces(draw_network(model, scale=2.0), "functions")
    assert len(curves) == 2 * 3 + 3
    edge = 0
    for row, layer in enumerate(model.to_basis("spline").spline_layers):
        t = layer.grid.knots.numpy()
        for p in range(layer.in_features):
            for q in range(layer.out_features):
                _, y = curves[edge]
                x = np.linspace(0, 1, len(y))
                expected = BSpline(t, layer.weight[q, p].detach().numpy(), r - 1)(x)
                inner = slice(None, -1) if r == 1 else slice(None)
                heights = (y - (row + 0.5)) / HEIGHT * 2.0
                np.testing.assert_allclose(heights[inner], expected[inner], atol=1e-8)
                edge += 1


def test_ticks_are_the_breakpoints():
    model = KAN([1, 1], breakpoints=[0.0, 0.1, 0.5, 1.0])
    fig = draw_network(model)
    (x, _), *_ = pieces(fig, "functions")
    ticks = np.array([a[0] for a, _ in pieces(fig, "knots")])
    np.testing.assert_allclose((ticks - x[0]) / (x[-1] - x[0]), [0.0, 0.1, 0.5, 1.0], atol=1e-12)


def test_refinement_changes_knots_and_coefficients_but_no_curve():
    model = network()
    coarse, fine = draw_network(model), draw_network(model.refine())
    for (x0, y0), (x1, y1) in zip(
        pieces(coarse, "functions"), pieces(fine, "functions"), strict=True
    ):
        np.testing.assert_allclose(x0, x1)
        np.testing.assert_allclose(y0, y1, atol=1e-9)
    assert len(pieces(fine, "knots")) == 9 * 9
    assert len(pieces(coarse, "knots")) == 9 * 5
    dots = [sum(len(x) for x, _ in pieces(fig, "coefficients")) for fig in (coarse, fine)]
    assert dots == [9 * 7, 9 * 11]


def test_free_knots_of_each_input_are_drawn():
    model = network().free("input")
    with torch.no_grad():
        for layer in model.spline_layers:
            layer.knots.logits += torch.randn_like(layer.knots.logits)
    fig = draw_network(model)
    (x, _), *_ = pieces(fig, "functions")
    ticks = np.array([a[0] for a, _ in pieces(fig, "knots")])[:5]
    grid = next(model.spline_layers).grids[0]
    found = (ticks - x[0]) / (x[-1] - x[0])
    np.testing.assert_allclose(found, grid.breakpoints.numpy(), atol=1e-12)


def test_leading_linear_map_is_drawn_by_its_weights():
    model = network(first="affine")
    with torch.no_grad():
        model.layers[0].weight.copy_(torch.tensor([[2.0, -1.0], [0.0, 0.5], [1.0, 1.0]]))
    lines = [shape.line for shape in draw_network(model).layout.shapes if shape.type == "line"]
    assert [line.width for line in lines] == [4.5, 2.5, 0.5, 1.5, 2.5, 2.5]
    assert [line.dash for line in lines] == ["solid", "dot", *["solid"] * 4]


def test_drawing_refuses_what_it_cannot_show():
    with pytest.raises(ValueError, match="at most 24 edges a layer to be drawn, got 400"):
        draw_network(KAN([2, 20, 20, 1]))
    with pytest.raises(TypeError, match="model must be a KAN, got MLP"):
        draw_network(MLP([2, 3, 1]))


def test_important_edges_are_thick_and_tell_their_numbers():
    model = network()
    with torch.no_grad():
        model.layers[0].weight[1, 0] = 0.0
    worth = importance(model, torch.rand(50, 2))
    fig = draw_network(model, importance=worth)
    lines = [shape.line.width for shape in fig.layout.shapes if shape.type == "line"]
    assert len(lines) == 2 * 9
    expected = [
        0.5 + 4 * float(layer.removal[q, p] / layer.removal.max())
        for layer in worth.layers
        for p in range(layer.removal.shape[1])
        for q in range(len(layer.removal))
    ]
    np.testing.assert_allclose(lines[::2], expected, rtol=1e-12)
    hints = fig.data[-1]
    assert hints.name == "importance"
    assert f"share of the variance {float(worth.layers[0].share[1, 0]):.1%}" in hints.text[1]
    with pytest.raises(ValueError, match="importance must be that of a network of widths"):
        draw_network(KAN([2, 2, 1], n=4), importance=worth)


def test_pruned_edges_are_left_out():
    model = network()
    mask = torch.tensor([[True, False]] * 3)
    pruned = model.mapped(lambda layer: layer.masked(mask) if layer.in_features == 2 else layer)
    assert len(pieces(draw_network(pruned), "functions")) == 3 + 3
