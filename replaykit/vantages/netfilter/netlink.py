"""A set of nftables with its counters, by netlink itself (linux/netfilter/nf_tables.h): ten thousand elements
in some milliseconds, where `nft -j` needs ten times as long to print them and Python as long again to parse
that.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

from replaykit.errors import UsageError

_NETLINK_NETFILTER = 12
_NFTABLES = 10 << 8
_GET_TABLE, _GET_SET_ELEMENTS, _GET_GENERATION = _NFTABLES | 1, _NFTABLES | 13, _NFTABLES | 16
_REQUEST, _DUMP = 0x1, 0x300
_ERROR, _DONE = 2, 3
_FAMILIES = {"inet": 1, "netdev": 5}
_HEADER = struct.Struct("=IHHII")
_RECEIVE = 1 << 17
_QUEUE = 1 << 20
_ELEMENTS, _ELEMENT, _KEY, _VALUE, _EXPRESSION, _EXPRESSIONS = 3, 1, 1, 1, 7, 11
_TABLE, _SET, _NAME, _DATA, _BYTES, _PACKETS = 1, 2, 1, 2, 1, 2
_TABLE_HANDLE = 4
_GENERATION = 1


def elements(table: str, name: str) -> dict[bytes, tuple[int, int]]:
    """Of the set of a table of family inet: bytes and packets by key.

    Raises UsageError; KeyError where there is none.
    """
    found: dict[bytes, tuple[int, int]] = {}
    fast: _Layout | None = None
    for body in _ask(_GET_SET_ELEMENTS, _REQUEST | _DUMP, _text(_TABLE, table) + _text(_SET, name)):
        for kind, data in _attributes(body, 4):
            if kind != _ELEMENTS or not data:  # a set may be empty
                continue
            if fast is None:
                fast = _Layout.of(data)
            if fast is None or not fast.read(data, found):
                for _, element in _attributes(data):
                    key, count = _element(element)
                    found[key] = count
    return found


def table_handle(table: str, family: str = "inet") -> int:
    """Another one when the table was made anew. Raises UsageError; KeyError where there is none."""
    for body in _ask(_GET_TABLE, _REQUEST, _text(_TABLE, table), _FAMILIES[family]):
        for kind, data in _attributes(body, 4):
            if kind == _TABLE_HANDLE:
                return int.from_bytes(data, "big")
    raise KeyError(table)


def generation() -> int:
    """Changes with every change of any rule, set or element that is not made by a packet.

    Raises UsageError.
    """
    for body in _ask(_GET_GENERATION, _REQUEST, b""):
        for kind, data in _attributes(body, 4):
            if kind == _GENERATION:
                return int.from_bytes(data, "big")
    raise UsageError("netfilter: no generation; Linux 3.18 or later is needed")


class _Layout:
    """Elements of a set all look alike: where key and counts are in one says where they are in all."""

    def __init__(self, shape: struct.Struct, fixed: list[tuple[int, int]]) -> None:
        """fixed: places and bytes that are the same in all."""
        self._shape, self._fixed = shape, fixed

    @classmethod
    def of(cls, data: bytes) -> _Layout | None:
        size = struct.unpack_from("=H", data)[0]
        first = bytes(data[:size])
        key, _ = _element(first[4:])
        # Their heads and values show where they are.
        wanted = [(_VALUE, key, len(key)), *_counts(first)]
        places = [first.find(struct.pack("=HH", 4 + n, kind) + value) + 4 for kind, value, n in wanted]
        if min(places) < 4 or places != sorted(places) or len(set(places)) != 3:
            return None
        text, at, free = ">", 0, set()
        for begin, (_, _, n) in zip(places, wanted, strict=True):
            text += f"{begin - at}x{n}s" if begin == places[0] else f"{begin - at}xQ"
            free |= set(range(begin, begin + n))
            at = begin + n
        shape = struct.Struct(f"{text}{size - at}x")
        return cls(shape, [(i, first[i]) for i in range(size) if i not in free])

    def read(self, data: bytes, into: dict[bytes, tuple[int, int]]) -> bool:
        """False: something looks otherwise, and nothing was taken."""
        size = self._shape.size
        count, rest = divmod(len(data), size)
        if rest or any(data[at::size].count(value) != count for at, value in self._fixed):
            return False
        into.update({key: (size_, packets) for key, size_, packets in self._shape.iter_unpack(data)})
        return True


def _counts(first: bytes) -> Iterator[tuple[int, bytes, int]]:
    _, (count, packets) = _element(first[4:])
    yield _BYTES, count.to_bytes(8, "big"), 8
    yield _PACKETS, packets.to_bytes(8, "big"), 8


def _element(data: bytes) -> tuple[bytes, tuple[int, int]]:
    key, counts = b"", {}
    for kind, value in _attributes(data):
        if kind == _KEY:
            key = next((v for k, v in _attributes(value) if k == _VALUE), b"")
        elif kind in (_EXPRESSION, _EXPRESSIONS):
            for expression in [value] if kind == _EXPRESSION else [v for _, v in _attributes(value)]:
                parts = dict(_attributes(expression))
                if parts.get(_NAME, b"").rstrip(b"\0") == b"counter":
                    counts = dict(_attributes(parts.get(_DATA, b"")))
    return key, (
        int.from_bytes(counts.get(_BYTES, b""), "big"),
        int.from_bytes(counts.get(_PACKETS, b""), "big"),
    )


def _attributes(data: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += (size + 3) & ~3


def _text(kind: int, value: str) -> bytes:
    data = value.encode() + b"\0"
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _ask(kind: int, flags: int, attributes: bytes, family: int = _FAMILIES["inet"]) -> Iterator[bytes]:
    """The responses' bodies, after their headers."""
    body = struct.pack(">BBH", family, 0, 0) + attributes
    try:
        link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    except OSError as error:
        raise UsageError(f"netfilter: {(error.strerror or str(error)).lower()}") from None
    with link:
        link.settimeout(5)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE)
        try:
            link.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
            buffer = bytearray(_RECEIVE)
            while True:
                data = bytes(memoryview(buffer)[: link.recv_into(buffer)])
                at = 0
                while at + _HEADER.size <= len(data):
                    size, what, _, _, _ = _HEADER.unpack_from(data, at)
                    if size < _HEADER.size:
                        raise UsageError("netfilter: a response that makes no sense")
                    content = data[at + _HEADER.size : at + size]
                    if what == _DONE:
                        return
                    if what == _ERROR:
                        code = -int.from_bytes(content[:4], "little", signed=True)
                        if code == errno.ENOENT:
                            raise KeyError("no such table or set")
                        if code:
                            raise UsageError(f"netfilter: {os.strerror(code).lower()}")
                        return
                    yield content
                    if not flags & _DUMP:
                        return
                    at += (size + 3) & ~3
        except TimeoutError:
            raise UsageError("netfilter: no response") from None
        except OSError as error:
            raise UsageError(f"netfilter: {(error.strerror or str(error)).lower()}") from None
