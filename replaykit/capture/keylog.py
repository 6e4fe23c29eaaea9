"""A TLS key log on disk, followed while it grows."""

from __future__ import annotations

import os
from pathlib import Path

from replaykit.errors import UsageError
from replaykit.wire.tls import KeyLog


class KeyLogFile(KeyLog):
    """An SSLKEYLOGFILE; it need not exist yet. Raises UsageError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._at = 0
        self._inode = 0
        try:
            self._read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise UsageError(f"--tls-keys {path}: {error.strerror}") from None

    def update(self) -> bool:
        """Reads what was added; true if something was. A log that cannot be read now may be later."""
        try:
            return self._read()
        except OSError:
            return False

    def _read(self) -> bool:
        with self._path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._at:
                self._inode, self._at = status.st_ino, 0
                self.restart()
            file.seek(self._at)
            before = self._at
            while added := file.read(1 << 20):
                self._at += len(added)
                self.add(added)
        return self._at > before
