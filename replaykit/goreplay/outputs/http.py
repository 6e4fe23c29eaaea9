"""Requests to a target as they come; responses, if asked for, come back as messages of kind 3."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

from replaykit.goreplay.pipeline import Log, QueueStat
from replaykit.records.message import Builder, Message, Messages
from replaykit.replaying.job import Job, Response, Sending
from replaykit.replaying.outgoing import HEAD, NOT_SENT, TUNNEL, Aim, Outgoing, prepare
from replaykit.replaying.pool import Pool
from replaykit.replaying.stats import Stats
from replaykit.replaying.target import parse_target

Told = Callable[[Job, Response], None]


@dataclass(frozen=True)
class HttpSettings:
    """queue: requests under way or waiting before the pipeline waits. track: responses become messages.

    host: False keeps the recorded Host. buffer: a response's bytes beyond it are left out.
    """

    sending: Sending = field(default_factory=Sending)
    queue: int = 1000
    track: bool = False
    host: bool = True
    buffer: int = 100 << 10


class HttpOutput:
    """Also an input, of the responses. `told`: hears of every response, beside it."""

    ruled = True
    measured = False

    def __init__(self, url: str, settings: HttpSettings, log: Log, told: Told | None = None) -> None:
        self.target = parse_target(url)
        self.name = f"http {self.target.scheme}://{self.target.authority}"
        self.stats = Stats()
        self._settings, self._log, self._told = settings, log, told
        # A URL with a path or query takes the place of every recorded one, as GoReplay does it.
        path = f"{self.target.path or '/'}{'?' + self.target.query if self.target.query else ''}"
        fixed = path.encode() if self.target.path or self.target.query else None
        self._aim = Aim(self.target.authority.encode() if settings.host else None, b"", fixed)
        self._pool: Pool | None = None
        self._whole: Messages | None = None
        self._batch: Outgoing | None = None
        self._responses: asyncio.Queue[Message | None] = asyncio.Queue()
        self.queue = QueueStat()
        # Read once here, so that what is wrong with it is said at start.
        self.target.context(settings.sending.verify, settings.sending.ca, [])

    @property
    def lost(self) -> int:
        skipped = sum(n for why, n in self.stats.skipped.items() if why != NOT_SENT[TUNNEL])
        return sum(self.stats.errors.values()) + skipped

    def _open(self) -> Pool:
        heard = self._heard if self._settings.track or self._told is not None else None
        keep = heard is not None
        sending = replace(
            self._settings.sending,
            keep=keep,
            heard=heard,
            failed=self._failed,
            max_answer_bytes=max(self._settings.buffer, 64 << 10),
        )
        return Pool(self.target, sending, self.stats)

    async def write(self, messages: Messages) -> None:
        if self._pool is None:
            self._pool = self._open()
        whole = messages.whole or messages
        if whole is not self._whole or self._batch is None:
            self._whole, self._batch = whole, prepare(whole, self._aim)
        batch, pool = self._batch, self._pool
        for row in range(messages.begin, messages.begin + len(messages)):
            what = batch.what[row]
            if what >= HEAD:
                pool.submit(Job(batch, row, time.monotonic_ns()))
                self.queue.note(pool.pending)
                if pool.pending >= self._settings.queue:
                    await pool.below(self._settings.queue)
                beyond = batch.beyond[row]
                if beyond:
                    self._beyond(beyond)
            elif what in NOT_SENT:
                self.stats.skipped[NOT_SENT[what]] += 1

    def _beyond(self, count: int) -> None:
        self.stats.beyond += 1
        self.stats.beyond_bytes += count
        if self.stats.beyond in (1, 10, 100) or self.stats.beyond % 1000 == 0:
            self._log(
                0,
                f"{self.name}: bytes beyond the request of a record are not sent "
                f"({self.stats.beyond} records, {self.stats.beyond_bytes} bytes)",
            )

    def _failed(self, job: Job, kind: str) -> None:
        count = self.stats.errors[kind]
        if count in (1, 10, 100) or count % 1000 == 0:
            self._log(0 if count == 1 else 1, f"{self.name}: {kind} ({count} times)")

    def _heard(self, job: Job, response: Response) -> None:
        if self._told is not None:
            self._told(job, response)
        if self._settings.track:
            took = response.done_ns - job.sent_ns
            begun = time.time_ns() - took
            identifier = job.batch.id(job.row).decode("latin-1")
            payload = response.payload[: self._settings.buffer]
            self._responses.put_nowait(Message(3, identifier, begun, took, payload))

    def stop(self) -> None:
        """As an input: no more responses are waited for."""
        self._responses.put_nowait(None)

    async def batches(self) -> AsyncIterator[Messages]:
        while (message := await self._responses.get()) is not None:
            out, last = Builder(), False
            out.push(message)
            while not self._responses.empty() and len(out) < 1000:
                following = self._responses.get_nowait()
                if following is None:
                    last = True
                    break
                out.push(following)
            yield out.messages()
            if last:
                return

    async def drain(self) -> None:
        """Waits for what is under way."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.close()
        self._batch = self._whole = None

    async def close(self) -> None:
        await self.drain()
