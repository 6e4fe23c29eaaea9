"""HTTP/1 syntax (RFC 9112): heads and framing, no state of a connection.

Owns what a start looks like, how a head is read, which body framing it announces and the chunk
decoder. It is told bytes and gives back sizes and strings; it never reads a socket or a clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

MAX_METHOD = 32

# The `anomaly` column: what a message gets wrong without stopping us.
CONFLICTING_FRAMING = "conflicting_framing"  # Content-Length beside Transfer-Encoding (RFC 9112 §6.3)
BAD_CONTENT_LENGTH = "bad_content_length"
BAD_TRANSFER_ENCODING = "bad_transfer_encoding"
BAD_CHUNK = "bad_chunk"
BAD_HEADER_LINE = "bad_header_line"  # no colon, or a blank before it (RFC 9112 §5.1)
HEAD_CUT = "head_cut"
CHUNKS_HIDDEN = "chunks_hidden"
CLOSED_EARLY = "closed_early"
PIPELINE_BOUND = "pipeline_bound"
STREAM_RESET = "stream_reset"  # or refused (RFC 9113 §6.4, §6.8)
UNDECODED_HEADERS = "undecoded_headers"  # they refer to a table whose beginning was not captured
BAD_HEADER_BLOCK = "bad_header_block"  # RFC 7541
BAD_FRAME = "bad_frame"  # it breaks RFC 6455 §5

Kind = Literal["request", "response"]
REQUEST: Literal["request"] = "request"
RESPONSE: Literal["response"] = "response"

_TOKEN = re.compile(rb"[0-9A-Za-z!#$%&'*+\-.^_`|~]*")
_USUAL = frozenset((b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE"))
_STATUS = re.compile(rb"(?:HTTP/1\.([0-9])|ICY) ([1-9][0-9][0-9])(?: |\Z)")
_ICY = re.compile(rb"ICY [0-9]")  # as SHOUTcast servers answer in place of HTTP/1.0
_HEX16 = re.compile(rb"[0-9a-fA-F]{16}(?:[0-9a-fA-F]{16})?\Z")
_TRACEPARENT = re.compile(rb".{2}-([0-9a-fA-F]{32})-", re.DOTALL)
_RESPONSE = b"HTTP/1."
_NUMBER = re.compile(rb"0*[0-9]{0,18}(?<=[0-9])\Z")


def start(b: bytes) -> Kind | Literal["maybe"] | None:
    """What the first bytes could begin; `maybe` where they are too few to tell."""
    if b.startswith(_RESPONSE) or _ICY.match(b):
        return RESPONSE
    if _RESPONSE.startswith(b):
        return "maybe"
    n = len(_TOKEN.match(b[: MAX_METHOD + 1]).group())  # type: ignore[union-attr]
    if n == min(len(b), MAX_METHOD + 1):
        return None if n > MAX_METHOD else "maybe"
    return REQUEST if n and b[n] == 0x20 else None


def _request_line(line: bytes) -> tuple[bytes, bytes, int] | None:
    """Method, target, minor version."""
    line = line.rstrip(b" ")
    n = len(line)
    if n < 8 or line[n - 8 : n - 1] != _RESPONSE or not 0x30 <= line[n - 1] <= 0x39:
        return None
    method = line.find(b" ")
    if not 0 < method <= MAX_METHOD or not _TOKEN.fullmatch(line, 0, method):
        return None
    if method + 1 == n - 8:
        target = line[n - 8 :]  # "GET HTTP/1.1": the version stands where the target should
    elif line[n - 9] == 0x20 and method < n - 9:
        target = _trim(line[method + 1 : n - 9])
    else:
        return None
    return line[:method], target, line[n - 1] - 0x30


def _trim(value: bytes) -> bytes:
    return value.strip(b" \t\r\n")


@dataclass(slots=True)
class Head:
    """A head as read. `length` is None, a number, or "bad"; `coding` None, chunked, inside, other."""

    kind: Kind
    size: int = 0
    minor: int = 1
    method: bytes = b""
    target: bytes = b""
    status: int = 0
    length: int | Literal["bad"] | None = None
    coding: Literal["chunked", "inside", "other"] | None = None
    host: bytes = b""
    content_type: bytes = b""
    content_encoding: bytes = b""
    trace: bytes = b""
    anomaly: str | None = None


def parse(b: bytes, cut: bool) -> Head | Literal["partial", "invalid"]:
    """Reads the head at the start of `b`; its `size` includes the blank line.

    With `cut`, an unfinished head with a whole first line counts as whole, and is flagged.
    """
    kind = start(b)
    if kind is None:
        return "invalid"
    end = b.find(b"\n")
    if kind == "maybe" or end < 0:
        return "partial"
    head = Head(kind)
    line = b[:end].removesuffix(b"\r")
    if kind == RESPONSE:
        status = _STATUS.match(line)
        if status is None:
            return "invalid"
        head.minor, head.status = int(status[1] or 0), int(status[2])
    else:
        request = _request_line(line)
        if request is None:
            return "invalid"
        head.method, head.target, head.minor = request
    at = end + 1
    while True:
        begin = at
        while True:
            n = b.find(b"\n", at)
            if n < 0:
                if not cut:
                    return "partial"
                head.anomaly = HEAD_CUT
                head.size = len(b)
                return head
            long = n - at > 1
            at = n + 1
            # RFC 9112 §5.2: a line that begins with a blank goes on with the value (obs-fold).
            if not (long and b[at : at + 1] in (b" ", b"\t")):
                break
        line = b[begin : at - 1].removesuffix(b"\r")
        if not line:
            break
        _field(head, line)
    if head.coding is not None:
        if head.length is not None:
            head.anomaly = CONFLICTING_FRAMING
        elif head.coding != "chunked" or head.minor == 0:
            head.anomaly = BAD_TRANSFER_ENCODING
    elif head.length == "bad":
        head.anomaly = BAD_CONTENT_LENGTH
    head.size = at
    return head


def _field(head: Head, line: bytes) -> None:
    """One header line; only the names that matter here are looked at."""
    name, colon, value = line.partition(b":")
    if not colon:
        head.anomaly = BAD_HEADER_LINE
        return
    if not name or name[-1] in b" \t":
        head.anomaly = BAD_HEADER_LINE
        name = _trim(name)
    value = _trim(value)
    match name.lower():
        case b"host" if not head.host:
            head.host = value
        case b"content-length":
            head.length = _content_length(head.length, value)
        case b"transfer-encoding":
            head.coding = _transfer_encoding(head.coding, value)
        case b"content-type":
            head.content_type = value
        case b"content-encoding":
            head.content_encoding = value
        case b"traceparent":
            head.trace = trace(value, b"", b"") or head.trace
        case b"b3" if not head.trace:
            head.trace = trace(b"", value, b"")
        case b"x-b3-traceid" if not head.trace:
            head.trace = trace(b"", b"", value)


def trace(traceparent: bytes, b3: bytes, b3_trace_id: bytes) -> bytes:
    """The trace of a message with these fields, which may be empty."""
    # W3C Trace Context: version-traceid-spanid-flags
    if found := _TRACEPARENT.match(traceparent):
        return found[1]
    for identifier in (b3[: max(b3.find(b"-"), 0)], b3_trace_id):
        if _HEX16.match(identifier):
            return identifier
    return b""


def _content_length(known: int | Literal["bad"] | None, value: bytes) -> int | Literal["bad"]:
    """RFC 9112 §6.3: a list of equal numbers counts as that number."""
    for part in value.split(b","):
        text = _trim(part)
        if not _NUMBER.match(text):
            return "bad"
        if known is not None and known != int(text):
            return "bad"
        known = int(text)
    assert known is not None
    return known


def _transfer_encoding(
    known: Literal["chunked", "inside", "other"] | None, value: bytes
) -> Literal["chunked", "inside", "other"] | None:
    for part in value.split(b","):
        coding = _trim(part).lower()
        if coding == b"chunked":
            known = "chunked"
        elif coding not in (b"", b"identity"):  # identity: RFC 2616's name for no coding
            known = "inside" if known in ("chunked", "inside") else "other"
    return known


def fields(head: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and value of each header line of a head."""
    for line in head.split(b"\n")[1:]:
        name, colon, value = line.removesuffix(b"\r").partition(b":")
        if colon:
            yield name, _trim(value)
