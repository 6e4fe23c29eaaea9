"""A token bucket that many connections share fairly, and whose rate may change while they run.

Owns time and turns: who finds it empty waits in a queue, and every TICK_S each in the queue gets as much of
what has run in as the others. A rate of one byte a second works as one of a gigabyte does; nobody waits for
more than fits in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

TICK_S = 0.02
BURST_S = 0.1


class Bucket:
    """rate: bytes a second; None: without limit. Not for use from other threads."""

    def __init__(self, rate: int | None = None) -> None:
        self._rate = rate
        self._tokens = 0.0 if rate is None else rate * BURST_S
        self._at = 0.0
        self._waiting: deque[Callable[[], None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def rate(self) -> int | None:
        return self._rate

    @rate.setter
    def rate(self, rate: int | None) -> None:
        self._refill()
        if rate is not None:
            self._tokens = min(self._tokens, max(1.0, rate * BURST_S)) if self._rate is not None else 0.0
        self._rate = rate
        if rate is None:
            waiting, self._waiting = self._waiting, deque()
            for resume in waiting:
                resume()

    def allowed(self, want: int) -> int:
        """So many bytes may move now; 0: none, call `wait`."""
        if self._rate is None:
            return want
        self._refill()
        # While others wait, each gets its part.
        share = (
            self._tokens
            if not self._waiting
            else min(self._tokens, max(1.0, self._tokens / len(self._waiting)))
        )
        return min(want, int(share))

    def spend(self, count: int) -> None:
        if self._rate is not None:
            self._tokens -= count

    def wait(self, resume: Callable[[], None]) -> None:
        """Calls back once, when there is something again."""
        self._waiting.append(resume)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._refill()
        turns = len(self._waiting)
        while turns and self._waiting and (self._rate is None or self._tokens >= 1):
            turns -= 1
            self._waiting.popleft()()
        if self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _refill(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._rate is not None and self._at:
            self._tokens = min(self._tokens + (now - self._at) * self._rate, max(1.0, self._rate * BURST_S))
        self._at = now
