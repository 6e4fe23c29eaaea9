"""Responses as a client reads them from its connection: where each ends.

The core reads them as it reads a captured connection, so that capture and replay agree about the same bytes.
"""

from __future__ import annotations

from typing import Protocol

from replaykit.core import core
from replaykit.engine import http1

MORE, INVALID = 0, -1


class Responses(Protocol):
    """`keep`: the connection may be used again after the response; `used`: bytes of the last piece that it
    took.
    """

    @property
    def keep(self) -> bool: ...

    @property
    def used(self) -> int: ...

    def begin(self, head: bool) -> None:
        """A request was sent; head: of this method."""

    def feed(self, data: bytes) -> int:
        """The final status where the response has ended, else MORE, or INVALID where it is none."""

    def end(self) -> int:
        """The connection has ended: the status of a response that ends with it, or 0."""


def open_responses() -> Responses:
    """Reads nothing until a request was sent."""
    found: Responses = core.Answers()
    return found


def final(payload: bytes) -> tuple[int, bytes]:
    """The status of a response, and the response without interim ones before it (RFC 9110 §15.2); 0: it is
    none.
    """
    rest = payload.lstrip(b"\r\n")
    while True:
        head = http1.parse(rest, True)
        if not isinstance(head, http1.Head) or head.kind != http1.RESPONSE:
            return 0, payload
        if not 100 <= head.status < 200 or head.status == 101 or head.size >= len(rest):
            return head.status, rest
        rest = rest[head.size :]
