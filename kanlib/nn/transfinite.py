"""Functions with given values and slopes on the faces of a box.

Along one coordinate, s from 0 to 1, polynomials B_c of least degree have one of the given values
or slopes L_c equal to one, and all others equal to zero (Hermite and Birkhoff interpolation). The
data h_c of the faces are blended with them, one coordinate j after the other,

    g <- g + sum_c B_c(s_j) (h_c - L_c g),

which keeps what holds on the faces of the coordinates before, if data agree where faces meet:
Boolean sums, W. J. Gordon, SIAM Journal on Numerical Analysis 8 (1971).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kanlib._checks import as_integer, as_interval, as_list, as_number, check_function, shown
from kanlib.nn.jets import Jet

__all__ = ["blends"]

# What is given on a face, a number or a function of points (N, P) with values (N, 1) or (N, Q).
Data = float | Callable[[Tensor], Tensor]

# The same on all faces, or one for some, where (j, place) is the face on which coordinate j has the
# place, an end of its interval.
Given = Data | Mapping[tuple[int, float], Data] | None

#: Relative places on a face where data are compared. Waves that fit the face do not vanish at all
#: of them, since those within are irrational.
PLACES = (0.0, math.sqrt(5) - 2, (math.sqrt(5) - 1) / 2, 1.0)


@dataclass(frozen=True)
class Condition:
    """A value, or a slope along the coordinate, that is given on one face."""

    end: int  # 0 for the low end of the coordinate, 1 for the high one
    order: int  # 0 for the value, 1 for the slope
    data: Data

    def at(self, x: Tensor) -> Any:
        """Return the data at points."""
        return self.data(x) if callable(self.data) else self.data


@dataclass(frozen=True)
class Box:
    """Conditions on the faces of a box.

    Args:
        intervals: (low, high) of each coordinate.
        conditions: those of each coordinate.
        columns: which outputs have them, as ones and zeros; by default all.
    """

    intervals: tuple[tuple[float, float], ...]
    conditions: tuple[tuple[Condition, ...], ...]
    columns: tuple[float, ...] = ()

    def share(self, x: Tensor, j: int) -> Tensor:
        """Return s = (x_j - low) / (high - low), of shape (N, 1).

        Raises:
            ValueError: if the points have another number of coordinates than the box.
        """
        if x.shape[-1] != len(self.intervals):
            raise ValueError(
                f"x must have one coordinate for each of the {len(self.intervals)} intervals of "
                f"the box, got shape {tuple(x.shape)}"
            )
        low, high = self.intervals[j]
        return (x[..., j : j + 1] - low) / (high - low)

    def folded(self, j: int) -> tuple[bool, bool]:
        """Return whether the slope alone is given at the low and at the high end."""
        orders = [[c.order for c in self.conditions[j] if c.end == end] for end in (0, 1)]
        return orders[0] == [1], orders[1] == [1]

    def fold(self, s: Tensor, j: int) -> Tensor:
        """Return s, or a map of [0, 1] onto itself with slope zero where that alone is given."""
        low, high = self.folded(j)
        if low and high:
            return s * s * (3 - 2 * s)
        return s * s if low else s * (2 - s) if high else s

    def on_face(self, x: Tensor, j: int, end: int) -> Tensor:
        """Return points moved to a face along its coordinate."""
        moved = torch.full_like(x[..., :1], self.intervals[j][end])
        return torch.cat([x[..., :j], moved, x[..., j + 1 :]], dim=-1)

    def given(self, function: Callable[[Tensor], Tensor], x: Tensor, j: int, order: int) -> Tensor:
        """Return the value of a function at points, or its slope along coordinate j."""
        return Jet.at(x, directions=[j]).through(function).d(0) if order else function(x)


@dataclass(frozen=True)
class Lift:
    """The function g that has all given values and slopes of a box."""

    box: Box

    def __call__(self, x: Tensor) -> Tensor:
        """Return g at points (N, P), of shape (N, 1) or (N, Q)."""
        found = self._blended(x, len(self.box.intervals))
        return spread(found, self.box.columns)

    def _blended(self, x: Tensor, count: int) -> Tensor:
        """Return the function that satisfies the conditions of the first so many coordinates."""
        if not any(self.box.conditions[:count]):
            return torch.zeros_like(x[..., :1])
        j, box = count - 1, self.box
        found, own = self._blended(x, j), box.conditions[j]
        if not own:
            return found
        s, width = box.share(x, j), box.intervals[j][1] - box.intervals[j][0]
        polynomials = blends(tuple((c.end, c.order) for c in own))
        for condition, coefficients in zip(own, polynomials, strict=True):
            at = box.on_face(x, j, condition.end)
            lacking = condition.at(at) - box.given(
                lambda x: self._blended(x, j), at, j, condition.order
            )
            blend = sum(c * s**power for power, c in enumerate(coefficients) if c)
            found = found + blend * lacking * width**condition.order
        return found


@dataclass(frozen=True)
class Vanishing:
    """The factor d, zero where a value is given, with slope zero where a slope is; 1 at most."""

    box: Box

    def __call__(self, x: Tensor) -> Tensor:
        """Return d at points (N, P), of shape (N, 1) or (N, Q)."""
        found = torch.ones_like(x[..., :1])
        for j, own in enumerate(self.box.conditions):
            low, high = (self._zeros(own, end) for end in (0, 1))
            if low + high:
                s = self.box.fold(self.box.share(x, j), j)
                most = low**low * high**high / (low + high) ** (low + high)
                found = found * s**low * (1 - s) ** high / most
        return spread(found, self.box.columns, outside=1.0)

    @staticmethod
    def _zeros(own: Sequence[Condition], end: int) -> int:
        orders = {condition.order for condition in own if condition.end == end}
        return len(orders) if 0 in orders else 0


@dataclass(frozen=True)
class Folded:
    """The map of a box onto itself with slope zero across faces where the slope alone is given."""

    box: Box

    def __call__(self, x: Tensor) -> Tensor:
        """Return the points (N, P) where the network is evaluated."""
        found = []
        for j, (low, high) in enumerate(self.box.intervals):
            folded = any(self.box.folded(j))
            s = self.box.fold(self.box.share(x, j), j) if folded else None
            found.append(x[..., j : j + 1] if s is None else low * (1 - s) + high * s)
        return torch.cat(found, dim=-1)


def spread(values: Tensor, columns: tuple[float, ...], outside: float = 0.0) -> Tensor:
    """Return values (N, 1) or (N, K) in K columns out of Q, with a constant in the others."""
    if not columns:
        return values
    chosen = values.new_tensor(columns)
    matrix = torch.diag(chosen)[chosen > 0]
    return values.expand(*values.shape[:-1], len(matrix)) @ matrix + outside * (1 - chosen)


@cache
def blends(places: tuple[tuple[int, int], ...]) -> list[list[float]]:
    """Return the coefficients, lowest power first, of the polynomials B_c.

    Args:
        places: end, 0 or 1, and order, 0 for a value and 1 for a slope, of what is given.

    Examples:
        The values at both ends have 1 - s and s:

        >>> blends(((0, 0), (1, 0)))
        [[1.0, -1.0], [0.0, 1.0]]
    """
    lowest = 0 if any(order == 0 for _, order in places) else 1
    powers = range(lowest, lowest + len(places))
    matrix = torch.tensor(
        [[_monomial(power, *place) for power in powers] for place in places],
        dtype=torch.float64,
        device="cpu",
    )
    columns = torch.linalg.inv(matrix).T + 0.0
    return [[0.0] * lowest + column.tolist() for column in columns]


def _monomial(power: int, end: int, order: int) -> float:
    """Return the value or slope of s^power at an end."""
    if end == 1:
        return float(power) if order else 1.0
    return float(power == order)


def box_of(
    intervals: Sequence[tuple[float, float]],
    value: Given,
    slope: Given,
    columns: tuple[float, ...] = (),
) -> Box:
    """Return the conditions on the faces of a box.

    Args:
        intervals: (low, high) of each coordinate.
        value: values, on all faces or by face.
        slope: slopes along the coordinate of a face, in the same form.
        columns: which outputs have them, as ones and zeros; by default all.

    Raises:
        TypeError: if data are neither numbers nor functions.
        ValueError: if an interval or a face is none of the box, nothing is given, or the slope
            alone is given and not for all outputs.
    """
    pairs = as_list("intervals", intervals, "pairs (low, high)")
    if not pairs:
        raise ValueError("intervals must hold one pair (low, high) for each coordinate, got none")
    box = tuple(as_interval(f"intervals[{j}]", pair) for j, pair in enumerate(pairs))
    faces = [(j, end) for j in range(len(box)) for end in (0, 1)]
    found: list[list[Condition]] = [[] for _ in box]
    for order, (name, given) in enumerate({"value": value, "slope": slope}.items()):
        for (j, end), data in _by_face(name, given, box, faces).items():
            found[j].append(Condition(end, order, data))
    if not any(found):
        raise ValueError(
            "value or slope must be given on a face, as in value=0.0 or value={(0, -1.0): 0.0}, "
            "got none"
        )
    ordered = (tuple(sorted(own, key=lambda c: (c.end, c.order))) for own in found)
    made = Box(box, tuple(ordered), columns)
    if columns and not all(columns) and any(any(made.folded(j)) for j in range(len(box))):
        raise ValueError(
            "slope without value on a face acts on the inputs of the network, and so on all "
            "outputs, but of= names some: give the value there, too, or leave the slope to a Term"
        )
    return made


def _by_face(
    name: str,
    given: Given,
    box: Sequence[tuple[float, float]],
    faces: Sequence[tuple[int, int]],
) -> dict[tuple[int, int], Data]:
    """Return the data of each face, by coordinate and end."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        return dict.fromkeys(faces, _data(name, given))
    found = {}
    for face, data in given.items():
        try:
            j, place = face
            j = as_integer("j", j, 0, len(box) - 1)
            end = box[j].index(as_number("place", place))
        except (TypeError, ValueError):
            raise ValueError(
                f"{name} must name faces (j, place), where place is an end of intervals[j], of "
                f"{[*box]}, got {shown(face)}"
            ) from None
        found[j, end] = _data(f"{name}[{shown(face)}]", data)
    return found


