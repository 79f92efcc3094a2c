"""Fused kernels of the local evaluation for the CPU, compiled by numba.

A block of points is evaluated for one input p after the other: first the interval of each point
and the r functions there, then sums of r rows of weights. The weights of p are laid out so that
the outputs are contiguous, padded to whole vectors of ``width`` numbers.

The work is split into tasks. Every number is computed by one task in a fixed order, so results do
not depend on how tasks are shared among threads, and no two tasks write to the same place.

numba keeps the compiled code beside this file, or where NUMBA_CACHE_DIR says, under the name of the
kernel. What :mod:`kanlib.kernels.cpu_vectors` has is compiled into the kernels, and numba does not
look there for changes, so the name has a digest of both files.
"""

from __future__ import annotations

import hashlib
import pkgutil

import numba
import numpy as np

from kanlib.kernels.cpu_vectors import BYTES, fill, lanes, load, store, totals, transpose

#: Points evaluated together.
BLOCK = 128
_SOURCES = [
    pkgutil.get_data("kanlib.kernels", name) or b"" for name in ("cpu_numba.py", "cpu_vectors.py")
]
_DIGEST = hashlib.sha256(b"".join(_SOURCES)).hexdigest()[:12]


def jit(function):
    """Compile a function, and keep the code for other processes if there is a place for it."""
    options = {"nogil": True, "fastmath": {"contract", "reassoc"}, "error_model": "numpy"}
    function.__qualname__ += f"_{_DIGEST}"
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither this folder nor that of the user may be written to
        return numba.njit(**options)(function)


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


@_inline
def _grid(grids, s, p):
    """Return what belongs to input p of network s in grids (1 or S, 1 or P, ...)."""
    return grids[s % grids.shape[0], p % grids.shape[1]]


@jit
def _spread(table, pieces):
    """Give all points the coefficients (r, r), if all intervals have the same."""
    if len(table) == 1:
        for l in range(len(pieces)):
            for k in range(len(pieces)):
                pieces[l, k].fill(table[0, l, k])


@_inline
def _derivative(pieces, j, l, i, at, scale):
    """Return the j-th derivative of function l at the points from i on, by Horner's scheme."""
    total = fill(pieces.dtype.type(0))
    for k in range(pieces.shape[0] - 1, j - 1, -1):
        factor = 1
        for m in range(j):
            factor *= k - m
        total = total * at + fill(pieces.dtype.type(factor)) * load(pieces, (l, k, i))
    for _ in range(j):
        total = total * scale
    return total


@jit
def _evaluate(x, t, table, uniform, stride, extension, index, place, pieces, basis):
    """Evaluate the r functions that do not vanish at the points x (N,), and derivatives.

    Fills index (N,), the first row of each point, which is ``stride`` times its interval, and
    basis (J, r, N), the j-th derivatives. Beyond [a, b] they continue linearly (``extension`` 0),
    constantly (1) or by zero (2). ``place`` (4, N) is a buffer.
    ``pieces`` (r, r, N) holds the coefficients of the functions, which are set already if all
    intervals have the same.
    """
    n, top, r, width = len(t) - 1, basis.shape[0], basis.shape[1], lanes(x)
    low, high = x.dtype.type(t[0]), x.dtype.type(t[n])
    steps = n / (t[n] - t[0]) if uniform else 0.0
    v, inverse, distance, within = place[0], place[1], place[2], place[3]
    outside = False
    for i in range(len(x)):
        inside = x[i]
        if inside < low:
            inside = low
        elif inside > high:
            inside = high
        beyond = x[i] != inside  # also for NaN
        outside |= beyond
        distance[i], within[i] = x[i] - inside, 1 - beyond
        e = np.float64(inside)
        m = _interval(e, t, steps)
        scale = 1.0 / (t[m + 1] - t[m])
        index[i], v[i], inverse[i] = m, (e - t[m]) * scale, scale
    if len(table) > 1:
        for i in range(len(x)):
            for l in range(r):
                for k in range(r):
                    pieces[l, k, i] = table[index[i], l, k]
    for i in range(len(x)):
        index[i] *= stride
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
            b1, b2 = b1 * scale, two * b2 * scale * scale
            b3 = two * three * b3 * scale * scale * scale
            if outside:
                inner = load(within, (i,))
                if extension == 0:
                    b0 = load(distance, (i,)) * b1 + b0
                else:
                    b1 = b1 * inner
                if extension == 2:
                    b0 = b0 * inner
                b2, b3 = b2 * inner, b3 * inner
            store(basis, (0, l, i), b0)
            if top > 1:
                store(basis, (1, l, i), b1)
            if top > 2:
                store(basis, (2, l, i), b2)
            if top > 3:
                store(basis, (3, l, i), b3)
            for j in range(4, top):
                bj = _derivative(pieces, j, l, i, at, scale)
                store(basis, (j, l, i), bj * load(within, (i,)) if outside else bj)


