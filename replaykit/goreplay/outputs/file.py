"""Files as GoReplay names them: by time, id and kind, in chunks of a size and a number of messages.

Owns the names and when a chunk ends. What is written are whole records, appended; with .gz every
flush is a gzip member of its own, so that what was flushed stays readable after a crash.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import random
import re
import string
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from replaykit.atomic_files import NotWritten, append, append_whole
from replaykit.goreplay.pipeline import Log
from replaykit.outputs.gor import escaped_line
from replaykit.records.message import SEPARATOR, Messages

_INSTANCE = "".join(random.choices(string.ascii_letters, k=8))
_MEMBER = 1 << 20


@dataclass(frozen=True)
class FileSettings:
    """append: one file, no chunks. size, count: a chunk's most bytes and messages; 0: no bound.

    total: bytes, compressed where they are, after which nothing more is written; 0: no bound.
    """

    append: bool = False
    size: int = 32 << 20
    count: int = 256
    total: int = 1 << 40
    flush_s: float = 1.0


def with_index(name: str, index: int) -> str:
    """`a.gor` as `a_3.gor`; an index that is there is replaced. The last ending alone counts as one."""
    stem, ending = os.path.splitext(name)
    base, found, number = stem.rpartition("_")
    if found and re.fullmatch(r"[+-]?[0-9]+", number):
        stem = base
    return f"{stem}_{index}{ending}"


def index_of(name: str) -> int:
    """The index of a chunk's name; -1 where it has none."""
    _, found, number = os.path.splitext(name)[0].rpartition("_")
    return int(number) if found and re.fullmatch(r"[+-]?[0-9]+", number) else -1


def expand(template: str, now: float, identifier: str, kind: int) -> str:
    """%Y %m %d %H %M %S %NS: local time; %r: the message's id; %t: its kind; %i: this instance."""
    local = time.localtime(now)
    values = {
        "%NS": str(int(now % 1 * 1e9)),
        "%Y": time.strftime("%Y", local),
        "%m": time.strftime("%m", local),
        "%d": time.strftime("%d", local),
        "%H": time.strftime("%H", local),
        "%M": time.strftime("%M", local),
        "%S": time.strftime("%S", local),
        "%r": re.sub(r"[^0-9A-Za-z_.-]", "_", identifier),
        "%t": str(kind),
        "%i": _INSTANCE,
    }
    return re.sub("|".join(values), lambda match: values[match[0]], template)


