"""One request on its way to a target, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from replaykit.replaying.outgoing import HEAD, IDEMPOTENT, Outgoing
from replaykit.replaying.own import OwnConnections


@dataclass(slots=True)
class Job:
    """`row` of a prepared batch, due at `due_ns` (0: when it can be sent) and sent at `sent_ns`.

    data: sent in place of the row's bytes, in a redirect.
    """

    batch: Outgoing
    row: int
    due_ns: int
    sent_ns: int = 0
    tries: int = 0
    redirects: int = 0
    data: bytes | None = None

    @property
    def request(self) -> memoryview | bytes:
        if self.data is not None:
            return self.data
        return self.batch.data[self.batch.start[self.row] : self.batch.end[self.row]]

    @property
    def head(self) -> bool:
        return self.batch.what[self.row] == HEAD

    @property
    def idempotent(self) -> bool:
        return self.batch.what[self.row] <= IDEMPOTENT

    @property
    def session(self) -> int:
        return self.batch.session[self.row]


@dataclass(frozen=True, slots=True)
class Response:
    """payload: as HTTP/1.1 sends it. Times are monotonic."""

    status: int
    payload: bytes
    done_ns: int


Heard = Callable[[Job, Response], None]


@dataclass(frozen=True)
class Sending:
    """How requests are sent. Times in s.

    connections: at most so many at a time. sessions: requests of one recorded connection share one,
    in order. own: is told of every connection. keep: whole responses are wanted. http2: the target is
    spoken to in HTTP/2.
    """

    connections: int = 10_000
    sessions: bool = False
    timeout_s: float = 5.0
    connect_s: float = 5.0
    retries: int = 0
    redirects: int = 0
    verify: bool = True
    ca: str | None = None
    http2: bool = False
    keep: bool = False
    max_answer_bytes: int = 64 << 20
    own: OwnConnections | None = None
    heard: Heard | None = field(default=None)
    failed: Callable[[Job, str], None] | None = field(default=None)
