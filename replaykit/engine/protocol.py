"""Protocol plug-ins: what reads a protocol of its own out of a connection's bytes.

Owns the interface (entry-point group `replaykit.protocols`) and the choice of the plug-in for a
connection: by its server's port, else by its first bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Literal, Protocol

Direction = Literal["client", "server"]


@dataclass(frozen=True, slots=True)
class Message:
    """The next `size` bytes of a direction's stream, and what they are.

    direction: whose, if not of the one that was just fed.

    kind: a `request` waits for a `response`, which answers the oldest request that waits; a `push` is
    a row of its own that asks or answers nothing; `overhead` is counted for the connection. A
    direction's messages follow each other without gaps, so that their sizes add up to the stream.
    method, target, endpoint: of a request or push, as the columns show them; the endpoint must have
    few values. status: of a response, -32768 to 32767.
    """

    kind: Literal["request", "response", "push", "overhead"]
    size: int
    method: str = ""
    target: str = ""
    endpoint: str = ""
    status: int | None = None
    direction: Direction | None = None


class Parser(Protocol):
    """Reads one connection. It does no I/O and keeps no more than an unfinished message."""

    def feed(self, direction: Direction, time_ns: int, data: bytes) -> Iterable[Message]:
        """Takes bytes in order and gives back the messages that became whole.

        An exception ends the reading of this connection: it is reported, and its bytes from there on
        are counted as unparsed.
        """


class ProtocolPlugin(Protocol):
    """A protocol: `name` is the rows' column `protocol`."""

    name: str
    ports: Sequence[int]

    def detect(self, direction: Direction, data: bytes) -> bool:
        """Whether a connection on another port begins like this protocol."""

    def parser(self) -> Parser:
        """A parser for one connection."""


def plugins() -> list[ProtocolPlugin]:
    """All plug-ins that are installed, by name."""
    found = sorted(entry_points(group="replaykit.protocols"), key=lambda e: e.name)
    return [e.load()() for e in found]
