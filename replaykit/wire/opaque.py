"""Streams that are measured but not understood: TLS without keys, and raw TCP.

Owns their rows. Of TLS, a row is a connection, or a minute of one; host and ALPN come from the hellos
(RFC 8446 §4.1, RFC 6066 §3, RFC 7301). Of raw TCP, a row is a turn: what the client says until it
speaks again, and what it is answered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replaykit.wire import http1
from replaykit.wire.exchange import RAW, TLS, Exchange, Side
from replaykit.wire.message import Message
from replaykit.wire.upper import Context, Cost, Piece

if TYPE_CHECKING:
    from replaykit.wire.connection import Sink

SLICE_NS = 60_000_000_000
"""A longer connection has more rows than one."""
MAX_HELLO = 18 << 10
"""Of a direction's beginning, kept until its hello is whole."""
MAX_RECORD = (16 << 10) + 2048

HANDSHAKE, APPLICATION = 22, 23


def record(b: bytes | bytearray) -> tuple[int, int] | None:
    """A TLS record's content type and length, if these five bytes can begin one."""
    if len(b) < 5 or not 20 <= b[0] <= APPLICATION or b[1] != 3 or b[2] > 4:
        return None
    length = b[3] << 8 | b[4]
    return (b[0], length) if 1 <= length <= MAX_RECORD else None


def tls_start(b: bytes) -> bool | None:
    """Whether a TLS connection begins with these bytes, and then whether the client speaks."""
    found = record(b)
    if found is None or found[0] != HANDSHAKE or len(b) < 6:
        return None
    return {1: True, 2: False}.get(b[5])


def tls_amid(b: bytes) -> bool:
    """Whether a segment amid a connection looks like TLS.

    Whole records, then the beginning of another.
    """
    at = 0
    while len(b) >= at + 5:
        found = record(b[at : at + 5])
        if found is None:
            return False
        at += 5 + found[1]
    return at > 0


class Short(Exception):
    """A structure that goes on beyond what is there."""


class Reader:
    """A reader of TLS structures, which are lengths and bytes."""

    def __init__(self, data: bytes) -> None:
        self.left = data

    def take(self, n: int) -> bytes:
        if n > len(self.left):
            raise Short
        head, self.left = self.left[:n], self.left[n:]
        return head

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> Reader:
        """A vector with a length of so many bytes before it."""
        return Reader(self.take(self.number(size)))


@dataclass(frozen=True)
class Hello:
    """Host and ALPN: of the client those it asks for, of the server the one chosen."""

    host: bytes
    alpn: bytes


def hello(stream: bytes, client: bool) -> Hello | bool:
    """Reads the hello in a direction's first bytes. True: more are needed. False: there is none."""
    # A handshake message may be spread over records.
    message, rest = b"", stream
    while True:
        found = record(rest[:5])
        if len(rest) >= 5 and (found is None or found[0] != HANDSHAKE):
            return False
        if found is None:
            return len(stream) < MAX_HELLO
        part = rest[5 : 5 + found[1]]
        message += part
        if len(message) >= 4:
            wanted = int.from_bytes(message[1:4])
            if message[0] != (1 if client else 2) or wanted > MAX_HELLO:
                return False
            if len(message) >= 4 + wanted:
                try:
                    return _extensions(message[4 : 4 + wanted], client)
                except Short:
                    return False
        if len(part) < found[1]:
            return len(stream) < MAX_HELLO
        rest = rest[5 + found[1] :]


def _extensions(body: bytes, client: bool) -> Hello:
    r = Reader(body)
    r.take(2 + 32)
    r.vector(1)
    if client:
        r.vector(2)
        r.vector(1)
    else:
        r.take(3)
    host, alpn = b"", []
    if r.left:
        listed = r.vector(2)
        while listed.left:
            kind, value = listed.number(2), listed.vector(2)
            if kind == 0 and client:
                names = value.vector(2)
                while names.left:
                    of_host, name = names.number(1) == 0, names.vector(2)
                    if of_host and not host:
                        host = name.left
            elif kind == 16:
                names = value.vector(2)
                while names.left:
                    alpn.append(names.vector(1).left)
    return Hello(host, _joined(alpn))


def _joined(names: list[bytes]) -> bytes:
    out = b""
    for name in names:
        out += (b"," if out else b"") + name
    return out


