"""Parts with a state, which belong to one owner.

Weights that follow a residual, factors that balance terms and points that are drawn step by step
are changed by what owns them. Two owners would overwrite each other's without a word.
"""

from __future__ import annotations

import weakref
from typing import Any

#: The owner of each part, and what it calls the part.
_OWNERS: weakref.WeakKeyDictionary[Any, tuple[weakref.ref[Any], str]] = weakref.WeakKeyDictionary()


def claim(part: Any, owner: Any, name: str, remedy: str) -> None:
    """Note that a part belongs to an owner, for as long as there is that owner.

    Args:
        part: the part; None is no one's.
        owner: what changes its state.
        name: what errors call it, as its owner does.
        remedy: what to do instead.

    Raises:
        ValueError: if it belongs to another owner, or to this one by another name.

    Examples:
        >>> from kanlib import Attention
        >>> part, one, other = Attention(), Attention(), Attention()
        >>> claim(part, one, "part", "copy it")
        >>> claim(part, other, "part", "copy it")
        Traceback (most recent call last):
            ...
        ValueError: part must not be shared, but this Attention is in use: copy it
    """
    if part is None:
        return
    former, called = _OWNERS.get(part, (None, name))
    held = None if former is None else former()
    if held is not None and (held is not owner or called != name):
        kind = type(part).__name__
        raise ValueError(f"{name} must not be shared, but this {kind} is in use: {remedy}")
    _OWNERS[part] = weakref.ref(owner), name
