"""Local evaluation of a layer of splines: values and propagated derivatives, in plain PyTorch.

A point carries channels: its value x, first derivatives x_a along some directions a, and higher
derivatives such as x_ab. A layer maps them by the chain rule,

    y = sum_p s_p(x_p),   y_a = sum_p s_p'(x_p) x_pa,
    y_ab = sum_p s_p''(x_p) x_pa x_pb + s_p'(x_p) x_pab,

and so on, see :mod:`kanlib.kernels.chain_rule`, so a network propagates them from input to output
in one forward pass. On its interval every spline is a polynomial, so each channel is a combination
of the same r rows of weights.

This is the reference: it runs on every device and is differentiable any number of times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kanlib._checks import Extension
from kanlib.kernels.chain_rule import Higher, products, total
from kanlib.splines import bspline


class Splines(NamedTuple):
    """The splines of a layer, one from each of P inputs to each of Q outputs.

    With one more dimension in front, the tensors are those of several networks: one each, or one
    for all.

    Attributes:
        weight: the weights of B-splines, (Q, P, n + r - 1); or, without a table, coefficients of
            1, v, ..., v**(r-1) on each interval, (Q, P, n r).
        breakpoints: (1, n + 1), or (P, n + 1) if every input has its own; float64 where the device
            has that.
        table: :func:`kanlib.splines.bspline.pieces` of the breakpoints in the dtype of the
            weights, (1 or P, 1 or n, r, r), or None.
        uniform: whether the breakpoints have equal distances.
        extension: behaviour outside [a, b], see :func:`kanlib.splines.bspline.local_powers`.
    """

    weight: Tensor
    breakpoints: Tensor
    table: Tensor | None
    uniform: bool = False
    extension: Extension = "linear"

    def order(self) -> int:
        """Return the order r, the number of functions that do not vanish on an interval.

        A method, since compilers of older versions of torch do not follow a property here.
        """
        if self.table is not None:
            return self.table.shape[-1]
        return self.weight.shape[-1] // (self.breakpoints.shape[-1] - 1)

    @property
    def stride(self) -> int:
        """How many weights the first function of the next interval is away."""
        return self.order() if self.table is None else 1

    @property
    def functions(self) -> Tensor:
        """What the weights multiply, the pieces of B-splines or powers alone."""
        if self.table is not None:
            return self.table
        powers = torch.eye(self.order(), dtype=self.weight.dtype, device=self.weight.device)
        return powers[(None,) * (self.breakpoints.ndim - 1) + (None,)]

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Splines:
        """Return these splines with function(tensor) for each tensor."""
        weight, breakpoints, table, uniform, extension = self
        table = None if table is None else function(table)
        return Splines(function(weight), function(breakpoints), table, uniform, extension)

    def of_input(self, p: int) -> Splines:
        """Return the splines of one of the inputs, whose grids are their own."""
        table = None if self.table is None else self.table[p % len(self.table), None]
        return self._replace(
            weight=self.weight[:, p, None], breakpoints=self.breakpoints[p, None], table=table
        )


def evaluate(z: Tensor, splines: Splines, higher: Higher = ()) -> Tensor:
    """Evaluate a layer of splines and propagate derivatives through it.

    Two contractions give the same sums. The dense one multiplies the values of all functions, a
    row of n + r - 1 for each channel of a point and an input, by the weights. The local one looks
    up the weights that a point needs, r for each output, whatever n and C. Both take time and
    memory in proportion to what they lay out, so the one that lays out less is taken.

    Args:
        z: channels of the inputs, (C, ..., P): values, first derivatives, higher derivatives.
        splines: the splines of the layer.
        higher: the directions of each higher derivative.

    Returns:
        Channels of the outputs, (C, ..., Q).
    """
    weight, breakpoints, table, _, extension = splines
    if len(breakpoints) > 1:
        inputs = range(len(breakpoints))
        terms = [evaluate(z[..., p, None], splines.of_input(p), higher) for p in inputs]
        return torch.stack(terms).sum(0)
    r = splines.order()
    index, powers = power_jets(z, breakpoints[0], r, higher, extension)
    outputs, size = len(weight), weight.shape[-1]
    if table is not None and len(z) * size <= r * outputs:
        if table.shape[1] == 1:
            values = powers @ table[0, 0].T
        else:
            values = (table[0, index] @ powers[..., None])[..., 0]
        basis = bspline.scatter(index.expand(z.shape), values, size)
        return basis.flatten(-2) @ weight.flatten(1).T
    if table is None:
        coefficients = weight.unflatten(-1, (-1, r))
    else:
        coefficients = bspline.polynomials(weight, table)
    return by_intervals(index, powers, coefficients)


def by_intervals(index: Tensor, powers: Tensor, coefficients: Tensor) -> Tensor:
    """Return the channels of the outputs (C, ..., Q), looking up the polynomials of each point.

    Args:
        index: interval of each point and input, (..., P), see :func:`power_jets`.
        powers: channels of the powers, (C, ..., P, r).
        coefficients: the polynomial of every edge on every interval, (Q, P, n, r).
    """
    outputs, inputs, n, r = coefficients.shape
    rows = index + n * torch.arange(inputs, device=index.device)
    table = coefficients.permute(1, 2, 3, 0).reshape(inputs * n, r * outputs)
    picked = table.index_select(0, rows.flatten()).view(*index.shape[:-1], inputs * r, outputs)
    return (powers.flatten(-2).movedim(0, -2) @ picked).movedim(-2, 0)


def power_jets(
    z: Tensor, breakpoints: Tensor, order: int, higher: Higher, extension: Extension
) -> tuple[Tensor, Tensor]:
    """Return the intervals (..., P) and the coefficients of the powers (C, ..., P, r).

    A spline whose polynomial on the interval is sum_k a_k v**k has the channels sum_k a_k c_k.
    """
    directions, x = len(z) - 1 - len(higher), z[..., None]
    top = max([min(directions, 1), *map(len, higher)])
    found = [bspline.local_powers(z[0], breakpoints, order, j, extension) for j in range(1 + top)]
    powers = [values for _, values in found]

    channels = [powers[0], *(powers[1] * x[1 + a] for a in range(directions))]
    channels += [total(terms, powers, x) for terms in products(directions, tuple(higher))]
    return found[0][0], torch.stack(channels)
