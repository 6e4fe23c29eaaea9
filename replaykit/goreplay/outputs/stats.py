"""Who uses the bandwidth, as JSON lines: of what is captured, both directions, and of other inputs'
messages.
"""

from __future__ import annotations

import asyncio
import time
from typing import TextIO

import pyarrow as pa

from replaykit.attribution.summary import Summary
from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from replaykit.plain import discard_output, say
from replaykit.records.message import Messages
from replaykit.reporting.render import stats_line


class StatsOutput:
    """A line every `every_s`, and one at the end."""

    name = "stats"

    def __init__(self, to: TextIO, every_s: float = 5.0, top: int = 10) -> None:
        self.lost = 0
        self._to, self._every, self._top = to, every_s, top
        self._engine = Engine(Options())
        self._summary = Summary(("path",))
        self._begun = time.monotonic()
        self._teller: asyncio.Task[None] | None = None
        self._responses = False
        self._gone = False

    def start(self) -> None:
        """A line now and then from here on."""
        self._teller = asyncio.create_task(self._tell_now_and_then())

    async def write(self, messages: Messages) -> None:
        self._responses = self._responses or 2 in messages.index["kind"].tolist()
        self._engine.feed_messages(messages)
        self._take()

    def measured(self, exchanges: pa.RecordBatch) -> None:
        """What an input has measured itself."""
        self._summary.add(exchanges)

    def _take(self) -> None:
        if self._engine.rows:
            self._summary.add(self._engine.take_exchanges())

    async def _tell_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            self.tell()

    def tell(self) -> None:
        if not self._responses:  # requests alone: none of them waits for a response
            self._engine.finish()
            self._take()
        if self._gone:
            return
        extra = {"time": time.time(), "seconds": round(time.monotonic() - self._begun, 3)}
        try:
            print(stats_line(self._summary, self._top, extra), file=self._to, flush=True)
        except OSError as error:
            self._gone = True
            discard_output()
            if not isinstance(error, BrokenPipeError):
                say(f"--stats: standard output cannot be written: {(error.strerror or str(error)).lower()}")

    async def close(self) -> None:
        if self._teller is not None:
            self._teller.cancel()
        self._engine.finish()
        self._take()
        self.tell()
