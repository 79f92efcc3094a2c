"""The kernel of :mod:`kanlib.kernels.gram`, compiled by numba."""

from __future__ import annotations

from kanlib.kernels.cpu_numba import jit
from kanlib.kernels.cpu_vectors import fill, lanes, load, store


@jit
def add_products(order, factor, a, at, b, there, total):
    """Add factor a[s, k] b[s, l] to total[at[s] + k, there[s] + l] for all s in order, k and l."""
    rows, columns, width = a.shape[1], b.shape[1], lanes(b)
    f = a.dtype.type(factor)
    for s in order:
        i, j = at[s], there[s]
        for k in range(0, rows - 3, 4):
            v0, v1, v2, v3 = f * a[s, k], f * a[s, k + 1], f * a[s, k + 2], f * a[s, k + 3]
            f0, f1, f2, f3 = fill(v0), fill(v1), fill(v2), fill(v3)
            m = i + k
            for l in range(0, columns - width + 1, width):
                w = load(b, (s, l))
                store(total, (m, j + l), f0 * w + load(total, (m, j + l)))
                store(total, (m + 1, j + l), f1 * w + load(total, (m + 1, j + l)))
                store(total, (m + 2, j + l), f2 * w + load(total, (m + 2, j + l)))
                store(total, (m + 3, j + l), f3 * w + load(total, (m + 3, j + l)))
            for l in range(columns - columns % width, columns):
                total[m, j + l] += v0 * b[s, l]
                total[m + 1, j + l] += v1 * b[s, l]
                total[m + 2, j + l] += v2 * b[s, l]
                total[m + 3, j + l] += v3 * b[s, l]
        for k in range(rows - rows % 4, rows):
            for l in range(columns):
                total[i + k, j + l] += f * a[s, k] * b[s, l]
