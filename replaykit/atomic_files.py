"""Files that are never torn: written aside and renamed, or grown by whole records; readable by their owner
only.
"""

from __future__ import annotations

import fcntl
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from replaykit.errors import UsageError

Existing = Literal["refuse", "append", "overwrite"]
"""What becomes of a file that is there already. It is replaced only when there is something in its place."""


class NotWritten(UsageError):
    """A disk is full, or the like. lost: exchanges or messages that were taken and are in no file."""

    def __init__(self, text: str, lost: int) -> None:
        super().__init__(text)
        self.lost = lost


class Growing:
    """A file that grows by whole records; `-` is standard output. Raises UsageError where `existing` refuses
    it.

    first: written before anything else. begins: it is empty until now.
    """

    def __init__(self, target: str, existing: Existing) -> None:
        self._target = target
        self._aside: Path | None = None
        self.first = b""
        if target == "-":
            self._fd, self.begins = os.dup(1), True
            return
        path = Path(target)
        holds = path.is_file() and path.stat().st_size > 0
        if holds and existing == "refuse":
            raise UsageError(
                f"{target}: there is such a file already: give --append to add to it, or --overwrite"
            )
        self.begins = not holds or existing == "overwrite"
        if holds and existing == "overwrite":
            self._aside = path.with_name(f".{path.name}.part")
            self._fd = create(self._aside)
        else:
            self._fd = append(path)

    def write(
        self, data: bytes | bytearray | memoryview, whole: Callable[[memoryview, int], tuple[int, int]]
    ) -> None:
        """Appends `data`, or as many whole records of it as fit: raises NotWritten then.

        whole(data, done): of `done` bytes those in whole records, and how many records are beyond them.
        """
        first, self.first = self.first, b""
        view = memoryview(first + bytes(data) if first else data)
        done = 0
        try:
            while done < len(view):
                done += os.write(self._fd, view[done:])
        except BrokenPipeError:
            raise
        except OSError as error:
            kept, lost = whole(view, done)
            with suppress(OSError):  # a pipe cannot be cut back
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - (done - kept))
                os.lseek(self._fd, 0, os.SEEK_END)
            name = "standard output" if self._target == "-" else self._target
            raise NotWritten(str(cannot_write(name, error)), lost) from None
        if self._aside is not None and view:
            os.replace(self._aside, self._target)
            self._aside = None

    def close(self) -> None:
        """An aside in which nothing was written is taken away, and the earlier file stays."""
        if self.first and self._aside is None:
            self.write(b"", lambda _, done: (0, 0))
        os.close(self._fd)
        if self._aside is not None:
            self._aside.unlink(missing_ok=True)


def append_whole(fd: int, data: bytes | bytearray | memoryview, name: str, ends: Sequence[int] = ()) -> None:
    """Appends all of `data`, or as many whole records of it as fit: raises NotWritten and cuts back what a
    full disk tore.

    ends: where records end; without them it is one.
    """
    view = memoryview(data)
    done = 0
    try:
        while done < len(view):
            done += os.write(fd, view[done:])
    except BrokenPipeError:
        raise
    except OSError as error:
        fit = bisect_right(ends, done)
        kept = ends[fit - 1] if fit else 0
        if done > kept:
            with suppress(OSError):  # a pipe cannot be cut back
                os.ftruncate(fd, os.fstat(fd).st_size - (done - kept))
        raise NotWritten(str(cannot_write(name, error)), max(len(ends), 1) - fit) from None


def create(path: Path) -> int:
    """Opens a new file for writing, readable by its owner only; raises UsageError."""
    return _open(path, os.O_TRUNC)


def append(path: Path) -> int:
    """Opens a file for appending, readable by its owner only; raises UsageError."""
    return _open(path, os.O_APPEND)


def _open(path: Path, how: int) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o600)
    except OSError as error:
        raise cannot_write(path, error) from None


def exclusive(path: Path, refusal: str) -> int:
    """A lock that nobody else has until the descriptor is closed. Raises UsageError with `refusal`."""
    lock = append(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise UsageError(refusal) from None
    return lock


def write_whole(path: Path, data: bytes) -> None:
    """Written aside and renamed, so that a reader finds the old or the new. Raises UsageError."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise cannot_write(path, error) from None


def cannot_write(path: Path | str, error: OSError) -> UsageError:
    """The one line for a disk that is full, a missing permission, and the like."""
    return UsageError(f"{path}: cannot be written: {(error.strerror or str(error)).lower()}")
