import copy
import dataclasses
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from grids import GRIDS, ORDERS, grids, nested_grids
from hypothesis import given
from hypothesis import strategies as st

from kanlib import KnotGrid
from kanlib.splines.knots import RELATIVE_TOLERANCE, check_powers, check_resolved, nearest


@pytest.mark.parametrize("r", ORDERS)
def test_grid_counts_intervals_knots_and_functions(r):
    grid = KnotGrid.uniform(r, 7, (-1.0, 2.5))
    assert (grid.order, grid.n, grid.num_basis) == (r, 7, 7 + r - 1)
    assert len(grid.breakpoints) == 7 + 1
    assert len(grid.knots) == 7 + 2 * r - 1
    assert grid.domain == (-1.0, 2.5)
    assert grid.h == 0.5


def test_uniform_grid_has_uniform_knots_throughout():
    grid = KnotGrid.uniform(4, 8, (-1.0, 1.0))
    np.testing.assert_array_equal(grid.knots, np.arange(-7, 8) / 4)
    assert grid.knots.dtype == grid.breakpoints.dtype == torch.float64


def test_exterior_knots_repeat_the_spacing_of_the_end_intervals():
    grid = KnotGrid(3, [0.0, 1.0, 4.0])
    assert grid.knots.tolist() == [-2.0, -1.0, 0.0, 1.0, 4.0, 7.0, 10.0]
    assert KnotGrid(1, [0.0, 1.0, 4.0]).knots.tolist() == [0.0, 1.0, 4.0]


@given(grids())
def test_refine_halves_every_interval_and_keeps_breakpoints_exactly(grid):
    fine = grid.refine()
    old, new = grid.breakpoints.numpy(), fine.breakpoints.numpy()
    np.testing.assert_array_equal(new[::2], old)
    np.testing.assert_allclose(new[1::2], (old[:-1] + old[1:]) / 2, rtol=1e-15)
    assert (fine.order, fine.n) == (grid.order, 2 * grid.n)


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.integers(1, 40))
def test_uniform_grid_stays_uniform_under_refinement(a, length, n):
    grid = KnotGrid.uniform(4, n, (a, a + length))
    for _ in range(4):
        assert grid.is_uniform
        grid = grid.refine()


def test_is_uniform_sees_rounding_as_rounding_and_a_shift_as_a_shift():
    for points in (np.linspace(0, 1, 31), np.arange(0, 31) * 0.1, np.arange(0, 3.05, 0.1)):
        assert KnotGrid(3, points).is_uniform
        shifted = points.copy()
        shifted[7] += 1e-11
        assert not KnotGrid(3, shifted).is_uniform
    assert KnotGrid(3, [2.0, 5.0]).is_uniform


@pytest.mark.parametrize("domain", [(0.0, 1e-12), (1e6, 1e6 + 1), (-1e-300, 1e-300), (0.0, 1e300)])
def test_uniform_grid_exists_on_extreme_domains(domain):
    grid = KnotGrid.uniform(4, 50, domain)
    assert grid.domain == domain
    assert grid.is_uniform
    assert grid.refine().is_uniform
    assert grid.missing_from(grid.refine()) == []
    spacing = np.diff(grid.knots)
    np.testing.assert_allclose(spacing, grid.h, atol=4 * np.spacing(max(np.abs(domain))))


def test_repr_distinguishes_domains_far_from_zero():
    assert "domain=[1000000, 1000001], uniform" in repr(KnotGrid.uniform(4, 3, (1e6, 1e6 + 1)))
    assert repr(KnotGrid(2, [0, 0.1, 1])) == "KnotGrid(order=2, n=2, domain=[0, 1], non-uniform)"


