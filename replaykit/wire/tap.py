"""Streams that are read above the engine: TLS with keys, protocol plug-ins.

Owns the pieces in which in-order bytes are handed over. What is handed over stays pending in the
account until the reader books it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from replaykit.wire.upper import Context, Cost, Piece

if TYPE_CHECKING:
    from replaykit.wire.connection import Sink

OPENED, DATA, MISSING, CLOSED = range(4)


@dataclass(slots=True)
class Handed:
    """One piece. kind: OPENED, DATA, MISSING (the capture never held it) or CLOSED.

    server: who speaks. data: what was captured of `length` bytes; of OPENED both ends as text, the
    client's first: address, port, address, port. overhead, packets: what it cost beside its bytes.
    """

    kind: int
    connection: int
    server: bool
    time: int
    data: bytes
    length: int = 0
    overhead: int = 0
    packets: int = 0


class Tap:
    """One connection that is handed over."""

    def __init__(self) -> None:
        self._opened = False

    def feed(self, server: bool, p: Piece, cost: Cost, cx: Context, sink: Sink) -> None:
        if not self._opened:
            self._opened = True
            sink.pieces.append(Handed(OPENED, cx.id, False, p.time, cx.described().encode()))
        if p.missing:
            sink.pieces.append(Handed(MISSING, cx.id, server, p.time, b"", p.length))
            return
        count, packets = cost.take(p.length)
        sink.pieces.append(Handed(DATA, cx.id, server, p.time, p.data, p.length, count - p.length, packets))

    def close(self, cx: Context, sink: Sink) -> None:
        if self._opened:
            sink.pieces.append(Handed(CLOSED, cx.id, False, 0, b""))
