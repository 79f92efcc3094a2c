"""Multigrid for Gauss-Newton: V-cycles over exact Galerkin levels.

The coarse grids take every second breakpoint. A spline of a coarse grid is one of the fine grid,
u = P u_c, so that J P is the Jacobian of the coarse network and P^T (J^T J + D) P its damped matrix
(the paper's eq. 20). A row of J P has r nonzeros an edge, as one of J has: on a fine interval only
r coarse functions live, and P acts there by an r x r matrix. No fine matrix is formed.

Smoothing is Gauss-Seidel over inputs: the columns of all edges from one input of a layer are solved
together. They see the same points, and their matrix is banded (:mod:`kanlib.training.tridiagonal`),
so that a sweep takes one product with J, one with J^T and work proportional to the parameters. The
last layer goes first; after the coarse correction the order is reversed, which makes the cycle a
symmetric positive definite preconditioner. The coarsest level is solved by Cholesky's factors.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kanlib._checks import as_integer
from kanlib.kernels import gram, products
from kanlib.nn.spline_layer import SplineLayer, by_input, spline_layers
from kanlib.objectives.shares import shares_of
from kanlib.objectives.squares import SumOfSquares
from kanlib.splines.knots import KnotGrid
from kanlib.splines.prolongation import Prolongation, prolongation
from kanlib.training.coordinates import Coordinates
from kanlib.training.hierarchy import coarsened
from kanlib.training.jacobian import POINTS, Block, blocks, half_gradient, squares
from kanlib.training.rows import Run
from kanlib.training.tridiagonal import BlockTridiagonal

__all__ = ["GalerkinHierarchy", "hierarchy"]

#: For each fine function the first of r coarse ones, (F,), and its coefficients in them, (F, r).
Window = tuple[Tensor, Tensor]
#: Levels of at most this many parameters are solved directly.
DIRECT = 1500
#: Columns of a window of the banded matrices, at least, since fewer and larger products are faster.
WINDOW = 64
ALTERED = (
    "solver='multigrid' needs spline layers that compute what SplineLayer computes, got one with "
    "hooks or a forward of its own: use solver='cg'"
)


@dataclass(frozen=True)
class Part:
    """The columns of one parameter on one level.

    Attributes:
        grids: the grid of all inputs of a spline layer, or that of each; empty for parameters that
            are no spline weights, which are the same on all levels.
        inputs: number of inputs P.
        outputs: number of outputs Q; of parameters that are no spline weights, their entries.
    """

    grids: tuple[KnotGrid, ...]
    inputs: int
    outputs: int

    @property
    def basis(self) -> int:
        """Number of basis functions of an edge."""
        return self.grids[0].num_basis if self.grids else 1

    @property
    def order(self) -> int:
        """Number of basis functions that are nonzero at a point."""
        return self.grids[0].order if self.grids else 1

    @property
    def n(self) -> int:
        """Number of intervals, 1 for parameters that are no spline weights."""
        return self.basis - self.order + 1

    @property
    def width(self) -> int:
        """Number of columns of an input."""
        return self.basis * self.outputs

    @property
    def size(self) -> int:
        """Number of columns (input, basis function, output)."""
        return self.inputs * self.width

    def coarsened(self) -> Part:
        """Return the part on every second breakpoint."""
        return replace(self, grids=tuple(coarsened(grid) for grid in self.grids))


class Step:
    """The prolongation of columns from a coarse level to a finer one.

    Args:
        coarse: the parts of the coarse level.
        fine: those of the finer one.
    """

    def __init__(self, coarse: Sequence[Part], fine: Sequence[Part]) -> None:
        self._sides = (coarse, fine)
        self._transfers = [
            [prolongation(*pair) for pair in zip(c.grids, f.grids, strict=True)]
            for c, f in zip(coarse, fine, strict=True)
        ]
        self._same = all(c.n == f.n for c, f in zip(coarse, fine, strict=True))

    def apply(self, coarse: Tensor) -> Tensor:
        """Return P u."""
        return self._each(coarse, 0)

    def restrict(self, fine: Tensor) -> Tensor:
        """Return P^T g."""
        return self._each(fine, 1)

    def _each(self, x: Tensor, side: int) -> Tensor:
        if self._same:
            return x
        change = Prolongation.restrict if side else Prolongation.apply
        parts = self._sides[side]
        pieces = [*x.split([part.size for part in parts])]
        for number, (part, transfers) in enumerate(zip(parts, self._transfers, strict=True)):
            if transfers:
                u = pieces[number].view(part.inputs, part.basis, part.outputs).permute(2, 0, 1)
                u = by_input(lambda u, own: change(own, u), u, transfers)
                pieces[number] = u.permute(1, 2, 0).flatten()
        return torch.cat(pieces)

    @functools.cached_property
    def _local(self) -> list[list[tuple[Tensor, Tensor]]]:
        """P by interval, for each grid of each part; the same for all blocks of rows."""
        return [
            [_local(coarse, fine, each) for each in transfers]
            for coarse, fine, transfers in zip(*self._sides, self._transfers, strict=True)
        ]

    def windows(self) -> Iterator[Window]:
        """Yield the rows of P of each input of each part, of basis functions."""
        for part, transfers in zip(self._sides[0], self._transfers, strict=True):
            one = torch.zeros(1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.float64)
            each = [_window(transfer, part) for transfer in transfers] or [one]
            yield from each * (part.inputs // len(each))

    def product(self, block: Block, numbers: dict[int, int]) -> Block:
        """Return the rows J P, from the rows J.

        Args:
            block: rows in the columns of the finer level.
            numbers: the place of each parameter, by its identity.
        """
        (coarse, fine), local, found = self._sides, self._local, []
        for run in block.runs:
            k = numbers[id(run.parameter)]
            if not coarse[k].grids:
                found.append(run)
                continue
            p, outputs = run.start // fine[k].width, fine[k].outputs
            interval = torch.div(run.offset, outputs, rounding_mode="floor")
            first, matrices = local[k][p % len(local[k])]
            values = run.values.view(len(interval), fine[k].order, outputs)
            matrix = matrices.to(values)[interval]
            values = torch.einsum("mrs,mrq->msq", matrix, values).flatten(1)
            offset = first.to(interval.device)[interval] * outputs
            width = coarse[k].width
            found.append(replace(run, start=p * width, offset=offset, values=values, size=width))
        return block._replace(runs=found)


def _window(transfer: Prolongation, coarse: Part) -> Window:
    """Return the first of r coarse functions for each fine one, and its coefficients in them."""
    columns, known = transfer.columns, transfer.values != 0
    first = torch.where(known, columns, coarse.basis).amin(1).clamp(max=coarse.n - 1)
    offset = torch.where(known, columns - first[:, None], 0)
    rows = transfer.values.new_zeros(len(first), coarse.order)
    return first, rows.scatter_add(1, offset, transfer.values)


def _local(coarse: Part, fine: Part, transfer: Prolongation) -> tuple[Tensor, Tensor]:
    """Return, for each fine interval, the coarse one around it and P of the functions there."""
    interval, order = torch.arange(fine.n), torch.arange(fine.order)
    around = interval // 2 if coarse.n < fine.n else interval
    first, rows = _window(transfer, coarse)
    living = interval[:, None] + order  # the fine functions of an interval
    place = (around[:, None] + order)[:, None] - first[living][..., None]
    inside = (place >= 0) & (place < coarse.order)
    found = rows[living].gather(2, place.clamp(0, coarse.order - 1))
    return around, torch.where(inside, found, 0.0)


class Columns:
    """The rows of a Jacobian in the columns of one input, or of a parameter that is no spline.

    Attributes:
        part: the parameter on this level.
        span: the columns.
    """

    def __init__(
        self, start: int, part: Part, pieces: Sequence[tuple[int, Run]], like: Tensor
    ) -> None:
        self.part, self.span = part, slice(start, start + part.width)
        length = part.order * part.outputs
        if any(run.values.shape[1] != length for _, run in pieces):
            raise ValueError(ALTERED)
        none = torch.zeros(0, dtype=torch.int64, device=like.device)
        counts = [at + torch.arange(len(run.offset), device=like.device) for at, run in pieces]
        self._place = torch.cat([none, *counts])
        self._offset = torch.cat([none, *(run.offset for _, run in pieces)])
        entries = [like.new_zeros(0, length), *(run.values for _, run in pieces)]
        self._values = torch.cat(entries)

    def add_product(self, v: Tensor, rows: Tensor) -> None:
        """Add J v to the rows."""
        products.add_product(self._place, self._offset, self._values, v, rows)

    def transposed(self, rows: Tensor) -> Tensor:
        """Return J^T y."""
        columns = rows.new_zeros(self.part.width)
        products.add_transposed(self._place, self._offset, self._values, rows, columns)
        return columns

    def squares(self) -> Tensor:
        """Return the diagonal of J^T J."""
        return squares(self._place, self._offset, self._values, self.part.width)

    def by_interval(self) -> Tensor:
        """Return the Gram matrix of the rows of each interval, (n, length, length).

        A row of k runs, as residuals of k jets have, counts as k rows, each sqrt(k) times as large:
        the sum of these matrices, each in its place, is J^T J for k = 1, and above it for more.
        """
        times = self._place.bincount()[self._place]
        values = self._values * times.to(self._values).sqrt()[:, None]
        interval = torch.div(self._offset, self.part.outputs, rounding_mode="floor")
        counts = interval.bincount(minlength=self.part.n)
        parts = values[interval.argsort()].split(counts.tolist())
        return torch.stack([part.T @ part for part in parts])

    def damping(self, window: Window, diagonal: Tensor) -> Tensor:
        """Return P^T D P by interval, as the Gram matrices are.

        Args:
            window: the rows of P from these basis functions to those of the finest level.
            diagonal: the diagonal of D on the finest level.
        """
        part, (first, rows) = self.part, window
        rows = rows.to(diagonal)
        products = torch.einsum("fi,fj,fq->fqij", rows, rows, diagonal.view(-1, part.outputs))
        shape = (part.n, part.outputs, part.order, part.order)
        sums = products.new_zeros(shape).index_add_(0, first.to(products.device), products)
        found = products.new_zeros(part.n, *(part.order, part.outputs) * 2)
        found.diagonal(dim1=2, dim2=4).copy_(sums.permute(0, 2, 3, 1))
        return found.flatten(3).flatten(1, 2)

    @property
    def nonzeros(self) -> int:
        """Number of nonzeros."""
        return self._values.numel()


class Factors:
    """The matrix of some columns alone, factorised.

    Args:
        part: the parameter that they belong to.
        local: Gram matrices by interval, see :meth:`Columns.by_interval`.
    """

    def __init__(self, part: Part, local: Tensor) -> None:
        step, size, length = part.outputs, part.width, local.shape[1]
        # Windows of so many functions meet the next only.
        window = max(part.order - 1, 1, WINDOW // step)
        width, shared = window * step, length - step
        windows = -(-part.basis // window)
        pairs = local.new_zeros(windows, width + shared, width + shared)
        for first in range(min(window, part.n)):
            own, at = local[first::window], slice(first * step, first * step + length)
            pairs[: len(own), at, at] += own
        diagonal = pairs[:, :width, :width].clone()
        diagonal[1:, :shared, :shared] += pairs[:-1, width:, width:]
        lower = local.new_zeros(windows - 1, width, width)
        lower[:, :shared] = pairs[:-1, width:, :width]
        squares = diagonal.diagonal(dim1=1, dim2=2).flatten()
        squares[size:] = 1.0
        diagonal.diagonal(dim1=1, dim2=2).copy_(squares.view(windows, width))
        self._size, self._scale = size, squares.rsqrt().view(windows, width)
        rows, columns = self._scale[:, :, None], self._scale[:, None]
        self._factors = BlockTridiagonal(rows * diagonal * columns, rows[1:] * lower * columns[:-1])
        self.failed = self._factors.failed

    def solve(self, right: Tensor) -> Tensor:
        """Return the solution."""
        padded = right.new_zeros(self._scale.numel())
        padded[: self._size] = right
        found = self._factors.solve(self._scale * padded.view_as(self._scale))
        return (self._scale * found).flatten()[: self._size]


class Level:
    """The Jacobian in the columns of one level.

    Args:
        parts: the parameters on this level.
        finest: the same on the finest level.
        found: the rows, by runs in these columns.
        numbers: the place of each parameter, by its identity.

    Attributes:
        size: number of columns.
        columns: the groups of columns, in their order.
        nonzeros: of the Jacobian.
        rows: number of rows.
        starts: the first column of each parameter.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        finest: Sequence[Part],
        found: Sequence[Block],
        numbers: dict[int, int],
    ) -> None:
        self.parts, self._to_finest = parts, Step(parts, finest)
        self.size, self.rows = sum(p.size for p in parts), sum(len(b.residual) for b in found)
        self.starts = [0, *itertools.accumulate(part.size for part in parts)]
        pieces: dict[int, list[tuple[int, Run]]] = {}
        first = 0
        for block in found:
            for run in block.runs:
                start = self.starts[numbers[id(run.parameter)]] + run.start
                pieces.setdefault(start, []).append((first, run))
            first += len(block.residual)
        like = found[0].residual
        self.columns = [
            Columns(start + p * part.width, part, pieces.get(start + p * part.width, []), like)
            for start, part in zip(self.starts[:-1], parts, strict=True)
            for p in range(part.inputs)
        ]
        self._windows = [
            (first.to(like.device), rows.to(like.device))
            for first, rows in self._to_finest.windows()
        ]
        self._above = [part.width for part in finest for _ in range(part.inputs)]
        self.nonzeros = sum(own.nonzeros for own in self.columns)

    def product(self, v: Tensor) -> Tensor:
        """Return J v."""
        rows = v.new_zeros(self.rows)
        for own in self.columns:
            own.add_product(v[own.span], rows)
        return rows

    def transposed(self, rows: Tensor) -> Tensor:
        """Return J^T y."""
        return torch.cat([own.transposed(rows) for own in self.columns])

    def squares(self) -> Tensor:
        """Return the diagonal of J^T J."""
        return torch.cat([own.squares() for own in self.columns])

    def damp(self, diagonal: Tensor, v: Tensor) -> Tensor:
        """Return P^T D P v, for D on the finest level."""
        return self._to_finest.restrict(diagonal * self._to_finest.apply(v))

    def dampings(self, diagonal: Tensor) -> Iterator[Tensor]:
        """Yield P^T D P of each group of columns, by interval."""
        parts = zip(self.columns, self._windows, diagonal.split(self._above), strict=True)
        for own, window, part in parts:
            yield own.damping(window, part)

    @functools.cached_property
    def grams(self) -> list[Tensor]:
        """The Gram matrices of each group, by interval."""
        return [own.by_interval() for own in self.columns]


