"""Capture files and .gor files as input: opened, decompressed, handed to an engine in pieces.

Owns what a file is (by its first bytes, not its name) and how it is read: a plain file is mapped, a
compressed one or a pipe is read into one buffer. Memory does not grow with the file.
"""

from __future__ import annotations

import gzip
import io
import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import pyarrow as pa

from replaykit.errors import UsageError
from replaykit.plain import say
from replaykit.traffic import left_out
from replaykit.traffic.left_out import LeftOut
from replaykit.wire.engine import Engine
from replaykit.wire.source import BrokenCapture

PIECE = 4 << 20
LARGEST_RECORD = 256 << 20
LET_GO = 64 << 20

Kind = Literal["capture", "gor", "parquet"]

_CAPTURES = {
    bytes.fromhex(m)
    for m in ("a1b2c3d4", "d4c3b2a1", "a1b23c4d", "4d3cb2a1", "a1b2cd34", "34cdb2a1", "0a0d0d0a")
}


@dataclass
class Progress:
    """How far a file has been read, in bytes of the file as stored; `size` None for a pipe."""

    done: int
    size: int | None


class _Pages:
    """Maps a file's pages a little ahead of the engine, on another core."""

    AHEAD = 8 * PIECE
    # linux/mman.h; kernels before 5.14 do not know it, and the engine's own faults map the pages.
    POPULATE_READ = 22

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self._data, self._size = data, size
        self._wanted = self._done = 0
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def reached(self, at: int) -> None:
        with self._change:
            self._wanted = min(at + self.AHEAD, self._size)
            self._change.notify()

    def stop(self) -> None:
        with self._change:
            self._wanted = -1
            self._change.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._done < self._size:
            with self._change:
                self._change.wait_for(lambda: self._wanted < 0 or self._wanted > self._done)
                if self._wanted < 0:
                    return
            step = min(PIECE, self._size - self._done)
            try:
                self._data.madvise(self.POPULATE_READ, self._done, step)
            except OSError:
                return
            self._done += step


@dataclass
class Reading:
    """What came of it. `trouble`: one line where the file was cut short or broken, else None.

    left_out: what the file says that it could not hold.
    """

    trouble: str | None = None
    left_out: LeftOut = field(default_factory=LeftOut)


def _kind(first: bytes, name: str) -> Kind:
    if first[:4] in _CAPTURES:
        return "capture"
    if first[:4] == b"PAR1":
        return "parquet"
    if first[:2] in (b"1 ", b"2 ", b"3 "):
        return "gor"
    if not first:
        raise UsageError(f"{name}: the file is empty")
    raise UsageError(f"{name}: neither a pcap or pcapng capture, nor a .gor or Parquet file")


def _decompress(raw: IO[bytes]) -> IO[bytes]:
    """A reader of the file's content, decompressed if its first bytes say so."""
    first = raw.peek(4)[:4] if isinstance(raw, io.BufferedReader) else b""
    if first[:2] == b"\x1f\x8b":
        return io.BufferedReader(_Stream(gzip.GzipFile(fileobj=raw).read1), PIECE)
    if first == b"\x28\xb5\x2f\xfd":
        stream = pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")
        return io.BufferedReader(_Stream(stream.read), PIECE)
    return raw


