"""What function a module is: descriptions beside weights, and what makes a call another function.

Weights that are loaded must belong to the same function. The description is kept beside them as
floating-point numbers, so that averages over a state dict (moving averages, federated learning)
treat it like the weights and leave it as it is.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

#: Attributes of a spline layer that are for new weights only.
PREPARED = ("init_scale", "init_basis", "prolonged_from")

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


def check_copyable(module: nn.Module, user: str) -> None:
    """Raise ValueError if a copy of the module, made by ``user``, would be another function."""
    for part in module.modules():
        if "forward" in vars(part):
            raise ValueError(
                f"{user} cannot honour the forward method that was put on one {_kind(part)}, which "
                "a copy would call on the old one: override forward in a subclass"
            )
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                raise ValueError(
                    f"{user} cannot honour {name!r} of {_kind(part)}, which is computed from "
                    "other tensors (pruned or normed weights are): make it permanent, e.g. with "
                    "torch.nn.utils.prune.remove, or use torch.nn.utils.parametrizations"
                )


def check_same(before: nn.Module, after: nn.Module, inputs: int, user: str) -> None:
    """Raise ValueError unless two networks are one function, at a few points of [-1, 1]^inputs."""
    like = next(before.parameters())
    places = torch.arange(1, 24 * inputs + 1, dtype=torch.float64, device="cpu")
    x = (2 * (0.6180339887 * places % 1) - 1).view(-1, inputs).to(like)
    with torch.no_grad():
        expected, found = before(x), after(x)
    tolerance = torch.finfo(like.dtype).eps ** 0.5
    if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise ValueError(
            f"{user} must keep the function, but {_kind(before)}, which overrides forward or has "
            f"hooks, becomes another one: give the class its own {user}"
        )


def difference(one: nn.Module, other: nn.Module) -> str:
    """Return in what two modules differ besides the values of their parameters, or nothing."""
    ours, theirs = dict(one.named_modules()), dict(other.named_modules())
    if [*ours] != [*theirs]:
        return "its layers"
    for name, part in ours.items():
        mine, yours = dict(function_of(part)), dict(function_of(theirs[name]))
        for key in {**mine, **yours}:
            if key not in mine or key not in yours or not _same(mine[key], yours[key]):
                return f"the {key} of {f'its layer {name}' if name else _kind(part)}"
    return ""


def function_of(part: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield what the function of a module depends on, but for its children and parameters."""
    described = isinstance(part, Described)
    yield "class", type_before_parametrizations(part)
    if isinstance(part, Described):
        yield from part.describe().items()
    for name, words in HOOKS.items():
        yield words, [*getattr(part, name).values()]
    for name, p in part._parameters.items():
        yield name, None if p is None else (p.shape, p.dtype, p.device, p.requires_grad)
    for name, buffer in part._buffers.items():
        if not (described and name in part._non_persistent_buffers_set):
            yield name, buffer
    for name, value in vars(part).items():
        if not name.startswith("_") and name not in ("training", *PREPARED):
            yield name, value


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other.to(one.device))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, FunctionType):  # one lambda, made anew for each network
        cells = [[c.cell_contents for c in f.__closure__ or ()] for f in (one, other)]
        return one.__code__ == other.__code__ and _same(*cells)
    return bool(one == other)


def description(module: nn.Module) -> dict[str, Any]:
    """Return what a module and its children are, as plain numbers and strings by their names."""
    found: dict[str, Any] = {}
    for name, part in module.named_modules():
        plain = part.describe() if isinstance(part, Described) else _plain(part)
        for key, value in {"class": _kind(part), **plain}.items():
            found[f"{name}.{key}" if name else key] = value
    return found


def _plain(part: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module that are numbers, strings, or sequences of such."""
    found = {}
    for name, value in vars(part).items():
        entries = value if isinstance(value, list | tuple) else [value]
        plain = all(isinstance(entry, bool | int | float | str) for entry in entries)
        if plain and name[0] != "_" and name != "training":
            found[name] = [*value] if isinstance(value, tuple) else value
    return found


def check_own_weight(layer: nn.Module, where: str) -> None:
    """Raise ValueError unless the weight of a layer is a parameter, so that a copy can have others.

    Args:
        layer: the layer.
        where: what the error says of the copy.
    """
    if "weight" not in layer._parameters:
        raise ValueError(
            f"weight must be a parameter of its own for a copy {where}, but it is computed from "
            "others: make it permanent, e.g. with "
            "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"
        )


class _Reached(BaseException):
    """The evaluation of a network has come to a module."""


def reached(
    model: nn.Module, x: Tensor, wanted: Callable[[nn.Module], bool]
) -> tuple[nn.Module, Tensor] | None:
    """Return the first of the wanted modules that model(x) comes to, and what enters it.

    The evaluation ends there. Whatever lies before, an overridden ``forward`` or hooks, is in what
    enters.
    """
    thread = threading.get_ident()

    def stop(module: nn.Module, inputs: Any) -> None:
        if threading.get_ident() == thread:
            raise _Reached(module, inputs[0])

    parts = [part for part in model.modules() if wanted(part)]
    handles = [part.register_forward_pre_hook(stop) for part in parts]
    try:
        with torch.no_grad():
            model(x)
    except _Reached as found:
        module, z = found.args
        return module, z
    finally:
        for handle in handles:
            handle.remove()
    return None


def _kind(module: nn.Module) -> str:
    kind: type = type_before_parametrizations(module)
    return kind.__name__


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
                error_msgs.append(f"checkpoint of {prefix.rstrip('.') or _kind(self)} {difference}")
                return
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _difference(self, stored: Tensor) -> str:
        try:
            theirs = json.loads(bytes(round(code) for code in stored.flatten().tolist()))
            ours = self.describe()
            if not ours.keys() & theirs.keys():
                raise KeyError
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return f"is not the state of a {type(self).__name__}"
        keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        if not keys:
            return ""
        differences = ", ".join(
            f"{key} = {_shortened(theirs.get(key))} (model: {_shortened(ours.get(key))})"
            for key in keys
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
