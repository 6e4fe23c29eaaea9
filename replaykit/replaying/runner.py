"""A replay from files to a target, whole: reading, pacing, sending, comparing.

Owns the loop that turns due times into requests. Reading runs in another thread, one batch ahead.
"""

from __future__ import annotations

import asyncio
import bisect
import gc
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from replaykit.records.message import Builder, Message, Messages
from replaykit.replaying.clock import Clock
from replaykit.replaying.compare import Comparison, Numbers, Side
from replaykit.replaying.job import Job, Response, Sending
from replaykit.replaying.outgoing import HEAD, IDEMPOTENT, NOT_SENT, Aim, Outgoing, prepare
from replaykit.replaying.pace import AnyPace, Flat
from replaykit.replaying.pool import Pool
from replaykit.replaying.stats import Stats
from replaykit.replaying.target import Target

_CHUNK = 1024
_GRACE_S = 5.0
"""So long an interrupted replay waits for responses."""
_LEAD_NS = 100_000_000
"""Between the first batch and the first request: connections are opened meanwhile."""
AT_ONCE = 256
"""Requests sent before the loop looks at responses again, where many are overdue."""

Source = Callable[[], Iterator[Messages]]


@dataclass
class Plan:
    """source: gives the messages anew at each call. methods: False sends idempotent ones only.

    saved: is given what was sent and answered.
    """

    target: Target
    source: Source
    aim: Aim
    pace: AnyPace = field(default_factory=Flat)
    sending: Sending = field(default_factory=Sending)
    methods: bool = True
    loops: int | None = 1
    most: int | None = None
    duration_s: float | None = None
    comparison: Comparison | None = None
    saved: Callable[[Messages], None] | None = None