def _zipped_at_most(size: int) -> int:
    """What a gzip member of so many bytes takes at worst (RFC 1951 §3.2.4, RFC 1952)."""
    return size + 5 * (size // 16_000 + 1) + 64


class FileOutput:
    """`lost`: messages that could not be written, because the disk is full or the bound is reached."""

    def __init__(
        self,
        template: str,
        settings: FileSettings,
        log: Log,
        closed: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = f"file {template}"
        self.lost = 0
        self.current: str | None = None
        self._template, self._settings, self._log = template, settings, log
        self._closed, self._clock = closed, clock
        self._each = "%r" in template or "%t" in template
        self._timed = re.search(r"%(?:NS|[YmdHMS])", template) is not None
        self._fd = -1
        self._pending = bytearray()
        self._ends: list[int] = []
        """Of the records in `_pending`."""
        self._size = self._count = self._total = 0
        self._escaped = 0
        self._full = False
        self._trouble: str | None = None
        self._flusher: asyncio.Task[None] | None = None

    async def write(self, messages: Messages) -> None:
        messages, escaped = messages.storable()
        self._escaped += escaped
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush_now_and_then())
        if not self._each and self._one_chunk(messages):
            self._name("", 0)
            first = messages.index["record"].tolist()[:1]
            ends = messages.index["end"].tolist()
            self._put(messages.blob(), [end + len(SEPARATOR) - first[0] for end in ends])
            return
        index = messages.index
        columns = (index[c].tolist() for c in ("kind", "record", "end"))
        for identifier, kind, record, end in zip(messages.ids(), *columns, strict=True):
            self._name(identifier.decode("latin-1"), kind)
            size = end + len(SEPARATOR) - record
            self._put(messages.gor[record : record + size], [size])

    def _one_chunk(self, messages: Messages) -> bool:
        """The whole batch belongs into one file."""
        s, size = self._settings, len(messages.blob())
        if s.total and self._total + len(self._pending) + size > s.total:
            return False
        if s.append:
            return True
        return (not s.size or self._size + size < s.size) and (
            not s.count or self._count + len(messages) <= s.count
        )

    def _name(self, identifier: str, kind: int) -> None:
        """Makes the file that the next record belongs into the current one."""
        s = self._settings
        if self._fd >= 0 and not self._each:
            full = not s.append and (
                (s.size and self._size >= s.size) or (s.count and self._count >= s.count)
            )
            if not full and not self._timed:
                return
        else:
            full = False
        path = os.path.normpath(expand(self._template, self._clock(), identifier, kind))
        if not s.append:
            path = self._chunk(path, bool(full))
        if path != self.current or self._fd < 0:
            self._close_file()
            self._fd = append(Path(path))
            self.current = path
            self._size = os.fstat(self._fd).st_size
            self._count = 0

    def _chunk(self, path: str, full: bool) -> str:
        """The chunk's name: the last of this name goes on, unless it is full or of an earlier run."""
        stem, ending = os.path.splitext(path)
        folder, base = os.path.split(stem)
        pattern = re.compile(re.escape(base) + r"(?:_([0-9]+))?" + re.escape(ending) + r"\Z")
        try:
            there = [m for name in os.listdir(folder or ".") if (m := pattern.match(name))]
        except FileNotFoundError:
            there = []
        if not there:
            return with_index(path, 0)
        last = max(int(m[1] or -1) for m in there)
        ours = self.current == with_index(path, last)
        return with_index(path, last + 1 if full or not ours else last)

    def _put(self, records: bytes | memoryview, ends: list[int]) -> None:
        if not self._room(len(records)):
            self._lose(len(ends), f"{self._template}: the bound of {self._settings.total} bytes is reached")
            return
        self._size += len(records)
        self._count += len(ends)
        before = len(self._pending)
        self._ends += [before + end for end in ends]
        self._pending += records
        if len(self._pending) >= _MEMBER:
            self.flush()

    def _room(self, size: int) -> bool:
        """The bound of what is written, after compression, is not reached yet; the record that reaches it is
        the last.
        """
        most = self._settings.total
        if not most:
            return True
        if self._full:
            return False
        zipped = self.current is not None and self.current.endswith(".gz")
        if zipped and self._total + _zipped_at_most(len(self._pending) + size) > most:
            self.flush()  # now it is known what that takes
        self._full = self._total + len(self._pending) >= most
        return not self._full

    def _lose(self, count: int, why: str) -> None:
        self.lost += count
        if self._trouble != why:
            self._log(0, f"{why}; messages are lost, and counted")
        self._trouble = why

    def flush(self) -> None:
        """Writes what waits; what the disk cannot take is lost, and counted."""
        if not self._pending or self.current is None:
            return
        data, ends = bytes(self._pending), self._ends
        self._pending, self._ends = bytearray(), []
        zipped = self.current.endswith(".gz")
        if zipped:
            data = gzip.compress(data, 6)
        try:
            append_whole(self._fd, data, self.current, () if zipped else ends)
            self._total += len(data)
            self._trouble = None
        except NotWritten as error:
            self._lose(len(ends) if zipped else error.lost, str(error))

    async def _flush_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(max(self._settings.flush_s, 0.01))
            self.flush()

    def _close_file(self) -> None:
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            if self._closed is not None and self.current is not None:
                self._closed(self.current)

    async def close(self) -> None:
        if self._flusher is not None:
            self._flusher.cancel()
        self._close_file()
        if self._escaped:
            self._log(0, escaped_line(self._template, self._escaped))
