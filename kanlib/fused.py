"""Fused kernels of the local evaluation for the CPU, compiled by numba.

Both work on one input feature p and one block of points at a time, with the weights of p laid out
so that the outputs are contiguous: the innermost operation multiplies r rows of weights by r
numbers. Every number is computed by one task in a fixed order: the result does not depend on the
number of threads, and no two tasks write to the same place.

The outputs are padded with zeros to whole vectors (``width`` numbers).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from kanlib.vectors import BYTES, fill, load, store, totals, transpose

#: Points evaluated together.
BLOCK = 128
#: Products of a channel of a point and an output that are worth a thread.
WORK = 100_000

_jit = numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"}, boundscheck=False)
_inline = numba.njit(inline="always")


@_inline
def _interval(e, t, steps):
    """Return the index of the interval that holds e; the end intervals reach out."""
    n = len(t) - 1
    if steps > 0:  # a guess, at most one off; without branches that depend on e
        guess = (e - t[0]) * steps
        m = int(min(max(guess, 0.0), n - 1.0)) if guess == guess else n - 1
        m += e >= t[m + 1]
        m -= e < t[m]
        return min(max(m, 0), n - 1)
    m, above = 0, n - 1
    while m < above:
        middle = (m + above) // 2
        if e < t[middle + 1]:
            above = middle
        else:
            m = middle + 1
    return m


@_jit
def _evaluate(x, t, uniform, table, extension, index, v, inverse, pieces, basis):
    """Evaluate the r functions that do not vanish at the points x (N,), and derivatives.

    Fills index (N,), the interval of each point, and basis (J, r, N), the j-th derivatives.
    ``pieces`` (r, r, N) holds the coefficients of the functions; on a uniform grid they are the
    same for all points and are set already.
    """
    n, top, r, width = len(t) - 1, basis.shape[0], basis.shape[1], BYTES // x.itemsize
    low, high = x.dtype.type(t[0]), x.dtype.type(t[n])
    steps = n / (t[n] - t[0]) if uniform else 0.0
    outside = False
    for i in range(len(x)):
        inside = x[i]
        if inside < low:
            inside = low
        elif inside > high:
            inside = high
        outside |= x[i] != inside  # also for NaN
        e = np.float64(inside)
        m = _interval(e, t, steps)
        scale = 1.0 / (t[m + 1] - t[m])
        index[i], v[i], inverse[i] = m, (e - t[m]) * scale, scale
    if len(table) > 1:
        for i in range(len(x)):
            for l in range(r):
                for k in range(r):
                    pieces[l, k, i] = table[index[i], l, k]
    two, three = fill(x.dtype.type(2)), fill(x.dtype.type(3))
    for i in range(0, len(x), width):
        at, scale = load(v, (i,)), load(inverse, (i,))
        for l in range(r):
            b0 = b1 = b2 = b3 = fill(x.dtype.type(0))
            for k in range(r - 1, -1, -1):  # Horner's scheme, and for the derivatives / j!
                b3 = b3 * at + b2
                b2 = b2 * at + b1
                b1 = b1 * at + b0
                b0 = b0 * at + load(pieces, (l, k, i))
            store(basis, (0, l, i), b0)
            if top > 1:
                store(basis, (1, l, i), b1 * scale)
            if top > 2:
                b2 = two * b2 * scale * scale
                store(basis, (2, l, i), b2)
            if top > 3:
                store(basis, (3, l, i), two * three * b3 * scale * scale * scale)
    if outside:
        for i in range(len(x)):
            distance = x[i] - min(max(x[i], low), high)
            if distance != 0:
                _extend(distance, extension, inverse[i], v[i], pieces, basis, i)


@_jit
def _extend(distance, extension, inverse, v, pieces, basis, i):
    """Continue the functions beyond [a, b] at point i: 0 linearly, 1 constantly, 2 by zero."""
    top, r = basis.shape[:2]
    for l in range(r):
        if extension == 0:
            slope = v * 0
            for k in range(r - 1, 0, -1):
                slope = slope * v + k * pieces[l, k, i]
            basis[0, l, i] += distance * slope * inverse
        elif extension == 2:
            basis[0, l, i] *= 0
        for j in range(1 if extension else 2, top):
            basis[j, l, i] *= 0


@_jit
def _combine(basis, x, pairs, points, c):
    """Set c (C, r, N): the coefficients of the channels x (C, N)."""
    channels, r = c.shape[:2]
    first, width = channels - len(pairs), BYTES // x.itemsize
    for i in range(0, points, width):
        for l in range(r):
            store(c, (0, l, i), load(basis, (0, l, i)))
            for a in range(1, first):
                store(c, (a, l, i), load(basis, (1, l, i)) * load(x, (a, i)))
            for k in range(len(pairs)):
                a, b, ab = 1 + pairs[k, 0], 1 + pairs[k, 1], first + k
                bend = load(basis, (2, l, i)) * load(x, (a, i)) * load(x, (b, i))
                store(c, (ab, l, i), bend + load(basis, (1, l, i)) * load(x, (ab, i)))


@_inline
def _contract(basis, j, dots, channel, i):
    """Return sum_l basis[j, l] dots[channel, l] of the points from i on."""
    result = load(basis, (j, 0, i)) * load(dots, (channel, 0, i))
    for l in range(1, basis.shape[1]):
        result = load(basis, (j, l, i)) * load(dots, (channel, l, i)) + result
    return result


@_jit
def _differentiate(basis, x, pairs, points, dots, slopes):
    """Set slopes (C, N), gradients in x (C, N), from dots (C, r, N), those in `_combine`'s c."""
    channels = len(slopes)
    first, width = channels - len(pairs), BYTES // x.itemsize
    for i in range(0, points, width):
        value = _contract(basis, 1, dots, 0, i)
        for a in range(1, channels):
            store(slopes, (a, i), _contract(basis, 1, dots, a, i))
        for a in range(1, first):
            value = _contract(basis, 2, dots, a, i) * load(x, (a, i)) + value
        for k in range(len(pairs)):
            a, b, ab = 1 + pairs[k, 0], 1 + pairs[k, 1], first + k
            bend, twist = _contract(basis, 2, dots, ab, i), _contract(basis, 3, dots, ab, i)
            xa, xb = load(x, (a, i)), load(x, (b, i))
            value = twist * xa * xb + bend * load(x, (ab, i)) + value
            store(slopes, (a, i), bend * xb + load(slopes, (a, i)))
            store(slopes, (b, i), bend * xa + load(slopes, (b, i)))
        store(slopes, (0, i), value)


