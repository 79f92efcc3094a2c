"""Weights of other libraries as networks of kanlib: pykan, efficient-kan and fast-kan.

They come as state dicts, as ``torch.load(file, weights_only=True)`` reads them; a file that needs
more than that could execute code, and is not for here.

B-splines of pykan and efficient-kan vanish beyond their exterior knots, and between these and
[a, b] they fade out. So they are splines on all their knots, which the layers here have as
breakpoints, with zero weights for the functions that reach outside, and ``extension="none"``: the
same function on the whole line, refinements of it included. Their second branch, scale times an
activation of the input, is that of a :class:`kanlib.interop.branches.BranchedLayer`.

Gaussians of fast-kan are no splines; they are projected, and the error of that is returned.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kanlib._checks import as_integer, check_option, shown
from kanlib.interop.branches import ACTIVATIONS, Activation, BranchedLayer
from kanlib.nn.maps import InputMap
from kanlib.nn.networks import KAN
from kanlib.nn.spline_layer import SplineLayer
from kanlib.splines.bspline import dense_basis
from kanlib.splines.knots import KnotGrid

__all__ = ["Projected", "from_efficient_kan", "from_fast_kan", "from_pykan"]

State = Mapping[str, Tensor]
#: Gaussians are projected as far as this many denominators beyond their outermost centres.
TAILS = 6.0
#: Points of an interval at which Gaussians are fitted, and others at which the error is measured.
FITTED, MEASURED = 12, 31


class Projected(NamedTuple):
    """A network that is nearly that of another library.

    Attributes:
        model: the network.
        error: the largest difference of a function of a single edge from its spline, at 31 points
            of each interval and, as both vanish there up to it, beyond.

    Examples:
        >>> state = {  # of its FastKAN([1, 1], num_grids=3), a Gaussian with centre 0 alone
        ...     "layers.0.layernorm.weight": torch.ones(1),
        ...     "layers.0.layernorm.bias": torch.zeros(1),
        ...     "layers.0.rbf.grid": torch.tensor([-2.0, 0.0, 2.0]),
        ...     "layers.0.spline_linear.weight": torch.tensor([[0.0, 1.0, 0.0]]),
        ... }
        >>> coarse, fine = from_fast_kan(state, n=16), from_fast_kan(state, n=64)
        >>> fine.error < coarse.error / 100
        True
    """

    model: KAN
    error: float


def from_pykan(state: State, base_activation: Activation | None = "silu") -> KAN:
    """Return the network of pykan 0.2.8 with these weights, the same function everywhere.

    Args:
        state: its ``state_dict()``, as ``saveckpt`` writes it into a file ``..._state``.
        base_activation: "silu", "identity", or None for pykan's ``base_fun="zero"``.

    Returns:
        A network of ``BranchedLayer`` modules in the dtype of the weights.

    Raises:
        TypeError: if ``state`` is no mapping of names and tensors.
        ValueError: if it is not of pykan, or the network has formulas on edges or products of
            units, which are no splines.

    Examples:
        >>> ones, zeros = torch.ones(2, 1), torch.zeros(2, 1)
        >>> state = {  # of its KAN([2, 1], grid=4, k=3)
        ...     "act_fun.0.grid": torch.linspace(-2.5, 2.5, 11).repeat(2, 1),
        ...     "act_fun.0.coef": torch.ones(2, 1, 7),
        ...     "act_fun.0.mask": ones,
        ...     "act_fun.0.scale_base": zeros,
        ...     "act_fun.0.scale_sp": ones,
        ...     "subnode_scale_0": ones[0],
        ...     "subnode_bias_0": zeros[0],
        ...     "node_scale_0": ones[0],
        ...     "node_bias_0": zeros[0],
        ... }
        >>> model = from_pykan(state)
        >>> model(torch.zeros(1, 2)).detach().round(decimals=4)  # B-splines add up to one, twice
        tensor([[2.]])
    """
    count = _layers(state, r"act_fun\.(\d+)\.coef", "pykan")
    layers = []
    for i in range(count):
        grid, coef, mask, scale_base, scale_spline = (
            _found(state, f"act_fun.{i}.{name}", "pykan")
            for name in ("grid", "coef", "mask", "scale_base", "scale_sp")
        )
        symbolic = state.get(f"symbolic_fun.{i}.mask")
        if symbolic is not None and bool(symbolic.any()):
            q, p = symbolic.nonzero()[0].tolist()
            raise ValueError(
                f"state must hold splines only, but layer {i} has a formula on the edge from input "
                f"{p} to output {q}: use the network before fix_symbolic"
            )
        inner, outer = (
            (
                _found(state, f"{kind}_scale_{i}", "pykan"),
                _found(state, f"{kind}_bias_{i}", "pykan"),
            )
            for kind in ("subnode", "node")
        )
        if len(inner[0]) != len(outer[0]):
            raise ValueError(
                f"state must hold sums only, but layer {i} multiplies {len(inner[0])} values into "
                f"{len(outer[0])} units: networks with products have no counterpart here"
            )
        scale, shift = outer[0] * inner[0], outer[0] * inner[1] + outer[1]
        own = (mask * scale).T  # (Q, P)
        spline = (own * scale_spline.T)[..., None] * coef.transpose(0, 1)
        layers.append(_layer(grid, spline, own * scale_base.T, shift, base_activation))
    return _network(layers)


def from_efficient_kan(state: State, base_activation: Activation = "silu") -> KAN:
    """Return the network of efficient-kan with these weights, the same function everywhere.

    Args:
        state: its ``state_dict()``.
        base_activation: "silu" or "identity".

    Returns:
        A network of ``BranchedLayer`` modules in the dtype of the weights.

    Raises:
        TypeError: if ``state`` is no mapping of names and tensors.
        ValueError: if it is not of efficient-kan.

    Examples:
        >>> state = {  # of its KAN([2, 1], grid_size=4, spline_order=3)
        ...     "layers.0.base_weight": torch.zeros(1, 2),
        ...     "layers.0.spline_weight": torch.ones(1, 2, 7),
        ...     "layers.0.spline_scaler": torch.ones(1, 2),
        ...     "layers.0.grid": torch.linspace(-2.5, 2.5, 11).repeat(2, 1),
        ... }
        >>> model = from_efficient_kan(state)
        >>> model(torch.zeros(1, 2)).detach().round(decimals=4)  # B-splines add up to one, twice
        tensor([[2.]])
    """
    layers = []
    for i in range(_layers(state, r"layers\.(\d+)\.spline_weight", "efficient-kan")):
        grid, spline, base = (
            _found(state, f"layers.{i}.{name}", "efficient-kan")
            for name in ("grid", "spline_weight", "base_weight")
        )
        scaler = state.get(f"layers.{i}.spline_scaler")
        if scaler is not None and scaler.shape != spline.shape[:2]:
            raise ValueError(
                f"state must hold a spline_scaler of shape {(*spline.shape[:2],)} in layer {i}, "
                f"got {(*scaler.shape,)}"
            )
        spline = spline if scaler is None else scaler[..., None] * spline
        layers.append(_layer(grid, spline, base, base.new_zeros(len(base)), base_activation))
    return _network(layers)


def from_fast_kan(
    state: State, n: int = 64, r: int = 4, base_activation: Activation = "silu"
) -> Projected:
    """Return a network that is nearly that of fast-kan with these weights, and how nearly.

    The layer there is W phi(norm(x)) + base(silu(x)), with a layer norm and Gaussians phi of
    width d at equidistant centres. Each edge's sum of Gaussians becomes its least-squares spline.

    Args:
        state: its ``state_dict()``.
        n: intervals of the splines.
        r: order of the splines.
        base_activation: "silu" or "identity".

    Returns:
        The network, of ``BranchedLayer`` modules whose ``map`` is the layer norm, and the error.

    Raises:
        TypeError: if ``state`` is no mapping of names and tensors.
        ValueError: if it is not of fast-kan, or ``n`` or ``r`` is out of range.

    Examples:
        >>> state = {  # of its FastKAN([1, 1], num_grids=3), a Gaussian with centre 0 alone
        ...     "layers.0.layernorm.weight": torch.ones(1),
        ...     "layers.0.layernorm.bias": torch.zeros(1),
        ...     "layers.0.rbf.grid": torch.tensor([-2.0, 0.0, 2.0]),
        ...     "layers.0.spline_linear.weight": torch.tensor([[0.0, 1.0, 0.0]]),
        ... }
        >>> found = from_fast_kan(state, n=64)
        >>> found.error < 1e-4
        True
    """
    n, r = as_integer("n", n, minimum=1), as_integer("r", r, 2, 32)
    layers, error = [], 0.0
    for i in range(_layers(state, r"layers\.(\d+)\.rbf\.grid", "fast-kan")):
        centres, weight, gain, shift = (
            _found(state, f"layers.{i}.{name}", "fast-kan")
            for name in ("rbf.grid", "spline_linear.weight", "layernorm.weight", "layernorm.bias")
        )
        heights = weight.unflatten(1, (-1, len(centres)))  # (Q, P, centres)
        splines, off = _projected(centres, heights, n, r)
        error = max(error, off)
        norm = nn.LayerNorm(len(gain), dtype=gain.dtype)
        norm.load_state_dict({"weight": gain, "bias": shift})
        layer = BranchedLayer(splines, base_activation, norm)
        base = state.get(f"layers.{i}.base_linear.weight")
        bias = state.get(f"layers.{i}.base_linear.bias")
        outputs = len(weight)
        _set_base(
            layer,
            weight.new_zeros(outputs, len(gain)) if base is None else base,
            weight.new_zeros(outputs) if bias is None else bias,
            trained=base is not None,
        )
        layers.append(layer)
    return Projected(_network(layers), error)


def _layer(
    grid: Tensor, spline: Tensor, base: Tensor, shift: Tensor, activation: Activation | None
) -> BranchedLayer:
    """Return a layer from all knots (P, n + 2r - 1) and spline weights (Q, P, n + r - 1)."""
    check_option("base_activation", activation or "identity", ACTIVATIONS)
    outputs, inputs, count = spline.shape
    order = grid.shape[1] - count
    if len(grid) != inputs or order < 1:
        raise ValueError(
            f"state must hold knots (P, n + 2r - 1) and weights (Q, P, n + r - 1), got "
            f"{(*grid.shape,)} and {(*spline.shape,)}"
        )
    rows = grid.double().cpu()
    map_: nn.Module | None = None
    domains = [*zip(rows[:, 0].tolist(), rows[:, -1].tolist(), strict=True)]
    if len({*domains}) > 1:
        map_ = InputMap(domains, (0.0, 1.0), device=grid.device, dtype=grid.dtype)
        rows = (rows - rows[:, :1]) / (rows[:, -1:] - rows[:, :1])
    grids = [_knots(row, order, torch.finfo(grid.dtype).eps) for row in rows]
    layer = BranchedLayer(
        SplineLayer(
            inputs,
            outputs,
            grids[0] if len({*grids}) == 1 else grids,
            extension="none",
            device=spline.device,
            dtype=spline.dtype,
        ),
        activation or "identity",
        map_,
    )
    with torch.no_grad():
        layer.splines.weight.copy_(nn.functional.pad(spline, (order - 1, order - 1)))
    zero = torch.zeros_like(base)
    _set_base(layer, zero if activation is None else base, shift, trained=activation is not None)
    return layer


def _knots(row: Tensor, order: int, eps: float) -> KnotGrid:
    """Return the grid of these breakpoints, uniform if they are so up to their own rounding."""
    uniform = KnotGrid.uniform(order, len(row) - 1, (row[0].item(), row[-1].item()))
    rounding = 4 * eps * row.abs().max()
    near = bool(((uniform.breakpoints - row).abs() <= rounding).all())
    return uniform if near else KnotGrid(order, row)


def _projected(centres: Tensor, heights: Tensor, n: int, r: int) -> tuple[SplineLayer, float]:
    """Return the least-squares splines of sums of Gaussians, and their largest error."""
    places, tall = centres.double().cpu(), heights.detach().double().cpu()
    width = float(places[-1] - places[0]) / (len(places) - 1)
    grid = KnotGrid.uniform(
        r, n, (float(places[0]) - TAILS * width, float(places[-1]) + TAILS * width)
    )

    def gaussians(x: Tensor) -> Tensor:
        return torch.exp(-(((x[:, None] - places) / width) ** 2))

    def inside(points: int) -> Tensor:
        offsets = (torch.arange(points, dtype=torch.float64, device="cpu") + 0.5) / points
        t = grid.breakpoints
        return (t[:-1, None] + t.diff()[:, None] * offsets).flatten()

    x = inside(FITTED)
    shapes = torch.linalg.lstsq(dense_basis(x, grid), gaussians(x)).solution  # (n + r - 1, centres)
    weight = tall @ shapes.T
    layer = SplineLayer(
        heights.shape[1],
        heights.shape[0],
        grid,
        extension="clamp",
        device=heights.device,
        dtype=heights.dtype,
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
    x = inside(MEASURED)
    off = weight @ dense_basis(x, grid).T - tall @ gaussians(x).T
    return layer, float(off.abs().max())


def _set_base(layer: BranchedLayer, weight: Tensor, bias: Tensor, *, trained: bool) -> None:
    for name, found, own in (
        ("weights", weight, layer.base.weight),
        ("bias", bias, layer.base.bias),
    ):
        if found.shape != own.shape:
            raise ValueError(
                f"state must hold base {name} of shape {(*own.shape,)}, as many as the layer has "
                f"edges or outputs, got {(*found.shape,)}"
            )
    with torch.no_grad():
        layer.base.weight.copy_(weight)
        layer.base.bias.copy_(bias)
    layer.base.weight.requires_grad_(trained)


def _network(layers: list[BranchedLayer]) -> KAN:
    """Return a network of layers, which take the place of those that it is built with."""
    splines = [layer.splines for layer in layers]
    for number, (before, after) in enumerate(pairwise(splines)):
        if before.out_features != after.in_features:
            raise ValueError(
                f"state must hold layers that fit, but layer {number} has {before.out_features} "
                f"outputs and layer {number + 1} has {after.in_features} inputs"
            )
    widths = [splines[0].in_features, *(each.out_features for each in splines)]
    weight = splines[0].weight
    model = KAN(widths, n=1, r=splines[0].order, device=weight.device, dtype=weight.dtype)
    model.layers = nn.ModuleList(layers)
    return model


def _layers(state: State, pattern: str, library: str) -> int:
    """Return how many layers a state has."""
    pairs = state.items() if isinstance(state, Mapping) else [(None, None)]
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in pairs):
        raise TypeError(
            "state must be a dict of names and tensors, which torch.load(file, weights_only=True) "
            f"gives for the file of a state_dict, got {shown(state)}"
        )
    found = {int(m[1]) for key in state if (m := re.fullmatch(pattern, key))}
    if found != {*range(len(found))} or not found:
        raise ValueError(
            f"state must be that of a network of {library}, with names such as "
            f"{pattern.replace(chr(92), '').replace('(d+)', '0')!r}, got {shown([*state][:3])}"
        )
    return len(found)


def _found(state: State, name: str, library: str) -> Tensor:
    if name not in state:
        raise ValueError(f"state must be that of a network of {library}, but {name!r} is missing")
    return state[name].detach()
