"""What function a module is: descriptions beside weights, and what makes a call another function.

Weights that are loaded must belong to the same function. The description is kept beside them as
floating-point numbers, so that averages over a state dict (moving averages, federated learning)
treat it like the weights and leave it as it is.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

#: Where a module, and torch for all modules ("_global" before it), keeps hooks of a call.
HOOKS = {
    "_backward_hooks": "backward hooks",
    "_backward_pre_hooks": "backward pre-hooks",
    "_forward_pre_hooks": "forward pre-hooks",
    "_forward_hooks": "forward hooks",
}


def alteration(module: nn.Module, known: type | None = None) -> str:
    """Return what makes a call of the module something else than a known class's ``forward``.

    Args:
        module: the module; its children are not looked at.
        known: a class of it, by default its own.

    Returns:
        A few words, such as "forward hooks", or nothing.

    Examples:
        >>> class Twice(nn.Linear):
        ...     def forward(self, x):
        ...         return 2 * super().forward(x)
        >>> alteration(Twice(1, 1), nn.Linear)
        'the forward method of Twice'
        >>> alteration(Twice(1, 1))
        ''
    """
    for name, words in HOOKS.items():
        if getattr(module, name) or getattr(nn.modules.module, f"_global{name}"):
            return words
    if "forward" in vars(module):
        return "a forward method of its own"
    kind: Any = type(module)
    for method in ("forward", "__call__", "_call_impl"):
        if getattr(kind, method) is not getattr(known or kind, method):
            return f"the {method} method of {kind.__name__}"
    return ""


class Described(nn.Module):
    """A module that keeps beside its weights what else its function depends on."""

    def describe(self) -> dict[str, Any]:
        """Return what defines the function besides the weights, as plain numbers and strings."""
        raise NotImplementedError

    def get_extra_state(self) -> Tensor:
        """Return :meth:`describe` as a tensor of ASCII codes, kept beside the weights."""
        description = json.dumps(self.describe()).encode("ascii")
        return torch.tensor([*description], dtype=torch.float32, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Accept the description; ``_load_from_state_dict`` has compared it."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Load the weights after checking that they belong to a module with this description."""
        stored = state_dict.get(prefix + "_extra_state")
        error_msgs = args[-1]
        if stored is not None:
            difference = self._difference(stored)
            if difference:
                error_msgs.append(f"checkpoint of {prefix.rstrip('.') or 'layer'} {difference}")
                return
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _difference(self, stored: Tensor) -> str:
        try:
            theirs = json.loads(bytes(round(code) for code in stored.flatten().tolist()))
            theirs = {key: theirs[key] for key in self.describe()}
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return f"is not the state of a {type(self).__name__}"
        ours = self.describe()
        keys = [key for key in ours if ours[key] != theirs[key]]
        if not keys:
            return ""
        differences = ", ".join(
            f"{key} = {_shortened(theirs[key])} (model: {_shortened(ours[key])})" for key in keys
        )
        remedy = (
            "build the model with that n, or refine() it to that level, before loading"
            if any(key.split(".")[-1] == "n" for key in keys)
            else "build the model with these options before loading"
        )
        return f"has {differences}; {remedy}"


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
