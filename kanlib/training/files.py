"""Files that are never half written, and that one process at a time changes.

A file is written under another name beside it and then takes its place. What a killed process
leaves of this is removed by the next write, which tells it by its lock: the system drops the locks
of a process that ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # as on Windows
    fcntl = None  # type: ignore[assignment]

_BINARY = getattr(os, "O_BINARY", 0)


def located(path: str | Path) -> Path:
    """Return the absolute path of a file, ``~`` replaced by the home folder and links followed.

    Raises:
        OSError: if there is no such home, or links run in a circle.
    """
    with _telling(path, "find", "name another file"):
        return _resolved(path)


def read(path: str | Path) -> bytes:
    """Return the content of a file.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it is a folder, a pipe or a device, or cannot be read.
    """
    with _telling(path, "read", "name another file"):
        if _status(path) is not None:
            return _resolved(path).read_bytes()
    raise FileNotFoundError(f"file {path} does not exist: name another file")


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file so that readers find either the old or the new content, even after a crash.

    A link stays a link, and an old file keeps its mode and, where that is allowed, its owner.

    Args:
        path: the file; missing parent folders are created.
        data: the new content.

    Raises:
        OSError: if the file cannot be written, is read-only, or is a folder, a pipe or a device;
            an old one is left as it was.
    """
    with _telling(path, "write", "choose a file in a folder that can be written and has space"):
        old, target = _status(path), _resolved(path)
        if old is not None and not (old.st_mode & 0o222 and os.access(target, os.W_OK)):
            raise OSError("it is read-only")
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target)
        _replace(target, data, old)


def sweep(path: Path) -> None:
    """Remove what killed processes left of writing a file, and nothing that is being written."""
    left = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.part")
    with contextlib.suppress(OSError):
        for name in filter(left.fullmatch, os.listdir(path.parent)):
            with contextlib.suppress(OSError):
                handle = os.open(path.with_name(name), os.O_RDWR)
                try:
                    if _lock(handle, wait=False):
                        os.unlink(path.with_name(name))
                finally:
                    os.close(handle)


@contextlib.contextmanager
def locked(path: str | Path, waiting: str = "") -> Iterator[None]:
    """Let one process, and one thread of it, at a time do what is done in this context.

    Where the system or the file system has no locks, a warning says so.

    Args:
        path: the file that is changed; the lock is a hidden file beside it, removed at the end.
        waiting: what is printed to standard error while another process has the lock.

    Raises:
        OSError: if the lock cannot be written.
    """
    with _telling(path, "write", "choose a file in a folder that can be written and has space"):
        _status(path)
        file = _resolved(path)
        lock = file.with_name(f".{file.name}.lock")
        handle = _acquire(lock, waiting)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(lock)
        os.close(handle)


def _acquire(lock: Path, waiting: str) -> int:
    """Return the handle of a file that is locked and still there."""
    for attempts_left in reversed(range(1000)):
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | _BINARY, 0o666)
        except FileNotFoundError:  # another has just removed the folder, or it takes no files
            if attempts_left:
                continue
            raise
        try:
            owned = _lock(handle, wait=False)
            if owned is False:
                if waiting:
                    print(waiting, file=sys.stderr, flush=True)
                owned = _lock(handle, wait=True)
            if owned is None:
                warnings.warn(
                    f"files in {lock.parent} cannot be locked: let one process at a time write "
                    "there, or runs are lost",
                    RuntimeWarning,
                    stacklevel=2,
                )
            with contextlib.suppress(FileNotFoundError):  # who had the lock has removed the file
                if os.path.samestat(os.fstat(handle), os.stat(lock)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    raise TimeoutError("too many others lock it")


def _replace(target: Path, data: bytes, old: os.stat_result | None) -> None:
    """Write a file under another name, then give it its own."""
    mode = 0o666 if old is None else stat.S_IMODE(old.st_mode)  # less what the umask forbids
    temporary, handle = _temporary(target, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if old is not None:
                _keep(temporary, old)
            if fcntl is None:
                file.close()  # Windows renames no open file
            os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _temporary(target: Path, mode: int) -> tuple[Path, int]:
    """Return a new file beside ``target`` and its locked handle."""
    while True:
        path = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, mode)
        _lock(handle, wait=True)
        if path.exists():  # no other swept it before it was locked
            return path, handle
        os.close(handle)


def _keep(path: Path, old: os.stat_result) -> None:
    """Give a file the owner and the mode of an old one, as far as the file system allows."""
    new = path.stat()
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with contextlib.suppress(OSError):
            os.chown(path, old.st_uid, old.st_gid)
    if new.st_mode != old.st_mode:
        with contextlib.suppress(OSError):
            os.chmod(path, stat.S_IMODE(old.st_mode))


def _lock(handle: int, wait: bool) -> bool | None:
    """Lock an open file; return False if another has it, and None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _resolved(path: str | Path) -> Path:
    return Path(path).expanduser().resolve()


def _status(path: str | Path) -> os.stat_result | None:
    """Return the status of a file, None if there is none; folders, pipes and devices are refused.

    What has no end must not be read, and a rename would put a file in its place.
    """
    try:
        status = Path(path).expanduser().stat()
    except FileNotFoundError:
        return None
    if stat.S_ISREG(status.st_mode):
        return status
    raise OSError(f"it is a {'folder' if stat.S_ISDIR(status.st_mode) else 'pipe or a device'}")


@contextlib.contextmanager
def _telling(path: str | Path, verb: str, remedy: str) -> Iterator[None]:
    """Turn an error of the system into one sentence that names the file and the remedy."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: no home, or a circle of links
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"cannot {verb} {path} ({reason}): {remedy}") from error
