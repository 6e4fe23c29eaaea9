"""Recorded requests made ready for sending to a target.

Owns what changes on the way: Host, a prefix or a fixed target, and the fields that speak of the
recorded connection and not of this one (RFC 9110 §7.6.1). What is sent is one message, ended by its own
framing: bytes beyond it are left out and counted, what has no clear end is not sent. A row for every
record of a batch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from replaykit.traffic.modifier import fnv
from replaykit.wire import engine, head, http1
from replaykit.wire.gor import parse_record
from replaykit.wire.message import SEPARATOR, Messages

# What a row is. Not to be sent: no request, one that is not whole, a method that needs a tunnel, a request
# that does not say where it ends.
NO_REQUEST, CUT, TUNNEL, UNFRAMED = 0, 1, 2, 3
# To be sent: without a body in the answer; safe or idempotent by method (RFC 9110 §9.2); neither.
HEAD, IDEMPOTENT, OTHER = 4, 5, 6
NOT_SENT = {CUT: "not whole in the recording", TUNNEL: "CONNECT", UNFRAMED: "does not say where it ends"}
"""Why a request is not sent, in words."""

_METHODS = {b"CONNECT": TUNNEL, b"HEAD": HEAD} | dict.fromkeys(
    (b"GET", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"), IDEMPOTENT
)
# Fields of the recorded connection; `expect`, because the body follows at once.
_HOP_BY_HOP = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"expect"))
_ABSOLUTE = re.compile(rb"[0-9A-Za-z]*://[^/?]*")


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
    `session`; ids are ranges of `gor`; `beyond` counts bytes of the record that follow its request."""

    data: memoryview
    gor: bytes | memoryview
    what: Sequence[int]
    time_ns: Sequence[int]
    start: Sequence[int]
    end: Sequence[int]
    session: Sequence[int]
    id_start: Sequence[int]
    id_end: Sequence[int]
    beyond: Sequence[int]
    names: Sequence[bytes] = ()
    """Ids that tell apart what shares one, where someone asked for them."""

    def id(self, row: int) -> bytes:
        return bytes(self.gor[self.id_start[row] : self.id_end[row]])

    def name(self, row: int) -> bytes:
        return self.names[row] if self.names else self.id(row)


def prepare(messages: Messages, aim: Aim, choice: engine.Choice = "auto") -> Outgoing:
    """A batch made ready; its rows are the batch's."""
    if choice == "readable" or engine.core is None:
        return _prepare(messages, aim)
    (data, index) = engine.core.outgoing(messages.gor, *messages.places(), aim.host, aim.prefix, aim.fixed)
    array = pa.Array._import_from_c_capsule(*data)
    columns = pa.RecordBatch._import_from_c_capsule(*index)
    raw = memoryview(array.buffers()[1]) if len(array) else memoryview(b"")
    numbers: list[Any] = [_numbers(column) for column in columns.columns]
    return Outgoing(raw, messages.gor, *numbers)


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


def _prepare(messages: Messages, aim: Aim) -> Outgoing:
    data = bytearray()
    rows: list[tuple[int, ...]] = []
    begins = messages.index["record"].tolist()
    for record, begin in zip(messages.records(), begins, strict=True):
        r = parse_record(record)
        what, request, beyond = NO_REQUEST, b"", 0
        identifier, time_ns = (b"", 0) if r is None else (r.id, r.time)
        if r is not None and r.kind == 1:
            what, request, beyond = _request(r.payload, aim)
        start = len(data)
        data += request
        session = fnv(identifier[:16] if len(identifier) == 24 else identifier)
        id_start = begin + (0 if r is None else 2)
        rows.append((what, time_ns, start, len(data), session, id_start, id_start + len(identifier), beyond))
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(8)]
    return Outgoing(memoryview(bytes(data)), bytes(messages.gor), *columns)


def _whole(payload: bytes) -> tuple[int, int, bool | None] | int:
    """Bytes of a request's head, and of head and body; whether its framing fields are to be written anew,
    as chunked or not. Or why it is not sent (RFC 9112 §6.3)."""
    h = http1.parse(payload, False)
    if not isinstance(h, http1.Head):
        return CUT if h == "partial" else UNFRAMED
    text = payload[: h.size]
    if SEPARATOR in text:
        return UNFRAMED  # two records of a file that the reader could not tell apart
    odd = h.anomaly is not None or b"\n " in text or b"\n\t" in text
    body = http1.request_body(h)
    if isinstance(body, http1.Length):
        if body.left > len(payload) - h.size:
            return CUT
        return h.size, h.size + body.left, False if odd and h.length is not None else None
    if not isinstance(body, http1.Chunked) or h.coding != "chunked":
        return UNFRAMED
    took = http1.chunk(body, payload[h.size :])
    if not took.end:
        return UNFRAMED if took.broken else CUT
    return h.size, h.size + took.taken, True if odd else None


def _framed_anew(h: bytes, chunked: bool, length: int) -> bytes:
    """The head with its framing fields written anew: a target that reads odd lines otherwise than we do
    would find another end."""
    first, *lines = [line + b"\n" for line in h.split(b"\n")[:-1]]
    out, dropping = [first], False
    for line in lines:
        if line in (b"\n", b"\r\n"):
            out.append(b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % length)
            out.append(line)
            continue
        if line[:1] not in (b" ", b"\t"):
            name = line.partition(b":")[0].strip(b" \t\r\n\x0c").lower()
            dropping = name in (b"content-length", b"transfer-encoding")
        if not dropping:
            out.append(line)
    return b"".join(out)


def _request(payload: bytes, aim: Aim) -> tuple[int, bytes, int]:
    """What the request is, the bytes to send, and how many follow it in the record."""
    line = head.request(payload)
    if line is None:
        return NO_REQUEST, b"", 0
    method, target = line
    what = _METHODS.get(payload[slice(*method)], OTHER)
    if what == TUNNEL:
        return TUNNEL, b"", 0
    found = _whole(payload)
    if isinstance(found, int):
        return found, b"", 0
    body, end, chunked = found
    text = payload[:body]
    if chunked is not None:
        text = _framed_anew(text, chunked, end - body)
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
    return what, h + payload[body:end], len(payload) - end
