"""Exchanges into files: Parquet (one, rotated, or a partitioned directory), JSONL, CSV.

Owns the promise that nothing is torn: Parquet is written aside and renamed when it is whole; JSONL
and CSV grow by whole lines. After kill -9 every finished file and every flushed line is readable.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from replaykit.archive.parquet_file import ParquetFile, file_of, is_written, recover
from replaykit.atomic_files import Growing, cannot_write
from replaykit.outputs.jsonlines import encode
from replaykit.outputs.output import Output, Rotation
from replaykit.plain import csv_cell, say
from replaykit.records.exchange import BATCH_SCHEMA, SCHEMA, plain_values
from replaykit.records.message import Messages

IDLE_PARTITION_S = 120


def numbered(path: Path, n: int) -> Path:
    """`out.parquet` and 2 give `out-000002.parquet`; compound endings such as .gor.gz stay whole."""
    stem, dot, ending = path.name.partition(".")
    return path.with_name(f"{stem}-{n:06d}{dot}{ending}")


class ParquetOutput:
    """`out.parquet`; with rotation `out-000001.parquet` and so on."""

    wants_messages = False

    def __init__(self, target: str, rotation: Rotation) -> None:
        self.target = target
        self._path = Path(target)
        self._rotation = rotation
        self._rotates = rotation.max_bytes is not None or rotation.max_seconds is not None
        self._number = 0
        self._file: ParquetFile | None = None
        if self._rotates:
            stem, _, ending = self._path.name.partition(".")
            _recover(self._path.parent.glob(f".{stem}-*.{ending}.parts"))
            while numbered(self._path, self._number + 1).exists():
                self._number += 1
        else:
            self._file = ParquetFile(self._path, BATCH_SCHEMA, rotation.existing)

    def exchanges(self, batch: pa.RecordBatch) -> None:
        if self._file is None:
            self._number += 1
            self._file = ParquetFile(numbered(self._path, self._number), BATCH_SCHEMA)
        self._file.write(batch)
        self.flush()

    def messages(self, messages: Messages) -> None:
        """Parquet holds exchanges only."""

    def flush(self) -> None:
        r, file = self._rotation, self._file
        if file is None:
            return
        file.flush()
        if (r.max_bytes is not None and file.bytes >= r.max_bytes) or (
            r.max_seconds is not None and time.monotonic() - file.opened >= r.max_seconds
        ):
            self._file = None
            file.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _recover(parts: Iterable[Path]) -> None:
    """Makes whole what runs that were killed left behind, and says so."""
    for path in map(file_of, sorted(parts)):
        if not is_written(path):
            say(f"replaykit: {path}: {recover(path):,} exchanges of a run that did not end are kept")


class DirectoryOutput:
    """`directory/`: `date=2026-11-21/hour=08/part-….parquet`, by the exchange's time in UTC.

    finished: told of each file when it is whole.
    """

    wants_messages = False

    def __init__(
        self, target: str, rotation: Rotation, finished: Callable[[Path], None] | None = None
    ) -> None:
        self.target = target
        self._finished = finished
        self._root = Path(target)
        self._rotation = Rotation(rotation.max_bytes or 256 << 20, rotation.max_seconds or 300.0)
        self._files: dict[int, ParquetFile] = {}
        self._number = 0
        self._run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(target, error) from None
        _recover(self._root.glob("date=*/hour=*/.*.parts"))

    def exchanges(self, batch: pa.RecordBatch) -> None:
        for hour, part in _by_hour(batch):
            file = self._files.get(hour)
            if file is None:
                self._number += 1
                when = datetime.fromtimestamp(hour * 3600, UTC)
                place = self._root / f"date={when:%Y-%m-%d}" / f"hour={when:%H}"
                name = f"part-{self._run}-{self._number:06d}.parquet"
                file = self._files[hour] = ParquetFile(place / name, BATCH_SCHEMA)
            file.write(part)
        self.flush()

    def messages(self, messages: Messages) -> None:
        """Parquet holds exchanges only."""

    def flush(self) -> None:
        now = time.monotonic()
        for hour, file in list(self._files.items()):
            old = now - file.opened >= (self._rotation.max_seconds or 0)
            if file.bytes >= (self._rotation.max_bytes or 0) or old or now - file.used >= IDLE_PARTITION_S:
                self._close(self._files.pop(hour))
            else:
                file.flush()

    def close(self) -> None:
        while self._files:
            self._close(self._files.popitem()[1])

    def _close(self, file: ParquetFile) -> None:
        file.close()
        if self._finished is not None:
            self._finished(file.path)


def _by_hour(batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The batch cut by hour; a response without request counts by its own time."""
    import pyarrow.compute as pc

    stamp = pc.coalesce(batch["time"], batch["response_time"]).cast(pa.int64())
    hours = pc.divide(stamp, 3_600_000_000_000)
    for hour in pc.unique(hours).to_pylist():
        part = batch if pc.all(pc.equal(hours, hour)).as_py() else batch.filter(pc.equal(hours, hour))
        yield hour, part


