"""HTTP/1.1 to a target: one request at a time on a connection (RFC 9112).

Owns where an answer ends. httptools (llhttp) reads it; answers to HEAD and bodies that end with the
connection, which it cannot know of, are told apart here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httptools

from replaykit.replay.connection import Connection
from replaykit.replay.job import Answer, Job
from replaykit.wire import http1

if TYPE_CHECKING:
    from replaykit.replay.pool import Pool

_MAX_HEAD = 64 << 10


class Http1(Connection):
    """One answer is awaited at a time."""

    def __init__(self, pool: Pool, session: int | None) -> None:
        super().__init__(pool, session)
        self.job: Job | None = None
        self._keep = pool.sending.keep or pool.sending.redirects > 0
        self._most = pool.sending.max_answer_bytes
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._held = 0
        self._first = b""

    @property
    def busy(self) -> bool:
        return self.job is not None or self.transport is None

    def send(self, job: Job) -> None:
        assert self.transport is not None
        self.job = job
        self._first = b""
        data = job.request
        pool = self.pool
        job.sent_ns = now = time.monotonic_ns()
        pool.stats.sent += 1
        pool.stats.sent_bytes += len(data)
        if not job.due_ns:
            job.due_ns = now
        elif not job.tries:
            pool.stats.lag.add(now - job.due_ns)
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self.job is None:
            return self.abort("bytes that nobody asked for")
        self.pool.stats.received_bytes += len(data)
        if not self._first:
            self._first = data
        elif not self.job.head and b"\n\r\n" not in self._first and len(self._first) < _MAX_HEAD:
            self._first += data
        if self._keep and self._held < self._most:
            self._parts.append(data)
            self._held += len(data)
        if self.job.head:
            return self._headless(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._done(101, False)
        except httptools.HttpParserError:
            self.abort("an answer that is no HTTP")

    def on_message_complete(self) -> None:
        """The parser's: an answer has ended."""
        status = self._parser.get_status_code()
        if status >= 200:
            self._done(status, self._parser.should_keep_alive())

    def _headless(self, data: bytes) -> None:
        """An answer to HEAD ends with its head (RFC 9112 §6.3)."""
        if data is not self._first:
            self._first += data
        head = self._final_head()
        if isinstance(head, http1.Head):
            closes = b"\r\nconnection: close" in self._first.lower() or head.minor == 0
            self._done(head.status, not closes)
        elif head == "invalid" or len(self._first) > _MAX_HEAD:
            self.abort("an answer that is no HTTP")

    def _final_head(self) -> http1.Head | str:
        """The head of the answer; interim ones before it are passed over (RFC 9110 §15.2)."""
        head = http1.parse(self._first, False)
        while isinstance(head, http1.Head) and 100 <= head.status < 200:
            self._first = self._first[head.size :]
            head = http1.parse(self._first, False)
        return head

    def _done(self, status: int, keep_alive: bool) -> None:
        job, self.job = self.job, None
        if job is None:
            return
        payload = b""
        if self._keep:
            payload = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts, self._held = [], 0
        if not keep_alive:
            self.transport, transport = None, self.transport
            if transport is not None:
                transport.close()
        self.pool.answered(self, job, Answer(status, payload, time.monotonic_ns()))

    def waiting(self) -> list[Job]:
        job, self.job = self.job, None
        return [] if job is None else [job]

    def overdue(self, now_ns: int, limit_ns: int) -> bool:
        return self.job is not None and now_ns - self.job.sent_ns > limit_ns

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self.job is not None and self._ends_with_connection():
            head = self._final_head()
            assert isinstance(head, http1.Head)
            self._done(head.status, False)
        super().connection_lost(exc)

    def _ends_with_connection(self) -> bool:
        head = self._final_head()
        if not isinstance(head, http1.Head) or self.job is None or self.job.head:
            return False
        return isinstance(http1.response_body(head, b"GET"), http1.UntilClose)
