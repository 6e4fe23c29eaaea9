"""One Parquet file that outlives kill -9: written in parts, each of them whole, and joined when it is closed.

Owns `.NAME.parts/` beside the file: `000001.part`, `000002.part` … are Parquet files of one row group each.
The last of them is written again every SAVE_S seconds until it is full, so that at most so much is lost;
whoever holds its `lock` writes them. Closing copies the row groups into one file, which is not decoded for
it, and renames that. What a killed run left behind is found again by `left_behind` and read like the file
itself.

At any moment each exchange is in the file or in the parts, never in both: `joined` names the inode of the
file that the parts are in, before it has its name; `replaces` says that the parts are in place of the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from replaykit.atomic_files import Existing, NotWritten, cannot_write, create, exclusive, write_whole
from replaykit.core import core
from replaykit.errors import UsageError

ROW_GROUP = 65_536
"""Rows: large enough to compress, small enough to skip by its statistics."""
SAVE_S = 5.0
PART = ".part"

_DELTA = ("time", "response_time", "duration_ns", "first_byte_ns")
_STATISTICS = [
    "time", "host", "method", "endpoint", "status", "client_ip", "server_ip", "response_wire_bytes"
]  # fmt: skip


def _writer(sink: Any, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=[n for n in schema.names if n not in _DELTA],
        column_encoding=dict.fromkeys(_DELTA, "DELTA_BINARY_PACKED"),
        write_statistics=[n for n in _STATISTICS if n in schema.names],
        store_schema=False,
        version="2.6",
    )


def parts_of(path: Path) -> Path:
    """The folder of a file's parts."""
    return path.with_name(f".{path.name}.parts")


def file_of(parts: Path) -> Path:
    """The file whose parts these are."""
    return parts.with_name(parts.name.removeprefix(".").removesuffix(".parts"))


def left_behind(path: Path) -> list[Path]:
    """Finished parts of `path` that are not in it, in their order: of a run that was killed, or that still
    writes.
    """
    folder = parts_of(path)
    found = sorted(folder.glob(f"*{PART}")) if folder.is_dir() else []
    with contextlib.suppress(OSError, ValueError):  # it was not joined, or that file never got its name
        if found and int((folder / "joined").read_text()) == path.stat().st_ino:
            return []
    return found


def whole(path: Path) -> list[Path]:
    """What is to be read for `path`: the file, the parts that a killed run left, or both."""
    parts = left_behind(path)
    alone = bool(parts) and (parts_of(path) / "replaces").exists()
    return [*([path] if path.exists() and not alone else []), *parts]