@jit
def _combine(basis, x, pairs, points, c):
    """Set c (C, r, N): the coefficients of the channels x (C, N)."""
    channels, r = c.shape[:2]
    first, width = channels - len(pairs), lanes(x)
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


@jit
def _differentiate(basis, x, pairs, points, dots, slopes):
    """Set slopes (C, N), gradients in x (C, N), from dots (C, r, N), those in `_combine`'s c."""
    channels = len(slopes)
    first, width = channels - len(pairs), lanes(x)
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
def _product(x, products, t, left_out, i):
    """Return the count of product t times its factors, but for one of them."""
    total = fill(x.dtype.type(products[t, 1]))
    for f in range(products[t, 2]):
        if f != left_out:
            total = total * load(x, (products[t, 3 + f], i))
    return total


@jit
def _combine_products(basis, x, products, points, c):
    """Add to c (C, r, N) what the products give to the coefficients of their channels."""
    r, width = c.shape[1], lanes(x)
    for t in range(len(products)):
        channel, j = products[t, 0], products[t, 2]
        for i in range(0, points, width):
            product = _product(x, products, t, -1, i)
            for l in range(r):
                total = load(basis, (j, l, i)) * product + load(c, (channel, l, i))
                store(c, (channel, l, i), total)


@jit
def _differentiate_products(basis, x, products, points, dots, slopes):
    """Add to slopes (C, N), gradients in x (C, N), from dots (C, r, N), what products give."""
    width = lanes(x)
    for t in range(len(products)):
        channel, j = products[t, 0], products[t, 2]
        for i in range(0, points, width):
            bend = _contract(basis, j, dots, channel, i)
            twist = _contract(basis, j + 1, dots, channel, i)
            value = twist * _product(x, products, t, -1, i) + load(slopes, (0, i))
            store(slopes, (0, i), value)
            for f in range(j):
                a = products[t, 3 + f]
                slope = bend * _product(x, products, t, f, i) + load(slopes, (a, i))
                store(slopes, (a, i), slope)


@jit
def _add(y, start, c, index, rows):
    """Add sum_l c[l, i] rows[index[i] + l] to y[start + i] for all i."""
    r, width = len(c), lanes(y)
    for l in range(0, r - 3, 4):
        for i in range(len(index)):
            m, j = index[i] + l, start + i
            c0, c1, c2, c3 = fill(c[l, i]), fill(c[l + 1, i]), fill(c[l + 2, i]), fill(c[l + 3, i])
            for q in range(0, y.shape[1], width):
                total = c0 * load(rows, (m, q)) + load(y, (j, q))
                total = c1 * load(rows, (m + 1, q)) + total
                total = c2 * load(rows, (m + 2, q)) + total
                store(y, (j, q), c3 * load(rows, (m + 3, q)) + total)
    for l in range(r - r % 4, r):
        for i in range(len(index)):
            m, j, c0 = index[i] + l, start + i, fill(c[l, i])
            for q in range(0, y.shape[1], width):
                store(y, (j, q), c0 * load(rows, (m, q)) + load(y, (j, q)))


