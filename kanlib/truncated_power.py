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

from kanlib.bspline import check_derivative, check_extension
from kanlib.knots import KnotGrid


def dense_basis(
    x: Tensor, grid: KnotGrid, derivative: int = 0, extension: str = "linear"
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
        ValueError: if ``derivative`` or ``extension`` is not admissible.

    Examples:
        >>> dense_basis(torch.tensor([0.75]), KnotGrid.uniform(2, 2))
        tensor([[1.2500, 0.7500, 0.2500]])
    """
    check_derivative(derivative, grid.order)
    check_extension(extension)
    knots = grid.knots.to(x)
    return evaluate(x, knots, grid.order, derivative, extension)


def evaluate(
    x: Tensor, knots: Tensor, order: int, derivative: int = 0, extension: str = "linear"
) -> Tensor:
    """Evaluate like :func:`dense_basis` from the n + 2r - 1 knots in the dtype of x."""
    r, n = order, knots.shape[0] - 2 * order + 1
    a, b = knots[r - 1], knots[r - 1 + n]
    inside = torch.clamp(x, a, b)
    outside = (x - inside)[..., None]
    # At x = b the last interval is closed; t_{n-1} < b is the last knot of the basis.
    distance = inside[..., None] - knots[: n + r - 1]
    values = _power(distance, r - 1, derivative)
    if extension == "linear" and derivative == 0:
        return values + outside * _power(distance, r - 1, 1) if r > 1 else values
    if extension == "none" or derivative > (extension == "linear"):
        values = values * (outside == 0)
    return values


def _power(distance: Tensor, degree: int, derivative: int) -> Tensor:
    """Return the ``derivative``-th derivative of ReLU(d)**degree, right-continuous at 0."""
    exponent = degree - derivative
    if exponent == 0:
        return math.factorial(degree) * (distance >= 0).to(distance)
    return math.perm(degree, derivative) * torch.relu(distance) ** exponent
