"""Derivatives of networks with respect to their inputs, by forward propagation of jets.

A jet holds a function of the coordinates at N points as channels: its value, its first derivatives
along some directions, and some of its second, third and fourth derivatives. Each layer maps the jet
of its input to that of its output by the chain rule; with s applied to z,

    value s(z),    first s'(z) z_a,    second s''(z) z_a z_b + s'(z) z_ab,

and so on by Faà di Bruno's formula, see :mod:`kanlib.kernels.chain_rule`.

One pass gives all of them, whatever the depth, and the result can be differentiated with respect
to the weights: what a PINN needs, without differentiating twice backwards.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce, singledispatch
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import vjp
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode

from kanlib._checks import as_integer, check_function, check_input, check_tensor, shown
from kanlib.kernels.chain_rule import HIGHEST, closed, products, total
from kanlib.nn.described import alteration
from kanlib.nn.expansion import ExpansionKAN, ExpansionLayer
from kanlib.nn.maps import Circle, InputMap, Normalisation
from kanlib.nn.networks import KAN, MLP
from kanlib.nn.spline_layer import SplineLayer

__all__ = ["Jet", "propagate"]

#: Activations with kinks, where second derivatives do not exist.
KINKED = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Threshold, nn.Hardtanh, nn.Hardsigmoid,
    nn.Hardshrink, nn.Softshrink, nn.Hardswish, nn.SELU,
)  # fmt: skip

#: Activations whose second derivatives have a jump, where third derivatives do not exist.
BENT = (nn.ELU, nn.CELU, nn.Softsign)

Part = TypeVar("Part")


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
    """Values and derivatives up to the fourth of Q functions at N points.

    Args:
        channels: values, then first derivatives along D directions, then one higher derivative
            for each of ``pairs``.
        directions: number D of directions.
        pairs: the directions of K higher derivatives, lower orders first: (a, b), a <= b, of
            second derivatives, and so on. The parts of each are among them.
        smoothness: how many derivatives the functions have; 0 behind splines of order 1, 1 behind
            those of order 2 or a ReLU, whose higher derivatives are zero between jumps.
        outputs: names of the Q functions, if they have some, see :meth:`of`.

    Shape:
        ``channels`` (1 + D + K, N, Q); any number of dimensions may stand for N.

    Raises:
        TypeError: if the number of directions or a pair is not made of integers.
        ValueError: if the number of channels is not 1 + D + K, or a pair is not one of directions.

    Examples:
        The residual of the Korteweg-de Vries equation, u_t + 6 u u_x + u_xxx, at points (x, t):

        >>> from kanlib import KAN
        >>> x = torch.rand(100, 2)
        >>> u = propagate(KAN([2, 5, 1], r=5), Jet.at(x, pairs=[(0, 0, 0)]))
        >>> (u.d(1) + 6 * u.value * u.d(0) + u.d(0, 0, 0)).shape
        torch.Size([100, 1])
    """

    channels: Tensor
    directions: int
    pairs: tuple[tuple[int, ...], ...] = ()
    smoothness: float = math.inf
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_tensor("channels", self.channels)
        as_integer("directions", self.directions, minimum=0)
        expected = _with_parts(self.pairs, self.directions)
        if expected != tuple(self.pairs):
            raise ValueError(
                f"pairs must hold (a, b) with a <= b, and so on, each after its parts: "
                f"{expected}, got {self.pairs!r}"
            )
        size = 1 + self.directions + len(self.pairs)
        if self.channels.ndim == 0 or self.channels.shape[0] != size:
            raise ValueError(
                f"channels must have {size} entries in its first dimension (value, "
                f"{self.directions} first, {len(self.pairs)} higher derivatives), got shape "
                f"{tuple(self.channels.shape)}"
            )

    @classmethod
    def at(
        cls,
        x: Tensor,
        *,
        pairs: Iterable[tuple[int, ...]] = (),
        directions: Sequence[int] | None = None,
        features: Callable[[Tensor], Tensor] | None = None,
    ) -> Jet:
        """Return the jet of the coordinates, or of functions of them, at points x.

        It does not depend on a network: compute it once for fixed collocation points.

        Args:
            x: points of shape (N, P).
            pairs: pairs of directions whose second derivatives are wanted, e.g. [(0, 0)]; three
                or four directions ask for a third or fourth derivative, e.g. [(0, 0, 1)], and for
                its parts, here (0, 0) and (0, 1).
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
        higher = _with_parts(pairs, len(along))
        rest = torch.zeros(len(along) + len(higher), *x.shape, dtype=x.dtype, device=x.device)
        for unit, coordinate in zip(rest, along, strict=False):
            unit[..., coordinate] = 1.0
        jet = cls(torch.cat([x[None], rest]), len(along), higher)
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
                f"{name} must return ({', '.join(map(str, z.shape[:-1]))}, Q), one row for each "
                f"point, got {got}: "
                "slice columns as x[:, :1], not x[:, 0]"
            )

        held = dict(zip([(), *self._derivatives], self.channels, strict=True))
        try:
            slopes = [_derivative(function, _parts(held, each)) for each in self._derivatives]
        except RuntimeError as error:
            if not any(word in str(error) for word in ("numpy()", "data pointer")):
                raise  # else data were asked for, which tensors that autograd follows do not have
            raise ValueError(
                f"{name} must be made of functions of torch to have derivatives, but leaves them, "
                "as for NumPy: write torch.sin(x), not np.sin(x)"
            ) from error
        return replace(self, channels=torch.stack([value, *slopes]), outputs=())

    def chain(
        self,
        value: Tensor,
        slope: Tensor | float,
        curvature: Tensor | None = None,
        *higher: Tensor | float,
    ) -> Jet:
        """Return the jet of s(z), for a function s that acts on each entry of z by itself.

        Args:
            value: s(z), of shape (N, Q), where z is the value of this jet.
            slope: s'(z).
            curvature: s''(z), or None where s'' and all that follow are zero.
            *higher: the third and fourth derivatives of s, if :attr:`highest` asks for them.

        Raises:
            ValueError: if the jet holds derivatives of a higher order than what is given.
        """
        if curvature is None:
            return replace(self, channels=torch.cat([value[None], slope * self.channels[1:]]))
        orders = [value, slope, curvature, *higher]
        if self.highest >= len(orders):
            raise ValueError(
                f"higher must hold the derivatives of s up to order {self.highest}, which this jet "
                f"has, got {len(higher)}, up to order {len(orders) - 1}: give further ones, or "
                "remove the rule, so that autograd does it"
            )
        count = sum(len(each) == 2 for each in self.pairs)
        first, second, _ = self.channels[1:].split(
            [self.directions, count, len(self.pairs) - count]
        )
        parts = [value[None], slope * first]
        if self.pairs:
            a, b = zip(*self.pairs[:count], strict=True)
            parts.append(slope * second + curvature * first[[*a]] * first[[*b]])
        for terms in products(self.directions, self.pairs)[count:]:
            parts.append(total(terms, orders, self.channels)[None])
        return replace(self, channels=torch.cat(parts))

    def times(self, other: Jet) -> Jet:
        """Return the jet of the product of two functions, by the product rule.

        Args:
            other: jet at the same points, along the same directions; where one of the two has one
                column, that multiplies all columns of the other.

        Raises:
            ValueError: if the derivatives, or the columns, of the two do not match.

        Examples:
            >>> x = torch.tensor([[2.0]])
            >>> Jet.at(x, pairs=[(0, 0)]).times(Jet.at(x, pairs=[(0, 0)])).channels.flatten()
            tensor([4., 4., 2.])
        """
        if not isinstance(other, Jet) or other._derivatives != self._derivatives:
            got = other._derivatives if isinstance(other, Jet) else shown(other)
            raise ValueError(f"other must have the derivatives {self._derivatives}, got {got}")
        columns = {self.channels.shape[-1], other.channels.shape[-1]}
        if len(columns - {1}) > 1:
            raise ValueError(
                f"other must have {self.channels.shape[-1]} columns, or one, got "
                f"{other.channels.shape[-1]}"
            )
        position = {each: c for c, each in enumerate([(), *self._derivatives])}
        found = []
        for each in position:
            parts = _parts(position, each)
            counted = Counter(zip(parts, reversed(parts), strict=True))
            summands = [
                count * self.channels[a] * other.channels[b] for (a, b), count in counted.items()
            ]
            found.append(reduce(torch.add, summands))
        return replace(
            self,
            channels=torch.stack(found),
            smoothness=min(self.smoothness, other.smoothness),
            outputs=(),
        )

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

    @property
    def highest(self) -> int:
        """The highest order of a derivative in this jet."""
        return max([0, *map(len, self._derivatives)])

    @property
    def _derivatives(self) -> list[tuple[int, ...]]:
        """The directions of all channels but the value."""
        return [*((a,) for a in range(self.directions)), *self.pairs]

    def d(self, *directions: int) -> Tensor:
        """Return a derivative of shape (N, Q), such as u_a by ``d(a)`` or u_aab by ``d(a, a, b)``.

        Splines of order r have r - 1 derivatives, the last one piecewise constant. Its square has
        an integral, so that it can be minimised in the weights of that layer; gradients in the
        weights of layers before do not see its jumps. A k-th derivative is continuous for
        r >= k + 2.

        Raises:
            ValueError: if the jet does not hold it, or if the functions do not have it: a spline
                of order r has no derivative of order r, but jumps that no point shows.
        """
        known = self._derivatives
        wanted = tuple(sorted(directions))
        name = f"d({', '.join(map(str, directions))})"
        if wanted not in known:
            raise ValueError(f"{name} is not in this jet: {self._missing(wanted)}")
        if len(wanted) > self.smoothness:
            raise ValueError(
                f"{name} does not exist: splines of order {self.smoothness + 1} (or a ReLU, "
                "like order 2) have no derivative of that order where their pieces meet; use "
                f"splines of order r >= {len(wanted) + 1} (from {len(wanted) + 2} on it is "
                "continuous), or a smooth activation"
            )
        return self.channels[1 + known.index(wanted)]

    def _missing(self, wanted: tuple[int, ...]) -> str:
        """Return what to do about a derivative that the jet does not have."""
        if not wanted:
            return "take .value"
        axes = self.directions
        if any(a not in range(axes) for a in wanted):
            known = f"has the directions 0 to {axes - 1}" if axes else "has no derivatives at all"
            return f"it {known}; choose others by directions= in Term(...) or Jet.at(...)"
        beside = f", beside {[*self.pairs]}" if self.pairs else ""
        return f"ask for it by pairs=[{wanted}] in Term(...) or Jet.at(...){beside}"


