"""Redis: the serialization protocol RESP2 and RESP3, a row per command.

Owns the two grammars: a client sends arrays of strings or inline commands, a server typed replies.
Strings are counted, not kept. Source: the protocol's specification, redis.io/docs/reference/protocol-spec.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from replaykit.engine.protocol import Direction, Message

MAX_LINE = 64 << 10
MAX_DEPTH = 32
_COMMAND = re.compile(rb"[A-Za-z][A-Za-z0-9._|-]{0,31}\Z")
_LENGTH = re.compile(rb"-?[0-9]{1,10}\Z")
_LINES = b"+-:_#,("
_STRINGS = b"$!="
_LISTS = b"*%~>|"


class Broken(Exception):
    """Bytes that are not RESP."""


class _Reader:
    """One direction: counts bytes until a whole value has passed."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._skip = 0
        self._left: list[int] = []  # values still to come in each open list
        self.size = 0
        self.kind = 0
        self.words: list[bytes] = []
        self._word = bytearray()

    def feed(self, data: bytes, inline: bool) -> Iterator[tuple[int, int, list[bytes]]]:
        """Size, first byte and first words of each value that became whole."""
        at = 0
        while at < len(data):
            if self._skip:
                k = min(self._skip, len(data) - at)
                if len(self.words) < 1 and len(self._word) < 32:
                    self._word += data[at : at + min(k, max(self._skip - 2, 0))]
                self._skip -= k
                self.size += k
                at += k
                if not self._skip:
                    self.words.append(bytes(self._word[:64]))
                    self._word.clear()
                    if self._ended():
                        yield self._whole()
                continue
            end = data.find(b"\n", at)
            part = data[at:] if end < 0 else data[at : end + 1]
            self._line += part
            self.size += len(part)
            at += len(part)
            if len(self._line) > MAX_LINE:
                raise Broken(f"a line of more than {MAX_LINE} bytes")
            if end >= 0:
                line, self._line = bytes(self._line).rstrip(b"\r\n"), bytearray()
                if self._value(line, inline):
                    yield self._whole()

    def _whole(self) -> tuple[int, int, list[bytes]]:
        out = self.size, self.kind, self.words
        self.size, self.kind, self.words = 0, 0, []
        return out

    def _value(self, line: bytes, inline: bool) -> bool:
        """A line has passed; true if a whole value has."""
        if not self.kind:
            self.kind = line[0] if line else 0x20
            if inline and self.kind != ord("*"):
                self.words = line.split()[:1]
                return True
        kind = line[:1]
        if not kind:
            raise Broken("an empty line")
        if kind in _STRINGS:
            size = _number(line)
            if size >= 0:
                self._skip = size + 2
                return False
        elif kind in _LISTS:
            count = _number(line) * (2 if kind in b"%|" else 1)
            if kind == b"|":
                count += 1  # RESP3: attributes stand before the value they belong to
            if count > 0:
                if len(self._left) >= MAX_DEPTH:
                    raise Broken(f"lists more than {MAX_DEPTH} deep")
                self._left.append(count)
                return False
        elif kind not in _LINES:
            raise Broken(f"a value that begins with {kind!r}")
        return self._ended()

    def _ended(self) -> bool:
        """One value is whole, and with it perhaps the lists it ends."""
        while self._left:
            self._left[-1] -= 1
            if self._left[-1]:
                return False
            self._left.pop()
        return True


def _number(line: bytes) -> int:
    if not _LENGTH.match(line[1:]):
        raise Broken(f"a length of {line[1:20]!r}")
    return int(line[1:])


class _Parser:
    def __init__(self) -> None:
        self._client, self._server = _Reader(), _Reader()

    def feed(self, direction: Direction, time_ns: int, data: bytes) -> Iterator[Message]:
        if direction == "client":
            for size, _, words in self._client.feed(data, inline=True):
                if not words or not words[0]:
                    yield Message("overhead", size)
                    continue
                name = words[0].decode().upper() if _COMMAND.match(words[0]) else "(other)"
                yield Message("request", size, method=name, endpoint=name)
        else:
            for size, kind, _ in self._server.feed(data, inline=False):
                status = 1 if kind in b"-!" else None
                if kind == ord(">"):
                    yield Message("push", size, method="PUSH", endpoint="(push)")
                else:
                    yield Message("response", size, endpoint="(unasked)", status=status)


class Redis:
    """`status` is 1 where the response is an error."""

    name = "redis"
    ports = (6379,)

    def detect(self, direction: Direction, data: bytes) -> bool:
        return (
            direction == "client" and re.match(rb"\*[0-9]{1,4}\r\n\$[0-9]{1,4}\r\n[A-Za-z]", data) is not None
        )

    def parser(self) -> _Parser:
        return _Parser()
