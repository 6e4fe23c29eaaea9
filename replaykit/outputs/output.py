"""What every output is: exchanges and messages in, something durable out.

Outputs are found by the entry-point group `replaykit.outputs`: a function that takes a target and
`Rotation` and gives an `Output`, or None if the target is not its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from replaykit.atomic_files import Existing
from replaykit.errors import UsageError
from replaykit.records.message import Messages


class Output(Protocol):
    """A place for results. Methods raise UsageError where it cannot be written."""

    target: str
    wants_messages: bool

    def exchanges(self, batch: pa.RecordBatch) -> None:
        """Takes a batch of exchanges."""

    def messages(self, messages: Messages) -> None:
        """Takes a batch of messages."""

    def flush(self) -> None:
        """Makes what was taken durable, as far as the format allows."""

    def close(self) -> None:
        """Finishes; nothing is lost."""


@runtime_checkable
class Observing(Protocol):
    """An output that also takes this host's counters: `capture` and `account`, names to numbers."""

    def observe(self, status: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Moving(Protocol):
    """An output that tells sums over time.

    Where it is known what exchanges in flight move, it is given both.
    """

    def take(self, exchanges: pa.RecordBatch, moved: pa.RecordBatch) -> None:
        """The exchanges that have ended, and all that moved (see `records.increment.movements`): in place of
        `exchanges`.
        """


@dataclass(frozen=True)
class Rotation:
    """When a new file is begun: after so many bytes or seconds; None: never.

    existing: of a file that is not rotated.
    """

    max_bytes: int | None = None
    max_seconds: float | None = None
    existing: Existing = "refuse"


Opener = Callable[[str, Rotation], Output | None]


@cache
def _entries() -> tuple[EntryPoint, ...]:
    """All outputs that are installed, those of files first, since they load fast and are wanted most."""
    found = entry_points(group="replaykit.outputs")
    return tuple(sorted(found, key=lambda entry: entry.name not in ("files", "gor")))


def load_outputs() -> None:
    """Loads all of them, where it must be done before anything is opened."""
    for entry in _entries():
        entry.load()


def open_output(target: str, rotation: Rotation) -> Output:
    """The output for a target such as `out.parquet`, `out.gor.gz`, `directory/`. Raises UsageError."""
    for entry in _entries():
        opener: Opener = entry.load()
        output = opener(target, rotation)
        if output is not None:
            return output
    raise UsageError(
        f"--to {target}: unknown kind of output; use a name ending in .gor, .gor.gz, .parquet, .jsonl or"
        " .csv, a directory (ending in /), elasticsearch://, kafka://, s3://, influxdb://, otlp://,"
        " prometheus://, sqlite:///, postgresql:// or mysql://"
    )
