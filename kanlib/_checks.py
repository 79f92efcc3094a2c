"""What an argument must be.

Every error is one sentence that names the argument, what it must be, and what came: a TypeError
where the type is wrong, a ValueError where the value is.

torch.compile follows some of these checks. There isinstance is given tuples of types, since
compilers of older versions of torch do not know unions.
"""

from __future__ import annotations

import math
import operator
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, SupportsFloat, SupportsIndex, get_args, get_origin

import torch
from torch import Tensor

Basis = Literal["spline", "relu"]
"""Weights of B-splines, or of truncated powers."""

Extension = Literal["linear", "clamp", "none"]
"""What a spline does outside [a, b], which is to continue linearly, stay constant, or vanish."""

BASES: tuple[Basis, ...] = get_args(Basis)
EXTENSIONS: tuple[Extension, ...] = get_args(Extension)


def as_integer(
    name: str,
    value: SupportsIndex,
    minimum: int | None = None,
    maximum: int = sys.maxsize,
    *,
    remedy: str = "",
) -> int:
    """Return ``value`` (of Python or NumPy) as an int from ``minimum`` to ``maximum``, or raise."""
    try:
        number = None if isinstance(value, (bool, Tensor)) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        bound = "" if minimum is None else f" of at least {minimum}"
        raise TypeError(f"{name} must be an integer{bound}, got {shown(value)}{remedy}")
    if minimum is not None and number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {shown(number)}{remedy}")
    if number > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {shown(number)}{remedy}")
    return number


def as_indices(name: str, indices: Sequence[int], size: int) -> list[int]:
    """Return distinct integers from 0 to size - 1, at least one, or raise."""
    found = [as_integer(name, i, 0, size - 1) for i in as_list(name, indices, "integers")]
    if not found or len({*found}) < len(found):
        raise ValueError(
            f"{name} must hold different integers from 0 to {size - 1}, got {shown(indices)}"
        )
    return found


def as_number(
    name: str, value: SupportsFloat, minimum: float = -math.inf, *, above: float = -math.inf
) -> float:
    """Return ``value`` (of Python or NumPy) as a finite float within the bounds, or raise."""
    error: type[Exception] = ValueError
    try:
        if isinstance(value, (bool, str, bytes)):
            raise TypeError
        number = float(value)
        if math.isfinite(number) and number >= minimum and number > above:
            return number
    except (TypeError, ValueError, RuntimeError):
        error = TypeError
    except OverflowError:
        pass
    bound = f" of at least {minimum:g}" if minimum > -math.inf else ""
    bound = f" above {above:g}" if above > -math.inf else bound
    raise error(f"{name} must be a finite number{bound}, got {shown(value)}")


def as_interval(name: str, value: Iterable[float]) -> tuple[float, float]:
    """Return ``value`` as a pair of finite floats (a, b) with a < b, or raise ValueError."""
    try:
        a, b = (as_number(name, end) for end in value)
        valid = a < b
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(f"{name} must be a finite pair (a, b) with a < b, got {shown(value)}")
    return a, b


def as_list(name: str, value: Any, what: str) -> list[Any]:
    """Return what is in an iterable that is neither text nor a mapping, or raise TypeError."""
    try:
        found = None if isinstance(value, str | bytes | Mapping) else [*value]
    except TypeError:  # tensors without a dimension call themselves iterable
        found = None
    if found is None:
        raise TypeError(f"{name} must be a list of {what}, got {shown(value)}")
    return found


def shown(value: object) -> str:
    """Return how an error shows a value: itself if that is short, and no address, else its type."""
    text = repr(value) if not isinstance(value, Tensor) else ""
    if text and len(text) <= 80 and "\n" not in text and " at 0x" not in text:
        return text
    name, shape = type(value).__name__, getattr(value, "shape", None)
    of = "" if isinstance(value, type) or shape is None else f" of shape {(*shape,)}"
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}{of}"


def check_option(name: str, value: object, options: Iterable[str]) -> None:
    """Raise ValueError unless ``value`` is one of the strings ``options``."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name} must be one of {(*options,)}, got {shown(value)}")


def check_function(name: str, value: object, what: str = "function") -> None:
    """Raise TypeError unless ``value`` can be called and is no class of what should be called.

    Args:
        name: what the error calls it.
        value: what came.
        what: what it must be.
    """
    own = {key for base in getattr(value, "__mro__", ()) for key in vars(base)}
    if isinstance(value, type) and own & {"__call__", "bind"}:
        raise TypeError(
            f"{name} must be a {what}, got the class {value.__name__}: write {value.__name__}(...)"
        )
    if not callable(value):
        raise TypeError(f"{name} must be a {what}, got {shown(value)}")


def as_result(name: str, value: Any, remedy: str = "take a mean() or a norm()") -> float:
    """Return what a function of the user gave as a float, NaN and infinities included, or raise."""
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"{name} must return a number, got {shown(value)}: {remedy}") from None


def check_types(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raise TypeError unless a function was called with what its annotations say.

    A function calls it first of all, with ``locals()``. A float must be finite, and neither it nor
    an int may be a bool; a tensor must hold real or complex numbers.
    """
    for name, hint in _hints(function).items():
        if name in arguments:
            _check(name, arguments[name], hint)


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(function)
    hints.pop("return", None)
    return hints


