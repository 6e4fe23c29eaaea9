"""The content of an HTTP/1 message: without chunks, and without its content codings.

Owns dechunking (RFC 9112 §7.1) and decoding (RFC 9110 §8.4.1) of a whole message. The codings are
zlib's and Arrow's. A message that is not what it says gives None, never an exception; what is decoded
is bounded.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import pyarrow as pa

from replaykit.engine import http1

MAX_DECODED = 64 << 20
"""Bytes of decoded content; a bomb is not followed further."""


@dataclass(frozen=True)
class Content:
    """head: start line through the blank line. body: content without chunked framing, as sent.

    encoding: content codings, the first applied first. etag, content_type: as sent, or empty.
    """

    head: bytes
    body: bytes
    encoding: tuple[str, ...]
    content_type: bytes
    etag: bytes
    chunked: bool

    def decoded(self, limit: int = MAX_DECODED) -> bytes | None:
        """The content without its codings; None where one is unknown, broken, or too much comes out."""
        data: bytes | None = self.body
        for coding in reversed(self.encoding):
            data = None if data is None else decode(data, coding, limit)
        return data


def parse(payload: bytes) -> Content | None:
    """A whole message; None where it is none."""
    head = http1.parse(payload, False)
    if not isinstance(head, http1.Head):
        return None
    fields: dict[bytes, bytes] = {}
    for name, value in http1.fields(payload[: head.size]):
        fields.setdefault(name.lower(), value)
    body: bytes | None = payload[head.size :]
    chunked = head.coding in ("chunked", "inside")
    if chunked:
        body = dechunk(payload[head.size :])
    if body is None:
        return None
    codings = fields.get(b"content-encoding", b"").decode("latin-1").lower().split(",")
    encoding = tuple(c for c in (coding.strip() for coding in codings) if c and c != "identity")
    content_type = fields.get(b"content-type", b"")
    return Content(payload[: head.size], body, encoding, content_type, fields.get(b"etag", b""), chunked)


def dechunk(data: bytes) -> bytes | None:
    """A chunked body's content; None where a chunk size is none or the end is missing."""
    out, at = bytearray(), 0
    while True:
        end = data.find(b"\n", at)
        if end < 0:
            return None
        try:
            size = int(data[at:end].split(b";")[0].strip() or b"x", 16)
        except ValueError:
            return None
        at = end + 1
        if size <= 0:
            return bytes(out) if size == 0 else None
        if at + size > len(data):
            return None
        out += data[at : at + size]
        at += size
        at = at + 2 if data[at : at + 2] == b"\r\n" else at + 1


def decode(data: bytes, coding: str, limit: int) -> bytes | None:
    """Undoes one content coding: gzip, deflate, br or zstd."""
    if not data:
        return b""
    if coding == "deflate":  # zlib's format (RFC 9110 §8.4.1.2); some send it without the wrapper
        for bits in (15, -15):
            try:
                stream = zlib.decompressobj(bits)
                out = stream.decompress(data, limit + 1)
                return out if len(out) <= limit else None
            except zlib.error:
                continue
        return None
    name = {"gzip": "gzip", "x-gzip": "gzip", "br": "brotli", "zstd": "zstd"}.get(coding)
    if name is None:
        return None
    try:
        with pa.CompressedInputStream(pa.BufferReader(data), name) as decompressed:
            out = decompressed.read(limit + 1)
    except (OSError, pa.ArrowException):
        return None
    return out if len(out) <= limit else None


def pretty(payload: bytes) -> bytes:
    """The message with its content decoded and in one piece, as GoReplay's --prettify-http does it.

    Transfer-Encoding and Content-Encoding go, Content-Length says what is there. What cannot be
    decoded stays as it was.
    """
    content = parse(payload)
    if content is None or not (content.chunked or content.encoding):
        return payload
    plain = content.decoded()
    gone = {b"transfer-encoding", b"content-length", *((b"content-encoding",) if plain is not None else ())}
    body = content.body if plain is None else plain
    lines = content.head.rstrip(b"\r\n").split(b"\n")
    kept = [line.rstrip(b"\r") for line in lines if line.partition(b":")[0].strip().lower() not in gone]
    return b"\r\n".join([*kept, b"Content-Length: %d" % len(body), b"", body])
