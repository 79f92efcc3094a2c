"""The truncated power ("ReLU") basis psi_j(x) = ReLU(x - t_j)**(r-1), eq. (3).

It spans the same spline space on [a, b] as the B-splines. Outside [a, b] its functions are
continued like the B-splines are, so that both bases describe the same functions everywhere. The
basis is badly conditioned: coefficients of size h**(1-r) cancel, which float32 does not survive
for r = 4 and n = 50. Use it to study the geometry of multichannel MLPs, not to compute.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import threshold

from kanlib._checks import Extension, check_derivative, check_tensor, check_types
from kanlib.splines.knots import KnotGrid, check_powers

__all__ = ["dense_basis", "pieces"]


def pieces(grid: KnotGrid) -> Tensor:
    """Return the polynomial pieces of all truncated powers on all intervals.

    Entry [m, j, k] is the coefficient of v**k in function j on interval m, v in [0, 1]:
    C(r-1, k) (t_m - t_j)**(r-1-k) (t_{m+1} - t_m)**k if t_j <= t_m, else zero.

    Args:
        grid: the knot grid.

    Returns:
        Float64 tensor of shape (n, n + r - 1, r).

    Examples:
        >>> pieces(KnotGrid(2, [0.0, 1.0]))
        tensor([[[1., 1.],
                 [0., 1.]]], dtype=torch.float64)
    """
    check_types(pieces, locals())
    check_powers(grid)
    return pieces_of(grid.knots, grid.order)


def pieces_of(knots: Tensor, order: int) -> Tensor:
    """Return the polynomial pieces of all truncated powers, differentiable in the knots.

    Args:
        knots: increasing knots t_{1-r}, ..., t_{n+r-1}, (..., n + 2r - 1).
        order: order r.

    Returns:
        Tensor of shape (..., n, n + r - 1, r), see :func:`pieces`.
    """
    r, n = order, knots.shape[-1] - 2 * order + 1
    t = knots[..., r - 1 : r + n].detach()  # v is held, see kanlib.splines.bspline.pieces_of
    distance = t[..., :-1, None] - knots[..., None, : n + r - 1]
    width = t.diff()[..., None]
    active = t.new_ones(n, n + r - 1).tril(r - 1)  # t_j <= t_m
    # A power with a tensor of exponents has no second derivative at distance 0.
    terms = [math.comb(r - 1, k) * distance ** (r - 1 - k) * width**k for k in range(r)]
    return torch.stack(terms, dim=-1) * active[..., None]


def polynomials(weight: Tensor, table: Tensor) -> Tensor:
    """Return the polynomial of every edge on every interval.

    Args:
        weight: ReLU weights (Q, P, n + r - 1).
        table: pieces (1 or P, n, n + r - 1, r), of all inputs or each.

    Returns:
        Coefficients of 1, v, ..., v**(r-1), of shape (Q, P, n, r).
    """
    return torch.einsum("pmjk,qpj->qpmk", table, weight)


def dense_basis(
    x: Tensor, grid: KnotGrid, derivative: int = 0, extension: Extension = "linear"
) -> Tensor:
    """Evaluate all truncated powers with knots t_{1-r}, ..., t_{n-1}, or a derivative of them.

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
        >>> dense_basis(torch.tensor([0.75]), KnotGrid.uniform(2, 2))
        tensor([[1.2500, 0.7500, 0.2500]])
    """
    check_types(dense_basis, locals() | {"derivative": 0})
    check_derivative(derivative, grid.order)
    check_tensor("x", x)
    knots, r = grid.knots.to(x), grid.order
    a, b = knots[r - 1], knots[r - 1 + grid.n]
    inside = torch.clamp(x, a, b)
    outside = (x - inside)[..., None]
    distance = inside[..., None] - knots[: grid.num_basis]
    values = _power(distance, r - 1, derivative)
    if extension == "linear" and derivative == 0:
        return values + outside * _power(distance, r - 1, 1) if r > 1 else values
    if extension == "none" or derivative > (extension == "linear"):
        values = values * (outside == 0)
    return values


def _power(distance: Tensor, degree: int, derivative: int) -> Tensor:
    """Return the ``derivative``-th derivative of ReLU(d)**degree, right-continuous at 0.

    So are its derivatives by autograd: this threshold, unlike relu, has derivative 1 at 0.
    """
    exponent = degree - derivative
    if exponent == 0:
        step = (distance >= 0) + 0 * distance  # the second term keeps NaN
        return math.factorial(degree) * step
    positive = threshold(distance, -torch.finfo(distance.dtype).tiny, 0.0)
    power = positive**exponent
    return math.perm(degree, derivative) * power if derivative else power
