"""Free knots: breakpoints that train together with the weights and cannot cross or meet.

The spacings of n intervals of [a, b] are a floor plus shares of what is left,

    t_{i+1} - t_i = (b - a) (floor / n + (1 - floor) p_i),   p = softmax(logits),

so that the breakpoints increase, the ends stay at a and b, and no interval is shorter than
``floor`` times the mean (b - a) / n, whatever step an optimizer takes. The predecessor of the paper
(arXiv:2505.18131) introduces free knots that are ordered by construction; the floor is ours.

A spline is a smooth function of its knots except where a point crosses one, and there it is
r - 2 times differentiable: r = 1 has no useful gradient, r = 2 one almost everywhere.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kanlib._checks import as_number
from kanlib.splines import bspline
from kanlib.splines.knots import KnotGrid

__all__ = ["FreeKnots"]

Sharing = Literal["layer", "input"]
SHARING: tuple[Sharing, ...] = get_args(Sharing)

#: What the floor leaves between knots, relative to the ends of the domain, to refine them further.
LEAST_SPACING = 1e-10


class FreeKnots(nn.Module):
    """Trainable breakpoints, one row a grid.

    Args:
        grids: grids to start from, of one domain and one number of intervals.
        floor: least spacing in units of (b - a) / n, more than 0 and less than 1.
        device: device of the logits.
        dtype: floating-point type of the logits; breakpoints are computed in float64.

    Shape:
        ``logits`` (K, n); the call returns breakpoints (K, n + 1).

    Raises:
        ValueError: if ``floor`` is out of range or a spacing is not above the floor.

    Examples:
        >>> knots = FreeKnots([KnotGrid(4, [0.0, 0.2, 1.0])])
        >>> knots().detach()
        tensor([[0.0000, 0.2000, 1.0000]], dtype=torch.float64)
    """

    floor: Tensor

    def __init__(
        self,
        grids: Sequence[KnotGrid],
        floor: float = 0.1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        floor = as_number("floor", floor)
        self.domain = a, b = grids[0].domain
        least = LEAST_SPACING * max(abs(a), abs(b)) * grids[0].n / (b - a)
        if not least <= floor < 1.0:
            raise ValueError(
                f"floor must be at least {least:.3g} and less than 1, got {floor!r}: knots that "
                "come closer cannot be refined"
            )
        spacings = torch.stack([grid.breakpoints.diff() for grid in grids]) / (b - a)
        n = spacings.shape[1]
        shares = (spacings - floor / n) / (1.0 - floor)
        smallest = float(spacings.min()) * n
        if not smallest > floor:
            raise ValueError(
                f"floor = {floor:.6g} times the mean spacing leaves no room below the smallest "
                f"spacing of the grid, {smallest:.6g} times the mean: choose a smaller floor"
            )
        self.logits = nn.Parameter(shares.log().to(device=device, dtype=dtype))
        like = self.logits.device
        self.register_buffer("floor", torch.tensor(floor, dtype=torch.float64, device=like))

    def forward(self) -> Tensor:
        """Return the breakpoints (K, n + 1), differentiable in the logits."""
        a, b = self.domain
        n = self.logits.shape[1]
        shares = self.logits.to(bspline.exact_dtype(self.logits.device)).softmax(-1)
        floor = self.floor.to(shares)
        inner = a + (b - a) * (floor / n + (1.0 - floor) * shares).cumsum(-1)[:, :-1]
        ends = inner.new_tensor([[a, b]]).expand(len(inner), 2)
        return torch.cat([ends[:, :1], inner, ends[:, 1:]], dim=1)

    def _apply(self, fn: Any, recurse: bool = True) -> FreeKnots:
        """Move or cast the logits; the floor follows in float64, where the device has that."""
        floor = self.floor
        del self.floor
        try:
            return super()._apply(fn, recurse)
        finally:
            device = self.logits.device
            self.register_buffer("floor", floor.to(device, bspline.exact_dtype(device)))

    def halved(self) -> FreeKnots:
        """Return the knots with every interval halved; logits repeat, the floor stays."""
        finer = copy.deepcopy(self)
        logits = self.logits.detach().repeat_interleave(2, dim=1)
        finer.logits = nn.Parameter(logits, requires_grad=self.logits.requires_grad)
        return finer

    def moved(self, grids: Sequence[KnotGrid]) -> FreeKnots:
        """Return knots on other grids; the floor is lowered to what they leave room for."""
        floor, like = min(float(self.floor), room(grids)), self.logits
        knots = FreeKnots(grids, floor, device=like.device, dtype=like.dtype)
        return knots.requires_grad_(like.requires_grad)

    def extra_repr(self) -> str:
        """Show the number of grids and intervals, and the floor."""
        grids, n = self.logits.shape
        return f"grids={grids}, n={n}, floor={float(self.floor):.3g}"


def room(grids: Sequence[KnotGrid]) -> float:
    """Return a floor that grids leave room for: half of their smallest spacing over the mean."""
    return 0.5 * min(float(grid.breakpoints.diff().min()) / grid.h for grid in grids)
