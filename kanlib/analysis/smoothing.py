"""How smooth a network should be: the weight of a penalty from the data alone.

Near the present weights u a loss ``|r|^2`` of N residuals and a penalty ``lambda |S u|^2`` are
squares of linear functions, and the minimiser u + delta follows from

    (J^T J + lambda S^T S) delta = -(J^T r + lambda S^T S u).

Its influence matrix H = J (J^T J + lambda S^T S)^{-1} J^T maps data to fitted values, and
generalised cross-validation takes the lambda that minimises ``N |r + J delta|^2 / (N - tr H)^2``
(Golub, Heath and Wahba, doi 10.1080/00401706.1979.10489751). Where the standard deviation of the
errors of the data is known, the discrepancy principle takes the largest lambda that leaves no more
than that (Morozov).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kanlib._checks import as_integer, as_number, shown
from kanlib.objectives.penalties import Penalised, SquaredNorms
from kanlib.objectives.shares import shares_of
from kanlib.objectives.squares import SumOfSquares
from kanlib.training.coordinates import Coordinates
from kanlib.training.jacobian import POINTS, Block, blocks, triangular

__all__ = ["smoothing_weight"]

#: Weights that are tried, in units of the ratio of the two matrices.
LOWEST, HIGHEST, COUNT = 1e-12, 1e4, 65
#: A diagonal, in units of the largest entry, for directions in which nothing changes.
RIDGE = 1e-14


def smoothing_weight(
    model: nn.Module,
    objective: SumOfSquares,
    *,
    noise: float | None = None,
    derivative: int = 2,
) -> float:
    """Return the weight of ``SquaredNorms`` that suits the data, near the present weights.

    For a network of one layer that is all. Otherwise train with the weight, and ask once more.
    Weights are tried from 1e-12 to 1e4 times the ratio of the traces of J^T J and S^T S. One of the
    two ends as a result means that data ask for no smoothing, or for all that there is.

    Args:
        model: the network, after some training.
        objective: a sum of squares without penalties, e.g. ``MeanSquaredError(x, y)``. Where
            processes share its points, the weight is that of all points, in every process.
        noise: standard deviation of the errors of the residuals, for the discrepancy principle; by
            default it is unknown, and generalised cross-validation decides.
        derivative: which derivative the penalty is to keep small.

    Raises:
        TypeError: if the objective is no sum of squares, or an argument no number.
        ValueError: if the noise is not positive, or so small that no weight leaves so little, or
            the loss or the penalty depends on no weight, as where edges are pruned.

    Examples:
        >>> from kanlib import KAN, MeanSquaredError
        >>> x = torch.linspace(0, 1, 200, dtype=torch.float64)[:, None]
        >>> data = MeanSquaredError(x, (6 * x).sin() + 0.1 * torch.randn_like(x))
        >>> 0 < smoothing_weight(KAN([1, 1], n=30, dtype=torch.float64), data) < 1
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a network, got {shown(model)}")
    derivative = as_integer("derivative", derivative, 0)
    if noise is not None:
        noise = as_number("noise", noise, above=0.0)
    if not isinstance(objective, SumOfSquares) or isinstance(objective, Penalised | SquaredNorms):
        raise TypeError(
            "objective must be a sum of squares without penalties, such as MeanSquaredError(x, y), "
            f"got {shown(objective)}"
        )
    problem = _Problem(model, objective, derivative)
    weights = problem.unit * torch.logspace(math.log10(LOWEST), math.log10(HIGHEST), COUNT).double()
    found = [problem.at(float(weight)) for weight in weights]
    if noise is None:
        values = [loss / max(1 - trace / problem.count, 1e-9) ** 2 for loss, trace in found]
        return float(weights[min(range(COUNT), key=values.__getitem__)])
    fits = [i for i, (loss, _) in enumerate(found) if loss <= noise**2]
    if not fits:
        raise ValueError(
            f"noise = {noise:g} is less than the network leaves with any weight, "
            f"{math.sqrt(found[0][0]):.3g}: refine or train the network, or leave noise out"
        )
    return float(weights[max(fits)])


class _Problem:
    """The loss and the penalty, linearised at the present weights."""

    def __init__(self, model: nn.Module, objective: SumOfSquares, derivative: int) -> None:
        coordinates, shares, count = Coordinates(model, objective), shares_of(objective), 0
        with torch.no_grad():
            objective(model)  # first: weights may follow from it, and processes compare

        def counted() -> Iterator[Block]:
            nonlocal count
            for block in blocks(model, objective, coordinates, POINTS):
                count += len(block.residual)
                yield block

        factor, right, terms = triangular(coordinates, counted(), shares)
        own = factor.new_tensor([sum(terms.values()), count], dtype=torch.float64)
        loss, self.count = shares.total(own)[0].tolist()
        self._factor, self._right = factor.double(), right.double()
        self._rest = loss - float(self._right.square().sum())
        penalty = SquaredNorms(1.0, derivative)
        rough, pull, _ = triangular(coordinates, blocks(model, penalty, coordinates, POINTS))
        self._rough, self._pull = rough.double(), pull.double()
        self._gram, self._matrix = (r.T @ r for r in (self._factor, self._rough))
        size, roughness = float(self._gram.trace()), float(self._matrix.trace())
        if not (size > 0 and roughness > 0):
            raise ValueError(
                "model must have weights on which loss and penalty depend, but all derivatives of "
                f"the {'penalty' if size > 0 else 'loss'} are zero: take a network with more edges"
            )
        self.unit = size / roughness

    def at(self, weight: float) -> tuple[float, float]:
        """Return the loss without the penalty, and tr H, at the minimum for a weight."""
        matrix = self._gram + weight * self._matrix
        matrix.diagonal().add_(RIDGE * float(matrix.diagonal().max()))
        slope = self._factor.T @ self._right + weight * (self._rough.T @ self._pull)
        columns = torch.cat([self._gram, slope[:, None]], dim=1)
        solved: Tensor = torch.linalg.solve(matrix, columns)
        left = self._right - self._factor @ solved[:, -1]
        loss = max(self._rest, 0.0) + float(left.square().sum())
        return loss, float(solved[:, :-1].diagonal().sum())
