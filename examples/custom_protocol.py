"""A protocol of your own: memcached's text commands, each with its response.

Name it in the pyproject.toml of your package, then `replaykit report traffic.pcap --protocol memcached` has a
row a command:

    [project.entry-points."replaykit.protocols"]
    memcached = "custom_protocol:Memcached"
"""

from __future__ import annotations

from collections.abc import Iterator

from replaykit.engine.protocol import Direction, Message

STORES = {b"set", b"add", b"replace", b"append", b"prepend", b"cas"}
MOST = 1 << 20
"""A line that is longer is none of memcached's."""


class Memcached:
    name = "memcached"
    ports = (11211,)

    def detect(self, direction: Direction, data: bytes) -> bool:
        return direction == "client" and data.split(b" ", 1)[0] in STORES | {b"get", b"gets"}

    def parser(self) -> Parser:
        return Parser()


class Parser:
    def __init__(self) -> None:
        self.rest = {"client": b"", "server": b""}

    def feed(self, direction: Direction, time_ns: int, data: bytes) -> Iterator[Message]:
        self.rest[direction] += data
        while size := self.whole(direction, self.rest[direction]):
            text, self.rest[direction] = self.rest[direction][:size], self.rest[direction][size:]
            words = text.split(b"\r\n", 1)[0].split(b" ")
            if direction == "client":
                command = words[0].decode("ascii", "replace")[:16]
                key = words[1].decode("ascii", "replace")[:64] if len(words) > 1 else ""
                yield Message("request", size, method=command, endpoint=key.partition(":")[0] or command)
            else:
                yield Message("response", size)

    def whole(self, direction: Direction, data: bytes) -> int:
        """The bytes of the first message; 0 where it is not whole."""
        end = data.find(b"\r\n") + 2
        if end < 2:
            if len(data) > MOST:
                raise ValueError("no line of memcached's")
            return 0
        words = data[: end - 2].split(b" ")
        if direction == "client":
            size = end + (int(words[4]) + 2 if words[0] in STORES else 0)
        else:
            size = end
            while words[0] == b"VALUE":  # values, and a last line END
                size += int(words[3]) + 2
                following = data.find(b"\r\n", size) + 2
                if following < 2:
                    return 0
                words, size = data[size : following - 2].split(b" "), following
        return size if len(data) >= size else 0