class _Stream(io.RawIOBase):
    """A decompressor as a Python stream; what it gave before it failed is never lost."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class CaptureFile:
    """An input named on the command line; `-` is standard input. Raises UsageError.

    raw: read in place of the file of that name.
    """

    def __init__(self, name: str, raw: IO[bytes] | None = None) -> None:
        self.name = name
        self.size: int | None = None
        self._raw: IO[bytes]
        if raw is not None:
            self._raw = raw
        elif name == "-":
            if sys.stdin.isatty():
                say(
                    "replaykit: reading from standard input, such as tcpdump -w - | replaykit report -; Ctrl-C ends"
                )
            self._raw = os.fdopen(
                os.dup(0), "rb"
            )  # Python's own would be locked by a reader that still waits at exit
        else:
            try:
                self._raw = Path(name).open("rb")  # noqa: SIM115 (closed by close)
            except IsADirectoryError:
                raise UsageError(f"{name}: a directory; name the files in it") from None
            except OSError as error:
                raise UsageError(f"{name}: {(error.strerror or str(error)).lower()}") from None
            status = os.fstat(self._raw.fileno())
            self.size = status.st_size
        self._stream = _decompress(self._raw)
        try:
            first = self._stream.peek(4) if isinstance(self._stream, io.BufferedReader) else b""
        except (OSError, EOFError) as error:
            raise UsageError(f"{name}: cannot be decompressed: {error}") from None
        self.kind = _kind(first, name)

    def close(self) -> None:
        self._stream.close()

    def feed(self, engine: Engine, reading: Reading) -> Iterator[Progress]:
        """Feeds the whole file to an engine; the caller takes rows and messages at each step.

        A file cut short or broken is fed as far as it goes, and `reading` says so.
        """
        if self.kind == "capture":
            engine.next_file()
        before = engine.bad_records
        try:
            if self._stream is self._raw and self.size:
                yield from self._mapped(engine, self.size, reading)
            else:
                yield from self._streamed(engine, reading)
        except BrokenCapture as error:
            offset, what = error.args
            reading.trouble = f"{self.name}: broken at byte {offset}: {what}; what came before it was read"
        except (EOFError, gzip.BadGzipFile, OSError) as error:
            reading.trouble = (
                f"{self.name}: cannot be decompressed to its end ({error}); what came before was read"
            )
        bad = engine.bad_records - before
        if bad and reading.trouble is None:
            reading.trouble = f"{self.name}: {bad} records are not .gor records and were skipped"

    def _step(self, engine: Engine, data: mmap.mmap | bytearray, start: int, end: int) -> int:
        return (engine.feed_gor if self.kind == "gor" else engine.feed_file)(data, start, end)

    def _note(self, data: mmap.mmap | bytearray, at: int, took: int, reading: Reading) -> None:
        if self.kind == "gor":
            reading.left_out.add(left_out.find(data, at, at + took))

    def _last(self, engine: Engine, data: mmap.mmap | bytearray, start: int, end: int) -> int:
        """What is left when nothing follows: a .gor file's last records may lack their separators."""
        return engine.feed_gor(data, start, end, True) if self.kind == "gor" and start < end else 0

    def _mapped(self, engine: Engine, size: int, reading: Reading) -> Iterator[Progress]:
        with mmap.mmap(self._raw.fileno(), 0, access=mmap.ACCESS_READ) as data:
            data.madvise(mmap.MADV_SEQUENTIAL)
            pages = _Pages(data, size)
            at, reach, gone = 0, PIECE, 0
            try:
                while at < size:
                    end = min(at + reach, size)
                    pages.reached(end)
                    took = self._step(engine, data, at, end)
                    self._note(data, at, took, reading)
                    at += took
                    if at - gone >= LET_GO:  # what was read shall not count as our memory
                        upto = at - at % mmap.PAGESIZE
                        data.madvise(mmap.MADV_DONTNEED, gone, upto - gone)
                        gone = upto
                    if not took and end == size:
                        at += self._last(engine, data, at, size)
                        break
                    reach = PIECE if took else reach * 2
                    yield Progress(at, size)
            finally:
                pages.stop()
            self._ended(size - at, at, reading)

    def _streamed(self, engine: Engine, reading: Reading) -> Iterator[Progress]:
        buffer = bytearray(2 * PIECE)
        held = total = 0
        while True:
            if held == len(buffer):
                if held >= LARGEST_RECORD:
                    raise UsageError(
                        f"{self.name}: a record of more than {LARGEST_RECORD} bytes at byte {total}"
                    )
                buffer += bytearray(len(buffer))
            with memoryview(buffer) as view:
                read = self._stream.readinto1(view[held : held + PIECE])  # type: ignore[attr-defined]
            if not read:
                break
            held += read
            took = self._step(engine, buffer, 0, held)
            self._note(buffer, 0, took, reading)
            total += took
            buffer[: held - took] = buffer[took:held]
            held -= took
            yield Progress(total if self.size is None else min(self._raw.tell(), self.size), self.size)
        took = self._last(engine, buffer, 0, held)
        if took:
            yield Progress(total + took if self.size is None else self.size, self.size)
        self._ended(held - took, total + took, reading)

    def _ended(self, rest: int, at: int, reading: Reading) -> None:
        if rest:
            reading.trouble = f"{self.name}: cut short: its last record, at byte {at}, is not whole; what came before it was read"
