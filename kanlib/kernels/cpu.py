"""Run the fused kernels on tensors, shared among threads."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kanlib._checks import EXTENSIONS
from kanlib.kernels import cpu_numba
from kanlib.kernels.chain_rule import HIGHEST, Higher, products
from kanlib.kernels.cpu_vectors import BYTES
from kanlib.kernels.interrupts import deferred
from kanlib.kernels.reference import Splines

#: Products of a channel of a point and an output that are worth a thread.
WORK = 100_000
#: Inputs that a task of the backward pass takes together, as far as their tables take no more
#: bytes than this.
GROUP, CACHE = 16, 1 << 16


def try_out(dtype: torch.dtype) -> None:
    """Run all kernels on one point, so that whatever is wrong with them is raised here.

    They are compiled once for each dtype: what is passed here has the types of all that follows.
    An interrupt waits until a kernel is compiled; those that are need not be compiled again.
    """
    kind = "f4" if dtype == torch.float32 else "f8"

    def numbers(*shape: int) -> Any:
        return np.ones(shape, kind)

    one, padded = numbers(1, 1, 1, 1), numbers(1, 1, 1, BYTES)
    splines = np.array([[[0.0, 1.0]]]), numbers(1, 1, 1, 1, 1), True, 1, 0, *_channels(0, ())
    for kernel, *arguments in (
        (cpu_numba.lay_out, one, padded),
        (cpu_numba.forward, padded, padded, *splines, one),
        (cpu_numba.backward, padded, one, *splines, one, padded, one, 1),
    ):
        with deferred():
            kernel(*arguments, 0, 1)


def forward(z: Tensor, splines: Splines, higher: Higher) -> Tensor:
    """Run ``kanlib::splines``."""
    networks, channels, points, _ = z.shape
    outputs = splines.weight.shape[1]
    x, rows = _by_input(z), _transposed(splines.weight)
    y = z.new_empty(networks, channels, points, outputs)
    tasks, work = networks * -(-points // cpu_numba.BLOCK), x.numel() * outputs
    _share(cpu_numba.forward, tasks, work, x, rows, *_described(z, splines, higher), y)
    return y


def backward(
    grad: Tensor, z: Tensor, splines: Splines, higher: Higher, to_z: bool, to_weight: bool
) -> tuple[Tensor, Tensor]:
    """Run ``kanlib::splines_backward``."""
    networks, channels, points, inputs = z.shape
    weight = splines.weight
    outputs, size = weight.shape[1], weight.shape[3]
    x = _by_input(z)
    by_x = torch.empty_like(x) if to_z else z.new_empty(0, 0, 0, 0)
    by_weight = weight.new_empty(weight.shape if to_weight else (0, 0, 0, 0))
    given = x, weight, *_described(z, splines, higher), grad
    tables = 2 * size * (outputs + 8) * z.element_size()  # of one input, in the cache
    group = max(1, min(inputs, GROUP, CACHE // tables))
    tasks, work = networks * -(-inputs // group), x.numel() * outputs
    _share(cpu_numba.backward, tasks, work, *given, by_x, by_weight, group)
    by_z = z.new_empty(z.shape if to_z else 0)
    if to_z:
        size = networks * channels
        source, target = by_x.view(size, inputs, 1, x.shape[3]), by_z.view(size, 1, points, inputs)
        _share(cpu_numba.lay_out, size, z.numel(), source, target)
    return by_z, by_weight if to_weight else by_weight.view(0)


def _by_input(z: Tensor) -> Tensor:
    """Return z (S, C, B, P) as (S, C, P, B), padded."""
    networks, channels, points, inputs = z.shape
    x = _transposed(z.reshape(networks * channels, points, 1, inputs))
    return x.view(networks, channels, inputs, x.shape[3])


def _transposed(source: Tensor) -> Tensor:
    """Return (S, I, P, J) as (S, P, J, I), the last dimension padded to whole vectors."""
    size, rows, inputs, columns = source.shape
    padding = -rows % (BYTES // source.element_size())
    allocate = source.new_zeros if padding else source.new_empty
    target = allocate(size, inputs, columns, rows + padding)
    _share(cpu_numba.lay_out, size * inputs, source.numel(), source, target)
    return target


def _described(z: Tensor, splines: Splines, higher: Higher) -> tuple[Any, ...]:
    """Return what the kernels are told of splines besides their weights, and of the channels."""
    options = splines.uniform, splines.stride, EXTENSIONS.index(splines.extension)
    channels = _channels(z.shape[1] - 1 - len(higher), tuple(higher))
    return splines.breakpoints, splines.functions, *options, *channels


@cache
def _channels(directions: int, higher: tuple[tuple[int, ...], ...]) -> tuple[Any, Any]:
    """Return the directions of second derivatives, and the products of the channels after them.

    A product is its channel, its count, how many factors it has, and these, padded with zeros.
    """
    pairs = [*takewhile(lambda derivative: len(derivative) == 2, higher)]
    first = 1 + directions + len(pairs)
    rows = [
        (channel, count, len(factors), *factors, *[0] * (HIGHEST - len(factors)))
        for channel, terms in enumerate(products(directions, higher)[len(pairs) :], first)
        for count, factors in terms
    ]
    return _integers(pairs, 2), _integers(rows, 3 + HIGHEST)


def _integers(rows: list[tuple[int, ...]], columns: int) -> Any:
    return np.array(rows, np.int64).reshape(-1, columns)


def _share(kernel: Callable[..., None], tasks: int, work: int, *arguments: Any) -> None:
    """Run a kernel for all tasks, shared among as many threads as PyTorch uses."""
    arrays = [_array(each) if isinstance(each, Tensor) else each for each in arguments]
    threads = min(torch.get_num_threads(), tasks, 1 + work // WORK)
    if threads <= 1:
        kernel(*arrays, 0, tasks)
        return
    shares = [(tasks * i // threads, tasks * (i + 1) // threads) for i in range(threads)]
    _together([partial(kernel, *arrays, *share) for share in shares])


class _Memory:
    """The memory of a tensor, for NumPy.

    After ``tensor.numpy()`` PyTorch would not let the storage be resized any more.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(tensor.shape),
            "typestr": f"=f{tensor.element_size()}",
            "data": (tensor.data_ptr(), False),
        }