class Replay:
    """`stats` may be read meanwhile; `stop` ends it early, in order."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.stats = Stats()
        self.begun_ns = 0
        self.ended_ns = 0
        self._origin_ns = 0
        """When the schedule begins."""
        self._stopping = asyncio.Event()
        self.interrupted = False
        self.unsent = 0
        """Requests that an interruption kept back; a part of them where not all was read any more."""
        self.unsent_known = True
        self._submitted = 0
        self._asked, self._answered = Numbers(), Numbers()
        self._left = plan.most
        self._saving = Builder()

    def stop(self) -> None:
        self.interrupted = True
        self._stopping.set()

    @property
    def seconds(self) -> float:
        return ((self.ended_ns or time.monotonic_ns()) - self.begun_ns) / 1e9

    async def run(self) -> Stats:
        """Sends everything and waits for the responses. Raises UsageError."""
        plan = self.plan
        sending = plan.sending
        if plan.comparison is not None or plan.saved is not None:
            sending = replace(sending, keep=True, heard=self._heard)
        gc.freeze()  # what is there stays; looking through it again would delay what is due
        gc.set_threshold(50_000, 20, 100)
        pool = Pool(plan.target, sending, self.stats)
        clock = Clock()
        self.begun_ns = time.monotonic_ns()
        if plan.duration_s is not None:
            asyncio.get_running_loop().call_later(plan.duration_s, self._stopping.set)
        try:
            loops = 0
            while not self._stopping.is_set() and (plan.loops is None or loops < plan.loops):
                before = self.stats.sent + pool.pending
                await self._once(pool, clock)
                plan.pace.again()
                loops += 1
                if self.stats.sent + pool.pending == before:
                    break  # nothing to send: another round would not find more
        finally:
            await pool.close(_GRACE_S if self.interrupted else None)
            clock.close()
            self.ended_ns = time.monotonic_ns()
            self._save(last=True)
        if plan.comparison is not None:
            plan.comparison.finish()
        return self.stats

    async def _once(self, pool: Pool, clock: Clock) -> None:
        loop = asyncio.get_running_loop()
        source = self.plan.source()
        ahead = loop.run_in_executor(None, self._read, source)
        while (read := await ahead) is not None:
            messages, batch = read
            ahead = loop.run_in_executor(None, self._read, source)
            rows, submitted = self._rows(batch), self._submitted
            if not self._origin_ns:
                self._origin_ns = time.monotonic_ns() + (0 if isinstance(self.plan.pace, Flat) else _LEAD_NS)
                pool.prepare([batch.session[row] for row in rows[:_CHUNK]])
            if self.plan.comparison is not None:
                self._remember(messages, self.plan.comparison)
                numbers = self._asked
                batch = replace(
                    batch,
                    names=[
                        numbers.next(batch.id(row)) if what else b"" for row, what in enumerate(batch.what)
                    ],
                )
            await self._send(pool, clock, batch, rows)
            if self._stopping.is_set():
                await self._count_unsent(len(rows) - (self._submitted - submitted), ahead, source)
                return

    async def _count_unsent(
        self, here: int, ahead: asyncio.Future[tuple[Messages, Outgoing] | None], source: Iterator[Messages]
    ) -> None:
        """After an interruption: what of this round is not sent. Reading on is given a few seconds."""
        deadline = time.monotonic() + _GRACE_S
        left = self._left
        read = await ahead
        if not self.interrupted:
            return
        self.unsent += here
        most = 99 if self.plan.methods else IDEMPOTENT
        loop = asyncio.get_running_loop()
        while read is not None:
            self.unsent += sum(HEAD <= what <= most for what in read[1].what)
            if time.monotonic() > deadline:
                self.unsent_known = False
                break
            read = await loop.run_in_executor(None, self._read, source)
        if left is not None:
            self.unsent = min(self.unsent, here + left)

    def _read(self, source: Iterator[Messages]) -> tuple[Messages, Outgoing] | None:
        for messages in source:
            return messages, prepare(messages, self.plan.aim)
        return None

    def _rows(self, batch: Outgoing) -> list[int]:
        """The rows to send; the others are counted."""
        highest = len(batch.what) and max(batch.what)
        most = 99 if self.plan.methods else IDEMPOTENT
        rows = [row for row, what in enumerate(batch.what) if HEAD <= what <= most]
        skipped = self.stats.skipped
        if len(rows) < len(batch.what):
            for what in batch.what:
                if what in NOT_SENT:
                    skipped[NOT_SENT[what]] += 1
                elif what > most:
                    skipped["method is not idempotent"] += 1
        if any(batch.beyond):
            self.stats.beyond_bytes += sum(batch.beyond[row] for row in rows)
            self.stats.beyond += sum(batch.beyond[row] > 0 for row in rows)
        if self._left is not None and highest:
            rows = rows[: self._left]
            self._left -= len(rows)
            if not self._left:
                self._stopping.set()
        return rows

    async def _send(self, pool: Pool, clock: Clock, batch: Outgoing, rows: list[int]) -> None:
        for at in range(0, len(rows), _CHUNK):
            await self._send_some(pool, clock, batch, rows[at : at + _CHUNK])

    async def _send_some(self, pool: Pool, clock: Clock, batch: Outgoing, rows: list[int]) -> None:
        times = batch.time_ns
        due = self.plan.pace.due([times[row] for row in rows])
        limited = self._left == 0
        if due is None:
            bound = pool.sending.connections + 2 * AT_ONCE
            for at in range(0, len(rows), AT_ONCE):
                if self._stopping.is_set() and not limited:
                    return
                for row in rows[at : at + AT_ONCE]:
                    pool.submit(Job(batch, row, 0))
                    self._submitted += 1
                if pool.pending >= bound:
                    await pool.below(bound - AT_ONCE)
                else:
                    await asyncio.sleep(0)
            return
        at, begun = 0, self._origin_ns
        while at < len(rows):
            if self._stopping.is_set() and not limited:
                return
            now = time.monotonic_ns() - begun
            end = bisect.bisect_right(due, now, at, min(at + AT_ONCE, len(rows)))
            if end == at:
                await self._wait(clock, begun + due[at])
                continue
            for i in range(at, end):
                pool.submit(Job(batch, rows[i], begun + due[i]))
                self._submitted += 1
            at = end
            await asyncio.sleep(0)

    async def _wait(self, clock: Clock, when_ns: int) -> None:
        """Until it is time; looks up now and then, so that a long pause can be interrupted."""
        while not self._stopping.is_set():
            now = time.monotonic_ns()
            if now >= when_ns:
                return
            await clock.until(min(when_ns, now + 200_000_000))

    def _heard(self, job: Job, response: Response) -> None:
        identifier, request = job.batch.id(job.row), bytes(job.request)
        if self.plan.comparison is not None:
            latency = response.done_ns - job.sent_ns
            self.plan.comparison.replayed(job.batch.name(job.row), Side(response.payload, latency, request))
        if self.plan.saved is not None:
            text = identifier.decode("latin-1")
            now = time.time_ns()
            sent, done = now - (response.done_ns - job.sent_ns), now
            self._saving.push(Message(1, text, sent, 0, request))
            self._saving.push(Message(2, text, done, 0, response.payload))
            self._save(last=False)

    def _save(self, last: bool) -> None:
        if self.plan.saved is not None and (last or len(self._saving.gor) > 4 << 20):
            if len(self._saving):
                self.plan.saved(self._saving.messages())
            self._saving = Builder()

    def _remember(self, messages: Messages, comparison: Comparison) -> None:
        """The recorded responses of a batch; how long they took is told by their request's time."""
        asked: dict[str, deque[int]] = {}
        for m in messages:
            if m.kind == 1:
                asked.setdefault(m.id, deque()).append(m.time_ns)
            elif m.kind == 2:
                begun = asked.get(m.id)
                latency = m.time_ns + m.latency_ns - begun.popleft() if begun else None
                name = self._answered.next(m.id.encode("latin-1", "replace"))
                comparison.recorded(name, Side(m.payload, latency))
