"""Knot grids and exact oracles that the tests of splines share."""

from fractions import Fraction

import numpy as np
import torch
from hypothesis import strategies as st

from kanlib import KnotGrid, refine_adaptively

ORDERS = [1, 2, 3, 4, 5, 6]

#: Breakpoints in units of 1/1024, exact in binary; "wild" has spacings from 1 to 4096 units.
BREAKPOINTS = {
    "uniform": [0, 128, 256, 384, 512, 640, 768, 896, 1024],
    "graded": [0, 32, 96, 224, 480, 992],
    "wild": [-1024, -1023, -1021, 1024, 5120, 5121],
    "one-interval": [-256, 512],
    "far": [2**30, 2**30 + 256, 2**30 + 512, 2**30 + 1280],
}
GRIDS = [[i / 1024 for i in points] for points in BREAKPOINTS.values()]
GRID_NAMES = list(BREAKPOINTS)

#: The grids that spline layers may have: one for all inputs or each its own, fixed or free.
KINDS = ["shared", "own", "free", "free own"]


def with_grids(model, kind, seed=0):
    """Return a network with uneven grids of a kind, of which all but "free" keep its function."""
    generator = torch.Generator().manual_seed(seed)

    def indicator(model):
        sizes = [(layer.in_features, layer.n) for layer in model.spline_layers]
        draws = (torch.rand(size, generator=generator, dtype=torch.float64) for size in sizes)
        return [1e4**draw for draw in draws]

    per = "input" if "own" in kind else "layer"
    model = refine_adaptively(model, model.n + 3, indicator, per)
    if "free" in kind:
        model = model.free(per, floor=0.02)
        with torch.no_grad():
            for layer in model.spline_layers:
                logits = layer.knots.logits
                noise = torch.randn(logits.shape, generator=generator, dtype=torch.float64)
                logits += 0.3 * noise.to(logits)
    return model


@st.composite
def grids(draw, min_order=1, max_order=6, max_n=8):
    """Draw a grid of any order whose spacings differ up to a factor of a thousand."""
    order = draw(st.integers(min_order, max_order))
    width = st.floats(1e-2, 10.0)
    widths = draw(st.lists(width, min_size=1, max_size=max_n))
    start = draw(st.floats(-5.0, 5.0))
    return KnotGrid(order, start + np.cumsum([0.0, *widths]))


@st.composite
def nested_grids(draw, levels=2, **options):
    """Draw a coarse grid and finer ones, each with new breakpoints in some of the intervals."""
    hierarchy = [draw(grids(**options))]
    for _ in range(levels - 1):
        points = hierarchy[-1].breakpoints.tolist()
        chosen = draw(st.lists(st.integers(0, len(points) - 2), max_size=6, unique=True))
        shares = draw(st.lists(st.floats(0.1, 0.9), min_size=len(chosen), max_size=len(chosen)))
        new = [
            points[i] + share * (points[i + 1] - points[i])
            for i, share in zip(chosen, shares, strict=True)
        ]
        hierarchy.append(KnotGrid(hierarchy[0].order, sorted([*points, *new])))
    return hierarchy


def sample(grid, count=41):
    """Return points of [a, b]: a regular sample, all breakpoints, and their neighbours."""
    points = grid.breakpoints.numpy()
    near = [np.nextafter(points[1:], points[0]), np.nextafter(points[:-1], points[-1])]
    return np.unique(np.concatenate([np.linspace(*grid.domain, count), points, *near]))


def exact_knots(grid):
    """Return the knots as fractions, with exterior knots that repeat the end spacings."""
    t = [Fraction(x) for x in grid.breakpoints.tolist()]
    exterior = range(1, grid.order)
    left = [t[0] - i * (t[1] - t[0]) for i in reversed(exterior)]
    return [*left, *t, *(t[-1] + i * (t[-1] - t[-2]) for i in exterior)]


def exact_change_of_basis(grid):
    """Return A^[r] by the recursion of Lemma 2 in exact arithmetic, row by row.

    Rows are numbered from zero for the function with the leftmost support; functions beyond
    t_{n-1} vanish on [a, b], their columns are dropped at the end.
    """
    t, size = exact_knots(grid), grid.num_basis
    large = size + grid.order
    t += [t[-1] + i for i in range(1, 2 * grid.order + 2)]  # any increasing continuation
    a = [[Fraction((j == i) - (j == i + 1)) for j in range(large)] for i in range(large)]
    for r in range(2, grid.order + 1):
        a = [
            [
                a[i][j] / (t[i + r - 1] - t[i]) - a[i + 1][j] / (t[i + r] - t[i + 1])
                for j in range(large)
            ]
            for i in range(len(a) - 1)
        ]
    return np.array([row[:size] for row in a[:size]])
