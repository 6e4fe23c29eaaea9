"""The engine's reading of a capture beside the witness's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from replaykit.witness.conversations import conversations
from replaykit.witness.exchanges import exchanges
from replaykit.witness.packets import End, segments
from replaykit.witness.reading import Exchange, Undecided, ends_of

COLUMNS = (
    "client_ip", "client_port", "server_ip", "server_port", "proxy_ip", "proxy_port", "connection", "stream",
    "protocol", "method", "target", "status", "request_header_bytes", "request_body_bytes",
    "response_header_bytes", "response_body_bytes",
)  # fmt: skip
"""What is read of the engine's rows."""


@dataclass
class Difference:
    """A conversation, and what only one of the two has read in it."""

    client: End
    server: End
    engine: list[Exchange]
    witness: list[Exchange]


@dataclass
class Comparison:
    """agreed: exchanges that both read alike.

    undecided: conversations that the witness does not judge, by reason.
    """

    agreed: int = 0
    differences: list[Difference] = field(default_factory=list)
    undecided: Counter[str] = field(default_factory=Counter)
    whole: set[frozenset[End]] = field(default_factory=set)
    """Ends of the conversations that the witness has read."""

    @property
    def different(self) -> int:
        """Exchanges that one of them reads otherwise, or that it alone has."""
        return sum(max(len(d.engine), len(d.witness)) for d in self.differences)


def compare(path: str, rows: Iterable[Mapping[str, Any]]) -> Comparison:
    """rows: the engine's, with COLUMNS. Ends that were used more than once are compared together."""
    out = Comparison()
    read: dict[tuple[End, End], list[Exchange]] = {}
    refused: set[frozenset[End]] = set()  # who is the client may be unknown, too
    for conversation in conversations(segments(path)):
        ends = (conversation.client, conversation.server)
        try:
            read.setdefault(ends, []).extend(exchanges(conversation))
        except Undecided as why:
            out.undecided[str(why)] += 1
            refused.add(frozenset(ends))
    seen: dict[tuple[End, End], list[Exchange]] = {}
    for row in rows:
        if row["protocol"] not in ("http/1.0", "http/1.1", "h2", "websocket"):
            continue
        seen.setdefault(ends_of(row), []).append(_exchange(row))
    known = {frozenset(ends) for ends in read}
    out.whole = known - refused
    for ends in {**read, **seen}:
        if frozenset(ends) in refused:
            continue
        if ends not in read and frozenset(ends) not in known:
            out.undecided["dpkt found no such connection"] += 1
            continue
        mine, theirs = seen.get(ends, []), read.get(ends, [])
        left, right = Counter(e.content() for e in mine), Counter(e.content() for e in theirs)
        out.agreed += (left & right).total()
        only = [_unmatched(side, other) for side, other in ((mine, right), (theirs, left))]
        if only[0] or only[1]:
            out.differences.append(Difference(*ends, *only))
    return out


def _unmatched(exchanges: list[Exchange], other: Counter[tuple[Any, ...]]) -> list[Exchange]:
    rest, out = Counter(other), []
    for e in exchanges:
        if rest[e.content()]:
            rest[e.content()] -= 1
        else:
            out.append(e)
    return out


def _exchange(row: Mapping[str, Any]) -> Exchange:
    sizes = [int(row[name] or 0) for name in COLUMNS[-4:]]
    return Exchange(
        row["method"] or "", row["target"] or "", row["status"] or 0, sizes[0], sizes[1], sizes[2], sizes[3]
    )
