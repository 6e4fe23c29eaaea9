"""The loop over a live capture: what it gives, in order, until it is told to stop; and its end, in order."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Generator

from replaykit.capturing.live import Capture, Result


def results(
    capture: Capture, stopping: Callable[[], bool], duration_s: float | None = None, wait_s: float = 0.1
) -> Generator[Result | None]:
    """Starts the capture and gives its results; None: nothing just now, after `wait_s` at the latest.

    stopping: asked between results. duration_s: ends by itself after so long. When it ends, by itself or
    because its reader left, all workers have ended.
    """
    capture.start()
    until = None if duration_s is None else time.monotonic() + duration_s
    return _results(capture, stopping, until, wait_s)


def _results(
    capture: Capture, stopping: Callable[[], bool], until: float | None, wait_s: float
) -> Generator[Result | None]:
    stopped = False
    try:
        while True:
            running = capture.running  # before the queue is read, so that nothing is left in it
            if not stopped and (stopping() or (until is not None and time.monotonic() >= until)):
                capture.stop()
                stopped = True
            found = _next(capture, wait_s)
            if found is None and not running:
                return
            yield found
    finally:
        _end(capture)


def _next(capture: Capture, wait_s: float) -> Result | None:
    try:
        return capture.results.get(timeout=wait_s)
    except queue.Empty:
        return None


def _end(capture: Capture) -> None:
    """Workers that wait for room in the queue can end."""
    capture.stop()
    while capture.running:
        _next(capture, 0.05)
