"""One connection's HTTP/2 (RFC 9113): in-order bytes of two directions to exchanges.

Owns frames, header blocks, streams and where each packet's bytes are booked. Never keeps a body
unless messages are asked for: data is counted as it passes. Frames that steer the connection are its
overhead. After a hole it waits for a segment that begins with a frame; what the header table held is
then unknown, and fills again.
"""

from __future__ import annotations

import re
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from replaykit.wire import http1
from replaykit.wire.account import CONNECTION_OVERHEAD, MALFORMED, NOT_UNDERSTOOD, RETRANSMISSION, TRUNCATED
from replaykit.wire.exchange import H2, Exchange, Side
from replaykit.wire.grpc import Grpc
from replaykit.wire.head import end as end_of_head
from replaykit.wire.head import set_field
from replaykit.wire.hpack import Decoder, Fields
from replaykit.wire.message import Message
from replaykit.wire.upper import Begun, Context, Cost, Piece, book
from replaykit.wire.websocket import WebSocket

if TYPE_CHECKING:
    from replaykit.wire.connection import Sink
    from replaykit.wire.filter import Redaction

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""RFC 9113 §3.4."""

DATA, HEADERS, PRIORITY_FRAME, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE = range(9)
CONTINUATION = 9
_BLOCKS = (HEADERS, PUSH_PROMISE, CONTINUATION)
END_STREAM, END_HEADERS, PADDED, PRIORITY = 1, 4, 8, 32
_FRAME = 9
_ODD = re.compile(rb"[\x00-\x20:]")


def _header(b: bytes | bytearray) -> tuple[int, int, int, int]:
    """Kind, flags, stream and payload length of a frame's first nine bytes."""
    return b[3], b[4], int.from_bytes(b[5:9]) & 0x7FFFFFFF, int.from_bytes(b[:3])


def _likely(b: bytes) -> bool:
    """True for nine bytes that are most likely a frame's.

    A known kind, on a stream where it may be, of a length that it may have.
    """
    kind, flags, stream, length = _header(b)
    if kind == DATA:
        on_stream, sized, known = True, length <= 1 << 20, END_STREAM | PADDED
    elif kind == HEADERS:
        known = END_STREAM | END_HEADERS | PADDED | PRIORITY
        on_stream, sized = True, 1 <= length <= 1 << 16
    elif kind == PRIORITY_FRAME:
        on_stream, sized, known = True, length == 5, 0
    elif kind == RST_STREAM:
        on_stream, sized, known = True, length == 4, 0
    elif kind == SETTINGS:
        on_stream, known = False, 1
        sized = length % 6 == 0 and length < 256 and (flags == 0 or length == 0)
    elif kind == PUSH_PROMISE:
        on_stream, sized, known = True, 5 <= length <= 1 << 16, END_HEADERS | PADDED
    elif kind == PING:
        on_stream, sized, known = False, length == 8, 1
    elif kind == GOAWAY:
        on_stream, sized, known = False, 8 <= length < 1 << 16, 0
    elif kind == WINDOW_UPDATE:
        on_stream, sized, known = stream != 0, length == 4, 0
    elif kind == CONTINUATION:
        on_stream, sized, known = True, 1 <= length <= 1 << 16, END_HEADERS
    else:
        return False
    return not b[5] & 0x80 and on_stream == (stream != 0) and sized and not flags & ~known


def clear_start(b: bytes) -> bool:
    """True if a segment begins with a frame, and after each whole one comes another or its end."""
    at = 0
    while len(b) - at >= _FRAME:
        if not _likely(b[at : at + _FRAME]):
            return False
        at += _FRAME + _header(b[at : at + _FRAME])[3]
    return at > 0


def server_start(b: bytes) -> bool:
    """True if a server may open with these bytes: its SETTINGS."""
    return len(b) >= _FRAME and b[3] == SETTINGS and b[4] == 0 and _likely(b[:_FRAME])


