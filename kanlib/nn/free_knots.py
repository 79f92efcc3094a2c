"""Free knots: breakpoints that train together with the weights and cannot cross or meet.

The spacings of n intervals of [a, b] are a floor plus shares of what is left,

    t_{i+1} - t_i = (b - a) (floor / n + (1 - floor) p_i),   p = softmax(logits),

so that the breakpoints increase, the ends stay at a and b, and no interval is shorter than
``floor`` times the mean (b - a) / n, whatever step an optimizer takes. The predecessor of the paper
(arXiv:2505.18131) introduces free knots that are ordered by construction; the floor is ours.

A spline is a smooth function of its knots except where a point crosses one, and there it is
r - 2 times differentiable: r = 1 has no useful gradient, r = 2 one almost everywhere.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kanlib._checks import BASES, Basis, as_number, check_option
from kanlib.kernels import operator
from kanlib.kernels.reference import Pairs
from kanlib.nn.described import alteration, check_copyable
from kanlib.nn.spline_layer import SplineLayer, convert_weights
from kanlib.splines import bspline, truncated_power
from kanlib.splines.knots import KnotGrid, extended
from kanlib.splines.prolongation import prolongation

Sharing = Literal["layer", "input"]
SHARING: tuple[Sharing, ...] = get_args(Sharing)

#: What the floor leaves between knots, relative to the ends of the domain, to refine them further.
LEAST_SPACING = 1e-10


class FreeKnots(nn.Module):
    """Trainable breakpoints, one row a grid.

    Args:
        grids: grids to start from, of one domain and one number of intervals.
        floor: least spacing in units of (b - a) / n, more than 0 and less than 1.
        device: device of the logits.
        dtype: floating-point type of the logits; breakpoints are computed in float64.

    Shape:
        ``logits`` (K, n); the call returns breakpoints (K, n + 1).

    Raises:
        ValueError: if ``floor`` is out of range or a spacing is not above the floor.

    Examples:
        >>> knots = FreeKnots([KnotGrid(4, [0.0, 0.2, 1.0])])
        >>> knots().detach()
        tensor([[0.0000, 0.2000, 1.0000]], dtype=torch.float64)
    """

    floor: Tensor

    def __init__(
        self,
        grids: Sequence[KnotGrid],
        floor: float = 0.1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        floor = as_number("floor", floor)
        self.domain = a, b = grids[0].domain
        least = LEAST_SPACING * max(abs(a), abs(b)) * grids[0].n / (b - a)
        if not least <= floor < 1.0:
            raise ValueError(
                f"floor must be at least {least:.3g} and less than 1, got {floor!r}: knots that "
                "come closer cannot be refined"
            )
        spacings = torch.stack([grid.breakpoints.diff() for grid in grids]) / (b - a)
        n = spacings.shape[1]
        shares = (spacings - floor / n) / (1.0 - floor)
        smallest = float(spacings.min()) * n
        if not smallest > floor:
            raise ValueError(
                f"floor = {floor:.6g} times the mean spacing leaves no room below the smallest "
                f"spacing of the grid, {smallest:.6g} times the mean: choose a smaller floor"
            )
        self.logits = nn.Parameter(shares.log().to(device=device, dtype=dtype))
        like = self.logits.device
        self.register_buffer("floor", torch.tensor(floor, dtype=torch.float64, device=like))

    def forward(self) -> Tensor:
        """Return the breakpoints (K, n + 1), differentiable in the logits."""
        a, b = self.domain
        n = self.logits.shape[1]
        shares = self.logits.to(bspline.exact_dtype(self.logits.device)).softmax(-1)
        floor = self.floor.to(shares)
        inner = a + (b - a) * (floor / n + (1.0 - floor) * shares).cumsum(-1)[:, :-1]
        ends = inner.new_tensor([[a, b]]).expand(len(inner), 2)
        return torch.cat([ends[:, :1], inner, ends[:, 1:]], dim=1)

    def _apply(self, fn: Any, recurse: bool = True) -> FreeKnots:
        """Move or cast the logits; the floor follows in float64, where the device has that."""
        floor = self.floor
        del self.floor
        try:
            return super()._apply(fn, recurse)
        finally:
            device = self.logits.device
            self.register_buffer("floor", floor.to(device, bspline.exact_dtype(device)))

    def halved(self) -> FreeKnots:
        """Return the knots with every interval halved; logits repeat, the floor stays."""
        finer = copy.deepcopy(self)
        logits = self.logits.detach().repeat_interleave(2, dim=1)
        finer.logits = nn.Parameter(logits, requires_grad=self.logits.requires_grad)
        return finer

    def extra_repr(self) -> str:
        """Show the number of grids and intervals, and the floor."""
        grids, n = self.logits.shape
        return f"grids={grids}, n={n}, floor={float(self.floor):.3g}"


class FreeSplineLayer(SplineLayer):
    """A spline layer with trainable knots, which starts as a given layer.

    Training goes through the fused kernels, too, see :func:`kanlib.splines.bspline.pieces_of`.
    After ``layer.knots.requires_grad_(False)`` it is a layer with one fixed grid an input.

    Args:
        layer: the layer to start from; it is untouched.
        per: "layer" for one set of knots, "input" for one for each of the P inputs.
        floor: see :class:`FreeKnots`.

    Shape:
        As :class:`kanlib.nn.spline_layer.SplineLayer`; ``knots.logits`` is (1, n) or (P, n).

    Raises:
        TypeError: if ``layer`` is not a SplineLayer.
        ValueError: if an option is not admissible, the order is 1 or the knots are already free.

    Examples:
        >>> layer = SplineLayer(2, 3, KnotGrid.uniform(4, 5))
        >>> free = FreeSplineLayer(layer, per="input")
        >>> free.knots
        FreeKnots(grids=2, n=5, floor=0.1)
        >>> x = torch.rand(10, 2)
        >>> torch.allclose(free(x), layer(x), atol=1e-6)
        True
    """

    knots: FreeKnots

    def __init__(self, layer: SplineLayer, *, per: Sharing = "input", floor: float = 0.1) -> None:
        nn.Module.__init__(self)
        if not isinstance(layer, SplineLayer):
            raise TypeError(f"layer must be a SplineLayer, got {type(layer).__name__}")
        if isinstance(layer, FreeSplineLayer):
            raise ValueError("layer has free knots already: use it as it is, or refine() it")
        altered = alteration(layer, SplineLayer)
        if altered or type(layer) is not SplineLayer or "weight" not in layer._parameters:
            raise ValueError(
                "layer must be a plain SplineLayer to free its knots, got one with "
                f"{altered or f'the class {type(layer).__name__}'}, which would be lost: remove "
                "that first"
            )
        check_option("per", per, SHARING)
        if layer.grid.order == 1:
            raise ValueError(
                "order must be at least 2 for free knots, got 1: a piecewise constant function "
                "has no gradient in its knots; use r = 2 or more"
            )
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.order, self.per = layer.grid.order, per
        self.basis, self.extension = layer.basis, layer.extension
        weight = layer.weight.detach().clone()
        self.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
        grids = layer.grids if per == "input" else [layer.grid]
        self.knots = FreeKnots(grids, floor, device=weight.device, dtype=weight.dtype)
        self.train(layer.training)

    def _build_tables(self) -> None:
        """Do nothing: the tables follow from the present knots at each evaluation."""

    def reset_parameters(self) -> None:
        """Raise: a layer with free knots starts as the layer that it is built from."""
        raise NotImplementedError("reset the SplineLayer that this layer is built from instead")

    @property
    def grids(self) -> list[KnotGrid]:
        """The present knot grid of each input."""
        rows = self.knots().detach()
        grids = [KnotGrid(self.order, row) for row in rows]
        return grids if self.per == "input" else grids * self.in_features

    @property
    def domain(self) -> tuple[float, float]:
        """The interval [a, b] of the splines, which no knot changes."""
        return self.knots.domain

    @property
    def grid(self) -> KnotGrid:  # type: ignore[override]
        """The present knot grid, if all inputs share it.

        Raises:
            ValueError: if each input has its own.
        """
        if self.per == "input":
            raise ValueError("each input of this layer has a grid of its own: use grids")
        return self.grids[0]

    def _evaluate(self, channels: Tensor, pairs: Pairs) -> Tensor:
        points = self.knots()
        module = bspline if self.basis == "spline" else truncated_power
        tables = module.pieces_of(extended(points, self.order), self.order).to(channels.dtype)
        weight: Tensor = self.weight.to(channels.dtype)
        # The kernels differentiate the polynomials of every edge on every interval, not a table.
        if self.basis == "relu" or operator.differentiates(tables):
            weight, tables = module.polynomials(weight, tables).flatten(2), None
        return operator.evaluate(
            channels, weight, points.detach(), tables, False, pairs, self.extension
        )

    def refine(self, grid: KnotGrid | Sequence[KnotGrid] | None = None) -> FreeSplineLayer:
        """Return a new layer that is the same function on finer grids, its knots free as before.

        By default every interval is halved: the floor, in units of the mean spacing, stays. With
        explicit grids it is lowered, if need be, to half the smallest spacing.

        Args:
            grid: a finer grid for all inputs, or one for each, which contain the present ones.

        Raises:
            ValueError: if the grids are not nested, or differ in their number of intervals.
        """
        old = self.grids if self.per == "input" else [self.grid]
        if grid is None:
            new, knots = [each.refine() for each in old], self.knots.halved()
        else:
            new = [grid] * len(old) if isinstance(grid, KnotGrid) else [*grid]
            if len(new) != len(old) or len({each.n for each in new}) > 1:
                raise ValueError(
                    f"grid must be one grid, or {len(old)} with the same number of intervals, got "
                    f"{len(new)} with n = {[each.n for each in new]}"
                )
            smallest = min(float(each.breakpoints.diff().min()) / each.h for each in new)
            floor = min(float(self.knots.floor), 0.5 * smallest)
            like = self.knots.logits
            knots = FreeKnots(new, floor, device=like.device, dtype=like.dtype)
            knots.requires_grad_(like.requires_grad)
        weight = self._changed(lambda w, k: prolongation(old[k], new[k], self.basis).apply(w))
        return self._copy(weight, knots, self.basis)

    def to_basis(self, basis: Basis) -> FreeSplineLayer:
        """Return a new layer that is the same function with weights in ``basis``.

        Raises:
            ValueError: if ``basis`` is unknown.
        """
        check_option("basis", basis, BASES)
        grids = self.grids

        def convert(weight: Tensor, k: int) -> Tensor:
            return convert_weights(weight.cpu().double(), grids[k], self.basis, basis)

        return self._copy(self._changed(convert), copy.deepcopy(self.knots), basis)

    def _changed(self, change: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Return the weights after ``change(weights, k)`` to those on each grid k."""
        weight = self.weight.detach()
        if self.per == "layer":
            return change(weight, 0)
        return torch.stack([change(weight[:, p], p) for p in range(self.in_features)], dim=1)

    def _copy(self, weight: Tensor, knots: FreeKnots, basis: Basis) -> FreeSplineLayer:
        check_copyable(self, "a copy of a layer")
        layer = copy.deepcopy(self)
        layer.weight = nn.Parameter(weight.to(self.weight), self.weight.requires_grad)
        layer.knots, layer.basis = knots, basis
        return layer

    def describe(self) -> dict[str, Any]:
        """Return what defines the function besides the weights and the knots."""
        return {
            "order": self.order,
            "n": self.knots.logits.shape[1],
            "domain": list(self.knots.domain),
            "breakpoints": f"free, per {self.per}",
            "basis": self.basis,
            "extension": self.extension,
            "in_features": self.in_features,
            "out_features": self.out_features,
        }

    def extra_repr(self) -> str:
        """Show sizes, order, intervals, domain and basis."""
        a, b = self.knots.domain
        return (
            f"{self.in_features}, {self.out_features}, order={self.order}, "
            f"n={self.knots.logits.shape[1]}, domain=[{a:.12g}, {b:.12g}], "
            f"free per {self.per}, basis={self.basis}, extension={self.extension}"
        )


def check_fixed(model: nn.Module, user: str, remedy: str) -> None:
    """Raise ValueError if a layer of the model has free knots, which ``user`` cannot treat."""
    if any(isinstance(module, FreeSplineLayer) for module in model.modules()):
        raise ValueError(f"{user} needs fixed knots, but a layer has free knots: {remedy}")
