"""Causal weights: what comes later counts once what comes before is solved.

The residual of an evolution equation can be small at late times for a wrong solution, while early
times are still unsolved. With the mean squares L_1, L_2, ... of the residual in consecutive slices
of time, slice i gets the weight

    w_i = exp(-epsilon (L_1 + ... + L_{i-1})), or a least one,

as proposed by S. Wang, S. Sankaran and P. Perdikaris, Computer Methods in Applied Mechanics and
Engineering 421 (2024).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kanlib._checks import as_integer, as_interval, as_number, check_tensor

__all__ = ["Causal"]


class Causal:
    """Causal weights for a term, ``Term(..., causal=Causal((0, 1)))``.

    The weights follow the residual after each step, are constants for the gradient and change
    between steps only. They belong to slices of time, not to points, so that points may move.
    Checkpoints hold them, and refinements keep them. Use one for each term.

    Args:
        interval: (start, end) of time.
        coordinate: which coordinate time is, by default the last one.
        slices: number of slices, of equal length.
        epsilon: how strict the weights are, in units of one over the mean square of the residual.
        least: the smallest weight, from 0 to 1. Without any weight at late times, large steps, such
            as those of Gauss-Newton, could go anywhere there.

    Attributes:
        weights: the weights of the slices, (slices,), or one row for each network of an ensemble;
            None before the first evaluation.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if an argument is out of range.

    Examples:
        >>> causal = Causal((0, 1), slices=2)
        >>> t = torch.tensor([[0.1], [0.4], [0.9]])
        >>> _ = causal(torch.tensor([[1.0], [2.0], [3.0]]), t)
        >>> causal.weights  # the second is exp(-(1 + 4) / 2)
        tensor([1.0000, 0.0821])
    """

    def __init__(
        self,
        interval: tuple[float, float],
        *,
        coordinate: int = -1,
        slices: int = 16,
        epsilon: float = 1.0,
        least: float = 1e-3,
    ) -> None:
        self.interval = as_interval("interval", interval)
        self.coordinate = as_integer("coordinate", coordinate)
        self.slices = as_integer("slices", slices, minimum=1)
        self.epsilon = as_number("epsilon", epsilon, above=0)
        self.least = as_number("least", least, 0)
        if self.least > 1:
            raise ValueError(f"least must be at most 1, got {least!r}")
        self.weights: Tensor | None = None

    def __call__(self, residual: Tensor, points: Tensor) -> Tensor:
        """Return the residual (N, K), or (S, N, K), times the roots of the weights of its points.

        Raises:
            ValueError: if the points do not have the coordinate.
        """
        check_tensor("residual", residual)
        if self.weights is None:
            self.update(residual.detach(), points)
        return self.roots(points) * residual

    def roots(self, points: Tensor) -> Tensor:
        """Return the roots of the weights at points, (N, 1), or (S, N, 1); 1 at first."""
        if self.weights is None:
            return torch.ones_like(points[:, :1])
        return self.weights.to(points)[..., self._slice(points)].sqrt()[..., None]

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, for a checkpoint."""
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.weights = state["weights"]

    def update(self, residual: Tensor, points: Tensor) -> None:
        """Take the weights that follow from a residual."""
        squares, places = residual.square().mean(-1), self._slice(points)
        totals = squares.new_zeros(*squares.shape[:-1], self.slices)
        totals.index_add_(-1, places, squares)
        means = totals / torch.bincount(places, minlength=self.slices).clamp(min=1)
        self.weights = (-self.epsilon * (means.cumsum(-1) - means)).exp().clamp(min=self.least)

    def _slice(self, points: Tensor) -> Tensor:
        """Return the slice of each point; those outside belong to the outer ones."""
        if not -points.shape[1] <= self.coordinate < points.shape[1]:
            raise ValueError(
                f"coordinate must be one of the {points.shape[1]} of the points, got "
                f"{self.coordinate}: count from 0, or from the end with -1"
            )
        start, end = self.interval
        share = (points[:, self.coordinate] - start) / (end - start)
        return (share * self.slices).floor().clamp(0, self.slices - 1).long()