class GalerkinHierarchy:
    """The levels of a Gauss-Newton system, the finest first.

    Use :func:`hierarchy` to build one.

    Args:
        model: the network.
        coordinates: its parameters, in the spline basis.
        found: the rows of its Jacobian.
        direct: levels of at most this many parameters are solved directly.

    Attributes:
        levels: the levels.

    Raises:
        ValueError: if weights count in the ReLU basis, or a spline layer is altered.

    Examples:
        >>> from kanlib import KAN, MeanSquaredError
        >>> x = torch.rand(50, 1, dtype=torch.float64)
        >>> model = KAN([1, 1], n=32, dtype=torch.float64)
        >>> levels = hierarchy(model, MeanSquaredError(x, x**2), direct=20)
        >>> type(levels).__name__, len(levels.levels)
        ('GalerkinHierarchy', 2)
    """

    def __init__(
        self, model: nn.Module, coordinates: Coordinates, found: Sequence[Block], direct: int
    ) -> None:
        check_basis(coordinates)
        layers = {id(layer.weight): layer for layer in spline_layers(model)}
        numbers = {id(p): number for number, p in enumerate(coordinates.parameters)}
        finest = [_part(p, layers.get(id(p))) for p in coordinates.parameters]
        if not any(part.grids for part in finest):
            raise ValueError(
                "solver='multigrid' needs spline layers that train, whose grids it coarsens, got "
                f"a {type(model).__name__} without one: use solver='cg'"
            )
        self.levels, self.steps = [Level(finest, finest, found, numbers)], []
        parts = finest
        while self.levels[-1].size > direct and any(part.n > 1 for part in parts):
            fine, parts = parts, [part.coarsened() for part in parts]
            step = Step(parts, fine)
            found = [step.product(block, numbers) for block in found]
            self.steps.append(step)
            self.levels.append(Level(parts, finest, found, numbers))
        self._gram = _gram(self.levels[-1], found, numbers)

    def damped(self, diagonal: Tensor) -> VCycle | None:
        """Return the V-cycle for J^T J + D, or None if a matrix is not positive definite.

        Args:
            diagonal: the diagonal of D, in columns.
        """
        coarsest = self._gram.clone()
        for own, local in zip(
            self.levels[-1].columns, self.levels[-1].dampings(diagonal), strict=True
        ):
            _add_local(coarsest[own.span, own.span], local, own.part.outputs)
        factor, failed = torch.linalg.cholesky_ex(coarsest)
        smoothers = [
            [
                Factors(own.part, local + damping)
                for own, local, damping in zip(
                    level.columns, level.grams, level.dampings(diagonal), strict=True
                )
            ]
            for level in self.levels[:-1]
        ]
        if failed or any(each.failed for level in smoothers for each in level):
            return None
        return VCycle(self, diagonal, smoothers, factor)

    def work(self, level: Level) -> int:
        """Return the multiplications of a level in one cycle: products with J, or the factors."""
        return 2 * level.size**2 if level is self.levels[-1] else 5 * level.nonzeros

    def __repr__(self) -> str:
        lines = ["level  n            parameters  nonzeros    work a cycle"]
        for number, level in enumerate(reversed(self.levels)):
            n = ", ".join(str(k) for k in dict.fromkeys(p.n for p in level.parts if p.grids))
            lines.append(
                f"{number:<6} {n:<12} {level.size:<11} {level.nonzeros:<11} {self.work(level):.2g}"
            )
        return "\n".join(lines)


