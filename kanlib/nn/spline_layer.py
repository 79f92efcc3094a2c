"""The spline layer: one learnable spline on every edge between P inputs and Q outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kanlib._checks import (
    BASES,
    EXTENSIONS,
    Basis,
    Extension,
    as_indices,
    as_integer,
    as_number,
    check_factory,
    check_input,
    check_option,
    shown,
)
from kanlib.kernels import operator
from kanlib.kernels.chain_rule import Higher, check_channels
from kanlib.kernels.reference import Splines
from kanlib.nn.described import Described, alteration, check_copyable, check_own_weight, check_same
from kanlib.nn.free_knots import SHARING, FreeKnots, Sharing
from kanlib.splines import bspline, truncated_power
from kanlib.splines.change_of_basis import ChangeOfBasis
from kanlib.splines.knots import KnotGrid, check_resolved, extended
from kanlib.splines.periodic import partners, tied, turned
from kanlib.splines.prolongation import check_nested, prolongation

__all__ = ["SplineLayer", "convert_weights"]

#: What evaluates the functions of a basis.
MODULES = {"spline": bspline, "relu": truncated_power}

#: One grid for all inputs, or one for each.
Grids = KnotGrid | Sequence[KnotGrid]


class SplineLayer(Described):
    """A layer x'_q = sum_p sum_i weight[q, p, i] b_i(x_p) (eq. 6), or with psi_j for b_i (eq. 7).

    The weights are spline weights u (``basis="spline"``) or ReLU weights w = A^T u
    (``basis="relu"``); gradients, and so any optimizer, act in the chosen basis.

    All inputs share a grid, or each has its own. The knots are fixed, or train with the weights
    after :meth:`free`, which goes through the fused kernels, too.

    Outside [a, b] every spline continues linearly from the end points (``extension="linear"``),
    keeps its end value ("clamp") or is zero ("none"). This is part of the definition of the
    function: it is the same in both bases and refinement keeps it.

    On periodic grids, ``KnotGrid(..., periodic=True)``, splines are periodic instead: points are
    moved into [a, b) by whole periods, and of the n + r - 1 coefficients of an edge n are free, see
    :mod:`kanlib.splines.periodic`. A list of grids makes a layer periodic in some inputs only.

    Initial coefficients are ``init_scale`` times independent standard normal numbers in the basis
    ``init_basis``, on the grid ``prolonged_from`` if given: the layer then starts as a spline of
    that coarser grid, exactly prolonged. They are drawn on the CPU in float64, so that one seed
    gives one function on every device and in every dtype, basis and refinement of that grid.

    Args:
        in_features: number of inputs P.
        out_features: number of outputs Q.
        grid: knot grid of all edges, or a list of one for the edges of each input; these have one
            order, number of intervals and domain, but some may be periodic.
        basis: "spline" or "relu".
        extension: "linear", "clamp" or "none".
        init_scale: standard deviation of the initial coefficients.
        init_basis: basis in which they are drawn, "spline" or "relu".
        prolonged_from: coarse grid, nested in ``grid``, on which they are drawn.
        device: device of the weights.
        dtype: floating-point type of the weights.

    Attributes:
        knots: the trainable breakpoints, or None where knots are fixed.
        mask: which edges there are, (Q, P) of bool, or None for all: the weights of the others are
            zero and stay so, see :meth:`masked`.
        order: order r of the splines.

    Shape:
        Input (..., P), output (..., Q), ``weight`` (Q, P, n + r - 1).

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a size is below one, an option is unknown, or the grids do not fit.

    Examples:
        >>> layer = SplineLayer(2, 3, KnotGrid.uniform(4, 5))
        >>> layer
        SplineLayer(2, 3, order=4, n=5, domain=[0, 1], uniform, basis=spline, extension=linear)
        >>> layer(torch.rand(10, 2)).shape
        torch.Size([10, 3])
        >>> layer.refine().grid.n
        10
        >>> layer.free("input").knots
        FreeKnots(grids=2, n=5, floor=0.1)
    """

    knots: FreeKnots | None
    mask: Tensor | None
    _breakpoints: Tensor
    _table: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        grid: Grids,
        *,
        basis: Basis = "spline",
        extension: Extension = "linear",
        init_scale: float = 0.1,
        init_basis: Basis = "spline",
        prolonged_from: KnotGrid | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        in_features = as_integer("in_features", in_features, minimum=1)
        out_features = as_integer("out_features", out_features, minimum=1)
        self._grids = _as_list(grid, in_features)
        check_option("basis", basis, BASES)
        check_option("init_basis", init_basis, BASES)
        check_option("extension", extension, EXTENSIONS)
        init_scale = as_number("init_scale", init_scale, 0)
        check_factory(device, dtype)
        if prolonged_from is not None:
            if not isinstance(prolonged_from, KnotGrid):
                raise TypeError(f"prolonged_from must be a KnotGrid, got {shown(prolonged_from)}")
            for each in self._grids:
                check_nested(_like(each, prolonged_from), each)
        self.in_features, self.out_features = in_features, out_features
        self.order, self.basis, self.extension = self._grids[0].order, basis, extension
        self.init_scale, self.init_basis = init_scale, init_basis
        self.prolonged_from, self.knots = prolonged_from, None
        shape = (out_features, in_features, self._grids[0].num_basis)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.register_buffer("mask", None)
        self._build_tables()
        self.reset_parameters()

    @property
    def distinct_grids(self) -> list[KnotGrid]:
        """A list of 1 or P grids, the present one of all inputs or that of each."""
        if self.knots is None:
            return [*self._grids]
        return [KnotGrid(self.order, row) for row in self.knots().detach()]

    @property
    def grids(self) -> list[KnotGrid]:
        """The present knot grid of each input, whether they share it or not."""
        found = self.distinct_grids
        return found * (self.in_features // len(found))

    @property
    def grid(self) -> KnotGrid:
        """The present knot grid, if all inputs share it.

        Raises:
            ValueError: if each input has its own.
        """
        found = self.distinct_grids
        if len(found) > 1:
            raise ValueError("grid must be one for all inputs, but each has its own: use grids")
        return found[0]

    @property
    def periodic(self) -> list[int]:
        """The inputs in which the layer is periodic, as their grids are."""
        every = self._grids * (self.in_features // (len(self._grids) or 1))  # none of free knots
        return [p for p, grid in enumerate(every) if grid.periodic]

    @property
    def repeated(self) -> int:
        """How many weights repeat others, since they stand for the same function on a circle."""
        return len(self.periodic) * (self.order - 1) * self.out_features

    @property
    def n(self) -> int:
        """Number of intervals of every spline."""
        return self.weight.shape[-1] - self.order + 1

    @property
    def domain(self) -> tuple[float, float]:
        """The interval [a, b] of the splines, of every input."""
        return self._grids[0].domain if self.knots is None else self.knots.domain

    def pieces(self) -> tuple[Tensor, Tensor]:
        """Return what evaluations need of the grids, all inputs' (G = 1) or each's (G = P).

        Returns:
            The breakpoints (G, n + 1), which take no derivatives, and the polynomials of the basis
            functions, see :func:`kanlib.splines.bspline.pieces` and
            :func:`kanlib.splines.truncated_power.pieces`, (G, ...): differentiable in free knots.
        """
        if self.knots is None:
            return self._breakpoints, self._table
        points = self.knots()
        knots = extended(points, self.order)
        return points.detach(), MODULES[self.basis].pieces_of(knots, self.order)

    def _drop_tables(self) -> None:
        self.register_buffer("_breakpoints", None, persistent=False)
        self.register_buffer("_table", None, persistent=False)

    def _build_tables(self) -> None:
        """Derive the evaluation tables from fixed grids, for the weights' device and dtype.

        A half-precision layer has the tables of single precision, in which it computes.
        """
        self._drop_tables()
        self._uniform = self.knots is None and all(grid.is_uniform for grid in self._grids)
        if self.knots is not None:
            return
        like = self.weight.detach()
        for grid in self._grids:
            check_resolved(grid, like.dtype)
        points = [bspline.exact_breakpoints(grid, like.device) for grid in self._grids]
        tables = torch.broadcast_tensors(*map(MODULES[self.basis].pieces, self._grids))
        self._breakpoints = torch.stack(points)
        self._table = torch.stack(tables).to(like.device, operator.working_dtype(like.dtype))

    def _apply(self, fn: Any, recurse: bool = True) -> SplineLayer:
        """Move or cast the weights.

        The tables are built anew, so that casts lose no accuracy, and not moved: the breakpoints
        are float64, which not every device has.
        """
        self._drop_tables()
        try:
            return super()._apply(fn, recurse)
        finally:
            self._build_tables()

    def reset_parameters(self) -> None:
        """Draw new initial weights from torch's global generator; free knots stay where they are.

        With free knots, and on grids that do not hold ``prolonged_from``, they are drawn on the
        present grid.
        """
        fine, start = self.distinct_grids, self.prolonged_from
        coarse = fine if start is None else [_like(each, start) for each in fine]
        shape = (self.out_features, self.in_features, coarse[0].num_basis)
        draw = self.init_scale * torch.randn(shape, dtype=torch.float64, device="cpu")
        draw = by_input(lambda w, grid: w[..., partners(grid)], draw, coarse)
        weight = tie(convert_weights(draw, coarse, self.init_basis, self.basis), coarse, self.basis)
        if self.prolonged_from is not None:
            weight = self._prolonged(weight, coarse, fine)
        with torch.no_grad():
            self.weight.copy_(weight)
            if self.mask is not None:
                self.weight.mul_(self.mask[..., None])

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the layer at x of shape (..., P); NaN inputs give NaN outputs."""
        check_input(x, self.in_features, self.weight)
        return self._compute(x[None], ())[0]

    def propagate(self, channels: Tensor, pairs: Higher = ()) -> Tensor:
        """Evaluate the layer and propagate derivatives of its inputs through it.

        Each point carries its value x, derivatives x_a along D directions, and K second derivatives
        x_ab along pairs of them, or third and fourth derivatives. The layer maps them by the chain
        rule, see :mod:`kanlib.kernels.chain_rule`: for a spline s,

            s(x),   s'(x) x_a,   s''(x) x_a x_b + s'(x) x_ab.

        Args:
            channels: values, first derivatives and higher derivatives, (1 + D + K, ..., P).
            pairs: the directions of each higher derivative, counted from zero: (a, b), (a, b, c)
                or (a, b, c, d). All parts of each, of two directions or more, are among them.

        Returns:
            The same of the outputs, (1 + D + K, ..., Q).

        Raises:
            TypeError: if ``channels`` is not a tensor of the dtype of the weights.
            ValueError: if shapes or directions do not fit.

        Examples:
            >>> layer = SplineLayer(1, 1, KnotGrid.uniform(4, 5), dtype=torch.float64)
            >>> x = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)
            >>> y, y_x, y_xx = layer.propagate(
            ...     torch.stack([x, torch.ones_like(x), torch.zeros_like(x)]), [(0, 0)]
            ... )
            >>> torch.allclose(y_x, torch.autograd.grad(layer(x), x)[0])
            True
        """
        check_input(channels, self.in_features, self.weight, "channels")
        check_channels(channels.shape, pairs)
        return self._compute(channels, pairs)

    def _compute(self, channels: Tensor, pairs: Higher) -> Tensor:
        """Evaluate in single precision at least, whatever torch.autocast says."""
        dtype = self.weight.dtype
        with operator.without_autocast(channels.device):
            return self._evaluate(channels.to(operator.working_dtype(dtype)), pairs).to(dtype)

    def coefficients(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the weights as evaluations take them, (Q, P, n + r - 1), differentiable.

        They are zero where there is no edge, and on periodic grids equal where they stand for one
        function; those of ``weight`` are so only up to what an optimizer does.

        Args:
            dtype: floating-point type, by default that of the weights.
        """
        weight: Tensor = self.weight.to(dtype or self.weight.dtype)
        if self.mask is not None:
            weight = weight * self.mask[..., None]
        return tie(weight, self._grids, self.basis)

    def entering(self, channels: Tensor) -> Tensor:
        """Return channels (C, ..., P) whose points lie in the domain where grids are periodic."""
        if not any(grid.periodic for grid in self._grids):
            return channels
        x, domain = channels[0], self.domain
        if all(grid.periodic for grid in self._grids):
            x = turned(x, domain)
        else:
            wraps = torch.tensor([grid.periodic for grid in self._grids], device=x.device)
            x = torch.where(wraps, turned(x, domain), x)
        return torch.cat([x[None], channels[1:]])

    def _evaluate(self, channels: Tensor, pairs: Higher) -> Tensor:
        weight = self.coefficients(channels.dtype)
        channels = self.entering(channels)
        points, found = self.pieces()
        table: Tensor | None = found.to(channels.dtype)
        # The kernels differentiate the polynomials of every edge on every interval, not a table.
        moving = self.knots is not None and operator.differentiates(found)
        if self.basis == "relu" or moving:
            weight, table = MODULES[self.basis].polynomials(weight, table).flatten(2), None
        splines = Splines(weight, points, table, self._uniform, self.extension)
        return operator.evaluate(channels, splines, pairs)

    def refine(self, grid: Grids | None = None) -> SplineLayer:
        """Return a new layer on finer grids that is the same function, by exact prolongation.

        Free knots stay free, with the floor that they have, in units of the mean spacing; given
        grids lower it, if need be, to half of their smallest spacing.

        Args:
            grid: the finer grid, whose breakpoints include those of this layer, or a list of one
                for each input; by default every interval is halved.

        Raises:
            ValueError: if the grids are not nested, or differ in their number of intervals.
        """
        coarse, knots = self.distinct_grids, self.knots
        if grid is None:
            fine = [each.refine() for each in coarse]
            knots = knots and knots.halved()
        else:
            fine = _as_list(grid, self.in_features)
            fine = fine * len(coarse) if len(fine) == 1 else fine
            knots = knots and knots.moved(fine)
        weight = tie(self.weight.detach(), coarse, self.basis)
        weight = self._prolonged(weight, coarse, fine)
        return self._kept(self._copy(fine, knots, self.basis, weight), "refine")

    def _prolonged(
        self, weight: Tensor, coarse: Sequence[KnotGrid], fine: Sequence[KnotGrid]
    ) -> Tensor:
        def change(weight: Tensor, old: KnotGrid, new: KnotGrid) -> Tensor:
            return prolongation(old, new, self.basis).apply(weight)

        return by_input(change, weight, coarse, fine)

    def to_basis(self, basis: Basis) -> SplineLayer:
        """Return a new layer that is the same function with weights in ``basis``.

        Args:
            basis: "spline" or "relu".

        Raises:
            ValueError: if ``basis`` is unknown.
        """
        check_option("basis", basis, BASES)
        grids = self.distinct_grids
        weight = tie(self.weight.detach().cpu().double(), grids, self.basis)
        weight = convert_weights(weight, grids, self.basis, basis)
        return self._kept(self._copy(grids, copy.deepcopy(self.knots), basis, weight), "to_basis")

    def free(self, per: Sharing = "input", floor: float = 0.1) -> SplineLayer:
        """Return a new layer that is the same function, with knots that train with its weights.

        Args:
            per: "layer" for one set of knots, "input" for one for each of the P inputs.
            floor: see :class:`kanlib.nn.free_knots.FreeKnots`.

        Raises:
            ValueError: if an option is not admissible, knots are too close for ``floor``, the
                order is 1, or a grid is periodic.

        Examples:
            >>> layer = SplineLayer(2, 3, KnotGrid.uniform(4, 5))
            >>> x = torch.rand(10, 2)
            >>> torch.allclose(layer.free()(x), layer(x), atol=1e-6)
            True
        """
        check_option("per", per, SHARING)
        if self.order == 1:
            raise ValueError(
                "order must be at least 2 for free knots, got 1: a piecewise constant function "
                "has no gradient in its knots; use r = 2 or more"
            )
        if self.periodic:
            raise ValueError(
                f"free needs knots that do not wrap, got periodic grids of the inputs "
                f"{self.periodic}: keep knots fixed, or take periodic_as='circle'"
            )
        grids = self.distinct_grids
        if per == "input":
            grids = self.grids
        elif len(grids) > 1:
            raise ValueError(
                "per must be 'input' where each input has a grid of its own, got 'layer'"
            )
        like = self.weight
        knots = FreeKnots(grids, floor, device=like.device, dtype=like.dtype)
        return self._kept(self._copy(grids, knots, self.basis, like.detach()), "free")

    def fixed(self) -> SplineLayer:
        """Return a new layer that is the same function, with fixed knots where they are now."""
        layer = self._copy(self.distinct_grids, None, self.basis, self.weight.detach())
        return self._kept(layer, "fixed")

    def masked(self, mask: Tensor) -> SplineLayer:
        """Return a new layer without some of its edges.

        Their coefficients are zero and stay so, whatever trains or refines the layer. A mask that
        the layer has already stays in force.

        Args:
            mask: True for the edges that stay, (Q, P).

        Raises:
            TypeError: if the mask is not a tensor of bool.
            ValueError: if its shape is not (Q, P).

        Examples:
            >>> layer = SplineLayer(2, 1, KnotGrid.uniform(4, 5))
            >>> half = layer.masked(torch.tensor([[True, False]]))
            >>> half(torch.tensor([[0.3, 0.1]])) == half(torch.tensor([[0.3, 0.9]]))
            tensor([[True]])
        """
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(f"mask must be a tensor of bool, got {shown(mask)}")
        if mask.shape != self.weight.shape[:2]:
            raise ValueError(
                f"mask must have shape (Q, P) = {(*self.weight.shape[:2],)}, got {(*mask.shape,)}"
            )
        mask = mask.to(self.weight.device)
        mask = mask.clone() if self.mask is None else mask & self.mask
        weight = self.weight.detach() * mask[..., None]
        layer = self._copy(self.distinct_grids, copy.deepcopy(self.knots), self.basis, weight)
        layer.mask = mask
        return layer

    def select(self, inputs: Sequence[int], outputs: Sequence[int]) -> SplineLayer:
        """Return a new, smaller layer of some inputs and outputs, in that order.

        Args:
            inputs: the inputs that stay, counted from zero.
            outputs: the outputs that stay.

        Raises:
            ValueError: if a list is empty, repeats a number or names one that is not there, or the
                class overrides forward.

        Examples:
            >>> SplineLayer(5, 3, KnotGrid.uniform(4, 5)).select([0, 4], [2]).weight.shape
            torch.Size([1, 2, 8])
        """
        columns = as_indices("inputs", inputs, self.in_features)
        rows = as_indices("outputs", outputs, self.out_features)
        altered = alteration(self, SplineLayer)
        if altered:
            raise ValueError(f"select cannot honour {altered}: take a plain SplineLayer")
        grids, knots = self.distinct_grids, copy.deepcopy(self.knots)
        if len(grids) > 1:
            grids = [grids[p] for p in columns]
            if knots is not None:
                logits = knots.logits
                knots.logits = nn.Parameter(logits.detach()[columns], logits.requires_grad)
        weight = self.weight.detach()[rows][:, columns]
        layer = self._copy(grids, knots, self.basis, weight)
        layer.in_features, layer.out_features = len(columns), len(rows)
        layer.mask = None if self.mask is None else self.mask[rows][:, columns]
        return layer

    def _kept(self, other: SplineLayer, user: str) -> SplineLayer:
        if alteration(self, SplineLayer):
            check_same(self, other, self.in_features, user)
        return other

    def like(self, grid: Grids, basis: Basis, weight: Tensor) -> SplineLayer:
        """Return this layer, its class and hooks included, on another grid or in another basis.

        Free knots stay free; their floor is at most half of the smallest spacing.

        Raises:
            ValueError: if the weights are computed from others, or forward is put on this object.
        """
        grids = _as_list(grid, self.in_features)
        return self._copy(grids, self.knots and self.knots.moved(grids), basis, weight)

    def _copy(
        self, grids: list[KnotGrid], knots: FreeKnots | None, basis: Basis, weight: Tensor
    ) -> SplineLayer:
        check_copyable(self, "a copy of a layer")
        check_own_weight(self, "on another grid or basis")
        layer = copy.deepcopy(self, {id(self.weight): None, id(self.knots): None})
        layer._modules.pop("knots", None)
        layer._grids, layer.knots, layer.basis = grids if knots is None else [], knots, basis
        own = weight.to(self.weight, copy=True)
        layer.weight = nn.Parameter(own, self.weight.requires_grad)
        coarse = self.prolonged_from
        if coarse and (
            knots or any(coarse.domain != g.domain or coarse.missing_from(g) for g in grids)
        ):
            layer.prolonged_from = None
        layer._build_tables()
        return layer

    def describe(self) -> dict[str, Any]:
        """Return what defines the function besides weights and free knots, as plain values."""
        some: dict[str, Any] = {"periodic": self.periodic} if self.periodic else {}
        if self.mask is not None:
            some["pruned edges"] = (~self.mask).nonzero().tolist()
        return {
            "order": self.order,
            "n": self.n,
            "domain": list(self.domain),
            "breakpoints": self._places(),
            "basis": self.basis,
            "extension": self.extension,
            "in_features": self.in_features,
            "out_features": self.out_features,
            **some,
        }

    def _places(self) -> Any:
        if self.knots is not None:
            return f"free, per {'layer' if len(self.knots.logits) == 1 else 'input'}"
        each = ["uniform" if g.is_uniform else g.breakpoints.tolist() for g in self._grids]
        return each[0] if len(each) == 1 else each

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Load weights and mask: a layer takes the edges that the stored one has."""
        mask = state_dict.get(prefix + "mask")
        if mask is None or mask.shape == self.weight.shape[:2]:
            self.mask = None if mask is None else mask.to(self.weight.device, copy=True)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._build_tables()  # load_state_dict(..., assign=True) may change device and dtype

    def __prepare_scriptable__(self) -> None:
        """Refuse torch.jit.script, which calls this."""
        raise TypeError(
            f"torch.jit.script cannot compile {type(self).__name__}, as it knows no operators "
            "registered by torch.library: use torch.compile or torch.export"
        )

    def extra_repr(self) -> str:
        """Show sizes, order, intervals, domain and basis."""
        a, b = self.domain
        pruned = "" if self.mask is None else f", pruned={int((~self.mask).sum())}"
        periodic = f", periodic={self.periodic}" if self.periodic else ""
        spacing, several = "uniform" if self._uniform else "non-uniform", len(self._grids) > 1
        if self.knots is not None:
            spacing, several = "free", len(self.knots.logits) > 1
        return (
            f"{self.in_features}, {self.out_features}, order={self.order}, n={self.n}, "
            f"domain=[{a:.12g}, {b:.12g}], {spacing}{' per input' if several else ''}, "
            f"basis={self.basis}, extension={self.extension}{periodic}{pruned}"
        )


def spline_layers(module: nn.Module) -> list[SplineLayer]:
    """Return the spline layers of a module, those within others included, in their order."""
    return [part for part in module.modules() if isinstance(part, SplineLayer)]


def _as_list(grid: Grids, inputs: int) -> list[KnotGrid]:
    """Return the grid of all inputs, or that of each, as a list of 1 or P."""
    grids = [grid] if isinstance(grid, KnotGrid) else [*grid] if isinstance(grid, Sequence) else []
    if not grids or not all(isinstance(each, KnotGrid) for each in grids):
        raise TypeError(f"grid must be a KnotGrid, or a list of them, got {shown(grid)}")
    if len(grids) not in (1, inputs) or len({(g.order, g.n, g.domain) for g in grids}) > 1:
        raise ValueError(
            f"grid must be one for all inputs, or a list of {inputs} with the same number of "
            f"intervals, order and domain, got {shown(grids)}"
        )
    return grids


def _like(grid: KnotGrid, coarse: KnotGrid) -> KnotGrid:
    """Return a coarse grid that is periodic if another one is."""
    return KnotGrid(coarse.order, coarse.breakpoints, periodic=grid.periodic)


def by_input(
    change: Callable[..., Tensor], x: Tensor, *lists: Sequence[Any], dim: int = -2
) -> Tensor:
    """Return change(x, item, ...), or that of each input, stacked, where a list has its own items.

    Args:
        change: function of a part of x and of its item of each list, such as a grid.
        x: a tensor whose dimension ``dim`` counts the inputs.
        lists: lists of one item for all inputs, or of one for each.
        dim: the dimension of the inputs, before and after.
    """
    if all(len(each) == 1 for each in lists):
        return change(x, *(each[0] for each in lists))
    dim %= x.ndim
    parts = x.unbind(dim)
    if any(len(each) not in (1, len(parts)) for each in lists):
        raise ValueError(
            f"lists must hold one item for all {len(parts)} inputs, or one for each, got "
            f"{[len(each) for each in lists]}"
        )
    items = zip(*([*each] * (len(parts) // len(each)) for each in lists), strict=True)
    return torch.stack([change(part, *own) for part, own in zip(parts, items, strict=True)], dim)


def tie(weight: Tensor, grids: Sequence[KnotGrid], basis: Basis) -> Tensor:
    """Return weights (..., P, n + r - 1) whose coefficients are equal where grids wrap.

    Args:
        weight: spline weights u or ReLU weights w, which change where a grid is periodic.
        grids: one grid for all inputs, or one for each.
        basis: the basis of the weights, "spline" or "relu".
    """
    if not any(grid.periodic for grid in grids):
        return weight

    def change(weight: Tensor, grid: KnotGrid) -> Tensor:
        if basis == "spline" or not grid.periodic:
            return tied(weight, grid)
        matrix = ChangeOfBasis(grid)
        return matrix.apply(tied(matrix.solve(weight, transpose=True), grid), transpose=True)

    return by_input(change, weight, grids)


def convert_weights(weight: Tensor, grid: Grids, source: Basis, target: Basis) -> Tensor:
    """Convert weights of one basis to weights of the other, w = A^T u: the same function.

    Args:
        weight: spline weights u or ReLU weights w, of shape (..., n + r - 1).
        grid: the knot grid, or a list of one for each P of weights (..., P, n + r - 1).
        source: basis of ``weight``, "spline" or "relu".
        target: basis of the result.

    Examples:
        >>> grid = KnotGrid.uniform(2, 2)
        >>> u = torch.tensor([0.0, 1.0, 0.0])  # a hat
        >>> convert_weights(u, grid, "spline", "relu")
        tensor([ 0.,  2., -4.])
    """
    return _changed(weight, grid, source, target, transpose=True)


def convert_gradients(gradient: Tensor, grid: Grids, source: Basis, target: Basis) -> Tensor:
    """Convert gradients in weights of one basis to gradients in the other's (eq. 16).

    Args:
        gradient: gradients of shape (..., n + r - 1).
        grid: the knot grid, or a list of one for each P of gradients (..., P, n + r - 1).
        source: basis of ``gradient``, "spline" or "relu".
        target: basis of the result.
    """
    return _changed(gradient, grid, source, target, transpose=False)


def _changed(x: Tensor, grid: Grids, source: Basis, target: Basis, transpose: bool) -> Tensor:
    """Apply A^T on the way to the ReLU basis, or A on the way back; solve on the other ways."""
    check_option("source", source, BASES)
    check_option("target", target, BASES)
    if source == target:
        return x
    apply = (target == "relu") == transpose

    def change(x: Tensor, grid: KnotGrid) -> Tensor:
        matrix = ChangeOfBasis(grid)
        return (matrix.apply if apply else matrix.solve)(x, transpose=transpose)

    return by_input(change, x, [grid] if isinstance(grid, KnotGrid) else grid)
