"""Where every captured byte went: the law of conservation.

Owns the named causes and their counters. A byte that reached the capture is either part of an
exchange (`exchange_bytes`) or counted under exactly one cause. Sizes are link bytes: what the
packet measured on the wire, its headers included.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NOT_TCP = "not_tcp"
NOT_UNDERSTOOD = "not_understood"
CONNECTION_OVERHEAD = "connection_overhead"
GAP = "gap"
RETRANSMISSION = "retransmission"
MALFORMED = "malformed"
UNKNOWN_PROTOCOL = "unknown_protocol"
SWITCHED_PROTOCOL = "switched_protocol"
UNPARSED = "unparsed"
DENIED = "denied"
TRUNCATED = "truncated"
MEMORY_BOUND = "memory_bound"

CAUSES = {
    NOT_TCP: "not TCP, or a link type without IP",
    NOT_UNDERSTOOD: "before the connection was understood",
    CONNECTION_OVERHEAD: "handshakes, bare acknowledgements, control frames",
    GAP: "after a hole, of no known message",
    RETRANSMISSION: "repeats of what had ended",
    MALFORMED: "malformed",
    UNKNOWN_PROTOCOL: "unknown protocol",
    SWITCHED_PROTOCOL: "after CONNECT or an upgrade",
    UNPARSED: "given to a plug-in that could not read it",
    DENIED: "denied by a filter",
    TRUNCATED: "cut by the snap length",
    MEMORY_BOUND: "cut by a memory bound",
}


@dataclass
class Account:
    """Counters of one engine. Bytes are link bytes; `missing_bytes` was never captured."""

    packets: int = 0
    bytes: int = 0
    exchange_bytes: int = 0
    exchanges: int = 0
    incomplete: int = 0
    connections: int = 0
    missing_bytes: int = 0
    bound_hits: int = 0
    messages_cut: int = 0
    causes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0))

    def add(self, cause: str, count: int) -> None:
        self.causes[cause] += count

    def entries(self) -> dict[str, int]:
        """Name and value of every counter; `pending_bytes` is zero after `finish`."""
        return {
            "packets": self.packets,
            "bytes": self.bytes,
            "exchange_bytes": self.exchange_bytes,
            "pending_bytes": self.bytes - self.exchange_bytes - sum(self.causes.values()),
            "exchanges": self.exchanges,
            "incomplete": self.incomplete,
            "connections": self.connections,
            "missing_bytes": self.missing_bytes,
            "bound_hits": self.bound_hits,
            "messages_cut": self.messages_cut,
            **self.causes,
        }