@jit
def _add_outer(rows, index, c, g, start):
    """Add c[l, i] g[start + i] to rows[index[i] + l] for all i and l."""
    r, width = len(c), lanes(g)
    for l in range(0, r - 3, 4):
        for i in range(len(index)):
            m, j = index[i] + l, start + i
            c0, c1, c2, c3 = fill(c[l, i]), fill(c[l + 1, i]), fill(c[l + 2, i]), fill(c[l + 3, i])
            for q in range(0, g.shape[1], width):
                v = load(g, (j, q))
                store(rows, (m, q), c0 * v + load(rows, (m, q)))
                store(rows, (m + 1, q), c1 * v + load(rows, (m + 1, q)))
                store(rows, (m + 2, q), c2 * v + load(rows, (m + 2, q)))
                store(rows, (m + 3, q), c3 * v + load(rows, (m + 3, q)))
    for l in range(r - r % 4, r):
        for i in range(len(index)):
            m, j, c0 = index[i] + l, start + i, fill(c[l, i])
            for q in range(0, g.shape[1], width):
                store(rows, (m, q), c0 * load(g, (j, q)) + load(rows, (m, q)))


@jit
def _dot(c, index, rows, g, start):
    """Set c[l, i] = rows[index[i] + l] . g[start + i] for all i and l."""
    r, width = len(c), lanes(g)
    zero = fill(g.dtype.type(0))
    for l in range(0, r - 3, 4):
        for i in range(len(index)):
            m, j = index[i] + l, start + i
            s0 = s1 = s2 = s3 = zero
            for q in range(0, g.shape[1], width):
                v = load(g, (j, q))
                s0 = load(rows, (m, q)) * v + s0
                s1 = load(rows, (m + 1, q)) * v + s1
                s2 = load(rows, (m + 2, q)) * v + s2
                s3 = load(rows, (m + 3, q)) * v + s3
            c[l, i], c[l + 1, i], c[l + 2, i], c[l + 3, i] = totals(s0, s1, s2, s3)
    for l in range(r - r % 4, r):
        for i in range(len(index)):
            m, j, s0 = index[i] + l, start + i, zero
            for q in range(0, g.shape[1], width):
                s0 = load(rows, (m, q)) * load(g, (j, q)) + s0
            c[l, i] = totals(s0, zero, zero, zero)[0]


@jit
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


@jit
def lay_out(source, target, start, stop):
    """Copy source (S, I, P, at least J) to target (S, P, J, at least I) for the tasks s P + p."""
    rows, inputs, columns = source.shape[1], source.shape[2], target.shape[2]
    for task in range(start, stop):
        s, p = task // inputs, task % inputs
        _transpose(source[s, :, p], rows, columns, target[s, p], lanes(source))


@jit
def _copy(source, begin, target, start, count, outputs):
    """Copy the rows of some points."""
    for i in range(count):
        for q in range(outputs):
            target[start + i, q] = source[begin + i, q]


@_inline
def _aligned(like, shape):
    """Return zeros that begin where a vector may begin."""
    count, spare = shape[0] * shape[1] * shape[2], lanes(like)
    buffer = np.zeros(count + spare, like.dtype)
    start = (-buffer.ctypes.data % BYTES) // like.itemsize
    return buffer[start : start + count].reshape(shape)


@_inline
def _channels_and_orders(channels, pairs, products):
    """Return how many channels are no sums of products, and how many derivatives all need."""
    if len(products) > 0:
        return products[0, 0], 1 + products[:, 2].max()
    return channels, 1 if channels == 1 else (2 if len(pairs) == 0 else 3)


