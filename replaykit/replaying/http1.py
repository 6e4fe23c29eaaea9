"""HTTP/1.1 to a target: one request at a time on a connection (RFC 9112)."""

from __future__ import annotations

import time

from replaykit.replaying.connection import Connection, Owner
from replaykit.replaying.job import Job, Response
from replaykit.replaying.response import INVALID, MORE, open_responses


class Http1(Connection):
    """One response is awaited at a time."""

    def __init__(self, pool: Owner, session: int | None) -> None:
        super().__init__(pool, session)
        self.job: Job | None = None
        self._keep = pool.sending.keep or pool.sending.redirects > 0
        self._most = pool.sending.max_answer_bytes
        self._responses = open_responses()
        self._parts: list[bytes] = []
        self._held = 0
        self._heard = False
        """A byte has come since the request was sent."""
        self._used = False
        """A response has come over this connection."""

    @property
    def busy(self) -> bool:
        return self.job is not None or self.transport is None

    def send(self, job: Job) -> None:
        assert self.transport is not None
        self.job = job
        self._heard = False
        self._responses.begin(job.head)
        data = job.request
        pool = self.pool
        job.sent_ns = now = time.monotonic_ns()
        pool.stats.wrote(now, len(data))
        if not job.due_ns:
            job.due_ns = now
        elif not job.tries:
            pool.stats.lag.add(now - job.due_ns)
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self.job is None:
            return self.abort("bytes that nobody asked for")
        self._heard = True
        self.pool.stats.received_bytes += len(data)
        found = self._responses.feed(data)
        if found == INVALID:
            return self.abort("a response that is no HTTP")
        over = found != MORE and self._responses.used < len(data)
        if self._keep and self._held < self._most:
            part = data[: self._responses.used] if over else data
            self._parts.append(part)
            self._held += len(part)
        if found != MORE:
            # What follows the response would be taken for the next one's beginning.
            self._done(found, self._responses.keep and not over)

    def _done(self, status: int, keep_alive: bool) -> None:
        job, self.job = self.job, None
        if job is None:
            return
        self._used = True
        payload = b""
        if self._keep:
            payload = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts, self._held = [], 0
        if not keep_alive:
            self.transport, transport = None, self.transport
            if transport is not None:
                transport.close()
        self.pool.answered(self, job, Response(status, payload, time.monotonic_ns()))

    def waiting(self) -> list[Job]:
        job, self.job = self.job, None
        return [] if job is None else [job]

    def overdue(self, now_ns: int, limit_ns: int) -> bool:
        return self.job is not None and now_ns - self.job.sent_ns > limit_ns

    def connection_lost(self, exc: Exception | None) -> None:
        if self.job is not None and self._used and not self._heard:
            # Closed while idle: the request crossed the close, which says nothing about the request.
            job, self.job, self.transport = self.job, None, None
            self.pool.ended(self)
            return self.pool.stale(self, job)
        if exc is None and self.job is not None and (status := self._responses.end()):
            self._done(status, False)
        super().connection_lost(exc)
