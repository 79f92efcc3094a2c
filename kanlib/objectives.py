"""Objectives: functions from a model to the scalar loss that training minimises.

Any function will do. An object that also has the methods of :class:`Stateful` may change from step
to step, and what it has become survives refinements and interruptions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from kanlib.derivatives import Jet
from kanlib.squares import Residual

#: ``objective(model)``, or ``objective(model, batch)``, returning a scalar loss.
Objective = Callable[..., Tensor]


@runtime_checkable
class Stateful(Protocol):
    """An objective with a state, e.g. weights of residual-based attention.

    Its value must depend on the model and the state only, and no evaluation may change the state
    in a way that later values or states depend on: losses are evaluated where no step is taken.

    Examples:
        >>> from kanlib.attention import Attention
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


class MeanSquaredError:
    """The objective mean((model(x) - y)**2) over a fixed data set.

    Args:
        x: inputs of shape (N, P).
        y: targets of shape (N, Q), same dtype and device as x.

    Raises:
        ValueError: if the data are empty, not finite, not two-dimensional or do not match.

    Examples:
        >>> objective = MeanSquaredError(torch.zeros(4, 2), torch.ones(4, 1))
        >>> objective(lambda x: x.sum(dim=1, keepdim=True))
        tensor(1.)
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
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
        self.x, self.y = x, y

    def __call__(self, model: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the mean squared error of the model."""
        prediction = model(self.x)
        if prediction.shape != self.y.shape:
            raise ValueError(
                f"model output has shape {tuple(prediction.shape)} but y has "
                f"{tuple(self.y.shape)}: the last width of the model must be {self.y.shape[1]}"
            )
        return (prediction - self.y).square().mean()

    def residuals(self) -> list[Residual]:
        """Return the residual model(x) - y, see :class:`kanlib.squares.SumOfSquares`."""
        jet = Jet(self.x[None], directions=0)
        return [Residual(lambda u, y: u.value - y, [jet], [self.y])]
