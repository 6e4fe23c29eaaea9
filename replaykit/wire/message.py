"""Messages as they leave an engine: one buffer of .gor records and an index into it.

Owns GoReplay's record: `kind id time latency\\n`, the payload, a line with three monkeys.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

SEPARATOR = "\n🐵🙈🙉\n".encode()


@dataclass(frozen=True, slots=True)
class Message:
    """One request (kind 1) or response (2; 3 replayed) with its bytes. Times in ns."""

    kind: int
    id: str
    time_ns: int
    latency_ns: int
    payload: bytes
    connection: int = 0
    stream: int = 0


@dataclass
class Messages:
    """A batch. `gor` holds whole records; `start` and `end` delimit the payloads in it."""

    gor: bytes | bytearray = field(default_factory=bytearray)
    kind: bytes | bytearray = field(default_factory=bytearray)
    time_ns: array[int] = field(default_factory=lambda: array("q"))
    latency_ns: array[int] = field(default_factory=lambda: array("q"))
    record: array[int] = field(default_factory=lambda: array("Q"))
    start: array[int] = field(default_factory=lambda: array("Q"))
    end: array[int] = field(default_factory=lambda: array("Q"))
    connection: array[int] = field(default_factory=lambda: array("Q"))
    stream: array[int] = field(default_factory=lambda: array("i"))

    def __len__(self) -> int:
        return len(self.kind)

    def __iter__(self) -> Iterator[Message]:
        for i, kind in enumerate(self.kind):
            begin = self.record[i] + 2
            identifier = bytes(self.gor[begin : self.gor.index(b" ", begin)]).decode()
            payload = bytes(self.gor[self.start[i] : self.end[i]])
            yield Message(
                kind,
                identifier,
                self.time_ns[i],
                self.latency_ns[i],
                payload,
                self.connection[i],
                self.stream[i],
            )

    def push(self, message: Message) -> None:
        assert isinstance(self.gor, bytearray) and isinstance(self.kind, bytearray)
        self.record.append(len(self.gor))
        self.gor += f"{message.kind} {message.id} {message.time_ns} {message.latency_ns}\n".encode()
        self.start.append(len(self.gor))
        self.gor += message.payload
        self.end.append(len(self.gor))
        self.gor += SEPARATOR
        self.kind.append(message.kind)
        self.time_ns.append(message.time_ns)
        self.latency_ns.append(message.latency_ns)
        self.connection.append(message.connection)
        self.stream.append(message.stream)


def gor_id(client_port: int, server_port: int, client_ip: int, seq: int) -> str:
    """GoReplay's id: client port, server port, last four bytes of the client's address, and the
    server's sequence number where the answer begins, in hex."""
    return f"{client_port:04x}{server_port:04x}{client_ip & 0xFFFFFFFF:08x}{seq:08x}"
