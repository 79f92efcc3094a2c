"""Shares: how processes that each have some of the points of an objective act as one.

What is added up over points is added up over processes, too: losses, gradients, Gram matrices,
products with transposed Jacobians. All else every process does alike, and so gets the same numbers.
An objective whose points are shared has an attribute ``shares``; one without is alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")


class Shares(Protocol):
    """The processes among which the points of an objective are shared.

    All must call the same methods in the same order.
    """

    size: int  # number of processes
    first: bool  # whether this is the one that writes files and shows progress

    def total(self, *parts: Tensor) -> list[Tensor]:
        """Return the sums over all processes, of the same shapes."""

    def stacked(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, one below the other."""

    def agreed(self, decide: Callable[[], T]) -> T:
        """Return what a function returns in the first process, or raise what it raises there."""

    def difference(self, facts: Mapping[str, int]) -> str:
        """Return the first of some names whose number is not that of all processes, or nothing."""


class Alone:
    """One process, which has all points."""

    size, first = 1, True

    def total(self, *parts: Tensor) -> list[Tensor]:
        """Return the parts, which are the sums."""
        return [*parts]

    def stacked(self, rows: Tensor) -> Tensor:
        """Return the rows."""
        return rows

    def agreed(self, decide: Callable[[], T]) -> T:
        """Return what the function returns."""
        return decide()

    def difference(self, facts: Mapping[str, int]) -> str:
        """Return nothing: one process has what it has."""
        return ""


ALONE = Alone()


def shares_of(objective: Any) -> Shares:
    """Return the processes that share the points of an objective."""
    return getattr(objective, "shares", ALONE)
