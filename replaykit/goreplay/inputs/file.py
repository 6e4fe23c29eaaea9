"""Recorded files as input, at their own pace or a factor of it; or only looked through."""

from __future__ import annotations

import asyncio
import bisect
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from replaykit.engine.rewriting import Rules
from replaykit.goreplay.pipeline import Log
from replaykit.records.message import Messages
from replaykit.replaying.clock import Clock
from replaykit.replaying.pace import Recorded
from replaykit.replaying.reading import Read, names, read_files

_ROWS = 1024


@dataclass
class FileInput:
    """pattern: a glob, an S3 prefix. speed: 2.0 is twice as fast. Raises UsageError."""

    pattern: str
    log: Log
    speed: float = 1.0
    loop: bool = False
    depth: int = 100
    max_wait_s: float | None = None
    rules: Rules = field(default_factory=Rules)
    ruled: bool = True
    measured: bool = False

    def __post_init__(self) -> None:
        self.name = f"file {self.pattern}"
        self.read = Read()
        self._stopped = False
        names(self.pattern)

    def stop(self) -> None:
        self._stopped = True

    def _read(self) -> Iterator[Messages]:
        rules = self.rules if self.ruled else Rules()
        return read_files(
            [self.pattern],
            rules,
            depth=self.depth,
            read=self.read,
            wanted=lambda: not self._stopped,
        )

    async def batches(self) -> AsyncIterator[Messages]:
        loop = asyncio.get_running_loop()
        clock = Clock()
        most = None if not self.max_wait_s else int(self.max_wait_s * 1e9)
        pace = Recorded(self.speed, most)
        begun = time.monotonic_ns()
        try:
            while True:
                found, source = False, self._read()
                ahead = loop.run_in_executor(None, next, source, None)
                while (messages := await ahead) is not None:
                    ahead = loop.run_in_executor(None, next, source, None)
                    found = found or len(messages) > 0
                    async for part in self._paced(messages, pace, clock, begun):
                        yield part
                for trouble in self.read.troubles:
                    self.log(0, trouble)
                if not self.loop or not found or self._stopped:
                    return
                pace.again()
        finally:
            clock.close()

    async def _paced(
        self, messages: Messages, pace: Recorded, clock: Clock, begun: int
    ) -> AsyncIterator[Messages]:
        """Parts of the batch, each when it is due."""
        times = messages.index["time_ns"].tolist()
        for first in range(0, len(times), _ROWS):
            due = pace.due(times[first : first + _ROWS]) or []
            at = 0
            while at < len(due) and not self._stopped:
                now = time.monotonic_ns() - begun
                end = bisect.bisect_right(due, now, at)
                if end == at:
                    await clock.until(min(begun + due[at], time.monotonic_ns() + 100_000_000))
                    continue
                yield messages.part(first + at, first + end)
                at = end


def dry_run(pattern: str, speed: float, max_wait_s: float | None, depth: int) -> str:
    """What replaying would take, in GoReplay's words. Raises UsageError."""
    read, last = Read(), None
    total = longest = 0.0
    shortest = first = None
    for messages in read_files([pattern], depth=depth, read=read):
        for at in messages.index["time_ns"].tolist():
            if last is not None:
                wait = max(at - last, 0) / speed
                wait = min(wait, max_wait_s * 1e9) if max_wait_s else wait
                first = wait if first is None else first
                total, longest = total + wait, max(longest, wait)
                shortest = wait if shortest is None else min(shortest, wait)
            last = at
    troubles = "".join(f"{trouble}\n" for trouble in read.troubles)
    return (
        f"Records found: {read.counts.records}\nFiles processed: {read.files}\n"
        f"Bytes processed: {read.bytes}\nMax wait: {_go(longest)}\nMin wait: {_go(shortest or 0)}\n"
        f"First wait: {_go(first or 0)}\nIt will take `{_go(total)}` to replay at current speed.\n"
        f"Found {read.counts.disordered} records with out of order timestamp\n{troubles}"
    )


def _go(ns: float) -> str:
    """A duration as Go writes it: 1m2.5s, 300ms, 0s."""
    if ns < 1:
        return "0s"
    for unit, factor in (("ns", 1.0), ("µs", 1e3), ("ms", 1e6)):
        if ns < factor * 1000:
            return f"{ns / factor:.6f}".rstrip("0").rstrip(".") + unit
    minutes, seconds = divmod(ns / 1e9, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"
    return (f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else "") + text
