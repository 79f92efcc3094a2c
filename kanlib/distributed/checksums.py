"""Checksums of what defines a network and a loss, by which processes see whether they agree."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kanlib.nn.described import function_of

#: What counts as it is written.
PLAIN = bool | int | float | complex | str | bytes | torch.dtype | None


def checksum(*values: Any, data: bool = True) -> int:
    """Return a check sum of values, the same in every process that has the same ones.

    Numbers and tensors count, and so do functions with what they enclose, and modules with their
    weights. Of other objects the class alone counts, and of devices nothing.

    Args:
        *values: the values.
        data: whether entries of tensors count; else types alone, as where each process has points
            of its own.

    Examples:
        >>> checksum(1.0, [torch.ones(2)]) == checksum(1.0, [torch.ones(2)])
        True
        >>> def times(k):
        ...     return lambda u: k * u
        >>> checksum(times(1)) == checksum(times(2))
        False
    """
    found = 0
    for part in _written(values, data, {}):
        found = zlib.crc32(part, found)
    return found


def _written(value: Any, data: bool, seen: dict[int, Any]) -> Iterator[bytes]:
    """Yield a value in bytes that depend on no address."""
    if isinstance(value, PLAIN):
        yield repr(value).encode()
        return
    if id(value) in seen:
        yield b"again"
        return
    seen[id(value)] = value  # and keep it, so that no other has its address
    yield getattr(value, "__qualname__", type(value).__qualname__).encode()
    if isinstance(value, Tensor | np.ndarray):
        yield from _entries(value, data)
    elif isinstance(value, nn.Module):
        for name, part in value.named_modules():
            yield from _written([name, dict(function_of(part))], data, seen)
        yield from _written([*value.parameters()], True, seen)
    else:
        for part in _inside(value):
            yield from _written(part, data, seen)


def _entries(value: Tensor | np.ndarray, data: bool) -> Iterator[bytes]:
    """Yield the type of an array, and its shape and entries if they count."""
    yield str(value.dtype).encode()
    if data:
        entries = value.detach().cpu() if isinstance(value, Tensor) else torch.as_tensor(value)
        yield str((*entries.shape,)).encode()
        yield entries.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _inside(value: Any) -> list[Any]:
    """Return what a value that is no array and no module consists of."""
    if isinstance(value, list | tuple):
        return [len(value), *value]
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return [value.__code__, value.__defaults__, value.__kwdefaults__, *cells]
    if isinstance(value, CodeType):
        return [value.co_code, value.co_names, *value.co_consts]
    if isinstance(value, MethodType):
        return [value.__func__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    return []
