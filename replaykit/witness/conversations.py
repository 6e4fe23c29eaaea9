"""Segments to conversations: both directions' bytes, put together when all of them are known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from replaykit.witness.packets import End, Segment

_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16


@dataclass
class Direction:
    """What one side sent. doubt: why its bytes are not all known; empty: they are."""

    data: bytes = b""
    ended: bool = False
    doubt: str = ""
    starts: list[tuple[int, int]] = field(default_factory=list)
    """Where each packet's bytes begin, and its number."""

    def packet(self, offset: int) -> int:
        """The number of the packet that brought this byte; 0: none did."""
        return next((number for start, number in reversed(self.starts) if start <= offset), 0)


@dataclass
class Conversation:
    """One connection; client: who opened it."""

    client: End
    server: End
    segments: list[Segment] = field(default_factory=list)

    def directions(self) -> tuple[Direction, Direction]:
        """The client's and the server's bytes."""
        return self._direction(self.client), self._direction(self.server)

    def _direction(self, source: End) -> Direction:
        mine = [s for s in self.segments if s.source == source]
        begun = next((s for s in mine if s.flags & _SYN), None)
        if begun is None:
            return Direction(doubt="its beginning was not captured")
        first = begun.sequence + 1
        out, data = Direction(), bytearray()
        placed = sorted(
            ((s.sequence - first + (1 << 31)) % (1 << 32) - (1 << 31), s.number, s) for s in mine if s.payload
        )
        for offset, number, s in placed:
            if s.cut:
                out.doubt = out.doubt or f"packet {number} was cut by the snap length"
            if offset > len(data):
                out.doubt = out.doubt or f"bytes before packet {number} are missing"
                break
            new = s.payload[len(data) - offset :] if offset >= 0 else b""
            if new:
                out.starts.append((len(data), number))
                data += new
        out.data = bytes(data)
        out.ended = any(s.flags & _FIN for s in mine)
        if any(s.flags & _RST for s in self.segments):
            out.doubt = out.doubt or "the connection was reset"
        return out


def conversations(found: Iterable[Segment]) -> list[Conversation]:
    """In the order in which they began; a SYN with another number begins another one."""
    out: list[Conversation] = []
    open_ones: dict[frozenset[End], Conversation] = {}
    opened: dict[frozenset[End], int] = {}
    for s in found:
        key = frozenset((s.source, s.destination))
        begins = bool(s.flags & _SYN) and not s.flags & _ACK
        if key not in open_ones or (begins and opened.get(key) != s.sequence):
            from_server = s.flags & _SYN and s.flags & _ACK
            client, server = (s.destination, s.source) if from_server else (s.source, s.destination)
            open_ones[key] = Conversation(client, server)
            out.append(open_ones[key])
            if begins:
                opened[key] = s.sequence
        open_ones[key].segments.append(s)
    return out
