"""The regression problem of section 5.1, against values and rotations found otherwise."""

import cmath
import math

import numpy as np
import pytest
import torch

from kanlib.paper.problems.regression import regression, target


def f(x, y):
    """Eq. 26, written again."""
    return (
        math.cos(4 * math.pi * x)
        + math.sin(math.pi * y)
        + math.sin(2 * math.pi * y)
        + abs(math.sin(3 * math.pi * y**2))
    )


def test_target_has_the_values_of_eq_26_known_by_hand():
    turn = cmath.exp(-0.175j)  # points that the rotation takes to nice ones

    def at(x, y):
        z = complex(x, y) * turn
        return float(target(torch.tensor([[z.real, z.imag]], dtype=torch.float64)))

    root = math.sqrt(0.5)
    assert at(0.0, 0.0) == pytest.approx(1.0)
    assert at(0.25, 0.5) == pytest.approx(-1 + 1 + 0 + root)
    assert at(0.125, 1.0) == pytest.approx(0.0, abs=1e-14)
    assert at(0.5, root) == pytest.approx(
        1 + math.sin(math.pi * root) + math.sin(2 * math.pi * root) + 1
    )
    assert at(1 / 3, 1 / 6) == pytest.approx(-0.5 + 0.5 + math.sqrt(3) / 2 + math.sin(math.pi / 12))


def test_target_is_rotated_counter_clockwise():
    points = np.random.default_rng(0).random((50, 2))
    matrix = np.array([[math.cos(0.175), -math.sin(0.175)], [math.sin(0.175), math.cos(0.175)]])
    assert matrix @ [1, 0] == pytest.approx([math.cos(0.175), math.sin(0.175)])  # x towards y
    expected = [f(*(matrix @ point)) for point in points]
    values = target(torch.tensor(points))
    assert values.shape == (50, 1)
    np.testing.assert_allclose(values[:, 0].numpy(), expected, rtol=1e-12, atol=1e-12)


def test_target_has_its_kink_where_the_last_term_vanishes():
    """Along the rotated y axis at y = 1/sqrt(3) the slope jumps by 2 * 6 pi y."""
    y0, step = 1 / math.sqrt(3), 1e-6
    turn = cmath.exp(-0.175j)
    line = [complex(0.3, y0 + k * step) * turn for k in (-1, 0, 1)]
    values = target(torch.tensor([[z.real, z.imag] for z in line], dtype=torch.float64))[:, 0]
    jump = float(values[2] - 2 * values[1] + values[0]) / step
    assert jump == pytest.approx(2 * 6 * math.pi * y0, rel=1e-4)


@pytest.mark.parametrize("seed", [1234, 1238])
def test_data_have_the_range_and_scale_of_the_paper(seed):
    data = regression(seed)
    assert data.x.shape == data.x_test.shape == (20_000, 2)
    for points in (data.x, data.x_test):
        assert points.min() >= 0.0001
        assert points.max() <= 0.9999
        assert points.min() < 0.0004
        assert points.max() > 0.9996
        assert points.mean(dim=0).numpy() == pytest.approx([0.5, 0.5], abs=0.01)
        assert points.var(dim=0).numpy() == pytest.approx([1 / 12, 1 / 12], rel=0.03)
    assert (float(data.y.min()), float(data.y.max())) == (0.0, 1.0)
    for points, values in ((data.x, data.y), (data.x_test, data.y_test)):
        raw = data.offset + data.scale * values
        np.testing.assert_allclose(raw.numpy(), target(points).numpy(), rtol=1e-13, atol=1e-13)


def test_test_set_is_fresh_and_not_rescaled():
    data = regression(7, 500, 900)
    assert data.x_test.shape == (900, 2)
    assert not set(map(tuple, data.x.tolist())) & set(map(tuple, data.x_test.tolist()))
    assert (float(data.y_test.min()), float(data.y_test.max())) != (0.0, 1.0)


def tensors(data):
    return [v for v in vars(data).values() if isinstance(v, torch.Tensor)]


def test_data_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = regression(5, 100, 100)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = regression(5, 100, 100)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, tensors(first), tensors(second)))
    assert not torch.equal(first.x, regression(6, 100, 100).x)


def test_data_are_the_same_in_every_dtype_and_on_every_device():
    double = regression(5, 100, 50)
    single = regression(5, 100, 50, dtype=torch.float32)
    moved = regression(5, 100, 50, device="meta")
    assert {t.dtype for t in tensors(double)} == {torch.float64}
    assert {t.device.type for t in tensors(moved)} == {"meta"}
    for exact, rounded in zip(tensors(double), tensors(single), strict=True):
        assert torch.equal(exact.float(), rounded)
    assert (
        (double.offset, double.scale)
        == (single.offset, single.scale)
        == (
            moved.offset,
            moved.scale,
        )
    )
    with torch.device("meta"):  # a default device does not matter
        assert all(map(torch.equal, tensors(regression(5, 100, 50)), tensors(double)))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_points": 1}, "num_points must be at least 2, got 1"),
        ({"num_points": 1e3}, "num_points must be an integer of at least 2, got 1000.0"),
        ({"num_test": 0}, "num_test must be at least 1, got 0"),
        ({"num_test": True}, "num_test must be an integer of at least 1, got True"),
        ({"dtype": torch.int64}, "dtype must be a floating-point type .*, got torch.int64"),
        ({"dtype": "float64"}, "dtype must be a floating-point type .*, got 'float64'"),
        ({"device": "abacus"}, "device must be one that .*, got 'abacus'"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": 2**63}, "seed must be at most .*, got 9223372036854775808"),
        ({"seed": 1.5}, r"seed must be an integer .* got 1\.5"),
        ({"seed": True}, "seed must be an integer .* got True"),
        ({"seed": "1"}, "seed must be an integer .* got '1'"),
    ],
    ids=str,
)
def test_regression_names_the_mistake(arguments, text):
    with pytest.raises((TypeError, ValueError), match=text):
        regression(**arguments)


def test_seeds_and_sizes_may_be_those_of_numpy():
    small = regression(np.int64(5), np.int32(10), np.int64(3))
    assert torch.equal(small.x, regression(5, 10, 3).x)


@pytest.mark.parametrize("points", [torch.zeros(3, 3), torch.zeros(3, 2, dtype=torch.int64), [0.0]])
def test_target_wants_points_in_the_plane(points):
    with pytest.raises((TypeError, ValueError), match="points must"):
        target(points)


def test_largest_seed_works():
    assert regression(2**62, 2, 1).x.shape == (2, 2)
