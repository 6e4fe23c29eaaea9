"""Records of .gor on the move: read, judged by rules, put in order of time, handed out in batches.

Owns reading of whole records from any bytes, the fate of answers (they share their request's), and
the order: within a batch, and by `depth` records held back across batches. Memory is bounded by the
bytes fed at a time, the records held back, and a bounded table of denied requests.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, Protocol

from replaykit.errors import UsageError
from replaykit.traffic.modifier import Modifier, Rules
from replaykit.wire import engine
from replaykit.wire.gor import each_record, parse_record
from replaykit.wire.message import SEPARATOR, Builder, Message, Messages

MAX_DENIED = 100_000
MAX_HELD_BYTES = 64 << 20


@dataclass
class Counts:
    """Of what was fed. bad: records that are none. disordered: older than one before them."""

    records: int = 0
    requests: int = 0
    denied: int = 0
    bad: int = 0
    disordered: int = 0
    denied_requests: int = 0


class Records(Protocol):
    """Bytes of .gor in, batches of messages out."""

    def feed(self, data: Any, start: int, end: int, last: bool = False) -> int:
        """Reads whole records of a buffer's range; returns the bytes taken. last: nothing follows."""

    def feed_messages(self, messages: Messages) -> None:
        """Takes messages whose places are known: nothing is searched for."""

    @property
    def rows(self) -> int:
        """Records to take, held back or not."""

    @property
    def bytes(self) -> int:
        """Their bytes."""

    def counts(self) -> Counts:
        """Of all that was fed."""

    def take(self, last: bool) -> Messages:
        """In order of time; all but `depth` records unless it is the last batch."""


class CompiledRecords:
    """In `core/`."""

    def __init__(self, rules: Rules, depth: int) -> None:
        assert engine.core is not None
        self._records = engine.core.Records(rules.as_dict(), depth)
        self.feed = self._records.feed

    def feed_messages(self, messages: Messages) -> None:
        self._records.feed_rows(messages.gor, *messages.places())

    @property
    def rows(self) -> int:
        return int(self._records.rows)

    @property
    def bytes(self) -> int:
        return int(self._records.bytes)

    def counts(self) -> Counts:
        return Counts(*self._records.counts())

    def take(self, last: bool) -> Messages:
        return engine.messages(*self._records.take_messages(last))


class ReadableRecords:
    """The same in plain Python."""

    def __init__(self, rules: Rules, depth: int) -> None:
        self._modifier = Modifier(rules) if rules else None
        self._depth = depth
        self._counts = Counts()
        self._out: list[tuple[bytes, Message]] = []
        self._size = 0
        self._denied: OrderedDict[bytes, None] = OrderedDict()
        self._newest = -(1 << 63)

    def feed(self, data: Any, start: int, end: int, last: bool = False) -> int:
        return each_record(bytes(memoryview(data)[start:end]), last, self._record)

    def feed_messages(self, messages: Messages) -> None:
        for record in messages.records():
            self._record(record)

    def _record(self, b: bytes | None) -> None:
        r, counts = None if b is None else parse_record(b), self._counts
        if b is None or r is None:
            counts.bad += 1
            return
        counts.records += 1
        payload: bytes | None = r.payload
        if r.kind == 1:
            counts.requests += 1
            payload = r.payload if self._modifier is None else self._modifier.apply(r.payload)
        elif r.id in self._denied:
            payload = None
        if payload is None:
            counts.denied += 1
            if r.kind == 1:
                counts.denied_requests += 1
                self._denied[r.id] = None
                if len(self._denied) > MAX_DENIED:
                    self._denied.popitem(last=False)
            return
        counts.disordered += r.time < self._newest
        self._newest = max(self._newest, r.time)
        line = b[: len(b) - len(r.payload)]
        self._out.append((line, Message(r.kind, "", r.time, r.latency, payload)))
        self._size += len(line) + len(payload) + len(SEPARATOR)

    @property
    def rows(self) -> int:
        return len(self._out)

    @property
    def bytes(self) -> int:
        return self._size

    def counts(self) -> Counts:
        return replace(self._counts)

    def take(self, last: bool) -> Messages:
        rows = sorted(self._out, key=lambda row: row[1].time_ns)
        keep = len(rows)
        if not last:
            keep = max(len(rows) - self._depth, 0)
            held = 0
            for row in range(len(rows) - 1, keep - 1, -1):
                held += len(rows[row][0]) + len(rows[row][1].payload)
                if held > MAX_HELD_BYTES:
                    keep = row + 1
                    break
        self._out = rows[keep:]
        self._size = sum(len(line) + len(m.payload) + len(SEPARATOR) for line, m in self._out)
        builder = Builder()
        for line, message in rows[:keep]:
            builder.copy(line, message)
        return builder.messages()


def open_records(rules: Rules, depth: int = 0, choice: engine.Choice = "auto") -> Records:
    """Raises UsageError for a pattern that cannot be read."""
    compiled = choice != "readable" and engine.core is not None
    try:
        return CompiledRecords(rules, depth) if compiled else ReadableRecords(rules, depth)
    except ValueError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines() if line.strip(" ^"))
        raise UsageError(f"a rule's regular expression cannot be read: {reason}") from None


def through(records: Records, messages: Messages) -> Messages:
    """A batch through rules: what passes, as it is now."""
    records.feed_messages(messages)
    return records.take(True)
