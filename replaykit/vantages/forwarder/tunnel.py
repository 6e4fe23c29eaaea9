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
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

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

from replaykit.vantages.forwarder.meter import EXCEEDED, Meter
from replaykit.vantages.forwarder.relay import reset
from replaykit.vantages.forwarder.secure import Secure

WINDOW = 4 << 20
FRAME = (1 << 17) - 9  # with its head: whole records of TLS
PING_S = 15.0
_CONNECTION_WINDOW = 1 << 30
_TURNS = 4


_HEAD = 9
_DATA_HEAD = struct.Struct(">HBBBI")
_PADDED, _END_STREAM, _WINDOW_UPDATE = 0x8, 0x1, 0x8
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_MASQUE = "/.well-known/masque/udp/"
"""RFC 9298 §2."""


@dataclass(frozen=True)
class Asked:
    """What a stream is to reach: `host:port`, by TCP or, in capsules (RFC 9297), by UDP."""

    target: str
    datagrams: bool = False

    def refused(self, status: int) -> str:
        """What an answer that is not 200 means."""
        words = {403: "not allowed there", 502: "cannot be reached", 504: "does not answer"}
        return f"{self.target} through the tunnel: {words.get(status, status)}"


class Stream:
    """A socket here, a stream of the tunnel beyond.

    meter: counts and limits; None at the end behind the NAT.
    """

    def __init__(
        self, line: Line, number: int, near: socket.socket, meter: Meter | None, ended: Callable[[str], None]
    ) -> None:
        self._line, self.number, self._near, self._meter, self._ended = line, number, near, meter, ended
        self._fd = near.fileno()
        self._arrived: deque[memoryview] = deque()
        self._reading = self._writing = self._near_over = self._far_over = self._shut = False
        self._waiting = self._stalled = False
        self.closed = False
        self.rx = self.tx = self.held = self.credit = self.untold = 0
        """Bytes moved; bytes from the far end that wait here; what it takes beyond its first window; taken
        and not told.
        """

    def introduce(self, data: bytes) -> None:
        """To the far end's target before all else; the visitor's side did not send it."""
        self._line.scratch[_HEAD : _HEAD + len(data)] = data
        self._line.send(self, len(data))

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
                room = self._line.room(self)
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
                count = self._near.recv_into(self._line.scratch[_HEAD : _HEAD + want])
                if not count:
                    self._near_over = True
                    self.hold()
                    self._line.end(self.number)
                    self._over()
                    return
                self._count(count, 0)
                self._line.send(self, count)
        except BlockingIOError:
            return
        except OSError:
            self.close("reset")

    def _resume(self) -> None:
        self._waiting = False
        self.go_on()

    def arrived(self, data: memoryview) -> None:
        """From the far end; its window opens again when the near end has taken it.

        The view is good until this returns.
        """
        self.held += len(data)
        if not (self._arrived or self._writing or self._stalled):
            data = self._given(data)
        if data and not self.closed:
            self._arrived.append(memoryview(bytes(data)))

    def _given(self, piece: memoryview) -> memoryview:
        """As much as the near end takes now; the rest."""
        try:
            while piece:
                want = self._allowed(len(piece), self._deliver)
                if want <= 0:
                    self._write_off()
                    self._stalled = want == 0
                    if want < 0:
                        self._exceeded()
                    return piece
                count = self._near.send(piece[:want])
                self._count(0, count)
                self.held -= count
                self._line.taken(self, count)
                piece = piece[count:]
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._line.loop.add_writer(self._fd, self._writable)
        except OSError:
            self.close("reset")
        return piece

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
        while self._arrived:
            rest = self._given(self._arrived[0])
            if self.closed:
                return
            if rest:
                self._arrived[0] = rest
                return
            self._arrived.popleft()
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
        if self.held:  # what nobody will take gives its room on the connection back
            self._line.taken(None, self.held)
            self._arrived.clear()
        self._line.forget(self.number, bool(why))
        (reset if why else socket.socket.close)(self._near)
        self._ended(why)


