"""Sums of squares: objectives that offer the vector of their residuals, not only its norm.

A second-order method wants the residuals themselves. An objective offers them by a method
``residuals()``, one :class:`Residual` for each set of points; ``MeanSquaredError`` and
``ResidualLoss`` have it, and one of your own takes a few lines::

    class Interface:
        def __init__(self, left, right):  # jets of the inputs on the two sides
            self.left, self.right = left, right

        def residuals(self):
            yield Residual(lambda u, v: u.d(0) - 0.5 * v.d(0), [self.left, self.right], weight=10)

        def __call__(self, model):
            return sum_of_squares(model, self.residuals())
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kanlib._checks import check_function, check_types
from kanlib.nn.jets import Jet, named, propagate

__all__ = ["Residual", "SumOfSquares"]


@dataclass(frozen=True, eq=False)
class Residual:
    """K equations at each of N points: one term of a loss, weight times their mean square.

    Point s of the residual may depend on the model at point s of the jets only, and on no other
    point: so it is for every residual of collocation, and what makes its Jacobian cheap.

    Args:
        function: function of one jet of the model for each jet of inputs, and of the data, that
            returns (N, K).
        jets: jets of the inputs of the model, each at N points.
        data: tensors with N rows that the function takes after the jets, e.g. points or targets.
        weight: weight of the term.
        name: name of its term, in errors and in histories.

    Raises:
        ValueError: if there is no jet, jets and data differ in their number of points, or the
            weight is not positive.

    Examples:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> fit = Residual(lambda u, y: u.value - y, [Jet.at(x)], [3 * x])
        >>> fit(nn.Identity())  # of 2 points each, so that the sum of squares is the mean square
        tensor([[ 0.0000],
                [-1.4142]])
    """

    function: Callable[..., Tensor]
    jets: Sequence[Jet]
    data: Sequence[Tensor] = ()
    weight: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        check_types(Residual, vars(self))
        if not self.jets:
            raise ValueError("jets must hold at least one jet of inputs, got none")
        counts = [jet.channels.shape[1] for jet in self.jets] + [len(part) for part in self.data]
        if len({*counts}) > 1:
            raise ValueError(
                f"jets and data must have the same number of points, got {counts}: give each "
                "set of points a Residual of its own"
            )
        if not self.weight > 0:
            raise ValueError(f"weight must be positive, got {self.weight!r}: leave out the term")

    def __len__(self) -> int:
        """Return the number N of points."""
        return self.jets[0].channels.shape[1]

    def blocks(self, points: int) -> Iterator[Residual]:
        """Yield the residual at up to that many points at a time; the squares add up as before."""
        for start in range(0, len(self), points):
            part = slice(start, start + points)
            jets = [replace(jet, channels=jet.channels[:, part]) for jet in self.jets]
            share = jets[0].channels.shape[1] / len(self)
            data = [each[part] for each in self.data]
            yield replace(self, jets=jets, data=data, weight=self.weight * share)

    def rows(self, *outputs: Jet) -> Tensor:
        """Return the weighted residuals (N, K), whose squares add up to the loss.

        Args:
            *outputs: the jet of the model for each jet of inputs.

        Raises:
            ValueError: if the function returns another shape.
        """
        found = self.function(*outputs, *self.data)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(self):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"{called(self.name)} must have shape (N, K) with N = {len(self)} points, got "
                f"{got}: slice columns as x[:, :1], not x[:, 0]"
            )
        if found.shape[1] == len(self):
            check_columns(called(self.name), len(self), self.function, *outputs, *self.data)
        return (self.weight / found.numel()) ** 0.5 * found

    def __call__(self, model: nn.Module) -> Tensor:
        """Return the weighted residuals (N, K) of a model."""
        return self.rows(*(evaluate(model, jet) for jet in self.jets))


def called(name: str) -> str:
    """Return what errors call the residual of a term, which may have no name."""
    return f"the residual of term {name!r}" if name else "a residual"


def check_columns(name: str, size: int, function: Callable[..., Tensor], *arguments: Any) -> None:
    """Raise if a residual of N columns sets a column (N, 1) against a row of N numbers.

    Args:
        name: what the error calls the residual.
        size: number N of points.
        function: the residual.
        *arguments: what it takes.

    Raises:
        ValueError: if it does, for N > 1.
    """
    with _Mixes(size) as mixes:
        function(*arguments)
    if size > 1 and mixes.seen:
        raise ValueError(
            f"{name} must have shape (N, K), got all pairs of a column (N, 1) and of N = {size} "
            "numbers in a row: give data the shape (N, 1), as in data[:, None], and slice columns "
            "as x[:, :1], not x[:, 0]"
        )


class _Mixes(TorchFunctionMode):
    """See whether an operation makes N x N numbers of a column and a row of N."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.seen = size, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        n = self.size
        shapes = [tuple(value.shape) for value in args if isinstance(value, Tensor)]
        if isinstance(found, Tensor) and found.shape[-2:] == (n, n):
            rows = any(shape in ((n,), (1, n)) for shape in shapes)
            self.seen |= rows and any(shape[-2:] == (n, 1) for shape in shapes)
        return found


@runtime_checkable
class SumOfSquares(Protocol):
    """An objective whose loss is the sum of squares of the residuals that it offers.

    Examples:
        >>> from kanlib import MeanSquaredError
        >>> x = torch.zeros(4, 1)
        >>> isinstance(MeanSquaredError(x, x), SumOfSquares)
        True
    """

    def __call__(self, model: Any) -> Tensor:
        """Return the loss."""

    def residuals(self) -> Iterable[Any]:
        """Return the residuals, as they are now: weights and points may change between steps."""


def evaluate(module: nn.Module, jet: Jet) -> Jet:
    """Return the jet of a module; where only values are wanted, any module has one."""
    check_function("module", module, "network")
    known = propagate.rule(module) is not propagate.rule(None)
    if known or jet.directions or jet.pairs:
        return propagate(module, jet)
    return named(module, replace(jet, channels=module(jet.value)[None], outputs=()))


def sum_of_squares(model: nn.Module, residuals: Iterable[Residual]) -> Tensor:
    """Return the sum of squares of all residuals of a model: the loss, differentiable."""
    check_types(sum_of_squares, locals())
    parts = [residual(model).square().sum() for residual in residuals]
    if not parts:
        raise ValueError("residuals must hold at least one, got none: give the model an equation")
    return torch.stack(parts).sum()


def check_squares(objective: Any) -> None:
    """Raise TypeError unless an objective offers its residuals."""
    if not isinstance(objective, SumOfSquares):
        raise TypeError(
            "objective must offer its residuals by a method residuals(), got "
            f"{type(objective).__name__}: see kanlib.objectives.squares"
        )
