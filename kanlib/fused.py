"""Fused kernels of the local evaluation for the CPU, compiled by numba.

Both work on one input feature p at a time: the weights of p are laid out with the outputs
contiguous (so that the inner loops are vector operations), and a block of points is evaluated
against them while they stay in the cache. Every number is computed by one task in a fixed order:
the result does not depend on the number of threads, and no two tasks write to the same place.
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
#: Products of a point, a channel, an edge that are worth a thread.
WORK = 50_000

_jit = numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"}, boundscheck=False)


@_jit
def _interval(e, t, uniform):
    """Return the index of the interval that holds e; the end intervals reach out."""
    n = len(t) - 1
    if uniform:
        guess = (e - t[0]) * (n / (t[n] - t[0]))
        m = 0
        if guess >= n:
            m = n - 1
        elif guess > 0.0:  # not for NaN
            m = int(guess)
        while m < n - 1 and e >= t[m + 1]:
            m += 1
        while m > 0 and e < t[m]:
            m -= 1
        return m
    m, above = 0, n - 1
    while m < above:
        middle = (m + above) // 2
        if e >= t[middle + 1]:
            m = middle + 1
        else:
            above = middle
    return m


@_jit
def _evaluate(x, t, uniform, table, extension, index, v, inverse, basis):
    """Fill index (N,) and basis (J, r, N) with the j-th derivatives of the r local functions."""
    n, top, r, points = len(t) - 1, basis.shape[0], basis.shape[1], len(x)
    low, high = v.dtype.type(t[0]), v.dtype.type(t[n])
    outside = False
    for i in range(points):
        inside = x[i]
        if inside < low:
            inside = low
        elif inside > high:
            inside = high
        outside |= x[i] != inside  # also for NaN
        e = np.float64(inside)
        m = _interval(e, t, uniform)
        width = t[m + 1] - t[m]
        index[i] = m
        v[i] = v.dtype.type((e - t[m]) / width)
        inverse[i] = v.dtype.type(1.0 / width)
    for j in range(top):
        for l in range(r):
            b = basis[j, l]
            b[:points] = 0
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
def _add(y, channel, i, c, rows, first):
    """Add sum_l c[channel, l] rows[first + l] to y[channel, i]."""
    r, l = c.shape[1], 0
    while l + 4 <= r:
        a0, a1, a2, a3 = c[channel, l], c[channel, l + 1], c[channel, l + 2], c[channel, l + 3]
        m = first + l
        for q in range(y.shape[2]):
            y[channel, i, q] += (
                a0 * rows[m, q] + a1 * rows[m + 1, q] + a2 * rows[m + 2, q] + a3 * rows[m + 3, q]
            )
        l += 4
    while l < r:
        a0, m = c[channel, l], first + l
        for q in range(y.shape[2]):
            y[channel, i, q] += a0 * rows[m, q]
        l += 1


@_jit
def _add_outer(rows, first, c, grad, channel, i):
    """Add c[channel, l] grad[channel, i] to rows[first + l]."""
    r, l = c.shape[1], 0
    while l + 4 <= r:
        a0, a1, a2, a3 = c[channel, l], c[channel, l + 1], c[channel, l + 2], c[channel, l + 3]
        m = first + l
        for q in range(grad.shape[2]):
            g = grad[channel, i, q]
            rows[m, q] += a0 * g
            rows[m + 1, q] += a1 * g
            rows[m + 2, q] += a2 * g
            rows[m + 3, q] += a3 * g
        l += 4
    while l < r:
        a0, m = c[channel, l], first + l
        for q in range(grad.shape[2]):
            rows[m, q] += a0 * grad[channel, i, q]
        l += 1


@_jit
def _dots(out, rows, first, grad, channel, i):
    """Set out[l] = rows[first + l] . grad[channel, i]."""
    r, l = len(out), 0
    while l + 4 <= r:
        s0 = s1 = s2 = s3 = grad.dtype.type(0)
        m = first + l
        for q in range(grad.shape[2]):
            g = grad[channel, i, q]
            s0 += g * rows[m, q]
            s1 += g * rows[m + 1, q]
            s2 += g * rows[m + 2, q]
            s3 += g * rows[m + 3, q]
        out[l], out[l + 1], out[l + 2], out[l + 3] = s0, s1, s2, s3
        l += 4
    while l < r:
        s0, m = grad.dtype.type(0), first + l
        for q in range(grad.shape[2]):
            s0 += grad[channel, i, q] * rows[m, q]
        out[l] = s0
        l += 1


@_jit
def _coefficients(c, basis, x, pairs, i):
    """Set c (C, r): the coefficients of the channels of point i, whose channels are x (C,)."""
    channels, r = c.shape
    first = channels - len(pairs)
    for l in range(r):
        c[0, l] = basis[0, l, i]
    for a in range(1, first):
        for l in range(r):
            c[a, l] = basis[1, l, i] * x[a]
    for k in range(len(pairs)):
        product = x[1 + pairs[k, 0]] * x[1 + pairs[k, 1]]
        for l in range(r):
            c[first + k, l] = basis[2, l, i] * product + basis[1, l, i] * x[first + k]


@_jit
def _lay_out(weight, rows, start, stop):
    """Copy weight (S, Q, P, R) to rows (S, P, R, Q) for the tasks s P + p in [start, stop)."""
    inputs, size, outputs = rows.shape[1:]
    for task in range(start, stop):
        s, p = task // inputs, task % inputs
        for begin in range(0, size, 16):
            end = min(begin + 16, size)
            for q in range(outputs):
                for i in range(begin, end):
                    rows[s, p, i, q] = weight[s, q, p, i]


@_jit
def _forward(z, rows, breakpoints, tables, uniform, stride, pairs, extension, y, start, stop):
    """Fill y (S, C, B, Q) for the tasks in [start, stop): blocks of points of each network s."""
    _, channels, points, inputs = z.shape
    r = tables.shape[3]
    blocks = (points + BLOCK - 1) // BLOCK
    top = 1 if channels == 1 else (2 if len(pairs) == 0 else 3)
    index = np.empty(BLOCK, np.int64)
    v, inverse = np.empty(BLOCK, z.dtype), np.empty(BLOCK, z.dtype)
    basis = np.empty((top, r, BLOCK), z.dtype)
    c, x = np.empty((channels, r), z.dtype), np.empty(channels, z.dtype)
    for task in range(start, stop):
        s, begin = task // blocks, task % blocks * BLOCK
        t, table = breakpoints[s % len(breakpoints)], tables[s % len(tables)]
        count = min(BLOCK, points - begin)
        for channel in range(channels):
            y[s, channel, begin : begin + count] = 0
        out = y[s]
        for p in range(inputs):
            local = rows[s, p]
            _evaluate(
                z[s, 0, begin : begin + count, p],
                t,
                uniform,
                table,
                extension,
                index,
                v,
                inverse,
                basis,
            )
            for i in range(count):
                for channel in range(channels):
                    x[channel] = z[s, channel, begin + i, p]
                _coefficients(c, basis, x, pairs, i)
                m = index[i] * stride
                for channel in range(channels):
                    _add(out, channel, begin + i, c, local, m)


@_jit
def _backward(
    z,
    weight,
    breakpoints,
    tables,
    grad,
    uniform,
    stride,
    pairs,
    extension,
    grad_z,
    grad_weight,
    start,
    stop,
):
    """Fill grad_z (S, C, B, P) and grad_weight (S, Q, P, R) for the tasks s P + p; empty: skip."""
    _, channels, points, inputs = z.shape
    r, outputs, size = tables.shape[3], weight.shape[1], weight.shape[3]
    first = channels - len(pairs)
    to_z, to_weight = grad_z.size > 0, grad_weight.size > 0
    top = (1 if channels == 1 else (2 if len(pairs) == 0 else 3)) + to_z
    index = np.empty(BLOCK, np.int64)
    v, inverse = np.empty(BLOCK, z.dtype), np.empty(BLOCK, z.dtype)
    basis = np.empty((top, r, BLOCK), z.dtype)
    c, x = np.empty((channels, r), z.dtype), np.empty(channels, z.dtype)
    dots = np.empty(r, z.dtype)
    u = np.empty((4, channels), z.dtype)
    rows = np.empty((size, outputs), z.dtype)
    sums = np.empty((size, outputs), z.dtype)
    for task in range(start, stop):
        s, p = task // inputs, task % inputs
        t, table = breakpoints[s % len(breakpoints)], tables[s % len(tables)]
        g = grad[s]
        if to_z:
            for begin in range(0, size, 16):
                end = min(begin + 16, size)
                for q in range(outputs):
                    for i in range(begin, end):
                        rows[i, q] = weight[s, q, p, i]
        sums[:] = 0
        for begin in range(0, points, BLOCK):
            count = min(BLOCK, points - begin)
            _evaluate(
                z[s, 0, begin : begin + count, p],
                t,
                uniform,
                table,
                extension,
                index,
                v,
                inverse,
                basis,
            )
            for i in range(count):
                for channel in range(channels):
                    x[channel] = z[s, channel, begin + i, p]
                m = index[i] * stride
                if to_weight:
                    _coefficients(c, basis, x, pairs, i)
                    for channel in range(channels):
                        _add_outer(sums, m, c, g, channel, begin + i)
                if to_z:
                    for channel in range(channels):
                        _dots(dots, rows, m, g, channel, begin + i)
                        for j in range(1, top):
                            total = z.dtype.type(0)
                            for l in range(r):
                                total += basis[j, l, i] * dots[l]
                            u[j, channel] = total
                    for channel in range(channels):
                        grad_z[s, channel, begin + i, p] = u[1, channel]
                    for a in range(1, first):
                        grad_z[s, 0, begin + i, p] += u[2, a] * x[a]
                    for k in range(len(pairs)):
                        a, b, ab = 1 + pairs[k, 0], 1 + pairs[k, 1], first + k
                        grad_z[s, 0, begin + i, p] += u[3, ab] * x[a] * x[b] + u[2, ab] * x[ab]
                        grad_z[s, a, begin + i, p] += u[2, ab] * x[b]
                        grad_z[s, b, begin + i, p] += u[2, ab] * x[a]
        if to_weight:
            for begin in range(0, size, 16):
                end = min(begin + 16, size)
                for q in range(outputs):
                    for i in range(begin, end):
                        grad_weight[s, q, p, i] = sums[i, q]


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
    rows = weight.new_empty(networks, inputs, size, outputs)
    y = z.new_empty(networks, channels, points, outputs)
    work = z.numel() * outputs
    _share(_lay_out, networks * inputs, work, weight, rows)
    blocks = -(-points // BLOCK)
    options = uniform, stride, _pairs(tuple(pairs)), extension
    _share(_forward, networks * blocks, work, z, rows, breakpoints, table, *options, y)
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
