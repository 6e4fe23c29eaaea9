"""A worker of a live capture: the thread that reads rings into an engine.

Owns the engine while it runs, and the order of ending: stop the kernel, read what is in the rings, finish the
engine.
"""

from __future__ import annotations

import queue
import select
import threading
import time
from dataclasses import dataclass

import pyarrow as pa

from replaykit.capturing import bpf
from replaykit.capturing.mirror import Mirror
from replaykit.capturing.ring import RETIRE_MS, Ring
from replaykit.engine.engine import Engine
from replaykit.records.increment import movements, plain
from replaykit.records.message import Messages

Source = Ring | Mirror

FLUSH_S = 0.5
ROWS = 32_768
MESSAGE_BYTES = 1 << 20
"""So many go to the outputs at once: buffers that stay in the cache."""


@dataclass
class Result:
    """What a worker hands over."""

    exchanges: pa.RecordBatch | None = None
    messages: Messages | None = None
    moved: pa.RecordBatch | None = None
    """With exchanges: all that moved, see `records.increment.movements`."""
    in_flight: tuple[int, pa.RecordBatch] | None = None
    """A worker's number, and its exchanges in flight with all that they have moved."""


class Worker(threading.Thread):
    """Reads its rings into its engine and puts the results into the queue."""

    def __init__(
        self,
        number: int,
        rings: list[Source],
        engine: Engine,
        results: queue.Queue[Result],
        messages: bool,
        slice_s: float,
        in_flight: bool,
    ) -> None:
        super().__init__(daemon=True)
        self._number, self._slice_s, self._in_flight = number, slice_s, in_flight
        self._looked = time.monotonic()
        self._rings, self.engine, self._results, self._messages = rings, engine, results, messages
        self.sources = len(rings)
        self._stopping = threading.Event()
        self.error: BaseException | None = None
        self.cpu_s = 0.0
        self.account = engine.account()
        """The engines' account at the last flush; the engine itself belongs to this thread."""
        self._ended: dict[str, int] = {}
        self._next: queue.SimpleQueue[tuple[Engine, list[list[bpf.Instruction]]]] = queue.SimpleQueue()

    def stop(self) -> None:
        self._stopping.set()

    def change(self, engine: Engine, programs: list[list[bpf.Instruction]]) -> None:
        """Goes on with another engine, and another filter on each ring."""
        self._next.put((engine, programs))

    def _changed(self) -> None:
        """What the old filter let in is read by the old engine; exchanges it had not finished are
        incomplete.
        """
        engine, programs = self._next.get()
        for ring, program in zip(self._rings, programs, strict=True):
            ring.attach(program)
        self._read()
        self.engine.finish()
        self._flush()
        self._ended = _sum(self._ended, self.engine.account())
        self.engine = engine
        self._flush()

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:
            self.error = error

    def _run(self) -> None:
        poll = select.poll()
        for ring in self._rings:
            poll.register(ring, select.POLLIN)
        flushed = time.monotonic()
        while not self._stopping.is_set():
            if not self._read():
                poll.poll(RETIRE_MS)
            if not self._next.empty():
                self._changed()
            now = time.monotonic()
            if self.engine.message_bytes > MESSAGE_BYTES:
                self._take_messages()
            if now - flushed >= FLUSH_S or self.engine.rows >= ROWS:
                self.engine.advance(time.time_ns())
                self._flush()
                flushed = now
        for ring in self._rings:
            ring.stop()
        # The block being filled is handed over when it retires.
        deadline = time.monotonic() + 3 * RETIRE_MS / 1000
        while time.monotonic() < deadline:
            if not self._read():
                poll.poll(RETIRE_MS // 2)
        self.engine.finish()
        self._flush()

    def _read(self) -> int:
        packets = 0
        for ring in self._rings:
            for count in ring.feed(self.engine):
                packets += count
                if self.engine.rows >= ROWS:
                    self._flush()
        return packets

    def _flush(self) -> None:
        self.account = _sum(self._ended, self.engine.account())
        self.cpu_s = time.thread_time()
        if self.engine.rows or self.engine.increments:
            exchanges = self.engine.take_exchanges()
            if self._slice_s:
                increments = self.engine.take_increments() if self.engine.increments else None
                self._results.put(Result(plain(exchanges), moved=movements(exchanges, increments)))
            else:
                self._results.put(Result(exchanges))
        if self._in_flight and time.monotonic() - self._looked >= self._slice_s:
            self._looked = time.monotonic()
            self._results.put(Result(in_flight=(self._number, self.engine.in_flight())))
        self._take_messages()

    def _take_messages(self) -> None:
        while self._messages and self.engine.message_bytes:
            self._results.put(Result(messages=self.engine.take_messages()))


def _sum(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + count for name, count in other.items()}
