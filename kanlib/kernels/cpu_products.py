"""The kernels of :mod:`kanlib.kernels.products`, compiled by numba."""

from __future__ import annotations

from kanlib.kernels.cpu_numba import jit


@jit
def add_product(place, offset, values, v, rows):
    """Add values[m] . v[offset[m]:] to rows[place[m]] for all m."""
    for m in range(len(place)):
        own, total = v[offset[m] :], rows.dtype.type(0)
        for k in range(values.shape[1]):
            total += values[m, k] * own[k]
        rows[place[m]] += total


@jit
def add_transposed(place, offset, values, rows, columns):
    """Add rows[place[m]] values[m] to columns[offset[m]:] for all m."""
    for m in range(len(place)):
        own, y = columns[offset[m] :], rows[place[m]]
        for k in range(values.shape[1]):
            own[k] += y * values[m, k]
