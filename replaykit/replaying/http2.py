"""HTTP/2 to a target, by the h2 package: many requests at a time on a connection (RFC 9113).

Owns the translation of a recorded HTTP/1.1 message into fields and data, and of the response back; and
how much of a body may be under way (flow control).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from replaykit.engine import head as heads
from replaykit.engine import http1
from replaykit.engine.content import dechunk
from replaykit.replaying.connection import Connection, Owner
from replaykit.replaying.job import Job, Response

_MAX_STREAMS = 100
# Fields that HTTP/2 has no place for (RFC 9113 §8.2.2).
_CONNECTION = {b"connection", b"transfer-encoding", b"upgrade", b"keep-alive", b"proxy-connection", b"host"}

Fields = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class _Stream:
    job: Job
    body: memoryview
    status: int = 0
    fields: Fields = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    held: int = 0


class Http2(Connection):
    """`scheme`: of the target."""

    def __init__(self, pool: Owner, session: int | None) -> None:
        super().__init__(pool, session)
        config = h2.config.H2Configuration(client_side=True, header_encoding=False)
        self._h2 = h2.connection.H2Connection(config)
        self._streams: dict[int, _Stream] = {}
        self._keep = pool.sending.keep or pool.sending.redirects > 0
        self._ending = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(1 << 24)
        self.transport = transport  # type: ignore[assignment]
        self.pool.began(self)
        self.idle_since = time.monotonic_ns()
        self._flush()

    @property
    def busy(self) -> bool:
        return (
            self.transport is None
            or self._ending
            or not self.ready
            or len(self._streams) >= min(_MAX_STREAMS, self._h2.remote_settings.max_concurrent_streams)
        )

    def send(self, job: Job) -> None:
        pool = self.pool
        data = bytes(job.request)
        fields, body = to_fields(data, pool.target.scheme.encode())
        stream = self._h2.get_next_available_stream_id()
        job.sent_ns = now = time.monotonic_ns()
        try:
            self._h2.send_headers(stream, fields, end_stream=not body)
        except h2.exceptions.ProtocolError as error:
            pool.fail(job, f"not sendable in HTTP/2: {error}")
            return
        pool.stats.wrote(now, len(data))
        if not job.due_ns:
            job.due_ns = now
        elif not job.tries:
            pool.stats.lag.add(now - job.due_ns)
        self._streams[stream] = _Stream(job, memoryview(body))
        self._push(stream)
        self._flush()

    def _push(self, number: int) -> None:
        """Sends as much of a body as the windows let pass (RFC 9113 §5.2)."""
        stream = self._streams[number]
        while stream.body:
            room = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
            if room <= 0:
                return
            piece, stream.body = stream.body[:room], stream.body[room:]
            self._h2.send_data(number, bytes(piece), end_stream=not stream.body)

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and self.transport is not None:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self.pool.stats.received_bytes += len(data)
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self._flush()
            return self.abort("a response that is no HTTP/2")
        done: list[tuple[_Stream, str | None]] = []
        for event in events:
            self._event(event, done)
        self._flush()
        if not self.ready and any(isinstance(e, h2.events.RemoteSettingsChanged) for e in events):
            self._opened()  # before, how many streams it takes is not known (RFC 9113 §3.4)
        for stream, trouble in done:
            if trouble is not None:
                self.pool.refused(self, stream.job, trouble)
            else:
                payload = _payload(stream) if self._keep else b""
                self.pool.answered(self, stream.job, Response(stream.status, payload, time.monotonic_ns()))
        if self._ending and not self._streams and self.transport is not None:
            self.transport.close()

    def _event(self, event: object, done: list[tuple[_Stream, str | None]]) -> None:
        number = getattr(event, "stream_id", None) or 0
        stream = self._streams.get(number)
        if isinstance(event, h2.events.ResponseReceived) and stream is not None:
            fields = [(bytes(n), bytes(v)) for n, v in event.headers or ()]
            stream.status = int(dict(fields).get(b":status", b"0") or 0)
            stream.fields = [(n, v) for n, v in fields if not n.startswith(b":")]
        elif isinstance(event, h2.events.DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length or 0, number)
            if stream is not None and self._keep and stream.held < self.pool.sending.max_answer_bytes:
                stream.parts.append(bytes(event.data or b""))
                stream.held += len(event.data or b"")
        elif isinstance(event, h2.events.StreamEnded) and stream is not None:
            if stream.body:  # answered before the whole request was sent
                self._h2.reset_stream(number, h2.errors.ErrorCodes.NO_ERROR)
            done.append((self._streams.pop(number), None))
        elif isinstance(event, h2.events.StreamReset) and stream is not None:
            done.append((self._streams.pop(number), "stream reset"))
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            for each in [number] if number else list(self._streams):
                if each in self._streams:
                    self._push(each)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._ending = True
            last = event.last_stream_id or 0
            for each in [n for n in self._streams if n > last]:  # never processed (RFC 9113 §6.8)
                done.append((self._streams.pop(each), "refused by GOAWAY"))

    def waiting(self) -> list[Job]:
        jobs = [s.job for s in self._streams.values()]
        self._streams.clear()
        return jobs

    def overdue(self, now_ns: int, limit_ns: int) -> bool:
        if not self.ready:
            return now_ns - self.idle_since > limit_ns
        late = [n for n, s in self._streams.items() if now_ns - s.job.sent_ns > limit_ns]
        for number in late:
            stream = self._streams.pop(number)
            self._h2.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
            self.pool.refused(self, stream.job, "timeout")
        if late:
            self._flush()
        return False


def to_fields(data: bytes, scheme: bytes) -> tuple[Fields, bytes]:
    """A request of HTTP/1.1 as HTTP/2's fields and content (RFC 9113 §8.3.1)."""
    size = heads.end(data)
    line = heads.request(data)
    assert line is not None  # `outgoing` hands out requests only
    method, target = (data[slice(*at)] for at in line)
    host = heads.value(data[:size], b"host")
    fields: Fields = [(b":method", method), (b":scheme", scheme), (b":path", target or b"/")]
    if host is not None:
        fields.append((b":authority", data[slice(*host)]))
    body, chunked = data[size:], False
    for name, value in http1.fields(data[:size]):
        name = name.strip().lower()
        chunked = chunked or (name == b"transfer-encoding" and b"chunked" in value.lower())
        if name and name not in _CONNECTION and not (name == b"te" and value != b"trailers"):
            fields.append((name, value))
    if chunked:
        plain = dechunk(body)
        return fields, body if plain is None else plain
    return fields, body


def _payload(stream: _Stream) -> bytes:
    """The response as HTTP/1.1 sends it."""
    body = b"".join(stream.parts)
    lines = [b"HTTP/1.1 %d " % stream.status, *(n + b": " + v for n, v in stream.fields)]
    if not any(n == b"content-length" for n, _ in stream.fields) and not stream.job.head:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])