@dataclass(slots=True)
class _Preface:
    passed: int


@dataclass(slots=True)
class _Lost:
    """Not in step: bytes go to the cause until a segment begins with a frame."""

    cause: str


@dataclass(slots=True)
class _Frame:
    """The frame that is passing.

    left: payload still to come; padding: of that. opened: the pad length has been read, where there
    is one. cut: not all of its payload was seen.
    """

    kind: int = 0
    flags: int = 0
    stream: int = 0
    length: int = 0
    left: int = 0
    padding: int = 0
    opened: bool = False
    cut: bool = False
    begun: Begun = field(default_factory=Begun)


@dataclass(slots=True)
class _Block:
    """The header block being put together. payload, wire: without and with frame headers."""

    stream: int
    end_stream: bool
    begun: Begun
    promised: int = 0
    cut: bool = False
    data: bytearray = field(default_factory=bytearray)
    payload: int = 0
    wire: int = 0


class _Lane:
    """`last`: the stream that spoke last, to which repeats are booked."""

    def __init__(self, step: str | _Preface, whole: bool) -> None:
        self.step: str | _Preface | _Lost = step
        self.head = bytearray()
        self.frame = _Frame()
        self.payload = bytearray()
        self.block: _Block | None = None
        self.hpack = Decoder(whole)
        self.last = 0

    def lose_table(self, sink: Sink) -> None:
        sink.buffered -= self.hpack.held
        self.hpack.lose()


@dataclass(slots=True)
class _Flow:
    """One side of a stream beyond what is measured: its message, if it is wanted."""

    keep: bool = False
    head: bytes = b""
    body: bytearray = field(default_factory=bytearray)
    trailers: bytearray = field(default_factory=bytearray)
    has_length: bool = False
    grpc: Grpc | None = None

    def buffered(self) -> int:
        return len(self.head) + len(self.body) + len(self.trailers)

    def clear(self) -> None:
        self.keep, self.has_length, self.head = False, False, b""
        self.body.clear()
        self.trailers.clear()

    def spoil(self, sink: Sink) -> None:
        """The message cannot be handed out."""
        if self.keep:
            sink.buffered -= self.buffered()
            self.clear()
            sink.account.messages_cut += 1

    def http1(self, redaction: Redaction) -> bytes:
        """The message as HTTP/1.1 sends it: with trailers in chunks, else with its length."""
        head, body = bytearray(self.head), bytes(self.body)
        chunked = bool(self.trailers) and not self.has_length
        if chunked:
            head += b"transfer-encoding: chunked\r\n"
        elif not self.has_length and body:
            head += _line(b"content-length", b"%d" % len(body))
        head += b"\r\n"
        if redaction:
            head = bytearray(redaction.head(bytes(head)))
        if not chunked:
            return bytes(head + body)
        if body:
            head += b"%x\r\n%b\r\n" % (len(body), body)
        return bytes(head + b"0\r\n" + self.trailers + b"\r\n")


class _Stream:
    def __init__(self, x: Exchange, number: int) -> None:
        x.protocol = H2
        x.stream = number if number < 1 << 31 else number - (1 << 32)
        self.x = x
        self.flows = (_Flow(), _Flow())
        self.websocket: WebSocket | None = None

    def side(self, server: bool) -> Side:
        return self.x.response if server else self.x.request

    def open(
        self, server: bool, wanted: bool, sound: bool, head: bytes, has_length: bool, sink: Sink
    ) -> None:
        """A message begins on this side; its head as HTTP/1.1 is kept where it is wanted and `sound`."""
        flow = self.flows[server]
        if self.x.grpc:
            flow.grpc = Grpc()
        wanted = wanted and not self.x.denied
        flow.keep = wanted and sound
        sink.account.messages_cut += wanted and not sound
        if flow.keep:
            flow.has_length = has_length
            flow.head = head
            sink.buffered += len(head)

    def grpc_status(self, text: bytes) -> None:
        if 0 < len(text) <= 3 and text.isdigit():
            self.x.extra["grpc_status"] = int(text)

    def hand_out(self, server: bool, cx: Context, sink: Sink) -> None:
        """Hands out this side's message, if it is wanted and whole."""
        flow = self.flows[server]
        if not flow.keep:
            return
        if self.x.missing:
            flow.spoil(sink)
            return
        payload = flow.http1(sink.redaction)
        if not server and sink.options.real_ip_header:
            body = end_of_head(payload)
            name = sink.options.real_ip_header.encode()
            payload = set_field(payload[:body], name, cx.client_address().encode()) + payload[body:]
        sink.buffered -= flow.buffered()
        flow.clear()
        side = self.side(server)
        latency = side.end - side.time
        sink.messages.push(Message(1 + server, self.x.id, side.time, latency, payload, cx.id, self.x.stream))


