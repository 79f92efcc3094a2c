"""The hierarchy of grids under a network: every second breakpoint, down to a few intervals.

Splines on a coarse grid are splines on the grid of the network (section 4.1), so that coefficients
e on it are a change P e of the weights, exactly. Parameters outside spline layers belong to every
level. The evaluation of local B-splines costs the same on all grids; the paper counts work by
intervals, so that an epoch on half of them costs half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kanlib._checks import Basis, as_integer
from kanlib.nn.spline_layer import SplineLayer, by_input, spline_layers
from kanlib.objectives.unknowns import trained
from kanlib.splines.knots import KnotGrid
from kanlib.splines.prolongation import Prolongation, prolongation

__all__ = ["Hierarchy", "coarsened"]

#: No grid of a hierarchy has fewer intervals, unless another number is given.
COARSEST = 4


def coarsened(grid: KnotGrid) -> KnotGrid:
    """Return the grid of every second breakpoint and of both ends.

    The inverse of :meth:`kanlib.splines.knots.KnotGrid.refine` on a grid that was refined; of an
    odd number of intervals the last one stays, and one interval stays as it is.

    Examples:
        >>> coarsened(KnotGrid(4, [0.0, 1.0, 2.0, 4.0, 5.0, 6.0])).breakpoints
        tensor([0., 2., 5., 6.], dtype=torch.float64)
    """
    points = grid.breakpoints.tolist()
    kept = points[::2]
    return grid.with_breakpoints(kept if grid.n % 2 == 0 else [*kept, points[-1]])


class LayerTransfer:
    """The prolongation of the weights (Q, P, n + r - 1) of a layer to a finer grid.

    Attributes:
        shape: basis functions of an edge on the fine and on the coarse grid.
    """

    def __init__(self, coarse: Sequence[KnotGrid], fine: Sequence[KnotGrid], basis: Basis) -> None:
        pairs = zip(coarse, fine, strict=True)
        self._each: list[Prolongation] = [prolongation(*pair, basis) for pair in pairs]
        self.shape = self._each[0].shape

    def apply(self, coarse: Tensor) -> Tensor:
        """Return P u of coefficients (..., P, num_coarse)."""
        return by_input(lambda u, p: p.apply(u), coarse, self._each)

    def restrict(self, fine: Tensor) -> Tensor:
        """Return P^T g of gradients (..., P, num_fine)."""
        return by_input(lambda g, p: p.restrict(g), fine, self._each)

    def project(self, fine: Tensor) -> Tensor:
        """Return P (P^T P)^{-1} P^T u: the prolonged coefficients that are next to u."""

        def nearest(u: Tensor, p: Prolongation) -> Tensor:
            image, _ = torch.linalg.qr(p.dense().to(u.device))
            return (u.double() @ image @ image.T).to(u)

        return by_input(nearest, fine, self._each)


@dataclass(frozen=True)
class GridLevel:
    """One level of a hierarchy.

    Attributes:
        grids: the grids of each layer, one for all inputs or one for each.
        n: intervals of the splines (the largest number, should layers differ).
        num_parameters: trainable numbers of a network on this grid.
        transfers: the prolongation of each parameter to the network's own grid, or None for one
            that is the same on all levels.
        work: what an epoch costs in epochs of the finest level, counted by intervals.
    """

    grids: tuple[list[KnotGrid], ...]
    n: int
    num_parameters: int
    transfers: tuple[LayerTransfer | None, ...]
    work: float


class Hierarchy:
    """The levels of a network, the coarsest first, each on every second breakpoint of the next.

    Args:
        model: the network; it may lie in other modules.
        objective: what it is trained for, whose unknowns belong to every level.
        coarsest: no grid has fewer intervals than this, unless that of the network has.
        basis: "spline" or "relu", the basis of the coefficients; by default that of each layer.

    Attributes:
        parameters: the trainable parameters.
        levels: the levels.

    Raises:
        TypeError: if ``coarsest`` is not an integer.
        ValueError: if ``coarsest`` is below 1, or the model has no spline layer with fixed knots.

    Examples:
        >>> from kanlib import KAN
        >>> Hierarchy(KAN([2, 5, 1], n=40, first="affine"))
        Hierarchy(4 levels)
        level     n  parameters    work
            0     5          55   0.125
            1    10          80    0.25
            2    20         130     0.5
            3    40         230       1
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Any = None,
        coarsest: int = COARSEST,
        basis: Basis | None = None,
    ) -> None:
        coarsest = as_integer("coarsest", coarsest, minimum=1)
        self.parameters = [p for p in trained(model, objective) if p.requires_grad]
        own = {id(p) for p in self.parameters}
        layers = [layer for layer in spline_layers(model) if id(layer.weight) in own]
        if not layers:
            raise ValueError(
                f"model must have a spline layer that trains, as a KAN has, got "
                f"{type(model).__name__}: there are no grids to go down"
            )
        if any(layer.knots is not None for layer in layers):
            raise ValueError(
                "model must have fixed knots, got free ones, whose coarse grids move under "
                "training: call model.fixed() first"
            )
        self._layers = {id(layer.weight): layer for layer in layers}
        grids = {id(layer.weight): layer.distinct_grids for layer in layers}
        self.levels: list[GridLevel] = []
        while True:
            self.levels.insert(0, self._level(grids, basis))
            coarse = {
                key: [coarsened(g) for g in each] if -(-each[0].n // 2) >= coarsest else each
                for key, each in grids.items()
            }
            if all(coarse[key][0].n == each[0].n for key, each in grids.items()):
                break
            grids = coarse

    def _level(self, grids: dict[int, list[KnotGrid]], basis: Basis | None) -> GridLevel:
        transfers: list[LayerTransfer | None] = []
        size = 0
        for parameter in self.parameters:
            layer = self._layers.get(id(parameter))
            transfer = None if layer is None else _transfer(layer, grids[id(parameter)], basis)
            transfers.append(transfer)
            shrunk = 1.0 if transfer is None else transfer.shape[1] / transfer.shape[0]
            size += round(parameter.numel() * shrunk) - (0 if layer is None else layer.repeated)
        n = max(each[0].n for each in grids.values())
        finest = max(layer.n for layer in self._layers.values())
        return GridLevel((*grids.values(),), n, size, tuple(transfers), n / finest)

    @torch.no_grad()
    def projected(self, number: int) -> list[Tensor]:
        """Return the present parameters, or what is next to them among those of a level.

        It depends on weights only by the function that they stand for.
        """
        found = []
        for p, transfer in zip(self.parameters, self.levels[number].transfers, strict=True):
            if transfer is None:
                found.append(p.detach().clone())
            else:
                found.append(transfer.project(self._layers[id(p)].coefficients()))
        return found

    def __len__(self) -> int:
        return len(self.levels)

    def __repr__(self) -> str:
        lines = [f"Hierarchy({len(self)} level{'s' if len(self) > 1 else ''})"]
        lines.append("level     n  parameters    work")
        for number, level in enumerate(self.levels):
            lines.append(f"{number:5d} {level.n:5d}  {level.num_parameters:10d}  {level.work:6.3g}")
        return "\n".join(lines)


def _transfer(
    layer: SplineLayer, coarse: list[KnotGrid], basis: Basis | None
) -> LayerTransfer | None:
    """Return the prolongation from coarse grids of a layer, or None for those it has."""
    if coarse[0].n == layer.n:
        return None
    return LayerTransfer(coarse, layer.distinct_grids, basis or layer.basis)
