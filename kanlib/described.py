"""Modules that check, when weights are loaded, that these belong to the same function."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn


class Described(nn.Module):
    """A module that keeps beside its weights what else its function depends on."""

    def describe(self) -> dict[str, Any]:
        """Return what defines the function besides the weights, as plain numbers and strings."""
        raise NotImplementedError

    def get_extra_state(self) -> Tensor:
        """Return :meth:`describe` as a tensor of UTF-8 bytes, kept beside the weights."""
        description = json.dumps(self.describe()).encode()
        return torch.tensor([*description], dtype=torch.uint8, device="cpu")

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
            theirs = json.loads(bytes(stored.flatten().tolist()))
            theirs = {key: theirs[key] for key in self.describe()}
        except (ValueError, TypeError, KeyError, AttributeError):
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
            if "n" in keys
            else "build the model with these options before loading"
        )
        return f"has {differences}; {remedy}"


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
