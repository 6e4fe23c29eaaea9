"""The .gor file, GoReplay's format, as an output.

Owns how records reach the disk: whole batches of whole records, appended; with a name ending in .gz
every batch is a gzip member of its own, so that what was flushed stays readable. A message that holds the
separator is written escaped, and counted.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pyarrow as pa

from replaykit.plain import say
from replaykit.ship.files import numbered, write_whole
from replaykit.ship.output import Output, Rotation, append
from replaykit.wire.message import Messages

MEMBER_BYTES = 1 << 20


class GorOutput:
    """`out.gor`, `out.gor.gz`; with rotation `out-000001.gor` and so on."""

    wants_messages = True

    def __init__(self, target: str, rotation: Rotation) -> None:
        self.target = target
        self._path = Path(target)
        self._gzip = target.endswith(".gz")
        self._most = rotation.max_bytes
        self._pending = bytearray()
        self.escaped = 0
        self._number = 0
        self._written = 0
        self._fd = append(self._path) if self._most is None else self._following()

    def _following(self) -> int:
        self._number += 1
        while numbered(self._path, self._number).exists():
            self._number += 1
        self._written = 0
        return append(numbered(self._path, self._number))

    def exchanges(self, batch: pa.RecordBatch) -> None:
        """A .gor file holds messages only."""

    def messages(self, messages: Messages) -> None:
        messages, escaped = messages.storable()
        self.escaped += escaped
        if not self._gzip:
            self._write(messages.gor)
            return
        self._pending += messages.gor
        if len(self._pending) >= MEMBER_BYTES:
            self.flush()

    def _write(self, data: bytes | memoryview) -> None:
        if self._most is not None and self._written >= self._most:
            os.close(self._fd)
            self._fd = self._following()
        write_whole(self._fd, data, self.target)
        self._written += len(data)

    def flush(self) -> None:
        if self._pending:
            member = gzip.compress(self._pending, 6)
            self._pending = bytearray()
            self._write(member)

    def close(self) -> None:
        try:
            self.flush()
        finally:
            os.close(self._fd)
        if self.escaped:
            say(f"replaykit: {escaped_line(self.target, self.escaped)}")


def escaped_line(where: str, count: int) -> str:
    """What is said at the end where messages hold the separator."""
    return (
        f"{where}: {count:,} messages hold the separator of .gor records and are written escaped: "
        "replaykit reads them as they were, GoReplay with a backslash more"
    )


def open_file(target: str, rotation: Rotation) -> Output | None:
    """Entry point: `.gor` and `.gor.gz`."""
    named = target.endswith((".gor", ".gor.gz")) and "://" not in target
    return GorOutput(target, rotation) if named else None
