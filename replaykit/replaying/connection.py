"""What every connection to a target is, whatever it speaks."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol, cast

from replaykit.replaying.job import Job, Response, Sending
from replaykit.replaying.stats import Stats
from replaykit.replaying.target import Target


class Owner(Protocol):
    """Whose connections they are: told of each turn that one takes."""

    target: Target
    sending: Sending
    stats: Stats

    def began(self, connection: Connection) -> None:
        """There is one, before anything is sent."""

    def opened(self, connection: Connection) -> None:
        """It can send."""

    def ended(self, connection: Connection) -> None:
        """Its transport is closed."""

    def answered(self, connection: Connection, job: Job, response: Response) -> None:
        """A response was read."""

    def refused(self, connection: Connection, job: Job, kind: str) -> None:
        """A request failed, and the connection goes on."""

    def lost(self, connection: Connection, jobs: list[Job], kind: str) -> None:
        """It broke, with these requests on it."""

    def stale(self, connection: Connection, job: Job) -> None:
        """The target had closed it while it was idle."""

    def fail(self, job: Job, kind: str, counted: bool = False) -> None:
        """A request cannot be sent."""


class Connection(asyncio.Protocol):
    """One connection: requests wait in `queue` until they may be sent.

    Owns its life: who opened it is told when it can take more and when it is gone.
    """

    def __init__(self, pool: Owner, session: int | None) -> None:
        self.pool = pool
        self.session = session
        self.queue: deque[Job] = deque()
        self.transport: asyncio.Transport | None = None
        self.idle_since = 0
        self.end: object = None
        """Our address and port."""
        self.ready = False
        """It has been able to send."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.pool.began(self)
        self._opened()

    def _opened(self) -> None:
        self.ready = True
        self.pool.opened(self)

    @property
    def busy(self) -> bool:
        """No further request can be sent now."""
        raise NotImplementedError

    def send(self, job: Job) -> None:
        """Sends a request, now."""
        raise NotImplementedError

    def waiting(self) -> list[Job]:
        """Requests without response; they are forgotten here."""
        raise NotImplementedError

    def overdue(self, now_ns: int, limit_ns: int) -> bool:
        """A request waits for its response since longer."""
        raise NotImplementedError

    def abort(self, kind: str) -> None:
        """Ends the connection; what waits for a response failed for this reason."""
        jobs = self.waiting()
        if self.transport is not None:
            self.transport.abort()
        self.pool.lost(self, jobs, kind)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.pool.ended(self)
        kind = "closed by the target" if exc is None else _kind(exc)
        self.pool.lost(self, self.waiting(), kind)


def _kind(error: Exception) -> str:
    """A short name that counts alike errors together."""
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "connection reset"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, TimeoutError):
        return "timeout"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).lower().partition(" (_ssl.c")[0]
