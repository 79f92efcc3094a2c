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
from functools import partial, singledispatch
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.func import vjp
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode

from kanlib._checks import as_integer, check_function, check_input, check_tensor, shown
from kanlib.nn.described import alteration
from kanlib.nn.maps import InputMap, Normalisation
from kanlib.nn.networks import KAN, MLP
from kanlib.nn.spline_layer import SplineLayer

#: Activations that are straight lines between kinks; second derivatives do not exist.
PIECEWISE_LINEAR = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Threshold, nn.Hardtanh, nn.Hardsigmoid,
    nn.Hardshrink, nn.Softshrink,
)  # fmt: skip


class _Exact(TorchFunctionMode):
    """Replace normalisations whose third derivatives are wrong in torch, which two here need."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.layer_norm:
            return _layer_norm(*args, **(kwargs or {}))
        if func is F.instance_norm:
            raise ValueError("propagate has no derivatives of F.instance_norm: leave it out")
        return func(*args, **(kwargs or {}))


def _layer_norm(
    z: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    dims = [*range(-len(normalized_shape), 0)]
    z = z - z.mean(dims, keepdim=True)
    z = z * (z.square().mean(dims, keepdim=True) + eps).rsqrt()
    z = z if weight is None else z * weight
    return z if bias is None else z + bias


@dataclass(frozen=True, eq=False)
class Jet:
    """Value, first and second derivatives of Q functions at N points.

    Args:
        channels: values, then first derivatives along D directions, then one second derivative
            for each pair.
        directions: number D of directions.
        pairs: K pairs (a, b) of directions, a <= b, of the second derivatives.
        smoothness: how many derivatives the functions have; 0 behind splines of order 1, 1 behind
            those of order 2 or a ReLU, whose higher derivatives are zero between jumps.
        outputs: names of the Q functions, if they have some, see :meth:`of`.

    Shape:
        ``channels`` (1 + D + K, N, Q); any number of dimensions may stand for N.

    Raises:
        TypeError: if the number of directions or a pair is not made of integers.
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
    smoothness: float = math.inf
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_tensor("channels", self.channels)
        as_integer("directions", self.directions, minimum=0)
        if _sorted_pairs(self.pairs, self.directions) != tuple(self.pairs):
            raise ValueError(f"pairs must hold (a, b) with a <= b, got {self.pairs!r}")
        expected = 1 + self.directions + len(self.pairs)
        if self.channels.ndim == 0 or self.channels.shape[0] != expected:
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
            pairs: pairs of directions whose second derivatives are wanted, e.g. [(0, 0)].
            directions: the coordinates along which to differentiate; direction a is coordinate
                ``directions[a]``. By default all, so that directions are coordinates.
            features: function from points (N, P) to network inputs (N, Q), row by row, e.g. the
                coordinates and a level-set field. By default the coordinates themselves.

        Raises:
            TypeError: if x is not a floating-point tensor, or pairs are no pairs of integers.
            ValueError: if a direction is no coordinate, or a pair not one of directions.

        Examples:
            >>> x = torch.tensor([[-2.0, 1.0], [3.0, 1.0]])
            >>> jet = Jet.at(x, features=lambda x: torch.cat([x, x[:, :1].abs()], dim=1))
            >>> jet.d(0)
            tensor([[ 1.,  0., -1.],
                    [ 1.,  0.,  1.]])
        """
        check_tensor("x", x)
        if x.ndim == 0:
            raise ValueError("x must have shape (N, P), got a single number: use x.reshape(1, 1)")
        if features is not None:
            check_function("features", features, "function of x")
        coordinates = range(x.shape[-1])
        along = [*coordinates]
        if directions is not None:
            listed = isinstance(directions, Sequence)
            along = [*directions] if listed else [-1]
            if any(isinstance(one, bool) or one not in coordinates for one in along):
                raise ValueError(
                    f"directions must be a list of coordinates of x, from 0 to {x.shape[-1] - 1}, "
                    f"got {shown(directions)}"
                )
        second = _sorted_pairs(pairs, len(along))
        rest = torch.zeros(len(along) + len(second), *x.shape, dtype=x.dtype, device=x.device)
        for unit, coordinate in zip(rest, along, strict=False):
            unit[..., coordinate] = 1.0
        jet = cls(torch.cat([x[None], rest]), len(along), second)
        return jet if features is None else jet.through(features, name="features")

    def through(self, function: Callable[[Tensor], Tensor], *, name: str = "function") -> Jet:
        """Return the jet of function(z), where z is the value of this jet, by autograd.

        It takes several evaluations of the function, where a rule of ``propagate`` takes one.

        Args:
            function: function from (N, Q) to (N, R), row by row, that can be differentiated.
            name: what errors call it.

        Raises:
            ValueError: if it does not return one row for each point, or is random.

        Examples:
            >>> x = torch.tensor([[2.0]])
            >>> Jet.at(x, pairs=[(0, 0)]).through(lambda x: x**3).d(0, 0)
            tensor([[12.]])
        """
        with _Exact():
            return self._through(function, name)

    def _through(self, function: Callable[[Tensor], Tensor], name: str) -> Jet:
        z = self.value
        first, second = self.channels[1:].split([self.directions, len(self.pairs)])
        zero = torch.zeros((), dtype=z.dtype, device=z.device)
        before = _random_state(z)
        value = function(z)
        if not torch.equal(before, _random_state(z)):
            raise ValueError(
                f"{name} must give the same value at each call, but it draws random numbers: call "
                "model.eval(), or leave out what is random"
            )
        if not isinstance(value, Tensor) or value.shape[:-1] != z.shape[:-1]:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"{name} must return {tuple(z.shape[:-1])} rows, one for each point, got {got}"
            )

        def line(start: Tensor, along: Tensor, s: Tensor) -> Tensor:
            return function(start + s * along)

        def bent(u: Tensor, v: Tensor, w: Tensor, t: Tensor) -> Tensor:
            return _slope(partial(line, z + t * v, u + t * w), zero)

        slopes = [_slope(partial(line, z, v), zero) for v in first]
        pairs = zip(self.pairs, second, strict=True)
        bends = [_slope(partial(bent, first[a], first[b], w), zero) for (a, b), w in pairs]
        return replace(self, channels=torch.stack([value, *slopes, *bends]))

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

    def of(self, *names: str) -> Jet:
        """Return the jet of some outputs, by the names that the network gives them.

        Raises:
            ValueError: if there is no output of that name.

        Examples:
            >>> from kanlib import KAN
            >>> flow = KAN([2, 5, 3], outputs=("u", "v", "p"))
            >>> w = propagate(flow, Jet.at(torch.rand(9, 2)))
            >>> divergence = w.of("u").d(0) + w.of("v").d(1)
            >>> divergence.shape
            torch.Size([9, 1])
        """
        missing = [shown(name) for name in names if name not in self.outputs]
        if missing or not names:
            what = f"there is no output {missing[0]}" if missing else "of() needs names of outputs"
            known = f"the network has {', '.join(map(repr, self.outputs))}"
            remedy = known if self.outputs else "name them, as in KAN(..., outputs=('u', 'p'))"
            raise ValueError(f"{what}: {remedy}")
        columns = [self.outputs.index(name) for name in names]
        return replace(self, channels=self.channels[..., columns], outputs=names)

    def d(self, *directions: int) -> Tensor:
        """Return a derivative of shape (N, Q): first by ``d(a)``, second by ``d(a, b)``.

        Raises:
            ValueError: if the jet does not hold it.
        """
        known = [*((a,) for a in range(self.directions)), *self.pairs]
        wanted = tuple(sorted(directions))
        if wanted not in known:
            raise ValueError(
                f"d{directions} is not in this jet, which has first derivatives along directions "
                f"0, ..., {self.directions - 1} and second derivatives {list(self.pairs)}: build "
                "the input with Jet.at(x, directions=..., pairs=...) that include it"
            )
        if len(wanted) > self.smoothness:
            raise ValueError(
                f"d{directions} does not exist: splines of order {self.smoothness + 1} (or a ReLU, "
                "like order 2) have jumps in it and zeros between them; use splines of order "
                f"r >= {len(wanted) + 1}, or a smooth activation"
            )
        return self.channels[1 + known.index(wanted)]


def _sorted_pairs(pairs: Any, directions: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs (a, b) with a <= b, each once."""
    try:
        found = [(as_integer("a", a, 0), as_integer("b", b, 0)) for a, b in [*pairs]]
    except (TypeError, ValueError):
        found = [(0, directions)]
    if any(max(pair) >= directions for pair in found):
        raise ValueError(
            f"pairs must be a list of pairs of directions from 0 to {directions - 1}, e.g. "
            f"[(0, 0)], got {shown(pairs)}"
        )
    return tuple(dict.fromkeys((min(pair), max(pair)) for pair in found))


