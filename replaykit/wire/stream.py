"""The offsets of a stream: which bytes came when, and what their packets cost.

Owns booking a packet's headers with the first byte of its payload, for readers that take bytes in
pieces of their own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(slots=True)
class Share:
    """What a range of a stream's bytes cost. time: of its first byte; end: of its last."""

    time: int = 0
    end: int = 0
    overhead: int = 0
    packets: int = 0


class Offsets:
    """One direction's pieces, in order."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[int, int, int, int]] = deque()
        self._added = 0
        self._taken = 0

    def add(self, length: int, time: int, overhead: int, packets: int) -> None:
        self._pieces.append((self._added, time, overhead, packets))
        self._added += length

    def take(self, n: int) -> Share:
        """The next `n` bytes' share."""
        end = self._taken + n
        if end == self._added and len(self._pieces) == 1:
            _, time, overhead, packets = self._pieces.popleft()
            self._taken = end
            return Share(time, time, overhead, packets)
        out = Share()
        if self._pieces:
            out.time = out.end = self._pieces[0][1]
        while self._pieces and self._pieces[0][0] < end:
            start, time, overhead, packets = self._pieces[0]
            out.end = time
            out.overhead += overhead
            out.packets += packets
            following = self._pieces[1][0] if len(self._pieces) > 1 else self._added
            if following > end:
                self._pieces[0] = (start, time, 0, 0)  # the rest of it comes later, at no cost
                break
            self._pieces.popleft()
        self._taken = end
        return out

    @property
    def waiting(self) -> int:
        """Bytes added and not yet taken."""
        return self._added - self._taken
