"""Objectives: functions from a model to the scalar loss that training minimises.

Any function will do. An object that also has the methods of :class:`Stateful` may change from step
to step, and what it has become survives refinements and interruptions.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kanlib._checks import check_dtype
from kanlib.nn.described import reached
from kanlib.nn.ensemble import Ensemble
from kanlib.nn.expansion import ExpansionLayer
from kanlib.nn.jets import Jet
from kanlib.nn.networks import KAN, MLP
from kanlib.nn.spline_layer import SplineLayer
from kanlib.objectives.squares import Residual

__all__ = ["MeanSquaredError", "Stateful", "Summed"]

#: ``objective(model)``, or ``objective(model, batch)``, returning a scalar loss.
Objective = Callable[..., Tensor]


@runtime_checkable
class Stateful(Protocol):
    """An objective with a state, e.g. weights of residual-based attention.

    Its value must depend on the model and the state only, and no evaluation may change the state
    in a way that later values or states depend on: losses are evaluated where no step is taken.

    Examples:
        >>> from kanlib.objectives.attention import Attention
        >>> class Residual:
        ...     def __init__(self, x):
        ...         self.x, self.attention = x, Attention(damping=1e-3)
        ...         self.after_step = self.attention.after_step
        ...         self.state_dict = self.attention.state_dict
        ...         self.load_state_dict = self.attention.load_state_dict
        ...
        ...     def __call__(self, model):
        ...         return self.attention(model(self.x) - self.x).square().mean()
        >>> isinstance(Residual(torch.ones(4, 1)), Stateful)
        True
    """

    def __call__(self, model: Any) -> Tensor:
        """Return the scalar loss."""

    def after_step(self) -> None:
        """Change the state; called once after each optimizer step that is kept."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors, numbers, strings, lists and dicts."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


@runtime_checkable
class Summed(Protocol):
    """An objective that is a sum of named terms, which ``run.history.terms`` tells apart.

    Training evaluates the terms in place of the sum, so that the record costs nothing.

    Examples:
        >>> class TwoTerms:
        ...     def parts(self, model):
        ...         return {"data": model(torch.ones(1)), "smoothness": torch.tensor(0.5)}
        ...     def __call__(self, model):
        ...         return sum(self.parts(model).values())
        >>> isinstance(TwoTerms(), Summed)
        True
        >>> TwoTerms()(torch.square)
        tensor([1.5000])
    """

    def __call__(self, model: Any) -> Tensor:
        """Return the scalar loss, the sum of the terms."""

    def parts(self, model: Any) -> dict[str, Tensor]:
        """Return the terms, scalars of the same names at each evaluation."""


