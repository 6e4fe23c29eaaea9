"""The .gor file, GoReplay's format, as an output.

Owns how records reach the disk: whole batches of whole records, appended; with a name ending in .gz
every batch is a gzip member of its own, so that what was flushed stays readable. A message that holds the
separator is written escaped, and counted.
"""

from __future__ import annotations

import gzip
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.atomic_files import Growing
from replaykit.capturing.left_out import LeftOut
from replaykit.outputs.files import numbered
from replaykit.outputs.output import Output, Rotation
from replaykit.plain import say
from replaykit.records.message import SEPARATOR, Messages

MEMBER_BYTES = 1 << 20


class GorOutput:
    """`out.gor`, `out.gor.gz`; with rotation `out-000001.gor` and so on."""

    wants_messages = True

    def __init__(self, target: str, rotation: Rotation) -> None:
        self.target = target
        self._path = Path(target)
        self._gzip = target.endswith(".gz")
        self._most = rotation.max_bytes
        self._pending, self._waiting = bytearray(), 0
        self.escaped = 0
        self._measured, self._held = LeftOut(), LeftOut()
        self._number = 0
        self._written = 0
        self._file = Growing(target, rotation.existing) if self._most is None else self._following()

    def _following(self) -> Growing:
        self._number += 1
        while numbered(self._path, self._number).exists():
            self._number += 1
        self._written = 0
        return Growing(str(numbered(self._path, self._number)), "append")

    def exchanges(self, batch: pa.RecordBatch) -> None:
        """A .gor file holds messages only; what it lacks of these is said in it."""
        lone = pc.and_(
            pc.is_null(batch.column("method")), pc.is_valid(batch.column("status"))
        )  # a response alone
        self._measured.exchanges += batch.num_rows - pc.sum(lone).as_py()
        for side in ("request", "response"):
            self._measured.wire_bytes += pc.sum(batch.column(f"{side}_wire_bytes")).as_py() or 0

    def messages(self, messages: Messages) -> None:
        messages, escaped = messages.storable()
        self.escaped += escaped
        kinds, starts, ends = (messages.index[name].tolist() for name in ("kind", "start", "end"))
        self._held.exchanges += kinds.count(1)
        self._held.wire_bytes += sum(ends) - sum(starts)
        if not self._gzip:
            self._write(messages.gor, lambda _, done: _whole(messages, done))
            return
        self._pending += messages.gor
        self._waiting += len(messages)
        if len(self._pending) >= MEMBER_BYTES:
            self.flush()

    def _write(self, data: bytes | memoryview, whole: Callable[[memoryview, int], tuple[int, int]]) -> None:
        if self._most is not None and self._written >= self._most:
            self._file.close()
            self._file = self._following()
        self._file.write(data, whole)
        self._written += len(data)

    def flush(self) -> None:
        if self._pending:
            member, count = gzip.compress(self._pending, 6), self._waiting
            self._pending, self._waiting = bytearray(), 0
            self._write(member, lambda _, done: (0, count))

    def close(self) -> None:
        try:
            self._say_left_out()
            self.flush()
        finally:
            self._file.close()
        if self.escaped:
            say(f"replaykit: {escaped_line(self.target, self.escaped)}")

    def _say_left_out(self) -> None:
        lacking = LeftOut(
            max(self._measured.exchanges - self._held.exchanges, 0),
            max(self._measured.wire_bytes - self._held.wire_bytes, 0),
        )
        if not lacking:
            return
        if self._gzip:
            self._pending += lacking.record()
        else:
            self._write(lacking.record(), lambda _, done: (0, 0))


def escaped_line(where: str, count: int) -> str:
    """What is said at the end where messages hold the separator."""
    return (
        f"{where}: {count:,} messages hold the separator of .gor records and are written escaped: "
        "replaykit reads them as they were, GoReplay with a backslash more"
    )


def _whole(messages: Messages, done: int) -> tuple[int, int]:
    """Of the first `done` bytes of a batch those in whole records, and how many records are beyond them."""
    ends = [end + len(SEPARATOR) for end in messages.index["end"].tolist()]
    fit = bisect_right(ends, done)
    return (ends[fit - 1] if fit else 0), len(ends) - fit


def open_file(target: str, rotation: Rotation) -> Output | None:
    """Entry point: `.gor` and `.gor.gz`."""
    named = target.endswith((".gor", ".gor.gz")) and "://" not in target
    return GorOutput(target, rotation) if named else None
