"""Vectors of 32 bytes for kernels compiled by numba, which has only scalars and arrays.

The inner loops of the fused kernels are a few vectors long. Compilers that make vectors of such
loops spend more time on checks and remainders than on arithmetic; here the vectors are explicit.
LLVM maps them to the registers of the processor, whatever their width.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model
from numba.np.arrayobj import make_array

BYTES = 32
_FAST = ("contract", "reassoc")


class Vector(types.Type):
    """As many numbers of a floating-point type as fit."""

    def __init__(self, dtype: Any) -> None:
        self.dtype, self.size = dtype, 8 * BYTES // dtype.bitwidth
        super().__init__(name=f"Vector({dtype}, {self.size})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        element = manager.lookup(kind.dtype).get_value_type()
        super().__init__(manager, kind, ir.VectorType(element, kind.size))


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Return where a vector begins in an array; the index is not checked."""
    struct = make_array(kind)(context, builder, array)
    item = cgutils.get_item_pointer(context, builder, kind, struct, index, wraparound=False)
    return builder.bitcast(item, context.get_value_type(Vector(kind.dtype)).as_pointer())


def _shuffle(builder: Any, a: Any, b: Any, order: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
    return builder.shuffle_vector(a, b, mask)


def _interleave(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """Return the two halves of a0, b0, a1, b1, ..."""
    size = a.type.count
    order = [i // 2 + size * (i % 2) for i in range(2 * size)]
    return tuple(_shuffle(builder, a, b, half) for half in (order[:size], order[size:]))


@intrinsic
def lanes(typing: Any, array: Any) -> Any:
    """Return how many numbers of an array make a vector, a constant to the compiler."""
    size = Vector(array.dtype).size

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.intp, size)

    return types.intp(array), code


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Return the vector that begins at ``array[index]``."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = cgutils.unpack_tuple(builder, args[1])
        address = _address(context, builder, signature.args[0], args[0], at)
        return builder.load(address, align=array.dtype.bitwidth // 8)

    return Vector(array.dtype)(array, index), code


@intrinsic
def store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write a vector to ``array[index]`` and what follows."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = cgutils.unpack_tuple(builder, args[1])
        address = _address(context, builder, signature.args[0], args[0], at)
        builder.store(args[2], address, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, index, vector), code


@intrinsic
def transpose(typing: Any, source: Any, index: Any, target: Any, mirrored: Any) -> Any:
    """Copy a square as wide as a vector from ``source[index]`` to ``target[mirrored]``."""
    size, align = Vector(source.dtype).size, source.dtype.bitwidth // 8

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def addresses(kind: Any, array: Any, index: Any) -> Iterator[Any]:
            row, column = cgutils.unpack_tuple(builder, index)
            for k in range(size):
                at = [builder.add(row, row.type(k)), column]
                yield _address(context, builder, kind, array, at)

        rows = [builder.load(a, align=align) for a in addresses(signature.args[0], *args[:2])]
        for _ in range(size.bit_length() - 1):
            pairs = zip(rows[: size // 2], rows[size // 2 :], strict=True)
            rows = [half for pair in pairs for half in _interleave(builder, *pair)]
        for row, address in zip(rows, addresses(signature.args[2], *args[2:]), strict=True):
            builder.store(row, address, align=align)
        return context.get_dummy_value()

    return types.void(source, index, target, mirrored), code


@intrinsic
def fill(typing: Any, x: Any) -> Any:
    """Return a vector whose elements are all x."""
    vector = Vector(x)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        undefined = ir.Constant(context.get_value_type(vector), ir.Undefined)
        first = builder.insert_element(undefined, args[0], ir.IntType(32)(0))
        return _shuffle(builder, first, undefined, [0] * vector.size)

    return vector(x), code


@intrinsic
def totals(typing: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Return the sums of the elements of four vectors."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def merge(a: Any, b: Any) -> Any:
            return builder.fadd(*_interleave(builder, a, b), flags=_FAST)

        a, b, c, d = args
        sums = merge(merge(a, c), merge(b, d))  # a, b, c, d, a, b, c, d, ...
        while sums.type.count > 4:
            half = sums.type.count // 2
            low, high = list(range(half)), list(range(half, 2 * half))
            sums = builder.fadd(
                _shuffle(builder, sums, sums, low), _shuffle(builder, sums, sums, high), flags=_FAST
            )
        each = [builder.extract_element(sums, ir.IntType(32)(i)) for i in range(4)]
        return context.make_tuple(builder, signature.return_type, each)

    return types.UniTuple(a.dtype, 4)(a, b, c, d), code


def _operator(function: Any, name: str) -> None:
    """Let numba apply an operator of Python to two vectors."""

    @intrinsic
    def operation(typing: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, name)(*args, flags=_FAST)

        return a(a, b), code

    @overload(function, strict=False, inline="always")
    def _(a: Any, b: Any) -> Any:
        if isinstance(a, Vector) and a == b:
            return lambda a, b: operation(a, b)
        return None


_operator(operator.add, "fadd")
_operator(operator.mul, "fmul")
