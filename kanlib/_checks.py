"""What an argument must be.

Every error is one sentence that names the argument, what it must be, and what came: a TypeError
where the type is wrong, a ValueError where the value is.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Literal, SupportsFloat, SupportsIndex, get_args

import torch
from torch import Tensor

Basis = Literal["spline", "relu"]
"""Weights of B-splines, or of truncated powers."""

Extension = Literal["linear", "clamp", "none"]
"""What a spline does outside [a, b], which is to continue linearly, stay constant, or vanish."""

BASES: tuple[Basis, ...] = get_args(Basis)
EXTENSIONS: tuple[Extension, ...] = get_args(Extension)


def as_integer(
    name: str, value: SupportsIndex, minimum: int, maximum: int | None = None, remedy: str = ""
) -> int:
    """Return ``value`` (of Python or NumPy) as an int from ``minimum`` to ``maximum``, or raise."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} must be an integer of at least {minimum}, got {value!r}{remedy}")
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}{remedy}")
    if maximum is not None and number > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {number}{remedy}")
    return number


def as_number(
    name: str, value: SupportsFloat, minimum: float = -math.inf, *, above: float = -math.inf
) -> float:
    """Return ``value`` (of Python or NumPy) as a finite float within the bounds, or raise."""
    bound = f" of at least {minimum:g}" if minimum > -math.inf else ""
    bound = f" above {above:g}" if above > -math.inf else bound
    expected = f"{name} must be a finite number{bound}, got {value!r}"
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(expected) from None
    if not (math.isfinite(number) and number >= minimum and number > above):
        raise ValueError(expected)
    return number


def check_option(name: str, value: object, options: Iterable[str]) -> None:
    """Raise ValueError unless ``value`` is one of the strings ``options``."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name} must be one of {(*options,)}, got {value!r}")


def check_derivative(derivative: int, order: int) -> None:
    """Raise ValueError unless 0 <= derivative <= order - 1."""
    if isinstance(derivative, bool | float) or derivative not in range(order):
        raise ValueError(
            f"derivative must be from 0 to r - 1 = {order - 1} for order r = {order}, "
            f"got {derivative!r}; raise the order to differentiate more often"
        )


def check_tensor(name: str, x: Tensor, size: int | None = None) -> None:
    """Raise unless x is a floating-point tensor, with ``size`` entries in its last dimension."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be a floating-point tensor, got {kind}: convert it first")
    if size is not None and (x.ndim == 0 or x.shape[-1] != size):
        raise ValueError(
            f"{name} must have {size} entries in its last dimension, got shape {tuple(x.shape)}"
        )


def check_input(x: Tensor, features: int, weight: Tensor, name: str = "x") -> None:
    """Raise unless x is a tensor (..., features) in the dtype of the weights."""
    check_tensor(name, x, features)
    if x.dtype != weight.dtype:
        raise TypeError(
            f"{name} must have the dtype of the model, {weight.dtype}, got {x.dtype}: "
            f"cast {name}, or the model with model.to({name}.dtype)"
        )


def check_factory(device: torch.device | str | None, dtype: torch.dtype | None) -> None:
    """Raise unless parameters can be made on ``device``, in the floating-point type ``dtype``."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype must be a floating-point type like torch.float64, got {dtype!r}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"device must be one that this machine and this PyTorch have, got {device!r}: "
            "use device='cpu', or device=None for the default"
        ) from None
