"""Empirical neural tangent kernels J J^T in either basis (appendix C).

J holds the derivatives of all outputs at all points with respect to the weights. For spline layers
w = A^T u gives J_u = J_w A^T, so the kernels of one function in the two bases are J_w J_w^T and
J_w A^T A J_w^T. Gradient descent on half the sum of squared residuals of a model that is linear in
its weights is stable if its step is below 2 / rho, with rho the spectral radius of the kernel.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from kanlib._checks import check_types, shown
from kanlib.nn.spline_layer import spline_layers

__all__ = ["jacobian", "spectral_radius", "spectrum", "tangent_kernel"]

Weights = Literal["all", "spline"]
"""All trainable parameters, or those of the spline layers."""


def jacobian(model: nn.Module, x: Tensor, weights: Weights = "all") -> Tensor:
    """Return the derivatives of the outputs with respect to the trainable weights.

    Args:
        model: network from points (N, P) to outputs (N, Q).
        x: points of shape (N, P).
        weights: "all" trainable parameters, or those of the "spline" layers only.

    Returns:
        Tensor of shape (N Q, number of weights), the outputs of one point in consecutive rows,
        the weights in the order of ``model.parameters()``.

    Raises:
        ValueError: if ``weights`` is unknown or the model has no such weight.

    Examples:
        >>> from kanlib import KAN
        >>> model = KAN([1, 1], n=2, r=2, dtype=torch.float64)
        >>> jacobian(model, torch.tensor([[0.25], [1.0]], dtype=torch.float64))
        tensor([[0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 1.0000]], dtype=torch.float64)
    """
    check_types(jacobian, locals())
    if x.ndim != 2 or not len(x):
        raise ValueError(f"x must have shape (N, P) with N >= 1, got {tuple(x.shape)}")
    of_splines = {layer.weight for layer in spline_layers(model)}
    parameters = {
        name: weight.detach()
        for name, weight in model.named_parameters()
        if weight.requires_grad and (weights == "all" or weight in of_splines)
    }
    if not parameters:
        raise ValueError(f"model has no trainable weight for weights = {weights!r}")

    def outputs(parameters: dict[str, Tensor], point: Tensor) -> Tensor:
        return functional_call(model, parameters, (point,))

    blocks = vmap(jacrev(outputs), in_dims=(None, 0))(parameters, x)
    return torch.cat([blocks[name].flatten(2) for name in parameters], dim=2).flatten(0, 1)


def tangent_kernel(model: nn.Module, x: Tensor, weights: Weights = "all") -> Tensor:
    """Return the empirical neural tangent kernel J J^T.

    Args:
        model: network from points (N, P) to outputs (N, Q).
        x: points of shape (N, P).
        weights: "all" trainable parameters, or those of the "spline" layers only.

    Returns:
        Symmetric positive semidefinite tensor of shape (N Q, N Q).

    Raises:
        ValueError: if ``weights`` is unknown or the model has no such weight.

    Examples:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> tangent_kernel(model, torch.tensor([[1.0, 0.0], [1.0, 2.0]]))  # x x^T
        tensor([[1., 1.],
                [1., 5.]])
    """
    rows = jacobian(model, x, weights)
    return rows @ rows.T


def spectrum(rows: Tensor) -> Tensor:
    """Return the spectrum of J J^T, largest first, from the rows of J.

    The eigenvalues are squared singular values of J: forming J J^T would lose the small ones.

    Args:
        rows: Jacobian J of shape (M, number of weights).

    Returns:
        The min(M, number of weights) largest eigenvalues; the others are zero.

    Examples:
        >>> spectrum(torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64)))
        tensor([9., 1.], dtype=torch.float64)
    """
    _check_rows(rows)
    return torch.linalg.svdvals(rows) ** 2


def spectral_radius(rows: Tensor) -> float:
    """Return the largest eigenvalue of J J^T from the rows of J.

    Examples:
        >>> spectral_radius(torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64)))
        9.0
    """
    _check_rows(rows)
    return float(torch.linalg.matrix_norm(rows, 2)) ** 2


def _check_rows(rows: Tensor) -> None:
    check_types(_check_rows, locals())
    if rows.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"rows must be of float32 or float64, got {rows.dtype}: use rows.double()")
    if rows.ndim != 2 or not rows.numel() or not rows.isfinite().all():
        raise ValueError(f"rows must be a finite matrix (M, weights), got {shown(rows)}")
