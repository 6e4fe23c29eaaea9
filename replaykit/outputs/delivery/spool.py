"""A bounded queue on disk: what waits for a server that is slow, away, or for our own restart.

Owns a directory of segments. A record is its length, a checksum and its bytes; records are appended
whole, so after kill -9 everything flushed is read again and a torn last record is cut off. Beyond the
bound the oldest segments go, and are counted. One process at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from replaykit.atomic_files import append, append_whole, cannot_write
from replaykit.errors import UsageError

SEGMENT = 4 << 20
_HEAD = struct.Struct("<III")
"""Bytes, checksum, and how many things the record holds."""


class Spool:
    """max_bytes: of all segments. Raises UsageError where the directory cannot be used.

    `dropped`: things (exchanges) that the bound cost, over the spool's whole life.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._most = folder, max(max_bytes, 2 * SEGMENT)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise cannot_write(folder, error) from None
        self._lock = append(folder / "lock")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise UsageError(f"{folder}: another process uses this spool; give each its own") from None
        state = self._state()
        self.dropped: int = state.get("dropped", 0)
        self._reading: tuple[int, int] = (state.get("segment", 0), state.get("offset", 0))
        self._sizes = {int(p.stem): p.stat().st_size for p in sorted(folder.glob("*.seg"))}
        last = max(self._sizes, default=0)
        self._sizes.setdefault(last, 0)
        self._writing = last
        self._fd = append(self._path(last))
        self._repair()

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}.seg"

    def _state(self) -> dict[str, int]:
        try:
            found = json.loads((self._folder / "state").read_text())
        except (OSError, ValueError):
            return {}
        return {str(k): int(v) for k, v in found.items()} if isinstance(found, dict) else {}

    def _save(self) -> None:
        """Written aside and renamed: a crash leaves the old or the new one."""
        part = self._folder / "state.part"
        segment, offset = self._reading
        try:
            part.write_text(json.dumps({"segment": segment, "offset": offset, "dropped": self.dropped}))
            part.rename(self._folder / "state")
        except OSError as error:
            raise cannot_write(self._folder, error) from None

    def _repair(self) -> None:
        """Cuts off what a crash left of a last record."""
        good = 0
        for end, _, _ in self._records(self._writing, 0):
            good = end
        if good < self._sizes[self._writing]:
            os.ftruncate(self._fd, good)
            self._sizes[self._writing] = good

    def _records(self, number: int, offset: int) -> Iterator[tuple[int, int, bytes]]:
        """Where each record ends, how many things it holds, its bytes."""
        try:
            data = self._path(number).read_bytes()
        except FileNotFoundError:
            return
        while offset + _HEAD.size <= len(data):
            size, check, count = _HEAD.unpack_from(data, offset)
            record = data[offset + _HEAD.size : offset + _HEAD.size + size]
            if len(record) < size or zlib.crc32(record) != check:
                return
            offset += _HEAD.size + size
            yield offset, count, record

    @property
    def waiting_bytes(self) -> int:
        """Not taken yet."""
        segment, offset = self._reading
        return sum(s for n, s in self._sizes.items() if n >= segment) - (
            offset if segment in self._sizes else 0
        )

    def put(self, record: bytes, count: int) -> None:
        """Appends a record that holds `count` things. Raises UsageError on a full disk."""
        data = _HEAD.pack(len(record), zlib.crc32(record), count) + record
        if self._sizes[self._writing] >= SEGMENT:
            os.close(self._fd)
            self._writing += 1
            self._sizes[self._writing] = 0
            self._fd = append(self._path(self._writing))
        append_whole(self._fd, data, str(self._folder))
        self._sizes[self._writing] += len(data)
        while sum(self._sizes.values()) > self._most and len(self._sizes) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        oldest = min(self._sizes)
        segment, offset = self._reading
        if oldest >= segment:
            start = offset if oldest == segment else 0
            self.dropped += sum(count for _, count, _ in self._records(oldest, start))
            self._reading = (oldest + 1, 0)
            self._save()
        self._remove(oldest)

    def _remove(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)
        del self._sizes[number]

    def peek(self) -> tuple[bytes, int] | None:
        """The oldest record that was not taken, and its count; None where there is none."""
        while True:
            segment, offset = self._reading
            segment = max(segment, min(self._sizes))
            if segment != self._reading[0]:
                offset = 0
            for end, count, record in self._records(segment, offset):
                self._next = (segment, end)
                return record, count
            if segment >= self._writing:
                self._reading = (segment, offset)
                return None
            self._reading = (segment + 1, 0)

    def take(self) -> None:
        """The record that `peek` gave is done with; a restart will not give it again."""
        self._reading = self._next
        self._save()
        for number in [n for n in self._sizes if n < self._reading[0]]:
            self._remove(number)

    def close(self) -> None:
        self._save()
        os.close(self._fd)
        os.close(self._lock)
