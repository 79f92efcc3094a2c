"""Fused kernels of the local evaluation for GPUs, in Triton.

A program evaluates a block of points for one input after the other: the interval of each point and
the r functions there, then sums of r rows of weights, looked up where they are needed. Products
are formed and added one by one in the dtype of the points, without tensor cores: TF32, which
rounds float32 to ten bits, never enters. The position within an interval is found in float64.

The gradient in the weights is added up by atomic operations, in an order that differs from run to
run, so that its last digits do too. After ``torch.use_deterministic_algorithms(True)`` a program
owns a block of weights and goes through all points in order: the same bits every time, at a cost
that grows with the number of intervals.

The kernels read channels laid out as (S, C, P, B) and weights as (S, P, R, Q), so that
neighbouring threads read neighbouring numbers. Offsets are 64-bit integers. Written in capitals
are the constants for which a kernel is compiled anew:

    FIRST, CHANNELS: 1 + D, values and first derivatives, and the number of all channels, C.
    PAIRS: the directions of the second derivatives, two for each.
    ORDER, STRIDE: the order r, and how many rows of weights the next interval is away.
    SEARCH: halvings that find an interval, or 0 where the breakpoints have equal distances.
    PIECEWISE: whether every interval has its own table.
    EXTENSION: index in ``kanlib._checks.EXTENSIONS``.
    C, B, Q, R: the sizes of a tile, powers of two: channels, points, outputs, rows of weights.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kanlib._checks import EXTENSIONS
from kanlib.kernels.chain_rule import Higher
from kanlib.kernels.reference import Splines

#: Bytes of a tile that a program keeps in registers, and the most outputs in it.
TILE, OUTPUTS = 1 << 12, 32
#: Points and rows of weights of a tile where the order of sums is fixed.
POINTS, ROWS = 16, 16


@triton.jit
def _interval(e, t, n, SEARCH: tl.constexpr):
    """Return the index of the interval that holds e; the end intervals reach out."""
    if SEARCH == 0:  # a guess, at most one off
        low = tl.load(t)
        guess = (e - low) * (n / (tl.load(t + n) - low))
        m = tl.where(guess < n - 1, tl.maximum(guess, 0.0), n - 1.0).to(tl.int32)
        m += (e >= tl.load(t + m + 1)).to(tl.int32)
        m -= (e < tl.load(t + m)).to(tl.int32)
        return tl.minimum(tl.maximum(m, 0), n - 1)
    m = tl.zeros(e.shape, tl.int32)
    above = m + n - 1
    for _ in range(SEARCH):
        middle = (m + above) // 2
        below = e < tl.load(t + middle + 1)
        m = tl.where(below, m, tl.minimum(middle + 1, above))
        above = tl.where(below, middle, above)
    return m


@triton.jit
def _place(x, t, n, SEARCH: tl.constexpr):
    """Return interval, local coordinate and its slope, and the distance from [a, b]."""
    low, high = tl.load(t).to(x.dtype), tl.load(t + n).to(x.dtype)
    inside = tl.where(x < low, low, tl.where(x > high, high, x))
    e = inside.to(tl.float64)
    m = _interval(e, t, n, SEARCH)
    left = tl.load(t + m)
    scale = 1.0 / (tl.load(t + m + 1) - left)
    return m, ((e - left) * scale).to(x.dtype), scale.to(x.dtype), x - inside


@triton.jit
def _function(
    l, m, v, scale, distance, table,
    ORDER: tl.constexpr, PIECEWISE: tl.constexpr, EXTENSION: tl.constexpr,
):  # fmt: skip
    """Return the function l of r at points of intervals m, and its first three derivatives."""
    pieces = table + l * ORDER
    if PIECEWISE:
        pieces += m * (ORDER * ORDER)
    b0, b1, b2, b3 = v * 0, v * 0, v * 0, v * 0
    for k in tl.static_range(ORDER):  # Horner's scheme, and for the derivatives / j!
        b3 = b3 * v + b2
        b2 = b2 * v + b1
        b1 = b1 * v + b0
        b0 = b0 * v + tl.load(pieces + (ORDER - 1 - k))
    b1, b2, b3 = b1 * scale, 2 * b2 * scale * scale, 6 * b3 * scale * scale * scale
    within = (distance == 0).to(v.dtype)  # zero for NaN, which the products keep
    if EXTENSION == 0:
        b0 += distance * b1
    else:
        b1 *= within
    if EXTENSION == 2:
        b0 *= within
    return b0, b1, b2 * within, b3 * within


@triton.jit
def _product(x, j, step, valid, FIRST: tl.constexpr, CHANNELS: tl.constexpr, PAIRS: tl.constexpr):
    """Return x_a x_b in the channels j of second derivatives x_ab, zero in others.

    ``x`` points to the values, and the next channel is ``step`` numbers away.
    """
    a, b = j * 0, j * 0
    for k in tl.static_range(CHANNELS - FIRST):
        a = tl.where(j == FIRST + k, 1 + PAIRS[2 * k], a)
        b = tl.where(j == FIRST + k, 1 + PAIRS[2 * k + 1], b)
    valid = valid & (j >= FIRST)
    return tl.load(x + a * step, valid, 0.0) * tl.load(x + b * step, valid, 0.0)


@triton.jit
def _forward(
    x, rows, breakpoints, tables, y,
    points, inputs, outputs, size, n, next_breakpoints, next_table, own_breakpoints, own_table,
    FIRST: tl.constexpr, CHANNELS: tl.constexpr, PAIRS: tl.constexpr,
    ORDER: tl.constexpr, STRIDE: tl.constexpr, SEARCH: tl.constexpr,
    PIECEWISE: tl.constexpr, EXTENSION: tl.constexpr,
    C: tl.constexpr, B: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """Fill y (S, C, B, Q) from x (S, C, P, B) and rows (S, P, R, Q).

    A program has a block of points of a network and a block of outputs.
    """
    task = tl.program_id(0).to(tl.int64)
    q = task % tl.cdiv(outputs, Q) * Q + tl.arange(0, Q)
    task = task // tl.cdiv(outputs, Q)
    i = task % tl.cdiv(points, B) * B + tl.arange(0, B)
    s = task // tl.cdiv(points, B)
    j = tl.arange(0, C).to(tl.int64)[:, None]
    step = tl.cast(inputs, tl.int64) * points
    known, wanted = i < points, q < outputs
    valid = (j < CHANNELS) & known[None, :]
    t, table = breakpoints + s * next_breakpoints, tables + s * next_table
    x += s * CHANNELS * step + i
    rows += s * inputs * size * outputs + q[None, :]
    total = tl.zeros((C, B, Q), y.dtype.element_ty)
    for _input in range(inputs):
        m, v, scale, distance = _place(tl.load(x, known, 0.0), t, n, SEARCH)
        own = tl.load(x[None, :] + j * step, valid, 0.0)
        product = _product(x[None, :], j, step, valid, FIRST, CHANNELS, PAIRS)
        for l in tl.static_range(ORDER):
            b0, b1, b2, _ = _function(l, m, v, scale, distance, table, ORDER, PIECEWISE, EXTENSION)
            c = tl.where(j == 0, b0[None, :], b1[None, :] * own + b2[None, :] * product)
            row = (m * STRIDE + l)[:, None] * outputs
            w = tl.load(rows + row, known[:, None] & wanted[None, :], 0.0)
            total += c[:, :, None] * w[None, :, :]
        x += points
        rows += size * outputs
        t += own_breakpoints
        table += own_table
    y += s * CHANNELS * points * outputs
    to = (j * points + i[None, :])[:, :, None] * outputs + q[None, None, :]
    tl.store(y + to, total, valid[:, :, None] & wanted[None, None, :])


@triton.jit
def _backward(
    x, rows, breakpoints, tables, grad, by_x, by_rows,
    points, inputs, outputs, size, n, next_breakpoints, next_table, own_breakpoints, own_table,
    FIRST: tl.constexpr, CHANNELS: tl.constexpr, PAIRS: tl.constexpr,
    ORDER: tl.constexpr, STRIDE: tl.constexpr, SEARCH: tl.constexpr,
    PIECEWISE: tl.constexpr, EXTENSION: tl.constexpr,
    C: tl.constexpr, B: tl.constexpr, Q: tl.constexpr,
    TO_X: tl.constexpr, TO_ROWS: tl.constexpr,
):  # fmt: skip
    """Fill by_x (S, C, P, B), and add to by_rows (S, P, R, Q) in any order.

    A program has a block of points of a network and an input.
    """
    task = tl.program_id(0).to(tl.int64)
    i = task % tl.cdiv(points, B) * B + tl.arange(0, B)
    task = task // tl.cdiv(points, B)
    p, s = task % inputs, task // inputs
    j = tl.arange(0, C).to(tl.int64)[:, None]
    step = tl.cast(inputs, tl.int64) * points
    known = i < points
    valid = (j < CHANNELS) & known[None, :]
    t = breakpoints + s * next_breakpoints + p * own_breakpoints
    table = tables + s * next_table + p * own_table
    x += s * CHANNELS * step + p * points + i
    m, v, scale, distance = _place(tl.load(x, known, 0.0), t, n, SEARCH)
    own = tl.load(x[None, :] + j * step, valid, 0.0)
    product = _product(x[None, :], j, step, valid, FIRST, CHANNELS, PAIRS)
    grad += (s * CHANNELS * points + j * points + i[None, :])[:, :, None] * outputs
    slopes, bends, value = own * 0, own * 0, v * 0
    for start in range(0, outputs, Q):
        q = start + tl.arange(0, Q)
        wanted = q < outputs
        g = tl.load(grad + q[None, None, :], valid[:, :, None] & wanted[None, None, :], 0.0)
        for l in tl.static_range(ORDER):
            b0, b1, b2, b3 = _function(l, m, v, scale, distance, table, ORDER, PIECEWISE, EXTENSION)
            row = ((s * inputs + p) * size + m * STRIDE + l)[:, None] * outputs + q[None, :]
            looked_up = known[:, None] & wanted[None, :]
            if TO_ROWS:
                c = tl.where(j == 0, b0[None, :], b1[None, :] * own + b2[None, :] * product)
                share = tl.sum(c[:, :, None] * g, axis=0)
                tl.atomic_add(by_rows + row, share, looked_up, sem="relaxed")
            if TO_X:
                w = tl.load(rows + row, looked_up, 0.0)
                dots = tl.sum(g * w[None, :, :], axis=2)
                slopes += b1[None, :] * dots
                bends += b2[None, :] * dots
                bent = (b2[None, :] * own + b3[None, :] * product) * dots
                value += tl.sum(tl.where(j == 0, 0.0, bent), axis=0)
    if TO_X:
        slopes += tl.where(j == 0, value[None, :], 0.0)
        for k in tl.static_range(CHANNELS - FIRST):
            a, b = 1 + PAIRS[2 * k], 1 + PAIRS[2 * k + 1]
            bend = tl.sum(tl.where(j == FIRST + k, bends, 0.0), axis=0)
            to_a = bend * tl.load(x + b * step, known, 0.0)
            to_b = bend * tl.load(x + a * step, known, 0.0)
            slopes += tl.where(j == a, to_a[None, :], 0.0) + tl.where(j == b, to_b[None, :], 0.0)
        by_x += s * CHANNELS * step + p * points + i
        tl.store(by_x[None, :] + j * step, slopes, valid)


@triton.jit
def _by_rows_in_order(
    x, breakpoints, tables, grad, by_rows,
    points, inputs, outputs, size, n, next_breakpoints, next_table, own_breakpoints, own_table,
    FIRST: tl.constexpr, CHANNELS: tl.constexpr, PAIRS: tl.constexpr,
    ORDER: tl.constexpr, STRIDE: tl.constexpr, SEARCH: tl.constexpr,
    PIECEWISE: tl.constexpr, EXTENSION: tl.constexpr,
    B: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """Fill by_rows (S, P, R, Q) by sums over all points in order.

    A program has a block of rows and a block of outputs of an input of a network.
    """
    task = tl.program_id(0).to(tl.int64)
    q = task % tl.cdiv(outputs, Q) * Q + tl.arange(0, Q)
    task = task // tl.cdiv(outputs, Q)
    row = task % tl.cdiv(size, R) * R + tl.arange(0, R)
    task = task // tl.cdiv(size, R)
    p, s = task % inputs, task // inputs
    step = tl.cast(inputs, tl.int64) * points
    t = breakpoints + s * next_breakpoints + p * own_breakpoints
    table = tables + s * next_table + p * own_table
    x += s * CHANNELS * step + p * points
    grad += s * CHANNELS * points * outputs + q[None, :]
    wanted = q < outputs
    total = tl.zeros((R, Q), by_rows.dtype.element_ty)
    for start in range(0, points, B):
        i = start + tl.arange(0, B).to(tl.int64)
        known = i < points
        m, v, scale, distance = _place(tl.load(x + i, known, 0.0), t, n, SEARCH)
        for j in range(CHANNELS):
            own = tl.load(x + j * step + i, known, 0.0)
            product = _product(x + i, j, step, known, FIRST, CHANNELS, PAIRS)
            chosen = tl.zeros((B, R), total.dtype)  # what every point gives every row
            for l in tl.static_range(ORDER):
                b0, b1, b2, _ = _function(
                    l, m, v, scale, distance, table, ORDER, PIECEWISE, EXTENSION
                )
                c = tl.where(j == 0, b0, b1 * own + b2 * product)
                mine = (m * STRIDE + l)[:, None] == row[None, :]
                chosen += tl.where(mine, c[:, None], 0.0)
            at = (tl.cast(j, tl.int64) * points + i)[:, None] * outputs
            g = tl.load(grad + at, known[:, None] & wanted[None, :], 0.0)
            total += tl.sum(chosen[:, :, None] * g[:, None, :], axis=0)
    by_rows += ((s * inputs + p) * size + row)[:, None] * outputs + q[None, :]
    tl.store(by_rows, total, (row < size)[:, None] & wanted[None, :])


def try_out(_: torch.dtype) -> None:
    """Do nothing: that this module could be imported is all that is known before a kernel runs."""


def forward(z: Tensor, splines: Splines, higher: Higher) -> Tensor:
    """Run ``kanlib::splines``, see :func:`kanlib.kernels.operator.fused`."""
    networks, channels, points, _ = z.shape
    outputs = splines.weight.shape[1]
    y = z.new_empty(networks, channels, points, outputs)
    tensors, shared = _arguments(z, splines, higher)
    tile = _tile(z, outputs)
    programs = networks * _blocks(points, tile["B"]) * _blocks(outputs, tile["Q"])
    _launch(_forward, programs, *tensors.values(), y, **shared, **tile)
    return y


def backward(
    grad: Tensor, z: Tensor, splines: Splines, higher: Higher, to_z: bool, to_weight: bool
) -> tuple[Tensor, Tensor]:
    """Run ``kanlib::splines_backward``, see :func:`kanlib.kernels.operator.fused_backward`."""
    networks, _, points, inputs = z.shape
    outputs, size = splines.weight.shape[1], splines.weight.shape[3]
    tensors, shared = _arguments(z, splines, higher)
    grad = grad.contiguous()
    by_x, by_rows = torch.empty_like(tensors["x"]), torch.zeros_like(tensors["rows"])
    tile = _tile(z, outputs)
    in_order = to_weight and torch.are_deterministic_algorithms_enabled()
    chosen = {"TO_X": to_z, "TO_ROWS": to_weight and not in_order}
    if any(chosen.values()):
        programs = networks * inputs * _blocks(points, tile["B"])
        given = *tensors.values(), grad, by_x, by_rows
        _launch(_backward, programs, *given, **shared, **tile, **chosen)
    if in_order:
        sizes = {"B": POINTS, "R": ROWS, "Q": tile["Q"]}
        programs = networks * inputs * _blocks(size, ROWS) * _blocks(outputs, tile["Q"])
        given = *(v for name, v in tensors.items() if name != "rows"), grad, by_rows
        _launch(_by_rows_in_order, programs, *given, **shared, **sizes)
    by_z = by_x.transpose(2, 3).contiguous() if to_z else z.new_empty(0)
    return by_z, by_rows.permute(0, 3, 1, 2).contiguous() if to_weight else by_rows.new_empty(0)


def _arguments(
    z: Tensor, splines: Splines, higher: Higher
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what all kernels are told: tensors; sizes, distances in memory and constants."""
    _, channels, points, inputs = z.shape
    weight, breakpoints, table = splines.weight, splines.breakpoints, splines.functions
    n = breakpoints.shape[2] - 1
    tensors = {
        "x": z.transpose(2, 3).contiguous(),  # (S, C, P, B)
        "rows": weight.permute(0, 2, 3, 1).contiguous(),  # (S, P, R, Q)
        "breakpoints": breakpoints.contiguous(),
        "tables": table.contiguous(),
    }
    return tensors, {
        "points": points,
        "inputs": inputs,
        "outputs": weight.shape[1],
        "size": weight.shape[3],
        "n": n,
        "next_breakpoints": breakpoints[0].numel() if len(breakpoints) > 1 else 0,
        "next_table": table[0].numel() if len(table) > 1 else 0,
        "own_breakpoints": n + 1 if breakpoints.shape[1] > 1 else 0,
        "own_table": table[0, 0].numel() if table.shape[1] > 1 else 0,
        "FIRST": channels - len(higher),
        "CHANNELS": channels,
        "PAIRS": tuple(direction for pair in higher for direction in pair),
        "ORDER": splines.order(),
        "STRIDE": splines.stride,
        "SEARCH": 0 if splines.uniform else (n - 1).bit_length(),
        "PIECEWISE": table.shape[2] > 1,
        "EXTENSION": EXTENSIONS.index(splines.extension),
    }


def _tile(z: Tensor, outputs: int) -> dict[str, int]:
    """Return the sizes C, B, Q of a tile."""
    c, q = triton.next_power_of_2(z.shape[1]), min(triton.next_power_of_2(outputs), OUTPUTS)
    b = TILE // (z.element_size() * c * q)
    return {"C": c, "B": min(max(b, 8), 128), "Q": q}


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


def _launch(kernel: Any, programs: int, *arguments: Any, **options: Any) -> None:
    """Run a kernel on the device of its tensors; no program is no launch."""
    if programs:
        with torch.cuda.device_of(arguments[0]):
            kernel[(programs,)](*arguments, **options)
