"""What a multilevel schedule costs before it is run: parameters, operations, memory and time.

The time of a training step, forward and backward, is modelled layer by layer as::

    t = t_0 + c_1 B P r^2 + c_2 B P Q r + c_3 P Q (n + r - 1) + c_4 B P + c_5 B Q

for B points, P inputs and Q outputs: a fixed price of calling the operators, the r functions at
each input, a sum over r rows of weights at each edge, what is paid once a step for each weight,
and what is paid for each input and each output of a point whatever the order. In the first layer,
which needs no gradient in its inputs, the third term is two thirds of that. The constants are
fitted to measured steps of layers; only the term of the weights grows with n.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
import torch

from kanlib._checks import as_integer, as_list, as_number, check_option, check_types, shown
from kanlib.analysis.cost import measure
from kanlib.nn.networks import FIRST_LAYERS
from kanlib.nn.spline_layer import SplineLayer
from kanlib.splines.knots import KnotGrid
from kanlib.training.schedule import Schedule

__all__ = [
    "TERMS",
    "Cost",
    "CostModel",
    "Layer",
    "calibrate",
    "layers_of",
    "measure_layers",
    "plan",
]

#: The terms of the model, in the order of the constants t_0, c_1, ..., c_5.
TERMS = ("call", "functions", "edges", "weights", "inputs", "outputs")


class Layer(NamedTuple):
    """A spline layer and the points that it sees.

    Attributes:
        points: points of a step, B.
        inputs: inputs of the layer, P.
        outputs: outputs of the layer, Q.
        n: intervals of its grid.
        r: order of its splines.
        differentiated: whether a step needs the gradient in the inputs; not in the first layer.

    Examples:
        >>> layer = Layer(points=100, inputs=2, outputs=5, n=8)
        >>> layer.weights, layer.operations
        (110, 24000)
    """

    points: int
    inputs: int
    outputs: int
    n: int
    r: int = 4
    differentiated: bool = True

    @property
    def weights(self) -> int:
        """Number of weights, P Q (n + r - 1)."""
        return self.inputs * self.outputs * (self.n + self.r - 1)

    @property
    def sums(self) -> int:
        """Number of sums over r rows of weights, for outputs and for the gradients of a step."""
        return 3 if self.differentiated else 2

    @property
    def operations(self) -> int:
        """Floating-point operations in these sums, 6 B P Q r, or 4 B P Q r in the first layer."""
        return 2 * self.sums * self.points * self.inputs * self.outputs * self.r

    @property
    def terms(self) -> tuple[float, ...]:
        """What the constants of the model are multiplied with, in the order of `TERMS`."""
        read, written = self.points * self.inputs, self.points * self.outputs
        return 1.0, read * self.r**2, self.operations / 6, self.weights, read, written


def _checked(name: str, layers: Any) -> list[Layer]:
    """Return layers whose sizes are integers of at least 1, or raise."""
    found = as_list(name, layers, "Layers")
    for i, layer in enumerate(found):
        if not isinstance(layer, Layer):
            raise TypeError(f"{name}[{i}] must be a Layer, got {shown(layer)}")
        for size in Layer._fields[:5]:
            as_integer(f"{name}[{i}].{size}", getattr(layer, size), minimum=1)
    return found


SHAPES = ((2, 5), (5, 1), (20, 20), (64, 64), (64, 1), (1, 64))
#: Layers that :func:`calibrate` measures, narrow and wide, of few and many points and intervals.
CALIBRATION = [
    Layer(points, *shape, n, r)
    for points, shape, n, r in product((128, 4096), SHAPES, (5, 100), (2, 4, 6))
]


@dataclass(frozen=True)
class CostModel:
    """Seconds of a training step as a sum of six terms a layer.

    Attributes:
        constants: t_0, c_1, ..., c_5 in seconds, none of them negative.

    Raises:
        TypeError: if a constant is not a number.
        ValueError: if there are not six of them, or one is negative.

    Examples:
        >>> sizes = [(b, 4, q, n) for b in (100, 1000) for q in (2, 8) for n in (5, 50)]
        >>> model = CostModel.fit([(Layer(*s), 1e-4 + 1e-9 * s[0] * s[2]) for s in sizes])
        >>> f"{model.seconds([Layer(500, 4, 4, 20)]):.2e}"
        '1.02e-04'
    """

    constants: tuple[float, ...]

    def __post_init__(self) -> None:
        check_types(CostModel, {"constants": self.constants})
        if len(self.constants) != len(TERMS):
            raise ValueError(f"constants must be {len(TERMS)}, got {shown(self.constants)}")
        for i, constant in enumerate(self.constants):
            as_number(f"constants[{i}]", constant, minimum=0.0)

    @classmethod
    def fit(
        cls, measured: Iterable[tuple[Layer, float]], terms: Sequence[str] = TERMS
    ) -> CostModel:
        """Return the model with the least sum of squared relative errors, no constant below 0.

        Args:
            measured: layers with the seconds of a step of each; they should differ in all sizes.
            terms: the terms to use, of `TERMS`; the constants of the others are 0.

        Raises:
            ValueError: if a term is unknown, there are fewer layers than terms, or a time is not
                positive.
        """
        if not isinstance(terms, Sequence) or not terms or not {*terms} <= {*TERMS}:
            raise ValueError(f"terms must be some of {TERMS}, got {shown(terms)}")
        pairs = as_list("measured", measured, "pairs (layer, seconds)")
        for pair in pairs:
            if not isinstance(pair, Sequence) or len(pair) != 2:
                raise TypeError(
                    f"measured must be a list of pairs (layer, seconds), got {shown(pair)} in it"
                )
        _checked("measured", [layer for layer, _ in pairs])
        for i, (_, seconds) in enumerate(pairs):
            as_number(f"seconds of measured[{i}]", seconds, above=0.0)
        if len(pairs) < len(terms):
            raise ValueError(
                f"measured must hold at least {len(terms)} layers, one a term, got {len(pairs)}: "
                "measure more"
            )
        try:
            from scipy.optimize import nnls
        except ModuleNotFoundError:
            raise ModuleNotFoundError("CostModel.fit needs SciPy: pip install scipy") from None
        used = [TERMS.index(term) for term in terms]
        rows = np.array([[layer.terms[i] / seconds for i in used] for layer, seconds in pairs])
        scale = rows.max(axis=0)
        constants = np.zeros(len(TERMS))
        constants[used] = nnls(rows / scale, np.ones(len(rows)))[0] / scale
        return cls(tuple(constants.tolist()))

    def seconds(self, layers: Iterable[Layer]) -> float:
        """Return the seconds of a step of a network, given its layers."""
        return sum(
            constant * term
            for layer in _checked("layers", layers)
            for constant, term in zip(self.constants, layer.terms, strict=True)
        )


def measure_layers(layers: Sequence[Layer], repeats: int = 5) -> list[tuple[Layer, float]]:
    """Return each layer with its median seconds a step, :func:`kanlib.analysis.cost.measure`.

    Raises:
        TypeError: if a layer is none, or ``repeats`` is not an integer.
        ValueError: if ``repeats``, or a size of a layer, is below 1.

    Examples:
        >>> ((layer, seconds),) = measure_layers([Layer(100, 2, 5, 8)], repeats=1)
        >>> seconds > 0
        True
    """
    layers = _checked("layers", layers)

    def step(layer: Layer) -> Callable[[], object]:
        grid = KnotGrid.uniform(layer.r, layer.n)
        splines = SplineLayer(layer.inputs, layer.outputs, grid)
        x = torch.rand(layer.points, layer.inputs).requires_grad_(layer.differentiated)
        wanted, slopes = [splines.weight, x], torch.ones(layer.points, layer.outputs)
        return lambda: torch.autograd.grad(splines(x), wanted[: layer.sums - 1], slopes)

    rounds = measure({str(i): step(layer) for i, layer in enumerate(layers)}, repeats)
    return [(layer, statistics.median(rounds[str(i)])) for i, layer in enumerate(layers)]


def calibrate(repeats: int = 5) -> CostModel:
    """Return the model of this machine, fitted to live measurements of `CALIBRATION`.

    It takes a second or two, with the threads, the device and the dtype that PyTorch is set to.

    Args:
        repeats: rounds that count; take more of them on a busy machine.

    Examples:
        >>> model = calibrate(repeats=1)
        >>> model.seconds([Layer(1000, 2, 5, 8)]) > 0
        True
    """
    return CostModel.fit(measure_layers(CALIBRATION, repeats))


def layers_of(
    widths: Sequence[int], n: int, points: int, r: int = 4, first: str = "spline"
) -> list[Layer]:
    """Return the spline layers of ``KAN(widths, n, r, first=first)`` at some points.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a size is below 1, `first` is unknown, or there are no spline layers.

    Examples:
        >>> layers_of([2, 5, 1], n=8, points=100)[1]
        Layer(points=100, inputs=5, outputs=1, n=8, r=4, differentiated=True)
    """
    check_types(layers_of, locals())
    check_option("first", first, FIRST_LAYERS)
    for name, value in [("n", n), ("points", points), ("r", r), *(("widths", w) for w in widths)]:
        as_integer(name, value, minimum=1)
    found = [
        Layer(points, p, q, n, r, first != "spline" or i > 0)
        for i, (p, q) in enumerate(pairwise(widths))
        if first == "spline" or i > 0
    ]
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
        epochs: epochs in all.
        parameters: trainable parameters at the end.
        work: coarse epochs, as in :class:`kanlib.training.schedule.Schedule`.
        operations: floating-point operations in the sums over rows of weights.
        memory: bytes that a step holds at most beside weights and their gradients: inputs of all
            layers for the way back, and what the largest layer needs to work.
        seconds: predicted time.

    Examples:
        >>> model = CostModel((1e-6,) * len(TERMS))
        >>> cost = plan([2, 5, 1], n=5, epochs=[8, 4], points=100, model=model)["multilevel"]
        >>> cost.n, cost.epochs, cost.work
        (10, 12, 16.0)
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
        first: kind of the first layer, see :class:`kanlib.nn.networks.KAN`.
        itemsize: bytes of a number, 4 for float32.
        evaluations: gradients an epoch: 1 for Adam, up to 26 for an epoch of L-BFGS.

    Returns:
        Costs of "multilevel", and of training on the coarsest and on the finest grid alone with as
        much work, rounded to whole epochs, and with as many epochs: "coarse, equal work", "coarse,
        equal epochs", "fine, equal work" and "fine, equal epochs".

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if an argument is out of range.

    Examples:
        >>> model = CostModel((1e-6,) * len(TERMS))
        >>> costs = plan([2, 5, 1], n=5, epochs=[32, 16, 8], points=100, model=model)
        >>> for name, cost in costs.items():
        ...     print(name, cost.n, cost.epochs)
        multilevel 20 56
        coarse, equal work 5 96
        coarse, equal epochs 5 56
        fine, equal work 20 24
        fine, equal epochs 20 56
    """
    schedule = Schedule(epochs)
    check_types(plan, locals())
    as_integer("itemsize", itemsize, minimum=1)
    as_number("evaluations", evaluations, above=0.0)
    last = schedule.num_levels - 1
    levels = [layers_of(widths, n * 2**k, points, r, first) for k in range(last + 1)]
    bias = {"spline": 0, "affine": widths[0] + 1, "linear": widths[0]}[first] * widths[1]

    def cost(counts: Sequence[int]) -> Cost:
        *_, finest = used = levels[: len(counts)]
        steps = [(evaluations * c, level) for c, level in zip(counts, used, strict=True)]
        return Cost(
            n=finest[0].n,
            epochs=sum(counts),
            parameters=bias + sum(layer.weights for layer in finest),
            work=Schedule(counts).work,
            operations=sum(c * layer.operations for c, level in steps for layer in level),
            memory=itemsize * _numbers_held(finest),
            seconds=sum(c * model.seconds(level) for c, level in steps),
        )

    work, total, skipped = schedule.work, sum(schedule.epochs), [0] * last
    return {
        "multilevel": cost(schedule.epochs),
        "coarse, equal work": cost([round(work)]),
        "coarse, equal epochs": cost([total]),
        "fine, equal work": cost([*skipped, round(work / 2**last)]),
        "fine, equal epochs": cost([*skipped, total]),
    }


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
