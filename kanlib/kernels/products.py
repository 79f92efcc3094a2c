"""Products with sparse rows whose nonzeros come in runs, as those of Jacobians do.

Row ``place[m]`` of J has ``values[m]`` in the columns from ``offset[m]`` on. On the CPU a fused
kernel multiplies (``pip install kanlib[fast]``), which reads the nonzeros once and writes nothing
between; elsewhere PyTorch does.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
from torch import Tensor

from kanlib.kernels import operator


def add_product(place: Tensor, offset: Tensor, values: Tensor, v: Tensor, rows: Tensor) -> None:
    """Add J v to the rows.

    Args:
        place: the row of each run, (M,).
        offset: the column where it begins, (M,).
        values: its entries, (M, L).
        v: as many entries as J has columns.
        rows: as many entries as J has rows.
    """
    if operator.may_read(values, v, rows):
        _fused().add_product(*(x.numpy() for x in (place, offset, values, v, rows)))
        return
    windows = v.unfold(0, values.shape[1], 1)[offset]
    rows.index_add_(0, place, torch.einsum("ml,ml->m", windows, values))


def add_transposed(
    place: Tensor, offset: Tensor, values: Tensor, rows: Tensor, columns: Tensor
) -> None:
    """Add J^T y to the columns, for the rows y; see :func:`add_product`."""
    if operator.may_read(values, rows, columns):
        _fused().add_transposed(*(x.numpy() for x in (place, offset, values, rows, columns)))
        return
    index = offset[:, None] + torch.arange(values.shape[1], device=offset.device)
    columns.index_add_(0, index.flatten(), (values * rows[place][:, None]).flatten())


@functools.cache
def _fused() -> Any:
    return importlib.import_module("kanlib.kernels.cpu_products")
