"""Recorded messages from files: .gor, captures, one or many, in order of time.

Owns how files become batches of messages: globs and S3 names are resolved, each file is read through
the rules, several are merged by time. Memory does not grow with the files.
"""

from __future__ import annotations

import bisect
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from replaykit.capturing.files import CaptureFile, Reading
from replaykit.capturing.reader import keep_keys_of, open_reader
from replaykit.engine.gor_records import Counts, Records, open_records
from replaykit.engine.options import Options
from replaykit.engine.rewriting import Rules
from replaykit.errors import UsageError
from replaykit.records.message import Messages


@dataclass
class Read:
    """What came of it: counts of all files, and a line for each that was cut short or broken."""

    counts: Counts = field(default_factory=Counts)
    troubles: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    cut: int = 0
    """Requests of captures that are not whole, and are not among the messages."""

    def add(self, counts: Counts) -> None:
        for name in ("records", "requests", "denied", "bad", "disordered", "denied_requests"):
            setattr(self.counts, name, getattr(self.counts, name) + getattr(counts, name))


def names(pattern: str) -> list[str]:
    """The files of a glob, sorted; the chunks of a name that is none; S3 objects of a prefix.

    Raises UsageError where there is none.
    """
    if pattern == "-":
        return ["-"]
    if pattern.startswith("s3://"):
        from replaykit.archive.s3 import keys

        found = keys(pattern)
    else:
        found = sorted(glob.glob(pattern)) or ([pattern] if not glob.has_magic(pattern) else [])
        if found == [pattern] and not os.path.lexists(pattern):
            found = _chunks(pattern) or found
    if not found:
        raise UsageError(f"{pattern}: no such file")
    return found


def _chunks(name: str) -> list[str]:
    """What `gor --output-file requests.gor` wrote: requests_0.gor, requests_1.gor and so on, in their
    order.
    """
    stem, ending = os.path.splitext(name)
    there = glob.glob(f"{glob.escape(stem)}_*{glob.escape(ending)}")
    numbered = [(int(n), p) for p in there if (n := p[len(stem) + 1 : len(p) - len(ending)]).isdecimal()]
    return [path for _, path in sorted(numbered)]


class _Gor:
    """What `CaptureFile.feed` needs of an engine, to read records."""

    def __init__(self, records: Records) -> None:
        self.feed_gor = records.feed
        self._records = records

    @property
    def bad_records(self) -> int:
        return self._records.counts().bad


def open_source(name: str) -> CaptureFile:
    if not name.startswith("s3://"):
        return CaptureFile(name)
    from replaykit.archive.s3 import open_object

    return CaptureFile(name, open_object(name))


def _file(
    name: str,
    rules: Rules,
    depth: int,
    options: Options,
    read: Read,
    wanted: Callable[[], bool],
    heard: Callable[[pa.RecordBatch], None] | None = None,
) -> Iterator[Messages]:
    """The messages of one file, in order of time."""
    file = open_source(name)
    if file.kind == "parquet":
        raise UsageError(f"{name}: Parquet holds no messages; give a .gor file or a capture")
    read.files += 1
    reading, records = Reading(), open_records(rules, depth)
    engine: Any = _Gor(records)
    taken = _Taken(heard)
    if file.kind == "capture":
        engine = open_reader(options, read.troubles.append)
        keep_keys_of(engine, [file], options, read.troubles.append)
    try:
        for progress in file.feed(engine, reading):
            if file.kind == "capture":
                taken.take(engine, records)
            if records.rows > depth:
                yield records.take(False)
            if not wanted():
                break
            last = progress.done
        else:
            last = 0
        if file.kind == "capture":
            engine.finish()
            taken.take(engine, records)
            read.cut += taken.cut
        if records.rows:
            yield records.take(True)
    finally:
        file.close()
    read.bytes += file.size or last
    read.add(records.counts())
    if reading.trouble is not None:
        read.troubles.append(reading.trouble)


class _Taken:
    """What an engine gave of a capture: requests measured, and requests that were whole and are messages."""

    def __init__(self, heard: Callable[[pa.RecordBatch], None] | None) -> None:
        self._measured = self._whole = 0
        self._heard = heard

    def take(self, engine: Any, records: Records) -> None:
        if engine.rows:
            exchanges = engine.take_exchanges()
            if self._heard is not None:
                self._heard(exchanges)
            methods = exchanges.column("method")
            self._measured += len(methods) - methods.null_count
        while engine.message_bytes:
            messages = engine.take_messages()
            self._whole += messages.index["kind"].tolist().count(1)
            records.feed_messages(messages)

    @property
    def cut(self) -> int:
        return max(self._measured - self._whole, 0)


def read_files(
    patterns: Sequence[str],
    rules: Rules | None = None,
    *,
    depth: int = 100,
    options: Options | None = None,
    read: Read | None = None,
    wanted: Callable[[], bool] = lambda: True,
    heard: Callable[[pa.RecordBatch], None] | None = None,
) -> Iterator[Messages]:
    """Messages of all files, merged by time. `wanted`: asked between pieces; False ends the reading. `heard`:
    is given the exchanges of captures.

    Raises UsageError.
    """
    read = Read() if read is None else read
    options = options or Options(requests=True, responses=True)
    every = [name for pattern in patterns for name in names(pattern)]
    streams = [_file(name, rules or Rules(), depth, options, read, wanted, heard) for name in every]
    yield from streams[0] if len(streams) == 1 else _merged(streams)


def _merged(streams: Sequence[Iterator[Messages]]) -> Iterator[Messages]:
    """Always the rows that are older than every other stream's next."""
    heads: list[tuple[Iterator[Messages], Messages, list[int], int]] = []
    for stream in streams:
        _advance(stream, heads)
    while heads:
        oldest = min(range(len(heads)), key=lambda i: heads[i][2][heads[i][3]])
        stream, messages, times, at = heads.pop(oldest)
        if heads:
            limit = min(times_[at_] for _, _, times_, at_ in heads)
            end = max(bisect.bisect_right(times, limit, at), at + 1)
        else:
            end = len(times)
        yield messages.part(at, end)
        if end < len(times):
            heads.append((stream, messages, times, end))
        else:
            _advance(stream, heads)


def _advance(
    stream: Iterator[Messages], heads: list[tuple[Iterator[Messages], Messages, list[int], int]]
) -> None:
    for messages in stream:
        if len(messages):
            heads.append((stream, messages, messages.index["time_ns"].tolist(), 0))
            return
