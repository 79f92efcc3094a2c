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

import inspect
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from kanlib._checks import as_number, check_tensor, check_types, shown
from kanlib.nn.jets import Jet
from kanlib.objectives.attention import Attention
from kanlib.objectives.causal import Causal
from kanlib.objectives.mean_squared_error import Inside, total
from kanlib.objectives.ownership import check_owner, claim
from kanlib.objectives.samplers import Region, Sampler
from kanlib.objectives.squares import Residual, called, check_columns, evaluate

__all__ = ["ResidualLoss", "Term"]

Features = Callable[[Tensor], Tensor] | None


class Term:
    """A residual at points: one term of the loss, weight times its mean square.

    Args:
        residual: function of the jet of the solution and of the points (N, P), returning (N, K):
            K equations at each point. Columns of a jet have the shape (N, 1); keep it. It takes one
            jet for each of several features, and after the points the unknowns, if there are some.
        points: points of shape (N, P), of the dtype and on the device of the network, or a
            :class:`kanlib.objectives.samplers.Sampler` that draws such points every few steps.
        pairs: pairs of directions (a, b) whose second derivatives ``u.d(a, b)`` are needed, or
            three or four directions of a third or fourth derivative, as (0, 0, 0) for u_xxx.
        directions: coordinates along which first derivatives ``u.d(a)`` are needed, direction a
            being coordinate ``directions[a]``; by default all. With ``directions=()`` there is the
            value alone, which costs less.
        weight: weight of the term, one positive number.
        features: function from points (N, P) to the inputs of the network, if those are not the
            coordinates, see :meth:`kanlib.nn.jets.Jet.at`; or several, where solutions at
            several places meet, as on the two sides of an interface or at periodic ends.
        attention: residual-based attention for the points of this term.
        causal: causal weights, for equations of evolution.
        unknowns: what the residual takes as its last argument and is trained with the network: a
            :class:`kanlib.objectives.unknowns.Unknowns`, or any module.

    Raises:
        TypeError: if the points are not a floating-point tensor, the unknowns no module, or the
            residual takes other arguments.
        ValueError: if they are not a finite (N, P) tensor, the weight is not positive, points that
            move have an attention, which keeps a weight for each point.

    Examples:
        >>> x = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
        >>> decay = Term(lambda u, x: u.d(0) + u.value, x)  # u' + u = 0
        >>> decay.equations(nn.Identity(), x).flatten()  # u = x leaves 1 + x
        tensor([1.0000, 1.2500, 1.5000, 1.7500, 2.0000], dtype=torch.float64)
    """

    def __init__(
        self,
        residual: Callable[..., Tensor],
        points: Tensor | Sampler,
        *,
        pairs: Iterable[tuple[int, ...]] = (),
        directions: Sequence[int] | None = None,
        weight: float = 1.0,
        features: Features | Sequence[Features] = None,
        attention: Attention | None = None,
        causal: Causal | None = None,
        unknowns: nn.Module | None = None,
    ) -> None:
        if isinstance(weight, Tensor) and (weight.numel() != 1 or weight.requires_grad):
            raise ValueError(
                f"weight must be one fixed number, got {shown(weight)}: weight points in the "
                "residual, as in w * (u.value - 1), and hand parameters of your own to the model"
            )
        _check_points(points)
        check_types(Term.__init__, locals() | {"weight": 1.0, "pairs": ()})
        weight = as_number("weight", weight, above=0.0)
        self.sampler = points if isinstance(points, Sampler) else None
        if self.sampler is not None and attention is not None:
            raise ValueError(
                "attention keeps a weight for each point, and so needs points that stay: give "
                "points=, or let the sampler choose by residual with share="
            )
        self.residual, self.weight, self.attention = residual, weight, attention
        self.causal, self.unknowns = causal, unknowns
        self._pairs = [*pairs] if isinstance(pairs, Iterator) else pairs
        self._directions = directions
        self._features = features if isinstance(features, Sequence) else [features]
        self._steps = 0
        self._model: Callable[[], nn.Module | None] = lambda: None
        _check_arguments(residual, len(self._features), unknowns is not None)
        self._place(points.draw(0) if isinstance(points, Sampler) else points)
        claim(attention, self, "attention")
        claim(causal, self, "causal")

    @property
    def changes(self) -> bool:
        """Whether a step changes its points or their weights; then one loss alone may have it."""
        parts: list[Any] = [self.attention, self.causal, self.sampler]
        return any(part is not None for part in parts)

    def _place(self, points: Tensor) -> None:
        """Take these points from now on."""
        check_tensor("points", points)
        if points.ndim != 2 or not len(points) or not torch.isfinite(points).all():
            raise ValueError(
                f"points must be finite, of shape (N, P) with N >= 1, got {tuple(points.shape)}: "
                "give at least one point, as a row, and no NaN"
            )
        self.points, self.jets = points, self._jets(points)
        self._inside: list[Inside] = []

    def _jets(self, points: Tensor) -> list[Jet]:
        pairs, along = self._pairs, self._directions
        return [Jet.at(points, pairs=pairs, directions=along, features=f) for f in self._features]

    def __call__(self, model: nn.Module, name: str) -> Tensor:
        """Return weight times the mean square of the residual of a model.

        Raises:
            ValueError: if points lie outside the domain of the model, or the residual has another
                shape than (N, K).
        """
        if not self._inside:
            who = f"points of term {name!r}" + (", drawn by its Sampler," if self.sampler else "")
            self._inside = [Inside(jet.value, who) for jet in self.jets]
        for inside in self._inside:
            inside(model)
        self._model = weakref.ref(model)
        outputs = [evaluate(model, jet) for jet in self.jets]
        found = self._equation(*outputs, self.points)
        size = len(self.points)
        shapes = (size,), (*outputs[0].value.shape[:-2], size)  # the second of an ensemble
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if not isinstance(found, Tensor) or found.shape[:-1] not in shapes:
            raise ValueError(
                f"{called(name)} must have shape (N, K) with N = {size} points, got "
                f"{got}: slice columns as x[:, :1], not x[:, 0]"
            )
        if found.shape[-1] == size:
            check_columns(called(name), size, self._equation, *outputs, self.points)
        if self.attention is not None:
            found = self.attention(found)
        if self.causal is not None:
            found = self.causal(found, self.points)
        squares = found.square()
        mean = squares.mean() if found.ndim == 2 else squares.mean((-2, -1)).sum()
        return self.weight * mean

    def _equation(self, *arguments: Any) -> Tensor:
        """Return the residual of jets and points."""
        own = () if self.unknowns is None else (self.unknowns,)
        return self.residual(*arguments, *own)

    def check_owned(self) -> None:
        """Raise a ValueError if the attention or the causal weights belong to another term now."""
        for part, name in ((self.attention, "attention"), (self.causal, "causal")):
            check_owner(part, self, name, f"give each term one {type(part).__name__} of its own")

    def after_step(self) -> None:
        """Update the attention, or draw new points when it is time."""
        self.check_owned()
        if self.attention is not None:
            self.attention.after_step()
        model = self._model()
        if self.causal is not None and model is not None:
            with torch.no_grad():
                self.causal.update(self.equations(model, self.points), self.points)
        self._steps += 1
        if self.sampler is not None and self._steps % self.sampler.every == 0:
            self._place(self.sampler.draw(self._steps // self.sampler.every, self._size))

    @torch.no_grad()
    def _size(self, points: Tensor) -> Tensor:
        """Return the size of the residual (N,) at points, of the model evaluated last."""
        model = self._model()
        if model is None:
            return torch.ones_like(points[:, 0])
        sizes: Tensor = self.equations(model, points).norm(dim=-1)
        return sizes if sizes.ndim == 1 else sizes.amax(dim=0)

    def equations(self, model: nn.Module, points: Tensor) -> Tensor:
        """Return the residual (N, K) of a model at any points (N, P), without weights."""
        outputs = (evaluate(model, jet) for jet in self._jets(points))
        return self._equation(*outputs, points)

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from step to step, for a checkpoint."""
        found: dict[str, Any] = {} if self.attention is None else self.attention.state_dict()
        if self.causal is not None:
            found["causal"] = self.causal.state_dict()
        if self.sampler is not None:
            found |= {"steps": self._steps, "points": self.points}
        return found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        if self.attention is not None:
            self.attention.load_state_dict(state)
        if self.causal is not None:
            self.causal.load_state_dict(state["causal"])
        if self.sampler is not None:
            self._steps = state["steps"]
            self._place(state["points"].to(self.points))

    def reseeded(self, seed: int) -> Term:
        """Return the term at other points, if a sampler draws them, without weights of points."""
        points = self.points if self.sampler is None else self.sampler.reseeded(seed)
        return Term(
            self.residual,
            points,
            pairs=self._pairs,
            directions=self._directions,
            weight=self.weight,
            features=self._features,
            unknowns=self.unknowns,
        )

    def rows(self, name: str, factor: float = 1.0) -> Residual:
        """Return the residual as a vector, with all weights and a factor beside them."""
        weight, weights = factor * self.weight, []
        if self.attention is not None and self.attention.weights is not None:
            weights.append(self.attention.weights)
        if self.causal is not None:
            weights.append(self.causal.roots(self.points))
        if not weights:
            return Residual(self._equation, self.jets, [self.points], weight, name)

        def weighted(*arguments: Any) -> Tensor:
            return arguments[-1] * self._equation(*arguments[:-1])

        data = [self.points, math.prod(weights[1:], start=weights[0])]
        return Residual(weighted, self.jets, data, weight, name)


def _check_points(points: Any) -> None:
    """Raise TypeError unless the points of a term are a tensor or are drawn."""
    if isinstance(points, Tensor | Sampler):
        return
    remedy = "make one by torch.tensor(...)"
    if isinstance(points, Region):
        remedy = "draw them, as in Sampler(domain, 1000)"
    raise TypeError(
        f"points must be a tensor (N, P) or a Sampler of points, got {type(points).__name__}: "
        f"{remedy}"
    )


def _check_arguments(residual: Callable[..., Any], jets: int, unknowns: bool) -> None:
    """Raise TypeError unless a function takes what a term hands to it."""
    names = ["u"] if jets == 1 else [f"u{k}" for k in range(1, jets + 1)]
    names += ["x", "unknowns"] if unknowns else ["x"]
    try:
        signature = inspect.signature(residual)
    except ValueError:  # some functions that are built in have none
        return
    try:
        signature.bind(*names)
    except TypeError:
        given = ", ".join(signature.parameters)
        raise TypeError(
            f"residual must take ({', '.join(names)}), which are a jet for each of the features, "
            "the points, and the unknowns where the term has some, got a function of "
            f"({given})"
        ) from None


class Balancing(Protocol):
    """What weighs the terms of a loss, see :class:`kanlib.training.balance.Balance`."""

    factors: dict[str, float]

    def after_step(self, model: nn.Module, objective: Any, parts: Any, residuals: Any) -> None:
        """Count a step, and update the factors when it is time."""

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from step to step, for a checkpoint."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""


class ResidualLoss:
    """The sum of some terms, as an objective of :func:`kanlib.training.trainer.train`.

    Args:
        balance: :class:`kanlib.training.balance.Balance`, if weights of terms shall change in the
            course of a training.
        **terms: terms by name.

    Attributes:
        terms: the terms by name.

    Raises:
        TypeError: if a term is no Term, or ``balance`` no Balance.
        ValueError: if there is no term, a term that changes from step to step is given twice, or
            different unknowns have the same name.

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

    def __init__(self, *, balance: Any = None, **terms: Term) -> None:
        if not terms:
            raise ValueError("terms must name at least one Term, got none")
        for name, term in terms.items():
            if not isinstance(term, Term):
                raise TypeError(f"term {name!r} must be a Term, got {type(term).__name__}")
        if balance is not None and not hasattr(balance, "factors"):
            raise TypeError(
                f"balance must be a Balance, as in balance=Balance(), got {shown(balance)}"
            )
        self.terms, self.balance = terms, cast(Balancing | None, balance)
        self._model: Callable[[], nn.Module | None] = lambda: None
        names = [name for name, _ in self.named_parameters()]
        if len({*names}) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(
                f"unknowns of different terms must have different names, got {twice!r} twice: put "
                "them into one Unknowns, and give that to all terms"
            )
        for name, term in terms.items():
            if term.changes:
                term.check_owned()
                claim(term, self, f"term {name!r}")
        claim(balance, self, "balance")

    def parts(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the weighted mean square of each term, as ``run.history.terms`` records them."""
        self._model = weakref.ref(model)
        return {name: self._factor(name) * term(model, name) for name, term in self.terms.items()}

    def _factor(self, name: str) -> float:
        return 1.0 if self.balance is None else self.balance.factors.get(name, 1.0)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term, times the factor that balances it, if there is one."""
        return {name: self._factor(name) * term.weight for name, term in self.terms.items()}

    @property
    def balanced(self) -> dict[str, float]:
        """The same, if there is one, for ``run.history.weights``."""
        return {} if self.balance is None else self.weights

    def __call__(self, model: nn.Module) -> Tensor:
        """Return the loss."""
        return total(self.parts(model))

    def residuals(self) -> list[Residual]:
        """Return the residual of each term, see :class:`kanlib.objectives.squares.SumOfSquares`."""
        return [term.rows(name, self._factor(name)) for name, term in self.terms.items()]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the unknowns of the terms by name, each once."""
        modules = dict.fromkeys(t.unknowns for t in self.terms.values() if t.unknowns is not None)
        for module in modules:
            yield from module.named_parameters()

    @property
    def unknowns(self) -> dict[str, Tensor]:
        """The values of the unknowns as they are now, by name."""
        return {name: p.detach().clone() for name, p in self.named_parameters()}

    @property
    def moves(self) -> bool:
        """Whether points of a term are drawn anew in the course of a training."""
        return any(term.sampler is not None for term in self.terms.values())

    def fresh(self, seed: int) -> ResidualLoss:
        """Return the loss at points that no training has seen, where samplers draw them."""
        return ResidualLoss(**{name: t.reseeded(seed) for name, t in self.terms.items()})

    def after_step(self) -> None:
        """Update weights of points and terms, and draw points that move.

        Raises:
            ValueError: if a term that changes, or the balance, belongs to another loss now.
        """
        for name, term in self.terms.items():
            check_owner(term, self, f"term {name!r}", "it changes, so build one for each loss")
            term.after_step()
        check_owner(self.balance, self, "balance", "give each loss a Balance of its own")
        model = self._model()
        if self.balance is not None and model is not None:
            self.balance.after_step(
                model,
                self,
                lambda: {k: term(model, k) / term.weight for k, term in self.terms.items()},
                lambda: [term.rows(k, 1 / term.weight) for k, term in self.terms.items()],
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the terms that have one, for a checkpoint."""
        states = {name: term.state_dict() for name, term in self.terms.items()}
        if self.balance is not None:
            states["balance"] = self.balance.state_dict()
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name, part in state.items():
            target = self.balance if name == "balance" else self.terms[name]
            if target is not None:
                target.load_state_dict(part)
