"""Who uses the bandwidth, of the messages that pass: JSON lines beside GoReplay's own text."""

from __future__ import annotations

import asyncio
import time
from typing import TextIO

from replaykit.attribution.summary import Summary
from replaykit.report.render import stats_line
from replaykit.wire.engine import Choice, open_engine
from replaykit.wire.message import Messages
from replaykit.wire.options import Options


class StatsOutput:
    """A line every `every_s`, and one at the end."""

    name = "stats"

    def __init__(self, to: TextIO, every_s: float = 5.0, top: int = 10, choice: Choice = "auto") -> None:
        self.lost = 0
        self._to, self._every, self._top = to, every_s, top
        self._engine = open_engine(Options(), choice)
        self._summary = Summary(("path",))
        self._begun = time.monotonic()
        self._teller: asyncio.Task[None] | None = None

    async def write(self, messages: Messages) -> None:
        if self._teller is None:
            self._teller = asyncio.create_task(self._tell_now_and_then())
        self._engine.feed_messages(messages)
        if self._engine.rows:
            self._summary.add(self._engine.take_exchanges())

    async def _tell_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            self.tell()

    def tell(self) -> None:
        extra = {"time": time.time(), "seconds": round(time.monotonic() - self._begun, 3)}
        print(stats_line(self._summary, self._top, extra), file=self._to, flush=True)

    async def close(self) -> None:
        if self._teller is not None:
            self._teller.cancel()
        self._engine.finish()
        if self._engine.rows:
            self._summary.add(self._engine.take_exchanges())
        self.tell()
