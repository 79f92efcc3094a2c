"""What a multilevel schedule costs before it is run: parameters, operations, memory and time.

The time of a training step, forward and backward, is modelled layer by layer as::

    t = t_0 + c_1 B P r^2 + c_2 B P Q r + c_3 P Q (n + r - 1)

for B points, P inputs and Q outputs: a fixed price of calling the operators, the r functions at
each input, a sum over r rows of weights at each edge, and what is paid once a step for each weight.
The four constants are fitted to measured steps of layers; only the last term grows with n.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from kanlib.multilevel import Schedule

#: A step sums over r rows of weights three times, for outputs and for the gradients of both.
SUMS = 3


class Layer(NamedTuple):
    """A spline layer and the points that it sees."""

    points: int
    inputs: int
    outputs: int
    n: int
    r: int = 4

    @property
    def weights(self) -> int:
        """Number of weights, P Q (n + r - 1)."""
        return self.inputs * self.outputs * (self.n + self.r - 1)

    @property
    def operations(self) -> int:
        """Floating-point operations of a step that cannot be avoided, 6 B P Q r."""
        return 2 * SUMS * self.points * self.inputs * self.outputs * self.r

    @property
    def terms(self) -> tuple[float, float, float, float]:
        """What the four constants of the model are multiplied with."""
        functions = self.points * self.inputs * self.r
        return 1.0, functions * self.r, functions * self.outputs, self.weights


@dataclass(frozen=True)
class CostModel:
    """Seconds of a training step as a sum of four terms a layer.

    Attributes:
        constants: t_0, c_1, c_2, c_3 in seconds, none of them negative.

    Examples:
        >>> model = CostModel.fit([(Layer(b, 4, q, n), 1e-4 + 1e-9 * b * q)
        ...                        for b in (100, 1000) for q in (2, 8) for n in (5, 50)])
        >>> f"{model.seconds([Layer(500, 4, 4, 20)]):.2e}"
        '1.02e-04'
    """

    constants: tuple[float, float, float, float]

    @classmethod
    def fit(cls, measured: Iterable[tuple[Layer, float]]) -> CostModel:
        """Return the model with the least sum of squared relative errors.

        Args:
            measured: layers with the seconds of a step of each.

        Raises:
            ValueError: if there are fewer than four, or a time is not positive.
        """
        layers, seconds = zip(*measured, strict=True)
        if len(layers) < 4 or not min(seconds) > 0:
            raise ValueError(
                "measured must hold at least 4 layers with positive times, got "
                f"{len(layers)} with times from {min(seconds):g} s"
            )
        rows = np.array([layer.terms for layer in layers]) / np.array(seconds)[:, None]
        scale = rows.max(axis=0)
        found, _ = nnls(rows / scale, np.ones(len(rows)))
        return cls(tuple((found / scale).tolist()))

    def seconds(self, layers: Iterable[Layer]) -> float:
        """Return the seconds of a step of a network, given its layers."""
        return sum(
            constant * term
            for layer in layers
            for constant, term in zip(self.constants, layer.terms, strict=True)
        )


def layers_of(
    widths: Sequence[int], n: int, points: int, r: int = 4, first: str = "spline"
) -> list[Layer]:
    """Return the spline layers of ``KAN(widths, n, r, first=first)`` at some points.

    Raises:
        ValueError: if there are no spline layers.
    """
    pairs = [*pairwise(widths)]
    found = [Layer(points, p, q, n, r) for p, q in pairs[0 if first == "spline" else 1 :]]
    if not found:
        raise ValueError(
            f"widths must have a layer of splines, got {list(widths)} with first = {first!r}: "
            "add a width"
        )
    return found


@dataclass(frozen=True)
class Cost:
    """The cost of a training.

    Attributes:
        n: intervals of the finest grid.
        epochs: steps in all.
        parameters: parameters at the end.
        work: coarse epochs, as in :class:`kanlib.multilevel.Schedule`.
        operations: floating-point operations in the sums over rows of weights.
        memory: bytes that a step holds at most beside weights and their gradients: inputs of all
            layers for the way back, and what the largest layer needs to work.
        seconds: predicted time.
    """

    n: int
    epochs: int
    parameters: int
    work: float
    operations: float
    memory: int
    seconds: float


def plan(
    widths: Sequence[int],
    n: int,
    epochs: Sequence[int],
    points: int,
    model: CostModel,
    *,
    r: int = 4,
    first: str = "spline",
    itemsize: int = 4,
    evaluations: float = 1.0,
) -> dict[str, Cost]:
    """Return the cost of a multilevel schedule and of what one would compare it with.

    Args:
        widths: widths of the network.
        n: intervals of the coarsest grid.
        epochs: epochs on each level, coarsest first; each level has twice the intervals.
        points: points of a step.
        model: the cost model.
        r: order of the splines.
        first: kind of the first layer, see :class:`kanlib.networks.KAN`.
        itemsize: bytes of a number, 4 for float32.
        evaluations: gradients an epoch: 1 for Adam, up to 25 for an epoch of L-BFGS.

    Returns:
        Costs of "multilevel"; "coarse, equal work" and "fine, equal work", on the coarsest and the
        finest grid alone with as much work; and "fine, equal epochs".

    Raises:
        ValueError: if an argument is out of range.
    """
    schedule = Schedule(epochs)
    if points < 1 or evaluations <= 0:
        raise ValueError(
            f"points must be at least 1 and evaluations positive, got {points} and {evaluations}"
        )
    last = schedule.num_levels - 1
    kinds = {
        "multilevel": schedule.epochs,
        "coarse, equal work": [round(schedule.work)],
        "fine, equal work": [0] * last + [round(schedule.work / 2**last)],
        "fine, equal epochs": [0] * last + [sum(schedule.epochs)],
    }
    return {
        name: _cost(widths, n, [*each], points, model, r, first, itemsize, evaluations)
        for name, each in kinds.items()
    }


def _cost(
    widths: Sequence[int],
    n: int,
    epochs: list[int],
    points: int,
    model: CostModel,
    r: int,
    first: str,
    itemsize: int,
    evaluations: float,
) -> Cost:
    levels = [layers_of(widths, n * 2**level, points, r, first) for level in range(len(epochs))]
    steps = [evaluations * count for count in epochs]
    fixed = {"spline": 0, "affine": widths[0] + 1, "linear": widths[0]}[first] * widths[1]
    return Cost(
        n=n * 2 ** (len(epochs) - 1),
        epochs=sum(epochs),
        parameters=fixed + sum(layer.weights for layer in levels[-1]),
        work=Schedule(epochs).work,
        operations=sum(
            count * layer.operations
            for count, level in zip(steps, levels, strict=True)
            for layer in level
        ),
        memory=itemsize * _numbers_held(levels[-1]),
        seconds=sum(c * model.seconds(level) for c, level in zip(steps, levels, strict=True)),
    )


def _numbers_held(layers: list[Layer]) -> int:
    """Return the numbers held at most: inputs of later layers, and copies in one layer.

    A layer lays out its inputs anew, and its weights; beside them are its outputs, and gradients.
    """
    saved = sum(layer.points * layer.inputs for layer in layers[1:])
    return saved + max(
        max(
            layer.points * (2 * layer.inputs + 3 * layer.outputs),
            layer.points * (layer.inputs + layer.outputs) + layer.weights,
        )
        for layer in layers
    )
