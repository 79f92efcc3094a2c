"""Penalties on the edges of a network: smooth or sparse splines, beside any objective.

For an edge s on its domain [a, b], with mean values over the domain, exact by Gauss quadrature,

    ``|s|_k^2 = (b - a)^(2k) mean (s^(k))^2``,

so that units of x do not matter. The sum of these squares over all edges is what smoothing splines
(k = 2, Reinsch, and P-splines in their place) and ridge regression (k = 0) penalise. The sum of the
norms themselves is the group lasso, which makes whole edges vanish, and the last is the penalty of
pykan (arXiv:2404.19756, section 2.5.1), the L1 norms of all edges and their entropy. A sum of
squares adds rows to the residuals, so that Gauss-Newton takes it; the others have no derivative at
zero, and are for optimizers of first order.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kanlib._checks import as_integer, as_number, check_function, shown
from kanlib.nn.ensemble import Ensemble
from kanlib.nn.spline_layer import SplineLayer, convert_weights, spline_layers
from kanlib.objectives.mean_squared_error import total
from kanlib.objectives.shares import Shares, shares_of
from kanlib.objectives.squares import check_squares
from kanlib.splines.bspline import exact_breakpoints, local_basis, pieces
from kanlib.splines.quadrature import quadrature

__all__ = ["Entropy", "Norms", "Penalised", "SquaredNorms"]

# What a norm adds under its root, and the least share of an edge: derivatives are finite at zero.
TINY = 1e-24


def points_of(layer: SplineLayer, p: int, derivative: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the mean of (b - a)^k s^(k) over the domain of an input takes.

    Args:
        layer: the layer.
        p: the input.
        derivative: the order k.

    Returns:
        The index of the first B-spline at K Gauss points (K,), values of the r B-splines that do
        not vanish, times (b - a)^k, (K, r), and weights that add up to one, (K,).
    """
    grid, weight = layer.grids[p], layer.weight
    x, weights = quadrature(grid, grid.order)
    breakpoints = exact_breakpoints(grid, weight.device)
    x = x.to(breakpoints)
    index, values = local_basis(x, breakpoints, pieces(grid).to(breakpoints), derivative)
    a, b = grid.domain
    return index, ((b - a) ** derivative * values).to(weight), (weights / (b - a)).to(weight)


def values_of(layer: SplineLayer, p: int, derivative: int) -> tuple[Tensor, Tensor]:
    """Return (b - a)^k s^(k) at the Gauss points of an input, (K, Q), and their weights (K,).

    They are differentiable in the weights of the layer; knots count as fixed.
    """
    index, basis, weights = points_of(layer, p, derivative)
    u = convert_weights(layer.coefficients(), layer.distinct_grids, layer.basis, "spline")[:, p]
    windows = u.unfold(1, basis.shape[1], 1)[:, index]  # (Q, K, r)
    return torch.einsum("qkr,kr->kq", windows, basis), weights


def _layers(model: nn.Module) -> list[SplineLayer]:
    if isinstance(model, Ensemble):
        raise ValueError("model must be one network for a penalty, got an Ensemble: train each")
    found = spline_layers(model)
    if not found:
        raise ValueError(
            f"model must have spline layers for a penalty on edges, got {type(model).__name__}: "
            "take a KAN"
        )
    return found