def _with_parts(pairs: Any, directions: int) -> tuple[tuple[int, ...], ...]:
    """Return higher derivatives and their parts, directions sorted, each once."""
    try:
        top = max(directions - 1, 0)
        found = [tuple(as_integer("a", a, 0, top) for a in each) for each in [*pairs]]
    except (TypeError, ValueError):
        found = [()]
    if any(not 2 <= len(each) <= HIGHEST for each in found) or (found and not directions):
        raise ValueError(
            f"pairs must be a list of pairs of directions from 0 to {directions - 1}, or of three "
            f"or four of them, e.g. [(0, 0)], got {shown(pairs)}"
        )
    return closed(found)


def _parts(held: dict[tuple[int, ...], Part], derivative: tuple[int, ...]) -> list[Part]:
    """Return what is held for all parts of some directions: bit p of an index is the p-th."""
    places = range(len(derivative))
    masks = range(1 << len(derivative))
    return [held[tuple(derivative[p] for p in places if mask >> p & 1)] for mask in masks]


def _derivative(function: Callable[[Tensor], Tensor], parts: list[Tensor]) -> Tensor:
    """Return d/dt_1 ... d/dt_k at zero of function(sum over sets of parts[set] prod_set t_p)."""
    if len(parts) == 1:
        return function(parts[0])
    without, within = parts[: len(parts) // 2], parts[len(parts) // 2 :]

    def moved(t: Tensor) -> Tensor:
        return _derivative(function, [u + t * v for u, v in zip(without, within, strict=True)])

    return _slope(moved, torch.zeros((), dtype=parts[0].dtype, device=parts[0].device))


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
    if isinstance(module, ExpansionLayer):
        return module.basis.smoothness
    if isinstance(module, KINKED) or (isinstance(module, nn.ELU) and module.alpha != 1):
        return 1
    return 2 if isinstance(module, BENT) else math.inf


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


@propagate.register(SplineLayer)
@propagate.register(ExpansionLayer)
def _(module: SplineLayer | ExpansionLayer, jet: Jet) -> Jet:
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


@propagate.register(KAN)
@propagate.register(ExpansionKAN)
def _(module: KAN | ExpansionKAN, jet: Jet) -> Jet:
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
def _(module: Circle, jet: Jet) -> Jet:
    widened = replace(jet, channels=jet.channels[..., module.index])
    return widened.chain(module(jet.value), *module.orders(jet.value))


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
    higher = [slope * (6 * y * y - 2), slope * y * (16 - 24 * y * y)] if jet.highest > 2 else []
    return jet.chain(y, slope, -2 * y * slope, *higher)


@propagate.register
def _(module: nn.Sigmoid, jet: Jet) -> Jet:
    y, *slopes = _sigmoid(jet)
    return jet.chain(y, *slopes)


def _sigmoid(jet: Jet) -> list[Tensor]:
    """Return the sigmoid of the value of a jet, and as many derivatives as the jet needs."""
    y = jet.value.sigmoid()
    slope = y * (1 - y)
    bend = 1 - 2 * y
    higher = [slope * (1 - 6 * slope), slope * bend * (1 - 12 * slope)] if jet.highest > 2 else []
    return [y, slope, slope * bend, *higher]


@propagate.register
def _(module: nn.SiLU, jet: Jet) -> Jet:
    z = jet.value
    y, slope, bend, *rest = _sigmoid(jet)
    higher = [z * rest[0] + 3 * bend, z * rest[1] + 4 * rest[0]] if rest else []
    return jet.chain(z * y, y + z * slope, slope * (2 + z * (1 - 2 * y)), *higher)


@propagate.register
def _(module: nn.GELU, jet: Jet) -> Jet:
    if module.approximate != "none":
        return _by_autograd(module, jet)
    z = jet.value
    w = z * z
    normal = torch.exp(-0.5 * w) / math.sqrt(2 * math.pi)
    y = torch.special.ndtr(z)
    higher = [normal * z * (w - 4), normal * (w * (7 - w) - 4)] if jet.highest > 2 else []
    return jet.chain(F.gelu(z), y + z * normal, normal * (2 - w), *higher)


@propagate.register
def _(module: nn.ReLU, jet: Jet) -> Jet:
    z = jet.value
    jet = replace(jet, smoothness=min(jet.smoothness, smoothness(module)))
    return jet.chain(F.relu(z), (z > 0).to(z))


@propagate.register(AveragedModel)
@propagate.register(nn.DataParallel)
def _(module: Any, jet: Jet) -> Jet:
    return propagate(module.module, jet)
