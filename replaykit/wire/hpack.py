"""HPACK (RFC 7541): header blocks to fields, with a table whose beginning may be unknown.

Owns the static and the dynamic table and the Huffman code. A decoder that did not see a connection
begin, or lost a block, goes on: an index it cannot know gives a field without value, and what is
inserted from then on is known again. Memory is bounded by `CAP` a table and by `room` a block; a
field beyond that is measured but not kept.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field

CAP = 64 << 10
"""The largest table kept, whatever the encoder asks for."""
DEFAULT = 4096
ENTRY = 32
"""RFC 7541 §4.1: what an entry counts beside its strings."""

# RFC 7541 appendix A.
_STATIC: list[tuple[bytes, bytes]] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
]

# Lengths of the Huffman codes (RFC 7541 appendix B), which are canonical: by length, then by symbol.
_LENGTHS = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
]  # fmt: skip
_EOS = 256
_FORBIDDEN = re.compile(rb"[\r\n\x00]")


def _codes() -> dict[tuple[int, int], int]:
    """Symbol by length and code."""
    out, code, last = {}, 0, 0
    for symbol in sorted(range(257), key=lambda s: (_LENGTHS[s], s)):
        length = _LENGTHS[symbol]
        code <<= length - last
        last = length
        out[length, code] = symbol
        code += 1
    return out


_CODES = _codes()


class Broken(Exception):
    """A block that is none: RFC 9113 §4.3 calls it COMPRESSION_ERROR."""


def unpack(b: bytes) -> bytes:
    """Decodes a Huffman string; raises Broken."""
    out = bytearray()
    code = length = 0
    for byte in b:
        for shift in range(7, -1, -1):
            code, length = code << 1 | byte >> shift & 1, length + 1
            symbol = _CODES.get((length, code))
            if symbol is None:
                continue
            if symbol == _EOS:
                raise Broken
            out.append(symbol)
            code = length = 0
    # §5.2: it ends on less than eight bits, all ones.
    if length > 7 or code != (1 << length) - 1:
        raise Broken
    return bytes(out)


@dataclass(slots=True)
class Fields:
    """A decoded header block; fields that are not known are left out.

    size: what the fields measure as HTTP/1.1 writes them: name, value, colon, blank, line end.
    hostile: some field holds what none may (RFC 9113 §8.2.1): as HTTP/1.1 it would be read as something
    else. unknown: some field stayed unknown. cut: some field was beyond the room given.
    """

    items: list[tuple[bytes, bytes]] = field(default_factory=list)
    size: int = 0
    unknown: bool = False
    cut: bool = False
    kept: int = 0
    hostile: bool = False


class Decoder:
    """`whole`: nothing was missed, so an index beyond the table is an error, not something unknown."""

    def __init__(self, whole: bool) -> None:
        self._entries: deque[tuple[bytes, bytes, bool]] = deque()
        self._size = 0
        self._max = DEFAULT
        self._whole = whole

    @property
    def held(self) -> int:
        """Bytes in the table."""
        return self._size

    def lose(self) -> None:
        """A block was missed: what the table holds is unknown."""
        self._entries.clear()
        self._size = 0
        self._whole = False

    def _fit(self) -> None:
        while self._size > self._max and self._entries:
            name, value, _ = self._entries.pop()
            self._size -= len(name) + len(value) + ENTRY

    def block(self, b: bytes, room: int) -> tuple[Fields, bool]:
        """Decodes a whole block, keeping at most `room` bytes of it; and whether it was sound.

        On an error the fields before it stand, and the table is lost.
        """
        out, at = Fields(), 0
        try:
            while at < len(b):
                at = self._field(b, at, room, out)
        except (Broken, IndexError):
            self.lose()
            return out, False
        return out, True

    def _field(self, b: bytes, at: int, room: int, out: Fields) -> int:
        first = b[at]
        if first & 0xE0 == 0x20:  # §6.3: the table's size changes
            size, at = _integer(b, at, 5)
            if size > CAP:
                self._whole = False  # we keep less than the encoder may use
            self._max = min(size, CAP)
            self._fit()
            return at
        if first & 0x80:  # §6.1: an indexed field
            index, at = _integer(b, at, 7)
            name, value, known = self._entry(index)
            _measure(name, value, known, room, out)
            return at
        insert = bool(first & 0x40)
        index, at = _integer(b, at, 6 if insert else 4)
        if index == 0:
            name, at = _string(b, at)
            known = True
        else:
            name, _, known = self._entry(index)
        value, at = _string(b, at)
        if insert:
            size = len(name) + len(value) + ENTRY
            if size > self._max:
                self._entries.clear()  # §4.4
                self._size = 0
            else:
                self._entries.appendleft((name, value, known))
                self._size += size
                self._fit()
        _measure(name, value, known, room, out)
        return at

    def _entry(self, index: int) -> tuple[bytes, bytes, bool]:
        if index == 0:
            raise Broken
        if index <= 61:
            return *_STATIC[index - 1], True
        if index - 62 < len(self._entries):
            return self._entries[index - 62]
        if self._whole:
            raise Broken
        return b"", b"", False


def _measure(name: bytes, value: bytes, known: bool, room: int, out: Fields) -> None:
    out.unknown |= not known
    size = len(name) + len(value)
    out.size += size + 4
    if out.kept + size > room:
        out.cut = True
        return
    out.kept += size
    out.hostile |= _FORBIDDEN.search(name + value) is not None
    if known:
        out.items.append((name, value))


def _integer(b: bytes, at: int, prefix: int) -> tuple[int, int]:
    """RFC 7541 §5.1; at most four bytes beyond the prefix, as no length or index is larger."""
    mask = (1 << prefix) - 1
    n = b[at] & mask
    at += 1
    if n < mask:
        return n, at
    for shift in (0, 7, 14, 21):
        byte = b[at]
        at += 1
        n += (byte & 0x7F) << shift
        if not byte & 0x80:
            return n, at
    raise Broken


def _string(b: bytes, at: int) -> tuple[bytes, int]:
    """RFC 7541 §5.2."""
    packed = b[at] & 0x80
    n, at = _integer(b, at, 7)
    if at + n > len(b):
        raise Broken
    text = b[at : at + n]
    return unpack(text) if packed else text, at + n