class VCycle:
    """A V-cycle: the preconditioner of J^T J + D.

    Args:
        hierarchy: the levels.
        diagonal: the diagonal of D.
        smoothers: factors of the groups of columns of each level but the coarsest.
        factor: Cholesky's factor of the coarsest level.
    """

    def __init__(
        self,
        hierarchy: GalerkinHierarchy,
        diagonal: Tensor,
        smoothers: Sequence[Sequence[Factors]],
        factor: Tensor,
    ) -> None:
        self._levels, self._steps, self._diagonal = hierarchy.levels, hierarchy.steps, diagonal
        self._smoothers, self._factor = smoothers, factor

    def __call__(self, right: Tensor) -> Tensor:
        """Return one cycle from zero for a right-hand side in columns."""
        return self._solve(0, right)[0]

    def _solve(self, number: int, right: Tensor) -> tuple[Tensor, Tensor]:
        """Return x of one cycle on a level and those above it, and J x."""
        level = self._levels[number]
        if number == len(self._smoothers):
            x = torch.cholesky_solve(right[:, None], self._factor)[:, 0]
            return x, level.product(x) if number else x
        x, rows = torch.zeros_like(right), right.new_zeros(level.rows)
        groups = [*zip(level.columns, self._smoothers[number], strict=True)]
        for own, factors in reversed(groups):
            self._smooth(own, factors, right, x, rows)
        rest = right - level.transposed(rows) - level.damp(self._diagonal, x)
        coarse, seen = self._solve(number + 1, self._steps[number].restrict(rest))
        x += self._steps[number].apply(coarse)
        rows += seen
        right = right - level.damp(self._diagonal, x)
        for own, factors in groups:
            self._smooth(own, factors, right, x, rows)
        return x, rows

    @staticmethod
    def _smooth(own: Columns, factors: Factors, right: Tensor, x: Tensor, rows: Tensor) -> None:
        """Solve for some columns; ``right`` is less what the damping of x takes."""
        change = factors.solve(right[own.span] - own.transposed(rows))
        x[own.span] += change
        own.add_product(change, rows)


