"""Networks: KANs with exact refinement, and multilayer perceptrons to compare with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kanlib._checks import (
    Basis,
    Extension,
    as_indices,
    as_integer,
    as_interval,
    as_list,
    check_factory,
    check_input,
    check_option,
    shown,
)
from kanlib.nn.described import Described, alteration, check_copyable, check_same, reached
from kanlib.nn.free_knots import Sharing
from kanlib.nn.maps import NORMALISATIONS, Circle, InputMap, Kind, Normalisation
from kanlib.nn.spline_layer import Grids, SplineLayer, spline_layers
from kanlib.splines.knots import MAX_ORDER, KnotGrid

__all__ = ["KAN", "MLP"]

First = Literal["spline", "affine", "linear"]
FIRST_LAYERS: tuple[First, ...] = get_args(First)
PeriodicAs = Literal["circle", "splines"]
Activation = Literal["relu", "tanh", "gelu", "silu"]
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}


def check_parts(model: KAN) -> None:
    """Raise ValueError if a layer of a network is not of those that it is built with."""
    for number, layer in enumerate(model.layers):
        if not isinstance(layer, InputMap | Circle | Normalisation | nn.Linear | SplineLayer):
            raise ValueError(
                "model must be made of spline layers and linear maps alone, got a "
                f"{type(layer).__name__} as layer {number}, whose edges are more than splines: "
                "train a KAN to its values, MeanSquaredError(x, model(x)), and look at that"
            )


class KAN(nn.Module):
    """A Kolmogorov-Arnold network: spline layers, optionally after a trainable linear map.

    ``first="spline"`` puts a spline on every edge. With ``"affine"`` (``"linear"``) the first
    layer is a trainable map with (without) bias, and splines follow from the second layer on;
    these are the architectures that the parameter counts of Tables 2 and 3 of the paper imply.

    Args:
        widths: layer widths, e.g. [2, 5, 1].
        n: number of uniform intervals of every spline.
        r: order of the splines (4 is cubic).
        domain: end points (a, b) of the splines.
        basis: "spline" or "relu", the basis in which the weights are trained.
        first: "spline", "affine" or "linear".
        breakpoints: explicit increasing breakpoints instead of ``n`` and ``domain``.
        extension: splines outside the domain: "linear", "clamp" or "none".
        init_scale: standard deviation of the initial spline coefficients.
        init_basis: basis in which they are drawn.
        prolonged_from: draw them on a uniform grid of that many intervals, or on that grid, and
            prolong: a smooth start on a fine grid.
        input_domain: one interval (low, high) for each coordinate, mapped affinely onto
            ``domain``, e.g. ((-1, 1), (0, 1)); by default inputs enter as they are.
        periodic: coordinates in which the network is periodic, e.g. [0]. The period is the length
            of the interval in ``input_domain``, or else of ``domain``.
        periodic_as: how they enter: "circle" as points of a circle, two inputs of the first layer
            each, see :class:`kanlib.nn.maps.Circle`; "splines" as they are, into splines of the
            first layer whose knots wrap, see :mod:`kanlib.splines.periodic`. These need
            first="spline", and have r - 2 continuous derivatives at the seam as at every knot.
        hidden_domain: end points of the splines after the first layer, if not ``domain``.
        normalisation: None, or "sigmoid" or "tanh": a map of all hidden values onto the domain
            of the splines that follow (see :class:`kanlib.nn.maps.Normalisation`).
        outputs: names of the outputs, e.g. ("u", "v", "p"), for :meth:`kanlib.nn.jets.Jet.of`.
        device: device of the parameters.
        dtype: floating-point type of the parameters.

    Shape:
        Input (..., widths[0]), output (..., widths[-1]).

    Raises:
        ValueError: if the widths or an option are not admissible.

    Examples:
        >>> model = KAN([2, 5, 1], n=5, r=4, first="affine")
        >>> model.num_parameters
        55
        >>> fine = model.refine()
        >>> fine.n, fine.num_parameters
        (10, 80)
        >>> x = torch.rand(100, 2)
        >>> torch.allclose(model(x), fine(x), atol=1e-5)
        True
    """

    #: Names of the outputs, if they have some.
    outputs: tuple[str, ...] = ()

    def __init__(
        self,
        widths: Sequence[int],
        n: int = 5,
        r: int = 4,
        domain: tuple[float, float] = (0.0, 1.0),
        basis: Basis = "spline",
        first: First = "spline",
        *,
        breakpoints: Sequence[float] | Tensor | None = None,
        extension: Extension = "linear",
        init_scale: float = 0.1,
        init_basis: Basis = "spline",
        prolonged_from: int | KnotGrid | None = None,
        input_domain: Sequence[tuple[float, float]] | None = None,
        periodic: Sequence[int] = (),
        periodic_as: PeriodicAs = "circle",
        hidden_domain: tuple[float, float] | None = None,
        normalisation: Kind | None = None,
        outputs: Sequence[str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.widths = checked_widths(widths)
        if outputs is not None:
            self.outputs = checked_names(outputs, self.widths[-1])
        check_chain(self.widths, first, FIRST_LAYERS, normalisation)
        check_factory(device, dtype)
        r = as_integer("r", r, 1, MAX_ORDER)
        if breakpoints is None:
            grid = KnotGrid.uniform(r, n, domain)
        else:
            grid = KnotGrid(r, breakpoints)
        hidden_grid = grid
        if hidden_domain is not None:
            if breakpoints is not None:
                raise ValueError(
                    "hidden_domain needs uniform splines: give n instead of breakpoints"
                )
            hidden_grid = KnotGrid.uniform(r, n, as_interval("hidden_domain", hidden_domain))
        if prolonged_from is not None and not isinstance(prolonged_from, KnotGrid):
            prolonged_from = as_integer("prolonged_from", prolonged_from, minimum=1)

        check_option("periodic_as", periodic_as, get_args(PeriodicAs))
        wraps: list[int] = []
        if periodic_as == "splines":
            wraps, periodic = as_coordinates(periodic, self.widths[0]), ()
            if wraps and first != "spline":
                raise ValueError(
                    f"periodic_as='splines' needs first='spline', got first={first!r}, behind "
                    "which no spline sees a coordinate by itself: take periodic_as='circle'"
                )
        circle = KnotGrid(r, grid.breakpoints, periodic=True)
        own_grids = [circle if p in wraps else grid for p in range(self.widths[0])]
        first_grids: Grids = own_grids[0] if len({*own_grids}) == 1 else own_grids

        def edges(p: int, q: int, own: Grids) -> SplineLayer:
            coarse = prolonged_from
            if isinstance(coarse, int):
                domain = (hidden_grid if own is hidden_grid else grid).domain
                coarse = KnotGrid.uniform(r, coarse, domain)
            return SplineLayer(
                p,
                q,
                own,
                basis=basis,
                extension=extension,
                init_scale=init_scale,
                init_basis=init_basis,
                prolonged_from=coarse,
                device=device,
                dtype=dtype,
            )

        maps = input_maps(input_domain, periodic, self.widths[0], grid.domain, device, dtype)
        self.layers = chain(
            self.widths,
            maps,
            edges,
            (first_grids, hidden_grid),
            first,
            normalisation,
            device,
            dtype,
        )

    @property
    def spline_layers(self) -> Iterator[SplineLayer]:
        """The spline layers, from input to output, those within other modules included."""
        return iter(spline_layers(self.layers))

    @property
    def edge_layers(self) -> list[SplineLayer | nn.Linear]:
        """The layers that have edges, which are spline layers and a leading linear map."""
        return [layer for layer in self.layers if isinstance(layer, SplineLayer | nn.Linear)]

    @property
    def entering(self) -> list[int]:
        """The coordinate of each input of the first layer, where periodic ones stand twice."""
        circles = (layer for layer in self.layers if isinstance(layer, Circle))
        return [*range(self.widths[0]), *(p for each in circles for p in each.coordinates)]

    @property
    def n(self) -> int:
        """Number of intervals of the splines (the largest, should layers differ)."""
        return max(layer.n for layer in self.spline_layers)

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters."""
        return num_trainable(self)

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the network at x of shape (..., widths[0])."""
        check_input(x, self.widths[0], first_weight(self.layers))
        for layer in self.layers:
            x = layer(x)
        return x

    def refine(self, breakpoints: Sequence[float] | Tensor | None = None) -> KAN:
        """Return a new network on a finer grid that is the same function.

        Args:
            breakpoints: breakpoints of the finer grid, which include the present ones; by default
                every interval is halved.

        Returns:
            A new KAN; this one is untouched.

        Raises:
            ValueError: if ``breakpoints`` lacks a present breakpoint, or the layers have
                different domains.
        """
        domains = {layer.domain for layer in self.spline_layers}
        if breakpoints is not None and len(domains) > 1:
            raise ValueError(
                f"breakpoints must fit all spline layers, but these have the domains "
                f"{sorted(domains)}: refine() halves the intervals of each"
            )

        def refined(layer: SplineLayer) -> SplineLayer:
            if breakpoints is None:
                return layer.refine()
            grids = [grid.with_breakpoints(breakpoints) for grid in layer.distinct_grids]
            return layer.refine(grids if len(grids) > 1 else grids[0])

        return self._kept(self.mapped(refined), "refine")

    def to_basis(self, basis: Basis) -> KAN:
        """Return a new network that is the same function with spline weights in ``basis``.

        Args:
            basis: "spline" or "relu".

        Returns:
            A new KAN; this one is untouched.

        Raises:
            ValueError: if ``basis`` is unknown.

        Examples:
            >>> model = KAN([2, 5, 1], n=5, dtype=torch.float64)
            >>> x = torch.rand(100, 2, dtype=torch.float64)
            >>> torch.allclose(model(x), model.to_basis("relu")(x))
            True
        """
        return self._kept(self.mapped(lambda layer: layer.to_basis(basis)), "to_basis")

    def free(self, per: Sharing = "input", floor: float = 0.1) -> KAN:
        """Return a new network that is the same function, with knots that train with its weights.

        Args:
            per: "layer" for one set of knots a layer, "input" for one set for each of its inputs.
            floor: smallest spacing in units of the mean spacing (b - a) / n, see
                :class:`kanlib.nn.free_knots.FreeKnots`.

        Returns:
            A new KAN; this one is untouched.

        Raises:
            ValueError: if an option is not admissible, or knots are too close for ``floor``.

        Examples:
            >>> model = KAN([2, 5, 1], n=5, first="affine").free("input")
            >>> model.num_parameters, model.refine().n  # 5 x 5 spacings beside 55 weights
            (80, 10)
        """
        return self._kept(self.mapped(lambda layer: layer.free(per, floor)), "free")

    def fixed(self) -> KAN:
        """Return a new network that is the same function, with fixed knots where they are now.

        Returns:
            A new KAN; this one is untouched.
        """
        return self._kept(self.mapped(lambda layer: layer.fixed()), "fixed")

    def select(self, units: Sequence[Sequence[int]]) -> KAN:
        """Return a new, smaller network of some inputs, hidden units and outputs, in that order.

        What the others contributed is gone; :func:`kanlib.analysis.pruning.prune` keeps its mean.

        Args:
            units: for each width of the network, the units that stay, counted from zero.

        Raises:
            ValueError: if there is not one list for each width, or a list is empty, repeats a
                number or names one that is not there; or if a layer is none of kanlib's own.

        Examples:
            >>> KAN([3, 5, 1], n=5).select([[0, 2], [1, 3], [0]]).widths
            [2, 2, 1]
        """
        lists = as_list("units", units, "lists of integers")
        if len(lists) != len(self.widths):
            raise ValueError(
                f"units must hold a list for each of the widths {self.widths}, got {shown(units)}"
            )
        kept = [as_indices("units", each, w) for each, w in zip(lists, self.widths, strict=True)]
        check_parts(self)
        check_copyable(self, "a copy of a network")
        changed: dict[int, nn.Module] = {}
        sines = [c for c, p in enumerate(self.entering) if c >= self.widths[0] and p in kept[0]]
        sizes, row = [[*kept[0], *sines], *kept[1:]], 0
        for layer in self.layers:
            if isinstance(layer, InputMap):
                intervals = [layer.intervals[p] for p in kept[0]]
                device, dtype = layer.low.device, layer.low.dtype
                changed[id(layer)] = InputMap(intervals, layer.domain, device=device, dtype=dtype)
            elif isinstance(layer, Circle):
                changed[id(layer)] = layer.select(kept[0])
            elif isinstance(layer, SplineLayer | nn.Linear):
                pick = layer.select if isinstance(layer, SplineLayer) else partial(_rows, layer)
                changed[id(layer)] = pick(sizes[row], sizes[row + 1])
                row += 1
        other = copy.deepcopy(self, changed)
        other.widths = [len(each) for each in kept]
        if self.outputs:
            other.outputs = tuple(self.outputs[q] for q in kept[-1])
        return other

    def mapped(self, change: Callable[[SplineLayer], SplineLayer]) -> KAN:
        """Return a copy of this network, its class and hooks included, with other spline layers.

        Raises:
            ValueError: if a copy would be another function: forward is put on one object, or
                weights are computed from others by hooks.
        """
        check_copyable(self, "a copy of a network")
        return copy.deepcopy(self, {id(layer): change(layer) for layer in self.spline_layers})

    def _kept(self, other: KAN, user: str) -> KAN:
        if alteration(self, KAN):
            check_same(self, other, self.widths[0], user)
        return other

    def calibrate_(self, x: Tensor) -> KAN:
        """Rescale the leading linear map so that its outputs on x cover the spline domain.

        Each hidden coordinate of an affine map is scaled and shifted onto [a, b], up to rounding
        (a coordinate that is constant on x is shifted to a); a map without bias is only scaled,
        as far as [a, b] permits.

        Args:
            x: representative inputs of shape (N, widths[0]), N >= 2.

        Returns:
            This network, changed in place.

        Raises:
            TypeError: if x is not a tensor of the dtype of the network.
            ValueError: if the first layer is a spline layer or altered, hidden values are
                normalised, or x is not a finite (N, P) tensor.
        """
        calibrate(self, x, next(self.spline_layers).domain)
        return self

    def extra_repr(self) -> str:
        """Show widths and the number of parameters."""
        return f"widths={self.widths}, parameters={self.num_parameters}"


class MLP(Described):
    """A multilayer perceptron with biases on the hidden layers and none on the output.

    Args:
        widths: layer widths, e.g. [2, 20, 20, 1].
        activation: "relu", "tanh", "gelu" or "silu".
        input_domain: one interval (low, high) for each coordinate, mapped affinely onto [-1, 1];
            by default inputs enter as they are.
        periodic: coordinates in which the network is periodic, as for a :class:`KAN` on [-1, 1].
        outputs: names of the outputs, for :meth:`kanlib.nn.jets.Jet.of`.
        device: device of the parameters.
        dtype: floating-point type of the parameters.

    Shape:
        Input (..., widths[0]), output (..., widths[-1]).

    Raises:
        ValueError: if the widths or an option are not admissible.

    Examples:
        >>> MLP([2, 20, 20, 1]).num_parameters
        500
    """

    #: Names of the outputs, if they have some.
    outputs: tuple[str, ...] = ()

    def __init__(
        self,
        widths: Sequence[int],
        activation: Activation = "relu",
        *,
        input_domain: Sequence[tuple[float, float]] | None = None,
        periodic: Sequence[int] = (),
        outputs: Sequence[str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.widths = checked_widths(widths)
        if outputs is not None:
            self.outputs = checked_names(outputs, self.widths[-1])
        check_option("activation", activation, ACTIVATIONS)
        check_factory(device, dtype)
        self.activation = activation
        place = device, dtype
        layers = input_maps(input_domain, periodic, self.widths[0], (-1.0, 1.0), *place)
        widths = [_entering(layers, self.widths[0]), *self.widths[1:]]
        for p, q in pairwise(widths[:-1]):
            layers += [_linear(p, q, True, device, dtype), ACTIVATIONS[activation]()]
        p, q = widths[-2:]
        layers.append(_linear(p, q, False, device, dtype))
        self.layers = nn.Sequential(*layers)

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters."""
        return num_trainable(self)

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the network at x of shape (..., widths[0])."""
        check_input(x, self.widths[0], first_weight(self.layers))
        return self.layers(x)

    def describe(self) -> dict[str, Any]:
        """Return the widths and the activation."""
        return {"widths": self.widths, "activation": self.activation}

    def extra_repr(self) -> str:
        """Show widths and the number of parameters."""
        return f"widths={self.widths}, parameters={self.num_parameters}"


@torch.no_grad()
def calibrate(model: Any, x: Tensor, domain: tuple[float, float]) -> None:
    """Rescale the leading linear map of a network of layers, see :meth:`KAN.calibrate_`.

    Args:
        model: a network with ``widths`` and ``layers``.
        x: representative inputs.
        domain: what the outputs of the map shall cover.
    """
    maps = [layer for layer in model.layers if isinstance(layer, InputMap | Circle)]
    first = model.layers[len(maps)]
    if not isinstance(first, nn.Linear):
        raise ValueError(
            "calibrate_ needs first='affine' or first='linear'; for a spline first layer "
            "choose domain, or input_domain, to cover the data"
        )
    if any(isinstance(layer, Normalisation) for layer in model.layers):
        raise ValueError(
            "calibrate_ is of no use where hidden values are normalised: choose "
            "normalisation=None, or do without it"
        )
    if alteration(first, nn.Linear) or "weight" not in first._parameters:
        raise ValueError(
            "calibrate_ needs a plain first layer, but it overrides forward, has hooks, or its "
            "weight is computed from others: calibrate before that"
        )
    check_input(x, model.widths[0], first.weight)
    if x.ndim != 2 or x.shape[0] < 2:
        raise ValueError(
            f"x must have shape (N, {model.widths[0]}) with N >= 2, got {tuple(x.shape)}"
        )
    if not torch.isfinite(x).all():
        raise ValueError("x must be finite, got NaN or infinite entries: remove those rows")
    a, b = domain
    entered = reached(model, x, lambda module: module is first)
    if entered is None:
        raise ValueError("calibrate_ needs a network whose forward evaluates its layers")
    z = first(entered[1])
    low, high = z.min(dim=0).values, z.max(dim=0).values
    if first.bias is not None:
        spread = high - low
        constant = spread <= 64 * torch.finfo(z.dtype).eps * z.abs().amax(dim=0)
        scale = torch.where(constant, 1.0, (b - a) / spread)
        first.bias.copy_((first.bias - low) * scale + a)
    else:
        reach = torch.full_like(high, torch.inf)
        reach = torch.where(high > 0, b / high, reach)
        scale = torch.minimum(reach, torch.where(low < 0, a / low, torch.inf))
        scale = torch.where((scale > 0) & scale.isfinite(), scale, 1.0)
    first.weight.mul_(scale[:, None])


def check_chain(
    widths: Sequence[int], first: str, kinds: Sequence[str], normalisation: Kind | None
) -> None:
    """Raise unless the options of a network fit; the first kind has edges in every layer."""
    check_option("first", first, kinds)
    if normalisation is not None:
        check_option("normalisation", normalisation, NORMALISATIONS)
    if first != kinds[0] and len(widths) < 3:
        raise ValueError(
            f"widths must have a hidden layer when first = {first!r}, got {widths}: "
            f"use first={kinds[0]!r} or add a width"
        )


def chain(
    widths: Sequence[int],
    maps: Sequence[nn.Module],
    edges: Callable[[int, int, Any], nn.Module],
    bases: tuple[Any, Any],
    first: str,
    normalisation: Kind | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.ModuleList:
    """Return the layers of a network, from input to output.

    Args:
        widths: its widths.
        maps: fixed maps that lie before the first layer.
        edges: function from the number of inputs and outputs, and a basis, to a layer of edges.
        bases: the bases of the first layer and of those behind it, with a ``domain``.
        first: "affine" ("linear") for a map with (without) bias in the place of the first layer.
        normalisation: what maps hidden values onto the domain of the edges that follow.
        device: device of the parameters.
        dtype: floating-point type of the parameters.
    """
    layers = [*maps]
    sizes = [_entering(maps, widths[0]), *widths[1:]]
    for position, (p, q) in enumerate(pairwise(sizes)):
        if position == 0 and first in ("affine", "linear"):
            layers.append(_linear(p, q, first == "affine", device, dtype))
            continue
        own = bases[min(position, 1)]
        if position and normalisation is not None:
            layers.append(Normalisation(normalisation, own.domain))
        layers.append(edges(p, q, own))
    return nn.ModuleList(layers)


def input_maps(
    intervals: Sequence[tuple[float, float]] | None,
    periodic: Sequence[int],
    features: int,
    domain: tuple[float, float],
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> list[nn.Module]:
    """Return the fixed maps of the inputs, after checking that they fit."""
    layers: list[nn.Module] = []
    if intervals is not None:
        try:
            pairs = [as_interval("input_domain", pair) for pair in intervals]
        except (TypeError, ValueError):
            pairs = []
        if len(pairs) != features:
            raise ValueError(
                "input_domain must hold one pair of finite numbers low < high for each of the "
                f"{features} inputs, e.g. ((-1, 1), (0, 1)), got {shown(intervals)}"
            )
        layers.append(InputMap(pairs, domain, device=device, dtype=dtype))
    listed = as_coordinates(periodic, features)
    if listed:
        layers.append(Circle(listed, features, domain).to(device))
    return layers


def as_coordinates(periodic: Sequence[int], features: int) -> list[int]:
    """Return the periodic coordinates as a list."""
    listed = as_list("periodic", periodic, "coordinates")
    try:
        found = [as_integer("periodic", p, 0, features - 1) for p in listed]
    except (TypeError, ValueError):
        found = []
    if len({*found}) < len(listed):
        raise ValueError(
            f"periodic must list different coordinates from 0 to {features - 1}, got "
            f"{shown(periodic)}"
        )
    return found


def _entering(maps: Sequence[nn.Module], features: int) -> int:
    """Return how many inputs the first layer has, where fixed maps lie before it."""
    return features + sum(len(each.coordinates) for each in maps if isinstance(each, Circle))


def _linear(
    p: int, q: int, bias: bool, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Linear:
    """Return a linear map; like spline weights it is drawn on the CPU in float64."""
    like = torch.empty(0, device=device, dtype=dtype)
    return nn.Linear(p, q, bias=bias, device="cpu", dtype=torch.float64).to(like)


def _rows(layer: nn.Linear, inputs: list[int], outputs: list[int]) -> nn.Linear:
    """Return a linear map of some of its inputs and outputs."""
    other = copy.deepcopy(layer)
    other.in_features, other.out_features = len(inputs), len(outputs)
    own = layer.weight
    other.weight = nn.Parameter(own.detach()[outputs][:, inputs], own.requires_grad)
    if layer.bias is not None:
        other.bias = nn.Parameter(layer.bias.detach()[outputs], layer.bias.requires_grad)
    return other


def checked_names(outputs: Sequence[str], count: int) -> tuple[str, ...]:
    """Return the names of the outputs."""
    names = as_list("outputs", outputs, "names")
    distinct = {name for name in names if isinstance(name, str)}
    if len(names) != count or len(distinct) != count:
        raise ValueError(
            f"outputs must hold {count} different names, one for each output, got {shown(outputs)}"
        )
    return tuple(names)


def checked_widths(widths: Sequence[int]) -> list[int]:
    """Return the widths of layers as a list."""
    try:
        unordered = isinstance(widths, dict | set | frozenset | str | bytes)
        sizes = [] if unordered else [as_integer("width", w, minimum=1) for w in widths]
    except (TypeError, ValueError):
        sizes = []
    if len(sizes) < 2:
        raise ValueError(f"widths must be at least two positive integers, got {shown(widths)}")
    return sizes


def first_weight(layers: Iterable[nn.Module]) -> Tensor:
    """Return the weights of the first layer that has some; replicas have no parameters."""
    weights = (getattr(layer, "weight", None) for layer in layers)
    return next(weight for weight in weights if isinstance(weight, Tensor))


def num_trainable(module: nn.Module) -> int:
    """Return the number of trainable parameters of a module, each of periodic splines once."""
    repeated = sum(layer.repeated for layer in spline_layers(module) if layer.weight.requires_grad)
    return sum(p.numel() for p in module.parameters() if p.requires_grad) - repeated