def _random_state(z: Tensor) -> Tensor:
    """Return the state of the random numbers where z lives, nothing while compiling."""
    if torch.compiler.is_compiling():
        return torch.empty(0)
    return torch.cuda.get_rng_state(z.device) if z.is_cuda else torch.get_rng_state()


def _slope(function: Callable[[Tensor], Tensor], zero: Tensor) -> Tensor:
    """Return the derivative at zero of a function of a number.

    The pullback is linear, and its own pullback is the derivative. Forward mode would do it in one
    pass, but its level belongs to all threads at once.
    """
    value, pull = _pullback(function, zero)
    _, push = _pullback(lambda u: pull(u)[0], torch.zeros_like(value))
    slope: Tensor = push(torch.ones_like(zero))[0]
    return slope


def _pullback(function: Callable[[Tensor], Tensor], x: Tensor) -> Any:
    return vjp(function, x)


def _by_autograd(module: Any, jet: Jet) -> Jet:
    """Return the jet of any function by autograd: there is no rule for what it computes."""
    if not callable(module):
        raise TypeError(
            f"module must be a network, a layer or a function, got {type(module).__name__}"
        )
    if hasattr(module, "_orig_mod"):  # torch.compile
        return propagate(module._orig_mod, jet)
    parts = [*module.modules()] if isinstance(module, nn.Module) else []
    for part in parts:
        if alteration(part).startswith("backward"):
            raise ValueError(
                f"propagate cannot honour the backward hooks of {type(part).__name__}: remove "
                "them, or register them on tensors"
            )
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and (
            part.training or part.running_mean is None
        ):
            raise ValueError(
                f"propagate needs a function of each point, but {part} mixes points: call "
                "model.eval() with running statistics, or leave it out"
            )
    jet = replace(jet, smoothness=min([jet.smoothness, *map(smoothness, parts)]))
    return jet.through(module, name=type(module).__name__)


