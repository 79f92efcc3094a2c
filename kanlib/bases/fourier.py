"""Waves up to a frequency, which are nested by frequency."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kanlib._checks import as_integer, as_interval, as_number, shown
from kanlib.bases.protocol import FunctionBasis, appended

__all__ = ["Fourier"]


class Fourier(FunctionBasis):
    """The functions 1, cos w z, sin w z, ..., cos K w z, sin K w z of z = x - a, w = 2 pi / period.

    They are defined everywhere, and periodic. With the length of the domain as period, which is the
    default, they are orthogonal, and take equal values at both ends, as all that they span does. A
    longer period, such as twice the length, frees the ends and costs orthogonality.

    Args:
        frequencies: number K of frequencies, at least 1.
        domain: end points (a, b).
        period: the period, at least b - a.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if there is no frequency, the domain is no interval, or the period is shorter.

    Examples:
        >>> Fourier(1).derivatives(torch.tensor([0.25]), 0)[0].round(decimals=4) + 0.0
        tensor([[1., 0., 1.]])
        >>> Fourier(2).refine()
        Fourier(frequencies=4, domain=[0.0, 1.0], period=1.0)
    """

    def __init__(
        self,
        frequencies: int,
        domain: tuple[float, float] = (0.0, 1.0),
        period: float | None = None,
    ) -> None:
        self.frequencies = as_integer("frequencies", frequencies, minimum=1)
        a, b = self.domain = as_interval("domain", domain)
        self.period = as_number("period", b - a if period is None else period, b - a)
        self.size = 2 * self.frequencies + 1

    @property
    def n(self) -> int:
        """The number of frequencies."""
        return self.frequencies

    def derivatives(self, x: Tensor, order: int) -> Tensor:
        """Return all waves and their derivatives, everywhere."""
        count = torch.arange(1, self.frequencies + 1, dtype=x.dtype, device=x.device)
        turns = ((x - self.domain[0]) / self.period).remainder(1.0)
        angle = 2 * math.pi * (turns[..., None] * count).remainder(1.0)
        cosine, sine = angle.cos(), angle.sin()
        cycle = [(cosine, sine), (-sine, cosine), (-cosine, -sine), (sine, -cosine)]
        constant = 0 * x[..., None]  # keeps NaN
        found = []
        for m in range(order + 1):
            pair = torch.stack(cycle[m % 4], dim=-1)
            waves = ((2 * math.pi / self.period * count) ** m)[:, None] * pair
            found.append(torch.cat([constant if m else constant + 1, waves.flatten(-2)], dim=-1))
        return torch.stack(found)

    def refine(self) -> Fourier:
        """Return the waves of twice as many frequencies."""
        return Fourier(2 * self.frequencies, self.domain, self.period)

    def prolongation(self, finer: Fourier) -> Tensor:
        """Return the matrix that appends zero coefficients.

        Raises:
            ValueError: if ``finer`` is no Fourier basis of this domain and period with at least as
                many frequencies.
        """
        matrix = appended(self, finer)
        if finer.period != self.period:
            raise ValueError(
                f"finer must have the period {self.period!r}, got {shown(finer.period)}: waves of "
                "one period do not span those of another"
            )
        return matrix

    def describe(self) -> dict[str, Any]:
        """Return the number of frequencies, the domain and the period."""
        return {
            "frequencies": self.frequencies, "domain": [*self.domain], "period": self.period
        }  # fmt: skip
