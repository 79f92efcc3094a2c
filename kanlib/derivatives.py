"""Derivatives of networks with respect to their inputs, by forward propagation of jets.

A jet holds a function of the coordinates at N points as channels: its value, its first derivatives
along some directions, and some of its second derivatives. Each layer maps the jet of its input to
that of its output by the chain rule; with s applied to z,

    value s(z),    first s'(z) z_a,    second s''(z) z_a z_b + s'(z) z_ab.

One pass gives all of them, whatever the depth, and the result can be differentiated with respect
to the weights: what a PINN needs, without differentiating twice backwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.nn import functional as F

from kanlib._checks import check_input, check_tensor
from kanlib.layers import SplineLayer
from kanlib.maps import InputMap, Normalisation
from kanlib.networks import KAN, MLP


@dataclass(frozen=True)
class Jet:
    """Value, first and second derivatives of Q functions at N points.

    Args:
        channels: values, then first derivatives along D directions, then one second derivative
            for each pair.
        directions: number D of directions.
        pairs: K pairs (a, b) of directions, a <= b, of the second derivatives.

    Shape:
        ``channels`` (1 + D + K, N, Q); any number of dimensions may stand for N.

    Raises:
        ValueError: if the number of channels is not 1 + D + K, or a pair is not one of directions.

    Examples:
        >>> from kanlib import KAN
        >>> x = torch.rand(100, 2)
        >>> u = propagate(KAN([2, 5, 1]), Jet.at(x, pairs=[(0, 0)]))
        >>> u.value.shape, u.d(1).shape, u.d(0, 0).shape
        (torch.Size([100, 1]), torch.Size([100, 1]), torch.Size([100, 1]))
    """

    channels: Tensor
    directions: int
    pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for a, b in self.pairs:
            if not 0 <= a <= b < self.directions:
                raise ValueError(
                    f"pairs must hold (a, b) with 0 <= a <= b < {self.directions}, the number of "
                    f"directions, got {(a, b)}"
                )
        expected = 1 + self.directions + len(self.pairs)
        if self.channels.shape[0] != expected:
            raise ValueError(
                f"channels must have {expected} entries in its first dimension (value, "
                f"{self.directions} first, {len(self.pairs)} second derivatives), got shape "
                f"{tuple(self.channels.shape)}"
            )

    @classmethod
    def at(
        cls,
        x: Tensor,
        *,
        pairs: Iterable[tuple[int, int]] = (),
        directions: Sequence[int] | None = None,
        features: Callable[[Tensor], Tensor] | None = None,
    ) -> Jet:
        """Return the jet of the coordinates, or of functions of them, at points x.

        It does not depend on a network: compute it once for fixed collocation points.

        Args:
            x: points of shape (N, P).
            pairs: pairs of directions whose second derivatives are wanted.
            directions: the coordinates along which to differentiate; direction a is coordinate
                ``directions[a]``. By default all, so that directions are coordinates.
            features: function from points (N, P) to network inputs (N, Q), row by row, e.g. the
                coordinates and a level-set field. By default the coordinates themselves.

        Raises:
            TypeError: if x is not a floating-point tensor.
            ValueError: if a direction is no coordinate, or a pair not one of directions.

        Examples:
            >>> x = torch.tensor([[-2.0, 1.0], [3.0, 1.0]])
            >>> jet = Jet.at(x, features=lambda x: torch.cat([x, x[:, :1].abs()], dim=1))
            >>> jet.d(0)
            tensor([[ 1.,  0., -1.],
                    [ 1.,  0.,  1.]])
        """
        check_tensor("x", x)
        coordinates = range(x.shape[-1])
        along = [*coordinates] if directions is None else [*directions]
        if not {*along} <= {*coordinates}:
            raise ValueError(
                f"directions must be coordinates of x, from 0 to {x.shape[-1] - 1}, got {along}"
            )
        second = tuple((min(a, b), max(a, b)) for a, b in pairs)
        for pair in second:
            if not {*pair} <= {*range(len(along))}:
                raise ValueError(
                    f"pairs must hold directions from 0 to {len(along) - 1}, got {pair}"
                )
        units = [torch.zeros_like(x) for _ in along]
        for unit, coordinate in zip(units, along, strict=True):
            unit[..., coordinate] = 1.0
        function = features or torch.clone

        def slope(a: int) -> Callable[[Tensor], Tensor]:
            return lambda x: jvp(function, (x,), (units[a],))[1]

        value = function(x)
        if not isinstance(value, Tensor) or value.shape[:-1] != x.shape[:-1]:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"features must return {tuple(x.shape[:-1])} rows, one for each point, got {got}"
            )
        first = [slope(a)(x) for a in range(len(along))]
        mixed = [jvp(slope(a), (x,), (units[b],))[1] for a, b in second]
        return cls(torch.stack([value, *first, *mixed]), len(along), second)

    def chain(self, value: Tensor, slope: Tensor | float, curvature: Tensor | None = None) -> Jet:
        """Return the jet of s(z), for a function s that acts on each entry of z by itself.

        Args:
            value: s(z), of shape (N, Q), where z is the value of this jet.
            slope: s'(z).
            curvature: s''(z), or None where that is zero.
        """
        if curvature is None:
            return replace(self, channels=torch.cat([value[None], slope * self.channels[1:]]))
        first, second = self.channels[1:].split([self.directions, len(self.pairs)])
        parts = [value[None], slope * first]
        if self.pairs:
            a, b = zip(*self.pairs, strict=True)
            parts.append(slope * second + curvature * first[[*a]] * first[[*b]])
        return replace(self, channels=torch.cat(parts))

    @property
    def value(self) -> Tensor:
        """The values, of shape (N, Q)."""
        return self.channels[0]

    def d(self, *directions: int) -> Tensor:
        """Return a derivative of shape (N, Q): first by ``d(a)``, second by ``d(a, b)``.

        Raises:
            ValueError: if the jet does not hold it.
        """
        if len(directions) == 1 and directions[0] in range(self.directions):
            return self.channels[1 + directions[0]]
        pair = tuple(sorted(directions))
        if pair in self.pairs:
            return self.channels[1 + self.directions + self.pairs.index(pair)]
        raise ValueError(
            f"d{directions} is not in this jet, which has first derivatives along directions "
            f"0, ..., {self.directions - 1} and second derivatives {list(self.pairs)}: build the "
            "input with Jet.at(x, directions=..., pairs=...) that include it"
        )


@singledispatch
def propagate(module: Any, jet: Jet) -> Jet:
    """Return the jet of module(z), given the jet of z.

    There are rules for the layers and networks of kanlib, and for nn.Linear, nn.Sequential and
    the usual activations. Other modules get theirs by ``@propagate.register``.

    Args:
        module: the layer or network.
        jet: jet of its input.

    Raises:
        TypeError: if there is no rule for the module.
        ValueError: if the jet does not have as many functions as the module has inputs.

    Examples:
        >>> class Cube(nn.Module):
        ...     def forward(self, z):
        ...         return z**3
        >>> @propagate.register
        ... def _(module: Cube, jet: Jet) -> Jet:
        ...     z = jet.value
        ...     return jet.chain(z**3, 3 * z**2, 6 * z)
        >>> x = torch.tensor([[2.0]])
        >>> propagate(Cube(), Jet.at(x, pairs=[(0, 0)])).d(0, 0)
        tensor([[12.]])
    """
    raise TypeError(
        f"propagate has no rule for {type(module).__name__}: give it one with @propagate.register "
        f"def _(module: {type(module).__name__}, jet: Jet) -> Jet"
    )


@propagate.register
def _(module: SplineLayer, jet: Jet) -> Jet:
    check_input(jet.value, module.in_features, module.weight)
    return replace(jet, channels=module.propagate(jet.channels, jet.pairs))


@propagate.register
def _(module: nn.Linear, jet: Jet) -> Jet:
    check_input(jet.value, module.in_features, module.weight)
    channels = F.linear(jet.channels, module.weight)
    if module.bias is not None:
        value, rest = channels[:1], channels[1:]
        channels = torch.cat([value + module.bias, rest])
    return replace(jet, channels=channels)


@propagate.register
def _(module: KAN, jet: Jet) -> Jet:
    for layer in module.layers:
        jet = propagate(layer, jet)
    return jet


@propagate.register
def _(module: MLP, jet: Jet) -> Jet:
    return propagate(module.layers, jet)


@propagate.register
def _(module: InputMap, jet: Jet) -> Jet:
    return jet.chain(module(jet.value), module.slope)


@propagate.register
def _(module: Normalisation, jet: Jet) -> Jet:
    jet = propagate(module.activation, jet)
    return jet.chain(module.scale * jet.value + module.shift, module.scale)


@propagate.register
def _(module: nn.Sequential, jet: Jet) -> Jet:
    for layer in module:
        jet = propagate(layer, jet)
    return jet


@propagate.register
def _(module: nn.Identity, jet: Jet) -> Jet:
    return jet


@propagate.register
def _(module: nn.Tanh, jet: Jet) -> Jet:
    y = jet.value.tanh()
    slope = 1 - y * y
    return jet.chain(y, slope, -2 * y * slope)


@propagate.register
def _(module: nn.Sigmoid, jet: Jet) -> Jet:
    y = jet.value.sigmoid()
    slope = y * (1 - y)
    return jet.chain(y, slope, slope * (1 - 2 * y))


@propagate.register
def _(module: nn.SiLU, jet: Jet) -> Jet:
    z = jet.value
    y = z.sigmoid()
    slope = y * (1 - y)
    return jet.chain(z * y, y + z * slope, slope * (2 + z * (1 - 2 * y)))


@propagate.register
def _(module: nn.GELU, jet: Jet) -> Jet:
    if module.approximate != "none":
        raise TypeError(
            f"propagate has a rule for nn.GELU() only, got approximate={module.approximate!r}"
        )
    z = jet.value
    normal = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    y = torch.special.ndtr(z)
    return jet.chain(F.gelu(z), y + z * normal, normal * (2 - z * z))


@propagate.register
def _(module: nn.ReLU, jet: Jet) -> Jet:
    z = jet.value
    return jet.chain(F.relu(z), (z > 0).to(z))
