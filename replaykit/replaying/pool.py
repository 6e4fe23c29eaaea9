"""The connections to one target, and which request goes over which.

Owns the choice (any that is free, or the one of the recorded session), the bound on connections, time
limits, retries and redirects. It is open loop: what is submitted and cannot be sent at once waits
here, and its latency counts from when it was due.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Sequence

from replaykit.replaying import redirect
from replaykit.replaying.connection import Connection
from replaykit.replaying.http1 import Http1
from replaykit.replaying.http2 import Http2
from replaykit.replaying.job import Job, Response, Sending
from replaykit.replaying.stats import Stats
from replaykit.replaying.target import Target

_SWEEP_S = 0.05
_READY = 32
"""Connections opened before the first request, where any may be taken."""
_IDLE_NS = 60_000_000_000


class Pool:
    """Raises UsageError where the target's TLS cannot be set up."""

    def __init__(self, target: Target, sending: Sending, stats: Stats) -> None:
        self.target, self.sending, self.stats = target, sending, stats
        self.pending = 0
        self._loop = asyncio.get_running_loop()
        self._all: set[Connection] = set()
        self._free: list[Connection] = []
        self._opening = 0
        self._queue: deque[Job] = deque()
        self._lanes: dict[int, Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        protocols = ["h2"] if sending.http2 else ["http/1.1"]
        self._context = target.context(sending.verify, sending.ca, protocols)
        self._kind = Http2 if sending.http2 else Http1
        self._share = 100 if sending.http2 else 1
        self._changed = asyncio.Event()
        self._awaited = 0
        self._closed = False
        self._sweeper = self._loop.create_task(self._sweep())

    def prepare(self, sessions: Sequence[int]) -> None:
        """Opens connections for requests of these recorded sessions that will come soon."""
        if self.sending.sessions:
            for session in sessions:
                self._lane(session)
            return
        for _ in range(min(self.sending.connections, _READY, len(sessions))):
            self._open(None)

    def submit(self, job: Job) -> None:
        """Sends a request as soon as a connection can take it."""
        self.pending += 1
        self._submit(job)

    def _submit(self, job: Job) -> None:
        if self.sending.sessions:
            lane = self._lane(job.session)
            lane.queue.append(job)
            self._next(lane)
            return
        while self._free:
            connection = self._free[-1]
            if connection.transport is None or connection.busy:
                self._free.pop()
                continue
            connection.send(job)
            return
        self._queue.append(job)
        self._grow()

    def _lane(self, session: int) -> Connection:
        lane = self._lanes.get(session)
        if lane is None:
            if len(self._all) >= self.sending.connections:  # beyond the bound, sessions share
                shared = list(self._lanes.values())
                lane = shared[session % len(shared)]
            else:
                lane = self._open(session)
            self._lanes[session] = lane
        return lane

    def _grow(self) -> None:
        """Opens connections for what waits."""
        while (
            self._opening * self._share < len(self._queue)
            and len(self._all) < self.sending.connections
            and not self._closed
        ):
            self._open(None)

    def _open(self, session: int | None) -> Connection:
        connection = self._kind(self, session)
        self._all.add(connection)
        self._opening += 1
        task = self._loop.create_task(self._connect(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return connection

    async def _connect(self, connection: Connection) -> None:
        target = self.target
        try:
            async with asyncio.timeout(self.sending.connect_s):
                await self._loop.create_connection(
                    lambda: connection,
                    target.host,
                    target.port,
                    ssl=self._context,
                    server_hostname=target.host if self._context is not None else None,
                )
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self._opening -= 1
            self._refused(connection, _connect_kind(error))

    def _refused(self, connection: Connection, kind: str) -> None:
        """No connection came about: the request it was opened for failed."""
        self._forget(connection)
        waiting = connection.queue or self._queue
        for _ in range(self._share):
            if waiting:
                self._again_or_fail(waiting.popleft(), kind, nothing_sent=True)
        self._reopen(connection)

    def began(self, connection: Connection) -> None:
        """A connection's own word that there is one, before anything is sent."""
        own = self.sending.own
        if own is not None and connection.transport is not None:
            connection.end = connection.transport.get_extra_info("sockname")
            own.opened(connection.end)

    def ended(self, connection: Connection) -> None:
        """A connection's own word that its transport is closed."""
        if self.sending.own is not None:
            self.sending.own.closed(connection.end)

    def opened(self, connection: Connection) -> None:
        """A connection's own word that it can send."""
        self._opening -= 1
        self.stats.connections += 1
        connection.idle_since = time.monotonic_ns()
        self._next(connection)

    def _next(self, connection: Connection) -> None:
        """Gives a connection what it can send."""
        own, common = connection.queue, self._queue
        while not connection.busy:
            if own:
                connection.send(own.popleft())
            elif common:
                connection.send(common.popleft())
            else:
                if connection.session is None and connection not in self._free[-1:]:
                    self._free.append(connection)
                return

    def answered(self, connection: Connection, job: Job, response: Response) -> None:
        """A connection's word that a response is whole."""
        stats = self.stats
        stats.answered += 1
        stats.statuses[response.status] += 1
        again = None
        if self.sending.redirects > job.redirects and 300 <= response.status < 400:
            again = redirect.follow(job, response, self.target)
        if again is not None:
            stats.redirected += 1
            self._submit(again)
        else:
            stats.latency.add(response.done_ns - job.due_ns)
            self.pending -= 1
            if self.sending.heard is not None:
                self.sending.heard(job, response)
            if self.pending < self._awaited:
                self._changed.set()
        connection.idle_since = response.done_ns
        if connection.transport is None:
            self._forget(connection)
            self._reopen(connection)
        else:
            self._next(connection)

    def refused(self, connection: Connection, job: Job, kind: str) -> None:
        """One request failed, its connection goes on."""
        self._again_or_fail(job, kind, nothing_sent=False)
        self._next(connection)

    def lost(self, connection: Connection, jobs: list[Job], kind: str) -> None:
        """A connection's word that it is gone, and what was under way on it."""
        if connection not in self._all:
            for job in jobs:
                self._again_or_fail(job, kind, nothing_sent=False)
            return
        if not connection.ready:
            self._opening -= 1
            return self._refused(connection, kind)
        self._forget(connection)
        for job in jobs:
            self._again_or_fail(job, kind, nothing_sent=False)
        self._reopen(connection)

    def stale(self, connection: Connection, job: Job) -> None:
        """A connection was closed by the target before a byte of the response, after it had served others.

        The request goes over a new one, once, as curl and Go do it: on a new connection the same is an error.
        """
        self._forget(connection)
        if self._closed:
            self._again_or_fail(job, "closed by the target", nothing_sent=False)
            return
        self.stats.reopened += 1
        connection.queue.appendleft(job)
        self._reopen(connection)

    def _forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if connection.session is not None and self._lanes.get(connection.session) is connection:
            for session in [s for s, lane in self._lanes.items() if lane is connection]:
                del self._lanes[session]

    def _reopen(self, connection: Connection) -> None:
        """What waited for a connection that is gone waits for another."""
        if connection.queue and not self._closed:
            lane = self._open(connection.session)
            lane.queue = connection.queue
            for job in lane.queue if self.sending.sessions else ():
                self._lanes[job.session] = lane
        self._grow()

    def _again_or_fail(self, job: Job, kind: str, nothing_sent: bool) -> None:
        if job.tries < self.sending.retries and (nothing_sent or job.idempotent) and not self._closed:
            job.tries += 1
            self.stats.retried += 1
            # A little later each time, so that a target that starts is not stormed.
            self._loop.call_later(min(0.05 * 2**job.tries, 2.0), self._submit, job)
            return
        self.pending -= 1
        self.fail(job, kind, counted=True)

    def fail(self, job: Job, kind: str, counted: bool = False) -> None:
        """A request ends without a response."""
        if not counted:
            self.pending -= 1
        self.stats.errors[kind] += 1
        if self.sending.failed is not None:
            self.sending.failed(job, kind)
        self._changed.set()

    async def _sweep(self) -> None:
        """Ends what waits too long, and connections that nobody uses."""
        limit = int(self.sending.timeout_s * 1e9)
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.monotonic_ns()
            for connection in list(self._all):
                if connection.transport is None:
                    continue
                if connection.overdue(now, limit):
                    connection.abort("timeout")
                elif not connection.busy and not connection.queue and now - connection.idle_since > _IDLE_NS:
                    connection.abort("idle")

    async def below(self, count: int) -> None:
        """Waits until fewer requests than that are under way or waiting."""
        self._awaited = count
        while self.pending >= count:
            self._changed.clear()
            await self._changed.wait()
        self._awaited = 0

    async def close(self, grace_s: float | None = None) -> None:
        """Waits for what is under way, so long at most, and ends all connections."""
        if grace_s is None:
            grace_s = self.sending.timeout_s + self.sending.connect_s
        try:
            async with asyncio.timeout(grace_s):
                await self.below(1)
        except TimeoutError:
            self._closed = True
        self._closed = True
        self._sweeper.cancel()
        for connection in list(self._all):
            queued = list(connection.queue)
            connection.queue.clear()
            connection.abort("not answered when the replay ended")
            for job in queued:
                self.fail(job, "not sent when the replay ended")
        while self._queue:
            self.fail(self._queue.popleft(), "not sent when the replay ended")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, self._sweeper, return_exceptions=True)


def _connect_kind(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "connection timed out"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message.lower()}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"no connection: {text.lower()}"
