import math

import numpy as np
import pytest
import torch
from grids import GRID_NAMES, GRIDS, ORDERS, grids, sample
from hypothesis import given

from kanlib import KnotGrid
from kanlib._checks import EXTENSIONS
from kanlib.splines import bspline
from kanlib.splines.bspline import local_powers
from kanlib.splines.change_of_basis import ChangeOfBasis
from kanlib.splines.truncated_power import dense_basis, pieces

every_grid = pytest.mark.parametrize("points", GRIDS, ids=GRID_NAMES)
every_order = pytest.mark.parametrize("r", ORDERS)


@every_grid
@every_order
def test_values_and_derivatives_are_those_of_powers_right_of_the_knot(points, r):
    grid = KnotGrid(r, points)
    x = sample(grid)
    d = x[:, None] - grid.knots.numpy()[: grid.num_basis]
    for derivative in range(r):
        factor = math.factorial(r - 1) / math.factorial(r - 1 - derivative)
        expected = np.where(d >= 0, factor * np.abs(d) ** (r - 1 - derivative), 0.0)
        computed = dense_basis(torch.tensor(x), grid, derivative)
        np.testing.assert_allclose(computed, expected, rtol=1e-14, atol=0)


def test_truncated_powers_are_known_by_hand():
    x = torch.tensor([0.0, 0.5, 1.0, 3.0]).double()
    psi = dense_basis(x, KnotGrid(3, [0.0, 1.0, 3.0]))  # knots -2, -1, 0, 1
    expected = [[4, 1, 0, 0], [6.25, 2.25, 0.25, 0], [9, 4, 1, 0], [25, 16, 9, 4]]
    assert psi.tolist() == expected


@pytest.mark.parametrize("r", [1, 2, 3, 4])
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_truncated_powers_span_the_splines_inside_and_outside(r, extension):
    """Coefficients fitted on [a, b] alone reproduce the B-splines everywhere."""
    grid = KnotGrid(r, [0.0, 0.5, 0.75, 1.5, 2.0])
    x = torch.tensor(sample(grid))
    fit = torch.linalg.lstsq(dense_basis(x, grid), bspline.dense_basis(x, grid), driver="gelsd")
    everywhere = torch.linspace(-2.0, 4.0, 61, dtype=torch.float64)
    for derivative in range(r):
        psi = dense_basis(everywhere, grid, derivative, extension)
        b = bspline.dense_basis(everywhere, grid, derivative, extension)
        torch.testing.assert_close(psi @ fit.solution, b, rtol=0, atol=2e-10)


@given(grids())
def test_pieces_are_the_polynomials_of_the_local_coordinate(grid):
    a, b = grid.domain
    x = torch.cat([torch.tensor(sample(grid)), torch.tensor([a - 1.0, b + 1.0]).double()])
    table = pieces(grid)
    assert table.shape == (grid.n, grid.num_basis, grid.order)
    index, powers = local_powers(x, grid.breakpoints, grid.order)
    values = (table[index] @ powers[..., None])[..., 0]
    psi = dense_basis(x, grid)
    torch.testing.assert_close(values, psi, rtol=1e-11, atol=1e-13 * psi.abs().max().item())


def test_float32_loses_the_splines_to_cancellation():
    """Coefficients of size h**(1-r) cancel: why one computes with B-splines."""
    errors = {}
    for n in (50, 200):
        grid = KnotGrid.uniform(4, n)
        x = torch.linspace(0, 1, 2001)
        exact = bspline.dense_basis(x.double(), grid)
        change = ChangeOfBasis(grid)
        for dtype in (torch.float32, torch.float64):
            by_relu = change.apply(dense_basis(x.to(dtype), grid))
            errors[n, dtype] = (by_relu - exact).abs().max().item()
    assert 1e-2 < errors[50, torch.float32] < 1
    assert errors[200, torch.float32] > 1
    assert 1e-12 < errors[50, torch.float64] < 1e-9
    assert errors[200, torch.float64] < 1e-7