def hierarchy(
    model: nn.Module, objective: SumOfSquares, *, direct: int = DIRECT, points: int = POINTS
) -> GalerkinHierarchy:
    """Return the levels of the Gauss-Newton system of a model and its objective.

    Args:
        model: the network; its weights count as coefficients of B-splines.
        objective: offers ``residuals()``, see :class:`kanlib.objectives.squares.SumOfSquares`.
        direct: levels of at most this many parameters are solved directly.
        points: points whose rows are computed at a time.

    Raises:
        TypeError: if the objective does not offer its residuals.
        ValueError: if an argument is out of range, a spline layer is altered, or processes share
            the points of the objective.

    Examples:
        >>> from kanlib import KAN, MeanSquaredError
        >>> x = torch.rand(50, 2, dtype=torch.float64)
        >>> model = KAN([2, 3, 1], n=16, dtype=torch.float64)
        >>> hierarchy(model, MeanSquaredError(x, x[:, :1]), direct=70)
        level  n            parameters  nonzeros    work a cycle
        0      4            63          1800        7.9e+03
        1      8            99          1800        9e+03
        2      16           171         1800        9e+03
    """
    direct = as_integer("direct", direct, minimum=0)
    if shares_of(objective).size > 1:
        raise ValueError(
            "objective must have all points in this process for a hierarchy, got one whose points "
            "are shared among processes: give it without Sharded"
        )
    coordinates = Coordinates(model, objective, "spline")
    half_gradient(model, objective, coordinates)  # first: weights may follow from it
    found = [*blocks(model, objective, coordinates, points)]
    return GalerkinHierarchy(model, coordinates, found, direct)


