"""A tunnel from behind a NAT: one mutually authenticated TLS connection, on it HTTP/2, a CONNECT a visitor
(RFC 9113 §8.5).

The one behind the NAT dials; then it is the server of HTTP/2, and the public side asks it to CONNECT. Owns
the streams of one such connection at either end: flow control in both directions, so that a visitor that
reads slowly holds up its own stream and nobody else's; half-close; and pings, so that a dead line is noticed
within PING_S x 2.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    PingAckReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

from replaykit.vantages.forwarder.meter import Meter
from replaykit.vantages.forwarder.secure import Secure
from replaykit.vantages.forwarder.tunnel_frames import (
    DATA_HEAD,
    END_STREAM,
    FRAME,
    HEAD,
    PADDED,
    PREFACE,
    WINDOW,
    WINDOW_UPDATE,
    frame,
)
from replaykit.vantages.forwarder.tunnel_target import Asked, connect_fields, field, wanted

if TYPE_CHECKING:
    from replaykit.vantages.forwarder.tunnel_datagrams import Datagrams
    from replaykit.vantages.forwarder.tunnel_stream import Stream

PING_S = 15.0
_CONNECTION_WINDOW = 1 << 30


class Line:
    """One end of the connection. asked: at the end behind the NAT, takes a stream's number and its target
    `host:port`.

    server_name: whom to expect at the other end; None: the other end dialled. down gets what went wrong, if
    anything did.

    The h2 package keeps the streams' states, their headers, settings and pings. DATA and WINDOW_UPDATE are
    read and written here (RFC 9113 §6.1, §6.9), since all the bytes are in them: a payload goes from where it
    was decrypted to its socket.
    """

    def __init__(
        self,
        near: socket.socket,
        context: ssl.SSLContext,
        server_name: str | None,
        *,
        public: bool,
        up: Callable[[Line], None],
        down: Callable[[Line, Exception | None], None],
        asked: Callable[[Line, int, Asked], None] | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._up, self._down, self._asked = up, down, asked
        self._h2 = H2Connection(
            H2Configuration(
                client_side=public,
                header_encoding="utf-8",
                validate_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_inbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._h2.local_settings = Settings(
            client=public,
            initial_values={
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
                SettingCodes.MAX_FRAME_SIZE: FRAME,
                SettingCodes.MAX_CONCURRENT_STREAMS: 2**31 - 1,
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,
            },
        )
        self._h2.max_inbound_frame_size = FRAME  # as the settings above say
        self.streams: dict[int, Stream | Datagrams] = {}
        self._opening: dict[int, Callable[[int], None]] = {}
        self.name = ""
        self.meter: Meter | None = None
        """Counts what goes through the connection, frames included, before encryption."""
        self.scratch = memoryview(bytearray(HEAD + FRAME))
        """Where a frame to be sent is put together."""
        self.initial, self._largest, self.credit, self._untold = 65_535, 16_384, 65_535, 0
        self._partial, self._needed = bytearray(), 0 if public else len(PREFACE)
        self._data, self._left, self._last = 0, 0, False
        self._heard = self.loop.time()
        self._pinging: asyncio.TimerHandle | None = None
        self._secure = Secure(
            near,
            context,
            server_name,
            opened=self._opened,
            arrived=self._arrived,
            drained=self._go_on,
            lost=self._broken,
        )

    @property
    def full(self) -> bool:
        """Whether what was sent waits for the network."""
        return self._secure.full

    def _opened(self) -> None:
        self.name = self._secure.common_name
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW)
        self._tell()
        self._pinging = self.loop.call_later(PING_S, self._ping)
        self._up(self)

    def _ping(self) -> None:
        if self.loop.time() - self._heard > 2 * PING_S:
            self._secure.abort()
            return
        with suppress(H2Error):
            self._h2.ping(b"replayki")
            self._tell()
        self._pinging = self.loop.call_later(PING_S, self._ping)

    def _broken(self, error: Exception | None) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
        opening, self._opening = self._opening, {}
        for told in opening.values():
            told(502)
        for stream in list(self.streams.values()):
            stream.close("the tunnel broke")
        self._down(self, error)

    def _go_on(self) -> None:
        for stream in list(self.streams.values()):
            stream.go_on()

    # What arrives.

    def _arrived(self, data: memoryview) -> None:
        self._heard = self.loop.time()
        if self.meter is not None:
            self.meter.count(len(data), 0)
        at, size = 0, len(data)
        try:
            while at < size and not self._secure.closed:
                if self._left:
                    count = min(self._left, size - at)
                    self._left -= count
                    self._payload(data[at : at + count])
                    at += count
                    if not self._left and self._last:
                        self._ended()
                elif not self._partial and not self._needed and size - at >= HEAD and not data[at + 3]:
                    self._begins(data[at : at + HEAD])
                    at += HEAD
                else:
                    at += self._control(data[at:])
        except (H2Error, ValueError):
            self._tell()
            self._secure.abort()
            return
        self._tell()

    def _begins(self, head: memoryview) -> None:
        """A DATA frame."""
        if head[4] & PADDED:
            raise ValueError("padding is not used here")
        self._left = int.from_bytes(head[:3], "big")
        if self._left > FRAME:
            raise ValueError("a frame that is too long")
        self._data, self._last = int.from_bytes(head[5:], "big") & 0x7FFF_FFFF, bool(head[4] & END_STREAM)
        if not self._left and self._last:
            self._ended()

    def _payload(self, piece: memoryview) -> None:
        stream = self.streams.get(self._data)
        if stream is None:
            self.taken(None, len(piece))
        else:
            stream.arrived(piece)
            if stream.held > WINDOW:
                raise ValueError("more than its window")

    def _ended(self) -> None:
        """h2 is told by an empty frame."""
        self._last = False
        self._hears(frame(0, END_STREAM, self._data))

    def _control(self, data: memoryview) -> int:
        """Collects a frame that is not DATA; how many bytes it took."""
        need = self._needed or HEAD
        count = min(need - len(self._partial), len(data))
        self._partial += data[:count]
        if len(self._partial) < need:
            return count
        if not self._needed:
            if not self._partial[3]:  # its head came in two parts
                head, self._partial = self._partial, bytearray()
                self._begins(memoryview(head))
                return count
            self._needed = HEAD + int.from_bytes(self._partial[:3], "big")
            if self._needed > HEAD + FRAME:
                raise ValueError("a frame that is too long")
            if self._needed > HEAD:
                return count
        whole, self._partial, self._needed = bytes(self._partial), bytearray(), 0
        if whole[3] == WINDOW_UPDATE and len(whole) == HEAD + 4:
            self._widens(int.from_bytes(whole[5:9], "big"), int.from_bytes(whole[9:], "big") & 0x7FFF_FFFF)
        else:
            self._hears(whole)
        return count

    def _widens(self, number: int, count: int) -> None:
        if not number:
            waiting, self.credit = self.credit <= 0, self.credit + count
            if waiting:
                self._go_on()
        elif (stream := self.streams.get(number)) is not None:
            stream.credit += count
            stream.go_on()

    def _hears(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            self._event(event)

    def _event(self, event: Any) -> None:
        if isinstance(event, RemoteSettingsChanged):
            settings = self._h2.remote_settings
            self.initial, self._largest = settings.initial_window_size, settings.max_frame_size
            self._go_on()
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
                told(int(field(event, ":status") or 502))
        elif isinstance(event, RequestReceived):
            self._request(event)
        elif isinstance(event, ConnectionTerminated):
            self._secure.close()
        elif isinstance(event, PingAckReceived):
            self._heard = self.loop.time()

    def _request(self, event: RequestReceived) -> None:
        number = event.stream_id
        assert number is not None
        target = wanted(event)
        if self._asked is None or target is None:
            self.refuse(number, 405)
        else:
            self._asked(self, number, target)

    # What is sent.

    def connect(self, asked: Asked, told: Callable[[int], None]) -> int | None:
        """Asks the far end for a target; `told` gets an HTTP status.

        None where there can be no more streams.
        """
        try:
            number = self._h2.get_next_available_stream_id()
            self._h2.send_headers(number, connect_fields(asked))
        except H2Error:
            return None
        self._opening[number] = told
        self._tell()
        return number

    def accept(self, number: int) -> None:
        """The far end's target is connected."""
        with suppress(H2Error):
            self._h2.send_headers(number, [(":status", "200")])
            self._tell()

    def refuse(self, number: int, status: int) -> None:
        with suppress(H2Error):
            self._h2.send_headers(number, [(":status", str(status))], end_stream=True)
            self._tell()

    def room(self, stream: Stream | Datagrams) -> int:
        """Bytes that the far end takes of this stream in one frame now."""
        return min(self.initial + stream.credit, self.credit, self._largest, FRAME)

    def send(self, stream: Stream | Datagrams, count: int) -> None:
        """So many bytes that are in `scratch`, after the room for a frame's head."""
        stream.credit -= count
        self.credit -= count
        DATA_HEAD.pack_into(self.scratch, 0, count >> 8, count & 0xFF, 0, 0, stream.number)
        self._put(self.scratch[: HEAD + count])

    def end(self, number: int) -> None:
        with suppress(H2Error):
            self._h2.end_stream(number)
            self._tell()

    def taken(self, stream: Stream | Datagrams | None, count: int) -> None:
        """The near end took bytes of the far end, which may send as many again; told in large steps."""
        self._untold += count
        if self._untold >= _CONNECTION_WINDOW >> 2:
            self._put(frame(WINDOW_UPDATE, 0, 0, self._untold.to_bytes(4, "big")))
            self._untold = 0
        if stream is not None:
            stream.untold += count
            if stream.untold >= WINDOW >> 2:
                self._put(frame(WINDOW_UPDATE, 0, stream.number, stream.untold.to_bytes(4, "big")))
                stream.untold = 0

    def forget(self, number: int, broken: bool) -> None:
        self.streams.pop(number, None)
        if broken:
            with suppress(H2Error):
                self._h2.reset_stream(number, ErrorCodes.CANCEL)
                self._tell()

    def _tell(self) -> None:
        """What h2 has to say."""
        data = self._h2.data_to_send()
        if data:
            self._put(data)

    def _put(self, data: bytes | memoryview) -> None:
        if self.meter is not None and not self._secure.closed:
            self.meter.count(0, len(data))
        self._secure.write(data)

    def close(self) -> None:
        with suppress(H2Error):
            self._h2.close_connection()
            self._tell()
        self._secure.close()