@_inline
def _add(y, i, c, at, l, rows, m, width):
    """Add one row, c[l, at] rows[m], to y[i]."""
    a = fill(c[l, at])
    for q in range(0, y.shape[1], width):
        store(y, (i, q), a * load(rows, (m, q)) + load(y, (i, q)))


@_inline
def _add4(y, i, c, at, l, rows, m, width):
    """Add four rows, sum_k c[l + k, at] rows[m + k], to y[i]."""
    a, b = fill(c[l, at]), fill(c[l + 1, at])
    d, e = fill(c[l + 2, at]), fill(c[l + 3, at])
    for q in range(0, y.shape[1], width):
        total = a * load(rows, (m, q)) + load(y, (i, q))
        total = b * load(rows, (m + 1, q)) + total
        total = d * load(rows, (m + 2, q)) + total
        store(y, (i, q), e * load(rows, (m + 3, q)) + total)


@_inline
def _dot(c, l, at, rows, m, g, i, width):
    """Set c[l, at] = rows[m] . g[i]."""
    a = zero = fill(g.dtype.type(0))
    for q in range(0, g.shape[1], width):
        a = load(rows, (m, q)) * load(g, (i, q)) + a
    c[l, at] = totals(a, zero, zero, zero)[0]


@_inline
def _dot4(c, l, at, rows, m, g, i, width):
    """Set c[l + k, at] = rows[m + k] . g[i] for four k."""
    a = b = d = e = fill(g.dtype.type(0))
    for q in range(0, g.shape[1], width):
        v = load(g, (i, q))
        a = load(rows, (m, q)) * v + a
        b = load(rows, (m + 1, q)) * v + b
        d = load(rows, (m + 2, q)) * v + d
        e = load(rows, (m + 3, q)) * v + e
    c[l, at], c[l + 1, at], c[l + 2, at], c[l + 3, at] = totals(a, b, d, e)


@_inline
def _add_outer4(rows, m, c, l, at, g, i, width):
    """Add c[l + k, at] g[i] to rows[m + k] for four k."""
    a, b = fill(c[l, at]), fill(c[l + 1, at])
    d, e = fill(c[l + 2, at]), fill(c[l + 3, at])
    for q in range(0, g.shape[1], width):
        v = load(g, (i, q))
        store(rows, (m, q), a * v + load(rows, (m, q)))
        store(rows, (m + 1, q), b * v + load(rows, (m + 1, q)))
        store(rows, (m + 2, q), d * v + load(rows, (m + 2, q)))
        store(rows, (m + 3, q), e * v + load(rows, (m + 3, q)))


@_jit
def _transpose(source, rows, columns, target, width):
    """Copy source[i, j] to target[j, i] for all i < rows and j < columns."""
    if rows < width or columns < width:
        for i in range(rows):
            for j in range(columns):
                target[j, i] = source[i, j]
    else:  # the last squares overlap
        for j in range(0, columns, width):
            column = min(j, columns - width)
            for i in range(0, rows, width):
                row = min(i, rows - width)
                transpose(source, (row, column), target, (column, row))


