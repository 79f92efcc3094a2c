"""Residual-based attention (eq. 42): weights that follow where the residual stays large."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kanlib._checks import as_number, check_tensor

__all__ = ["Attention"]


class Attention:
    """A weight lambda_i >= 0 for each collocation point, 1 at first, updated after each step.

    With the residuals r_i of the step::

        lambda_i <- (1 - damping) lambda_i + rate |r_i| / max_j |r_j|    (eq. 42: rate = damping),

    and the loss holds (lambda_i r_i)**2: a call returns lambda r and notes r for the update, so
    that nothing is evaluated twice. The weights are constants for the gradient. Residuals have the
    shape (N,) or (N, 1), or (S, N, 1) for an ensemble, each network with a maximum of its own.

    An objective that holds an Attention hands on its three methods ``after_step``, ``state_dict``
    and ``load_state_dict`` (see :class:`kanlib.objectives.mean_squared_error.Stateful`). Training
    then updates the weights, keeps them over refinements, and stores them in checkpoints. Use one
    for each run and each set of points.

    Args:
        damping: share mu of the old weight that is lost in an update, from 0 to 1.
        rate: what the largest residual adds, ``damping`` by default.

    Raises:
        ValueError: if ``damping`` or ``rate`` is out of range.

    Examples:
        >>> attention = Attention(damping=0.5)
        >>> attention(torch.tensor([[1.0], [-4.0]])).square().mean()
        tensor(8.5000)
        >>> attention.after_step()
        >>> attention.weights
        tensor([[0.6250],
                [1.0000]])
    """

    def __init__(self, damping: float = 1e-4, rate: float | None = None) -> None:
        self.damping = as_number("damping", damping, 0)
        if self.damping > 1:
            raise ValueError(f"damping must be at most 1, got {damping!r}")
        self.rate = self.damping if rate is None else as_number("rate", rate, 0)
        #: One weight for each residual; None before the first evaluation.
        self.weights: Tensor | None = None
        self._residual: Tensor | None = None

    def __call__(self, residual: Tensor) -> Tensor:
        """Return lambda r, of the shape of r, for the loss.

        Raises:
            ValueError: if the shape of r is not that of the weights.
        """
        check_tensor("residual", residual)
        if self.weights is None:
            self.weights = torch.ones_like(residual.detach())
        if self.weights.shape != residual.shape:
            raise ValueError(
                f"residual must have one entry for each weight, shape {tuple(self.weights.shape)}, "
                f"got {tuple(residual.shape)}: use one Attention for each set of points"
            )
        self.weights = self.weights.to(residual)
        self._residual = residual.detach()
        return self.weights * residual

    def after_step(self) -> None:
        """Update the weights with the residuals noted last."""
        if self.weights is None or self._residual is None:
            raise RuntimeError("after_step needs an evaluation before it: call the objective")
        size = self._residual.abs()
        points = tuple(range(-min(size.ndim, 2), 0))
        largest = size.amax(dim=points, keepdim=True)
        share = size / largest.clamp_min(torch.finfo(size.dtype).tiny)
        self.weights = (1 - self.damping) * self.weights + self.rate * share

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, for a checkpoint."""
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the weights of a checkpoint."""
        self.weights = state["weights"]
