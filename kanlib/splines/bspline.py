"""B-splines: local closed-form evaluation, and the Cox-de Boor recursion as reference.

On one interval [t_m, t_{m+1}] exactly r B-splines b_m, ..., b_{m+r-1} (counted from zero) do not
vanish, and each is a polynomial in the local coordinate v = (x - t_m) / (t_{m+1} - t_m). The
coefficients of these pieces are computed once per grid (Cox-de Boor, eq. 2, applied to
polynomials); evaluation is then a look-up and r Horner schemes, whatever the number of intervals.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kanlib._checks import Extension, check_derivative, check_tensor, check_types
from kanlib.splines.knots import KnotGrid

__all__ = ["cox_de_boor", "dense_basis", "greville", "pieces", "supports"]


def pieces(grid: KnotGrid) -> Tensor:
    """Return the polynomial pieces of all B-splines on all intervals.

    Entry [m, l, k] is the coefficient of v**k in B-spline m + l on interval m, with v in [0, 1].

    Args:
        grid: the knot grid.

    Returns:
        Float64 tensor of shape (n, r, r), or (1, r, r) on a uniform grid, where all intervals
        have the same pieces, those of integer knots.

    Examples:
        >>> pieces(KnotGrid.uniform(2, 5))
        tensor([[[ 1., -1.],
                 [ 0.,  1.]]], dtype=torch.float64)
    """
    check_types(pieces, locals())
    knots = KnotGrid.uniform(grid.order, 1).knots if grid.is_uniform else grid.knots
    return pieces_of(knots, grid.order)


def pieces_of(knots: Tensor, order: int) -> Tensor:
    """Return the polynomial pieces of all B-splines, differentiable in the knots.

    The local coordinate v is held where it is: the derivatives of the coefficients are all there
    are, and an evaluation at v needs none in the breakpoints.

    Args:
        knots: increasing knots t_{1-r}, ..., t_{n+r-1}, (..., n + 2r - 1).
        order: order r.

    Returns:
        Tensor of shape (..., n, r, r), see :func:`pieces`.
    """
    r = order
    # Row m of t holds the knots t_{m+1-r}, ..., t_{m+r}, relative to where t_m is.
    t = knots.unfold(-1, 2 * r, 1)
    t = t - t[..., r - 1 : r].detach()
    width = t[..., r : r + 1].detach()
    table = torch.ones_like(width)[..., None]
    for q in range(2, r + 1):
        # B-spline l of order q - 1 on interval m has the support [left, right]; it enters
        # l of order q with (right - x) and l + 1 with (x - left), where x = width * v.
        raised = table.new_zeros(*t.shape[:-1], q, q)
        for l in range(q - 1):
            left, right = t[..., r + 1 - q + l, None], t[..., r + l, None]
            c = table[..., l, :] / (right - left)
            raised[..., l, :-1] += c * right
            raised[..., l, 1:] -= c * width
            raised[..., l + 1, :-1] -= c * left
            raised[..., l + 1, 1:] += c * width
        table = raised
    return table


def polynomials(weight: Tensor, table: Tensor) -> Tensor:
    """Return the polynomial of every edge on every interval.

    Args:
        weight: spline weights (Q, P, n + r - 1).
        table: pieces (1 or P, 1 or n, r, r): of all inputs or each, all intervals or each.

    Returns:
        Coefficients of 1, v, ..., v**(r-1), of shape (Q, P, n, r).
    """
    r = table.shape[-1]
    n = weight.shape[-1] - r + 1
    # The r weights of each interval, (Q, P, n, r); unfold has no vmap over its backward.
    windows = torch.stack([weight[..., l : l + n] for l in range(r)], dim=-1)
    return torch.einsum("pmlk,qpml->qpmk", table, windows)


def supports(grid: KnotGrid) -> tuple[Tensor, Tensor]:
    """Return the ends of what the support of each B-spline has in common with [a, b].

    Args:
        grid: the knot grid.

    Returns:
        Left and right ends, each (n + r - 1,).

    Examples:
        >>> supports(KnotGrid.uniform(2, 2))[1]
        tensor([0.5000, 1.0000, 1.0000], dtype=torch.float64)
    """
    check_types(supports, locals())
    a, b = grid.domain
    return grid.knots[: grid.num_basis].clamp(min=a), grid.knots[grid.order :].clamp(max=b)


def locate(x: Tensor, breakpoints: Tensor) -> Tensor:
    """Return the index in 0, ..., n-1 of the interval that holds x (the end intervals reach out).

    Args:
        x: points of any shape.
        breakpoints: (n + 1,) increasing.

    Returns:
        Integer tensor of the shape of x; the last interval is closed at b.
    """
    return torch.bucketize(x.detach().contiguous(), breakpoints[1:-1], right=True)


def local_powers(
    x: Tensor, breakpoints: Tensor, order: int, derivative: int = 0, extension: Extension = "linear"
) -> tuple[Tensor, Tensor]:
    """Evaluate the powers 1, v, ..., v**(r-1) of the local coordinate, or their x-derivatives.

    Outside [a, b] the powers continue linearly from the end point ("linear"), keep their end
    values ("clamp"), or are zero ("none"). Any function that is a polynomial in v on each
    interval is then continued in the same way, in whichever basis it is written.

    The local coordinate is computed in the dtype of the breakpoints: float64 breakpoints give
    float32 points full float32 accuracy on any grid.

    Args:
        x: points of shape (...).
        breakpoints: (n + 1,), preferably float64.
        order: number r of powers.
        derivative: which derivative with respect to x, from 0 to r - 1.
        extension: "linear", "clamp" or "none".

    Returns:
        Interval index (...) and powers (..., r).
    """
    ends = breakpoints.to(x.dtype)
    inside = torch.clamp(x, ends[0], ends[-1])
    outside = x - inside
    exact = inside.to(breakpoints.dtype)
    index = locate(exact, breakpoints)
    left = breakpoints[index]
    width = breakpoints[index + 1] - left
    v, width = ((exact - left) / width).to(x.dtype), width.to(x.dtype)
    powers = _powers(v, width, order, derivative)
    if extension == "linear" and derivative == 0:
        powers = powers + outside[..., None] * _powers(v, width, order, 1)
    elif extension == "none" or derivative > (extension == "linear"):
        powers = powers * (outside == 0)[..., None]
    return index, powers


def _powers(v: Tensor, width: Tensor, order: int, derivative: int) -> Tensor:
    """Return the ``derivative``-th x-derivatives of v**0, ..., v**(order-1), x = width * v."""
    zero = 0 * v  # keeps NaN, also where a power is constant
    terms = [zero] * min(derivative, order)
    term = zero + width**-derivative
    for k in range(derivative, order):
        terms.append(math.perm(k, derivative) * term if derivative else term)
        term = term * v
    return torch.stack(terms, dim=-1)


def local_basis(
    x: Tensor,
    breakpoints: Tensor,
    table: Tensor,
    derivative: int = 0,
    extension: Extension = "linear",
) -> tuple[Tensor, Tensor]:
    """Evaluate the r B-splines that do not vanish at each point.

    Args:
        x: points of shape (...).
        breakpoints: (n + 1,), preferably float64.
        table: result of :func:`pieces` in the dtype of x.
        derivative: which derivative with respect to x, from 0 to r - 1.
        extension: behaviour outside [a, b], see :func:`local_powers`.

    Returns:
        Index (...) of the first of the r B-splines, and their values (..., r).
    """
    index, powers = local_powers(x, breakpoints, table.shape[-1], derivative, extension)
    if table.shape[0] == 1:
        return index, powers @ table[0].T
    return index, (table[index] @ powers[..., None])[..., 0]


def dense_basis(
    x: Tensor, grid: KnotGrid, derivative: int = 0, extension: Extension = "linear"
) -> Tensor:
    """Evaluate all B-splines, or a derivative of them.

    Args:
        x: floating-point points of shape (...).
        grid: the knot grid.
        derivative: from 0 to r - 1.
        extension: behaviour outside [a, b]: "linear", "clamp" or "none".

    Returns:
        Values of shape (..., n + r - 1), differentiable with respect to x.

    Raises:
        TypeError: if x is not a floating-point tensor.
        ValueError: if ``derivative`` or ``extension`` is not admissible.

    Examples:
        >>> dense_basis(torch.tensor([0.25]), KnotGrid.uniform(2, 2))
        tensor([[0.5000, 0.5000, 0.0000]])
    """
    check_types(dense_basis, locals() | {"derivative": 0})
    check_derivative(derivative, grid.order)
    check_tensor("x", x)
    breakpoints = exact_breakpoints(grid, x.device)
    index, values = local_basis(x, breakpoints, pieces(grid).to(x), derivative, extension)
    return scatter(index, values, grid.num_basis)


def scatter(index: Tensor, values: Tensor, num_basis: int) -> Tensor:
    """Place local values (..., r), the first at ``index``, in a dense row (..., num_basis)."""
    columns = index[..., None] + torch.arange(values.shape[-1], device=index.device)
    zeros = values.new_zeros(*values.shape[:-1], num_basis)
    return zeros.scatter(-1, columns, values)


def cox_de_boor(x: Tensor, grid: KnotGrid) -> Tensor:
    """Evaluate all B-splines by the recursion (eq. 2), vectorised over points and functions.

    This is how most KAN libraries evaluate splines: O(n r) work a point. It serves as reference
    on [a, b]; outside, it follows the tails of the B-splines, which depend on the exterior knots.

    Args:
        x: points of shape (...).
        grid: the knot grid.

    Returns:
        Values of shape (..., n + r - 1).

    Raises:
        TypeError: if x is not a floating-point tensor.

    Examples:
        >>> grid = KnotGrid.uniform(3, 4)
        >>> x = torch.linspace(0, 1, 9, dtype=torch.float64)
        >>> torch.allclose(cox_de_boor(x, grid), dense_basis(x, grid))
        True
    """
    check_types(cox_de_boor, locals())
    check_tensor("x", x)
    r, t, x = grid.order, grid.knots.to(x), x[..., None]
    holds = (x >= t[:-1]) & (x < t[1:])
    holds[..., -1:] |= x == t[-1]  # the last interval is closed
    b = holds.to(x)
    for q in range(2, r + 1):
        rising = (x - t[:-q]) / (t[q - 1 : -1] - t[:-q]) * b[..., :-1]
        falling = (t[q:] - x) / (t[q:] - t[1 : -q + 1]) * b[..., 1:]
        b = rising + falling
    return b


def exact_breakpoints(grid: KnotGrid, device: torch.device) -> Tensor:
    """Return the breakpoints on a device, in float64 wherever it has that (all but MPS)."""
    return grid.breakpoints.to(device=device, dtype=exact_dtype(device))


def exact_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of breakpoints on a device: float64 wherever it has that (all but MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64


def greville(grid: KnotGrid) -> Tensor:
    """Return the Greville points (n + r - 1,): means of r - 1 consecutive knots, clipped to [a, b].

    Raises:
        ValueError: if the order is 1, which has none.

    Examples:
        >>> greville(KnotGrid.uniform(2, 2))
        tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64)
    """
    check_types(greville, locals())
    r = grid.order
    if r == 1:
        raise ValueError("order must be at least 2 for Greville points, got 1")
    return grid.knots[1:-1].unfold(0, r - 1, 1).mean(-1).clamp(*grid.domain)
