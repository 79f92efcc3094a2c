from itertools import pairwise

import numpy as np
import pytest
import scipy.interpolate
import torch
from grids import GRID_NAMES, GRIDS, ORDERS, exact_change_of_basis, nested_grids, sample
from hypothesis import given
from hypothesis import strategies as st

from kanlib import KnotGrid, prolongation
from kanlib._checks import EXTENSIONS
from kanlib.splines import bspline, truncated_power
from kanlib.splines.prolongation import _knot_insertion, dyadic_prolongation

EPS = np.finfo(float).eps
MODULES = {"spline": bspline, "relu": truncated_power}
every_basis = pytest.mark.parametrize("basis", MODULES)
every_grid = pytest.mark.parametrize("points", GRIDS, ids=GRID_NAMES)
every_order = pytest.mark.parametrize("r", ORDERS)


def collocation_oracle(coarse, fine):
    """Return P by interpolation in the fine space, from SciPy's B-splines alone."""
    x = np.concatenate([np.linspace(*ends, fine.order + 1) for ends in intervals(fine)])
    matrices = [
        scipy.interpolate.BSpline(grid.knots.numpy(), np.eye(grid.num_basis), grid.order - 1)(x)
        for grid in (fine, coarse)
    ]
    return np.linalg.lstsq(*matrices, rcond=None)[0]


def intervals(grid):
    """Yield intervals, pulled in a little so that steps (r = 1) are not sampled at their jumps."""
    t = grid.breakpoints.numpy()
    for left, right in pairwise(t):
        yield left + 1e-3 * (right - left), right - 1e-3 * (right - left)


def everywhere(grid):
    """Return points inside and outside [a, b]."""
    a, b = grid.domain
    reach = (b - a) * np.array([-1.0, -0.3, 1.3, 2.0])
    return torch.tensor(np.concatenate([sample(grid, 13), a + reach]))


@every_order
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
def test_dyadic_stencil_agrees_with_knot_insertion_and_collocation(r, n):
    coarse = KnotGrid.uniform(r, n, (-1.0, 1.0))
    fine = KnotGrid.uniform(r, 2 * n, (-1.0, 1.0))
    stencil = dyadic_prolongation(r, n)
    assert stencil.shape == (fine.num_basis, coarse.num_basis)
    np.testing.assert_allclose(stencil.dense(), collocation_oracle(coarse, fine), atol=1e-12)
    inserted = _knot_insertion(coarse, fine).dense()
    np.testing.assert_allclose(stencil.dense(), inserted, atol=1e-14)
    chosen = prolongation(coarse, fine).dense()
    torch.testing.assert_close(chosen, stencil.dense(), rtol=0, atol=0)


def test_dyadic_stencil_has_the_corrected_factor():
    """Eq. (25) with 2**-r in place of 2**(1-r) would halve the function: not nested."""
    coarse = KnotGrid.uniform(4, 5)
    fine = coarse.refine()
    p = prolongation(coarse, fine).dense()
    assert sorted(set(p.flatten().tolist())) == [0.0, 0.125, 0.5, 0.75]
    x = torch.tensor(sample(fine))
    b_coarse, b_fine = bspline.dense_basis(x, coarse), bspline.dense_basis(x, fine)
    torch.testing.assert_close(b_fine @ p, b_coarse, rtol=0, atol=1e-15)
    assert (b_fine @ (p / 2) - b_coarse).abs().max() > 0.3


@every_grid
@every_order
def test_refinement_agrees_with_collocation(points, r):
    coarse = KnotGrid(r, points)
    fine = coarse.refine()
    p = prolongation(coarse, fine).dense()
    np.testing.assert_allclose(p, collocation_oracle(coarse, fine), atol=1e-11)