class _Records:
    """Where a direction is in its records."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._kind = 0
        self._left = 0
        self._lost = False

    def feed(self, seen: bytes, n: int) -> int:
        """Of `n` bytes, how many are application data: all, once records cannot be told apart."""
        at = data = 0
        while at < n:
            if self._lost:
                return data + n - at
            if self._left:
                k = min(self._left, n - at)
                data += k if self._kind == APPLICATION else 0
                self._left -= k
                at += k
            elif at >= len(seen):
                self._lost = True
            else:
                self._head.append(seen[at])
                at += 1
                if len(self._head) == 5:
                    found = record(self._head)
                    self._head.clear()
                    self._lost = found is None
                    self._kind, self._left = found or (0, 0)
        return data


@dataclass(slots=True)
class _Tls:
    """`hello`: first bytes of client and server until the hello is read."""

    hello: list[bytearray | None]
    records: tuple[_Records, _Records] = field(default_factory=lambda: (_Records(), _Records()))
    host: bytes = b""
    alpn: bytes = b""

    def read(self, server: bool, seen: bytes, cut: bool, sink: Sink) -> None:
        """Looks for host and ALPN in what a direction said first."""
        stream = self.hello[server]
        if stream is None:
            return
        stream += seen
        sink.buffered += len(seen)
        found = hello(bytes(stream), not server)
        if found is True and not cut and sink.buffered <= sink.options.max_buffer_bytes:
            return
        sink.buffered -= len(stream)
        self.hello[server] = None
        if isinstance(found, Hello):
            if not server:
                self.host = found.host
            # What the server chose, if it says so in the clear, else what the client offered.
            self.alpn = found.alpn or self.alpn


class Opaque:
    """`tls`: its beginning was seen (true) or not, or it is no TLS."""

    def __init__(self, tls: bool | None) -> None:
        self._x: Exchange | None = None
        self._messages = (bytearray(), bytearray())
        self._keep = [False, False]
        begins: list[bytearray | None] = [bytearray(), bytearray()] if tls else [None, None]
        self._tls = None if tls is None else _Tls(begins)

    def feed(self, server: bool, p: Piece, cost: Cost, cx: Context, sink: Sink) -> None:
        x = self._x
        if x is not None:
            if self._tls is not None:
                begun = x.request.time if x.request.seen else x.response.time
                over = not p.missing and p.time - begun >= SLICE_NS
            else:
                over = not server and x.response.seen
            if over:
                self._emit(True, cx, sink)
                x = None
        if x is None:
            x = self._x = Exchange(cx.next_position(), protocol=RAW if self._tls is None else TLS)
            x.denied = not sink.filters.passes_unknown()
            x.id = cx.gor_id(x.stream & 0xFFFFFFFF)
        if p.missing:
            x.missing += p.length
            if self._tls is None:
                self._spoil(server, sink)
            else:
                self._tls.records[server].feed(b"", p.length)
                sink.buffered -= len(self._tls.hello[server] or b"")
                self._tls.hello[server] = None
            return
        link, packets = cost.take(p.length)
        x.link_bytes += link
        seen = p.data[: p.length]
        side = x.response if server else x.request
        begins = not side.seen
        if begins:
            side.seen, side.time, side.seq = True, p.time, p.seq
        side.end = p.time
        side.wire += p.length
        side.packets += packets
        if self._tls is None:
            side.body += p.length
            self._message(server, begins, seen, p.length, sink)
        else:
            data = self._tls.records[server].feed(seen, p.length)
            side.body += data
            side.header += p.length - data
            self._tls.read(server, seen, len(seen) < p.length, sink)

    def _message(self, server: bool, begins: bool, seen: bytes, n: int, sink: Sink) -> None:
        o = sink.options
        if begins:
            self._keep[server] = o.responses if server else o.requests
        if not self._keep[server]:
            return
        message = self._messages[server]
        full = len(message) + n > o.max_message_bytes or sink.buffered + n > o.max_buffer_bytes
        if len(seen) < n or full:
            self._spoil(server, sink)
            return
        message += seen
        sink.buffered += n

    def _spoil(self, server: bool, sink: Sink) -> None:
        if self._keep[server]:
            self._keep[server] = False
            sink.buffered -= len(self._messages[server])
            self._messages[server].clear()
            sink.account.messages_cut += 1

    def _emit(self, whole: bool, cx: Context, sink: Sink) -> None:
        """Hands out the row that is open."""
        x, self._x = self._x, None
        if x is None:
            return
        for server, side in ((False, x.request), (True, x.response)):
            payload = bytes(self._messages[server])
            self._messages[server].clear()
            sink.buffered -= len(payload)
            if self._keep[server] and not x.denied:
                latency = side.end - side.time
                sink.messages.push(Message(1 + server, x.id, side.time, latency, payload, cx.id, x.stream))
            self._keep[server] = False
        if self._tls is not None:
            x.host, x.alpn = self._tls.host, self._tls.alpn
        x.request.whole = x.response.whole = whole
        cx.push(x, sink)

    def repeated(self, server: bool, count: int, payload: int, packets: int) -> bool:
        """A segment came again; true if its bytes have been booked."""
        x = self._x
        side: Side | None = None if x is None else x.response if server else x.request
        if x is None or side is None or not side.seen:
            return False
        side.packets += packets
        x.link_bytes += count
        x.retransmitted += payload
        return True

    def close(self, in_order: bool, cx: Context, sink: Sink) -> None:
        """The connection is over, by a reset or in silence if not in order."""
        if self._x is not None and not in_order:
            self._x.flag(http1.CLOSED_EARLY)
        self._emit(in_order, cx, sink)
        if self._tls is not None:
            for server, stream in enumerate(self._tls.hello):
                sink.buffered -= len(stream or b"")
                self._tls.hello[server] = None
