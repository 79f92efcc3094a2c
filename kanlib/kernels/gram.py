"""Gram matrices of sparse rows whose nonzeros come in runs.

Each row has one run of L nonzeros in a part of the columns, for each of a few parts. The product
of two parts needs L L' multiplications a row, however many columns they have. On the CPU a fused
kernel does it (``pip install kanlib[fast]``); elsewhere rows are filled with zeros and multiplied.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kanlib.kernels import operator

#: First column, where the run of each row begins from there (M,), and the entries (M, L).
Part = tuple[int, Tensor, Tensor]


def add(parts: Sequence[Part], total: Tensor) -> None:
    """Add the products of all pairs of parts to a matrix, to be :func:`completed`.

    Args:
        parts: the parts; columns of two parts may be the same, whose entries then add up.
        total: square matrix, as many rows as columns.
    """
    if not operator.may_read(total, *(values for *_, values in parts)):
        rows = total.new_zeros(len(parts[0][1]) if parts else 0, len(total))
        for start, offset, values in parts:
            columns = start + offset[:, None]
            columns = columns + torch.arange(values.shape[1], device=offset.device)
            rows.scatter_add_(1, columns, values)
        total += 0.5 * (rows.T @ rows)
        return
    fixed = [not bool(offset.any()) for _, offset, _ in parts]
    for i, (start, offset, values) in enumerate(parts):
        order = torch.argsort(offset).numpy()  # so that what is added to stays in the cache
        for j, (other, shift, entries) in enumerate(parts[i:], i):
            block, factor = total[start:, other:], 0.5 if i == j else 1.0
            if fixed[i] and fixed[j]:
                part = block[: values.shape[1], : entries.shape[1]]
                part.addmm_(values.T, entries, alpha=factor)
            else:
                arrays = [x.numpy() for x in (values, offset, entries, shift, block)]
                _fused().add_products(order, factor, *arrays)


def completed(total: Tensor) -> Tensor:
    """Return the Gram matrix from what :func:`add` has accumulated."""
    return total + total.T


@functools.cache
def _fused() -> Any:
    return importlib.import_module("kanlib.kernels.cpu_gram")