@_jit
def _lay_out(weight, rows, start, stop):
    """Copy weight (S, Q, P, R) to rows (S, P, R, at least Q) for the tasks s P + p."""
    outputs, inputs, size = weight.shape[1:]
    for task in range(start, stop):
        s, p = task // inputs, task % inputs
        _transpose(weight[s, :, p], outputs, size, rows[s, p], BYTES // weight.itemsize)


@_jit
def _forward(z, rows, breakpoints, tables, uniform, stride, pairs, extension, y, start, stop):
    """Fill y (S, C, B, at least Q) for the tasks s (blocks of points) + block."""
    channels, points, inputs = z.shape[1:]
    r, width = tables.shape[3], BYTES // z.itemsize
    blocks = (points + BLOCK - 1) // BLOCK
    top = 1 if channels == 1 else (2 if len(pairs) == 0 else 3)
    index = np.zeros(BLOCK, np.int64)
    v, inverse = np.zeros(BLOCK, z.dtype), np.zeros(BLOCK, z.dtype)
    x, basis = np.zeros((channels, BLOCK), z.dtype), np.zeros((top, r, BLOCK), z.dtype)
    pieces = np.zeros((r, r, BLOCK), z.dtype)
    c = np.zeros((channels, r, BLOCK), z.dtype)
    for task in range(start, stop):
        s, begin = task // blocks, task % blocks * BLOCK
        t, table = breakpoints[s % len(breakpoints)], tables[s % len(tables)]
        if len(table) == 1:
            pieces[:] = table[0].reshape((r, r, 1))
        count = min(BLOCK, points - begin)
        y[s, :, begin : begin + count] = 0
        for p in range(inputs):
            local = rows[s, p]
            for channel in range(channels):
                for i in range(count):
                    x[channel, i] = z[s, channel, begin + i, p]
            _evaluate(x[0, :count], t, uniform, table, extension, index, v, inverse, pieces, basis)
            _combine(basis, x, pairs, count, c)
            l = 0
            while l + 4 <= r:
                for channel in range(channels):
                    out, factors = y[s, channel], c[channel]
                    for i in range(count):
                        _add4(out, begin + i, factors, i, l, local, index[i] * stride + l, width)
                l += 4
            while l < r:
                for channel in range(channels):
                    out, factors = y[s, channel], c[channel]
                    for i in range(count):
                        _add(out, begin + i, factors, i, l, local, index[i] * stride + l, width)
                l += 1


@_inline
def _aligned(like, rows, columns):
    """Return zeros (rows, columns) that begin where a vector may begin."""
    spare = BYTES // like.itemsize
    buffer = np.zeros(rows * columns + spare, like.dtype)
    start = (-buffer.ctypes.data % BYTES) // like.itemsize
    return buffer[start : start + rows * columns].reshape((rows, columns))


@_jit
def _backward(
    z, weight, breakpoints, tables, grad, uniform, stride, pairs, extension, by_z, by_weight,
    start, stop,
):  # fmt: skip
    """Fill by_z (S, C, B, P) and by_weight (S, Q, P, R) for the tasks s P + p; skip if empty."""
    channels, points, inputs = z.shape[1:]
    r, width = tables.shape[3], BYTES // z.itemsize
    outputs, size = weight.shape[1], weight.shape[3]
    to_z, to_weight = by_z.size > 0, by_weight.size > 0
    top = (1 if channels == 1 else (2 if len(pairs) == 0 else 3)) + int(to_z)
    index = np.zeros(BLOCK, np.int64)
    v, inverse = np.zeros(BLOCK, z.dtype), np.zeros(BLOCK, z.dtype)
    x, basis = np.zeros((channels, BLOCK), z.dtype), np.zeros((top, r, BLOCK), z.dtype)
    pieces = np.zeros((r, r, BLOCK), z.dtype)
    c, dots = np.zeros((channels, r, BLOCK), z.dtype), np.zeros((channels, r, BLOCK), z.dtype)
    slopes = np.zeros((channels, BLOCK), z.dtype)
    rows, sums = _aligned(z, size, grad.shape[3]), _aligned(z, size, grad.shape[3])
    for task in range(start, stop):
        s, p = task // inputs, task % inputs
        t, table = breakpoints[s % len(breakpoints)], tables[s % len(tables)]
        if len(table) == 1:
            pieces[:] = table[0].reshape((r, r, 1))
        if to_z:
            _transpose(weight[s, :, p], outputs, size, rows, width)
        sums[:] = 0
        for begin in range(0, points, BLOCK):
            count = min(BLOCK, points - begin)
            for channel in range(channels):
                for i in range(count):
                    x[channel, i] = z[s, channel, begin + i, p]
            _evaluate(x[0, :count], t, uniform, table, extension, index, v, inverse, pieces, basis)
            if to_weight:
                _combine(basis, x, pairs, count, c)
                l = 0
                while l + 4 <= r:
                    for channel in range(channels):
                        g, factors = grad[s, channel], c[channel]
                        for i in range(count):
                            m = index[i] * stride + l
                            _add_outer4(sums, m, factors, l, i, g, begin + i, width)
                    l += 4
                while l < r:
                    for channel in range(channels):
                        g, factors = grad[s, channel], c[channel]
                        for i in range(count):
                            m = index[i] * stride + l
                            _add(sums, m, factors, i, l, g, begin + i, width)
                    l += 1
            if to_z:
                l = 0
                while l + 4 <= r:
                    for channel in range(channels):
                        g, out = grad[s, channel], dots[channel]
                        for i in range(count):
                            m = index[i] * stride + l
                            _dot4(out, l, i, rows, m, g, begin + i, width)
                    l += 4
                while l < r:
                    for channel in range(channels):
                        g, out = grad[s, channel], dots[channel]
                        for i in range(count):
                            m = index[i] * stride + l
                            _dot(out, l, i, rows, m, g, begin + i, width)
                    l += 1
                _differentiate(basis, x, pairs, count, dots, slopes)
                for channel in range(channels):
                    for i in range(count):
                        by_z[s, channel, begin + i, p] = slopes[channel, i]
        if to_weight:
            _transpose(sums, size, outputs, by_weight[s, :, p], width)


def forward(
    z: Tensor,
    weight: Tensor,
    breakpoints: Tensor,
    table: Tensor,
    uniform: bool,
    stride: int,
    pairs: Sequence[int],
    extension: int,
) -> Tensor:
    """Run ``kanlib::splines``."""
    networks, channels, points, inputs = z.shape
    outputs, size = weight.shape[1], weight.shape[3]
    padded = outputs + _missing(weight)
    allocate = weight.new_empty if padded == outputs else weight.new_zeros
    rows = allocate(networks, inputs, size, padded)
    y = z.new_empty(networks, channels, points, padded)
    work = z.numel() * padded
    _share(_lay_out, networks * inputs, work, weight, rows)
    blocks = -(-points // BLOCK)
    options = uniform, stride, _pairs(tuple(pairs)), extension
    _share(_forward, networks * blocks, work, z, rows, breakpoints, table, *options, y)
    return y[..., :outputs].contiguous()


def backward(
    z: Tensor,
    weight: Tensor,
    breakpoints: Tensor,
    table: Tensor,
    grad: Tensor,
    uniform: bool,
    stride: int,
    pairs: Sequence[int],
    extension: int,
    to_z: bool,
    to_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Run ``kanlib::splines_backward``."""
    networks, inputs = weight.shape[0], weight.shape[2]
    by_z = z.new_empty(z.shape if to_z else (0, 0, 0, 0))
    by_weight = weight.new_empty(weight.shape if to_weight else (0, 0, 0, 0))
    grad = pad(grad, (0, _missing(weight)))
    options = uniform, stride, _pairs(tuple(pairs)), extension
    tensors = z, weight, breakpoints, table, grad
    work = grad.numel() * inputs
    _share(_backward, networks * inputs, work, *tensors, *options, by_z, by_weight)
    return by_z if to_z else by_z.view(0), by_weight if to_weight else by_weight.view(0)


def _missing(weight: Tensor) -> int:
    """Return how many outputs are missing in the last vector."""
    return -weight.shape[1] % (BYTES // weight.element_size())


@cache
def _pairs(directions: tuple[int, ...]) -> Any:
    return np.array(directions, np.int64).reshape(-1, 2)


def _share(kernel: Callable[..., None], tasks: int, work: int, *arguments: Any) -> None:
    """Run a kernel for all tasks, shared among as many threads as PyTorch uses."""
    arrays = [
        each.detach().contiguous().numpy() if isinstance(each, Tensor) else each
        for each in arguments
    ]
    threads = min(torch.get_num_threads(), tasks, 1 + work // WORK)
    if threads <= 1:
        kernel(*arrays, 0, tasks)
        return
    bounds = [tasks * i // threads for i in range(threads + 1)]
    others = [
        _pool(os.getpid(), threads).submit(kernel, *arrays, *bounds[i : i + 2])
        for i in range(1, threads)
    ]
    kernel(*arrays, *bounds[:2])
    for other in others:
        other.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return the helpers of this process; those of its parent do not survive a fork."""
    return ThreadPoolExecutor(threads)
