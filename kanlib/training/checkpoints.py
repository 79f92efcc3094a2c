"""Checkpoint files: checked for damage, never executing code, nothing in them but plain data."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kanlib.training.files import read, write_atomically

FORMAT = "kanlib checkpoint 4"

#: What a checkpoint holds, which is what identifies the run, where it is, and all it goes on from.
FIELDS = {
    "settings": dict,
    "identity": dict,
    "loss": float,
    "state": dict,
    "model": dict,
    "grids": dict,
    "trainable": list,
    "beside": list,
    "good": list,
    "optimizer": dict,
    "scheduler": dict,
    "objective": dict,
    "callbacks": list,
    "seconds": float,
    "random": torch.Tensor,
    "random_cuda": list,
    "random_batches": list,
}


def plain(value: Any) -> Any:
    """Return a value with NumPy's scalars as Python's numbers and its arrays as tensors.

    Examples:
        >>> plain({"lr": np.float64(0.1), "betas": (np.float32(0.5), 1)})
        {'lr': 0.1, 'betas': (0.5, 1)}
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, Mapping):
        return {plain(key): plain(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(each) for each in value)
    return value


def save_checkpoint(path: str | Path, state: dict[str, Any], *, check: bool = False) -> None:
    """Write the state of a run (tensors, numbers, strings, lists and dicts) atomically.

    Args:
        path: the file.
        state: what it holds; numbers and arrays of NumPy become those of Python and PyTorch.
        check: make sure that what is written can be read again.

    Raises:
        OSError: if the file cannot be written.
        TypeError: if the state holds what could not be read again; nothing is written.
    """
    state = {"format": FORMAT, **plain(state)}
    data = _dumped(state)
    if check and _loaded(data) is None:
        bad = [name for name, each in state.items() if _loaded(_dumped(each)) is None]
        raise TypeError(
            f"checkpoint {path} could not be read again: keep nothing but tensors, numbers, "
            f"strings, lists and dicts in the state of the {' and the '.join(bad)}"
        )
    write_atomically(path, data)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; code in the file is refused, never executed.

    Raises:
        OSError: if the file does not exist or cannot be read.
        ValueError: if the file is damaged, not a checkpoint of kanlib, or carries code.
    """
    state = _loaded(read(path))
    if state is None:
        raise ValueError(
            f"checkpoint {path} is truncated, foreign, damaged or carries code, which was not "
            "executed: delete it and run again"
        )
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(
            f"checkpoint {path} was not written by this version of kanlib (expected format "
            f"{FORMAT!r}): delete it and run again"
        )
    wrong = [name for name, kind in FIELDS.items() if not isinstance(state.get(name), kind)]
    if wrong:
        raise ValueError(
            f"checkpoint {path} lacks {', '.join(wrong)}, or holds other types there: delete it "
            "and run again"
        )
    return state


def _dumped(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _loaded(data: bytes) -> Any:
    """Return what :func:`_dumped` wrote, or None if it is damaged, foreign or carries code."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            entries = file.infolist()
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            # Entries of torch are not compressed: larger ones are a trap for the memory.
            if not stored or sum(entry.file_size for entry in entries) > len(data):
                return None
            if file.testzip() is not None:  # checks all sums
                return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # many types on damaged files, with advice to load them unsafely
        return None
