"""Waiting to the microsecond inside an event loop.

uvloop's own timers count milliseconds; a timer descriptor of the kernel (timerfd_create(2)) wakes the
loop when it is time.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import time

_SPIN_NS = 300_000
"""The last of a wait is spent looking at the clock: a core that sleeps may wake milliseconds late, in a
virtual machine above all."""

_MONOTONIC, _NONBLOCK, _CLOEXEC, _ABSOLUTE = 1, 0o4000, 0o2000000, 1


class Clock:
    """Times in ns of CLOCK_MONOTONIC. One waiter at a time."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(_MONOTONIC, _NONBLOCK | _CLOEXEC)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._loop.add_reader(self._fd, self._fired)

    def _fired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def until(self, when_ns: int) -> None:
        """Returns at that time, or at once where it has passed."""
        if when_ns - time.monotonic_ns() > _SPIN_NS:
            await self._sleep(when_ns - _SPIN_NS)
        await asyncio.sleep(0)
        while time.monotonic_ns() < when_ns:
            await asyncio.sleep(0)

    async def _sleep(self, when_ns: int) -> None:
        self._waiter = self._loop.create_future()
        seconds, ns = divmod(when_ns, 1_000_000_000)
        setting = struct.pack("4q", 0, 0, seconds, ns)
        if self._libc.timerfd_settime(self._fd, _ABSOLUTE, setting, None):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        await self._waiter

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
