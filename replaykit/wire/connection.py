"""One connection's HTTP/1: in-order bytes of two directions to exchanges.

Owns pairing, body framing over segments, holes, switches to other protocols and where each packet's
bytes are booked. It is fed by `tcp`, in order, and never looks ahead. Cost grows with heads and
chunk lines; body bytes are only counted unless messages are asked for.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from replaykit.wire import http1
from replaykit.wire.account import (
    CONNECTION_OVERHEAD,
    GAP,
    MALFORMED,
    MEMORY_BOUND,
    NOT_UNDERSTOOD,
    RETRANSMISSION,
    SWITCHED_PROTOCOL,
    TRUNCATED,
    UNKNOWN_PROTOCOL,
    Account,
)
from replaykit.wire.endpoint import Templates
from replaykit.wire.exchange import Columns, Exchange, Side, ip_text
from replaykit.wire.filter import Filters, HeaderRule, Redaction
from replaykit.wire.head import set_field
from replaykit.wire.http1 import REQUEST, RESPONSE, Blind, Body, Chunked, Head, Kind, Length, UntilClose
from replaykit.wire.http2 import PREFACE, Http2, clear_start, server_start
from replaykit.wire.link import Addr
from replaykit.wire.message import Builder, Message, gor_id
from replaykit.wire.opaque import Opaque, tls_amid, tls_start
from replaykit.wire.options import Options
from replaykit.wire.tap import Handed, Tap
from replaykit.wire.upper import Begun, Context, Cost, Piece, book
from replaykit.wire.websocket import WebSocket


class Sink:
    """Where finished things go. `buffered`: bytes in all buffers of all connections."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.columns = Columns(options.weight)
        self.messages = Builder()
        self.account = Account()
        self.buffered = 0
        self.pieces: list[Handed] = []
        self.templates = Templates(options.endpoints)
        self.redaction = Redaction(
            frozenset(n.lower().encode() for n in options.redact_headers),
            frozenset(n.lower().encode() for n in options.redact_parameters),
        )
        self.filters = Filters(
            _header_rules(options.allow_headers),
            _header_rules(options.deny_headers),
            _patterns(options.allow_methods),
            _patterns(options.deny_methods),
            _patterns(options.allow_urls),
            _patterns(options.deny_urls),
        )


def _patterns(patterns: tuple[str, ...]) -> list[re.Pattern[bytes]]:
    try:
        return [re.compile(p.encode()) for p in patterns]
    except re.error as error:
        raise ValueError(f"{error.pattern!r}: {error.msg}") from None


def _header_rules(rules: tuple[tuple[str, str | None], ...]) -> list[HeaderRule]:
    return [(name, None if value is None else _patterns((value,))[0]) for name, value in rules]


@dataclass(slots=True)
class Chunks:
    """New in-order bytes: `data` was captured of the `length` that were sent."""

    data: bytes
    length: int
    time: int
    seq: int
    ack: int | None
    overhead: int
    packets: int


@dataclass(frozen=True, slots=True)
class Skip:
    """Not in step: bytes go to the cause until a segment begins clearly."""

    cause: str


# Idle: between messages. head: in a head that spans segments. switched: after CONNECT or an upgrade.
State = Literal["idle", "head", "switched"] | Skip | Body


@dataclass(slots=True)
class Lane:
    """One direction. `keep`: its message is still whole. `hole`: where one between messages began.

    `unasked`: a response without its request has just begun; it may answer HEAD.
    """

    state: State
    begun: Begun = field(default_factory=Begun)
    head: bytearray = field(default_factory=bytearray)
    message: bytearray = field(default_factory=bytearray)
    keep: bool = False
    unasked: bool = False
    hole: int | None = None
    closed: bool = False


_BODIES = (Length, Chunked, UntilClose, Blind)


def distance(a: int, b: int) -> int:
    """a - b on the circle of sequence numbers."""
    return ((a - b + 0x80000000) & 0xFFFFFFFF) - 0x80000000


Upper = Http2 | WebSocket | Opaque | Tap
"""What is spoken after a switch."""