def check_basis(coordinates: Coordinates) -> None:
    """Raise ValueError unless spline weights count as coefficients of B-splines, all free."""
    if coordinates.order is None:
        raise ValueError(
            "geometry must be 'spline' for solver='multigrid', and splines not periodic, got "
            "layers in the ReLU basis or periodic ones: give geometry='spline', which trains the "
            "former, or solver='cg'"
        )


def _part(parameter: Tensor, layer: SplineLayer | None) -> Part:
    if layer is None:
        return Part((), 1, parameter.numel())
    return Part(tuple(layer.distinct_grids), layer.in_features, layer.out_features)


def _gram(level: Level, found: Sequence[Block], numbers: dict[int, int]) -> Tensor:
    """Return J^T J of a level."""
    total = found[0].residual.new_zeros(level.size, level.size)
    for block in found:
        starts = [level.starts[numbers[id(run.parameter)]] + run.start for run in block.runs]
        parts = zip(starts, block.runs, strict=True)
        gram.add([(at, run.offset, run.values) for at, run in parts], total)
    return gram.completed(total)


def _add_local(matrix: Tensor, local: Tensor, step: int) -> None:
    """Add matrices by interval to that of all columns of a group."""
    for i, own in enumerate(local):
        at = slice(i * step, i * step + len(own))
        matrix[at, at] += own