def test_grid_is_an_immutable_value():
    grid = KnotGrid(3, [0.0, 1.0, 4.0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        grid.order = 4
    grid.breakpoints[0] = 7.0
    grid.knots[0] = 7.0
    same = KnotGrid(3, torch.tensor([0, 1, 4]))
    assert grid == same == copy.deepcopy(grid) == pickle.loads(pickle.dumps(grid))
    assert hash(grid) == hash(same)
    assert grid != KnotGrid(4, [0.0, 1.0, 4.0])
    assert grid != KnotGrid(3, [0.0, 1.0, 5.0])


@pytest.mark.parametrize(
    "points",
    [
        [0, 1, 3],
        (0.0, 1.0, 3.0),
        np.array([0, 1, 3]),
        np.array([0, 1, 3], dtype=np.float32),
        torch.tensor([0.0, 1.0, 3.0]),
        torch.tensor([0.0, 1.0, 3.0], requires_grad=True),
        (Fraction(i) for i in (0, 1, 3)),
    ],
    ids=["list", "tuple", "numpy-int", "numpy-float32", "tensor", "parameter", "generator"],
)
def test_breakpoints_may_be_any_flat_sequence_of_numbers(points):
    assert KnotGrid(np.int64(3), points) == KnotGrid(3, [0.0, 1.0, 3.0])


def test_integers_of_numpy_are_integers():
    grid = KnotGrid.uniform(np.int32(3), np.uint8(5), np.array([0.0, 2.0]))
    assert grid == KnotGrid.uniform(3, 5, (0.0, 2.0))
    assert type(grid.order) is int


@pytest.mark.parametrize(
    ("order", "points", "error", "message"),
    [
        (0, [0, 1], ValueError, "order must be at least 1, got 0"),
        (-3, [0, 1], ValueError, "order must be at least 1, got -3"),
        (2.0, [0, 1], TypeError, r"order must be an integer of at least 1, got 2\.0"),
        ("3", [0, 1], TypeError, "order must be an integer of at least 1, got '3'"),
        (True, [0, 1], TypeError, "order must be an integer of at least 1, got True"),
        (None, [0, 1], TypeError, "order must be an integer of at least 1, got None"),
        (3, [], ValueError, "at least the two end points"),
        (3, [0.0], ValueError, "at least the two end points"),
        (3, [0, 1, 1, 2], ValueError, r"got 1\.0 then 1\.0 at positions 1, 2: sort them"),
        (3, [0, 2, 1], ValueError, r"got 2\.0 then 1\.0 at positions 1, 2: sort them"),
        (3, [0, float("nan"), 1], ValueError, "finite, got nan at position 1"),
        (3, [0, 1, float("inf")], ValueError, "finite, got inf at position 2"),
        (3, "0123", TypeError, "flat sequence of numbers, got '0123'"),
        (3, ["0", "1"], TypeError, "flat sequence of numbers"),
        (3, [0, None, 1], TypeError, "flat sequence of numbers"),
        (3, [[0, 1], [1, 2]], TypeError, "flat sequence of numbers"),
        (3, np.array([[0.0], [1.0]]), TypeError, "flat sequence of numbers"),
        (3, torch.zeros(2, 1), TypeError, "flat sequence of numbers"),
        (3, torch.tensor(1.0), TypeError, "flat sequence of numbers"),
        (3, torch.tensor([0j, 1j]), TypeError, "flat sequence of numbers"),
        (3, 5, TypeError, "flat sequence of numbers, got 5"),
        (3, [0, 1e-15, 1], ValueError, r"0\.0 and 1e-15 .* too close .* float64: drop one"),
    ],
)
def test_grid_refuses_what_is_no_grid(order, points, error, message):
    with pytest.raises(error, match=message):
        KnotGrid(order, points)


@pytest.mark.parametrize(
    ("n", "domain", "error", "message"),
    [
        (0, (0, 1), ValueError, "n must be at least 1, got 0"),
        (2.5, (0, 1), TypeError, r"n must be an integer of at least 1, got 2\.5"),
        (True, (0, 1), TypeError, "n must be an integer"),
        ("5", (0, 1), TypeError, "n must be an integer"),
        (5, (1, 0), ValueError, r"a < b, got \(1, 0\)"),
        (5, (1, 1), ValueError, "a < b"),
        (5, (0, float("inf")), ValueError, "finite pair"),
        (5, (float("nan"), 1), ValueError, "finite pair"),
        (5, (0, 1, 2), ValueError, "pair"),
        (5, 1.0, ValueError, "pair"),
        (5, "01", ValueError, "pair"),
        (5, None, ValueError, "pair"),
        (100, (1.0, 1.0 + 1e-14), ValueError, "breakpoints"),
    ],
)
def test_uniform_grid_refuses_bad_arguments(n, domain, error, message):
    with pytest.raises(error, match=message):
        KnotGrid.uniform(3, n, domain)


def test_breakpoints_stop_being_too_close_beyond_twice_the_tolerance():
    KnotGrid(2, [0.0, 1.0, 1.0 + 2.1 * RELATIVE_TOLERANCE])
    with pytest.raises(ValueError, match="too close"):
        KnotGrid(2, [0.0, 1.0, 1.0 + 1.9 * RELATIVE_TOLERANCE])


@given(nested_grids())
def test_missing_from_is_empty_for_nested_grids(hierarchy):
    coarse, fine = hierarchy
    assert coarse.missing_from(fine) == []
    added = set(fine.breakpoints.tolist()) - set(coarse.breakpoints.tolist())
    assert set(fine.missing_from(coarse)) == added


def test_missing_from_forgives_rounding_only():
    coarse, fine = KnotGrid(2, [0.0, 0.3, 1.0]), KnotGrid(2, [0.0, 0.1 + 0.2, 0.5, 1.0])
    assert 0.1 + 0.2 != 0.3
    assert coarse.missing_from(fine) == []
    assert KnotGrid(2, [0.0, 0.3 + 1e-12, 1.0]).missing_from(fine) == [0.3 + 1e-12]


@given(
    st.lists(st.floats(-2, 2), min_size=1, max_size=9),
    st.lists(st.floats(-1, 1), min_size=2, max_size=9, unique=True),
)
def test_nearest_agrees_with_a_search_of_all_pairs(x, points):
    x, points = torch.tensor(x).double(), torch.tensor(sorted(points)).double()
    index, distance = nearest(x, points)
    expected = (x[:, None] - points).abs()
    torch.testing.assert_close(distance, expected.amin(dim=1), rtol=0, atol=0)
    torch.testing.assert_close((x - points[index]).abs(), distance, rtol=0, atol=0)


def test_grids_of_a_million_points_are_compared_at_once():
    coarse = KnotGrid.uniform(4, 100_000)
    assert coarse.missing_from(coarse.refine()) == []
    assert len(coarse.missing_from(KnotGrid.uniform(4, 50_000))) == 50_000


@pytest.mark.parametrize("points", GRIDS)
def test_tensors_live_on_the_cpu_whatever_the_default_device(points):
    grid = KnotGrid(3, points)
    with torch.device("meta"):
        assert grid.breakpoints.device == grid.knots.device == torch.device("cpu")


@pytest.mark.parametrize("domain", [(0, 1e-320), (0, 1e-310), (-1e308, 1e308), (1e16, 1e16 + 2)])
def test_domains_that_float64_does_not_resolve_are_refused(domain):
    with pytest.raises(ValueError, match=r"breakpoints of domain = .* with n = 4 .*"):
        KnotGrid.uniform(3, 4, domain)


@pytest.mark.parametrize(
    ("domain", "dtype"),
    [
        ((1e12, 1e12 + 1), torch.float32),
        ((1e6, 1e6 + 1), torch.float32),
        ((0, 1e-40), torch.float32),
        ((0, 1e39), torch.float32),
        ((-1e-9, 1e-9), torch.float16),
        ((100, 101), torch.bfloat16),
    ],
)
def test_domains_that_a_layer_does_not_resolve_are_refused(domain, dtype):
    grid = KnotGrid.uniform(3, 4, domain)
    for near in ((0, 1), (-1, 1), (100, 164)):
        check_resolved(KnotGrid.uniform(3, 4, near), dtype)
    check_resolved(grid, torch.float64)
    with pytest.raises(ValueError, match=r"domain \[.*\] with n = 4 is not resolved by .*: scale"):
        check_resolved(grid, dtype)


def test_order_is_bounded():
    assert KnotGrid.uniform(32, 2).num_basis == 33
    with pytest.raises(ValueError, match="order must be at most 32, got 1000"):
        KnotGrid.uniform(1000, 2)


def test_powers_of_small_domains_leave_float64():
    check_powers(KnotGrid.uniform(4, 5, (0, 1e-60)))
    for domain in ((0, 1e-80), (0, 1e80)):
        with pytest.raises(ValueError, match="grid must have powers of order 4 within float64"):
            check_powers(KnotGrid.uniform(4, 5, domain))
