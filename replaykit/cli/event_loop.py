"""The event loop of the commands that serve, relay or replay."""

from __future__ import annotations

import asyncio
import os


def event_loops() -> asyncio.Runner:
    """A runner of the fast event loop."""
    os.environ.setdefault("UV_USE_IO_URING", "0")  # by it epoll_ctl costs a relay a fifth of its CPU
    import uvloop

    return asyncio.Runner(loop_factory=uvloop.new_event_loop)