def total(parts: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the terms of a :class:`Summed` objective."""
    return torch.stack([*parts.values()]).sum()


def evaluated(objective: Callable[[Any], Tensor], model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a model, and its terms where the objective tells them apart.

    The objective is evaluated once, by its terms if it is :class:`Summed`.
    """
    if not isinstance(objective, Summed):
        return objective(model), {}
    terms = objective.parts(model)
    return total(terms), terms


class Inside:
    """The check that points lie in the domain of the splines that they enter, once a network.

    Args:
        x: inputs of the network, of shape (N, P).
        name: what errors call them.
    """

    def __init__(self, x: Tensor, name: str) -> None:
        self.x, self.name = x, name
        self._known: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Inside, (self.x, self.name)

    def __call__(self, model: Any) -> None:
        """Raise ValueError if points lie outside the domain of a network.

        The splines are those that points enter first, whatever fixed maps lie before: an
        ``input_domain``, an overridden ``forward``, a wrapper. Behind trained maps, any value goes.
        """
        if not isinstance(model, nn.Module) or torch.compiler.is_compiling():
            return
        if self._known is not None and self._known() is model:
            return
        if torch._C._functorch.get_interpreter_stack():  # a transformation: values are hidden
            return
        self._check(getattr(model, "_orig_mod", model), self.x)
        self._known = weakref.ref(model)

    def _check(self, model: nn.Module, x: Tensor) -> None:
        features = getattr(model, "widths", None)
        if isinstance(features, list) and x.shape[-1] != features[0]:
            raise ValueError(
                f"{self.name} must have one column for each of the {features[0]} inputs of the "
                f"network, got {x.shape[-1]}: give them, build the network with "
                f"widths=[{x.shape[-1]}, ...], or, in a Term, compute them with features="
            )
        if type(model).forward in (KAN.forward, MLP.forward):
            check_dtype(self.name, x, next(model.parameters()))
        module, z = reached(model, x, _takes_points) or (None, x)
        if isinstance(module, Ensemble):
            self._check(module.template, z.flatten(0, -2))
        if not isinstance(module, SplineLayer | ExpansionLayer):
            return
        a, b = module.domain
        slack = max(1e-6, 4 * torch.finfo(z.dtype).eps) * (b - a)
        placed = module.entering(z[None])[0] if isinstance(module, SplineLayer) else z
        outside = (placed < a - slack) | (placed > b + slack)
        if outside.any():
            row = int(outside.flatten(0, -2).any(dim=1).nonzero()[0])
            point, entered = (v.flatten(0, -2)[row].tolist() for v in (x, z))
            mapped = "" if point == entered else f", which enters the splines as {entered}"
            built = "the network with domain=(low, high), or with"
            if isinstance(module, ExpansionLayer):
                built = "the basis with domain=(low, high), or the network with"
            raise ValueError(
                f"{self.name} must lie in the model's domain [{a:g}, {b:g}], got {point} at point "
                f"{row}{mapped}: build {built} "
                "input_domain=[(low, high), ...] for each coordinate"
            )


def _takes_points(module: nn.Module) -> bool:
    """Return whether a module with parameters may be the first that points enter."""
    own = any(True for _ in module.parameters(recurse=False))
    leaf = own and not any(True for _ in module.children())
    return leaf or isinstance(module, SplineLayer | Ensemble | nn.Linear)


def _check_data(x: Tensor, y: Tensor) -> None:
    """Raise unless x (N, P) and y (N, Q) are finite data."""
    for name, data in (("x", x), ("y", y)):
        if not isinstance(data, Tensor) or not data.is_floating_point():
            kind = data.dtype if isinstance(data, Tensor) else type(data).__name__
            raise TypeError(f"{name} must be a floating-point tensor, got {kind}")
        if data.ndim != 2 or data.shape[0] == 0:
            raise ValueError(
                f"{name} must have shape (N, features) with N >= 1, got {tuple(data.shape)}"
            )
        bad = ~torch.isfinite(data).all(dim=1)
        if bad.any():
            raise ValueError(
                f"{name} must be finite, got NaN or infinite entries in {int(bad.sum())} "
                f"row(s), the first at {int(bad.nonzero()[0])}: remove or repair them"
            )
    if x.shape[0] != y.shape[0] or x.dtype != y.dtype or x.device != y.device:
        raise ValueError(
            "x and y must agree in rows, dtype and device, got "
            f"{tuple(x.shape)} {x.dtype} {x.device} and {tuple(y.shape)} {y.dtype} {y.device}"
        )


class MeanSquaredError:
    """The objective mean((model(x) - y)**2) over a data set, or over each batch.

    Of an ensemble it is the sum over its networks, so that each has the gradient of its own.

    Args:
        x: inputs of shape (N, P).
        y: targets of shape (N, Q), same dtype and device as x. Leave out both to train with
            batches (x, y): ``train(model, MeanSquaredError(), epochs, batches=loader)``.

    Raises:
        TypeError: if the data are not floating-point tensors.
        ValueError: if the data are empty, not finite, not two-dimensional or do not match; in a
            call, if points lie outside the domain of the model or its outputs do not match.

    Examples:
        >>> objective = MeanSquaredError(torch.zeros(4, 2), torch.ones(4, 1))
        >>> objective(lambda x: x.sum(dim=1, keepdim=True))
        tensor(1.)
    """

    def __init__(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        self._data: tuple[Tensor, Tensor, Inside] | None = None
        if x is not None or y is not None:
            self._data = self._checked(x, y)

    @staticmethod
    def _checked(x: Any, y: Any) -> tuple[Tensor, Tensor, Inside]:
        _check_data(x, y)
        return x, y, Inside(x, "points x")

    @property
    def x(self) -> Tensor:
        """The inputs.

        Raises:
            ValueError: if there are no data.
        """
        return self._own()[0]

    @property
    def y(self) -> Tensor:
        """The targets.

        Raises:
            ValueError: if there are no data.
        """
        return self._own()[1]

    def _own(self) -> tuple[Tensor, Tensor, Inside]:
        if self._data is None:
            raise ValueError(
                "MeanSquaredError() has no data: give it x and y, or train with batches=..."
            )
        return self._data

    def __call__(
        self, model: Callable[[Tensor], Tensor], batch: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Return the mean squared error of the model, on a batch (x, y) if there are no data."""
        if batch is None:
            x, y, inside = self._own()
        elif self._data is not None:
            raise ValueError(
                "MeanSquaredError(x, y) takes no batches, it has its data: leave out batches, or "
                "leave out x and y, as in MeanSquaredError()"
            )
        elif not isinstance(batch, list | tuple) or len(batch) != 2:
            raise ValueError(
                "batches must yield pairs (x, y), e.g. of DataLoader(TensorDataset(x, y), "
                f"batch_size=...), got {type(batch).__name__}"
            )
        else:
            x, y, inside = self._checked(*batch)
        inside(model)
        prediction = model(x)
        members = getattr(model, "num_members", None)
        if prediction.shape != y.shape and prediction.shape != (members, *y.shape):
            raise ValueError(
                f"model output has shape {tuple(prediction.shape)} but y has "
                f"{tuple(y.shape)}: the last width of the model must be {y.shape[1]}"
            )
        squares = (prediction - y).square()
        return squares.mean() if squares.ndim == 2 else squares.mean((1, 2)).sum()

    def residuals(self) -> list[Residual]:
        """Return the residual model(x) - y, see :class:`kanlib.objectives.squares.SumOfSquares`."""
        jet = Jet(self.x[None], directions=0)
        return [Residual(lambda u, y: u.value - y, [jet], [self.y])]
