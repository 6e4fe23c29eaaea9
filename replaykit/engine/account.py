"""Where every captured byte went: the law of conservation.

Owns the named causes and their counters. A byte that reached the capture is either part of an
exchange (`exchange_bytes`) or counted under exactly one cause. Sizes are link bytes: what the
packet measured on the wire, its headers included.
"""

from __future__ import annotations

NOT_TCP = "not_tcp"
NOT_UNDERSTOOD = "not_understood"
CONNECTION_OVERHEAD = "connection_overhead"
GAP = "gap"
RETRANSMISSION = "retransmission"
MALFORMED = "malformed"
UNKNOWN_PROTOCOL = "unknown_protocol"
SWITCHED_PROTOCOL = "switched_protocol"
UNPARSED = "unparsed"
COPIES = "copies"
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
    COPIES: "copies of packets that were captured more than once",
    DENIED: "denied by a filter",
    TRUNCATED: "cut by the snap length",
    MEMORY_BOUND: "cut by a memory bound",
}


COUNTERS = (
    "packets", "bytes", "exchange_bytes", "in_flight_bytes", "pending_bytes", "exchanges", "incomplete",
    "connections", "missing_bytes", "bound_hits", "messages_cut", *CAUSES,
)  # fmt: skip
"""Every counter of an engine.

Bytes are link bytes; `missing_bytes` was never captured; `pending_bytes` is zero at the end.
"""