def test_knot_insertion_agrees_with_scipy():
    """Boehm's algorithm of SciPy, on splines whose exterior knots stay the same."""
    coarse = KnotGrid(4, [0.0, 1.0, 2.5, 3.0, 4.0])
    fine = KnotGrid(4, [0.0, 1.0, 1.25, 2.5, 2.75, 2.875, 3.0, 4.0])
    spline = scipy.interpolate.BSpline(coarse.knots.numpy(), np.eye(coarse.num_basis), 3)
    for new in (1.25, 2.75, 2.875):
        spline = scipy.interpolate.insert(new, spline)
    np.testing.assert_array_equal(spline.t, fine.knots)
    rows = spline.c[: fine.num_basis]
    np.testing.assert_allclose(prolongation(coarse, fine).dense(), rows, atol=1e-15)


@given(nested_grids())
def test_spline_prolongation_reproduces_coarse_splines_everywhere(hierarchy):
    coarse, fine = hierarchy
    x = everywhere(fine)
    p = prolongation(coarse, fine)
    for extension in EXTENSIONS:
        b_coarse = bspline.dense_basis(x, coarse, 0, extension)
        b_fine = bspline.dense_basis(x, fine, 0, extension)
        scale = (b_fine.abs() @ p.dense().abs()).amax(dim=1, keepdim=True)
        assert ((b_fine @ p.dense() - b_coarse).abs() <= 1e-12 * scale).all()


@given(nested_grids(max_order=5))
def test_relu_prolongation_reproduces_coarse_powers_everywhere(hierarchy):
    coarse, fine = hierarchy
    x = everywhere(fine)
    p = prolongation(coarse, fine, "relu")
    for extension in EXTENSIONS:
        psi_coarse = truncated_power.dense_basis(x, coarse, 0, extension)
        psi_fine = truncated_power.dense_basis(x, fine, 0, extension)
        scale = psi_fine.abs() @ p.dense().abs()
        assert ((psi_fine @ p.dense() - psi_coarse).abs() <= 1e-12 * scale).all()


@given(nested_grids(max_order=4, max_n=4))
def test_prolongations_of_both_bases_are_related_by_the_change_of_basis(hierarchy):
    """w = A^T u on both levels, hence P_w = A_f^T P_u A_c^{-T}."""
    coarse, fine = hierarchy
    a_coarse, a_fine = (exact_change_of_basis(grid).astype(float) for grid in hierarchy)
    p_u = prolongation(coarse, fine).dense().numpy()
    p_w = prolongation(coarse, fine, "relu").dense().numpy()
    scale = np.abs(p_w) @ np.abs(a_coarse.T) + np.abs(a_fine.T) @ np.abs(p_u)
    assert np.all(np.abs(p_w @ a_coarse.T - a_fine.T @ p_u) <= 1e-11 * scale.max())


@given(nested_grids())
def test_spline_prolongation_has_rows_of_sum_one_and_r_entries(hierarchy):
    coarse, fine = hierarchy
    p = prolongation(coarse, fine)
    dense = p.dense()
    assert p.shape == dense.shape == (fine.num_basis, coarse.num_basis)
    assert p.values.shape == p.columns.shape == (fine.num_basis, coarse.order)
    torch.testing.assert_close(dense.sum(1), torch.ones(fine.num_basis).double())
    assert (dense != 0).sum(1).max() <= coarse.order


@given(nested_grids(levels=3))
def test_spline_prolongations_compose(hierarchy):
    coarse, middle, fine = hierarchy
    direct = prolongation(coarse, fine).dense()
    first, second = prolongation(coarse, middle).dense(), prolongation(middle, fine).dense()
    scale = (second.abs() @ first.abs()).max().item()
    torch.testing.assert_close(second @ first, direct, rtol=0, atol=1e-12 * scale)


@given(nested_grids(levels=3, max_order=4))
def test_relu_prolongations_compose(hierarchy):
    coarse, middle, fine = hierarchy
    direct = prolongation(coarse, fine, "relu").dense()
    first = prolongation(coarse, middle, "relu").dense()
    second = prolongation(middle, fine, "relu").dense()
    scale = (second.abs() @ first.abs()).max().item()
    torch.testing.assert_close(second @ first, direct, rtol=0, atol=1e-12 * scale)


