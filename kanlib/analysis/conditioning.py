"""Conditioning of training problems: curvature matrices, condition numbers, gradients to converge.

For the mean of M squared residuals the Gauss-Newton matrix is (2 / M) J^T J, which is the Hessian
where residuals vanish or the model is linear in its weights. Its condition number kappa decides
how fast first-order methods converge on such a problem: at best the distance to the solution
shrinks by (kappa - 1) / (kappa + 1) a step for gradient descent and, with
sqrt(kappa) for kappa, for the heavy ball and conjugate gradients. A change of basis w = A^T u
turns J_u into J_w = J_u A^{-T}, with another condition number; Newton's method does not notice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kanlib._checks import as_integer, as_number, check_types, shown
from kanlib.analysis.ntk import Weights, jacobian, spectrum
from kanlib.objectives.mean_squared_error import Objective

__all__ = [
    "best_descent",
    "condition_number",
    "evaluations_to",
    "gauss_newton",
    "hessian",
    "lanczos",
    "predicted_steps",
    "unit_diagonal",
]


def gauss_newton(model: nn.Module, x: Tensor, weights: Weights = "all") -> Tensor:
    """Return the spectrum of the Gauss-Newton matrix (2 / M) J^T J, largest first.

    Args:
        model: network from points (N, P) to outputs (N, Q); M = N Q.
        x: points.
        weights: "all" trainable parameters, or those of the "spline" layers only.

    Returns:
        One eigenvalue for each weight, exact zeros where there are more weights than M.

    Raises:
        ValueError: if ``weights`` is unknown or the model has no such weight.

    Examples:
        >>> from kanlib import KAN
        >>> x = torch.tensor([[0.25], [1.0]], dtype=torch.float64)
        >>> gauss_newton(KAN([1, 1], n=2, r=2, dtype=torch.float64), x)
        tensor([1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    check_types(gauss_newton, locals())
    rows = jacobian(model, x, weights)
    values = 2.0 / len(rows) * spectrum(rows)
    return torch.cat([values, values.new_zeros(rows.shape[1] - len(values))])


def hessian(model: nn.Module, objective: Objective) -> Tensor:
    """Return the matrix of second derivatives of the loss in all trainable parameters.

    It is dense and costs one backward pass a parameter: for small networks. For larger ones
    there is :func:`lanczos`.

    Args:
        model: the network.
        objective: ``objective(model)``, a scalar.

    Returns:
        Symmetric tensor (p, p), parameters in the order of ``model.parameters()``.

    Examples:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> hessian(nn.Linear(1, 1), lambda model: model(x).square().mean())
        tensor([[10.,  4.],
                [ 4.,  2.]])
    """
    check_types(hessian, locals())
    parameters = _trainable(model)
    product = _hessian_product(objective(model), parameters)
    # torch.func.hessian refuses objectives that call autograd, and holds p copies of all values.
    basis = torch.eye(sum(p.numel() for p in parameters), device="cpu").to(parameters[0])
    matrix = torch.stack([product(vector) for vector in basis])
    return 0.5 * (matrix + matrix.T)


def lanczos(
    model: nn.Module, objective: Objective, count: int = 20, lowest: bool = False
) -> Tensor:
    """Return some extreme eigenvalues of the matrix of second derivatives of the loss.

    The matrix is never formed: the Lanczos iteration of ARPACK (SciPy's ``eigsh``) needs its
    products with vectors, each a gradient of a gradient, some three passes in float64.

    Args:
        model: the network, in float64.
        objective: ``objective(model)``, a scalar.
        count: number of eigenvalues, less than that of trainable parameters.
        lowest: the lowest eigenvalues instead of the highest.

    Returns:
        Eigenvalues (count,), the most extreme first.

    Raises:
        ModuleNotFoundError: if SciPy is not installed.
        TypeError: if the parameters are not in float64.
        ValueError: if ``count`` is out of range.

    Examples:
        >>> from kanlib import KAN, MeanSquaredError
        >>> x = torch.tensor([[0.25], [1.0]], dtype=torch.float64)
        >>> lanczos(KAN([1, 1], n=2, r=2, dtype=torch.float64), MeanSquaredError(x, x), 2)
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    check_types(lanczos, locals())
    try:
        from scipy.sparse.linalg import LinearOperator, eigsh
    except ImportError:
        raise ModuleNotFoundError("lanczos needs SciPy: pip install scipy") from None
    parameters = _trainable(model)
    size = sum(p.numel() for p in parameters)
    if not 0 < count < size:
        raise ValueError(f"count must be from 1 to {size - 1} for {size} parameters, got {count!r}")
    if any(p.dtype != torch.float64 for p in parameters):
        raise TypeError("the parameters must be in float64: convert the model with model.double()")
    product = _hessian_product(objective(model), parameters)

    def matvec(vector: Any) -> Any:
        return (
            product(torch.as_tensor(vector, device="cpu").flatten().to(parameters[0])).cpu().numpy()
        )

    start = torch.randn(
        size, dtype=torch.float64, device="cpu", generator=torch.Generator().manual_seed(0)
    )
    matrix = LinearOperator((size, size), matvec=matvec, dtype=np.float64)
    which = "SA" if lowest else "LA"
    values = eigsh(matrix, count, which=which, v0=start.numpy(), return_eigenvectors=False)
    return torch.from_numpy(values).sort(descending=not lowest).values


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("model must have a trainable parameter, got none: see requires_grad")
    return parameters


def _hessian_product(loss: Tensor, parameters: list[nn.Parameter]) -> Callable[[Tensor], Tensor]:
    """Return the function from a vector (p,) to the product of the Hessian of a loss with it."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise ValueError(
            f"objective must return a scalar that depends on the parameters, got {shown(loss)}"
        )
    slopes = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([slope.flatten() for slope in slopes])

    def product(vector: Tensor) -> Tensor:
        parts = torch.autograd.grad(
            flat, parameters, vector, retain_graph=True, materialize_grads=True
        )
        return torch.cat([part.flatten() for part in parts])

    return product


def condition_number(values: Tensor, cutoff: float = 1e-13) -> tuple[float, int]:
    """Return the ratio of the largest to the smallest eigenvalue that is not zero, and their count.

    Networks have directions in which no output changes, such as constants moved from one edge to
    another; gradients vanish along them, and they do not slow training.

    Args:
        values: eigenvalues of a positive semidefinite matrix.
        cutoff: eigenvalues at most this fraction of the largest count as zero. Those from
            :func:`gauss_newton` are exact to about 1e-32, those of a dense matrix to 1e-16.

    Raises:
        ValueError: if no eigenvalue is positive, or one is negative beyond the cutoff.

    Examples:
        >>> condition_number(torch.tensor([4.0, 2.0, 1e-20]))
        (2.0, 2)
    """
    check_types(condition_number, locals())
    if not 0 <= cutoff < 1:
        raise ValueError(f"cutoff must be at least 0 and less than 1, got {cutoff!r}")
    if values.ndim != 1 or not len(values) or not values.isfinite().all():
        raise ValueError(f"values must be finite, of shape (N,) with N >= 1, got {shown(values)}")
    largest, least = float(values.max()), float(values.min())
    if not largest > 0.0:
        raise ValueError(f"values must have a positive entry, got at most {largest:g}")
    if least < -max(cutoff, len(values) * torch.finfo(values.dtype).eps) * largest:
        raise ValueError(
            f"values must be those of a positive semidefinite matrix, got {least:g} beside "
            f"{largest:g}: an indefinite one has no such condition number"
        )
    kept = values[values > cutoff * largest]
    return largest / float(kept.min()), len(kept)


def unit_diagonal(matrix: Tensor) -> Tensor:
    """Return D^{-1/2} H D^{-1/2} with D = diag H: what the best known scaling of weights leaves.

    A method that scales each weight by itself, such as Adam, can at best turn H into about this.
    Its condition number is at most p times the least that any diagonal scaling reaches, p being
    the number of weights (van der Sluis, 1969).

    Args:
        matrix: symmetric tensor (p, p) with a positive diagonal.

    Raises:
        ValueError: if the matrix is not square or its diagonal not positive.

    Examples:
        >>> unit_diagonal(torch.tensor([[4.0, 1.0], [1.0, 1.0]]))
        tensor([[1.0000, 0.5000],
                [0.5000, 1.0000]])
    """
    check_types(unit_diagonal, locals())
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
    if not square or not (matrix.diagonal() > 0).all() or not matrix.isfinite().all():
        raise ValueError(
            f"matrix must be finite and square with a positive diagonal, got {shown(matrix)}"
        )
    scale = matrix.diagonal().rsqrt()
    return scale[:, None] * matrix * scale


def best_descent(kappa: float, largest: float, momentum: bool = False) -> dict[str, float]:
    """Return the options of torch's SGD that converge fastest on a quadratic.

    Args:
        kappa: condition number.
        largest: largest eigenvalue of the Hessian.
        momentum: whether to use momentum (Polyak's heavy ball).

    Raises:
        ValueError: if ``kappa`` is below 1 or ``largest`` not positive.

    Examples:
        >>> best_descent(9.0, 1.0, momentum=True)
        {'lr': 2.25, 'momentum': 0.25}
    """
    check_types(best_descent, locals())
    as_number("kappa", kappa, 1)
    as_number("largest", largest, above=0)
    if not momentum:
        return {"lr": 2.0 / (largest * (1.0 + 1.0 / kappa))}
    root = math.sqrt(kappa)
    return {
        "lr": 4.0 / (largest * (1.0 + 1.0 / root) ** 2),
        "momentum": ((root - 1.0) / (root + 1.0)) ** 2,
    }


def predicted_steps(kappa: float, tolerance: float, momentum: bool = False) -> float:
    """Return the steps that reduce the excess of the loss by ``tolerance``, by the worst-case rate.

    The excess goes with the square of the distance. For momentum this is the rate in the limit.

    Args:
        kappa: condition number, above 1.
        tolerance: fraction of the excess that is to be left, more than 0 and less than 1.
        momentum: as for :func:`best_descent`.

    Raises:
        ValueError: if ``kappa`` or ``tolerance`` is out of range.

    Examples:
        >>> round(predicted_steps(100.0, 1e-6)), round(predicted_steps(100.0, 1e-6, True))
        (345, 34)
    """
    check_types(predicted_steps, locals())
    as_number("kappa", kappa, above=1)
    if not 0.0 < tolerance < 1.0:
        raise ValueError(f"tolerance must be more than 0 and less than 1, got {tolerance!r}")
    root = math.sqrt(kappa) if momentum else kappa
    return 0.5 * math.log(tolerance) / math.log((root - 1.0) / (root + 1.0))


def evaluations_to(
    rows: Tensor,
    targets: Tensor,
    start: Tensor,
    optimizer: Callable[[Iterable[Tensor]], Optimizer],
    tolerance: float = 1e-6,
    limit: int = 10_000,
) -> int | None:
    """Count the gradients that an optimizer takes to solve a linear least-squares problem.

    The loss is the mean of (J w - y)^2. To compare bases give targets that the model attains, so
    that the least loss is zero in both: nothing then depends on solving an ill-conditioned problem.

    Args:
        rows: Jacobian J of shape (M, p).
        targets: y in the range of J, (M,).
        start: first weights (p,); they are copied.
        optimizer: function from a list with one parameter to a torch optimizer.
        tolerance: fraction of the initial loss to reach.
        limit: give up after so many gradients.

    Returns:
        The number of gradients before the loss is reached (one a step, but for line searches), or
        None at the limit and where the loss overflows.

    Raises:
        ValueError: if shapes do not fit or a bound is out of range.

    Examples:
        >>> from functools import partial
        >>> rows = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64))
        >>> targets = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> start = torch.zeros(2, dtype=torch.float64)
        >>> evaluations_to(rows, targets, start, partial(torch.optim.SGD, lr=0.4))
        14
    """
    check_types(evaluations_to, locals())
    as_integer("limit", limit, minimum=1)
    as_number("tolerance", tolerance, above=0)
    if rows.ndim != 2 or targets.shape != rows.shape[:1] or start.shape != rows.shape[1:]:
        raise ValueError(
            f"rows (M, p), targets (M,) and start (p,) must fit, got shapes {tuple(rows.shape)}, "
            f"{tuple(targets.shape)} and {tuple(start.shape)}"
        )
    w = start.detach().clone().requires_grad_()
    solver = optimizer([w])
    losses: list[float] = []

    def closure() -> Any:
        residual = rows @ w.detach() - targets
        w.grad = 2.0 / len(rows) * (rows.T @ residual)
        loss = residual.square().mean()
        losses.append(float(loss))
        return loss

    while len(losses) <= limit:
        seen = len(losses)
        solver.step(closure)
        for count, loss in enumerate(losses[seen:], start=seen):
            if loss <= tolerance * losses[0]:
                return count if count <= limit else None
            if not loss < 1e12 * losses[0]:
                return None
    return None
