"""Messages as they leave an engine: one buffer of .gor records and an index into it.

Owns GoReplay's record: `kind id time latency\\n`, the payload, a line with three monkeys.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from replaykit.core import core

SEPARATOR = "\n🐵🙈🙉\n".encode()
_MARK = SEPARATOR.strip(b"\n")
ESCAPED = b"escaped"
"""The fifth word of a record's first line where the payload is written escaped: a line of it that is
the mark and any number of backslashes has one backslash more than the message."""
_MARKED = re.compile(rb"(?:\A|(?<=\n))" + _MARK + rb"(\\*)(?=\n|\Z)")


def escaped(payload: bytes) -> bytes:
    """A payload that holds no separator, whatever stands before and behind it."""
    return _MARKED.sub(lambda match: match[0] + b"\\", payload)


def unescaped(payload: bytes) -> bytes:
    """What was escaped, as it was before."""
    return _MARKED.sub(lambda match: match[0][:-1] if match[1] else match[0], payload)


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


class _Column(Protocol):
    """A column of numbers: Python's array, or Arrow's."""

    def __len__(self) -> int: ...

    def tolist(self) -> list[int]: ...

    def __getitem__(self, at: Any) -> Any: ...


def _places(column: Any) -> memoryview:
    if not len(column):
        return memoryview(array("Q", [0]))[:0]
    if isinstance(column, array):
        return memoryview(column)
    raw = memoryview(column.buffers()[1]).cast("B").cast("Q")
    begin = int(getattr(column, "offset", 0))
    return raw[begin : begin + len(column)]


def _number(value: Any) -> int:
    return value if isinstance(value, int) else int(value.as_py())


INDEX = ("kind", "time_ns", "latency_ns", "record", "start", "end", "connection", "stream")


@dataclass(frozen=True)
class Messages:
    """A batch: `gor` holds whole records, one after the other, `index` a column of numbers for each
    of INDEX: `record` and `start` say where a record and its payload begin, `end` where that ends."""

    gor: bytes | memoryview
    index: Mapping[str, _Column]
    whole: Messages | None = None
    begin: int = 0
    """A part of a batch knows the batch, and its first row there."""

    def __len__(self) -> int:
        return len(self.index["kind"])

    def blob(self) -> bytes | memoryview:
        """The records of these rows, one after the other."""
        if not len(self):
            return b""
        first, last = self.index["record"][0], self.index["end"][-1]
        begin, end = _number(first), _number(last) + len(SEPARATOR)
        return self.gor if (begin, end) == (0, len(self.gor)) else self.gor[begin:end]

    def part(self, begin: int, end: int) -> Messages:
        """The rows from `begin` to before `end`; the bytes are shared."""
        index = {name: column[begin:end] for name, column in self.index.items()}
        return Messages(self.gor, index, self.whole or self, self.begin + begin)

    def places(self) -> tuple[memoryview, memoryview]:
        """Where each record begins and each payload ends in `gor`, as the compiled core takes them."""
        return _places(self.index["record"]), _places(self.index["end"])

    def records(self) -> Iterator[bytes]:
        """Each record without its separator."""
        for record, end in zip(self.index["record"].tolist(), self.index["end"].tolist(), strict=True):
            yield bytes(self.gor[record:end])

    def storable(self) -> tuple[Messages, int]:
        """The batch to be written one record after the other, and how many of it had to be escaped.

        A payload that holds the separator would be read back as two records, the second of whoever
        sent it; only such ones are escaped.
        """
        if not len(self) or core.occurrences(self.blob(), _MARK) == len(self):
            return self, 0
        out, count = Builder(), 0
        rows = zip(self, self.index["record"].tolist(), self.index["start"].tolist(), strict=True)
        for message, record, start in rows:
            line, payload = bytes(self.gor[record:start]), escaped(message.payload)
            if payload != message.payload:
                count += 1
                words = line.split()
                line = b" ".join([*words[:3], words[3] if len(words) > 3 else b"0", ESCAPED]) + b"\n"
            out.copy(line, replace(message, payload=payload))
        return out.messages(), count

    def pick(self, rows: Sequence[int]) -> Messages:
        """Some of the rows, in a batch of their own."""
        if len(rows) == len(self):
            return self
        out, columns = Builder(), [self.index[name].tolist() for name in INDEX]
        for row in rows:
            kind, time, latency, record, start, end, connection, stream = (c[row] for c in columns)
            message = Message(kind, "", time, latency, bytes(self.gor[start:end]), connection, stream)
            out.copy(bytes(self.gor[record:start]), message)
        return out.messages()

    def ids(self) -> list[bytes]:
        """The messages' ids."""
        starts = zip(self.index["record"].tolist(), self.index["start"].tolist(), strict=True)
        return [bytes(self.gor[record:start]).split(b" ", 2)[1] for record, start in starts]

    def __iter__(self) -> Iterator[Message]:
        columns = (self.index[name].tolist() for name in INDEX)
        for kind, time, latency, record, start, end, connection, stream in zip(*columns, strict=True):
            identifier = bytes(self.gor[record:start]).split(b" ")[1].decode(errors="replace")
            payload = bytes(self.gor[start:end])
            yield Message(kind, identifier, time, latency, payload, connection, stream)


class Builder:
    """Collects messages for a batch."""

    def __init__(self) -> None:
        self.gor = bytearray()
        self._columns = [array(code) for code in "BqqQQQQi"]

    def __len__(self) -> int:
        return len(self._columns[0])

    def push(self, m: Message) -> None:
        self.copy(f"{m.kind} {m.id} {m.time_ns} {m.latency_ns}\n".encode(), m)

    def copy(self, line: bytes, m: Message) -> None:
        """A record with its first line as it is."""
        record = len(self.gor)
        self.gor += line
        start = len(self.gor)
        self.gor += m.payload
        row = (m.kind, m.time_ns, m.latency_ns, record, start, len(self.gor), m.connection, m.stream)
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)
        self.gor += SEPARATOR

    def messages(self) -> Messages:
        return Messages(bytes(self.gor), dict(zip(INDEX, self._columns, strict=True)))


def gor_id(client_port: int, server_port: int, client_ip: int, seq: int) -> str:
    """GoReplay's id: client port, server port, last four bytes of the client's address, and the
    server's sequence number where the response begins, in hex."""
    return f"{client_port:04x}{server_port:04x}{client_ip & 0xFFFFFFFF:08x}{seq:08x}"
