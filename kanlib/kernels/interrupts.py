"""Signals that wait: for code that an exception from a handler would break, or that would lose it.

Python runs handlers of signals, such as Ctrl-C, in the main thread, between any two of its steps,
whichever thread of the process gets the signal. What a handler raises is lost where Python is
called from C, and inside an import it leaves a half-made module behind.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Those to which programs give handlers that raise.
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGBREAK")
    if hasattr(signal, name)
]


@contextmanager
def deferred() -> Iterator[None]:
    """Let handlers of signals wait until the end of a ``with`` block, and then call them.

    In other threads than the main one this does nothing: no handler runs there.

    Examples:
        >>> with deferred():
        ...     pass
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[tuple[Any, ...]] = []
    handlers: dict[Any, Any] = {}
    try:
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):  # and not the system's own, or none
                handlers[number] = handler
                signal.signal(number, lambda *given: waiting.append(given))
        yield
    finally:
        _restore(handlers)
        _deliver(waiting)


def _restore(handlers: dict[Any, Any]) -> None:
    """Set all handlers, also if one that is set already raises meanwhile."""
    try:
        for number in [*handlers]:
            signal.signal(number, handlers[number])
            del handlers[number]
    finally:
        if handlers:
            _restore(handlers)


def _deliver(waiting: list[tuple[Any, ...]]) -> None:
    """Call the handlers of all signals that have come, also if one raises."""
    if waiting:
        number, frame = waiting.pop(0)
        handler: Any = signal.getsignal(number)
        try:
            handler(number, frame)
        finally:
            _deliver(waiting)
