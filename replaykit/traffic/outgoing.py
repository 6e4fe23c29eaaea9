"""Recorded requests made ready for sending to a target.

Owns what changes on the way: Host, a prefix or a fixed target, and the fields that speak of the
recorded connection and not of this one (RFC 9110 §7.6.1). A row for every record of a batch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from replaykit.traffic.modifier import fnv
from replaykit.wire import engine, head
from replaykit.wire.gor import parse_record
from replaykit.wire.message import SEPARATOR, Messages

# What a row is. Not to be sent: no request, a body that is not whole, a method that needs a tunnel.
NO_REQUEST, CUT, TUNNEL = 0, 1, 2
# To be sent: without a body in the answer; safe or idempotent by method (RFC 9110 §9.2); neither.
HEAD, IDEMPOTENT, OTHER = 3, 4, 5

_METHODS = {b"CONNECT": TUNNEL, b"HEAD": HEAD} | dict.fromkeys(
    (b"GET", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"), IDEMPOTENT
)
# Fields of the recorded connection; `expect`, because the body follows at once.
_HOP_BY_HOP = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"expect"))
_ABSOLUTE = re.compile(rb"[0-9A-Za-z]*://[^/?]*")
_LENGTH = re.compile(rb"\+?[0-9]{1,18}\Z")


@dataclass(frozen=True)
class Aim:
    """host: None keeps the recorded Host. prefix: put in front of every target. fixed: takes every
    target's place."""

    host: bytes | None = None
    prefix: bytes = b""
    fixed: bytes | None = None


@dataclass(frozen=True)
class Outgoing:
    """`data[start:end]` is what to send; `what` see above; requests of one recorded connection share
    `session`; ids are ranges of `gor`."""

    data: memoryview
    gor: bytes | memoryview
    what: Sequence[int]
    time_ns: Sequence[int]
    start: Sequence[int]
    end: Sequence[int]
    session: Sequence[int]
    id_start: Sequence[int]
    id_end: Sequence[int]

    def id(self, row: int) -> bytes:
        return bytes(self.gor[self.id_start[row] : self.id_end[row]])


def prepare(messages: Messages, aim: Aim, choice: engine.Choice = "auto") -> Outgoing:
    """A batch made ready; its rows are the batch's."""
    gor = messages.blob()
    if choice == "readable" or engine.core is None:
        return _prepare(bytes(gor), aim)
    (data, index) = engine.core.outgoing(gor, aim.host, aim.prefix, aim.fixed)
    array = pa.Array._import_from_c_capsule(*data)
    columns = pa.RecordBatch._import_from_c_capsule(*index)
    raw = memoryview(array.buffers()[1]) if len(array) else memoryview(b"")
    return Outgoing(raw, gor, *(_numbers(column) for column in columns.columns))


def _numbers(column: pa.Array) -> Sequence[int]:
    """A column as it lies there: nothing is copied, so no other thread waits."""
    if not len(column):
        return []
    raw = memoryview(column.buffers()[1]).cast("B")
    match column.type.bit_width:
        case 8:
            return raw[: len(column)]
        case 32:
            return raw.cast("I")[: len(column)]
        case _:
            return raw.cast("q")[: len(column)]


def _prepare(gor: bytes, aim: Aim) -> Outgoing:
    data = bytearray()
    rows: list[tuple[int, ...]] = []
    at = 0
    while (n := gor.find(SEPARATOR, at)) >= 0:
        r = parse_record(gor[at:n])
        if r is not None:
            what, request = _request(r.payload, aim) if r.kind == 1 else (NO_REQUEST, b"")
            start = len(data)
            data += request
            session = fnv(r.id[:16] if len(r.id) == 24 else r.id)
            rows.append((what, r.time, start, len(data), session, at + 2, at + 2 + len(r.id)))
        at = n + len(SEPARATOR)
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(7)]
    return Outgoing(memoryview(bytes(data)), gor, *columns)


def _request(payload: bytes, aim: Aim) -> tuple[int, bytes]:
    line = head.request(payload)
    if line is None:
        return NO_REQUEST, b""
    method, target = line
    what = _METHODS.get(payload[slice(*method)], OTHER)
    if what == TUNNEL:
        return TUNNEL, b""
    body = head.end(payload)
    text = payload[:body]
    length = head.value(text, b"content-length")
    if length is not None and head.value(text, b"transfer-encoding") is None:
        value = text[slice(*length)]
        if not _LENGTH.match(value) or int(value) != len(payload) - body:
            return CUT, b""
    h = head.without(text, _HOP_BY_HOP)
    url = h[slice(*target)]
    if aim.fixed is not None:
        h = head.splice(h, target, aim.fixed)
    else:
        # An absolute form is for proxies (RFC 9112 §3.2.2); its path is what is meant.
        absolute = _ABSOLUTE.match(url)
        rest = url[absolute.end() :] if absolute else url
        if absolute or aim.prefix:
            slash = b"" if rest[:1] == b"/" or rest == b"*" else b"/"
            h = head.splice(h, target, aim.prefix + slash + rest)
    if aim.host is not None:
        h = head.set_field(h, b"Host", aim.host)
    return what, h + payload[body:]