class Datagrams:
    """Datagrams in a stream, each in a capsule (RFC 9297 §3.5, RFC 9298 §5). One that finds no room is
    dropped, as by a full line.

    received: takes each from the far end.
    """

    def __init__(
        self, line: Line, number: int, received: Callable[[bytes], None], ended: Callable[[str], None]
    ) -> None:
        self._line, self.number, self._received, self._ended = line, number, received, ended
        self._buffer = bytearray()
        self.held = self.credit = self.untold = 0
        self.closed = False

    def send(self, data: bytes) -> bool:
        """Whether there was room."""
        head = b"\0" + _number(len(data) + 1) + b"\0"  # a DATAGRAM; its context is UDP's payload
        count = len(head) + len(data)
        if self.closed or self._line.full or self._line.room(self) < count:
            return False
        self._line.scratch[_HEAD : _HEAD + count] = head + data
        self._line.send(self, count)
        return True

    def arrived(self, data: memoryview) -> None:
        self._line.taken(self, len(data))
        self._buffer += data
        at = 0
        while not self.closed:
            kind, begin = _numbered(self._buffer, at)
            size, begin = _numbered(self._buffer, begin)
            if size > FRAME:
                self.close("a capsule that is too long")
                return
            if size < 0 or len(self._buffer) < begin + size:
                break
            at = begin + size
            if not kind and size and not self._buffer[begin]:
                self._received(bytes(self._buffer[begin + 1 : at]))
        del self._buffer[:at]

    def far_over(self) -> None:
        self.close()

    def go_on(self) -> None:
        """Nothing waits here."""

    hold = go_on

    def close(self, why: str = "") -> None:
        if not self.closed:
            self.closed = True
            self._line.forget(self.number, True)
            self._ended(why)


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
        self.scratch = memoryview(bytearray(_HEAD + FRAME))
        """Where a frame to be sent is put together."""
        self.initial, self._largest, self.credit, self._untold = 65_535, 16_384, 65_535, 0
        self._partial, self._needed = bytearray(), 0 if public else len(_PREFACE)
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
                elif not self._partial and not self._needed and size - at >= _HEAD and not data[at + 3]:
                    self._begins(data[at : at + _HEAD])
                    at += _HEAD
                else:
                    at += self._control(data[at:])
        except (H2Error, ValueError):
            self._tell()
            self._secure.abort()
            return
        self._tell()

    def _begins(self, head: memoryview) -> None:
        """A DATA frame."""
        if head[4] & _PADDED:
            raise ValueError("padding is not used here")
        self._left = int.from_bytes(head[:3], "big")
        if self._left > FRAME:
            raise ValueError("a frame that is too long")
        self._data, self._last = int.from_bytes(head[5:], "big") & 0x7FFF_FFFF, bool(head[4] & _END_STREAM)
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
        self._hears(_frame(0, _END_STREAM, self._data))

    def _control(self, data: memoryview) -> int:
        """Collects a frame that is not DATA; how many bytes it took."""
        need = self._needed or _HEAD
        count = min(need - len(self._partial), len(data))
        self._partial += data[:count]
        if len(self._partial) < need:
            return count
        if not self._needed:
            if not self._partial[3]:  # its head came in two parts
                head, self._partial = self._partial, bytearray()
                self._begins(memoryview(head))
                return count
            self._needed = _HEAD + int.from_bytes(self._partial[:3], "big")
            if self._needed > _HEAD + FRAME:
                raise ValueError("a frame that is too long")
            if self._needed > _HEAD:
                return count
        whole, self._partial, self._needed = bytes(self._partial), bytearray(), 0
        if whole[3] == _WINDOW_UPDATE and len(whole) == _HEAD + 4:
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

    def _hears(self, frame: bytes) -> None:
        for event in self._h2.receive_data(frame):
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
                told(int(_field(event, ":status") or 502))
        elif isinstance(event, RequestReceived):
            self._request(event)
        elif isinstance(event, ConnectionTerminated):
            self._secure.close()
        elif isinstance(event, PingAckReceived):
            self._heard = self.loop.time()

    def _request(self, event: RequestReceived) -> None:
        number = event.stream_id
        assert number is not None
        wanted = _wanted(event)
        if self._asked is None or wanted is None:
            self.refuse(number, 405)
        else:
            self._asked(self, number, wanted)

    # What is sent.

    def connect(self, wanted: Asked, told: Callable[[int], None]) -> int | None:
        """Asks the far end for a target; `told` gets an HTTP status.

        None where there can be no more streams.
        """
        fields = [(":method", "CONNECT"), (":authority", wanted.target)]
        if wanted.datagrams:
            host, _, port = wanted.target.rpartition(":")
            path = _MASQUE + quote(host.strip("[]"), safe="") + f"/{port}/"
            fields = [
                (":method", "CONNECT"), (":protocol", "connect-udp"), (":scheme", "https"), (":path", path),
                (":authority", wanted.target), ("capsule-protocol", "?1"),
            ]  # fmt: skip
        try:
            number = self._h2.get_next_available_stream_id()
            self._h2.send_headers(number, fields)
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
        _DATA_HEAD.pack_into(self.scratch, 0, count >> 8, count & 0xFF, 0, 0, stream.number)
        self._put(self.scratch[: _HEAD + count])

    def end(self, number: int) -> None:
        with suppress(H2Error):
            self._h2.end_stream(number)
            self._tell()

    def taken(self, stream: Stream | Datagrams | None, count: int) -> None:
        """The near end took bytes of the far end, which may send as many again; told in large steps."""
        self._untold += count
        if self._untold >= _CONNECTION_WINDOW >> 2:
            self._put(_frame(_WINDOW_UPDATE, 0, 0, self._untold.to_bytes(4, "big")))
            self._untold = 0
        if stream is not None:
            stream.untold += count
            if stream.untold >= WINDOW >> 2:
                self._put(_frame(_WINDOW_UPDATE, 0, stream.number, stream.untold.to_bytes(4, "big")))
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


def _frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    """RFC 9113 §4.1."""
    return _DATA_HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, number) + payload


def _number(value: int) -> bytes:
    """A variable-length integer (RFC 9000 §16) below 2^30."""
    if value < 1 << 6:
        return bytes([value])
    return (
        (value | 0x4000).to_bytes(2, "big") if value < 1 << 14 else (value | 0x8000_0000).to_bytes(4, "big")
    )


def _numbered(data: bytearray, at: int) -> tuple[int, int]:
    """The integer at a place and where it ends; -1: it is not there whole."""
    if at >= len(data) or len(data) < at + (1 << (data[at] >> 6)):
        return -1, at
    size = 1 << (data[at] >> 6)
    return int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1), at + size


def _wanted(event: RequestReceived) -> Asked | None:
    """What a CONNECT asks for; None: it is something else."""
    if _field(event, ":method") != "CONNECT":
        return None
    kind = _field(event, ":protocol")
    if not kind:
        return Asked(_field(event, ":authority"))
    parts = _field(event, ":path").removeprefix(_MASQUE).strip("/").split("/")
    if kind != "connect-udp" or len(parts) != 2:
        return None
    host = unquote(parts[0])
    return Asked(f"[{host}]:{parts[1]}" if ":" in host else f"{host}:{parts[1]}", True)


def _field(event: RequestReceived | ResponseReceived, name: str) -> str:
    for key, value in event.headers or ():
        if key in (name, name.encode()):
            return value.decode("latin-1") if isinstance(value, bytes) else value
    return ""