def _data(name: str, data: Any) -> Data:
    if callable(data):
        check_function(name, data, "number or a function of points")
        return data
    return as_number(name, data)


def check_agree(box: Box, like: Tensor, outputs: int | None = None) -> None:
    """Raise ValueError unless g has what is given on all faces: data agree where faces meet.

    Args:
        box: the conditions.
        like: a tensor of the dtype and device to compute in.
        outputs: how many outputs have the conditions, if that is known.
    """
    lift = Lift(Box(box.intervals, box.conditions))
    low, high = torch.tensor(box.intervals, dtype=torch.float64).T.to(like)
    shares = torch.tensor([*itertools.product(PLACES, repeat=len(low))]).to(like)
    x = low + (high - low) * shares
    for j, own in enumerate(box.conditions):
        for condition in own:
            at = box.on_face(x, j, condition.end)
            what = "slope" if condition.order else "value"
            face = j, box.intervals[j][condition.end]
            wanted = torch.as_tensor(condition.at(at)).to(like)
            if callable(condition.data):
                check_columns(f"{what}[{face}]", wanted, at, outputs)
            found = box.given(lift, at, j, condition.order)
            off = (found - wanted).abs().amax(-1)
            if not off.max() <= torch.finfo(like.dtype).eps ** 0.5 * (1 + wanted.abs().max()):
                raise ValueError(
                    f"value and slope must agree where faces meet, but the {what} on the face "
                    f"{face} is off by {float(off.max()):.3g} at "
                    f"{at[off.argmax()].tolist()}: change the data, or leave some to a Term"
                )


def check_columns(name: str, values: Any, x: Tensor, outputs: int | None) -> None:
    """Raise ValueError unless values at points x (..., P) have the shape (..., 1) or (..., Q).

    Args:
        name: what the error calls the function.
        values: what it returned.
        x: the points.
        outputs: the number Q of outputs, None for any.
    """
    got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    rows = (*x.shape[:-1],)
    shaped = isinstance(values, Tensor) and values.ndim == x.ndim and values.shape[:-1] == rows
    if not shaped or (outputs is not None and values.shape[-1] not in (1, outputs)):
        sizes = dict.fromkeys((1, "Q" if outputs is None else outputs))
        wanted = " or ".join(f"({', '.join(map(str, (*rows, k)))})" for k in sizes)
        raise ValueError(
            f"{name} must return {wanted}, a column for all outputs or one for each, got {got}: "
            "slice columns as x[:, :1], not x[:, 0]"
        )
