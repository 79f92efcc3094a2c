"""Where the parameters of a model are in a vector, and in which basis they count there.

A vector holds the entries of the trainable parameters in their order. The columns of a
:class:`kanlib.training.jacobian.Jacobian` hold the same numbers, but spline weights as coefficients
of B-splines, u = A^{-T} w, and in the order (input, basis function, output). Those of periodic
splines are equal where they stand for one function: the map to columns makes them so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kanlib._checks import BASES, Basis, check_option
from kanlib.nn.spline_layer import (
    SplineLayer,
    convert_gradients,
    convert_weights,
    spline_layers,
    tie,
)
from kanlib.objectives.unknowns import trained

#: A linear map along the last dimension.
Map = Callable[[Tensor], Tensor]


def copies(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Return the values of parameters."""
    return [p.detach().clone() for p in parameters]


@torch.no_grad()
def put(parameters: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    """Set parameters to values."""
    for p, value in zip(parameters, values, strict=True):
        p.copy_(value)


class Transfer(Protocol):
    """A prolongation, see :class:`kanlib.splines.prolongation.Prolongation`."""

    shape: tuple[int, int]

    def apply(self, coarse: Tensor, /) -> Tensor:
        """Return P u, along the last dimension."""

    def restrict(self, fine: Tensor, /) -> Tensor:
        """Return P^T g, along the last dimension."""


class Coordinates:
    """The trainable parameters of a model and of its objective as one vector.

    Args:
        model: the network.
        objective: what it is trained for; its unknowns follow, see
            :func:`kanlib.objectives.unknowns.unknowns_of`.
        basis: "spline" or "relu", the basis in which spline weights count; by default that of each
            layer.

    Attributes:
        parameters: the trainable parameters.
        size: entries of a vector.
        columns: number of columns.
        order: the column of each entry of a vector, if entries are columns in another order, as
            they are in the spline basis; else None.

    Raises:
        ValueError: if nothing is trainable or the basis is unknown.
    """

    def __init__(self, model: nn.Module, objective: Any = None, basis: Basis | None = None) -> None:
        if basis is not None:
            check_option("basis", basis, BASES)
        self.parameters = [p for p in trained(model, objective) if p.requires_grad]
        if not self.parameters:
            raise ValueError("model must have a trainable parameter, got none")
        self._layers = {id(layer.weight): layer for layer in spline_layers(model)}
        self._basis = basis
        self._shapes = [p.shape or torch.Size([1]) for p in self.parameters]
        self._maps = [self._map(p) for p in self.parameters]
        self._lifts: list[Map] = [_same] * len(self.parameters)
        sizes = [p.numel() for p in self.parameters]
        ends = torch.tensor(sizes, device="cpu").cumsum(0).tolist()
        starts = [end - size for end, size in zip(ends, sizes, strict=True)]
        self._starts = {id(p): at for p, at in zip(self.parameters, starts, strict=True)}
        self.columns = ends[-1]
        self.order: Tensor | None = None
        held = [self._layers.get(id(p)) for p in self.parameters]
        if all(
            layer is None or ((basis or layer.basis) == "spline" and not layer.periodic)
            for layer in held
        ):
            device = self.parameters[0].device
            self.order = self.transposed(torch.arange(self.columns, device=device))

    @property
    def size(self) -> int:
        """Number of entries of a vector."""
        return sum(shape.numel() for shape in self._shapes)

    def start(self, parameter: Tensor) -> int:
        """Return the first column of a parameter."""
        return self._starts[id(parameter)]

    def to_columns(self, vector: Tensor) -> Tensor:
        """Return the columns (..., columns) of vectors (..., size)."""
        parts = zip(self._maps, self.split(vector), strict=True)
        return torch.cat([to(part).flatten(vector.ndim - 1) for (to, _), part in parts], dim=-1)

    def transposed(self, columns: Tensor) -> Tensor:
        """Return the transpose of :meth:`to_columns` applied to (..., columns)."""
        sizes = [p.numel() for p in self.parameters]
        parts = columns.split(sizes, dim=-1)
        found = [back(part) for (_, back), part in zip(self._maps, parts, strict=True)]
        shapes = zip(found, self._shapes, strict=True)
        return torch.cat([part.flatten(-len(shape)) for part, shape in shapes], dim=-1)

    def split(self, vector: Tensor) -> list[Tensor]:
        """Return the part of each parameter, in its shape, of vectors (..., size)."""
        parts = vector.split([shape.numel() for shape in self._shapes], dim=-1)
        leading = vector.shape[:-1]
        return [p.reshape(*leading, *s) for p, s in zip(parts, self._shapes, strict=True)]

    def gradient(self, parts: Sequence[Tensor]) -> Tensor:
        """Return gradients in the parameters as one vector, in the basis that counts here."""
        turned = []
        for parameter, part in zip(self.parameters, parts, strict=True):
            layer = self._layers.get(id(parameter))
            turned.append((part if layer is None else in_columns(layer, part)).flatten())
        return self.transposed(torch.cat(turned))

    @torch.no_grad()
    def add(self, step: Tensor) -> None:
        """Add a step (size,) to the parameters; that of a coarse network is prolonged."""
        parts = zip(self.parameters, self._lifts, self.split(step), strict=True)
        for parameter, lift, part in parts:
            part = lift(part)
            layer = self._layers.get(id(parameter))
            if layer is not None and self._basis is not None:
                part = convert_weights(part, layer.distinct_grids, self._basis, layer.basis)
            parameter.add_(part.view_as(parameter))

    def coarsened(self, transfers: Sequence[Transfer | None]) -> Coordinates:
        """Return the coordinates of a coarse network in the columns of this one.

        Args:
            transfers: the prolongation of each parameter, or None for one that stays. It is that
                of the basis that counts here.

        Raises:
            ValueError: if there is not one entry for each parameter.
        """
        if len(transfers) != len(self.parameters):
            raise ValueError(
                f"transfers must have one entry for each of {len(self.parameters)} trainable "
                f"parameters, got {len(transfers)}"
            )
        coarse = object.__new__(Coordinates)
        coarse.__dict__.update(self.__dict__)
        coarse.order = None
        coarse._maps = [_composed(*each) for each in zip(self._maps, transfers, strict=True)]
        pairs = zip(self._lifts, transfers, strict=True)
        coarse._lifts = [lift if t is None else _after(lift, t) for lift, t in pairs]
        coarse._shapes = [
            shape if t is None else torch.Size([*shape[:-1], t.shape[1]])
            for shape, t in zip(self._shapes, transfers, strict=True)
        ]
        return coarse

    def _map(self, parameter: Tensor) -> tuple[Map, Map]:
        """Return the map of a parameter to its columns, and the transpose."""
        layer = self._layers.get(id(parameter))
        if layer is None:
            shape = parameter.shape or (1,)
            return lambda v: v, lambda g: g.reshape(*g.shape[:-1], *shape)
        q, p, size = parameter.shape
        basis = self._basis or layer.basis

        def to(v: Tensor) -> Tensor:
            if basis == "relu":
                v = convert_weights(v, layer.distinct_grids, "relu", "spline")
            return tie(v, layer.distinct_grids, "spline").movedim(-3, -1)

        def back(g: Tensor) -> Tensor:
            g = g.reshape(*g.shape[:-1], p, size, q).movedim(-1, -3)
            g = tie(g, layer.distinct_grids, "spline")
            if basis == "relu":
                g = convert_gradients(g, layer.distinct_grids, "spline", "relu")
            return g

        return to, back


def _same(v: Tensor) -> Tensor:
    return v


def _after(lift: Map, transfer: Transfer) -> Map:
    return lambda v: lift(transfer.apply(v))


def _composed(maps: tuple[Map, Map], transfer: Transfer | None) -> tuple[Map, Map]:
    if transfer is None:
        return maps
    to, back = maps
    return lambda v: to(transfer.apply(v)), lambda g: transfer.restrict(back(g))


def in_columns(layer: SplineLayer, gradient: Tensor) -> Tensor:
    """Return gradients (..., Q, P, n + r - 1) in the weights of a layer as columns (..., Q)."""
    if layer.basis == "relu":
        gradient = convert_gradients(gradient, layer.distinct_grids, "relu", "spline")
    return gradient.movedim(-3, -1)
