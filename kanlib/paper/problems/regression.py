"""Regression of a non-smooth function on the unit square (section 5.1 of the paper).

The target is, by eq. 26::

    f(x, y) = cos 4 pi x + sin pi y + sin 2 pi y + |sin 3 pi y**2|

in coordinates rotated by 0.175 rad counter-clockwise about the origin. Training points are uniform
in [0.0001, 0.9999]**2, and targets are scaled to [0, 1] by the range of the training set
(appendix D): in other units the mean squared errors of Table 2 would make no sense.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kanlib._checks import as_integer, check_factory, check_tensor
from kanlib.paper.problems import as_seed

__all__ = ["Regression", "regression", "target"]

ANGLE = 0.175
LOW, HIGH = 0.0001, 0.9999
#: Added to the seed of a training set to get that of its test set.
TEST_SEED_OFFSET = 1_000_000


def target(points: Tensor) -> Tensor:
    """Evaluate the rotated function of eq. (26).

    Args:
        points: (N, 2) points (x, y).

    Returns:
        Values of shape (N, 1), not scaled.

    Raises:
        TypeError: if the points are no floating-point tensor.
        ValueError: if they are not in the plane.

    Examples:
        >>> target(torch.zeros(1, 2, dtype=torch.float64))
        tensor([[1.]], dtype=torch.float64)
    """
    check_tensor("points", points, 2)
    cosine, sine = math.cos(ANGLE), math.sin(ANGLE)
    x = cosine * points[:, 0] - sine * points[:, 1]
    y = sine * points[:, 0] + cosine * points[:, 1]
    value = (
        torch.cos(4 * math.pi * x)
        + torch.sin(math.pi * y)
        + torch.sin(2 * math.pi * y)
        + torch.sin(3 * math.pi * y.square()).abs()
    )
    return value[:, None]


@dataclass(frozen=True)
class Regression:
    """A training set and a fresh test set, scaled alike.

    Attributes:
        x: training points (N, 2).
        y: scaled training targets (N, 1), from 0 to 1.
        x_test: test points (N_test, 2).
        y_test: scaled test targets (N_test, 1).
        offset: smallest raw training target.
        scale: range of the raw training targets; raw = offset + scale * scaled.

    Examples:
        >>> data = regression(num_points=100, num_test=50)
        >>> data.x.shape, data.y_test.shape
        (torch.Size([100, 2]), torch.Size([50, 1]))
        >>> torch.allclose(data.offset + data.scale * data.y, target(data.x))
        True
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    offset: float
    scale: float


def regression(
    seed: int = 1234,
    num_points: int = 20_000,
    num_test: int = 20_000,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> Regression:
    """Draw the data set of one seed; the same on every device.

    Args:
        seed: seed of the training points.
        num_points: size of the training set, at least 2 (the paper: 20000).
        num_test: size of the test set, at least 1.
        device: device of the tensors.
        dtype: floating-point type of the tensors.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a size is too small or the seed is no integer from 0 to 2**62.

    Examples:
        >>> data = regression(seed=1, num_points=100)
        >>> float(data.y.min()), float(data.y.max())
        (0.0, 1.0)
    """
    seed = as_seed(seed)
    num_points = as_integer("num_points", num_points, 2)
    num_test = as_integer("num_test", num_test, 1)
    check_factory(device, dtype)
    x, x_test = _points(seed, num_points), _points(seed + TEST_SEED_OFFSET, num_test)
    y, y_test = target(x), target(x_test)
    offset, scale = y.min(), y.max() - y.min()
    return Regression(
        x=x.to(device, dtype),
        y=((y - offset) / scale).to(device, dtype),
        x_test=x_test.to(device, dtype),
        y_test=((y_test - offset) / scale).to(device, dtype),
        offset=float(offset),
        scale=float(scale),
    )


def _points(seed: int, count: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    unit = torch.rand(count, 2, generator=generator, device="cpu", dtype=torch.float64)
    return LOW + (HIGH - LOW) * unit
