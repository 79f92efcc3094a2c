"""Jacobians of residuals in the weights, as operators that work on their nonzeros.

The entries of a row come in runs. Products, the Gram matrix and Galerkin coarsening go run by run,
so that their work does not depend on the number of intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kanlib._checks import Basis, as_integer
from kanlib.kernels import gram, products
from kanlib.objectives.penalties import EdgeRows
from kanlib.objectives.shares import ALONE, Shares, shares_of
from kanlib.objectives.squares import SumOfSquares, check_squares
from kanlib.objectives.unknowns import check_entered
from kanlib.training.coordinates import Coordinates, Transfer
from kanlib.training.rows import Run, edge_rows, rows

__all__ = ["Jacobian", "jacobian"]

#: Points whose rows are computed at a time.
POINTS = 4096


class Block(NamedTuple):
    """Rows of a Jacobian: some points of one term."""

    residual: Tensor
    runs: Sequence[Run]
    term: str


class Jacobian:
    """The Jacobian of all residuals of an objective, by runs of nonzeros.

    Use :func:`jacobian` to build one. Columns are the entries of the trainable parameters of the
    model in their order, then those of the objective; rows are residuals by term, point and
    equation. Spline weights count in the basis of their layers, or in ``basis`` if that is given.

    Attributes:
        residual: the weighted residuals (M,), whose squares add up to the loss.
        shape: (M, number of parameters).

    Examples:
        >>> from kanlib import KAN, MeanSquaredError
        >>> x = torch.rand(50, 1, dtype=torch.float64)
        >>> model = KAN([1, 1], n=8, dtype=torch.float64)
        >>> J = jacobian(model, MeanSquaredError(x, x**2))
        >>> v = torch.rand(11, dtype=torch.float64)
        >>> torch.allclose(J.product(v), J.dense() @ v)
        True
        >>> torch.allclose(J.gradient(), J.transposed(J.residual))
        True
    """

    def __init__(self, coordinates: Coordinates, blocks: Sequence[Block]) -> None:
        self.coordinates, self._blocks = coordinates, blocks
        self.residual = torch.cat([block.residual for block in blocks])
        self.shape = (len(self.residual), coordinates.size)

    def _start(self, run: Run) -> int:
        return self.coordinates.start(run.parameter) + run.start

    def product(self, step: Tensor) -> Tensor:
        """Return J v of shape (M,), for v of shape (number of parameters,)."""
        self._check("step", step, 1)
        columns = self.coordinates.to_columns(step)
        found = []
        for block in self._blocks:
            total = torch.zeros_like(block.residual)
            place = torch.arange(len(total), device=total.device)
            for run in block.runs:
                own = columns[self._start(run) :][: run.size]
                products.add_product(place, run.offset, run.values, own, total)
            found.append(total)
        return torch.cat(found)

    def transposed(self, rows: Tensor) -> Tensor:
        """Return J^T y of shape (number of parameters,), for y of shape (M,)."""
        self._check("rows", rows, 0)
        columns = rows.new_zeros(self.coordinates.columns)
        sizes = [len(block.residual) for block in self._blocks]
        for block, y in zip(self._blocks, rows.split(sizes), strict=True):
            _add_transposed(block.runs, y, self.coordinates, columns)
        return self.coordinates.transposed(columns)

    def _check(self, name: str, v: Tensor, side: int) -> None:
        if v.shape != (self.shape[side],):
            raise ValueError(
                f"{name} must have shape ({self.shape[side]},), got {tuple(v.shape)}: for several "
                "at once take torch.vmap"
            )

    def dense(self) -> Tensor:
        """Return J as a matrix, for small cases."""
        return torch.cat([self._dense(block) for block in self._blocks])

    def _dense(self, block: Block) -> Tensor:
        matrix = self.residual.new_zeros(len(block.residual), self.coordinates.columns)
        for run in block.runs:
            index = run.offset[:, None] + torch.arange(run.values.shape[1], device=matrix.device)
            matrix[:, self._start(run) :][:, : run.size].scatter_add_(1, index, run.values)
        return self.coordinates.transposed(matrix)

    def gram(self) -> Tensor:
        """Return J^T J, from the nonzeros alone: the work does not depend on the intervals."""
        total = self.residual.new_zeros(2 * (self.coordinates.columns,))
        for block in self._blocks:
            gram.add([_placed(run, self.coordinates) for run in block.runs], total)
        return _turned(total, self.coordinates)

    def gradient(self) -> Tensor:
        """Return J^T r, half the gradient of the loss."""
        return self.transposed(self.residual)

    def squares(self) -> Tensor:
        """Return the diagonal of J^T J."""
        total = self.residual.new_zeros(self.coordinates.size)
        for block in self._blocks:
            if self.coordinates.order is None:
                total += self._dense(block).square().sum(0)
            else:
                total += self.coordinates.transposed(self._squares(block))
        return total

    def _squares(self, block: Block) -> Tensor:
        """Return the squares of the columns of a block."""
        total = self.residual.new_zeros(self.coordinates.columns)
        together: dict[int, list[Run]] = {}
        for run in block.runs:
            together.setdefault(self._start(run), []).append(run)
        rows = torch.arange(len(block.residual), device=total.device)
        for start, runs in together.items():
            offset = torch.cat([run.offset for run in runs])
            values = torch.cat([run.values for run in runs])
            own = total[start:][: runs[0].size]
            own += squares(rows.repeat(len(runs)), offset, values, len(own))
        return total

    def coarsen(self, transfers: Sequence[Transfer | None]) -> Jacobian:
        """Return J P: the Jacobian of the coarse network that this one was refined from.

        Its Gram matrix is P^T J^T J P (Galerkin).

        Args:
            transfers: the prolongation of each trainable parameter, in their order, or None for
                one that a refinement leaves as it is.
        """
        return Jacobian(self.coordinates.coarsened(transfers), self._blocks)


def jacobian(
    model: nn.Module, objective: SumOfSquares, *, points: int = POINTS, basis: Basis | None = None
) -> Jacobian:
    """Return the Jacobian of the residuals of an objective in the parameters of a model.

    Args:
        model: the network.
        objective: offers ``residuals()``, see :class:`kanlib.objectives.squares.SumOfSquares`.
            Where processes share the points, each has the rows of its own.
        points: points whose rows are computed at a time.
        basis: "spline" or "relu", the basis in which spline weights count; by default that of each
            layer.

    Raises:
        TypeError: if the objective does not offer its residuals.
        ValueError: if the gradient of the residuals is not that of the loss, or an unknown does not
            enter it.

    Examples:
        >>> from kanlib import KAN, MeanSquaredError
        >>> x = torch.rand(50, 2, dtype=torch.float64)
        >>> model = KAN([2, 3, 1], n=5, dtype=torch.float64)
        >>> J = jacobian(model, MeanSquaredError(x, x[:, :1]))
        >>> J.shape
        (50, 72)
        >>> torch.allclose(J.gram(), J.dense().T @ J.dense())
        True
    """
    coordinates = Coordinates(model, objective, basis)
    check_squares(objective)
    half, loss = half_gradient(model, objective, coordinates)  # first: weights may follow from it
    found = Jacobian(coordinates, [*blocks(model, objective, coordinates, points)])
    (gradient,) = shares_of(objective).total(found.gradient())
    check(gradient, half, loss)
    return found


def normal_equations(
    model: nn.Module, objective: SumOfSquares, coordinates: Coordinates, points: int = POINTS
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Return J^T J, J^T r and the loss of each term, over all processes that share the points.

    No more rows are held than those of ``points`` points.
    """
    like = coordinates.parameters[0].detach()
    total, right = (like.new_zeros(k * (coordinates.columns,)) for k in (2, 1))
    terms: dict[str, float] = {}
    for block in blocks(model, objective, coordinates, points):
        add_squares(terms, block)
        _add_transposed(block.runs, block.residual, coordinates, right)
        gram.add([_placed(run, coordinates) for run in block.runs], total)
    total, right = over_all(objective, terms, total, right)
    return _turned(total, coordinates), coordinates.transposed(right), terms


