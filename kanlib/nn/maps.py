"""Fixed maps onto the domain of splines: of the inputs of a network, and of hidden values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kanlib._checks import as_integer, as_interval, as_list, check_factory, check_option, shown
from kanlib.nn.described import Described

__all__ = ["Circle", "InputMap", "Normalisation"]

Kind = Literal["sigmoid", "tanh"]
NORMALISATIONS: dict[Kind, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


class InputMap(Described):
    """The affine map of each coordinate from its interval [low, high] onto [a, b].

    Args:
        intervals: (low, high) of each of the P coordinates.
        domain: end points (a, b).
        device: device of the inputs.
        dtype: floating-point type of the inputs.

    Shape:
        Input and output (..., P).

    Raises:
        ValueError: if an interval is not a pair of finite numbers low < high.

    Examples:
        >>> InputMap([(-1, 1), (0, 1)], (-1.0, 1.0))(torch.tensor([0.5, 0.5]))
        tensor([0.5000, 0.0000])
    """

    low: Tensor
    width: Tensor

    def __init__(
        self,
        intervals: Sequence[tuple[float, float]],
        domain: tuple[float, float],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_factory(device, dtype)
        pairs = as_list("intervals", intervals, "pairs (low, high)")
        self.intervals = [as_interval(f"intervals[{i}]", pair) for i, pair in enumerate(pairs)]
        if not self.intervals:
            raise ValueError("intervals must hold one pair (low, high) for each input, got none")
        self.domain = as_interval("domain", domain)
        self.register_buffer("low", torch.empty(0, device=device, dtype=dtype), persistent=False)
        self.register_buffer("width", self.low, persistent=False)
        self._build_tables()

    def _build_tables(self) -> None:
        low, high = torch.tensor(self.intervals, dtype=torch.float64, device="cpu").T.to(self.low)
        self.low, self.width = low, high - low  # so that `high` is mapped to b exactly

    def _apply(self, fn: Any, recurse: bool = True) -> InputMap:
        """Move or cast the intervals; they are built anew, so that casts lose no accuracy."""
        super()._apply(fn, recurse)
        self._build_tables()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (..., P); the ends of the intervals go to a and b exactly."""
        a, b = self.domain
        share = (x - self.low) / self.width
        return a * (1 - share) + b * share

    @property
    def slope(self) -> Tensor:
        """The derivative of the map of each coordinate, of shape (P,)."""
        return (self.domain[1] - self.domain[0]) / self.width

    def describe(self) -> dict[str, Any]:
        """Return the intervals and the domain."""
        return {"intervals": [[*pair] for pair in self.intervals], "domain": [*self.domain]}

    def extra_repr(self) -> str:
        """Show the intervals and the domain."""
        return f"{_text(*self.intervals)} to {_text(self.domain)}"


