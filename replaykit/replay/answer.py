"""Responses as a client reads them from its connection: where each ends.

Owns the state between pieces. What a head and its framing say is judged by `wire.http1`, so that capture and
replay agree about the same bytes.
"""

from __future__ import annotations

from typing import Protocol

from replaykit.wire import engine, http1

MAX_HEAD = 256 << 10
MORE, INVALID = 0, -1


class Answers(Protocol):
    """`keep`: the connection may be used again after the response; `used`: bytes of the last piece that it took."""

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


class ReadableAnswers:
    """In plain Python."""

    def __init__(self) -> None:
        self.begin(False)
        self.used = 0

    def begin(self, head: bool) -> None:
        self._held = b""
        self._body: http1.Body | None = None
        self._status = 0
        self._method = b"HEAD" if head else b"GET"
        self.keep = False

    def feed(self, data: bytes) -> int:
        at = 0
        while self._body is None:
            if not self._held:  # line ends that a response before had too many
                at = len(data) - len(data[at:].lstrip(b"\r\n"))
            held, text = len(self._held), self._held + data[at:]
            self._held = b""
            head = http1.parse(text, False)
            if head == "partial" and len(text) <= MAX_HEAD:
                self._held = text
                return MORE
            if not isinstance(head, http1.Head) or head.kind != http1.RESPONSE:
                return INVALID
            at += head.size - held
            if head.status == 101:
                self.used = len(data)
                return 101
            if head.status >= 200:
                self._status, self.keep = head.status, _keeps(head, text[: head.size])
                self._body = http1.response_body(head, self._method)
        return self._rest(data, at)

    def _rest(self, data: bytes, at: int) -> int:
        body = self._body
        if isinstance(body, http1.Length):
            taken = min(body.left, len(data) - at)
            body.left -= taken
            if not body.left:
                self.used = at + taken
                return self._status
        elif isinstance(body, http1.Chunked):
            took = http1.chunk(body, data[at:])
            if took.broken:
                return INVALID
            if took.end:
                self.used = at + took.taken
                return self._status
        return MORE

    def end(self) -> int:
        return self._status if isinstance(self._body, http1.UntilClose | http1.Blind) else 0


def _keeps(head: http1.Head, text: bytes) -> bool:
    keep = head.minor > 0
    for name, value in http1.fields(text):
        if name.strip().lower() == b"connection":
            options = [option.strip().lower() for option in value.split(b",")]
            if b"close" in options:
                return False
            keep = keep or b"keep-alive" in options
    return keep


def open_answers(choice: engine.Choice = "auto") -> Answers:
    """The compiled one where it is installed."""
    compiled = choice != "readable" and engine.core is not None
    return engine.core.Answers() if compiled else ReadableAnswers()


def final(payload: bytes) -> tuple[int, bytes]:
    """The status of a response, and the response without interim ones before it (RFC 9110 §15.2); 0: it is none."""
    rest = payload.lstrip(b"\r\n")
    while True:
        head = http1.parse(rest, True)
        if not isinstance(head, http1.Head) or head.kind != http1.RESPONSE:
            return 0, payload
        if not 100 <= head.status < 200 or head.status == 101 or head.size >= len(rest):
            return head.status, rest
        rest = rest[head.size :]
