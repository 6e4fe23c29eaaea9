"""Parquet into S3 and compatible stores (OSS, MinIO), partitioned by date and hour.

Owns a staging directory: files are finished there, uploaded by a thread, and removed when the store has
them. What was finished and not uploaded is uploaded by the next run; a file that is uploaded twice is one
object. Beyond its bound the oldest files go, and their exchanges are counted.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs

import pyarrow as pa
import pyarrow.parquet as pq

from replaykit.archive import s3
from replaykit.atomic_files import exclusive
from replaykit.errors import UsageError
from replaykit.outputs.delivery.drain import Backoff
from replaykit.outputs.files import DirectoryOutput
from replaykit.outputs.output import Output, Rotation
from replaykit.outputs.settings import state_folder
from replaykit.records.message import Messages
from replaykit.units import parse_size

_LAST_S = 60.0


class S3Archive:
    """`s3://bucket/prefix/[?staging=DIR&staging-size=10GB]`. Raises UsageError."""

    wants_messages = False

    def __init__(self, target: str, rotation: Rotation) -> None:
        url, _, query = target.partition("?")
        given = {k: v[-1] for k, v in parse_qs(query).items()}
        unknown = set(given) - {"staging", "staging-size"}
        bucket, prefix = s3.split(url)
        if unknown:
            raise UsageError(f"{url}: there is no option {sorted(unknown)[0]!r}")
        self.target = f"s3://{bucket}/{prefix.strip('/')}".rstrip("/") + "/"
        self._most = parse_size(given.get("staging-size", "10GB"))
        name = f"s3-{bucket}-{prefix.strip('/').replace('/', '-')}".rstrip("-")
        self._staging = Path(given.get("staging") or state_folder() / name)
        self._lock = exclusive(
            self._staging / "lock",
            f"{self._staging}: another process uses this staging directory; give each its own",
        )
        self._client = s3.client()
        try:
            s3.check(self._client, bucket)
        except BaseException:
            os.close(self._lock)
            raise
        self._output = DirectoryOutput(str(self._staging), rotation, self._finished)
        self._wake, self._stopping = threading.Event(), threading.Event()
        self.uploaded = 0
        self.dropped = 0
        self.trouble: str | None = None
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def exchanges(self, batch: pa.RecordBatch) -> None:
        self._output.exchanges(batch)

    def messages(self, messages: Messages) -> None:
        """Parquet holds exchanges only."""

    def flush(self) -> None:
        self._output.flush()

    def _finished(self, path: Path) -> None:
        waiting = self._waiting()
        sizes = {p: p.stat().st_size for p in waiting if p.exists()}
        total = sum(sizes.values())
        for oldest in sorted(sizes, key=lambda p: p.name):
            if total <= self._most or oldest == path:
                break
            rows = pq.read_metadata(oldest).num_rows
            oldest.unlink(missing_ok=True)
            total -= sizes[oldest]
            self.dropped += rows
        self._wake.set()

    def _waiting(self) -> list[Path]:
        return sorted(self._staging.glob("date=*/hour=*/*.parquet"))

    def _run(self) -> None:
        backoff = Backoff(self._stopping)
        while True:
            waiting = self._waiting()
            if not waiting:
                if self._stopping.is_set():
                    return
                self._wake.wait(1)
                self._wake.clear()
                continue
            try:
                for path in waiting:
                    key = path.relative_to(self._staging).as_posix()
                    s3.put_file(path, self.target + key, self._client)
                    path.unlink(missing_ok=True)
                    self.uploaded += 1
                backoff.over()
            except (UsageError, OSError) as error:
                self.trouble = str(error)
                if time.monotonic() > self._deadline:
                    return
                backoff.wait()

    def close(self) -> None:
        """Raises UsageError if something could not be uploaded; it waits in the staging directory."""
        try:
            self._output.close()
        finally:
            self._deadline = time.monotonic() + _LAST_S
            self._stopping.set()
            self._wake.set()
            self._thread.join(_LAST_S + 60)
            os.close(self._lock)
        left = self._waiting()
        if left:
            raise UsageError(
                f"{self.target}: {len(left)} files could not be uploaded ({self.trouble}); they wait in "
                f"{self._staging} and are uploaded by the next run"
            )
        if self.dropped:
            raise UsageError(
                f"{self.target}: {self.dropped:,} exchanges were dropped: the staging directory was full"
            )


def open_place(target: str, rotation: Rotation) -> Output | None:
    """Entry point: `s3://bucket/prefix/`."""
    return S3Archive(target, rotation) if target.startswith("s3://") else None
