"""Ensembles: networks of one architecture, such as five seeds, evaluated and trained at once.

The parameters of S networks are stacked, and one call evaluates all of them. No network depends
on another one's parameters, so that the gradient of the sum of their losses holds the gradient of
each, and an optimizer that treats every entry by itself (SGD, Adam, AdamW, RMSprop) takes the steps
that it would take for each network alone. L-BFGS does not: it mixes all entries.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from kanlib._checks import check_types
from kanlib.nn.described import Described, check_copyable, description, difference
from kanlib.nn.jets import Jet, propagate, smoothness
from kanlib.nn.networks import num_trainable

__all__ = ["Ensemble"]


class Ensemble(Described):
    """S networks of one architecture as one module, its parameters stacked along a new first axis.

    Args:
        members: the networks, which differ in the values of their parameters only. They are copied.

    Shape:
        Input (N, P), the same for all, or (S, N, P), one each; output (S, N, Q).

    Raises:
        TypeError: if the members are not networks.
        ValueError: if there is no member, or the members differ in more than the values of their
            parameters: class, grids, basis, extension, activation, hooks, frozen parameters, ...

    Examples:
        >>> from kanlib import KAN
        >>> seeds = Ensemble([KAN([2, 5, 1], n=5) for _ in range(3)])
        >>> seeds(torch.rand(100, 2)).shape, seeds.refine().n
        (torch.Size([3, 100, 1]), 10)
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if isinstance(members, nn.Module) and not isinstance(members, nn.ModuleList):
            raise TypeError(f"members must be a list of networks, got {type(members).__name__}")
        check_types(Ensemble.__init__, locals())
        members = list(members)
        if not members:
            raise ValueError("members must hold at least one network, got none")
        for member in members:
            if not isinstance(member, nn.Module):
                raise TypeError(f"members must be networks, got {type(member).__name__}")
            check_copyable(member, "Ensemble")
        for position, member in enumerate(members):
            differing = difference(members[0], member)
            if differing:
                raise ValueError(
                    "members must be one function but for the values of their parameters, but "
                    f"member {position} differs from member 0 in {differing}: train it on its own"
                )
        self._hold(members)

    def _hold(self, members: Sequence[nn.Module]) -> None:
        # A list hides the template from nn.Module: its own parameters are never used.
        self._template: list[Any] = [copy.deepcopy(members[0])]
        self._names = [name for name, _ in members[0].named_parameters()]
        self.stacked = nn.ParameterList()
        for values in zip(*(member.parameters() for member in members), strict=True):
            stack = torch.stack([value.detach() for value in values])
            self.stacked.append(nn.Parameter(stack, requires_grad=values[0].requires_grad))

    @property
    def template(self) -> Any:
        """A network of the architecture; the values of its parameters mean nothing."""
        return self._template[0]

    def describe(self) -> dict[str, Any]:
        """Return the number of networks, and what each is."""
        return {"members": self.num_members, **description(self._template[0])}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of each network."""
        return getattr(self._template[0], "outputs", ())

    @property
    def num_members(self) -> int:
        """Number S of networks."""
        return len(self.stacked[0])

    @property
    def n(self) -> int:
        """Number of intervals of the splines of each network."""
        return self._template[0].n

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters of all networks together."""
        template = copy.deepcopy(self._template[0])
        for own, stack in zip(template.parameters(), self.stacked, strict=True):
            own.requires_grad_(stack.requires_grad)
        return self.num_members * num_trainable(template)

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate all networks at x of shape (N, P) or (S, N, P)."""
        each = self._each("x", x, 2)
        return self._map(self._template[0], x, each)

    def propagate(self, jet: Jet) -> Jet:
        """Return the jet of all networks, channels (C, S, N, Q), see :mod:`kanlib.nn.jets`.

        Args:
            jet: jet of the input with channels (C, N, P), or (C, S, N, P), one for each network.
        """
        channels = jet.channels
        each = self._each("channels", channels[0], 2)
        module = _Propagated(self._template[0], jet)
        mapped = self._map(module, channels.movedim(1, 0) if each else channels, each, "module.")
        smooth = min([jet.smoothness, *map(smoothness, self._template[0].modules())])
        return replace(jet, channels=mapped.movedim(0, 1), smoothness=smooth)

    def _each(self, name: str, x: Tensor, dimensions: int) -> bool:
        """Return whether every network has an input of its own."""
        if x.ndim == dimensions + 1 and x.shape[0] == self.num_members:
            return True
        if x.ndim == dimensions:
            return False
        raise ValueError(
            f"{name} must have shape (N, P) for all networks or ({self.num_members}, N, P), one "
            f"for each, got {tuple(x.shape)}"
        )

    def _map(self, module: nn.Module, x: Tensor, each: bool, prefix: str = "") -> Tensor:
        def call(values: tuple[Tensor, ...], x: Tensor) -> Any:
            named = {prefix + name: v for name, v in zip(self._names, values, strict=True)}
            return functional_call(module, named, (x,))

        return vmap(call, in_dims=(0, 0 if each else None))(tuple(self.stacked), x)

    def members(self) -> list[Any]:
        """Return the networks, as new modules of their own."""
        return [self._member(s) for s in range(self.num_members)]

    @torch.no_grad()
    def _member(self, s: int) -> Any:
        member = copy.deepcopy(self._template[0])
        for parameter, values in zip(member.parameters(), self.stacked, strict=True):
            parameter.copy_(values[s])
        return member

    def refine(self) -> Ensemble:
        """Return the ensemble of the refined networks: the same functions."""
        check_copyable(self, "a copy of an ensemble")
        fine = copy.deepcopy(self)
        fine._hold([member.refine() for member in self.members()])
        return fine

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Ensemble:
        super()._apply(fn, recurse)
        self._template[0]._apply(fn)
        return self

    def extra_repr(self) -> str:
        """Show the number of networks, and one of them."""
        return f"{self.num_members} x {self._template[0]}"


@propagate.register
def _(module: Ensemble, jet: Jet) -> Jet:
    return module.propagate(jet)


class _Propagated(nn.Module):
    """The propagation of the channels of a jet through a module, as a module of its own."""

    def __init__(self, module: nn.Module, jet: Jet) -> None:
        super().__init__()
        self.module, self._jet = module, jet

    def forward(self, channels: Tensor) -> Tensor:
        return propagate(self.module, replace(self._jet, channels=channels)).channels
