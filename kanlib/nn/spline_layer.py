"""The spline layer: one learnable spline on every edge between P inputs and Q outputs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from kanlib._checks import (
    BASES,
    EXTENSIONS,
    Basis,
    Extension,
    as_integer,
    as_number,
    check_factory,
    check_input,
    check_option,
    shown,
)
from kanlib.kernels import operator
from kanlib.kernels.reference import Pairs
from kanlib.nn.described import Described, alteration, check_copyable, check_same
from kanlib.splines import bspline, truncated_power
from kanlib.splines.change_of_basis import ChangeOfBasis
from kanlib.splines.knots import KnotGrid, check_resolved
from kanlib.splines.prolongation import check_nested, prolongation


class SplineLayer(Described):
    """A layer x'_q = sum_p sum_i weight[q, p, i] b_i(x_p) (eq. 6), or with psi_j for b_i (eq. 7).

    The weights are spline weights u (``basis="spline"``) or ReLU weights w = A^T u
    (``basis="relu"``); gradients, and so any optimizer, act in the chosen basis.

    Outside [a, b] every spline continues linearly from the end points (``extension="linear"``),
    keeps its end value ("clamp") or is zero ("none"). This is part of the definition of the
    function: it is the same in both bases and refinement keeps it.

    Initial coefficients are ``init_scale`` times independent standard normal numbers in the basis
    ``init_basis``, on the grid ``prolonged_from`` if given: the layer then starts as a spline of
    that coarser grid, exactly prolonged. They are drawn on the CPU in float64, so that one seed
    gives one function on every device and in every dtype, basis and refinement of that grid.

    Args:
        in_features: number of inputs P.
        out_features: number of outputs Q.
        grid: knot grid shared by all edges of the layer.
        basis: "spline" or "relu".
        extension: "linear", "clamp" or "none".
        init_scale: standard deviation of the initial coefficients.
        init_basis: basis in which they are drawn, "spline" or "relu".
        prolonged_from: coarse grid, nested in ``grid``, on which they are drawn.
        device: device of the weights.
        dtype: floating-point type of the weights.

    Shape:
        Input (..., P), output (..., Q), ``weight`` (Q, P, n + r - 1).

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a size is below one, an option is unknown or the grids are not nested.

    Examples:
        >>> layer = SplineLayer(2, 3, KnotGrid.uniform(4, 5))
        >>> layer
        SplineLayer(2, 3, order=4, n=5, domain=[0, 1], uniform, basis=spline, extension=linear)
        >>> layer(torch.rand(10, 2)).shape
        torch.Size([10, 3])
        >>> layer.refine().grid.n
        10
    """

    breakpoints: Tensor
    _table: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        grid: KnotGrid,
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
        if not isinstance(grid, KnotGrid):
            raise TypeError(f"grid must be a KnotGrid, got {shown(grid)}")
        check_option("basis", basis, BASES)
        check_option("init_basis", init_basis, BASES)
        check_option("extension", extension, EXTENSIONS)
        init_scale = as_number("init_scale", init_scale, 0)
        check_factory(device, dtype)
        if prolonged_from is not None:
            if not isinstance(prolonged_from, KnotGrid):
                raise TypeError(f"prolonged_from must be a KnotGrid, got {shown(prolonged_from)}")
            check_nested(prolonged_from, grid)
        self.in_features, self.out_features = in_features, out_features
        self.grid, self.basis, self.extension = grid, basis, extension
        self.init_scale, self.init_basis = init_scale, init_basis
        self.prolonged_from = prolonged_from
        shape = (out_features, in_features, grid.num_basis)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self._build_tables()
        self.reset_parameters()

    @property
    def grids(self) -> list[KnotGrid]:
        """The knot grid of each input."""
        return [self.grid] * self.in_features

    @property
    def domain(self) -> tuple[float, float]:
        """The interval [a, b] of the splines, of every input."""
        return self.grid.domain

    def _build_tables(self) -> None:
        """Derive the evaluation tables from the exact grid, for the weights' device and dtype.

        A half-precision layer has the tables of single precision, in which it computes.
        """
        grid, like = self.grid, self.weight.detach()
        check_resolved(grid, like.dtype)
        breakpoints = bspline.exact_breakpoints(grid, like.device)
        self.register_buffer("breakpoints", breakpoints, persistent=False)
        self._uniform = grid.is_uniform
        module = bspline if self.basis == "spline" else truncated_power
        table = module.pieces(grid).to(like.device, operator.working_dtype(like.dtype))
        self.register_buffer("_table", table, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> SplineLayer:
        """Move or cast the weights.

        The tables are built anew, so that casts lose no accuracy, and not moved: the breakpoints
        are float64, which not every device has.
        """
        self._buffers.update(dict.fromkeys({"breakpoints", "_table"} & {*self._buffers}))
        try:
            return super()._apply(fn, recurse)
        finally:
            self._build_tables()

    def reset_parameters(self) -> None:
        """Draw new initial weights from torch's global generator."""
        coarse = self.prolonged_from or self.grid
        shape = (self.out_features, self.in_features, coarse.num_basis)
        draw = self.init_scale * torch.randn(shape, dtype=torch.float64, device="cpu")
        weight = convert_weights(draw, coarse, self.init_basis, self.basis)
        if coarse is not self.grid:
            weight = prolongation(coarse, self.grid, self.basis).apply(weight)
        with torch.no_grad():
            self.weight.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the layer at x of shape (..., P); NaN inputs give NaN outputs."""
        check_input(x, self.in_features, self.weight)
        return self._compute(x[None], ())[0]

    def propagate(self, channels: Tensor, pairs: Pairs = ()) -> Tensor:
        """Evaluate the layer and propagate derivatives of its inputs through it.

        Each point carries its value x, derivatives x_a along D directions, and second derivatives
        x_ab along K pairs of them. The layer maps them by the chain rule: for a spline s,

            s(x),   s'(x) x_a,   s''(x) x_a x_b + s'(x) x_ab.

        Args:
            channels: values, first derivatives and second derivatives, (1 + D + K, ..., P).
            pairs: the directions (a, b) of each second derivative, counted from zero.

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
        directions = len(channels) - 1 - len(pairs) if channels.ndim > 1 else -1
        if directions < 0:
            raise ValueError(
                f"channels must have shape (1 + D + K, ..., P) with K = {len(pairs)} pairs, "
                f"got {tuple(channels.shape)}"
            )
        if any(direction not in range(directions) for pair in pairs for direction in pair):
            raise ValueError(
                f"pairs must hold directions from 0 to D - 1 = {directions - 1}, got {pairs}"
            )
        return self._compute(channels, pairs)

    def _compute(self, channels: Tensor, pairs: Pairs) -> Tensor:
        """Evaluate in single precision at least, whatever torch.autocast says."""
        dtype = self.weight.dtype
        with operator.without_autocast(channels.device):
            return self._evaluate(channels.to(operator.working_dtype(dtype)), pairs).to(dtype)

    def _evaluate(self, channels: Tensor, pairs: Pairs) -> Tensor:
        weight: Tensor = self.weight.to(channels.dtype)
        table: Tensor | None = self._table[None]
        if self.basis == "relu":  # the polynomials of every edge on every interval
            weight, table = truncated_power.polynomials(weight, self._table[None]).flatten(2), None
        return operator.evaluate(
            channels,
            weight,
            self.breakpoints[None],
            table,
            self._uniform,
            pairs,
            self.extension,
        )

    def refine(self, grid: KnotGrid | None = None) -> SplineLayer:
        """Return a new layer on a finer grid that is the same function, by exact prolongation.

        Args:
            grid: the finer grid, whose breakpoints include those of this layer; by default every
                interval is halved.

        Raises:
            ValueError: if the grids are not nested.
        """
        fine = self.grid.refine() if grid is None else grid
        weight = prolongation(self.grid, fine, self.basis).apply(self.weight.detach())
        return self._kept(self.like(fine, self.basis, weight), "refine")

    def to_basis(self, basis: Basis) -> SplineLayer:
        """Return a new layer that is the same function with weights in ``basis``.

        Args:
            basis: "spline" or "relu".

        Raises:
            ValueError: if ``basis`` is unknown.
        """
        check_option("basis", basis, BASES)
        weight = convert_weights(self.weight.detach().cpu().double(), self.grid, self.basis, basis)
        return self._kept(self.like(self.grid, basis, weight), "to_basis")

    def _kept(self, other: SplineLayer, user: str) -> SplineLayer:
        if alteration(self, SplineLayer):
            check_same(self, other, self.in_features, user)
        return other

    def like(self, grid: KnotGrid, basis: Basis, weight: Tensor) -> SplineLayer:
        """Return this layer, its class and hooks included, on another grid or in another basis.

        Raises:
            ValueError: if the weights are computed from others, or forward is put on this object.
        """
        check_copyable(self, "a copy of a layer")
        if "weight" not in self._parameters:
            raise ValueError(
                "weight must be a parameter of its own for a copy on another grid or basis, but it "
                "is computed from others: make it permanent, e.g. with "
                "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"
            )
        layer = copy.deepcopy(self, {id(self.weight): None})
        layer.grid, layer.basis = grid, basis
        layer.weight = nn.Parameter(weight.to(self.weight), self.weight.requires_grad)
        layer._build_tables()
        return layer

    def describe(self) -> dict[str, Any]:
        """Return what defines the function besides the weights, as plain numbers and strings."""
        grid = self.grid
        return {
            "order": grid.order,
            "n": grid.n,
            "domain": list(grid.domain),
            "breakpoints": "uniform" if grid.is_uniform else grid.breakpoints.tolist(),
            "basis": self.basis,
            "extension": self.extension,
            "in_features": self.in_features,
            "out_features": self.out_features,
        }

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._build_tables()  # load_state_dict(..., assign=True) may change device and dtype

    def extra_repr(self) -> str:
        """Show sizes, order, intervals, domain and basis."""
        a, b = self.grid.domain
        spacing = "uniform" if self.grid.is_uniform else "non-uniform"
        return (
            f"{self.in_features}, {self.out_features}, order={self.grid.order}, n={self.grid.n}, "
            f"domain=[{a:.12g}, {b:.12g}], {spacing}, "
            f"basis={self.basis}, extension={self.extension}"
        )


def convert_weights(weight: Tensor, grid: KnotGrid, source: Basis, target: Basis) -> Tensor:
    """Convert weights of one basis to weights of the other, w = A^T u: the same function.

    Args:
        weight: spline weights u or ReLU weights w, of shape (..., n + r - 1).
        grid: the knot grid.
        source: basis of ``weight``, "spline" or "relu".
        target: basis of the result.
    """
    check_option("source", source, BASES)
    check_option("target", target, BASES)
    if source == target:
        return weight
    change = ChangeOfBasis(grid)
    if target == "relu":
        return change.apply(weight, transpose=True)
    return change.solve(weight, transpose=True)