class Circle(Described):
    """The map of periodic coordinates to the circle, so that what follows is periodic in them.

    A coordinate z with the period b - a becomes two numbers in [a, b], the cosine and the sine of
    2 pi (z - a) / (b - a), scaled; cosines take the place of the coordinates, sines follow at the
    end. The network is then as smooth across the ends as elsewhere.

    Args:
        coordinates: the periodic coordinates.
        features: number P of coordinates.
        domain: end points (a, b).

    Shape:
        Input (..., P), output (..., P + K) for K periodic coordinates.

    Raises:
        ValueError: if there is no coordinate, one is named twice, or it is none of the P.

    Examples:
        >>> ends = torch.tensor([[-1.0, 0.3], [1.0, 0.3]])
        >>> Circle([0], 2, (-1.0, 1.0))(ends).round(decimals=4) + 0.0
        tensor([[1.0000, 0.3000, 0.0000],
                [1.0000, 0.3000, 0.0000]])
    """

    index: Tensor
    periodic: Tensor
    phase: Tensor

    def __init__(
        self, coordinates: Sequence[int], features: int, domain: tuple[float, float]
    ) -> None:
        super().__init__()
        self.features = as_integer("features", features, minimum=1)
        listed = as_list("coordinates", coordinates, "coordinates")
        self.coordinates = [as_integer("coordinates", j, 0, features - 1) for j in listed]
        if not listed or len({*self.coordinates}) < len(listed):
            raise ValueError(
                f"coordinates must list different coordinates, at least one, got {shown(listed)}"
            )
        self.domain = as_interval("domain", domain)
        count = len(self.coordinates)
        index = torch.tensor([*range(features), *self.coordinates])
        phase = torch.tensor([0.0] * features + [0.25] * count)
        periodic = torch.isin(index, torch.tensor(self.coordinates))
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("periodic", periodic, persistent=False)
        self.register_buffer("phase", phase, persistent=False)  # in periods, exact in any dtype

    def _wave(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of the angles, which are the same at both ends."""
        a, b = self.domain
        angle = 2 * math.pi * (((z - a) / (b - a)).remainder(1.0) - self.phase.to(z))
        return angle.cos(), angle.sin()

    def forward(self, z: Tensor) -> Tensor:
        """Map z of shape (..., P)."""
        a, b = self.domain
        z = z[..., self.index]
        return torch.where(self.periodic, 0.5 * (a + b) + 0.5 * (b - a) * self._wave(z)[0], z)

    def orders(self, z: Tensor) -> list[Tensor]:
        """Return the first four derivatives of each output in its own coordinate."""
        a, b = self.domain
        cosine, sine = self._wave(z[..., self.index])
        rate = 2 * math.pi / (b - a)
        slopes = [-sine, -rate * cosine, rate**2 * sine, rate**3 * cosine]
        others = [1.0, 0.0, 0.0, 0.0]
        return [
            torch.where(self.periodic, math.pi * slope, slope.new_tensor(other))
            for slope, other in zip(slopes, others, strict=True)
        ]

    def select(self, features: Sequence[int]) -> nn.Module:
        """Return the map of some of the coordinates."""
        found = [features.index(p) for p in self.coordinates if p in features]
        if not found:
            return nn.Identity()
        return Circle(found, len(features), self.domain).to(self.phase)

    def describe(self) -> dict[str, Any]:
        """Return the periodic coordinates and the domain."""
        return {"periodic": [*self.coordinates], "domain": [*self.domain]}

    def extra_repr(self) -> str:
        """Show the coordinates and the domain."""
        return f"coordinates {self.coordinates}, {_text(self.domain)}"


class Normalisation(Described):
    """A map of all numbers onto the domain (a, b) of the splines that follow.

    It is a + (b - a) sigmoid(z), which for [-1, 1] is 2 sigmoid(z) - 1, or
    (a + b) / 2 + (b - a) / 2 tanh(z), twice as steep, which for [-1, 1] is tanh(z).

    Args:
        kind: "sigmoid" or "tanh".
        domain: end points (a, b).

    Raises:
        ValueError: if ``kind`` is unknown.

    Examples:
        >>> Normalisation("sigmoid", (-1.0, 1.0))(torch.tensor([-100.0, 0.0, 100.0]))
        tensor([-1.,  0.,  1.])
    """

    def __init__(self, kind: Kind, domain: tuple[float, float]) -> None:
        super().__init__()
        check_option("kind", kind, NORMALISATIONS)
        a, b = self.domain = as_interval("domain", domain)
        self.activation = NORMALISATIONS[kind]()
        self.scale, self.shift = (b - a, a) if kind == "sigmoid" else (0.5 * (b - a), 0.5 * (a + b))

    def forward(self, z: Tensor) -> Tensor:
        """Normalise z, of any shape."""
        return self.scale * self.activation(z) + self.shift

    def describe(self) -> dict[str, Any]:
        """Return the activation and the domain."""
        return {"activation": type(self.activation).__name__, "domain": [*self.domain]}

    def extra_repr(self) -> str:
        """Show the domain."""
        return f"onto {_text(self.domain)}"


def _text(*intervals: tuple[float, float]) -> str:
    return " x ".join(f"[{a:.12g}, {b:.12g}]" for a, b in intervals)
