"""Exchanges into a ledger: `--to sqlite:///usage.db`, `files:FOLDER`, `postgresql://…`, `mysql://…`.

Each minute's sums are written with the run as their source, so the same file read twice counts once, and so
does a minute that is written again as it grows. A database that is away is tried again; what is not yet
written stays in memory, one record for each endpoint and minute.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pyarrow as pa

from replaykit.attribution.usage import EndpointUsage
from replaykit.errors import UsageError
from replaykit.extras import needs
from replaykit.outputs.ecs import identities
from replaykit.outputs.output import Output, Rotation
from replaykit.records.message import Messages

if TYPE_CHECKING:
    from replaykit.ledger.store import Ledger

SCHEMES = ("sqlite://", "postgresql://", "mysql://", "mariadb://", "files:")
EVERY_S = 5.0


class LedgerOutput:
    """A ledger by URL. Raises UsageError."""

    wants_messages = False

    def __init__(self, target: str, rotation: Rotation) -> None:
        try:
            from replaykit.ledger.files import open_url
        except ImportError as error:
            raise needs(f"a ledger needs {error.name}", "ledger") from None
        self._ledger: Ledger = open_url(target)
        self.target = self._ledger.database.shown
        self._usage: EndpointUsage | None = None
        self._next = 0.0

    def exchanges(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        if self._usage is None:
            # Another run's minutes are not these, unless it reads the same exchanges again.
            self._usage = EndpointUsage(f"{socket.gethostname()}/{identities(batch.slice(0, 1))[0]}")
        self._usage.add(batch)
        self._write(time.monotonic())

    def take(self, exchanges: pa.RecordBatch, moved: pa.RecordBatch) -> None:
        self.exchanges(moved)

    def _write(self, now: float, must: bool = False) -> None:
        if self._usage is None or (now < self._next and not must):
            return
        self._next = now + EVERY_S
        try:
            self._ledger.write(self._usage.changed())
        except UsageError:
            if must:
                raise
            return  # tried again; close says so if it stays away
        self._usage.written()

    def messages(self, messages: Messages) -> None:
        """The ledger gets exchanges only."""

    def flush(self) -> None:
        self._write(time.monotonic(), False)

    def close(self) -> None:
        """Raises UsageError where the last records could not be written."""
        try:
            self._write(time.monotonic(), True)
        finally:
            self._ledger.close()


def open_place(target: str, rotation: Rotation) -> Output | None:
    """Entry point: databases."""
    return LedgerOutput(target, rotation) if target.startswith(SCHEMES) else None
