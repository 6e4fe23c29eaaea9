"""SIGINT and SIGTERM end a command in order."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def in_loop(end: Callable[[], object]) -> None:
    """Of a command that runs in the event loop of this moment."""
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, end)


def in_threads() -> threading.Event:
    """Of a command that waits: the event that they set."""
    ended = threading.Event()
    for number in SIGNALS:
        signal.signal(number, lambda *_: ended.set())
    return ended
