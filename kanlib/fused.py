"""Fused kernels of the local evaluation for the CPU, compiled by numba.

A block of points is evaluated for one input feature p after the other, all its numbers in the
cache. What is done alike for all points runs over the points, in vectors; the sums over the
weights run over the outputs if these are many ("wide"), and over the points if they are few.
Every number is computed by one task in a fixed order: the result does not depend on the number of
threads, and no two tasks write to the same place.

Within a block, ``basis[j, l, i]`` is the j-th derivative of local function l at point i,
``x[c, i]`` channel c of the point, and ``coef[c, l, i]`` what channel c of the output takes of
weight l.
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

#: Points evaluated together.
BLOCK = 128
#: From this many outputs on, sums over weights run over the outputs.
WIDE = 12
#: Elements of the weights that a block is evaluated against at once: they fit into the L2 cache.
RESIDENT = 65_536
#: Products of a point, a channel, an edge that are worth a thread.
WORK = 50_000

_jit = numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"}, boundscheck=False)


@_jit
def _locate(e, t, uniform, index):
    """Fill index (N,) with the intervals that hold e (N,); the end intervals reach out."""
    last = len(t) - 2
    if uniform:
        start, per_length = t[0], (last + 1) / (t[last + 1] - t[0])
        for i in range(len(e)):
            guess = (e[i] - start) * per_length
            guess = guess if guess > 0.0 else 0.0  # also for NaN
            index[i] = int(guess if guess < last else last)
        for i in range(len(e)):
            m = index[i]
            index[i] = m + (m < last and e[i] >= t[m + 1]) - (e[i] < t[m] and m > 0)
        return
    for i in range(len(e)):
        m, above = 0, last
        while m < above:
            middle = (m + above) // 2
            if e[i] >= t[middle + 1]:
                m = middle + 1
            else:
                above = middle
        index[i] = m


@_jit
def _evaluate(x, t, uniform, table, extension, e, index, v, inverse, basis):
    """Fill index (N,) and basis (J, r, N) with the j-th derivatives of the r local functions."""
    n, top, r, points = len(t) - 1, basis.shape[0], basis.shape[1], len(x)
    low, high = v.dtype.type(t[0]), v.dtype.type(t[n])
    outside = 0
    for i in range(points):
        inside = low if x[i] < low else (high if x[i] > high else x[i])
        outside += x[i] != inside  # also for NaN
        e[i] = inside
    _locate(e[:points], t, uniform, index)
    for i in range(points):
        m = index[i]
        width = t[m + 1] - t[m]
        v[i] = (e[i] - t[m]) / width
        inverse[i] = 1.0 / width
    for j in range(top):
        for l in range(r):
            b = basis[j, l]
            for i in range(points):
                b[i] = 0 * v[i]  # keeps NaN
            for k in range(r - 1, j - 1, -1):
                factor = v.dtype.type(1)
                for d in range(j):
                    factor *= v.dtype.type(k - d)
                if len(table) == 1:
                    c = factor * table[0, l, k]
                    for i in range(points):
                        b[i] = b[i] * v[i] + c
                else:
                    for i in range(points):
                        b[i] = b[i] * v[i] + factor * table[index[i], l, k]
            for _ in range(j):
                for i in range(points):
                    b[i] *= inverse[i]
    if outside:
        for i in range(points):
            distance = x[i] - min(max(x[i], low), high)
            if distance != 0:
                _extend(distance, extension, inverse[i], v[i], index[i], table, basis, i)


@_jit
def _extend(distance, extension, inverse, v, m, table, basis, i):
    """Continue the functions beyond [a, b] at point i: 0 linearly, 1 constantly, 2 by zero."""
    top, r = basis.shape[:2]
    if len(table) == 1:
        m = 0
    for l in range(r):
        if extension == 0:
            slope = v * 0
            for k in range(r - 1, 0, -1):
                slope = slope * v + k * table[m, l, k]
            basis[0, l, i] += distance * slope * inverse
        elif extension == 2:
            basis[0, l, i] *= 0
        for j in range(1 if extension else 2, top):
            basis[j, l, i] *= 0


@_jit
def _coefficients(basis, x, pairs, coef, points):
    """Fill coef (C, r, N) by the chain rule."""
    channels, r = coef.shape[:2]
    first = channels - len(pairs)
    for l in range(r):
        for i in range(points):
            coef[0, l, i] = basis[0, l, i]
        for a in range(1, first):
            for i in range(points):
                coef[a, l, i] = basis[1, l, i] * x[a, i]
        for k in range(len(pairs)):
            a, b, ab = 1 + pairs[k, 0], 1 + pairs[k, 1], first + k
            for i in range(points):
                bend = basis[2, l, i] * x[a, i] * x[b, i]
                coef[ab, l, i] = bend + basis[1, l, i] * x[ab, i]


@_jit
def _chain(basis, x, pairs, h, u, grad, points):
    """Fill grad (C, N) with the gradient in x, given that in the coefficients, h (C, r, N)."""
    channels = len(h)
    first = channels - len(pairs)
    for c in range(channels):
        _contract(basis, 1, h, c, grad[c], points)
    for a in range(1, first):
        _contract(basis, 2, h, a, u, points)
        for i in range(points):
            grad[0, i] += u[i] * x[a, i]
    for k in range(len(pairs)):
        a, b, ab = 1 + pairs[k, 0], 1 + pairs[k, 1], first + k
        _contract(basis, 2, h, ab, u, points)
        for i in range(points):
            grad[0, i] += u[i] * x[ab, i]
        for i in range(points):
            grad[a, i] += u[i] * x[b, i]
        for i in range(points):
            grad[b, i] += u[i] * x[a, i]
        _contract(basis, 3, h, ab, u, points)
        for i in range(points):
            grad[0, i] += u[i] * x[a, i] * x[b, i]


@_jit
def _contract(basis, j, h, c, out, points):
    """Set out[i] = sum_l basis[j, l, i] h[c, l, i]."""
    for i in range(points):
        out[i] = basis[j, 0, i] * h[c, 0, i]
    for l in range(1, basis.shape[1]):
        for i in range(points):
            out[i] += basis[j, l, i] * h[c, l, i]


@_jit
def _add_rows(y, at, a, rows, places, count):
    """Add sum_k a[k] rows[places[k]], k < count, to y[at]."""
    k, outputs = 0, y.shape[1]
    while k + 8 <= count:
        a0, a1, a2, a3, a4, a5, a6, a7 = (
            a[k], a[k + 1], a[k + 2], a[k + 3], a[k + 4], a[k + 5], a[k + 6], a[k + 7],
        )  # fmt: skip
        r0, r1, r2, r3 = places[k], places[k + 1], places[k + 2], places[k + 3]
        r4, r5, r6, r7 = places[k + 4], places[k + 5], places[k + 6], places[k + 7]
        for q in range(outputs):
            y[at, q] += (
                (a0 * rows[r0, q] + a1 * rows[r1, q] + a2 * rows[r2, q] + a3 * rows[r3, q])
                + (a4 * rows[r4, q] + a5 * rows[r5, q] + a6 * rows[r6, q] + a7 * rows[r7, q])
            )  # fmt: skip
        k += 8
    while k < count:
        a0, r0 = a[k], places[k]
        for q in range(outputs):
            y[at, q] += a0 * rows[r0, q]
        k += 1


@_jit
def _add_point(rows, first, coef, i, grad, at, step):
    """Add sum_c coef[c, l, i] grad[at + c step] to rows[first + l]."""
    channels, r = coef.shape[:2]
    outputs, c = grad.shape[1], 0
    while c + 4 <= channels:
        g0, g1, g2, g3 = at, at + step, at + 2 * step, at + 3 * step
        for l in range(r):
            m = first + l
            a0, a1, a2, a3 = coef[c, l, i], coef[c + 1, l, i], coef[c + 2, l, i], coef[c + 3, l, i]
            for q in range(outputs):
                rows[m, q] += (
                    a0 * grad[g0, q] + a1 * grad[g1, q] + a2 * grad[g2, q] + a3 * grad[g3, q]
                )
        c, at = c + 4, at + 4 * step
    while c < channels:
        l = 0
        while l + 4 <= r:
            a0, a1, a2, a3 = coef[c, l, i], coef[c, l + 1, i], coef[c, l + 2, i], coef[c, l + 3, i]
            m = first + l
            for q in range(outputs):
                g = grad[at, q]
                rows[m, q] += a0 * g
                rows[m + 1, q] += a1 * g
                rows[m + 2, q] += a2 * g
                rows[m + 3, q] += a3 * g
            l += 4
        while l < r:
            a0, m = coef[c, l, i], first + l
            for q in range(outputs):
                rows[m, q] += a0 * grad[at, q]
            l += 1
        c, at = c + 1, at + step


@_jit
def _dots(h, c, i, rows, first, grad, at):
    """Set h[c, l, i] = rows[first + l] . grad[at]."""
    r, l, outputs = h.shape[1], 0, grad.shape[1]
    while l + 4 <= r:
        s0 = s1 = s2 = s3 = grad.dtype.type(0)
        m = first + l
        for q in range(outputs):
            g = grad[at, q]
            s0 += g * rows[m, q]
            s1 += g * rows[m + 1, q]
            s2 += g * rows[m + 2, q]
            s3 += g * rows[m + 3, q]
        h[c, l, i], h[c, l + 1, i], h[c, l + 2, i], h[c, l + 3, i] = s0, s1, s2, s3
        l += 4
    while l < r:
        s0, m = grad.dtype.type(0), first + l
        for q in range(outputs):
            s0 += grad[at, q] * rows[m, q]
        h[c, l, i] = s0
        l += 1


@_jit
def _transpose(source, target):
    """Copy source (Q, R) to target (R, Q) in tiles."""
    outputs, size = source.shape
    for begin in range(0, size, 16):
        end = min(begin + 16, size)
        for q in range(outputs):
            for i in range(begin, end):
                target[i, q] = source[q, i]


@_jit
def _lay_out(weight, rows, start, stop):
    """Copy weight (S, Q, P, R) to rows (S, P, R, Q) for the tasks s P + p in [start, stop)."""
    inputs = rows.shape[1]
    for task in range(start, stop):
        s, p = task // inputs, task % inputs
        _transpose(weight[s, :, p], rows[s, p])


@_jit
def _forward(z, weight, breakpoints, tables, uniform, stride, pairs, extension, y, start, stop):
    """Fill y (S, C, B, Q) for the tasks in [start, stop): blocks of points of each network s.

    ``weight`` is (S, P, R, Q) if there are WIDE outputs or more, else (S, Q, P, R).
    """
    _, channels, points, inputs = z.shape
    r, outputs = tables.shape[3], y.shape[3]
    blocks = (points + BLOCK - 1) // BLOCK
    top = 1 if channels == 1 else (2 if len(pairs) == 0 else 3)
    index = np.empty(BLOCK, np.int64)
    e, v, inverse = np.empty(BLOCK), np.empty(BLOCK, z.dtype), np.empty(BLOCK, z.dtype)
    basis = np.empty((top, r, BLOCK), z.dtype)
    x, coef = np.empty((channels, BLOCK), z.dtype), np.empty((channels, r, BLOCK), z.dtype)
    wide = outputs >= WIDE
    size = weight.shape[2] if wide else weight.shape[3]
    group = min(inputs, max(1, RESIDENT // (size * outputs))) if wide else 1
    out = np.empty((0 if wide else outputs, channels, BLOCK), z.dtype)
    picked = np.empty(BLOCK, z.dtype)
    a = np.empty((BLOCK if wide else 0, channels, group * r), z.dtype)
    places = np.empty((BLOCK if wide else 0, group * r), np.int64)
    for task in range(start, stop):
        s, begin = task // blocks, task % blocks * BLOCK
        t, table = breakpoints[s % len(breakpoints)], tables[s % len(tables)]
        count = min(BLOCK, points - begin)
        y[s, :, begin : begin + count] = 0
        out[:] = 0
        rows, target = weight[s].reshape(-1, outputs), y[s].reshape(-1, outputs)
        for p in range(inputs):
            for c in range(channels):
                for i in range(count):
                    x[c, i] = z[s, c, begin + i, p]
            _evaluate(x[0, :count], t, uniform, table, extension, e, index, v, inverse, basis)
            _coefficients(basis, x, pairs, coef, count)
            if not wide:
                for q in range(outputs):
                    w = weight[s, q, p]
                    for l in range(r):
                        for i in range(count):
                            picked[i] = w[index[i] * stride + l]
                        for c in range(channels):
                            for i in range(count):
                                out[q, c, i] += coef[c, l, i] * picked[i]
                continue
            k = p % group * r
            for l in range(r):
                for i in range(count):
                    places[i, k + l] = p * size + index[i] * stride + l
            for c in range(channels):
                for l in range(r):
                    for i in range(count):
                        a[i, c, k + l] = coef[c, l, i]
            if p % group == group - 1 or p == inputs - 1:
                for i in range(count):
                    for c in range(channels):
                        at = c * points + begin + i
                        _add_rows(target, at, a[i, c], rows, places[i], k + r)
        if not wide:
            for c in range(channels):
                for q in range(outputs):
                    for i in range(count):
                        y[s, c, begin + i, q] = out[q, c, i]


@_jit
def _backward(
    z, weight, breakpoints, tables, grad, uniform, stride, pairs, extension,
    grad_z, grad_weight, start, stop,
):  # fmt: skip
    """Fill grad_z (S, C, B, P) and grad_weight (S, Q, P, R) for the tasks s P + p; empty: skip."""
    _, channels, points, inputs = z.shape
    r, outputs, size = tables.shape[3], weight.shape[1], weight.shape[3]
    to_z, to_weight = grad_z.size > 0, grad_weight.size > 0
    top = (1 if channels == 1 else (2 if len(pairs) == 0 else 3)) + to_z
    index = np.empty(BLOCK, np.int64)
    e, v, inverse = np.empty(BLOCK), np.empty(BLOCK, z.dtype), np.empty(BLOCK, z.dtype)
    basis = np.empty((top, r, BLOCK), z.dtype)
    x, coef = np.empty((channels, BLOCK), z.dtype), np.empty((channels, r, BLOCK), z.dtype)
    h, by_x = np.empty((channels, r, BLOCK), z.dtype), np.empty((channels, BLOCK), z.dtype)
    u, picked = np.empty(BLOCK, z.dtype), np.empty(BLOCK, z.dtype)
    wide = outputs >= WIDE
    g = np.empty((0 if wide else outputs, channels, BLOCK), z.dtype)
    rows = np.empty((size if wide else 0, outputs), z.dtype)
    sums = np.zeros((size if wide else 0, outputs), z.dtype)
    for task in range(start, stop):
        s, p = task // inputs, task % inputs
        t, table = breakpoints[s % len(breakpoints)], tables[s % len(tables)]
        if wide and to_z:
            _transpose(weight[s, :, p], rows)
        if to_weight:
            sums[:] = 0
            grad_weight[s, :, p] = 0
        slopes = grad[s].reshape(-1, outputs)
        for begin in range(0, points, BLOCK):
            count = min(BLOCK, points - begin)
            for c in range(channels):
                for i in range(count):
                    x[c, i] = z[s, c, begin + i, p]
            _evaluate(x[0, :count], t, uniform, table, extension, e, index, v, inverse, basis)
            if to_weight:
                _coefficients(basis, x, pairs, coef, count)
            if wide:
                for i in range(count):
                    first, at = index[i] * stride, begin + i
                    if to_weight:
                        _add_point(sums, first, coef, i, slopes, at, points)
                    if to_z:
                        for c in range(channels):
                            _dots(h, c, i, rows, first, slopes, at + c * points)
            else:
                for c in range(channels):
                    for q in range(outputs):
                        for i in range(count):
                            g[q, c, i] = grad[s, c, begin + i, q]
                h[:] = 0
                for q in range(outputs):
                    for l in range(r):
                        if to_z:
                            w = weight[s, q, p]
                            for i in range(count):
                                picked[i] = w[index[i] * stride + l]
                            for c in range(channels):
                                for i in range(count):
                                    h[c, l, i] += g[q, c, i] * picked[i]
                        if to_weight:
                            for i in range(count):
                                u[i] = g[q, 0, i] * coef[0, l, i]
                            for c in range(1, channels):
                                for i in range(count):
                                    u[i] += g[q, c, i] * coef[c, l, i]
                            w = grad_weight[s, q, p]
                            for i in range(count):
                                w[index[i] * stride + l] += u[i]
            if to_z:
                _chain(basis, x, pairs, h, u, by_x, count)
                for c in range(channels):
                    for i in range(count):
                        grad_z[s, c, begin + i, p] = by_x[c, i]
        if wide and to_weight:
            _transpose(sums, grad_weight[s, :, p])


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
    y = z.new_empty(networks, channels, points, outputs)
    work = z.numel() * outputs
    if outputs >= WIDE:
        rows = weight.new_empty(networks, inputs, size, outputs)
        _share(_lay_out, networks * inputs, work, weight, rows)
        weight = rows
    blocks = -(-points // BLOCK)
    options = uniform, stride, _pairs(tuple(pairs)), extension
    _share(_forward, networks * blocks, work, z, weight, breakpoints, table, *options, y)
    return y


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
    options = uniform, stride, _pairs(tuple(pairs)), extension
    tensors = z, weight, breakpoints, table, grad
    work = grad.numel() * inputs
    _share(_backward, networks * inputs, work, *tensors, *options, by_z, by_weight)
    return by_z if to_z else by_z.view(0), by_weight if to_weight else by_weight.view(0)


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
