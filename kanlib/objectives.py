"""Objectives: functions from a model to the scalar loss that training minimises."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: ``objective(model)``, or ``objective(model, batch)``, returning a scalar loss.
Objective = Callable[..., Tensor]


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
