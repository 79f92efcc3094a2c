"""Your own PDE: residuals at points, as an objective for training.

A problem is a few terms, each a residual at points of its own::

    def heat(u, x):  # u: Jet of the solution, x: the points (N, 2)
        return u.d(1) - 0.1 * u.d(0, 0)

    def start(u, x):
        return u.value - torch.sin(torch.pi * x[:, :1])

    loss = ResidualLoss(
        heat=Term(heat, inside, pairs=[(0, 0)]),
        start=Term(start, at_zero, weight=10.0),
    )
    run = train_multilevel(KAN([2, 5, 5, 1], n=4, domain=(-1, 1)), loss, [200, 200, 200])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kanlib._checks import check_tensor
from kanlib.attention import Attention
from kanlib.derivatives import Jet, propagate
from kanlib.layers import SplineLayer
from kanlib.networks import KAN
from kanlib.squares import Residual


class Term:
    """A residual at points: one term of the loss, weight times its mean square.

    Args:
        residual: function of the jet of the solution and of the points (N, P), returning (N, K):
            K equations at each point. Columns of a jet have the shape (N, 1); keep it. It takes one
            jet for each of several features.
        points: points of shape (N, P), of the dtype and on the device of the network.
        pairs: pairs of coordinates (a, b) whose second derivatives ``u.d(a, b)`` are needed; first
            derivatives ``u.d(a)`` are always there.
        weight: weight of the term.
        features: function from points (N, P) to the inputs of the network, if those are not the
            coordinates, see :meth:`kanlib.derivatives.Jet.at`; or several, where solutions at
            several places meet, as on the two sides of an interface or at periodic ends.
        attention: residual-based attention for the points of this term.

    Raises:
        TypeError: if the points are not a floating-point tensor.
        ValueError: if they are not a finite (N, P) tensor, or the weight is not positive.
    """

    def __init__(
        self,
        residual: Callable[..., Tensor],
        points: Tensor,
        *,
        pairs: Iterable[tuple[int, int]] = (),
        weight: float = 1.0,
        features: Callable[[Tensor], Tensor] | Sequence[Callable[[Tensor], Tensor]] | None = None,
        attention: Attention | None = None,
    ) -> None:
        check_tensor("points", points)
        if points.ndim != 2 or not len(points) or not torch.isfinite(points).all():
            raise ValueError(
                f"points must be finite, of shape (N, P) with N >= 1, got {tuple(points.shape)}"
            )
        if not weight > 0:
            raise ValueError(f"weight must be positive, got {weight!r}: leave out a term instead")
        self.residual, self.points, self.weight = residual, points, weight
        self.attention = attention
        inputs = features if isinstance(features, Sequence) else [features]
        self.jets = [Jet.at(points, pairs=pairs, features=each) for each in inputs]
        self._checked: tuple[float, float] | None = None

    def __call__(self, model: nn.Module, name: str) -> Tensor:
        """Return weight times the mean square of the residual of a model.

        Raises:
            ValueError: if points lie outside the domain of the model, or the residual has another
                shape than (N, K).
        """
        self._check_domain(model, name)
        found = self.residual(*(propagate(model, jet) for jet in self.jets), self.points)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(self.points):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"the residual of term {name!r} must have shape (N, K) with N = "
                f"{len(self.points)} points, got {got}: slice columns as x[:, :1], not x[:, 0]"
            )
        if self.attention is not None:
            found = self.attention(found)
        return self.weight * found.square().mean()

    def rows(self) -> Residual:
        """Return the residual as a vector, weights of the attention included."""
        attention, data = self.attention, [self.points]
        if attention is None or attention.weights is None:
            return Residual(self.residual, self.jets, data, self.weight)

        def weighted(*arguments: Any) -> Tensor:
            return arguments[-1] * self.residual(*arguments[:-1])

        return Residual(weighted, self.jets, [*data, attention.weights], self.weight)

    def _check_domain(self, model: nn.Module, name: str) -> None:
        """Raise if the first layer is one of splines and inputs lie outside its domain."""
        first = model.layers[0] if isinstance(model, KAN) else None
        if not isinstance(first, SplineLayer) or first.domain == self._checked:
            return
        a, b = self._checked = first.domain
        slack = 1e-6 * (b - a)
        for value in (jet.value for jet in self.jets):
            outside = (value < a - slack) | (value > b + slack)
            if outside.any():
                self._checked = None
                row = int(outside.any(dim=1).nonzero()[0])
                raise ValueError(
                    f"points of term {name!r} must lie in the model's domain [{a:g}, {b:g}], got "
                    f"{value[row].tolist()} at point {row}: build the network with domain=(low, "
                    "high), or with input_domain=[(low, high), ...] for each coordinate"
                )


class ResidualLoss:
    """The sum of some terms: an objective for :func:`kanlib.training.train` and its relatives.

    Args:
        **terms: terms by name.

    Attributes:
        terms: the terms by name.

    Raises:
        ValueError: if there is no term, or two of them share one Attention.

    Examples:
        >>> from kanlib import KAN
        >>> x = torch.linspace(0, 1, 20)[:, None]
        >>> ends = torch.tensor([[0.0], [1.0]])
        >>> loss = ResidualLoss(
        ...     bending=Term(lambda u, x: u.d(0, 0) + torch.sin(x), x, pairs=[(0, 0)]),
        ...     ends=Term(lambda u, x: u.value, ends, weight=10.0),
        ... )
        >>> loss(KAN([1, 1], n=5)).shape
        torch.Size([])
        >>> sorted(loss.parts(KAN([1, 1], n=5)))
        ['bending', 'ends']
    """

    def __init__(self, **terms: Term) -> None:
        if not terms:
            raise ValueError("terms must name at least one Term, got none")
        for name, term in terms.items():
            if not isinstance(term, Term):
                raise TypeError(f"term {name!r} must be a Term, got {type(term).__name__}")
        attentions = [id(t.attention) for t in terms.values() if t.attention is not None]
        if len({*attentions}) < len(attentions):
            raise ValueError("attention must not be shared: give each term an Attention of its own")
        self.terms = terms

    def parts(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the weighted mean square of each term."""
        return {name: term(model, name) for name, term in self.terms.items()}

    def __call__(self, model: nn.Module) -> Tensor:
        """Return the loss."""
        return torch.stack([*self.parts(model).values()]).sum()

    def residuals(self) -> list[Residual]:
        """Return the residual of each term, see :class:`kanlib.squares.SumOfSquares`."""
        return [term.rows() for term in self.terms.values()]

    def after_step(self) -> None:
        """Update the attentions."""
        for term in self.terms.values():
            if term.attention is not None:
                term.attention.after_step()

    def state_dict(self) -> dict[str, Any]:
        """Return the weights of the attentions, for a checkpoint."""
        return {
            name: term.attention.state_dict()
            for name, term in self.terms.items()
            if term.attention is not None
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name, weights in state.items():
            attention = self.terms[name].attention
            if attention is not None:
                attention.load_state_dict(weights)