class _Penalty:
    """A weight times a sum over all edges of all spline layers."""

    def __init__(self, weight: float, derivative: int) -> None:
        self.weight = as_number("weight", weight, above=0.0)
        self.derivative = as_integer("derivative", derivative, 0)

    def squares(self, model: nn.Module) -> Iterator[Tensor]:
        """Yield the squared norms (Q,) of the edges from each input of each layer."""
        for layer in _layers(model):
            self.check(layer)
            for p in range(layer.in_features):
                values, weights = values_of(layer, p, self.derivative)
                yield weights @ values.square()

    def check(self, layer: SplineLayer) -> None:
        """Raise ValueError if the splines of a layer have no such derivative."""
        if self.derivative >= layer.order:
            raise ValueError(
                f"derivative must be less than the order r = {layer.order} of the splines, got "
                f"{self.derivative}: raise the order"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(weight={self.weight:g}, derivative={self.derivative})"


class SquaredNorms(_Penalty):
    """The weight times the sum of the squared norms of all edges, or of derivatives of them.

    Args:
        weight: a positive number, as :func:`kanlib.analysis.smoothing.smoothing_weight` finds it.
        derivative: k; 2 makes splines smooth, 0 small.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if the weight is not positive or the derivative negative.

    Examples:
        >>> from kanlib import KAN
        >>> model = KAN([1, 1], n=4)
        >>> with torch.no_grad():
        ...     _ = model.layers[0].weight.fill_(3.0)
        >>> SquaredNorms(1.0, derivative=0)(model).detach().round(decimals=4)
        tensor(9.)
    """

    def __init__(self, weight: float, derivative: int = 2) -> None:
        super().__init__(weight, derivative)

    def __call__(self, model: nn.Module) -> Tensor:
        """Return the penalty."""
        return self.weight * torch.stack([each.sum() for each in self.squares(model)]).sum()

    def residuals(self, name: str = "") -> list[EdgeRows]:
        """Return the rows of all edges, whose squares add up to the penalty."""
        return [EdgeRows(self, name)]


class Norms(_Penalty):
    """The weight times the sum of the norms of all edges: group lasso, for sparse networks.

    Args:
        weight: a positive number.
        derivative: k; 0 makes edges vanish, 2 makes them straight lines.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if the weight is not positive or the derivative negative.

    Examples:
        >>> from kanlib import KAN, MeanSquaredError
        >>> x = torch.rand(20, 2, dtype=torch.float64)
        >>> model = KAN([2, 1], n=4, dtype=torch.float64)
        >>> with torch.no_grad():  # both edges are the constant 1
        ...     _ = model.layers[0].weight.fill_(1.0)
        >>> loss = Penalised(MeanSquaredError(x, 2 + 0 * x[:, :1]), sparse=Norms(0.1))
        >>> round(float(loss(model).detach()), 4)
        0.2
    """

    def __init__(self, weight: float, derivative: int = 0) -> None:
        super().__init__(weight, derivative)

    def __call__(self, model: nn.Module) -> Tensor:
        """Return the penalty."""
        norms = [(each + TINY).sqrt().sum() for each in self.squares(model)]
        return self.weight * torch.stack(norms).sum()


class Entropy:
    """The penalty of pykan: for each layer, its L1 norm and the entropy of its edges,

        ``weight (sum_e |e| + entropy H)``, ``H = -sum_e p_e log p_e``, ``p_e = |e| / sum_e |e|``.

    Here ``|e|`` is the mean of the absolute value of an edge over its domain, by quadrature; pykan
    takes the mean over a batch.

    Args:
        weight: a positive number.
        entropy: what the entropy counts, from zero.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if the weight is not positive or the entropy counts less than zero.

    Examples:
        >>> from kanlib import KAN, MeanSquaredError
        >>> x = torch.rand(20, 2, dtype=torch.float64)
        >>> model = KAN([2, 1], n=4, dtype=torch.float64)
        >>> with torch.no_grad():  # both edges are the constant 1
        ...     _ = model.layers[0].weight.fill_(1.0)
        >>> loss = Penalised(MeanSquaredError(x, 2 + 0 * x[:, :1]), entropy=Entropy(0.1))
        >>> round(float(loss(model).detach()), 4)  # 0.1 (1 + 1 + log 2)
        0.2693
    """  # noqa: D415

    def __init__(self, weight: float, entropy: float = 1.0) -> None:
        self.weight = as_number("weight", weight, above=0.0)
        self.entropy = as_number("entropy", entropy, 0.0)

    def __call__(self, model: nn.Module) -> Tensor:
        """Return the penalty."""
        parts = []
        for layer in _layers(model):
            found = [values_of(layer, p, 0) for p in range(layer.in_features)]
            sizes = torch.stack([weights @ values.abs() for values, weights in found])
            whole = sizes.sum()
            shares = (sizes / whole.clamp(min=TINY)).clamp(min=TINY)  # a finite slope at zero
            parts.append(whole + self.entropy * torch.special.entr(shares).sum())
        return self.weight * torch.stack(parts).sum()

    def __repr__(self) -> str:
        return f"Entropy(weight={self.weight:g}, entropy={self.entropy:g})"


Penalty = SquaredNorms | Norms | Entropy


class EdgeRows:
    """The rows of :class:`SquaredNorms` among the residuals of an objective."""

    def __init__(self, penalty: SquaredNorms, name: str) -> None:
        self.penalty, self.name = penalty, name

    def blocks(self, points: int) -> Iterator[EdgeRows]:
        """Yield itself: rows come input by input, see :meth:`parts`."""
        yield self

    def parts(self, model: nn.Module) -> Iterator[tuple[SplineLayer, int]]:
        """Yield each layer and input whose edges have rows."""
        for layer in _layers(model):
            self.penalty.check(layer)
            yield from ((layer, p) for p in range(layer.in_features))

    def rows(self, layer: SplineLayer, p: int) -> Tensor:
        """Return the rows of the edges from an input, (K, Q)."""
        values, weights = values_of(layer, p, self.penalty.derivative)
        return (self.penalty.weight * weights).sqrt()[:, None] * values

    def __call__(self, model: nn.Module) -> Tensor:
        """Return all rows as one vector, whose squares add up to the penalty."""
        return torch.cat([self.rows(*part).flatten() for part in self.parts(model)])


class Penalised:
    """An objective plus penalties on the edges of the network.

    Args:
        objective: any objective, such as ``MeanSquaredError`` or ``ResidualLoss``.
        **penalties: penalties by name; a run tells their values by these names.

    Raises:
        TypeError: if the objective is no function, or a penalty none of this module.
        ValueError: if there is no penalty, or a term of the objective has its name.

    Examples:
        >>> from kanlib import KAN, GaussNewton, MeanSquaredError, train
        >>> x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
        >>> data = MeanSquaredError(x, x.sin() + 0.1 * torch.randn_like(x))
        >>> smooth = Penalised(data, roughness=SquaredNorms(1e-4))
        >>> model = KAN([1, 1], n=20, dtype=torch.float64)
        >>> run = train(model, smooth, 5, optimizer=GaussNewton(), progress=False)
        >>> sorted(smooth.parts(run.model))
        ['objective', 'roughness']
    """

    def __init__(self, objective: Any, **penalties: Penalty) -> None:
        check_function("objective", objective, "function from a network to its loss")
        if not penalties:
            raise ValueError("penalties must name at least one, as in roughness=SquaredNorms(1e-4)")
        for name, penalty in penalties.items():
            if not isinstance(penalty, Penalty):
                raise TypeError(
                    f"penalty {name!r} must be SquaredNorms, Norms or Entropy, got {shown(penalty)}"
                )
        taken = {*(getattr(objective, "terms", None) or ["objective"])} & {*penalties}
        if taken:
            raise ValueError(f"penalty {min(taken)!r} has the name of a term: rename it")
        self.objective, self.penalties, self._compared = objective, penalties, False

    def _compare(self) -> None:
        """Raise ValueError if processes that share the points have other penalties."""
        if self._compared:
            return
        own = {name: (type(each).__name__, vars(each)) for name, each in self.penalties.items()}
        words = "penalties must be the same in all processes: give all the same names and weights"
        difference = self.shares.difference({words: zlib.crc32(repr(own).encode())})
        if difference:
            raise ValueError(difference)
        self._compared = True

    def __call__(self, model: Any, *batch: Any) -> Tensor:
        """Return the loss, penalties included."""
        return total(self.parts(model, *batch))

    def parts(self, model: Any, *batch: Any) -> dict[str, Tensor]:
        """Return the terms of the objective and the penalties."""
        self._compare()
        own = getattr(self.objective, "parts", None)
        found = {"objective": self.objective(model, *batch)} if own is None else own(model)
        return found | {name: penalty(model) for name, penalty in self.penalties.items()}

    def residuals(self) -> list[Any]:
        """Return the residuals of the objective, and the rows of the penalties.

        Raises:
            TypeError: if the objective or a penalty is no sum of squares.
        """
        check_squares(self.objective)
        rows: list[Any] = []
        for name, penalty in self.penalties.items():
            if not isinstance(penalty, SquaredNorms):
                raise TypeError(
                    f"penalty {name!r} is no sum of squares, which Gauss-Newton needs, got "
                    f"{penalty!r}: take SquaredNorms, or an optimizer of first order such as Adam"
                )
            share = SquaredNorms(penalty.weight / self.shares.size, penalty.derivative)
            rows += share.residuals(name)
        own = (r if r.name else replace(r, name="objective") for r in self.objective.residuals())
        return [*own, *rows]

    @property
    def shares(self) -> Shares:
        """The processes that share the points of the objective, and the weights of penalties."""
        return shares_of(self.objective)

    @property
    def terms(self) -> dict[str, Any]:
        """The terms of the objective, if it has some."""
        return getattr(self.objective, "terms", {})

    @property
    def balanced(self) -> dict[str, float]:
        """The weights of the terms of the objective, if a balance changes them."""
        return getattr(self.objective, "balanced", {})

    @property
    def moves(self) -> bool:
        """Whether points of the objective are drawn anew in the course of a training."""
        return bool(getattr(self.objective, "moves", False))

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the unknowns of the objective by name."""
        if hasattr(self.objective, "named_parameters"):
            yield from self.objective.named_parameters()

    def after_step(self) -> None:
        """Let the objective change, if it does."""
        if hasattr(self.objective, "after_step"):
            self.objective.after_step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the objective."""
        known = hasattr(self.objective, "after_step")
        return self.objective.state_dict() if known else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give the objective its state back."""
        if state:
            self.objective.load_state_dict(state)