@given(nested_grids(levels=1, max_n=4), st.sampled_from(["spline", "relu"]))
def test_refining_twice_is_refining_by_four(hierarchy, basis):
    coarse = hierarchy[0]
    middle = coarse.refine()
    fine = middle.refine()
    direct = prolongation(coarse, fine, basis).dense()
    first = prolongation(coarse, middle, basis).dense()
    second = prolongation(middle, fine, basis).dense()
    scale = (second.abs() @ first.abs()).max().item()
    torch.testing.assert_close(second @ first, direct, rtol=0, atol=1e-13 * scale)


@every_grid
@every_order
@every_basis
def test_prolongation_to_the_same_grid_is_the_identity(points, r, basis):
    grid = KnotGrid(r, points)
    p = prolongation(grid, grid, basis).dense()
    torch.testing.assert_close(p, torch.eye(grid.num_basis).double(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("r", [1, 2, 3, 4, 5])
@every_basis
def test_grids_nested_up_to_rounding_are_nested(r, basis):
    coarse = KnotGrid(r, [0.0, 0.3, 0.6, 1.1])
    fine = KnotGrid(r, [0.0, 0.1 + 0.2, 0.4, 0.1 + 0.5, 0.9, 1.0 + 0.1])
    assert set(coarse.breakpoints.tolist()) - set(fine.breakpoints.tolist())
    x = torch.tensor([0.05, 0.2, 0.35, 0.5, 0.7, 1.0, -0.5, 1.5]).double()
    module = MODULES[basis]
    p = prolongation(coarse, fine, basis).dense()
    expected = module.dense_basis(x, coarse)
    torch.testing.assert_close(module.dense_basis(x, fine) @ p, expected, rtol=0, atol=1e-12)


@given(nested_grids(), st.sampled_from(["spline", "relu"]))
def test_apply_and_restrict_agree_with_the_dense_matrix(hierarchy, basis):
    p = prolongation(*hierarchy, basis)
    u = torch.randn(2, 3, p.shape[1], generator=torch.Generator().manual_seed(0)).double()
    g = torch.randn(2, 3, p.shape[0], generator=torch.Generator().manual_seed(1)).double()
    magnitude = p.dense().abs()
    fine, coarse = p.apply(u), p.restrict(g)
    assert ((fine - u @ p.dense().T).abs() <= 1e-14 * (u.abs() @ magnitude.T)).all()
    assert ((coarse - g @ p.dense()).abs() <= 1e-14 * (g.abs() @ magnitude)).all()
    scale = (u.abs() @ magnitude.T * g.abs()).sum()
    assert abs((fine * g).sum() - (u * coarse).sum()) <= 1e-14 * scale


@every_basis
def test_gradients_are_restricted_by_the_transpose(basis):
    coarse = KnotGrid(3, GRIDS[1])
    p = prolongation(coarse, coarse.refine(), basis)
    u = torch.randn(2, p.shape[1], dtype=torch.float64, requires_grad=True)
    g = torch.randn(2, p.shape[0], dtype=torch.float64, requires_grad=True)
    (p.apply(u) * g).sum().backward()
    torch.testing.assert_close(u.grad, p.restrict(g))
    torch.testing.assert_close(g.grad, p.apply(u))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_leading_shape_are_kept(dtype):
    p = prolongation(KnotGrid.uniform(3, 4), KnotGrid.uniform(3, 8))
    for shape in ((), (0,), (2, 5)):
        fine = p.apply(torch.rand(*shape, 6, dtype=dtype))
        assert (fine.shape, fine.dtype) == ((*shape, 10), dtype)
        coarse = p.restrict(fine)
        assert (coarse.shape, coarse.dtype) == ((*shape, 6), dtype)


@every_basis
def test_transfer_between_large_grids_needs_no_dense_matrix(basis):
    coarse = KnotGrid.uniform(2, 30_000)
    p = prolongation(coarse, coarse.refine(), basis)
    u = torch.arange(coarse.num_basis, dtype=torch.float64)
    fine = p.apply(u)
    if basis == "spline":  # the values of a linear function
        torch.testing.assert_close(fine, torch.arange(len(fine)).double() / 2)
    else:  # new breakpoints bring no kinks
        torch.testing.assert_close(fine[3::2], u[2:])
        assert not fine[2::2].any()


def test_general_knots_between_large_grids_need_no_dense_matrix():
    points = np.linspace(0, 1, 30_001) ** 2 + np.linspace(0, 1, 30_001)
    coarse = KnotGrid(4, points)
    p = prolongation(coarse, coarse.refine())
    ones = p.apply(torch.ones(p.shape[1], dtype=torch.float64))
    torch.testing.assert_close(ones, torch.ones_like(ones))


@pytest.mark.parametrize(
    ("coarse", "fine", "basis", "error", "message"),
    [
        (
            KnotGrid(3, [0, 0.5, 1]),
            KnotGrid(3, [0, 0.25, 0.75, 1]),
            "spline",
            ValueError,
            r"not nested: fine \(n = 3\) lacks 1 breakpoint.* of coarse \(n = 2\): 0\.5; add them",
        ),
        (
            KnotGrid.uniform(3, 20),
            KnotGrid.uniform(3, 7),
            "relu",
            ValueError,
            r"lacks 19 .* 0\.05, 0\.1, 0\.15, 0\.2, 0\.25, \.\.\.; .* use coarse\.refine\(\)",
        ),
        (
            KnotGrid.uniform(3, 2, (1e6, 1e6 + 1)),
            KnotGrid.uniform(3, 3, (1e6, 1e6 + 1)),
            "spline",
            ValueError,
            r"1000000\.5;",
        ),
        (
            KnotGrid.uniform(3, 2),
            KnotGrid.uniform(4, 4),
            "spline",
            ValueError,
            "same order.*3 and 4",
        ),
        (
            KnotGrid.uniform(3, 2),
            KnotGrid.uniform(3, 4, (0, 2)),
            "spline",
            ValueError,
            r"share their domain, got \(0\.0, 1\.0\) and \(0\.0, 2\.0\)",
        ),
        (KnotGrid.uniform(3, 2), KnotGrid.uniform(3, 4), "bspline", ValueError, "got 'bspline'"),
        (KnotGrid.uniform(3, 2), KnotGrid.uniform(3, 4), None, ValueError, r"one of \('spline', "),
        (5, KnotGrid.uniform(3, 4), "spline", TypeError, "coarse must be a KnotGrid, got 5"),
        (KnotGrid.uniform(3, 2), [0, 1], "spline", TypeError, "fine must be a KnotGrid, got"),
    ],
)
def test_prolongation_refuses_bad_arguments(coarse, fine, basis, error, message):
    with pytest.raises(error, match=message):
        prolongation(coarse, fine, basis)


def test_apply_and_restrict_refuse_bad_arguments():
    p = prolongation(KnotGrid.uniform(3, 4), KnotGrid.uniform(3, 8))
    with pytest.raises(ValueError, match=r"coarse must have 6 entries .* got shape \(10,\)"):
        p.apply(torch.rand(10))
    with pytest.raises(ValueError, match=r"fine must have 10 entries .* got shape \(2, 6\)"):
        p.restrict(torch.rand(2, 6))
    with pytest.raises(TypeError, match=r"coarse must be a floating-point tensor, got torch.int64"):
        p.apply(torch.arange(6))
    with pytest.raises(TypeError, match="fine must be a floating-point tensor, got list"):
        p.restrict([1.0])


@every_basis
def test_default_device_is_ignored(basis):
    coarse = KnotGrid(3, GRIDS[1])
    for fine in (coarse, coarse.refine()):
        expected = prolongation(coarse, fine, basis).dense()
        with torch.device("meta"):
            torch.testing.assert_close(prolongation(coarse, fine, basis).dense(), expected)
    with torch.device("meta"):
        assert dyadic_prolongation(3, 4).dense().device == torch.device("cpu")


def test_repr_shows_the_sizes():
    p = prolongation(KnotGrid.uniform(3, 4), KnotGrid.uniform(3, 8))
    assert repr(p) == "Prolongation(num_fine=10, num_coarse=6)"


def ugly(r, n, graded, toward):
    """Return a grid, and its refinement with every old inner breakpoint one ulp beside itself."""
    t = np.linspace(0, 1, n + 1) ** (1.7 if graded else 1.0)
    coarse = KnotGrid(r, t)
    fine = coarse.refine().breakpoints.numpy().copy()
    fine[2:-1:2] = np.nextafter(fine[2:-1:2], toward)
    return coarse, KnotGrid(r, fine)


@every_basis
@pytest.mark.parametrize("r", [1, 2, 4])
@pytest.mark.parametrize("n", [7, 49])
@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("toward", [0.0, 1.0])
def test_breakpoints_one_ulp_beside_the_old_ones_change_nothing(basis, r, n, graded, toward):
    coarse, fine = ugly(r, n, graded, toward)
    u = np.random.default_rng(n).standard_normal(coarse.num_basis)
    p = prolongation(coarse, fine, basis).dense().numpy()
    x = np.concatenate([np.linspace(*ends, 3) for ends in intervals(fine)])
    if basis == "spline":
        values = [
            scipy.interpolate.BSpline(grid.knots.numpy(), weight, r - 1)(x)
            for grid, weight in ((coarse, u), (fine, p @ u))
        ]
    else:
        values = [
            (np.maximum(x[:, None] - knots, 0) ** (r - 1) * (x[:, None] >= knots)) @ weight
            for knots, weight in (
                (coarse.knots.numpy()[: coarse.num_basis], u),
                (fine.knots.numpy()[: fine.num_basis], p @ u),
            )
        ]
    np.testing.assert_allclose(
        values[1], values[0], rtol=0, atol=1e-9 if basis == "relu" else 1e-12
    )


@pytest.mark.parametrize("shift", [1e-13, 1e-12])
def test_grids_are_nested_to_a_few_ulps_and_no_further(shift):
    coarse = KnotGrid(3, [0.0, 0.5, 1.0])
    near, far = ([0.0, 0.25, 0.5 + s, 0.75, 1.0] for s in (2e-15, shift))
    assert prolongation(coarse, KnotGrid(3, near)).shape == (6, 4)
    with pytest.raises(ValueError, match="lacks 1 breakpoint"):
        prolongation(coarse, KnotGrid(3, far))
    assert KnotGrid(3, near).is_uniform
    assert not KnotGrid(3, far).is_uniform


def test_a_breakpoint_close_to_an_old_one_takes_no_kink_from_it():
    coarse, fine = (KnotGrid(2, [0.0, 0.5, *more, 1.0]) for more in ([], [0.5 + 1e-12]))
    expected = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert prolongation(coarse, fine, "relu").dense().tolist() == expected


def test_breakpoints_in_float32_are_told_from_others():
    coarse = KnotGrid.uniform(4, 5)
    with pytest.raises(ValueError, match="differ as float32 rounds: give breakpoints as Python"):
        prolongation(coarse, KnotGrid(4, torch.linspace(0, 1, 11)))
    with pytest.raises(ValueError, match="add them to fine"):
        prolongation(coarse, KnotGrid.uniform(4, 7))


def test_dyadic_stencil_wants_an_order_and_intervals():
    for order, n in ((0, 3), (3, 0), (33, 1)):
        with pytest.raises(ValueError, match=r"(order|n) must be at (least 1|most 32), got"):
            dyadic_prolongation(order, n)