def smoothness(module: nn.Module) -> float:
    """Return how many derivatives a layer has, not counting its children."""
    if isinstance(module, SplineLayer):
        return module.order - 1
    return 1 if isinstance(module, PIECEWISE_LINEAR) else math.inf


_rules = singledispatch(_by_autograd)


def _rule(module: Any) -> Callable[[Any, Jet], Jet]:
    """Return the rule for what a module computes: that of its class, if it computes the same."""
    rule = _rules.dispatch(type(module))
    known = [kind for kind in type(module).__mro__ if _rules.dispatch(kind) is rule][-1]
    if isinstance(module, nn.Module) and known is not object and alteration(module, known):
        return _by_autograd
    return rule


class _Open(Protocol):
    """A function that accepts further rules."""

    register: Any
    dispatch: Any
    rule: Any

    def __call__(self, module: Any, jet: Jet) -> Jet: ...


def _open(function: Any) -> _Open:
    def dispatch(kind: type) -> Callable[..., Jet]:  # of functools, Sphinx would list every rule
        return _rules.dispatch(kind)

    function.register, function.dispatch, function.rule = _rules.register, dispatch, _rule
    return cast(_Open, function)


@_open
def propagate(module: Any, jet: Jet) -> Jet:
    """Return the jet of module(z), given the jet of z.

    There are rules for the layers and networks of kanlib, and for nn.Linear, nn.Sequential and
    the usual activations; others may be added by ``@propagate.register``. What has no rule, or
    computes something else than the class with the rule (an overridden ``forward``, hooks), is
    differentiated by autograd, see :meth:`Jet.through`: it must be a function of each row.

    Args:
        module: the layer, network or function.
        jet: jet of its input.

    Raises:
        TypeError: if the module cannot be called.
        ValueError: if the jet does not have as many functions as the module has inputs, or the
            module is no differentiable function of each point: random, normalised over points in
            training, or with backward hooks.

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
    if not isinstance(jet, Jet):
        raise TypeError(f"jet must be a Jet, got {shown(jet)}: make it with Jet.at(x)")
    return named(module, _rule(module)(module, replace(jet, outputs=())))


def named(module: Any, jet: Jet) -> Jet:
    """Return the jet of a module with the names that it gives its outputs, if it does."""
    names = getattr(module, "outputs", ())
    given = isinstance(names, tuple) and len(names) == jet.channels.shape[-1]
    return replace(jet, outputs=names) if given else jet


@propagate.register
def _(module: SplineLayer, jet: Jet) -> Jet:
    check_input(jet.value, module.in_features, module.weight)
    channels = module.propagate(jet.channels, jet.pairs)
    return replace(jet, channels=channels, smoothness=min(jet.smoothness, smoothness(module)))


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
        return _by_autograd(module, jet)
    z = jet.value
    normal = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    y = torch.special.ndtr(z)
    return jet.chain(F.gelu(z), y + z * normal, normal * (2 - z * z))


@propagate.register
def _(module: nn.ReLU, jet: Jet) -> Jet:
    z = jet.value
    jet = replace(jet, smoothness=min(jet.smoothness, smoothness(module)))
    return jet.chain(F.relu(z), (z > 0).to(z))


@propagate.register(AveragedModel)
@propagate.register(nn.DataParallel)
def _(module: Any, jet: Jet) -> Jet:
    return propagate(module.module, jet)
