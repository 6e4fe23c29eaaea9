"""Chunks of messages as objects in S3: written to a local file first, uploaded when they end."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from replaykit.archive import s3
from replaykit.errors import UsageError
from replaykit.goreplay.outputs.file import FileOutput, FileSettings
from replaykit.goreplay.pipeline import Log
from replaykit.records.message import Messages


class S3Output:
    """url: s3://bucket/key with the placeholders of file names. folder: where chunks grow.

    A chunk that cannot be uploaded is kept there, and the log says so.
    """

    def __init__(self, url: str, settings: FileSettings, folder: str, log: Log) -> None:
        self.name = url
        self._log = log
        self._bucket, key = s3.split(url)
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="replaykit-s3-", dir=folder))
        except OSError as error:
            raise UsageError(f"{folder}: {(error.strerror or str(error)).lower()}") from None
        self._files = FileOutput(str(self._folder / key), settings, log, closed=self._ended)
        self._uploads: set[asyncio.Future[None]] = set()

    @property
    def lost(self) -> int:
        return self._files.lost

    def _ended(self, path: str) -> None:
        upload = asyncio.get_running_loop().run_in_executor(None, self._upload, Path(path))
        self._uploads.add(upload)
        upload.add_done_callback(self._uploads.discard)

    def _upload(self, path: Path) -> None:
        url = f"s3://{self._bucket}/{path.relative_to(self._folder)}"
        try:
            s3.put_file(path, url)
        except UsageError as error:
            self._log(0, f"{error}; the chunk stays at {path}")
            return
        path.unlink()

    async def write(self, messages: Messages) -> None:
        await self._files.write(messages)

    async def close(self) -> None:
        await self._files.close()
        await asyncio.gather(*self._uploads)
        for folder in sorted(self._folder.rglob("*"), reverse=True):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        if not any(self._folder.iterdir()):
            self._folder.rmdir()
