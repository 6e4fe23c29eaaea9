"""A TLS key log on disk, followed while it grows."""

from __future__ import annotations

import os
from pathlib import Path

from replaykit.errors import UsageError

PIECE = 16 << 20


def require(path: str | None) -> None:
    """Raises UsageError where a log is named and is not there: for a recording none can come later."""
    if path is not None and not Path(path).exists():
        raise UsageError(f"--tls-keys {path}: there is no such file")


class KeyLogFile:
    """An SSLKEYLOGFILE; it need not exist yet. Raises UsageError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._inode = 0
        try:
            os.close(os.open(path, os.O_RDONLY))
        except FileNotFoundError:
            return
        except OSError as error:
            raise UsageError(f"--tls-keys {path}: {error.strerror}") from None

    def __str__(self) -> str:
        return f"--tls-keys {self._path}"

    def rewind(self) -> None:
        """Reads the log from its beginning once more."""
        self._at, self._inode = 0, 0

    def read(self) -> tuple[bytes, bool] | None:
        """More of what was added since the last time, and whether the log was begun anew; None: there is no
        more.

        A log that cannot be read now may be later.
        """
        try:
            status = self._path.stat()
            if status.st_ino == self._inode and status.st_size == self._at:
                return None
            anew = status.st_ino != self._inode or status.st_size < self._at
            if anew:
                self._inode, self._at = status.st_ino, 0
            with self._path.open("rb") as file:
                file.seek(self._at)
                added = file.read(PIECE)
        except OSError:
            return None
        self._at += len(added)
        return (added, anew) if added else None