def _array(tensor: Tensor) -> Any:
    """Return an array that shares its memory with a tensor, or with a contiguous copy."""
    if not tensor.numel():  # it may have no memory, of which NumPy 1.26 makes no array
        return np.empty(tuple(tensor.shape), f"f{tensor.element_size()}")
    return np.asarray(_Memory(tensor.contiguous()))


def _together(calls: list[Callable[[], None]]) -> None:
    """Make all calls at the same time.

    PyTorch's own threads make them, if they can be had. They stay awake for a while after each
    operation of PyTorch, and other threads would have to share the processors with them.
    """
    if _openmp is None or os.getpid() != PROCESS:
        others = [_pool(os.getpid(), len(calls)).submit(call) for call in calls[1:]]
        calls[0]()
        for other in others:
            other.result()
        return
    waiting = iter(calls)
    errors: list[BaseException] = []

    def work(_: int | None) -> None:
        try:
            for call in waiting:
                call()
        except BaseException as error:  # nothing can be raised through OpenMP
            errors.append(error)

    with deferred():  # what a handler raises would be lost where OpenMP calls `work`
        _openmp(CALLBACK(work), None, len(calls), 0)
    if errors:
        raise errors[0]


def _find_openmp() -> Any:
    """Return the function of PyTorch's OpenMP library that starts its threads, or None."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:  # the symbols of a library include those of the libraries that it uses
        return ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError):
        return None


_openmp = _find_openmp()
CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
#: GNU's OpenMP does not survive a fork.
PROCESS = os.getpid()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return other threads for a process; those of its parent do not survive a fork."""
    return ThreadPoolExecutor(threads)