class _Named:
    """The fields of a block that matter here; a later one replaces an earlier one."""

    def __init__(self, fields: Fields) -> None:
        all_fields = dict(fields.items)
        get = all_fields.get
        self.method = get(b":method", b"")
        self.path = get(b":path", b"")
        self.authority = get(b":authority", b"")
        self.host = get(b"host", b"")
        self.https = get(b":scheme", b"") == b"https"
        self.protocol = get(b":protocol", b"")
        self.content_type = get(b"content-type", b"")
        self.content_encoding = get(b"content-encoding", b"")
        self.grpc_status = get(b"grpc-status", b"")
        self.extensions = get(b"sec-websocket-extensions", b"")
        self.has_length = b"content-length" in all_fields
        self.trace = http1.trace(get(b"traceparent", b""), get(b"b3", b""), get(b"x-b3-traceid", b""))
        self.status_text = get(b":status", b"")
        known = len(self.status_text) == 3 and self.status_text.isdigit() and self.status_text[0] != 0x30
        self.status = int(self.status_text) if known else 0

    @property
    def is_grpc(self) -> bool:
        return self.content_type.startswith(b"application/grpc")


def _line(name: bytes, value: bytes) -> bytes:
    return name + b": " + value + b"\r\n"


def _writable(fields: Fields) -> bool:
    """True if HTTP/1.1 can write these fields: names without what ends a name, no blanks in a start line."""
    for name, value in fields.items:
        pseudo = name.startswith(b":")
        if _ODD.search(name, 1 if pseudo else 0) or not name or (pseudo and b" " in value):
            return False
    return True


def _http1_head(fields: Fields, n: _Named, server: bool) -> bytes:
    """A head as HTTP/1.1 writes it (RFC 9113 §8), without the blank line that ends it."""
    out = bytearray()
    if server:
        out += b"HTTP/1.1 " + n.status_text + b" \r\n"
    else:
        out += n.method + b" " + (n.path or n.authority) + b" HTTP/1.1\r\n"
        if n.authority:
            out += _line(b"host", n.authority)
    cookies = []
    for name, value in fields.items:
        if name.startswith(b":") or (name == b"host" and n.authority):
            continue
        if name == b"cookie":  # §8.2.3: cookies may come in pieces
            cookies.append(value)
        else:
            out += _line(name, value)
    if cookies:
        out += _line(b"cookie", b"; ".join(cookies))
    return bytes(out)


