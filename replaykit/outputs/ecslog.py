"""The JSON log for Filebeat and Logstash: a line an exchange, in ECS, with `event.id`.

Appended in whole lines. Where logrotate has renamed the file, a new one is begun.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pyarrow as pa

from replaykit.atomic_files import append, append_whole
from replaykit.outputs import ecs
from replaykit.outputs.output import Output, Rotation
from replaykit.records.message import Messages

ENDING = ".ecs.jsonl"


class EcsLog:
    """`traffic.ecs.jsonl`. An id makes a line that is read twice count once."""

    wants_messages = False

    def __init__(self, target: str, rotation: Rotation) -> None:
        self.target = target
        self._path = Path(target)
        self._fd = append(self._path)
        self._observer = socket.gethostname()

    def exchanges(self, batch: pa.RecordBatch) -> None:
        lines = ecs.exchanges(batch, self._observer, with_id=True).lines
        if lines:
            append_whole(self._fd, b"\n".join([*lines, b""]), self.target)

    def messages(self, messages: Messages) -> None:
        """Lines hold exchanges only."""

    def flush(self) -> None:
        """Begins a new file where the old one was renamed or removed (logrotate)."""
        there: os.stat_result | None = None
        with contextlib.suppress(FileNotFoundError):
            there = os.stat(self._path)
        mine = os.fstat(self._fd)
        if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            os.close(self._fd)
            self._fd = append(self._path)

    def close(self) -> None:
        os.close(self._fd)


def open_file(target: str, rotation: Rotation) -> Output | None:
    """Entry point: `*.ecs.jsonl`."""
    return EcsLog(target, rotation) if target.endswith(ENDING) and "://" not in target else None
