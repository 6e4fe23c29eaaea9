"""gRPC's length-prefixed messages in the data of one direction of a stream.

Owns counting them (gRPC over HTTP/2, "Length-Prefixed-Message"): a flag, four bytes of length, the
message. Nothing is kept.
"""

from __future__ import annotations


class Grpc:
    """Messages begun, and their bytes without the prefix, as sent."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0
        self._lost = False
        self.messages = 0
        self.bytes = 0

    def feed(self, seen: bytes, n: int) -> None:
        """`n` bytes, of which `seen` were captured; what follows unseen ones cannot be told apart."""
        at = 0
        while at < n and not self._lost:
            if self._left:
                k = min(self._left, n - at)
                self._left -= k
                self.bytes += k
                at += k
            elif at >= len(seen):
                self._lost = True
            else:
                self._head.append(seen[at])
                at += 1
                if len(self._head) == 5:
                    self._left = int.from_bytes(self._head[1:])
                    self._head.clear()
                    self.messages += 1
