"""Files that are never half written, and checkpoints that never execute code when loaded."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

FORMAT = "kanlib checkpoint 1"


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file so that readers find either the old or the new content, even after a crash.

    Args:
        path: the file; missing parent folders are created.
        data: the new content.

    Raises:
        OSError: if the file cannot be written; an old one is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write the state of a run (tensors, numbers, strings, lists and dicts) atomically."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; code in the file is refused, never executed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, not a checkpoint of kanlib, or carries code.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"checkpoint {path} is damaged, foreign or carries code ({reason[:120]}): "
            "delete it and run again"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(
            f"checkpoint {path} was not written by this version of kanlib (expected format "
            f"{FORMAT!r}): delete it and run again"
        )
    return state
