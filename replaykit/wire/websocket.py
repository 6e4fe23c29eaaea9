"""One connection's WebSocket (RFC 6455): frames of two directions to messages, a row each.

Owns frame headers, fragments, control frames between them, masks, and how long a message is after
permessage-deflate (RFC 7692). Never keeps a message: payload is counted, and inflated in pieces
where it was compressed. After a hole it waits for a segment that begins with a frame.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replaykit.wire import http1
from replaykit.wire.account import MALFORMED, RETRANSMISSION
from replaykit.wire.exchange import WEBSOCKET, Exchange, Side
from replaykit.wire.upper import Begun, Context, Cost, Piece, book

if TYPE_CHECKING:
    from replaykit.wire.connection import Sink

_FIN, _RSV1, _MASK = 0x80, 0x40, 0x80
_MAX_HEADER = 14

# Opcodes (RFC 6455 §5.2) as the column `method` names them.
_NAMES = {0: b"CONTINUATION", 1: b"TEXT", 2: b"BINARY", 8: b"CLOSE", 9: b"PING", 10: b"PONG"}


def _header_length(head: bytes | bytearray) -> int:
    """Length of the header that begins so; at least two bytes are needed to tell."""
    if len(head) < 2:
        return 2
    return 2 + {126: 2, 127: 8}.get(head[1] & 0x7F, 0) + (4 if head[1] & _MASK else 0)


def _payload_length(head: bytes | bytearray) -> int | None:
    """Payload length; None where its highest bit is set (§5.2)."""
    short = head[1] & 0x7F
    if short == 126:
        return int.from_bytes(head[2:4])
    if short == 127:
        n = int.from_bytes(head[2:10])
        return None if n >> 63 else n
    return short


def _clear_start(b: bytes, masked: bool, compressed: bool) -> bool:
    """True if a segment begins with a frame, and after each whole one comes another or its end."""
    at = 0
    while at < len(b):
        head = b[at : at + _MAX_HEADER]
        opcode = head[0] & 15
        second = head[1] if len(head) > 1 else 0
        sound = (
            opcode in _NAMES
            and not head[0] & 0x30
            and (not head[0] & _RSV1 or (compressed and opcode in (1, 2)))
            and (opcode < 8 or (head[0] & _FIN != 0 and second & 0x7F < 126))
            and (len(head) < 2 or bool(second & _MASK) == masked)
        )
        if not sound:
            return False
        size = _header_length(head)
        if len(head) < size:
            return at > 0
        n = _payload_length(head)
        if n is None:
            return False
        at += size + n
    return at > 0


_INFLATE_BYTES = 48 << 10
"""What an inflater holds: its window, and tables."""


class _Inflate:
    """One direction's permessage-deflate.

    fresh: each message begins with an empty window (§7.1.1). lost: the window is not what the
    sender's is. out: bytes that the message's payload has become so far.
    """

    def __init__(self, fresh: bool) -> None:
        self._stream = zlib.decompressobj(-15)
        self._fresh = fresh
        self.lost = False
        self.out = 0

    def begin(self) -> None:
        self.out = 0
        if self._fresh:
            self._stream = zlib.decompressobj(-15)
            self.lost = False

    def feed(self, b: bytes, limit: int) -> None:
        """Inflates payload and adds to `out`; more than `limit` is not followed."""
        full = 16 << 10
        while not self.lost:
            try:
                made = len(self._stream.decompress(b, full))
            except zlib.error:
                self.lost = True
                return
            self.out += made
            self.lost = self._stream.eof or self.out > limit
            b = self._stream.unconsumed_tail
            if not b and made < full:
                return


@dataclass(slots=True)
class _Lost:
    """Not in step: bytes go to the cause until a segment begins with a frame."""

    cause: str


@dataclass(slots=True)
class _Lane:
    """`step`: header or payload. `passed`: payload bytes of this frame so far.

    inflate: made with the first compressed message; what it holds counts as buffered. refused: there was
    no room for one.
    """

    fresh: bool
    inflate: _Inflate | None = None
    refused: bool = False
    step: str | _Lost = "header"
    head: bytearray = field(default_factory=bytearray)
    begun: Begun = field(default_factory=Begun)
    left: int = 0
    passed: int = 0
    opcode: int = 0
    fin: bool = True
    message: Exchange | None = None
    control: Exchange | None = None
    compressed: bool = False
    close: bytearray = field(default_factory=bytearray)

    def begin_inflating(self, sink: Sink) -> None:
        """A compressed message begins."""
        if self.inflate is None and not self.refused:
            if sink.buffered + _INFLATE_BYTES > sink.options.max_buffer_bytes:
                sink.account.bound_hits += 1
                self.refused = True
            else:
                sink.buffered += _INFLATE_BYTES
                self.inflate = _Inflate(self.fresh)
        if self.inflate is not None:
            self.inflate.begin()

    def lose_window(self) -> None:
        """What the sender's window holds is no longer known."""
        if self.inflate is not None:
            self.inflate.lost = True
        else:
            self.refused = not self.fresh

    def current(self) -> Exchange | None:
        return self.control if self.opcode >= 8 else self.message