@jit
def forward(
    z, rows, breakpoints, tables, uniform, stride, extension, pairs, products, y, start, stop
):
    """Fill y (S, C, B, Q) from z (S, C, P, at least B) and rows (S, P, R, at least Q).

    A task is a block of points of a network: s ceil(B / BLOCK) + block.
    """
    channels, points, outputs = y.shape[1:]
    inputs, r = z.shape[2], tables.shape[4]
    blocks = (points + BLOCK - 1) // BLOCK
    low, top = _channels_and_orders(channels, pairs, products)
    index = np.zeros(BLOCK, np.int64)
    place = np.zeros((4, BLOCK), z.dtype)
    pieces, basis = np.zeros((r, r, BLOCK), z.dtype), np.zeros((top, r, BLOCK), z.dtype)
    c = np.zeros((channels, r, BLOCK), z.dtype)
    buffer = _aligned(z, (channels, BLOCK, rows.shape[3]))
    for task in range(start, stop):
        s, begin = task // blocks, task % blocks * BLOCK
        count = min(BLOCK, points - begin)
        buffer.fill(0)
        for p in range(inputs):
            x = z[s, :, p, begin : begin + count]
            t, table = _grid(breakpoints, s, p), _grid(tables, s, p)
            if p == 0 or tables.shape[1] > 1:
                _spread(table, pieces)
            _evaluate(x[0], t, table, uniform, stride, extension, index, place, pieces, basis)
            _combine(basis, x, pairs, count, c[:low])
            c[low:].fill(0)
            _combine_products(basis, x, products, count, c)
            for channel in range(channels):
                _add(buffer[channel], 0, c[channel], index[:count], rows[s, p])
        for channel in range(channels):
            _copy(buffer[channel], 0, y[s, channel], begin, count, outputs)


@jit
def backward(
    z, weight, breakpoints, tables, uniform, stride, extension, pairs, products, grad,
    by_z, by_weight, group, start, stop,
):  # fmt: skip
    """Fill by_z (S, C, P, at least B) and by_weight (S, Q, P, R); those that are empty: skip.

    A task is a group of inputs of a network: s ceil(P / group) + p // group.
    """
    channels, points, outputs = grad.shape[1:]
    inputs, r, width, size = z.shape[2], tables.shape[4], lanes(z), weight.shape[3]
    to_z, to_weight = by_z.size > 0, by_weight.size > 0
    low, top = _channels_and_orders(channels, pairs, products)
    top += int(to_z)
    index = np.zeros(BLOCK, np.int64)
    place = np.zeros((4, BLOCK), z.dtype)
    pieces, basis = np.zeros((r, r, BLOCK), z.dtype), np.zeros((top, r, BLOCK), z.dtype)
    c, dots = np.zeros((channels, r, BLOCK), z.dtype), np.zeros((channels, r, BLOCK), z.dtype)
    padded = outputs + -outputs % width
    rows, sums = _aligned(z, (group, size, padded)), _aligned(z, (group, size, padded))
    buffer = _aligned(z, (channels, BLOCK, padded))
    groups = (inputs + group - 1) // group
    for task in range(start, stop):
        s, first = task // groups, task % groups * group
        last = min(first + group, inputs)
        if to_z:
            for p in range(first, last):
                _transpose(weight[s, :, p], outputs, size, rows[p - first], width)
        sums.fill(0)
        for begin in range(0, points, BLOCK):
            count = min(BLOCK, points - begin)
            if padded > outputs:
                for channel in range(channels):
                    _copy(grad[s, channel], begin, buffer[channel], 0, count, outputs)
                g, skip = buffer, 0
            else:
                g, skip = grad[s], begin
            for p in range(first, last):
                x = z[s, :, p, begin : begin + count]
                t, table = _grid(breakpoints, s, p), _grid(tables, s, p)
                if begin + p == first or tables.shape[1] > 1:
                    _spread(table, pieces)
                _evaluate(x[0], t, table, uniform, stride, extension, index, place, pieces, basis)
                if to_weight:
                    _combine(basis, x, pairs, count, c[:low])
                    c[low:].fill(0)
                    _combine_products(basis, x, products, count, c)
                    for channel in range(channels):
                        _add_outer(sums[p - first], index[:count], c[channel], g[channel], skip)
                if to_z:
                    for channel in range(channels):
                        _dot(dots[channel], index[:count], rows[p - first], g[channel], skip)
                    slopes = by_z[s, :, p, begin : begin + count]
                    _differentiate(basis, x, pairs, count, dots, slopes[:low])
                    slopes[low:].fill(0)
                    _differentiate_products(basis, x, products, count, dots, slopes)
        if to_weight:
            for p in range(first, last):
                _transpose(sums[p - first], size, outputs, by_weight[s, :, p], width)