class Http2:
    """A connection that speaks HTTP/2 from here on; the client's first `preface` bytes have passed.

    whole: its beginning was seen.
    """

    def __init__(self, client: int, preface: int, whole: bool) -> None:
        self._client = client
        first = _Lane(_Preface(preface) if whole else "header", whole)
        second = _Lane("header", whole)
        self._lanes = (first, second) if client == 0 else (second, first)
        self._streams: dict[int, _Stream] = {}
        self._whole = whole

    def upgraded(self, request: Exchange) -> None:
        """RFC 7540 §3.2: the request that asked for the upgrade is answered on stream 1."""
        x = copy(request)
        x.request = replace(request.request, header=0, body=0, wire=0, packets=0, done=True, whole=True)
        x.response = Side()
        x.extra = {}
        x.link_bytes = x.retransmitted = x.missing = 0
        x.anomaly = None
        self._streams[1] = _Stream(x, 1)

    def feed(self, d: int, p: Piece, cost: Cost, cx: Context, sink: Sink) -> None:
        """In-order bytes, or a hole (`p.missing`)."""
        lane = self._lanes[d]
        at = 0
        while at < p.length:
            seen, rest = p.data[at:], p.length - at
            if isinstance(lane.step, _Lost):
                if at == 0 and p.first and clear_start(seen):
                    lane.step = "header"
                    lane.head.clear()
                    continue
                book(p, lane.step.cause, rest, cost, sink)
                return
            if isinstance(lane.step, _Preface):
                at += self._preface(d, lane.step, seen, rest, p, cost, sink)
            elif lane.step == "header":
                at += self._frame(d, seen, rest, at, p, cost, cx, sink)
            else:
                at += self._payload(d, seen, rest, p, cost, cx, sink)

    def _preface(
        self, d: int, step: _Preface, seen: bytes, rest: int, p: Piece, cost: Cost, sink: Sink
    ) -> int:
        left = PREFACE[step.passed :]
        k = min(len(left), rest)
        if seen[:k] != left[:k]:
            self._lose(d, p, MALFORMED, sink)
            return 0
        sink.account.add(CONNECTION_OVERHEAD, cost.take(k)[0])
        step.passed += k
        if step.passed == len(PREFACE):
            self._lanes[d].step = "header"
        return k

    def _lose(self, d: int, p: Piece, cause: str, sink: Sink) -> None:
        """Frames can no longer be told apart."""
        cause = p.lost(cause)
        lane = self._lanes[d]
        lane.step = _Lost(cause)
        lane.lose_table(sink)
        self._drop_block(d, cause, sink)

    def _drop_block(self, d: int, cause: str, sink: Sink) -> None:
        lane = self._lanes[d]
        sink.buffered -= len(lane.payload)
        lane.payload.clear()
        if lane.block is not None:
            sink.buffered -= len(lane.block.data)
            sink.account.add(cause, lane.block.begun.link)
            lane.block = None

    def _frame(
        self, d: int, seen: bytes, rest: int, at: int, p: Piece, cost: Cost, cx: Context, sink: Sink
    ) -> int:
        """A frame's first nine bytes."""
        lane = self._lanes[d]
        k = min(_FRAME - len(lane.head), rest)
        if not lane.head:
            lane.frame.begun = Begun(p.time, p.time, (p.seq + at) & 0xFFFFFFFF)
        begun = lane.frame.begun
        if len(seen) < k:
            sink.account.add(p.lost(TRUNCATED), begun.link)
            begun.link = 0
            self._lose(d, p, TRUNCATED, sink)
            return 0
        lane.head += seen[:k]
        begun.pay(cost.take(k))
        if len(lane.head) < _FRAME:
            return k
        begun.end = p.time
        kind, flags, stream, length = _header(lane.head)
        lane.head.clear()
        lane.frame = _Frame(kind, flags, stream, length, length, begun=begun)
        lane.step = "payload"
        if lane.block is not None and (kind != CONTINUATION or stream != lane.block.stream):
            # RFC 9113 §6.10: nothing else may come in between.
            lane.lose_table(sink)
            self._drop_block(d, MALFORMED, sink)
        if kind == DATA:
            self._open_data(d, sink)
        if length == 0:
            self._end_frame(d, cx, sink)
        return k

    def _payload(self, d: int, seen: bytes, rest: int, p: Piece, cost: Cost, cx: Context, sink: Sink) -> int:
        """Payload of the frame that is passing."""
        lane = self._lanes[d]
        frame = lane.frame
        k = min(frame.left, rest)
        if frame.kind != DATA:
            self._keep(d, seen[:k], k, p, cost, sink)
        elif frame.flags & PADDED and not frame.opened:
            # Padding that fills the whole payload or more is an error (§6.1): it is all padding.
            frame.opened, k = True, 1
            self._data(d, b"", k, 0, p, cost, cx, sink)
            frame.padding = min(seen[0] if seen else 0, frame.left - 1)
        else:
            content = min(max(frame.left - frame.padding, 0), k)
            k = content or k
            self._data(d, seen[:k], k, content, p, cost, cx, sink)
        frame.left -= k
        if frame.left == 0:
            self._end_frame(d, cx, sink)
        return k

    def _keep(self, d: int, seen: bytes, k: int, p: Piece, cost: Cost, sink: Sink) -> None:
        """Payload of a frame that is not data: header blocks are kept, and what ends streams."""
        lane = self._lanes[d]
        frame = lane.frame
        if not p.missing:
            frame.begun.pay(cost.take(k))
            frame.begun.end = p.time
        frame.cut |= len(seen) < k
        if frame.kind in _BLOCKS and not frame.cut:
            kept = len(lane.payload) + k + (len(lane.block.data) if lane.block else 0)
            if kept > sink.options.max_head_bytes or sink.buffered + k > sink.options.max_buffer_bytes:
                sink.account.bound_hits += 1
                frame.cut = True
            else:
                lane.payload += seen
                sink.buffered += k
        elif frame.kind == GOAWAY:
            kept_bytes = seen[: max(4 - len(lane.payload), 0)]
            lane.payload += kept_bytes
            sink.buffered += len(kept_bytes)

    def _speaking(self, number: int, server: bool) -> _Stream | None:
        """The stream, if this side of it may still speak."""
        s = self._streams.get(number)
        return s if s is not None and not s.side(server).done else None

    def _open_data(self, d: int, sink: Sink) -> None:
        """A DATA frame begins: its header is part of the message."""
        server = d != self._client
        lane = self._lanes[d]
        begun, lane.frame.begun = lane.frame.begun, Begun()
        lane.last = lane.frame.stream
        s = self._speaking(lane.frame.stream, server)
        if s is None:
            sink.account.add(self._strange(), begun.link)
            return
        s.x.link_bytes += begun.link
        s.x.retransmitted += begun.retransmitted
        side = s.side(server)
        side.wire += _FRAME
        side.packets += begun.packets
        side.end = begun.end

    def _strange(self) -> str:
        """Where data of a stream goes that is not open: before the capture, or after a reset."""
        return CONNECTION_OVERHEAD if self._whole else NOT_UNDERSTOOD

    def _data(
        self, d: int, seen: bytes, k: int, content: int, p: Piece, cost: Cost, cx: Context, sink: Sink
    ) -> None:
        """`k` payload bytes of a DATA frame: all `content`, or all padding."""
        server = d != self._client
        s = self._speaking(self._lanes[d].frame.stream, server)
        if s is None:
            book(p, self._strange(), k, cost, sink)
            return
        side = s.side(server)
        if s.websocket is not None and content:
            side.end = p.time
            s.websocket.feed(server, Piece(seen, k, p.time, p.seq, False, p.missing), cost, cx, sink)
            return
        if p.missing:
            s.x.missing += content
        else:
            link, packets = cost.take(k)
            s.x.link_bytes += link
            side.packets += packets
            side.end = p.time
            side.wire += k
            side.body += content
        if not content:
            return
        flow = s.flows[server]
        if flow.grpc is not None:
            flow.grpc.feed(seen, k)
        if flow.keep:
            o = sink.options
            if (
                len(seen) < k
                or len(flow.body) + k > o.max_message_bytes
                or sink.buffered + k > o.max_buffer_bytes
            ):
                flow.spoil(sink)
            else:
                flow.body += seen
                sink.buffered += k

    def _end_frame(self, d: int, cx: Context, sink: Sink) -> None:
        lane = self._lanes[d]
        lane.step = "header"
        frame = lane.frame
        begun, frame.begun = frame.begun, Begun()
        if frame.kind == DATA:
            if frame.flags & END_STREAM:
                self._end_side(frame.stream, d != self._client, cx, sink)
            return
        if frame.kind in _BLOCKS:
            self._end_fragment(d, begun, cx, sink)
            return
        sink.account.add(CONNECTION_OVERHEAD, begun.link)
        payload = bytes(lane.payload)
        sink.buffered -= len(payload)
        lane.payload.clear()
        if frame.kind == RST_STREAM:
            self._reset(frame.stream, cx, sink)
        elif frame.kind == GOAWAY and len(payload) == 4:
            # §6.8: what the sender of this has not taken up will not be answered.
            last = int.from_bytes(payload) & 0x7FFFFFFF
            own = int(d != self._client)  # odd streams are the client's
            for number in sorted(n for n in self._streams if n > last and n & 1 == own):
                self._reset(number, cx, sink)

    def _end_fragment(self, d: int, begun: Begun, cx: Context, sink: Sink) -> None:
        """A frame of a header block has passed."""
        lane = self._lanes[d]
        frame = lane.frame
        fragment = bytes(lane.payload)
        sink.buffered -= len(fragment)
        lane.payload.clear()
        sound = not frame.cut
        if frame.kind != CONTINUATION:
            end_stream = frame.kind == HEADERS and bool(frame.flags & END_STREAM)
            lane.block = _Block(frame.stream, end_stream, Begun(begun.time, begun.time, begun.seq))
            inner = _inside(frame.kind, frame.flags, fragment) if sound else None
            sound = inner is not None
            if inner is not None:
                lane.block.promised, fragment = inner
        block = lane.block
        if block is None:
            # Its beginning is not here, or §6.10 is broken.
            lane.lose_table(sink)
            sink.account.add(MALFORMED if self._whole else NOT_UNDERSTOOD, begun.link)
            return
        block.cut |= not sound
        block.payload += frame.length
        block.wire += frame.length + _FRAME
        block.begun.link += begun.link
        block.begun.packets += begun.packets
        block.begun.retransmitted += begun.retransmitted
        block.begun.end = begun.end
        if not block.cut:
            block.data += fragment
            sink.buffered += len(fragment)
        if not frame.flags & END_HEADERS:
            return
        lane.block = None
        sink.buffered -= len(block.data)
        fields, wrong = Fields(unknown=True), None
        sink.buffered -= lane.hpack.held
        if block.cut:
            lane.hpack.lose()
        else:
            fields, whole = lane.hpack.block(bytes(block.data), sink.options.max_head_bytes)
            wrong = None if whole else http1.BAD_HEADER_BLOCK
        sink.buffered += lane.hpack.held
        sink.account.bound_hits += fields.cut
        if lane.hpack.held and sink.buffered > sink.options.max_buffer_bytes:
            sink.account.bound_hits += 1
            lane.lose_table(sink)
        if wrong is None and fields.hostile:
            wrong = http1.BAD_HEADER_BLOCK
        if wrong is None and fields.unknown:
            wrong = http1.UNDECODED_HEADERS
        lane.last = block.stream
        self._headers(d, block, fields, wrong, cx, sink)

    def _headers(
        self, d: int, block: _Block, fields: Fields, wrong: str | None, cx: Context, sink: Sink
    ) -> None:
        """A header block was read: a message begins, goes on or ends."""
        named = _Named(fields)
        server = d != self._client
        if block.promised or not server:
            number = block.promised or block.stream
            if number not in self._streams:
                self._request(number, block, fields, named, wrong, cx, sink)
            elif not block.promised:
                self._trailers(number, False, block, fields, named, wrong, sink)
            else:
                sink.account.add(MALFORMED, block.begun.link)
        else:
            number = block.stream
            if number not in self._streams:
                if self._whole:
                    # After a reset, or on a stream that nobody opened.
                    sink.account.add(CONNECTION_OVERHEAD, block.begun.link)
                    return
                s = _Stream(Exchange(0), number)
                s.x.request.done = True
                s.x.denied = not sink.filters.passes_unknown()
                s.x.id = cx.gor_id(number)
                self._insert(number, s, cx, sink)
            if self._streams[number].x.response.seen:
                self._trailers(number, True, block, fields, named, wrong, sink)
            else:
                self._response(number, block, fields, named, wrong, sink)
        if block.end_stream:
            self._end_side(block.stream, server, cx, sink)

    def _insert(self, number: int, s: _Stream, cx: Context, sink: Sink) -> None:
        if len(self._streams) >= sink.options.max_pipeline:
            oldest = min(self._streams)
            sink.account.bound_hits += 1
            self._streams[oldest].x.flag(http1.PIPELINE_BOUND)
            self._over(oldest, cx, sink)
        self._streams[number] = s

    def _request(
        self,
        number: int,
        block: _Block,
        fields: Fields,
        n: _Named,
        wrong: str | None,
        cx: Context,
        sink: Sink,
    ) -> None:
        s = _Stream(Exchange(0), number)
        x = s.x
        _begin(x.request, block)
        x.link_bytes, x.retransmitted = block.begun.link, block.begun.retransmitted
        x.flag(wrong)
        x.method, x.target, x.host = n.method, n.path or n.authority, n.authority or n.host
        x.trace, x.https, x.grpc = n.trace, n.https, n.is_grpc
        x.upgrades = n.method == b"CONNECT" and n.protocol.lower() == b"websocket"
        head = _http1_head(fields, n, False)
        x.denied = not sink.filters.passes(n.method, x.target, head)
        x.id = cx.gor_id(number)
        x.extra["request_uncompressed_header_bytes"] = fields.size
        sound = wrong is None and _writable(fields)
        s.open(False, sink.options.requests, sound, head, n.has_length, sink)
        if block.promised:  # §8.4: a promised request has no content
            x.request.done = x.request.whole = True
            s.flows[0].spoil(sink)
        self._insert(number, s, cx, sink)

    def _response(
        self, number: int, block: _Block, fields: Fields, n: _Named, wrong: str | None, sink: Sink
    ) -> None:
        s = self._streams[number]
        x = s.x
        x.link_bytes += block.begun.link
        x.retransmitted += block.begun.retransmitted
        x.flag(wrong)
        if 100 <= n.status < 200:
            x.response.wire += block.wire
            x.response.packets += block.begun.packets
            return
        _begin(x.response, block)
        x.status = n.status
        x.content_type, x.content_encoding = n.content_type, n.content_encoding
        x.grpc |= n.is_grpc
        x.extra["response_uncompressed_header_bytes"] = fields.size
        if x.upgrades and 200 <= n.status < 300:
            s.websocket = WebSocket(x, n.extensions)
        sound = wrong is None and _writable(fields)
        s.open(True, sink.options.responses, sound, _http1_head(fields, n, True), n.has_length, sink)
        s.grpc_status(n.grpc_status)

    def _trailers(
        self,
        number: int,
        server: bool,
        block: _Block,
        fields: Fields,
        n: _Named,
        wrong: str | None,
        sink: Sink,
    ) -> None:
        s = self._speaking(number, server)
        if s is None:
            sink.account.add(CONNECTION_OVERHEAD, block.begun.link)
            return
        s.x.link_bytes += block.begun.link
        s.x.retransmitted += block.begun.retransmitted
        s.x.flag(wrong)
        name = f"{'response' if server else 'request'}_uncompressed_header_bytes"
        s.x.extra[name] = s.x.extra.get(name, 0) + fields.size
        side = s.side(server)
        side.header += block.payload
        side.wire += block.wire
        side.packets += block.begun.packets
        side.end = block.begun.end
        if server:
            s.grpc_status(n.grpc_status)
        flow = s.flows[server]
        if wrong is not None or not _writable(fields):
            flow.spoil(sink)
        if flow.keep:
            lines = b"".join(_line(name, value) for name, value in fields.items)
            flow.trailers += lines
            sink.buffered += len(lines)

    def _end_side(self, number: int, server: bool, cx: Context, sink: Sink) -> None:
        """One side of a stream has ended."""
        s = self._speaking(number, server)
        if s is None or not s.side(server).seen:
            return
        side = s.side(server)
        side.done = side.whole = True
        s.hand_out(server, cx, sink)
        if s.x.request.done and s.x.response.done:
            self._over(number, cx, sink)

    def _reset(self, number: int, cx: Context, sink: Sink) -> None:
        """A stream was reset or refused."""
        if number in self._streams:
            self._streams[number].x.flag(http1.STREAM_RESET)
            self._over(number, cx, sink)

    def _over(self, number: int, cx: Context, sink: Sink) -> None:
        """A stream is over: its exchange is handed out as it stands."""
        s = self._streams.pop(number)
        if s.websocket is not None:
            s.websocket.close(cx, sink)
        for name, flow in zip(("request", "response"), s.flows, strict=True):
            flow.spoil(sink)
            if flow.grpc is not None:
                s.x.extra[f"{name}_messages"] = flow.grpc.messages
                s.x.extra[f"{name}_message_bytes"] = flow.grpc.bytes
        s.x.request.done = s.x.response.done = True
        cx.push(s.x, sink)

    def repeated(self, d: int, count: int, payload: int, packets: int, sink: Sink) -> None:
        """A segment came again: its bytes go to the stream that spoke last, if that is open."""
        server = d != self._client
        s = self._speaking(self._lanes[d].last, server)
        if s is None or not s.side(server).seen:
            sink.account.add(RETRANSMISSION, count)
            return
        if s.websocket is not None and s.websocket.repeated(server, count, payload, packets):
            return
        s.x.link_bytes += count
        s.x.retransmitted += payload
        s.side(server).packets += packets

    def close(self, cx: Context, sink: Sink) -> None:
        """The connection is over: everything unfinished is handed out as it stands."""
        for d, lane in enumerate(self._lanes):
            if lane.step == "payload" or (lane.step == "header" and lane.head):
                sink.account.add(MALFORMED, lane.frame.begun.link)
            lane.step = _Lost(RETRANSMISSION)
            lane.lose_table(sink)
            self._drop_block(d, MALFORMED, sink)
        for number in sorted(self._streams):
            self._streams[number].x.flag(http1.CLOSED_EARLY)
            self._over(number, cx, sink)


def _begin(side: Side, block: _Block) -> None:
    """A side of an exchange begins; interim responses may have been counted to it already."""
    side.seen = True
    side.time, side.end, side.seq = block.begun.time, block.begun.end, block.begun.seq
    side.header = block.payload
    side.wire += block.wire
    side.packets += block.begun.packets


def _inside(kind: int, flags: int, payload: bytes) -> tuple[int, bytes] | None:
    """What a frame's payload holds beside the fragment: the promised stream, and the fragment."""
    b, pad, promised = payload, 0, 0
    if flags & PADDED:
        if not b:
            return None
        pad, b = b[0], b[1:]
    if kind == PUSH_PROMISE:
        if len(b) < 4:
            return None
        promised, b = int.from_bytes(b[:4]) & 0x7FFFFFFF, b[4:]
        if not promised:
            return None
    elif flags & PRIORITY:
        if len(b) < 5:
            return None
        b = b[5:]
    return (promised, b[: len(b) - pad]) if pad <= len(b) else None
