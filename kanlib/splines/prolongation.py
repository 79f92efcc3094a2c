"""Prolongation between nested spline spaces, and its transpose for gradients.

If every breakpoint of the coarse grid is one of the fine grid, S_r(T) is a subspace of S_r(T') on
[a, b], and a coarse spline has exactly one set of fine coefficients. For halved uniform grids they
follow from the two-scale relation b_i = 2**(1-r) sum_s C(r, s) b'_{2i+s} (eq. 25, corrected: the
factor is 2**(1-r), not 2**-r). In general, fine coefficient j is the blossom of the coarse spline
at the fine knots t'_{j+1}, ..., t'_{j+r-1} (knot insertion, by the Oslo algorithm); it depends on
the r coarse coefficients of one interval. Each row of P therefore has at most r entries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from kanlib._checks import BASES, Basis, as_integer, check_option, check_tensor, shown
from kanlib.splines.knots import MAX_ORDER, KnotGrid, nearest

__all__ = ["Prolongation", "dyadic_prolongation", "prolongation"]


class Prolongation:
    """The linear map P from coarse to fine coefficients, on the last dimension of a tensor.

    Use :func:`prolongation` to build one. Row j of P has the entries ``values[j]`` in the columns
    ``columns[j]``; both have shape (num_fine, r). Columns may repeat where the value is zero.

    Examples:
        >>> grid = KnotGrid.uniform(2, 2)
        >>> P = prolongation(grid, grid.refine())
        >>> P
        Prolongation(num_fine=5, num_coarse=3)
        >>> P.apply(torch.tensor([0.0, 1.0, 0.0]))
        tensor([0.0000, 0.5000, 1.0000, 0.5000, 0.0000])
        >>> P.restrict(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]))
        tensor([0., 1., 0.])
    """

    def __init__(self, columns: Tensor, values: Tensor, num_coarse: int) -> None:
        self.columns = columns
        self.values = values
        self.shape = (values.shape[0], num_coarse)

    def apply(self, coarse: Tensor) -> Tensor:
        """Return fine coefficients P u of shape (..., num_fine) from u (..., num_coarse).

        Raises:
            TypeError: if the argument is not a floating-point tensor.
            ValueError: if the last dimension is not num_coarse.
        """
        check_tensor("coarse", coarse, self.shape[1])
        columns = self.columns.to(coarse.device)
        return (coarse[..., columns] * self.values.to(coarse)).sum(-1)

    def restrict(self, fine: Tensor) -> Tensor:
        """Return P^T g of shape (..., num_coarse): fine gradients restricted to the coarse grid.

        Raises:
            TypeError: if the argument is not a floating-point tensor.
            ValueError: if the last dimension is not num_fine.
        """
        check_tensor("fine", fine, self.shape[0])
        terms = (fine[..., None] * self.values.to(fine)).flatten(-2)
        coarse = fine.new_zeros(*fine.shape[:-1], self.shape[1])
        return coarse.index_add(-1, self.columns.flatten().to(fine.device), terms)

    def dense(self) -> Tensor:
        """Return P as a dense float64 matrix of shape (num_fine, num_coarse)."""
        matrix = self.values.new_zeros(self.shape)
        return matrix.scatter_add(1, self.columns, self.values)

    def __repr__(self) -> str:
        return f"Prolongation(num_fine={self.shape[0]}, num_coarse={self.shape[1]})"


def prolongation(coarse: KnotGrid, fine: KnotGrid, basis: Basis = "spline") -> Prolongation:
    """Return the prolongation of spline (u) or ReLU (w) weights between nested grids.

    Args:
        coarse: grid with breakpoints T.
        fine: grid with breakpoints T' that include T, same order and domain.
        basis: "spline" or "relu".

    Returns:
        The operator P of shape (num_fine, num_coarse).

    Raises:
        TypeError: if ``coarse`` or ``fine`` is not a KnotGrid.
        ValueError: if the orders differ, the grids are not nested or ``basis`` is unknown.

    Examples:
        >>> coarse = KnotGrid.uniform(2, 2)
        >>> prolongation(coarse, coarse.refine()).dense()
        tensor([[1.0000, 0.0000, 0.0000],
                [0.5000, 0.5000, 0.0000],
                [0.0000, 1.0000, 0.0000],
                [0.0000, 0.5000, 0.5000],
                [0.0000, 0.0000, 1.0000]], dtype=torch.float64)
    """
    check_option("basis", basis, BASES)
    check_nested(coarse, fine)
    if basis == "relu":
        return _truncated_power_insertion(coarse, fine)
    if fine.n == 2 * coarse.n and coarse.is_uniform and fine.is_uniform:
        return dyadic_prolongation(coarse.order, coarse.n)
    return _knot_insertion(coarse, fine)


def dyadic_prolongation(order: int, n: int) -> Prolongation:
    """Return the stencil P[2i + s, i] = 2**(1-r) C(r, s) for n -> 2n uniform intervals.

    Eq. (25), corrected and transposed; the paper counts functions from i = 1 - r. Functions whose
    support misses [a, b] are dropped.

    Args:
        order: order r.
        n: number of coarse intervals, at least 1.

    Raises:
        TypeError: if an argument is not an integer.
        ValueError: if an argument is out of range.

    Examples:
        >>> dyadic_prolongation(3, 1).dense() * 4
        tensor([[3., 1., 0.],
                [1., 3., 0.],
                [0., 3., 1.],
                [0., 1., 3.]], dtype=torch.float64)
    """
    r, n = as_integer("order", order, 1, MAX_ORDER), as_integer("n", n, minimum=1)
    fine = torch.arange(1 - r, 2 * n, device="cpu")[:, None]
    coarse = torch.div(fine, 2, rounding_mode="floor") - torch.arange(r, device="cpu")
    s = fine - 2 * coarse
    stencil = torch.tensor([math.comb(r, k) for k in range(r + 1)] + [0] * r, device="cpu")
    valid = (s <= r) & (coarse >= 1 - r)
    values = stencil[s.clamp(max=2 * r)].double() * valid * 2.0 ** (1 - r)
    return Prolongation((coarse + r - 1).clamp(min=0), values, n + r - 1)


def _knot_insertion(coarse: KnotGrid, fine: KnotGrid) -> Prolongation:
    """Return P for any nested pair: blossoms of the coarse pieces at the fine knots."""
    r, t, t_fine = coarse.order, coarse.knots, fine.knots
    # Fine function j lives on [t'_j, t'_{j+r}]; use the coarse interval where it starts in [a, b].
    start = t_fine[: fine.num_basis].clamp(min=coarse.domain[0]) + fine.tolerance
    m = torch.bucketize(start, coarse.breakpoints[1:-1], right=True)
    # Oslo algorithm: in this order of the arguments zeros stay exact and nothing large cancels.
    row = t.new_ones(fine.num_basis, 1)
    for q in range(1, r):
        x = t_fine[q : q + fine.num_basis, None]
        left = m[:, None] + torch.arange(r - q, r, device=t.device)
        share = (x - t[left]) / (t[left + q] - t[left])
        row = pad((1.0 - share) * row, (0, 1)) + pad(share * row, (1, 0))
    columns = m[:, None] + torch.arange(r, device=t.device)
    return Prolongation(columns, row, coarse.num_basis)


def _truncated_power_insertion(coarse: KnotGrid, fine: KnotGrid) -> Prolongation:
    """Return P for ReLU weights: injection at breakpoints, Lagrange weights at exterior knots.

    On [a, b] a function (x - t)**(r-1) with t <= a is a polynomial, and
    (x - t)**(r-1) = sum_j l_j(t) (x - tau_j)**(r-1) with the Lagrange polynomials l_j at the
    fine knots tau_j = t'_{1-r}, ..., t'_0, since both sides are polynomials of degree r - 1 in t.
    """
    r, t, tau = coarse.order, coarse.knots[: coarse.order], fine.knots[: fine.order]
    values = t.new_zeros(fine.num_basis, r)
    columns = values.long()
    columns[:r] = torch.arange(r, device=t.device)
    for j in range(r):
        others = torch.cat([tau[:j], tau[j + 1 :]])
        values[j] = ((t[:, None] - others) / (tau[j] - others)).prod(-1)
    index, distance = nearest(fine.breakpoints[1:-1], coarse.breakpoints)
    kept = distance <= max(coarse.tolerance, fine.tolerance)
    columns[r:, 0] = (index + r - 1) * kept
    values[r:, 0] = kept.double()
    return Prolongation(columns, values, coarse.num_basis)


def check_nested(coarse: KnotGrid, fine: KnotGrid) -> None:
    """Raise ValueError unless the spline space of ``coarse`` lies in that of ``fine``."""
    for name, grid in (("coarse", coarse), ("fine", fine)):
        if not isinstance(grid, KnotGrid):
            raise TypeError(f"{name} must be a KnotGrid, got {shown(grid)}")
    if coarse.order != fine.order:
        raise ValueError(
            f"coarse and fine must have the same order, got {coarse.order} and {fine.order}"
        )
    if coarse.periodic != fine.periodic:
        one, other = ("coarse", "fine") if coarse.periodic else ("fine", "coarse")
        raise ValueError(
            f"coarse and fine must both be periodic or neither, got a periodic {one} grid and "
            f"another {other} one: make it with KnotGrid(..., periodic=...)"
        )
    tolerance = max(coarse.tolerance, fine.tolerance)
    ends = zip(coarse.domain, fine.domain, strict=True)
    if any(abs(c - f) > tolerance for c, f in ends):
        raise ValueError(
            f"coarse and fine must share their domain, got {coarse.domain} and {fine.domain}"
        )
    missing = coarse.missing_from(fine)
    if missing:
        _, distance = nearest(fine.breakpoints.new_tensor(missing), fine.breakpoints)
        a, b = coarse.domain
        rounded = float(distance.max()) < 4 * torch.finfo(torch.float32).eps * max(abs(a), abs(b))
        remedy = (
            "they differ as float32 rounds: give breakpoints as Python floats or in float64"
            if rounded
            else "add them to fine, or use coarse.refine()"
        )
        listed = ", ".join(f"{t:.12g}" for t in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"grids are not nested: fine (n = {fine.n}) lacks {len(missing)} breakpoint(s) of "
            f"coarse (n = {coarse.n}): {listed}; {remedy}"
        )