def _extensions(text: bytes) -> tuple[bool, tuple[bool, bool]]:
    """Whether permessage-deflate is on, and whether client and server always begin anew."""
    for extension in text.decode("utf-8", "replace").translate(_LOWER).split(","):
        name, *parts = (part.strip(_BLANK) for part in extension.split(";"))
        if name == "permessage-deflate":
            return True, ("client_no_context_takeover" in parts, "server_no_context_takeover" in parts)
    return False, (False, False)


_LOWER = {c: c + 32 for c in range(ord("A"), ord("Z") + 1)}
_BLANK = " \t\r\n\x0b\x0c"


def _side(x: Exchange, server: bool) -> Side:
    return x.response if server else x.request


def _emit(x: Exchange, server: bool, whole: bool, cx: Context, sink: Sink) -> None:
    x.request.done = x.response.done = True
    # The side that does not exist is not missing.
    x.request.whole = whole or server
    x.response.whole = whole or not server
    cx.push(x, sink)


class WebSocket:
    """After the handshake `origin`, whose endpoint every message has."""

    def __init__(self, origin: Exchange, chosen: bytes) -> None:
        self._origin = origin
        self._negotiated, fresh = _extensions(chosen)
        self._lanes = tuple(_Lane(f) for f in fresh)

    def feed(self, server: bool, p: Piece, cost: Cost, cx: Context, sink: Sink) -> None:
        """In-order bytes of the client (`server` false) or the server, or a hole."""
        lane = self._lanes[server]
        at = 0
        while at < p.length:
            seen, rest = p.data[at:], p.length - at
            if isinstance(lane.step, _Lost):
                if at == 0 and p.first and _clear_start(seen, not server, self._negotiated):
                    lane.step = "header"
                    lane.head.clear()
                    continue
                book(p, lane.step.cause, rest, cost, sink)
                return
            if lane.step == "header":
                at += self._header(server, seen, rest, at, p, cost, cx, sink)
            else:
                at += self._payload(server, seen, rest, p, cost, cx, sink)

    def _lose(self, server: bool, p: Piece, cx: Context, sink: Sink) -> None:
        """Frames can no longer be told apart: what is open is handed out as it stands."""
        cause = p.lost(MALFORMED)
        lane = self._lanes[server]
        sink.account.add(cause, lane.begun.link)
        lane.begun.link = 0
        lane.step = _Lost(cause)
        lane.lose_window()
        self._finish(server, None, cx, sink)

    def _finish(self, server: bool, why: str | None, cx: Context, sink: Sink) -> None:
        """Hands out what is open, which will not become whole."""
        lane = self._lanes[server]
        for x in (lane.control, lane.message):
            if x is not None:
                x.flag(why)
                _emit(x, server, False, cx, sink)
        lane.control = lane.message = None

    def _header(
        self, server: bool, seen: bytes, rest: int, at: int, p: Piece, cost: Cost, cx: Context, sink: Sink
    ) -> int:
        lane = self._lanes[server]
        if not lane.head:
            lane.begun = Begun(p.time, p.time, (p.seq + at) & 0xFFFFFFFF)
        k = 0
        while len(lane.head) < _header_length(lane.head) and k < rest:
            if k >= len(seen):
                self._lose(server, p, cx, sink)
                return 0
            lane.head.append(seen[k])
            k += 1
        lane.begun.pay(cost.take(k))
        if len(lane.head) < _header_length(lane.head):
            return k
        length = _payload_length(lane.head)
        if length is None:
            self._lose(server, p, cx, sink)
        else:
            self._open(server, length, p.time, cx, sink)
        return k

    def _open(self, server: bool, length: int, time: int, cx: Context, sink: Sink) -> None:
        """A frame's header has been read."""
        lane = self._lanes[server]
        first, second = lane.head[:2]
        lane.opcode = opcode = first & 15
        lane.fin = bool(first & _FIN)
        lane.left, lane.passed, lane.step = length, 0, "payload"
        control = opcode >= 8
        if not control and opcode != 0 and lane.message is not None:
            # §5.4: a message must end before the next begins.
            lane.message.flag(http1.BAD_FRAME)
            _emit(lane.message, server, False, cx, sink)
            lane.message = None
        x = lane.current()
        fresh = x is None
        if x is None:
            o = self._origin
            x = Exchange(cx.number(o), protocol=WEBSOCKET, https=o.https, denied=o.denied)
            x.method = _NAMES.get(opcode, b"RESERVED")
            x.target, x.host, x.trace = o.target, o.host, o.trace
            side = _side(x, server)
            side.seen, side.time, side.seq = True, lane.begun.time, lane.begun.seq
            if control:
                lane.control = x
            else:
                lane.message = x
        if (
            (fresh and opcode == 0)
            or (control and (opcode not in _NAMES or not lane.fin or length > 125))
            or 3 <= opcode <= 7
            or bool(second & _MASK) == server
        ):
            x.flag(http1.BAD_FRAME)
        x.link_bytes += lane.begun.link
        x.retransmitted += lane.begun.retransmitted
        side = _side(x, server)
        side.end = time
        side.header += len(lane.head)
        side.wire += len(lane.head)
        side.packets += lane.begun.packets
        lane.begun = Begun()
        if not control and fresh:
            lane.compressed = self._negotiated and bool(first & _RSV1)
            if lane.compressed:
                lane.begin_inflating(sink)
        lane.close.clear()
        if length == 0:
            self._end_frame(server, cx, sink)

    def _payload(
        self, server: bool, seen: bytes, rest: int, p: Piece, cost: Cost, cx: Context, sink: Sink
    ) -> int:
        lane = self._lanes[server]
        k = min(lane.left, rest)
        seen = seen[:k]
        x = lane.current()
        if x is not None:
            side = _side(x, server)
            if p.missing:
                x.missing += k
            else:
                link, packets = cost.take(k)
                x.link_bytes += link
                side.body += k
                side.wire += k
                side.packets += packets
                side.end = p.time
        if lane.head[1] & _MASK and (lane.opcode == 8 or lane.compressed):
            mask = bytes(lane.head[-4:])
            start = lane.passed % 4
            key = (mask[start:] + mask[:start]) * (len(seen) // 4 + 1)
            seen = bytes(a ^ b for a, b in zip(seen, key, strict=False))
        if lane.opcode == 8 and lane.passed < 2:
            lane.close += seen[: 2 - lane.passed].ljust(min(2 - lane.passed, k), b"\0")
        if lane.opcode < 8 and lane.compressed and lane.inflate is not None:
            if len(seen) < k:
                lane.inflate.lost = True
            else:
                lane.inflate.feed(seen, sink.options.max_message_bytes)
        lane.passed += k
        lane.left -= k
        if lane.left == 0:
            self._end_frame(server, cx, sink)
        return k

    def _end_frame(self, server: bool, cx: Context, sink: Sink) -> None:
        lane = self._lanes[server]
        lane.step = "header"
        lane.head.clear()
        x = lane.current()
        if x is None:
            return
        name = "response" if server else "request"
        x.extra[f"{name}_messages"] = x.extra.get(f"{name}_messages", 0) + 1
        control = lane.opcode >= 8
        if not control and not lane.fin:
            return
        decoded = _side(x, server).body if control or not lane.compressed else None
        if not control and lane.compressed and lane.inflate is not None:
            # RFC 7692 §7.2.2: the end that the sender left out.
            lane.inflate.feed(b"\0\0\xff\xff", sink.options.max_message_bytes)
            decoded = None if lane.inflate.lost else lane.inflate.out
        if decoded is not None:
            x.extra[f"{name}_decoded_bytes"] = decoded
        code = int.from_bytes(lane.close)
        if lane.opcode == 8 and len(lane.close) == 2 and 1000 <= code < 5000:
            x.status = code  # §7.4.2
        if control:
            lane.control = None
        else:
            lane.message = None
        _emit(x, server, x.missing == 0, cx, sink)

    def repeated(self, server: bool, count: int, payload: int, packets: int) -> bool:
        """A segment came again; true if its bytes have been booked."""
        lane = self._lanes[server]
        x = lane.control if lane.control is not None else lane.message
        if x is None:
            return False
        x.link_bytes += count
        x.retransmitted += payload
        _side(x, server).packets += packets
        return True

    def close(self, cx: Context, sink: Sink) -> None:
        """The connection is over."""
        for server, lane in enumerate(self._lanes):
            if lane.step == "header":
                sink.account.add(MALFORMED, lane.begun.link)
                lane.begun.link = 0
            lane.step = _Lost(RETRANSMISSION)
            if lane.inflate is not None:
                lane.inflate = None
                sink.buffered -= _INFLATE_BYTES
            self._finish(bool(server), http1.CLOSED_EARLY, cx, sink)
