"""An archive kept in order: small files of an hour become one, old ones go.

Owns the order of steps, so that a reader sees every exchange once at any moment, and a crash between
two steps costs nothing: first the list of what will be replaced, then the new file, then the sources go,
then the list. Memory is one row group, however large the hour.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from replaykit.archive.parquet_file import PART, ParquetFile
from replaykit.archive.partitions import partition, read
from replaykit.archive.store import REPLACES, Store, counting
from replaykit.errors import UsageError
from replaykit.records.exchange import BATCH_SCHEMA

GRACE_S = 900.0
"""An hour is left alone so long after its end: its last files may still be written."""


@dataclass
class Done:
    """files, bytes: that were taken away. rows: exchanges in what was compacted, or deleted."""

    files: int = 0
    bytes: int = 0
    rows: int = 0
    made: int = 0
    made_bytes: int = 0


def compact(store: Store, now: float | None = None, dry: bool = False) -> Done:
    """Joins the files of each hour that has several. Raises UsageError."""
    now = time.time() if now is None else now
    done = Done()
    if not dry:
        _tidy(store)
    hours: dict[str, dict[str, int]] = defaultdict(dict)
    for name, size in counting(store).items():
        span = partition(name)
        if span is not None and span[1] / 1e9 + GRACE_S <= now and not name.endswith(PART):
            hours[name.rpartition("/")[0]][name] = size
    for hour, names in sorted(hours.items()):
        if len(names) < 2:
            continue
        done.files += len(names)
        done.bytes += sum(names.values())
        if dry:
            done.rows += sum(store.parquet(n).metadata.num_rows for n in names)
        else:
            _join(store, hour, sorted(names), done)
        done.made += 1
    return done


def _join(store: Store, hour: str, names: list[str], done: Done) -> None:
    # The same sources give the same name: after a crash the step is done again, not twice.
    digest = hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest()
    name = f"{hour}/compact-{digest}.parquet"
    place = Path(store.place) if not store.place.startswith("s3://") else Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix=".compact-", dir=place) as folder:
        made = Path(folder) / "whole.parquet"
        file = ParquetFile(made, BATCH_SCHEMA)
        rows = expected = 0
        try:
            for source in names:
                expected += store.parquet(source).metadata.num_rows
                for batch in read(f"{store.place.rstrip('/')}/{source}"):
                    rows += batch.num_rows
                    file.write(batch.cast(BATCH_SCHEMA) if batch.schema != BATCH_SCHEMA else batch)
        except BaseException:
            file.abandon()
            raise
        file.close()
        if rows != expected:
            raise UsageError(
                f"{store.place}{hour}: {rows:,} of {expected:,} exchanges were read; nothing was changed"
            )
        done.rows += rows
        done.made_bytes += made.stat().st_size
        listed = Path(folder) / "list"
        listed.write_text(json.dumps(names))
        os.chmod(listed, 0o600)
        store.put(listed, name + REPLACES)
        store.put(made, name)
    _finish(store, name, names)


def _finish(store: Store, name: str, sources: list[str]) -> None:
    for source in sources:
        if source != name:
            store.delete(source)
    store.delete(name + REPLACES)


def _tidy(store: Store) -> None:
    """Ends what a crash left half done."""
    names = store.names()
    for listed in [n for n in names if n.endswith(REPLACES)]:
        name = listed.removesuffix(REPLACES)
        if name in names:
            _finish(store, name, json.loads(store.read(listed)))
        else:
            store.delete(listed)


def expire(store: Store, before_ns: int, dry: bool = False) -> Done:
    """Deletes the files of hours that ended before a time. Files outside partitions are left alone."""
    done = Done()
    for name, size in counting(store).items():
        span = partition(name)
        if span is None or span[1] > before_ns or name.endswith(PART):
            continue
        done.files += 1
        done.bytes += size
        done.rows += store.parquet(name).metadata.num_rows
        if not dry:
            store.delete(name)
    return done
