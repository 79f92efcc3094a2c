"""Schedules: how many epochs the levels of a training have, and what ends a level before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kanlib._checks import as_integer, as_list, shown
from kanlib.training.stagnation import Stagnation

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """Epochs on each level, the coarsest first.

    Work is counted in coarse epochs: an epoch on a level with twice the intervals costs twice.
    The three schedules of Table 2 do the same work.

    Args:
        epochs: e.g. [32, 16, 8, 4]; 0 skips a level (the model is only prolonged through it).
        until: what ends a level before these epochs, which are then the most that it may have.

    Raises:
        TypeError: if ``until`` is no Stagnation.
        ValueError: if there is no level, or an entry is not an integer of at least 0.

    Examples:
        >>> for epochs in ([32, 16, 8, 4], [128, 0, 0, 0], [0, 0, 0, 16]):
        ...     print(Schedule(epochs).work)
        128.0
        128.0
        128.0
        >>> Schedule([200, 200, 200], until=Stagnation(every=5)).num_levels
        3
    """

    epochs: Sequence[int]
    until: Stagnation | None = None

    def __post_init__(self) -> None:
        try:
            given = as_list("epochs", self.epochs, "integers")
            epochs = tuple(as_integer("epochs", count, minimum=0) for count in given)
        except (TypeError, ValueError):
            epochs = ()
        if not epochs:
            raise ValueError(
                "epochs must be a list of integers of at least 0, one a level, got "
                f"{shown(self.epochs)}"
            )
        object.__setattr__(self, "epochs", epochs)
        if not isinstance(self.until, Stagnation | None):
            raise TypeError(f"until must be a Stagnation, got {shown(self.until)}")

    @property
    def num_levels(self) -> int:
        """Number of levels."""
        return len(self.epochs)

    @property
    def work(self) -> float:
        """The most work, in coarse epochs, when every level doubles the intervals."""
        return float(sum(count * 2**level for level, count in enumerate(self.epochs)))

    def level(self, number: int) -> Schedule:
        """Return the schedule of one level alone."""
        return Schedule(self.epochs[number : number + 1], self.until)
