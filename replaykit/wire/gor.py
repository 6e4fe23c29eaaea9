"""A .gor file as input: recorded messages to exchanges.

Owns GoReplay's record (`kind id time latency`, payload, separator) as it is read, and the pairing of
request and response by id. The same HTTP code measures them; what only packets know (their number,
repeats) is zero. Requests without answer wait in a bounded table.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from replaykit.wire.connection import Chunks, Http, Sink
from replaykit.wire.link import Addr
from replaykit.wire.message import SEPARATOR

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
    parts = line.split(b" ")
    if not newline or len(parts) < 3 or parts[0] not in (b"1", b"2", b"3"):
        return None
    time, latency = _number(parts[2]), _number(parts[3]) if len(parts) > 3 else 0
    if time is None or latency is None:
        return None
    return Record(int(parts[0]), parts[1], time, latency, payload)


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

    def feed(self, b: bytes, sink: Sink) -> int:
        """Reads whole records; returns how many bytes they took."""
        at = 0
        while (n := b.find(SEPARATOR, at)) >= 0:
            record = parse_record(b[at:n])
            if record is None:
                self.bad += 1
            else:
                self._take(record, sink)
            at = n + len(SEPARATOR)
        return at

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
