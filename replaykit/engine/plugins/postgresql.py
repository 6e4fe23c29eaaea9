"""PostgreSQL: the frontend/backend protocol 3, a row per statement, grouped by its fingerprint.

Owns the messages' frames, prepared statements and the fingerprint: a statement without its values.
A row goes from a query, or what leads to a Sync, to ReadyForQuery. Source: the server's manual,
chapter "Frontend/Backend Protocol".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from replaykit.engine.protocol import Direction, Message

MAX_STATEMENT = 16 << 10
"""Of a statement's text, what is looked at."""
MAX_PREPARED = 1000
MAX_FINGERPRINT = 200
_SSL, _GSS, _CANCEL, _VERSION_3 = 80877103, 80877104, 80877102, 196608

_TOKENS = re.compile(
    r"""--[^\n]*|/\*.*?\*/|(?P<value>[eEbBxXnN]?'(?:[^'\\]|''|\\.)*'?|\$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z)
    |\$\d+|(?<![\w"])[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)|(?P<name>"[^"]*"?)|(?P<space>\s+)""",
    re.VERBOSE | re.DOTALL,
)
_LISTS = re.compile(r"\(\s*\?(?:\s*,\s*\?)+\s*\)")
_ROWS = re.compile(r"(\(\?(?:, …)?\))(?:\s*,\s*\(\?(?:, …)?\))+")


def fingerprint(statement: str) -> str:
    """A statement without values, comments and extra blanks; lists of values are shortened."""

    def plain(m: re.Match[str]) -> str:
        if m["value"]:
            return "?"
        return m["name"] or " "

    text = _TOKENS.sub(plain, statement)
    text = _LISTS.sub("(?, …)", text)
    text = " ".join(_ROWS.sub(r"\1, …", text).split()).rstrip("; ")
    return text if len(text) <= MAX_FINGERPRINT else text[:MAX_FINGERPRINT] + "…"


class Broken(Exception):
    """Bytes that are not this protocol."""


class _Frames:
    """One direction's messages: kind and size, and the beginning of the body."""

    def __init__(self, untyped: bool) -> None:
        self._buffer = bytearray()
        self._skip = 0
        self._next: tuple[bytes, int, bytes] | None = None
        self.untyped = untyped

    def feed(self, data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
        self._buffer += data
        while True:
            if self._next is not None:
                k = min(self._skip, len(self._buffer))
                del self._buffer[:k]
                self._skip -= k
                if self._skip:
                    return
                found, self._next = self._next, None
                yield found
            head = 4 if self.untyped else 5
            if len(self._buffer) < head:
                return
            size = int.from_bytes(self._buffer[head - 4 : head])
            if not 4 <= size < 1 << 30:
                raise Broken(f"a message of {size} bytes")
            total = size + head - 4
            seen = min(total, MAX_STATEMENT)
            if len(self._buffer) < seen:
                return
            kind = b"" if self.untyped else bytes(self._buffer[:1])
            self._next = kind, total, bytes(self._buffer[head:seen])
            self._skip = total

    def first_byte(self, data: bytes) -> bytes:
        """Takes a byte that stands alone: the response to SSLRequest."""
        self._buffer += data
        byte = bytes(self._buffer[:1])
        del self._buffer[:1]
        return byte


def _texts(body: bytes, n: int) -> list[str]:
    return [part.decode("utf-8", "replace") for part in body.split(b"\0", n)[:n]]


class _Parser:
    def __init__(self) -> None:
        self._client, self._server = _Frames(untyped=True), _Frames(untyped=False)
        self._asked = False  # for encryption
        self._started = False
        self._prepared: dict[str, str] = {}
        self._portals: dict[str, str] = {}
        self._statement = ""
        self._sizes = [0, 0]

    def feed(self, direction: Direction, time_ns: int, data: bytes) -> Iterator[Message]:
        if direction == "client":
            for kind, size, body in self._client.feed(data):
                yield from self._from_client(kind, size, body)
            return
        if self._asked:
            self._asked = False
            if self._server.first_byte(data) == b"S":
                raise Broken("the connection turned to TLS")
            yield Message("overhead", 1)
            data = b""
        for kind, size, body in self._server.feed(data):
            yield from self._from_server(kind, size, body)

    def _from_client(self, kind: bytes, size: int, body: bytes) -> Iterator[Message]:
        if self._client.untyped:
            code = int.from_bytes(body[:4])
            if code in (_SSL, _GSS):
                self._asked = True
            elif code >> 16 == 3:
                self._client.untyped = False
            elif code != _CANCEL:
                raise Broken(f"the start-up code {code}")
            yield Message("overhead", size)
            return
        if not self._started or kind == b"X":
            yield Message("overhead", size)
            return
        self._sizes[0] += size
        if kind == b"Q":
            self._ran(fingerprint(_texts(body, 1)[0]))
        elif kind == b"P":
            name, text = _texts(body, 2)
            if len(self._prepared) >= MAX_PREPARED:
                del self._prepared[next(iter(self._prepared))]
            self._prepared[name] = fingerprint(text)
        elif kind == b"B":
            portal, name = _texts(body, 2)
            if len(self._portals) >= MAX_PREPARED:
                self._portals.clear()
            self._portals[portal] = self._prepared.get(name, "(prepared earlier)")
        elif kind == b"E":
            self._ran(self._portals.get(_texts(body, 1)[0], "(prepared earlier)"))

    def _ran(self, statement: str) -> None:
        self._statement = self._statement or statement

    def _from_server(self, kind: bytes, size: int, body: bytes) -> Iterator[Message]:
        if not self._started:
            self._started = kind == b"Z"
            yield Message("overhead", size)
            return
        if kind == b"A" and not self._sizes[0]:
            yield Message("push", size, method="NOTIFY", endpoint="(notification)")
            return
        self._sizes[1] += size
        if kind != b"Z":
            return
        asked, answered = self._sizes
        self._sizes = [0, 0]
        statement, self._statement = self._statement or "(none)", ""
        if asked:
            method = statement.split(" ", 1)[0].upper()[:16]
            yield Message("request", asked, method, statement, statement, direction="client")
        yield Message("response", answered, endpoint="(unasked)")


class PostgreSQL:
    """Rows have the statement's fingerprint as target and endpoint, its first word as method."""

    name = "postgresql"
    ports = (5432,)

    def detect(self, direction: Direction, data: bytes) -> bool:
        code = int.from_bytes(data[4:8])
        return direction == "client" and len(data) >= 8 and code in (_SSL, _GSS, _VERSION_3)

    def parser(self) -> _Parser:
        return _Parser()
