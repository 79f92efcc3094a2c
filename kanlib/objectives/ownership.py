"""Parts with a state, which belong to one owner.

Weights that follow a residual, factors that balance terms and points that are drawn step by step
are changed by what owns them. Two owners would overwrite each other's without a word. A part
belongs to whom it was given last, so that a cell of a notebook can be run again, and a former
owner that would still change it is stopped.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

#: Each part, its owner, and what that calls it, by the identity of the part.
_OWNERS: dict[int, tuple[weakref.ref[Any], weakref.ref[Any], str]] = {}


def claim(part: Any, owner: Any, name: str) -> None:
    """Note that a part belongs to an owner from now on.

    Args:
        part: the part; None is no one's.
        owner: what changes its state.
        name: what errors call it, as its owner does.

    Raises:
        ValueError: if the owner has it already, by another name.
    """
    if part is None:
        return
    held = _owner(part)
    if held is not None and held[0] is owner and held[1] != name:
        raise ValueError(f"{name} must be another one than {held[1]}, got the same: build one each")
    with contextlib.suppress(TypeError):  # of classes that cannot be referred to weakly
        key = id(part)
        gone = weakref.ref(part, lambda _: _OWNERS.pop(key, None))
        _OWNERS[key] = gone, weakref.ref(owner), name


def check_owner(part: Any, owner: Any, name: str, remedy: str) -> None:
    """Raise if a part that an owner is about to change belongs to another one now.

    Args:
        part: the part; None is no one's.
        owner: what changes its state.
        name: what errors call it.
        remedy: what to do instead.

    Raises:
        ValueError: if it does.

    Examples:
        >>> from kanlib import Attention
        >>> part, one, other = Attention(), Attention(), Attention()
        >>> claim(part, one, "part")
        >>> check_owner(part, one, "part", "copy it")
        >>> claim(part, other, "part")
        >>> check_owner(part, one, "part", "copy it")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: part must not be shared, but this Attention belongs to another ...: copy it
    """
    held = None if part is None else _owner(part)
    if held is not None and held[0] is not owner:
        raise ValueError(
            f"{name} must not be shared, but this {type(part).__name__} belongs to another "
            f"{type(held[0]).__name__}: {remedy}"
        )


def _owner(part: Any) -> tuple[Any, str] | None:
    """Return the owner of a part, if it has one that lives, and what it calls the part."""
    known = _OWNERS.get(id(part))
    if known is None or known[0]() is not part:
        return None
    held = known[1]()
    return None if held is None else (held, known[2])