def _upgrade(x: Exchange, head: bytes, server: int) -> Http2 | WebSocket | None:
    """What an answer of status 101 switches to, where that is known (RFC 9110 §7.8)."""
    fields: dict[bytes, bytes] = {}
    for name, value in http1.fields(head):
        fields.setdefault(name.lower(), value)
    to = fields.get(b"upgrade", b"").lower()
    if to == b"websocket":
        return WebSocket(x, fields.get(b"sec-websocket-extensions", b""))
    if to == b"h2c":
        h = Http2(1 - server, 0, True)
        h.upgraded(x)
        return h
    return None


class Http:
    """`client` is the lane of the client, a guess until `understood`."""

    def __init__(
        self, number: int, ends: tuple[tuple[Addr, int], tuple[Addr, int]], client: int, state: State
    ):
        self.id = number
        self.ends = ends
        self.client = client
        self.understood = False
        self.lanes = (Lane(state), Lane(state))
        self._queue: deque[Exchange] = deque()
        self._stream = 0
        self._forgotten = 0
        self._last_id: int | None = None
        self._upper: Upper | None = None
        self._next: Upper | None = None
        self._secure: bytes | None = None
        """What is spoken once the answer that switches has ended."""

    def _fits(self, kind: Kind, d: int) -> bool:
        if not self.understood:
            self.understood = True
            self.client = d if kind == REQUEST else 1 - d
        return (kind == REQUEST) == (d == self.client)

    def _current_request(self) -> int | None:
        return next((i for i in reversed(range(len(self._queue))) if not self._queue[i].request.done), None)

    def _current_response(self) -> int | None:
        return next((i for i, x in enumerate(self._queue) if not x.response.done), None)

    def _current(self, d: int) -> Exchange | None:
        """The exchange whose message is passing in this direction."""
        i = self._current_request() if d == self.client else self._current_response()
        return None if i is None else self._queue[i]

    def _side(self, x: Exchange, d: int) -> Side:
        return x.request if d == self.client else x.response

    def feed(self, d: int, c: Chunks, sink: Sink) -> None:
        """In-order bytes."""
        cost = Cost(c.overhead, c.packets)
        at = 0
        while at < c.length:
            seen, rest = c.data[at:], c.length - at
            state = self.lanes[d].state
            if isinstance(state, _BODIES):
                at += self._body(d, state, seen, rest, at == 0, c, cost, sink)
            elif isinstance(state, Skip):
                at += self._skip(d, state.cause, seen, rest, at == 0, cost, sink)
            elif state == "idle":
                at += self._begin(d, seen, rest, at, c, cost, sink)
            elif state == "head":
                at += self._head(d, seen, rest, c, cost, sink)
            else:
                seq = (c.seq + at) & 0xFFFFFFFF
                self._above(d, Piece(seen, rest, c.time, seq, at == 0, False), cost, sink)
                at += rest

    def _above(self, d: int, p: Piece, cost: Cost, sink: Sink) -> None:
        if isinstance(self._upper, Http2):
            self._upper.feed(d, p, cost, Context(self), sink)
        elif self._upper is not None:
            self._upper.feed(d != self.client, p, cost, Context(self), sink)
        else:
            book(p, SWITCHED_PROTOCOL, p.length, cost, sink)

    def _switch(self, upper: Upper | None, sink: Sink) -> None:
        """Both directions speak something else from here on."""
        for d, lane in enumerate(self.lanes):
            if lane.state == "head":
                self._drop_head(d, SWITCHED_PROTOCOL, sink)
            lane.state = "switched"
        self._upper = upper

    def _prior_knowledge(self, d: int, seen: bytes, fresh: bool, sink: Sink) -> bool:
        """Something else than HTTP/1 from the first byte on.

        What the options say of this connection, TLS, or HTTP/2. `fresh`: the connection's beginning
        was seen.
        """
        if self.understood:
            return self._http2(d, seen, fresh, sink)
        o = sink.options
        hello = tls_start(seen)
        upper: Upper
        if o.raw:
            upper = Opaque(None)
        elif any(port in o.tap_ports for _, port in self.ends):
            upper = Tap()
        elif hello is not None or (not fresh and tls_amid(seen)):
            upper = Tap() if o.tap_tls else Opaque(fresh or hello is not None)
        else:
            return self._http2(d, seen, fresh, sink)
        if hello is not None and not o.raw:
            self.client = d if hello else 1 - d
        self.understood = True
        self._switch(upper, sink)
        return True

    def secure(self, alpn: bytes) -> None:
        """The bytes come out of TLS, which negotiated this protocol."""
        self._secure = alpn

    def _http2(self, d: int, seen: bytes, fresh: bool, sink: Sink) -> bool:
        """HTTP/2 without an upgrade, if these are its first bytes.

        The client's preface or the server's SETTINGS, or frames where the beginning was not seen.
        """
        preface = seen.startswith(PREFACE[:18])
        if preface:
            client = d
        elif not self.understood and fresh and server_start(seen):
            client = 1 - d
        elif not self.understood and not fresh and clear_start(seen):
            client = self.client
        else:
            return False
        if self.understood and (client != self.client or self._queue):
            return False
        self.understood, self.client = True, client
        self._switch(Http2(client, 0, fresh or preface), sink)
        return True

    def next_stream(self) -> int:
        number, self._stream = self._stream, self._stream + 1
        return number

    def _skip(self, d: int, cause: str, seen: bytes, rest: int, first: bool, cost: Cost, sink: Sink) -> int:
        kind = http1.clear_start(seen) if first else None
        if kind is not None and (not self.understood or (kind == REQUEST) == (d == self.client)):
            self.lanes[d].state = "idle"
            return 0
        if first and cause == NOT_UNDERSTOOD and self._prior_knowledge(d, seen, False, sink):
            return 0
        sink.account.add(cause, cost.take(rest)[0])
        return rest

    def _refuse(self, d: int, cause: str, count: int, sink: Sink) -> None:
        """Not HTTP: the bytes go to a cause, and reading waits for a clear start."""
        sink.account.add(cause, count)
        self.lanes[d].state = Skip(cause)

    def _broken(self) -> str:
        return MALFORMED if self.understood else UNKNOWN_PROTOCOL

    def _begin(self, d: int, seen: bytes, rest: int, at: int, c: Chunks, cost: Cost, sink: Sink) -> int:
        # RFC 9112 §2.2: blank lines before a request are ignored; some servers send one after a body.
        blank = len(seen) - len(seen.lstrip(b"\r\n"))
        if blank:
            sink.account.add(CONNECTION_OVERHEAD, cost.take(blank)[0])
            return blank
        if (seen[:1] == b"P" or not self.understood) and self._prior_knowledge(d, seen, True, sink):
            return 0
        covered = len(seen) >= rest
        begun = Begun(c.time, c.time, (c.seq + at) & 0xFFFFFFFF, c.ack)
        head = http1.parse(seen, not covered)
        if isinstance(head, Head) and self._fits(head.kind, d):
            begun.link, begun.packets = cost.take(head.size)
            self._message(d, head, seen[: head.size], begun, sink)
            return head.size
        begun.link, begun.packets = cost.take(rest)
        if head == "partial" and covered:
            lane = self.lanes[d]
            lane.begun = begun
            lane.head = bytearray(seen)
            sink.buffered += len(seen)
            lane.state = "head"
            self._check_head(d, sink)
        elif head == "partial":
            self._refuse(d, TRUNCATED, begun.link, sink)
        elif head == "invalid" and not self.understood and sink.options.tap_unknown:
            self.understood = True
            self._switch(Tap(), sink)
            cost.give_back(begun.link - rest, begun.packets)
            return 0
        else:
            self._refuse(d, self._broken(), begun.link, sink)
        return rest

    def _drop_head(self, d: int, cause: str, sink: Sink) -> None:
        lane = self.lanes[d]
        sink.buffered -= len(lane.head)
        lane.head = bytearray()
        self._refuse(d, cause, lane.begun.link, sink)

    def _check_head(self, d: int, sink: Sink) -> None:
        """Gives up on a head that cannot be one, or grows over the bound."""
        head = self.lanes[d].head
        if len(head) > sink.options.max_head_bytes or sink.buffered > sink.options.max_buffer_bytes:
            sink.account.bound_hits += 1
            self._drop_head(d, MEMORY_BOUND, sink)
        elif len(head) < 64 and http1.start(bytes(head)) is None:
            self._drop_head(d, self._broken(), sink)

    def _head(self, d: int, seen: bytes, rest: int, c: Chunks, cost: Cost, sink: Sink) -> int:
        lane = self.lanes[d]
        old = len(lane.head)
        lane.head += seen
        sink.buffered += len(seen)
        lane.begun.end = c.time
        end = http1.head_end(lane.head, max(old - 2, 0))
        used = rest if end is None else end - old
        count, packets = cost.take(used)
        lane.begun.link += count
        lane.begun.packets += packets
        if end is not None:
            sink.buffered -= len(lane.head)
            head, lane.head = bytes(lane.head[:end]), bytearray()
            parsed = http1.parse(head, False)
            if head == PREFACE[:18] and not self._queue:
                sink.account.add(CONNECTION_OVERHEAD, lane.begun.link)
                self.understood, self.client = True, d
                lane.state = "idle"
                self._switch(Http2(d, 18, True), sink)
            elif isinstance(parsed, Head) and self._fits(parsed.kind, d):
                self._message(d, parsed, head, lane.begun, sink)
            else:
                self._refuse(d, self._broken(), lane.begun.link, sink)
        elif len(seen) < rest:
            self._cut_head(d, TRUNCATED, sink)
            x = self._current(d)
            if isinstance(lane.state, _BODIES) and x is not None:
                # What the snap length hid of this segment counts as body: its share is unknown.
                side = self._side(x, d)
                side.body += rest - len(seen)
                side.wire += rest - len(seen)
        else:
            self._check_head(d, sink)
        return used

    def _cut_head(self, d: int, cause: str, sink: Sink) -> None:
        """Makes what it can of a head that will not become whole."""
        lane = self.lanes[d]
        sink.buffered -= len(lane.head)
        head, lane.head = bytes(lane.head), bytearray()
        parsed = http1.parse(head, True)
        if isinstance(parsed, Head) and self._fits(parsed.kind, d):
            self._message(d, parsed, head[: parsed.size], lane.begun, sink)
        else:
            self._refuse(d, cause, lane.begun.link, sink)

    def _message(self, d: int, head: Head, raw: bytes, begun: Begun, sink: Sink) -> None:
        """A head was read: a message begins."""
        side = Side(
            seen=True,
            time=begun.time,
            end=begun.end,
            seq=begun.seq,
            ack=begun.ack,
            minor=head.minor,
            header=len(raw),
            wire=len(raw),
            packets=begun.packets,
        )
        if head.kind == REQUEST:
            x = self._fresh()
            x.request = side
            x.method, x.target, x.host, x.trace = head.method, head.target, head.host, head.trace
            x.denied = not sink.filters.passes(head.method, head.target, raw)
            x.id = self._gor_id(begun.ack)
            if len(self._queue) >= sink.options.max_pipeline:
                self._forget_oldest(sink)
            self._queue.append(x)
            body = http1.request_body(head)
        elif head.status < 200 and head.status != 101:
            self._interim(len(raw), begun, sink)
            self.lanes[d].state = "idle"
            return
        else:
            x = self._pair(d, begun, sink)
            side.wire += x.response.wire
            side.packets += x.response.packets
            x.response = side
            x.status = head.status
            x.content_type, x.content_encoding = head.content_type, head.content_encoding
            if head.status == 101:
                self._next = _upgrade(x, raw, d)
            body = http1.response_body(head, x.method)
        lane = self.lanes[d]
        lane.state = body
        lane.unasked = head.kind == RESPONSE and not x.request.seen
        lane.hole = None
        x.link_bytes += begun.link
        x.retransmitted += begun.retransmitted
        x.flag(head.anomaly)
        wanted = (sink.options.requests if head.kind == REQUEST else sink.options.responses) and not x.denied
        lane.keep = wanted and head.anomaly != http1.HEAD_CUT
        if lane.keep:
            lane.message += sink.redaction.head(raw) if sink.redaction else raw
            if head.kind == REQUEST and sink.options.real_ip_header:
                name = sink.options.real_ip_header.encode()
                address = ip_text(self.ends[self.client][0]).encode()
                lane.message = bytearray(set_field(bytes(lane.message), name, address))
            sink.buffered += len(lane.message)
        elif wanted:
            sink.account.messages_cut += 1
        if isinstance(body, Length) and body.left == 0:
            self._finish(d, True, sink)

    def _fresh(self) -> Exchange:
        x = Exchange(self._stream)
        self._stream += 1
        return x

    def _gor_id(self, ack: int | None) -> str:
        # Pipelined requests carry one acknowledgement; each still gets its own id.
        seq = ack or 0
        if self._last_id is not None and distance(seq, self._last_id) <= 0:
            seq = (self._last_id + 1) & 0xFFFFFFFF
        self._last_id = seq
        (_, address), client_port = self.ends[self.client]
        return gor_id(client_port, self.ends[1 - self.client][1], address, seq)

    def _forget_oldest(self, sink: Sink) -> None:
        sink.account.bound_hits += 1
        x = self._queue[0]
        x.flag(http1.PIPELINE_BOUND)
        x.request.done = True
        if not x.response.done and not x.response.seen:
            self._forgotten += 1
        x.response.done = True
        self._emit(sink)

    def _interim(self, wire: int, begun: Begun, sink: Sink) -> None:
        i = self._current_response()
        if i is None:
            sink.account.add(CONNECTION_OVERHEAD, begun.link)
            return
        x = self._queue[i]
        x.response.wire += wire
        x.response.packets += begun.packets
        x.link_bytes += begun.link
        x.retransmitted += begun.retransmitted

    def _pair(self, d: int, begun: Begun, sink: Sink) -> Exchange:
        """The exchange that a response answers.

        Acknowledgements tell what each side had received when it spoke: an answer never comes before
        its request was read, and a client that has read past a lost answer sends the next request
        with an acknowledgement beyond it.
        """
        hole, self.lanes[d].hole = self.lanes[d].hole, None
        if hole is not None:
            while (i := self._current_response()) is not None:
                ack = self._queue[i + 1].request.ack if i + 1 < len(self._queue) else None
                if ack is None or distance(ack, hole) <= 0:
                    break
                self._queue[i].response.done = True
            self._emit(sink)
        i = self._current_response()
        if i is not None and not self._forgotten:
            request = self._queue[i].request
            if request.seen and not (begun.ack is not None and distance(request.seq, begun.ack) >= 0):
                return self._queue[i]
        self._forgotten = max(self._forgotten - 1, 0)
        x = self._fresh()
        x.request.done = True
        x.denied = not sink.filters.passes_unknown()
        x.id = self._gor_id(begun.seq)
        self._queue.insert(len(self._queue) if i is None else i, x)
        return x

    def _body(
        self, d: int, body: Body, seen: bytes, rest: int, first: bool, c: Chunks, cost: Cost, sink: Sink
    ) -> int:
        unasked, self.lanes[d].unasked = self.lanes[d].unasked, False
        if unasked and first and http1.clear_start(seen) == RESPONSE:
            # Where its body should begin the next answer does: it had none, as answers to HEAD.
            self._finish(d, True, sink)
            return 0
        end: bool | None = None
        anomaly: str | None = None
        following: Body = body
        if isinstance(body, Length):
            used = content = min(body.left, rest)
            end = True if used == body.left else None
            body.left -= used
        elif isinstance(body, UntilClose):
            used = content = rest
        elif isinstance(body, Blind):
            kind = REQUEST if d == self.client else RESPONSE
            if first and http1.clear_start(seen) == kind:
                self._finish(d, False, sink)
                return 0
            last = seen == b"0\r\n\r\n" or seen.endswith(b"\r\n0\r\n\r\n")
            if body.chunked and len(seen) == rest and last:
                end = False
            used = content = rest
        elif seen:
            took = http1.chunk(body, seen)
            used, content = took.taken, took.content
            end = True if took.end else None
            if took.broken:
                anomaly, following = http1.BAD_CHUNK, Blind(False)
        elif body.stage == "data":
            used = content = min(body.left, rest)
            body.left -= used
            if body.left == 0:
                body.stage = "end"
        elif body.stage == "end" and rest >= 2:
            # The snap length hides a line end that must be there.
            used, content = 2, 0
            body.stage, body.left, body.seen = "size", 0, 0
        else:
            used = content = 0
            anomaly, following = http1.CHUNKS_HIDDEN, Blind(True)
        count, packets = cost.take(used) if used else (0, 0)
        x = self._current(d)
        if x is None:
            sink.account.add(MALFORMED, count)
        else:
            x.link_bytes += count
            x.flag(anomaly)
            side = self._side(x, d)
            side.body += content
            side.wire += used
            side.packets += packets
            side.end = c.time
        lane = self.lanes[d]
        lane.state = following
        if lane.keep and used:
            room = sink.options.max_message_bytes - len(lane.message)
            incomplete = len(seen) < used and not sink.options.allow_incomplete
            if incomplete or used > room or sink.buffered + used > sink.options.max_buffer_bytes:
                self._spoil(d, sink)
            else:
                lane.message += seen[:used]
                sink.buffered += min(used, len(seen))
        if end is not None:
            self._finish(d, end, sink)
        return used

    def _spoil(self, d: int, sink: Sink) -> None:
        """The message in this direction cannot be handed out."""
        lane = self.lanes[d]
        if lane.keep:
            lane.keep = False
            sink.buffered -= len(lane.message)
            lane.message = bytearray()
            sink.account.messages_cut += 1

    def _finish(self, d: int, whole: bool, sink: Sink) -> None:
        """The message in this direction has ended."""
        if not whole and not sink.options.allow_incomplete:
            self._spoil(d, sink)
        lane = self.lanes[d]
        lane.state = "idle"
        x = self._current(d)
        if x is None:
            return
        side = self._side(x, d)
        side.done, side.whole = True, whole
        server = d != self.client
        if lane.keep:
            payload = bytes(lane.message)
            latency = side.end - side.time
            kind = 2 if server else 1
            sink.messages.push(Message(kind, x.id, side.time, latency, payload, self.id, x.stream))
            sink.buffered -= len(payload)
            lane.message = bytearray()
            lane.keep = False
        if server:
            switched = x.status == 101 or (x.method == b"CONNECT" and 200 <= x.status < 300)
            other = self.lanes[self.client]
            if not x.request.done and (switched or isinstance(other.state, Blind)):
                i = self._current_request()
                if i is not None:
                    self._queue[i].request.done = True
                self._spoil(self.client, sink)
                other.state = Skip(GAP)
            if switched:
                following, self._next = self._next, None
                self._switch(following, sink)
        self._emit(sink)

    def _emit(self, sink: Sink) -> None:
        """Hands out finished exchanges, in the order of the connection."""
        while self._queue and self._queue[0].request.done and self._queue[0].response.done:
            self.hand_out(self._queue.popleft(), sink)

    def hand_out(self, x: Exchange, sink: Sink) -> None:
        """Makes a row of an exchange."""
        client, server = self.ends[self.client], self.ends[1 - self.client]
        sink.columns.push(
            x, self.id, client, server, sink.templates, sink.redaction, sink.account, self._secure
        )

    def gap(self, d: int, seq: int, n: int, sink: Sink) -> None:
        """`n` bytes of this direction, from `seq` on, will never be seen."""
        sink.account.missing_bytes += n
        lane = self.lanes[d]
        if lane.state == "switched":
            self._above(d, Piece(b"", n, 0, seq, True, True), Cost(0, 0), sink)
            return
        if not sink.options.allow_incomplete or lane.state == "head":
            self._spoil(d, sink)
        if lane.state == "head":
            self._cut_head(d, GAP, sink)
            self._spoil(d, sink)
        if lane.state == "idle" or isinstance(lane.state, Skip):
            if lane.hole is None:
                lane.hole = seq
            if lane.state == "idle":
                lane.state = Skip(GAP)
            return
        body = lane.state
        if not isinstance(body, _BODIES):
            return
        part, ended, anomaly = n, False, None
        if isinstance(body, Length):
            part = min(n, body.left)
            ended = n >= body.left
            body.left -= part
        elif isinstance(body, Chunked):
            if body.stage == "data" and n <= body.left:
                body.left -= n
                if body.left == 0:
                    body.stage = "end"
            else:
                lane.state, anomaly = Blind(True), http1.CHUNKS_HIDDEN
        x = self._current(d)
        if x is not None:
            x.missing += part
            x.flag(anomaly)
        if ended:
            self._finish(d, False, sink)
            if n > part and self._idle(d):
                lane.hole = (seq + part) & 0xFFFFFFFF
                lane.state = Skip(GAP)

    def _idle(self, d: int) -> bool:
        return self.lanes[d].state == "idle"

    def repeated(self, d: int, seq: int, count: int, payload: int, packets: int, sink: Sink) -> None:
        """A segment of this direction came again: its bytes go to the exchange it belongs to."""
        if isinstance(self._upper, Http2):
            self._upper.repeated(d, count, payload, packets, sink)
            return
        if self._upper is not None:
            server = d != self.client
            above = None if isinstance(self._upper, Tap) else self._upper
            if above is None or not above.repeated(server, count, payload, packets):
                sink.account.add(RETRANSMISSION, count)
            return
        lane = self.lanes[d]
        if lane.state == "head" and distance(seq, lane.begun.seq) >= 0:
            lane.begun.link += count
            lane.begun.retransmitted += payload
            lane.begun.packets += packets
            return
        found = None
        if self.understood and d == self.client:
            candidates = (x for x in reversed(self._queue) if x.request.seen)
            found = next((x for x in candidates if distance(seq, x.request.seq) >= 0), None)
        elif self.understood:
            open_ones = (x for x in self._queue if x.response.seen and not x.response.done)
            found = next((x for x in open_ones if distance(seq, x.response.seq) >= 0), None)
        if found is None:
            sink.account.add(RETRANSMISSION, count)
            return
        found.link_bytes += count
        found.retransmitted += payload
        self._side(found, d).packets += packets

    def end(self, d: int, sink: Sink) -> bool:
        """This direction has ended in order (FIN); true once both have."""
        self._end_message(d, True, sink)
        self.lanes[d].closed = True
        return self.lanes[1 - d].closed

    def last_byte(self, d: int, time: int) -> None:
        """Says when the last byte of this direction's message passed, where it came as one piece."""
        if d == self.client:
            x = self._queue[-1] if self._queue else None
        else:
            x = next((x for x in self._queue if x.response.seen), None)
        if x is not None:
            self._side(x, d).end = time

    def _end_message(self, d: int, closed: bool, sink: Sink) -> None:
        lane = self.lanes[d]
        if lane.state == "head":
            self._cut_head(d, MALFORMED, sink)
        if isinstance(lane.state, _BODIES):
            whole = closed and isinstance(lane.state, UntilClose)
            x = self._current(d)
            if closed and not whole and x is not None:
                x.flag(http1.CLOSED_EARLY)
            self._finish(d, whole, sink)

    def close(self, reset: bool, sink: Sink) -> None:
        """The connection is over: everything unfinished is handed out as it stands."""
        for d in (self.client, 1 - self.client):
            x = self._current(d)
            if reset and isinstance(self.lanes[d].state, _BODIES) and x is not None:
                x.flag(http1.CLOSED_EARLY)
            self._end_message(d, False, sink)
        if isinstance(self._upper, Opaque):
            self._upper.close(all(lane.closed for lane in self.lanes), Context(self), sink)
        elif self._upper is not None:
            self._upper.close(Context(self), sink)
        self._upper = None
        for x in self._queue:
            x.request.done = x.response.done = True
        self._emit(sink)
        self.lanes = (Lane(Skip(RETRANSMISSION)), Lane(Skip(RETRANSMISSION)))
        self._queue.clear()
