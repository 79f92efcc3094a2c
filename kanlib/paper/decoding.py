"""JSON to dataclasses and back: each value is checked against the type of its field.

msgspec would do it, but at run time kanlib needs torch, numpy and tqdm, and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import reprlib
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

#: Below it numbers are finite in any precision that a record may be read with.
LARGEST = 1e300
NAMES = {
    str: "a text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def decode(kind: type[T], value: Any) -> T:
    """Return what JSON holds as an instance of a dataclass.

    Fields are texts, numbers, truth values, dataclasses, NamedTuples (lists in JSON), lists, and
    dicts by text or integer; ``X | None`` may be null, and a field with a default may be missing.

    Args:
        kind: the dataclass.
        value: what `json.loads` gave.

    Raises:
        ValueError: if a field is missing, is not one of the dataclass, or has another type; the
            message says which, such as "levels[0].n must be an integer, got 'a'".

    Examples:
        >>> @dataclasses.dataclass
        ... class Grid:
        ...     n: int
        ...     knots: list[float] = dataclasses.field(default_factory=list)
        >>> decode(Grid, {"n": 4})
        Grid(n=4, knots=[])
    """
    return _decode(kind, value, "")


def encode(value: Any) -> Any:
    """Return a value as JSON: floats with seven digits, or None for what no record can hold.

    Fields that a dataclass may lack are left out where they have their default.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {f.name: encode(entry) for f, entry in fields if not _is_default(f, entry)}
    if isinstance(value, dict):
        return {str(key): encode(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [encode(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if abs(value) < LARGEST else None
    return value


def _decode(kind: Any, value: Any, name: str) -> Any:
    options = [option for option in get_args(kind) if option is not NoneType]
    if NoneType in get_args(kind):  # X | None
        return None if value is None else _decode(options[0], value, name)
    if kind is Any:
        return value
    shape = get_origin(kind) or kind
    fields = dataclasses.is_dataclass(shape)
    plain = dict if fields else list if issubclass(shape, tuple) else shape
    if not _fits(value, plain):
        raise ValueError(f"{_shown(name)} must be {NAMES[plain]}, got {reprlib.repr(value)}")
    if fields:
        return _object(kind, value, name)
    if shape is list:
        return [_decode(options[0], entry, f"{name}[{i}]") for i, entry in enumerate(value)]
    if shape is dict:
        return {
            _key(options[0], key, name): _decode(options[1], entry, f"{name}.{key}")
            for key, entry in value.items()
        }
    return _row(kind, value, name) if plain is list else value


def _object(kind: Any, value: dict[str, Any], name: str) -> Any:
    """Return a dataclass from its fields by name."""
    hints, known = _hints(kind), {}
    for field in dataclasses.fields(kind):
        path = f"{name}.{field.name}"
        if field.name in value:
            known[field.name] = _decode(hints[field.name], value[field.name], path)
        elif not _has_default(field):
            raise ValueError(f"{_shown(path)} is missing")
    for key in value:
        if key not in known:
            raise ValueError(f"{_shown(f'{name}.{key}')} is unknown")
    return kind(**known)


def _row(kind: Any, value: list[Any], name: str) -> Any:
    """Return a NamedTuple from a list of its fields."""
    hints = _hints(kind)
    if len(value) != len(hints):
        raise ValueError(
            f"{_shown(name)} must have {len(hints)} entries, got {reprlib.repr(value)}"
        )
    pairs = enumerate(zip(hints.values(), value, strict=True))
    return kind(*(_decode(hint, entry, f"{name}[{i}]") for i, (hint, entry) in pairs))


def _key(kind: type, key: str, name: str) -> Any:
    """Return the name of an entry of an object, all of which are texts in JSON."""
    if kind is not int:
        return key
    if not (key.isascii() and key.isdecimal()):
        raise ValueError(f"names in {_shown(name)} must be integers, got {reprlib.repr(key)}")
    return int(key)


def _fits(value: Any, plain: type) -> bool:
    """Whether a value is of a kind that JSON knows; numbers are finite in any precision."""
    if isinstance(value, bool) or plain is bool:
        return isinstance(value, bool) and plain is bool
    if isinstance(value, int | float) and not abs(value) < LARGEST:
        return False
    return isinstance(value, (int, float) if plain is float else plain)


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return {field.default, field.default_factory} != {dataclasses.MISSING}


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return field.default is not dataclasses.MISSING and bool(value == field.default)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _shown(name: str) -> str:
    return name.removeprefix(".") or "it"
