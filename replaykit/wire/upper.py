"""What a protocol above HTTP/1 is given: in-order bytes, what they cost, its connection.

Owns booking a packet's headers once, with its first byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from replaykit.wire.account import GAP, TRUNCATED
from replaykit.wire.exchange import H2, Exchange, ip_text
from replaykit.wire.message import gor_id

if TYPE_CHECKING:
    from replaykit.wire.connection import Http, Sink


class Cost:
    """A packet's headers, booked once, with its first byte."""

    def __init__(self, overhead: int, packets: int) -> None:
        self.overhead, self.packets = overhead, packets

    def take(self, n: int) -> tuple[int, int]:
        out = n + self.overhead, self.packets
        self.overhead = self.packets = 0
        return out

    def give_back(self, overhead: int, packets: int) -> None:
        """What was taken for bytes that go elsewhere."""
        self.overhead, self.packets = overhead, packets


@dataclass(slots=True)
class Begun:
    """What is being read: when and where it began, what it cost."""

    time: int = 0
    end: int = 0
    seq: int = 0
    ack: int | None = None
    link: int = 0
    packets: int = 0
    retransmitted: int = 0

    def pay(self, cost: tuple[int, int]) -> None:
        self.link += cost[0]
        self.packets += cost[1]


@dataclass(slots=True)
class Piece:
    """In-order bytes, or a hole: `data` was captured of `length`.

    first: a segment begins here. missing: the capture never held it.
    """

    data: bytes
    length: int
    time: int
    seq: int
    first: bool
    missing: bool

    def lost(self, otherwise: str) -> str:
        """Why reading got out of step here."""
        if self.missing:
            return GAP
        return TRUNCATED if len(self.data) < self.length else otherwise


def book(p: Piece, cause: str, n: int, cost: Cost, sink: Sink) -> None:
    """Books `n` bytes of a piece to a cause; a hole's bytes were never captured."""
    if not p.missing:
        sink.account.add(cause, cost.take(n)[0])


class Context:
    """What a protocol above HTTP/1 knows of its connection."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self.id = http.id

    def push(self, x: Exchange, sink: Sink) -> None:
        """Hands out an exchange."""
        self._http.hand_out(x, sink)

    def client_address(self) -> str:
        return ip_text(self._http.ends[self._http.client][0])

    def next_position(self) -> int:
        """The next position on the connection."""
        return self._http.next_stream()

    def described(self) -> str:
        """Both ends, the client's first: address, port, address, port."""
        http = self._http
        (client, client_port), (server, server_port) = http.ends[http.client], http.ends[1 - http.client]
        return f"{ip_text(client)} {client_port} {ip_text(server)} {server_port}"

    def number(self, origin: Exchange) -> int:
        """The position of a message that came after `origin`: its stream's number in HTTP/2."""
        return origin.stream if origin.protocol == H2 else self._http.next_stream()

    def gor_id(self, seq: int) -> str:
        http = self._http
        (_, address), port = http.ends[http.client]
        return gor_id(port, http.ends[1 - http.client][1], address, seq)