class _Lines:
    """A file that grows by whole lines; `-` is standard output."""

    wants_messages = False

    def __init__(self, target: str, rotation: Rotation, first: bytes = b"") -> None:
        self.target = target
        self._file = Growing(target, rotation.existing)
        if first and self._file.begins:
            self._file.first = first

    def write(self, data: bytes | memoryview) -> None:
        """Appends whole lines, as many as fit. Raises NotWritten, which counts the others."""
        self._file.write(data, line_ends)

    def write_lines(self, lines: pa.Array) -> None:
        """Appends an array of lines."""
        if len(lines):
            self.write("\n".join([*lines.to_pylist(), ""]).encode())

    def messages(self, messages: Messages) -> None:
        """Lines hold exchanges only."""

    def flush(self) -> None:
        """Lines are written as they come."""

    def close(self) -> None:
        self._file.close()


def line_ends(data: memoryview, done: int) -> tuple[int, int]:
    """Of `done` bytes those in whole lines, and how many lines are beyond them."""
    text = bytes(data)
    kept = text.rfind(b"\n", 0, done) + 1
    return kept, text.count(b"\n", kept)


class JsonlOutput(_Lines):
    """One JSON object a line; times in RFC 3339 with nanoseconds, absent values left out."""

    def exchanges(self, batch: pa.RecordBatch) -> None:
        self.write_lines(encode(dict(zip(batch.schema.names, batch.columns, strict=True))))


class CsvOutput(_Lines):
    """CSV with a header line."""

    def __init__(self, target: str, rotation: Rotation) -> None:
        super().__init__(target, rotation, (",".join(SCHEMA.names) + "\n").encode())

    def exchanges(self, batch: pa.RecordBatch) -> None:
        plain = pa.RecordBatch.from_arrays(
            [
                pa.array(plain_values(c)) if pa.types.is_timestamp(c.type) else _cells(c)
                for c in batch.columns
            ],
            names=batch.schema.names,
        )
        import pyarrow.csv

        sink = io.BytesIO()
        options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")
        pyarrow.csv.write_csv(plain, sink, options)
        self.write(sink.getbuffer())


def _cells(column: pa.Array) -> pa.Array:
    """Text as a spreadsheet and a terminal may see it; numbers as they are."""
    if pa.types.is_string(column.type):
        column = column.dictionary_encode()
    if not pa.types.is_dictionary(column.type):
        return column
    texts = [None if v is None else csv_cell(v) for v in column.dictionary.to_pylist()]
    return pa.array(texts, pa.string()).take(column.indices)


_BY_ENDING: dict[str, Callable[[str, Rotation], Output]] = {
    ".parquet": ParquetOutput,
    ".jsonl": JsonlOutput,
    ".csv": CsvOutput,
}


def open_file(target: str, rotation: Rotation) -> Output | None:
    """Entry point of the outputs in this file."""
    if "://" in target or target.endswith(".ecs.jsonl"):
        return None
    if target.endswith("/") or os.path.isdir(target):
        return DirectoryOutput(target, rotation)
    kind = _BY_ENDING.get(Path(target).suffix)
    return None if kind is None else kind(target, rotation)
