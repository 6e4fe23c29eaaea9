"""Capture files and .gor files as input: opened, decompressed, handed to an engine in pieces.

Owns what a file is (by its first bytes, not its name) and how it is read: into a few buffers that stay in the
processor's cache, which is faster than mapping it. Memory does not grow with the file.
"""

from __future__ import annotations

import gzip
import io
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa

from replaykit.capturing import left_out
from replaykit.capturing.left_out import LeftOut
from replaykit.engine.engine import Engine
from replaykit.engine.engines import Engines
from replaykit.engine.source import BrokenCapture
from replaykit.errors import UsageError
from replaykit.plain import say

PIECE = 2 << 20
LARGEST_RECORD = 256 << 20

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


class _Pieces:
    """A stream in pieces of at most `size` bytes, each behind ROOM bytes for what was left of the one before.

    A file is read ahead in a thread of its own; what may keep one waiting is handed out as it comes. What was
    read before the stream failed is handed out first.
    """

    ROOM = 64 << 10
    BUFFERS = 3

    def __init__(self, stream: Any, size: int, ahead: bool) -> None:
        self._stream, self._size, self._ahead = stream, size, ahead

    def __iter__(self) -> Iterator[tuple[bytearray, int]]:
        return self._read_ahead() if self._ahead else self._as_it_comes()

    def _as_it_comes(self) -> Iterator[tuple[bytearray, int]]:
        buffer = bytearray(self.ROOM + self._size)
        with memoryview(buffer)[self.ROOM :] as view:
            while read := self._stream.readinto1(view):
                yield buffer, read

    def _read_ahead(self) -> Iterator[tuple[bytearray, int]]:
        empty: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
        filled: queue.SimpleQueue[tuple[bytearray, int, Exception | None]] = queue.SimpleQueue()

        def run() -> None:
            while (buffer := empty.get()) is not None:
                read, error = self._fill(buffer)
                filled.put((buffer, read, error))
                if error is not None or read < self._size:
                    return

        for _ in range(self.BUFFERS):
            empty.put(bytearray(self.ROOM + self._size))
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            while True:
                buffer, read, error = filled.get()
                if read:
                    yield buffer, read
                if error is not None:
                    raise error
                if read < self._size:
                    return
                empty.put(buffer)
        finally:
            empty.put(None)
            thread.join()

    def _fill(self, buffer: bytearray) -> tuple[int, Exception | None]:
        read = 0
        with memoryview(buffer)[self.ROOM :] as view:
            while read < self._size:
                try:
                    more = self._stream.readinto1(view[read:])
                except Exception as error:  # raised where the pieces are taken
                    return read, error
                if not more:
                    break
                read += more
        return read, None


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

    raw: read in place of the file of that name. `once`: it cannot be opened a second time.
    """

    def __init__(self, name: str, raw: IO[bytes] | None = None) -> None:
        self.name = name
        self.size: int | None = None
        self.once = raw is not None or not Path(name).is_file()
        self._raw: IO[bytes]
        if raw is not None:
            self._raw = raw
        elif name == "-":
            if sys.stdin.isatty():
                say(
                    "replaykit: reading from standard input, such as tcpdump -w - | replaykit report -;"
                    " Ctrl-C ends"
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

    def feed(self, engine: Engine | Engines, reading: Reading, piece: int = PIECE) -> Iterator[Progress]:
        """Feeds the whole file to an engine; the caller takes rows and messages at each step.

        A file cut short or broken is fed as far as it goes, and `reading` says so. piece: bytes a step.
        """
        if self.kind == "capture":
            engine.next_file()
        before = engine.bad_records
        try:
            yield from self._pieces(engine, reading, piece)
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

    def _pieces(self, engine: Engine | Engines, reading: Reading, piece: int) -> Iterator[Progress]:
        feed = engine.feed_gor if self.kind == "gor" else engine.feed_file
        room, rest, total = _Pieces.ROOM, bytearray(), 0
        for buffer, read in _Pieces(self._stream, piece, bool(self.size)):
            if len(rest) <= room:
                data, start, end = buffer, room - len(rest), room + read
                data[start:room] = rest
            else:
                if len(rest) >= LARGEST_RECORD:
                    raise UsageError(
                        f"{self.name}: a record of more than {LARGEST_RECORD} bytes at byte {total}"
                    )
                rest += memoryview(buffer)[room : room + read]  # a record that spans pieces grows in place
                data, start, end = rest, 0, len(rest)
            took = feed(data, start, end)
            self._note(data, start, took, reading)
            total += took
            if took or data is not rest:
                rest = bytearray(memoryview(data)[start + took : end])
            yield self._progress(total)
        if self.kind == "gor" and rest:  # a .gor file's last records may lack their separators
            took = engine.feed_gor(rest, 0, len(rest), True)
            total += took
            rest = rest[took:]
            yield self._progress(total)
        if rest:
            reading.trouble = (
                f"{self.name}: cut short: its last record, at byte {total}, is not whole; what came before it"
                " was read"
            )

    def _progress(self, total: int) -> Progress:
        plain = self._stream is self._raw or self.size is None
        return Progress(total if plain else min(self._raw.tell(), self.size or 0), self.size)

    def _note(self, data: bytearray, at: int, took: int, reading: Reading) -> None:
        if self.kind == "gor":
            reading.left_out.add(left_out.find(data, at, at + took))
