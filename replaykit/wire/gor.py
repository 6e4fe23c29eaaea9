"""A .gor file as input: recorded messages to exchanges.

Owns GoReplay's record (`kind id time latency`, payload, separator) as it is read, where it ends when its
payload holds the separator, and the pairing of request and response by id. The same HTTP code measures
them; what only packets know (their number, repeats) is zero. Requests without answer wait in a bounded
table.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from replaykit.wire import http1
from replaykit.wire.connection import Chunks, Http, Sink
from replaykit.wire.link import Addr
from replaykit.wire.message import ESCAPED, SEPARATOR, Messages, unescaped

MAX_FRAMED = 64 << 20
"""A message whose framing asks for more is not waited for: what comes first ends the record."""
_MAX_HEAD = 1 << 20
_NUMBER = re.compile(rb"[+-]?[0-9]+\Z")


@dataclass(slots=True)
class Record:
    kind: int
    id: bytes
    time: int
    latency: int
    payload: bytes


def parse_record(b: bytes) -> Record | None:
    """A record without its separator; None where it is none."""
    line, newline, payload = b.partition(b"\n")
    parts = line.removesuffix(b"\r").split(b" ")
    if not newline or len(parts) < 3 or parts[0] not in (b"1", b"2", b"3"):
        return None
    time, latency = _number(parts[2]), _number(parts[3]) if len(parts) > 3 else 0
    if time is None or latency is None:
        return None
    return Record(int(parts[0]), parts[1], time, latency, payload)


def _framed(payload: bytes, upto: int) -> int | None:
    """How long a message is by its own framing; -1: longer than what is there; None: it does not say."""
    seen = payload[:upto]
    head = http1.parse(seen, False)
    if head == "partial" and len(payload) > upto:
        seen = payload[:_MAX_HEAD]
        head = http1.parse(seen, False)
    if not isinstance(head, http1.Head):
        return -1 if head == "partial" and len(seen) < _MAX_HEAD else None
    request = head.kind == http1.REQUEST
    body = http1.request_body(head) if request else http1.response_body(head, b"")
    if isinstance(body, http1.Length):
        return head.size + body.left
    if not isinstance(body, http1.Chunked):
        return None
    took = http1.chunk(body, payload[head.size :])
    if took.end:
        return head.size + took.taken
    return None if took.broken else -1


def _is_escaped(line: bytes) -> bool:
    words = line.removesuffix(b"\r").split(b" ", 4)
    return len(words) > 4 and words[4] == ESCAPED


def _ends_at(b: bytes, first: int, last: bool) -> tuple[int, int] | None:
    """Where the record at the start of `b` ends, and where the next one begins; None while more is needed.

    A separator (the first stands at `first`, or -1) ends it unless the message's own framing says that
    it lies inside. last: nothing follows `b`, so a whole message needs no separator.
    """
    if first < 0 and not last:
        return None
    at_first = None if first < 0 else (first, first + len(SEPARATOR))
    upto = len(b) if first < 0 else first
    line = b.find(b"\n", 0, upto)
    if line < 0 or _is_escaped(b[:line]):
        return at_first
    begin = line + 1
    size = _framed(b[begin:], upto - begin)
    if size is None:
        return at_first
    if size < 0:
        return None if not last and len(b) <= MAX_FRAMED else at_first
    end = begin + size
    if (end <= upto and first >= 0) or size > MAX_FRAMED:
        return at_first
    if end > len(b):
        return at_first if last else None
    if b.startswith(SEPARATOR, end):
        return end, end + len(SEPARATOR)
    if SEPARATOR.startswith(b[end : end + len(SEPARATOR)]):
        return (end, len(b)) if last else None
    return at_first


def each_record(b: bytes, last: bool, take: Callable[[bytes | None], None]) -> int:
    """Hands each whole record to `take`, or None for what is no record; returns how many bytes they took."""
    at = 0
    while at < len(b):
        first = b.find(SEPARATOR, at)
        rest, found = b"", None
        if first >= 0:
            rest = b[at : first + len(SEPARATOR)]
            found = _ends_at(rest, first - at, False)
        if found is None:  # what follows decides
            rest = b[at:]
            found = _ends_at(rest, first - at if first >= 0 else -1, last)
        if found is None:
            break
        end, following = found
        record = _unescape(rest[:end])
        take(record if parse_record(record) is not None else None)
        at += following
    return at


def _unescape(b: bytes) -> bytes:
    """A record that was written escaped, as it was before."""
    line, newline, payload = b.partition(b"\n")
    if not newline or not _is_escaped(line):
        return b
    plain = line.removesuffix(b"\r")[: -len(ESCAPED) - 1]
    return plain + b"\n" + unescaped(payload)


def _number(text: bytes) -> int | None:
    if not _NUMBER.match(text):
        return None
    value = int(text)
    return value if -(1 << 63) <= value < 1 << 63 else None


def _ends(identifier: bytes) -> tuple[tuple[Addr, int], tuple[Addr, int]]:
    """Client port, server port and client address of GoReplay's id."""

    def number(begin: int, end: int) -> int:
        text = identifier[begin:end]
        return int(text, 16) if len(identifier) == 24 and re.fullmatch(rb"\+?[0-9a-fA-F]+", text) else 0

    return ((4, number(8, 16)), number(0, 4)), ((4, 0), number(4, 8))


class Conversations:
    """`bad`: records that were none."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, Http] = {}
        self._order: deque[tuple[int, bytes]] = deque()
        self._next = 0
        self.bad = 0

    def feed(self, b: bytes, last: bool, sink: Sink) -> int:
        """Reads whole records; returns how many bytes they took. last: nothing follows."""
        return each_record(b, last, lambda record: self._record(record, sink))

    def feed_rows(self, messages: Messages, sink: Sink) -> None:
        """Takes messages whose places are known."""
        for record in messages.records():
            self._record(record, sink)

    def _record(self, b: bytes | None, sink: Sink) -> None:
        record = None if b is None else parse_record(b)
        if record is None:
            self.bad += 1
        else:
            self._take(record, sink)

    def _take(self, r: Record, sink: Sink) -> None:
        if r.kind == 3:
            return
        sink.account.packets += 1
        sink.account.bytes += len(r.payload)
        http = self._waiting.pop(r.id, None) if r.kind == 2 else None
        if http is None:
            sink.account.connections += 1
            http = Http(sink.options.first_connection + self._next, _ends(r.id), 0, "idle")
            self._next += 1
        lane = int(r.kind == 2)
        http.feed(lane, Chunks(r.payload, len(r.payload), r.time, 0, None, 0, 0), sink)
        http.last_byte(lane, r.time + r.latency)
        over = http.end(lane, sink)
        if over or r.kind == 2:
            http.close(False, sink)
            return
        self._order.append((http.id, r.id))
        earlier = self._waiting.get(r.id)
        self._waiting[r.id] = http
        if earlier is not None:
            earlier.close(False, sink)
        most = sink.options.max_connections
        while self._order and (len(self._waiting) > most or len(self._order) > 2 * most):
            number, identifier = self._order.popleft()
            oldest = self._waiting.get(identifier)
            if oldest is not None and oldest.id == number:
                del self._waiting[identifier]
                sink.account.bound_hits += 1
                oldest.close(False, sink)

    def finish(self, sink: Sink) -> None:
        """Ends every conversation, the oldest first."""
        for http in sorted(self._waiting.values(), key=lambda http: http.id):
            http.close(False, sink)
        self._waiting.clear()
        self._order.clear()
