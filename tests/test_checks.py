"""What an argument must be."""

import numpy as np
import pytest
import torch

from kanlib._checks import (
    BASES,
    as_integer,
    as_number,
    check_factory,
    check_option,
    check_tensor,
)


def test_as_integer_names_the_argument():
    assert as_integer("steps", np.int8(3), minimum=0) == 3
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        as_integer("steps", -1, minimum=0)
    with pytest.raises(TypeError, match="steps must be an integer of at least 0, got nan"):
        as_integer("steps", float("nan"), minimum=0)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.tensor([1, 2]), TypeError, r"g must be a floating-point tensor, got torch\.int64"),
        (torch.tensor([1j, 2j]), TypeError, "got torch.complex64: convert it"),
        (np.zeros(2), TypeError, "got ndarray: convert it"),
        ([1.0, 2.0], TypeError, "got list"),
        (torch.eye(2).to_sparse(), TypeError, "g must be dense, got torch.sparse_coo: use g.to_de"),
        (torch.zeros(3), ValueError, r"g must have 2 entries in its last dimension, .* \(3,\)"),
        (torch.tensor(1.0), ValueError, r"got shape \(\)"),
    ],
)
def test_check_tensor_names_argument_and_type_or_shape(x, error, message):
    check_tensor("g", torch.zeros(5, 2), 2)
    with pytest.raises(error, match=message):
        check_tensor("g", x, 2)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (True, TypeError),
        ("1", TypeError),
        (None, TypeError),
        (1j, TypeError),
        (torch.ones(2), TypeError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        pytest.param(10**400, ValueError, id="huge"),
        (0, ValueError),
    ],
)
def test_as_number_takes_finite_numbers_within_the_bound(value, error):
    assert as_number("a", np.float32(0.5), above=0) == as_number("a", torch.tensor(0.5)) == 0.5
    assert as_number("a", 0, 0) == 0
    with pytest.raises(error, match=r"a must be a finite number above 0, got"):
        as_number("a", value, above=0)


@pytest.mark.parametrize("value", [None, 1, "splin", ["spline"], np.array(["spline"] * 2)])
def test_check_option_lists_the_options(value):
    check_option("init_basis", "relu", BASES)
    with pytest.raises(ValueError, match=r"init_basis must be one of \('spline', 'relu'\), got"):
        check_option("init_basis", value, BASES)


def test_check_factory_wants_a_device_that_is_there_and_a_floating_type():
    check_factory(None, None)
    check_factory("cpu", torch.bfloat16)
    with pytest.raises(TypeError, match=r"dtype must be .*torch\.float64, got 'float64'"):
        check_factory("cpu", "float64")
    with pytest.raises(TypeError, match=r"dtype must be .*, got torch\.int64"):
        check_factory("cpu", torch.int64)
    for device in ("xpu:7", "nowhere"):
        with pytest.raises(ValueError, match=f"device must be one that .* got '{device}': use"):
            check_factory(device, None)
    with pytest.raises(TypeError, match=r"device must be one that .* got 1\.5"):
        check_factory(1.5, None)