def triangular(
    coordinates: Coordinates, found: Iterable[Block], shares: Shares = ALONE
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Return R and Q^T r of J = QR, and the loss of each term, without squaring what J tells.

    R has one row for each parameter and one more, or less where J has fewer rows. Rows are taken
    block after block, so that no more of them are held than those of one. Where processes share
    them, R is that of all rows, and the losses are those of this process.
    """
    terms: dict[str, float] = {}
    factor = None
    for block in found:
        add_squares(terms, block)
        rows = torch.cat([Jacobian(coordinates, [block]).dense(), block.residual[:, None]], dim=1)
        rows = rows if factor is None else torch.cat([factor, rows])
        factor = torch.linalg.qr(rows, mode="r").R
    assert factor is not None
    if shares.size > 1:
        factor = torch.linalg.qr(shares.stacked(factor), mode="r").R
    return factor[:, :-1], factor[:, -1], terms


def squares(place: Tensor, offset: Tensor, values: Tensor, width: int) -> Tensor:
    """Return the diagonal of J^T J of rows whose nonzeros come in runs.

    Args:
        place: the row of each run, (M,); runs of the same row add up.
        offset: the column where it begins, (M,).
        values: its entries, (M, L).
        width: number of columns.
    """
    total = values.new_zeros(width)
    index = offset[:, None] + torch.arange(values.shape[1], device=offset.device)
    once = place.bincount()[place] == 1
    total.index_add_(0, index[once].flatten(), values[once].square().flatten())
    for several in place[~once].unique().split(POINTS):
        own = torch.isin(place, several)
        first = torch.searchsorted(several, place[own])[:, None] * width
        dense = total.new_zeros(len(several) * width)
        dense.index_add_(0, (first + index[own]).flatten(), values[own].flatten())
        total += dense.view(len(several), width).square().sum(0)
    return total


def add_squares(terms: dict[str, float], block: Block) -> None:
    """Add the squares of the residuals of a block to the loss of its term."""
    terms[block.term] = terms.get(block.term, 0.0) + float(block.residual.square().sum())


def over_all(objective: Any, terms: dict[str, float], *parts: Tensor) -> list[Tensor]:
    """Return the sums of parts over all processes, and put those of the losses into the terms."""
    shares = shares_of(objective)
    if shares.size == 1:
        return [*parts]
    names = [*dict.fromkeys(residual.name for residual in objective.residuals())]
    own = parts[0].new_tensor([terms.get(name, 0.0) for name in names])
    *found, losses = shares.total(*parts, own)
    terms.update(zip(names, losses.tolist(), strict=True))
    return found


def _placed(run: Run, coordinates: Coordinates) -> gram.Part:
    return coordinates.start(run.parameter) + run.start, run.offset, run.values


def _add_transposed(
    parts: Sequence[Run], rows: Tensor, coordinates: Coordinates, columns: Tensor
) -> None:
    """Add J^T y to the columns."""
    place = torch.arange(len(rows), device=rows.device)
    for run in parts:
        own = columns[coordinates.start(run.parameter) + run.start :][: run.size]
        products.add_transposed(place, run.offset, run.values, rows, own)


def _turned(total: Tensor, coordinates: Coordinates) -> Tensor:
    """Return the Gram matrix of vectors from that of columns, which is not completed."""
    whole, order = gram.completed(total), coordinates.order
    if order is not None:
        return whole[order[:, None], order]
    half = coordinates.transposed(whole)  # along the last dimension
    return coordinates.transposed(half.T.contiguous())


def half_gradient(
    model: nn.Module, objective: SumOfSquares, coordinates: Coordinates
) -> tuple[Tensor, float]:
    """Return half the gradient of the loss, by backpropagation, and the loss.

    Evaluated before the rows: weights of points may follow from the first evaluation.
    """
    loss = objective(model)
    check_entered(objective, loss)
    parts = torch.autograd.grad(loss, coordinates.parameters, materialize_grads=True)
    return 0.5 * coordinates.gradient(parts), float(loss.detach())


def check(found: Tensor, half: Tensor, loss: float) -> None:
    """Raise ValueError unless J^T r is half the gradient of the loss, up to rounding.

    It is not if a residual at one point depends on the model at others, or if a parameter acts on
    a residual by more than one way.

    Args:
        found: J^T r.
        half: half the gradient, see :func:`half_gradient`.
        loss: the loss.
    """
    tolerance = torch.finfo(half.dtype).eps ** 0.5 * max(float(half.norm()), loss**0.5)
    difference = float((found - half).norm())
    if not difference <= tolerance:
        raise ValueError(
            f"rows of the Jacobian do not belong to the loss: J^T r and half its gradient differ "
            f"by {difference:.3g}; a residual at one point must depend on the model at that point "
            "only, and the squares of all residuals must add up to the loss"
        )


def blocks(
    model: nn.Module, objective: SumOfSquares, coordinates: Coordinates, points: int
) -> Iterator[Block]:
    """Yield the rows of up to that many points at a time."""
    check_squares(objective)
    yield from blocks_of(model, objective.residuals(), coordinates, points)


def blocks_of(
    model: nn.Module, residuals: Iterable[Any], coordinates: Coordinates, points: int
) -> Iterator[Block]:
    """Yield the rows of some residuals, up to that many points at a time."""
    points = as_integer("points", points, minimum=1)
    for residual in residuals:
        if isinstance(residual, EdgeRows):
            yield from (
                Block(*edge_rows(residual, *part), residual.name) for part in residual.parts(model)
            )
            continue
        for part in residual.blocks(points):
            yield Block(*rows(model, part, coordinates.parameters), residual.name)