def is_written(path: Path) -> bool:
    """Somebody writes its parts just now."""
    try:
        lock = os.open(parts_of(path) / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def recover(path: Path) -> int:
    """Joins what a killed run left of `path` into it; gives the rows it has then. Raises UsageError."""
    file = ParquetFile(path, None, "append")
    file.close()
    metadata: Any = pq.read_metadata(path)
    rows: int = metadata.num_rows
    return rows


class ParquetFile:
    """schema: None where only parts of an earlier run are joined. existing: what becomes of an earlier file,
    and of parts that an earlier run left. Raises UsageError; NotWritten where the disk is full."""

    def __init__(self, path: Path, schema: pa.Schema | None, existing: Existing = "overwrite") -> None:
        self.path, self._schema, self._existing = path, schema, existing
        self._folder = parts_of(path)
        found = whole(path)
        if found and existing == "refuse":
            raise UsageError(_exists(path, found))
        if found and existing == "append" and schema is not None:
            _same_columns(found[0], schema)
        self._lock = exclusive(self._folder / "lock", f"{path}: another process is writing it")
        if not left_behind(path):  # what a run that was killed while it cleared up left: it is in the file
            for stale in self._folder.iterdir():
                if stale.name != "lock":
                    stale.unlink()
        self._before = found
        self._kept = found if existing == "append" else []
        self._number = max((int(p.stem) for p in left_behind(path)), default=0) + 1
        self._own: list[Path] = []
        self._own_bytes = 0
        self._pending: list[pa.RecordBatch] = []
        self._rows = self._saved_rows = 0
        self._open = True
        self.opened = self.used = self._saved_at = time.monotonic()

    @property
    def bytes(self) -> int:
        """About what the file will have."""
        return self._own_bytes + int(sum(b.nbytes for b in self._pending)) // 8

    def write(self, batch: pa.RecordBatch) -> None:
        self.used = time.monotonic()
        self._pending.append(batch)
        self._rows += batch.num_rows
        if self._rows >= ROW_GROUP:
            self._save(finish=True)

    def flush(self) -> None:
        """What was taken SAVE_S ago, or longer, is on the disk after this."""
        if self._rows > self._saved_rows and time.monotonic() - self._saved_at >= SAVE_S:
            self._save(finish=False)

    def _save(self, finish: bool) -> None:
        """Writes what is pending as a part; it is written again with more rows unless it is finished."""
        table = pa.Table.from_batches(self._pending)
        if len(self._pending) > 1:
            table = table.unify_dictionaries().combine_chunks()  # one dictionary a row group: smaller, faster
        part = self._folder / f"{self._number:06d}{PART}"
        aside = part.with_suffix(".writing")
        try:
            with os.fdopen(create(aside), "wb") as file, _writer(file, table.schema) as writer:
                writer.write_table(table, row_group_size=1 << 30)
            self._supersede()
            os.replace(aside, part)
        except OSError as error:
            lost = self._rows - self._saved_rows
            self._pending, self._rows, self._saved_rows = [], 0, 0
            aside.unlink(missing_ok=True)
            raise NotWritten(str(cannot_write(self.path, error)), lost) from None
        self._saved_at, self._saved_rows = time.monotonic(), self._rows
        if not self._own or self._own[-1] != part:
            self._own.append(part)
        if finish:
            self._own_bytes += part.stat().st_size
            self._pending, self._rows, self._saved_rows = [], 0, 0
            self._number += 1

    def _supersede(self) -> None:
        """Now there is something in place of what was there."""
        if self._existing != "overwrite" or self._own or not self._before:
            return
        write_whole(self._folder / "replaces", b"")
        for part in self._before:
            if part.parent == self._folder:
                part.unlink(missing_ok=True)

    def close(self) -> None:
        """Makes one file of the parts. Where that fails the parts stay, and are read in its place."""
        if not self._open:
            return
        self._open = False
        try:
            if self._rows > self._saved_rows:
                self._save(finish=False)
            if not self._own and not self._before and self._schema is not None:
                self._empty()
            parts = [*self._kept, *self._own]
            if self._own or len(self._kept) > 1 or (self._kept and self._kept[0] != self.path):
                self._join(parts)
            shutil.rmtree(self._folder)  # all of it is in the file now
        except OSError as error:
            raise cannot_write(self.path, error) from None
        finally:
            os.close(self._lock)
            if not left_behind(self.path):
                shutil.rmtree(self._folder, ignore_errors=True)

    def _empty(self) -> None:
        part = self._folder / f"{self._number:06d}{PART}"
        with os.fdopen(create(part), "wb") as file, _writer(file, self._schema):
            self._own.append(part)

    def _join(self, parts: list[Path]) -> None:
        if len(parts) == 1:
            with open(parts[0], "rb") as file:
                os.fsync(file.fileno())
            os.replace(parts[0], self.path)
            return
        aside = self._folder / "joining"
        os.close(create(aside))
        try:
            core.join_parquet(parts, aside)
        except ValueError as error:
            raise UsageError(f"{self.path}: {error}; its parts are in {self._folder}") from None
        write_whole(self._folder / "joined", str(aside.stat().st_ino).encode())
        os.replace(aside, self.path)

    def abandon(self) -> None:
        """Leaves nothing of this behind."""
        if self._open:
            self._open = False
            os.close(self._lock)
            shutil.rmtree(self._folder, ignore_errors=True)


def _exists(path: Path, found: list[Path]) -> str:
    if found == [path]:
        return f"{path}: there is such a file already: give --append to add to it, or --overwrite"
    rows = sum(pq.read_metadata(p).num_rows for p in found if p != path)
    return (
        f"{path}: an earlier run that did not end left {rows:,} exchanges of it in {parts_of(path)}: "
        "give --append to keep them, or --overwrite"
    )


def _same_columns(path: Path, schema: pa.Schema) -> None:
    try:
        there = pq.read_schema(path).names
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from None
    if there != schema.names:
        raise UsageError(f"{path}: its columns are of another version: give --overwrite, or another name")
