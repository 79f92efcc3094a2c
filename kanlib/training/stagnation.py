"""Refine when a level has nothing left: ends of levels that depend on how a training goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kanlib._checks import as_integer, as_number, check_types

__all__ = ["Stagnation"]

#: The seed of the points on which levels are judged; a race ranks its networks on others.
JUDGED = 2**31 + 1


@dataclass(frozen=True)
class Stagnation:
    """A level ends where the loss no longer falls at points that no training has seen.

    With s_k the k-th measurement of a level, the first at its start, it ends at the first k where

        min(s_{k-m+1}, ..., s_k) > (1 - gain) min(s_0, ..., s_{k-m}),   m = patience.

    Each measurement counts as an evaluation of the loss. Steps on fixed points may gain there and
    lose between them, and with moving points the loss of one step is not that of the next: so the
    loss is that at points of its own, ``objective.fresh(seed)``, where the objective can draw them.

    Args:
        patience: measurements m that may pass without a gain.
        gain: a fall by less than this share of the least value before counts as none.
        every: epochs between measurements.
        validate: function from a network to the number that is measured, smaller for better ones,
            in place of the loss; with batches there must be one.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if it is out of range.

    Examples:
        >>> from kanlib import KAN, MeanSquaredError, Schedule, train_multilevel
        >>> import torch
        >>> x = torch.linspace(0, 1, 100, dtype=torch.float64)[:, None]
        >>> schedule = Schedule([200, 200], until=Stagnation(patience=3))
        >>> model = KAN([1, 1], n=4, dtype=torch.float64)
        >>> objective = MeanSquaredError(x, torch.sin(20 * x))
        >>> run = train_multilevel(model, objective, schedule, progress=False)
        >>> [level.epochs < 200 for level in run.levels]
        [True, True]
    """

    patience: int = 5
    gain: float = 0.1
    every: int = 1
    validate: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        check_types(Stagnation, vars(self))
        as_integer("patience", self.patience, minimum=1)
        as_integer("every", self.every, minimum=1)
        if as_number("gain", self.gain, minimum=0.0) >= 1:
            raise ValueError(f"gain must be a share below 1, got {self.gain!r}")

    def __str__(self) -> str:
        own = " of its own" if self.validate else ""
        return f"patience {self.patience}, gain {self.gain:g}, every {self.every}, validate{own}"

    def why(self, values: Sequence[float]) -> str:
        """Return why a level with these measurements ends, or nothing if it goes on."""
        before, last = values[: -self.patience], values[-self.patience :]
        if not before:
            return ""
        least = min(map(_comparable, before))
        if not min(map(_comparable, last)) > least - self.gain * abs(least):
            return ""
        what = "what validates" if self.validate else "the loss"
        epochs = self.patience * self.every
        return f"{what} fell by less than {self.gain:g} of {least:.3g} in {epochs} epochs"


def fresh(objective: Any, seed: int) -> Callable[[Any], Any]:
    """Return the loss at points that no training has seen, if the objective can draw them."""
    return objective.fresh(seed) if hasattr(objective, "fresh") else objective


def _comparable(value: float) -> float:
    return math.inf if math.isnan(value) else value