def _check(name: str, value: Any, hint: Any) -> None:
    if isinstance(hint, typing.TypeVar):
        hint = hint.__bound__
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in inner if kind is not types.NoneType]
        if not ((value is None and types.NoneType in inner) or _fits(value, kinds[1:])):
            _check(name, value, kinds[0])
    elif origin is Literal:
        check_option(name, value, inner)
    elif origin is int:
        as_integer(name, value)
    elif origin is float:
        as_number(name, value)
    elif origin is Tensor:
        if not (isinstance(value, Tensor) and value.is_complex()):
            check_tensor(name, value)
    elif origin is Callable:
        check_function(name, value)
    elif inner:
        _check_items(name, value, origin, inner)
    elif isinstance(origin, type) and not isinstance(value, origin):
        raise TypeError(f"{name} must be a {origin.__name__}, got {shown(value)}")


def _fits(value: Any, hints: Iterable[Any]) -> bool:
    for hint in hints:
        try:
            _check("", value, hint)
        except (TypeError, ValueError):
            continue
        return True
    return False


def _check_items(name: str, value: Any, kind: Any, inner: tuple[Any, ...]) -> None:
    """Check a collection, and what it holds where it can be looked at more than once."""
    mapping, listed = issubclass(kind, Mapping), hasattr(value, "__getitem__")
    if (
        isinstance(value, str | bytes | Tensor)
        or isinstance(value, Mapping) != mapping
        or not isinstance(value, Iterable)
        or (issubclass(kind, Sequence) and not listed)
    ):
        raise TypeError(f"{name} must be a {kind.__name__.lower()}, got {shown(value)}")
    if mapping or not listed:
        return
    items = [*value]
    kinds = inner if kind is tuple and inner[-1] is not ... else inner[:1] * len(items)
    if len(kinds) != len(items):
        raise ValueError(f"{name} must have {len(kinds)} entries, got {shown(value)}")
    for i, (item, hint) in enumerate(zip(items, kinds, strict=True)):
        _check(f"{name}[{i}]", item, hint)


def check_derivative(derivative: int, order: int) -> None:
    """Raise ValueError unless 0 <= derivative <= order - 1."""
    if isinstance(derivative, (bool, float, Tensor)) or derivative not in range(order):
        raise ValueError(
            f"derivative must be from 0 to r - 1 = {order - 1} for order r = {order}, "
            f"got {shown(derivative)}; raise the order to differentiate more often"
        )


def check_tensor(name: str, x: Tensor, size: int | None = None) -> None:
    """Raise unless x is a floating-point tensor, with ``size`` entries in its last dimension."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be a floating-point tensor, got {kind}: convert it first")
    if x.layout is not torch.strided:
        raise TypeError(f"{name} must be dense, got {x.layout}: use {name}.to_dense()")
    if size is not None and (x.ndim == 0 or x.shape[-1] != size):
        raise ValueError(
            f"{name} must have {size} entries in its last dimension, got shape {tuple(x.shape)}"
        )


def check_input(x: Tensor, features: int, weight: Tensor, name: str = "x") -> None:
    """Raise unless x is a tensor (..., features) in the dtype of the weights, or of autocast."""
    check_tensor(name, x, features)
    check_dtype(name, x, weight)


def check_dtype(name: str, x: Tensor, weight: Tensor) -> None:
    """Raise TypeError unless x has the dtype of the weights, or of autocast."""
    if x.dtype != weight.dtype and x.dtype != autocast_dtype(x.device):
        raise TypeError(
            f"{name} must have the dtype of the model, {weight.dtype}, got {x.dtype}: "
            f"make or cast it with dtype={weight.dtype}, or cast the model with "
            f"model.to({x.dtype})"
        )


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the type that torch.autocast gives results on a device, or None where it is off."""
    kind = device.type  # a compiler can follow the question whether autocast is on, no other one
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return None


def check_factory(device: torch.device | str | None, dtype: torch.dtype | None) -> None:
    """Raise unless parameters can be made on ``device``, in the floating-point type ``dtype``."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(
            f"dtype must be a floating-point type like torch.float64, got {shown(dtype)}"
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"device must be one that this machine and this PyTorch have, got {shown(device)}: "
            "use device='cpu', or device=None for the default"
        ) from None
