"""A visitor's datagrams through a tunnel: capsules in a stream of HTTP/2 (RFC 9297)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replaykit.vantages.forwarder.tunnel_frames import FRAME, HEAD

if TYPE_CHECKING:
    from replaykit.vantages.forwarder.tunnel import Line


class Datagrams:
    """Datagrams in a stream, each in a capsule (RFC 9297 §3.5, RFC 9298 §5). One that finds no room is
    dropped, as by a full line.

    received: takes each from the far end.
    """

    def __init__(
        self, line: Line, number: int, received: Callable[[bytes], None], ended: Callable[[str], None]
    ) -> None:
        self._line, self.number, self._received, self._ended = line, number, received, ended
        self._buffer = bytearray()
        self.held = self.credit = self.untold = 0
        self.closed = False

    def send(self, data: bytes) -> bool:
        """Whether there was room."""
        head = b"\0" + _number(len(data) + 1) + b"\0"  # a DATAGRAM; its context is UDP's payload
        count = len(head) + len(data)
        if self.closed or self._line.full or self._line.room(self) < count:
            return False
        self._line.scratch[HEAD : HEAD + count] = head + data
        self._line.send(self, count)
        return True

    def arrived(self, data: memoryview) -> None:
        self._line.taken(self, len(data))
        self._buffer += data
        at = 0
        while not self.closed:
            kind, begin = _numbered(self._buffer, at)
            size, begin = _numbered(self._buffer, begin)
            if size > FRAME:
                self.close("a capsule that is too long")
                return
            if size < 0 or len(self._buffer) < begin + size:
                break
            at = begin + size
            if not kind and size and not self._buffer[begin]:
                self._received(bytes(self._buffer[begin + 1 : at]))
        del self._buffer[:at]

    def far_over(self) -> None:
        self.close()

    def go_on(self) -> None:
        """Nothing waits here."""

    hold = go_on

    def close(self, why: str = "") -> None:
        if not self.closed:
            self.closed = True
            self._line.forget(self.number, True)
            self._ended(why)


def _number(value: int) -> bytes:
    """A variable-length integer (RFC 9000 §16) below 2^30."""
    if value < 1 << 6:
        return bytes([value])
    return (
        (value | 0x4000).to_bytes(2, "big") if value < 1 << 14 else (value | 0x8000_0000).to_bytes(4, "big")
    )


def _numbered(data: bytearray, at: int) -> tuple[int, int]:
    """The integer at a place and where it ends; -1: it is not there whole."""
    if at >= len(data) or len(data) < at + (1 << (data[at] >> 6)):
        return -1, at
    size = 1 << (data[at] >> 6)
    return int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1), at + size
