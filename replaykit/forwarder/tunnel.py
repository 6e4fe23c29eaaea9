"""A tunnel from behind a NAT: one mutually authenticated TLS connection, on it HTTP/2, a CONNECT a visitor (RFC 9113 §8.5).

The one behind the NAT dials; then it is the server of HTTP/2, and the public side asks it to CONNECT. Owns the streams of
one such connection at either end: flow control in both directions, so that a visitor that reads slowly holds up its own
stream and nobody else's; half-close; and pings, so that a dead line is noticed within PING_S x 2.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    PingAckReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings
from hyperframe.frame import DataFrame

from replaykit.forwarder.meter import EXCEEDED, Meter
from replaykit.forwarder.relay import reset

WINDOW = 4 << 20
FRAME = 1 << 16
PING_S = 15.0
_CONNECTION_WINDOW = 1 << 30
_TURNS = 4


# h2 writes every frame out in hexadecimal for a log that is off: five seconds of CPU a GB.
DataFrame._body_repr = lambda self: "data"  # type: ignore[method-assign]


class Stream:
    """A socket here, a stream of the tunnel beyond. meter: counts and limits; None at the end behind the NAT."""

    def __init__(
        self, line: Line, number: int, near: socket.socket, meter: Meter | None, ended: Callable[[str], None]
    ) -> None:
        self._line, self.number, self._near, self._meter, self._ended = line, number, near, meter, ended
        self._fd = near.fileno()
        self._arrived: deque[memoryview] = deque()
        self._reading = self._writing = self._near_over = self._far_over = self._shut = False
        self._waiting = self._stalled = False
        self.closed = False
        self.rx = self.tx = 0

    def start(self) -> None:
        """The far end is connected: what comes from here may go."""
        self.go_on()

    def go_on(self) -> None:
        """Reads from the near end as long as there is room."""
        if not (self._reading or self._near_over or self.closed or self._line.full or self._waiting):
            self._reading = True
            self._line.loop.add_reader(self._fd, self._readable)

    def hold(self) -> None:
        if self._reading:
            self._reading = False
            self._line.loop.remove_reader(self._fd)

    def _allowed(self, want: int, resume: Callable[[], None]) -> int:
        """As `Meter.allowance`."""
        return want if self._meter is None else self._meter.allowance(want, resume)

    def _count(self, rx: int, tx: int) -> None:
        self.rx += rx
        self.tx += tx
        if self._meter is not None:
            self._meter.count(rx, tx)

    def _readable(self) -> None:
        try:
            for _ in range(_TURNS):
                room = min(self._line.room(self.number), FRAME)
                if room <= 0 or self._line.full:
                    self.hold()
                    return
                want = self._allowed(room, self._resume)
                if want <= 0:
                    self.hold()
                    self._waiting = want == 0
                    if want < 0:
                        self._exceeded()
                    return
                data = self._near.recv(want)
                if not data:
                    self._near_over = True
                    self.hold()
                    self._line.end(self.number)
                    self._over()
                    return
                self._count(len(data), 0)
                self._line.send(self.number, data)
        except BlockingIOError:
            return
        except OSError:
            self.close("reset")

    def _resume(self) -> None:
        self._waiting = False
        self.go_on()

    def arrived(self, data: bytes) -> None:
        """From the far end; its window opens again when the near end has taken it."""
        self._arrived.append(memoryview(data))
        if not (self._writing or self._stalled):
            self._writable()

    def _deliver(self) -> None:
        """A rate has room again."""
        self._stalled = False
        if not self.closed:
            self._writable()

    def far_over(self) -> None:
        self._far_over = True
        if not (self._writing or self._stalled):
            self._writable()

    def _writable(self) -> None:
        try:
            while self._arrived:
                piece = self._arrived[0]
                want = self._allowed(len(piece), self._deliver)
                if want <= 0:
                    self._write_off()
                    self._stalled = want == 0
                    if want < 0:
                        self._exceeded()
                    return
                count = self._near.send(piece[:want])
                self._count(0, count)
                self._line.taken(self.number, count)
                if count == len(piece):
                    self._arrived.popleft()
                else:
                    self._arrived[0] = piece[count:]
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._line.loop.add_writer(self._fd, self._writable)
            return
        except OSError:
            self.close("reset")
            return
        self._write_off()
        if self._far_over and not self._shut:
            self._shut = True
            with suppress(OSError):
                self._near.shutdown(socket.SHUT_WR)
            self._over()

    def _write_off(self) -> None:
        if self._writing:
            self._writing = False
            self._line.loop.remove_writer(self._fd)

    def _exceeded(self) -> None:
        if self._meter is not None:
            self._meter.cut_spent()
        self.close(EXCEEDED)

    def _over(self) -> None:
        if self._near_over and self._shut:
            self.close()

    def close(self, why: str = "") -> None:
        if self.closed:
            return
        self.closed = True
        self.hold()
        self._write_off()
        left = sum(map(len, self._arrived))
        if left:  # what nobody will take gives its room on the connection back
            self._line.taken(self.number, left)
            self._arrived.clear()
        self._line.forget(self.number, bool(why))
        (reset if why else socket.socket.close)(self._near)
        self._ended(why)


class Line(asyncio.Protocol):
    """One end of the connection. asked: at the end behind the NAT, takes a stream's number and its target `host:port`."""

    def __init__(
        self, public: bool, up: Callable[[Line], None], down: Callable[[Line], None],
        asked: Callable[[Line, int, str], None] | None = None,
    ) -> None:  # fmt: skip
        self.loop = asyncio.get_running_loop()
        self._up, self._down, self._asked = up, down, asked
        self._h2 = H2Connection(
            H2Configuration(
                client_side=public, header_encoding="utf-8", validate_inbound_headers=False, validate_outbound_headers=False,
                normalize_inbound_headers=False, normalize_outbound_headers=False,
            )
        )  # fmt: skip
        self._h2.local_settings = Settings(
            client=public,
            initial_values={
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW, SettingCodes.MAX_FRAME_SIZE: FRAME,
                SettingCodes.MAX_CONCURRENT_STREAMS: 2**31 - 1, SettingCodes.ENABLE_PUSH: 0,
            },
        )  # fmt: skip
        self._h2.max_inbound_frame_size = FRAME  # as the settings above say
        self._transport: asyncio.Transport | None = None
        self.streams: dict[int, Stream] = {}
        self._opening: dict[int, Callable[[int], None]] = {}
        self.full = False
        self.name = ""
        self.meter: Meter | None = None
        """Counts what goes through the connection, frames included, before encryption."""
        self._flushing = False
        self._heard = self.loop.time()
        self._pinging: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=2 << 20)
        certificate = transport.get_extra_info("peercert") or {}
        names = [v for parts in certificate.get("subject", ()) for k, v in parts if k == "commonName"]
        self.name = names[0] if names else ""
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW)
        self._flush()
        self._pinging = self.loop.call_later(PING_S, self._ping)
        self._up(self)

    def _ping(self) -> None:
        assert self._transport is not None
        if self.loop.time() - self._heard > 2 * PING_S:
            self._transport.abort()
            return
        with suppress(H2Error):
            self._h2.ping(b"replayki")
            self._flush()
        self._pinging = self.loop.call_later(PING_S, self._ping)

    def connection_lost(self, error: Exception | None) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
        opening, self._opening = self._opening, {}
        for told in opening.values():
            told(502)
        for stream in list(self.streams.values()):
            stream.close("the tunnel broke")
        self._down(self)

    def pause_writing(self) -> None:
        self.full = True
        for stream in self.streams.values():
            stream.hold()

    def resume_writing(self) -> None:
        self.full = False
        for stream in list(self.streams.values()):
            stream.go_on()

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        if self.meter is not None:
            self.meter.count(len(data), 0)
        try:
            for event in self._h2.receive_data(data):
                self._event(event)
        except H2Error:
            assert self._transport is not None
            self._flush()
            self._transport.abort()
            return
        self._flush()

    def _event(self, event: Any) -> None:
        if isinstance(event, DataReceived):
            stream = self.streams.get(event.stream_id)
            if stream is None:
                self.taken(event.stream_id, event.flow_controlled_length)
            elif event.data:
                stream.arrived(event.data)
        elif isinstance(event, WindowUpdated):
            found = (
                list(self.streams.values()) if not event.stream_id else [self.streams.get(event.stream_id)]
            )
            for each in found:
                if each is not None:
                    each.go_on()
        elif isinstance(event, StreamEnded):
            stream = self.streams.get(event.stream_id)
            if stream is not None:
                stream.far_over()
        elif isinstance(event, StreamReset):
            stream = self.streams.get(event.stream_id)
            told = self._opening.pop(event.stream_id, None)
            if told is not None:
                told(502)
            if stream is not None:
                stream.close("reset")
        elif isinstance(event, ResponseReceived):
            told = self._opening.pop(event.stream_id, None)
            if told is not None:
                told(int(_field(event, ":status") or 502))
        elif isinstance(event, RequestReceived):
            self._request(event)
        elif isinstance(event, ConnectionTerminated):
            assert self._transport is not None
            self._transport.close()
        elif isinstance(event, PingAckReceived):
            self._heard = self.loop.time()

    def _request(self, event: RequestReceived) -> None:
        number = event.stream_id
        assert number is not None
        if self._asked is None or _field(event, ":method") != "CONNECT":
            self.refuse(number, 405)
        else:
            self._asked(self, number, _field(event, ":authority"))

    def connect(self, target: str, told: Callable[[int], None]) -> int | None:
        """Asks the far end for a target; `told` gets an HTTP status. None where there can be no more streams."""
        try:
            number = self._h2.get_next_available_stream_id()
            self._h2.send_headers(number, [(":method", "CONNECT"), (":authority", target)])
        except H2Error:
            return None
        self._opening[number] = told
        self._flush()
        return number

    def accept(self, number: int) -> None:
        """The far end's target is connected."""
        with suppress(H2Error):
            self._h2.send_headers(number, [(":status", "200")])
            self._flush()

    def refuse(self, number: int, status: int) -> None:
        with suppress(H2Error):
            self._h2.send_headers(number, [(":status", str(status))], end_stream=True)
            self._flush()

    def room(self, number: int) -> int:
        """Bytes that the far end takes of this stream now."""
        try:
            return min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
        except H2Error:
            return 0

    def send(self, number: int, data: bytes) -> None:
        with suppress(H2Error):
            self._h2.send_data(number, data)
            self._flush_soon()

    def end(self, number: int) -> None:
        with suppress(H2Error):
            self._h2.end_stream(number)
            self._flush_soon()

    def taken(self, number: int, count: int) -> None:
        with suppress(H2Error):
            self._h2.acknowledge_received_data(count, number)
            self._flush_soon()

    def forget(self, number: int, broken: bool) -> None:
        self.streams.pop(number, None)
        if broken:
            with suppress(H2Error):
                self._h2.reset_stream(number, ErrorCodes.CANCEL)
                self._flush_soon()

    def _flush_soon(self) -> None:
        """Once for everything that a turn of the loop brings."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        data = self._h2.data_to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            if self.meter is not None:
                self.meter.count(0, len(data))
            self._transport.write(data)

    def close(self) -> None:
        with suppress(H2Error):
            self._h2.close_connection()
            self._flush()
        if self._transport is not None:
            self._transport.close()


def _field(event: RequestReceived | ResponseReceived, name: str) -> str:
    for key, value in event.headers or ():
        if key in (name, name.encode()):
            return value.decode("latin-1") if isinstance(value, bytes) else value
    return ""
