"""Checkpoints: the state of a run in a file that never executes code when it is loaded."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import torch

from kanlib.files import read, write_atomically

FORMAT = "kanlib checkpoint 1"

#: What a checkpoint holds, which is the settings, where the run is, and all it goes on from.
FIELDS = {
    "settings": dict,
    "level": int,
    "epoch": int,
    "model": dict,
    "good": list,
    "optimizer": dict,
    "scheduler": dict,
    "history": dict,
    "levels": list,
    "work": float,
    "evaluations": int,
    "seconds": float,
    "random": torch.Tensor,
    "random_cuda": list,
    "random_batches": list,
}


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write the state of a run (tensors, numbers, strings, lists and dicts) atomically."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; code in the file is refused, never executed.

    Raises:
        OSError: if the file does not exist or cannot be read.
        ValueError: if the file is truncated, not a checkpoint of kanlib, or carries code.
    """
    data = read(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # torch raises many types on damaged files, with advice to load them unsafely
        raise ValueError(
            f"checkpoint {path} is truncated, foreign or carries code, which was not executed: "
            "delete it and run again"
        ) from None
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
