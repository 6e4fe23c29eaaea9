"""An archive of Parquet files as input: a time window of it, and only the columns that are wanted.

Owns what is left unread: partitions (`date=…/hour=…`) outside the window by their names, row groups by
the statistics of `time`, and columns that nobody asked for. Memory is a few batches.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import pyarrow as pa

from replaykit.archive.store import Store, counting, open_parquet
from replaykit.errors import UsageError
from replaykit.records.exchange import BATCH_SCHEMA, EXTRA, SCHEMA
from replaykit.units import parse_duration

BATCH_ROWS = 65_536
_PARTITION = re.compile(r"date=(\d{4}-\d{2}-\d{2})/hour=(\d{2})(?:/|\Z)")


@dataclass(frozen=True)
class Window:
    """In ns since the epoch: from `since` on, before `until`; None: no bound."""

    since: int | None = None
    until: int | None = None

    def __bool__(self) -> bool:
        return self.since is not None or self.until is not None

    def holds(self, first: int, last: int) -> bool:
        """Everything from `first` to `last` lies in it."""
        return (self.since is None or first >= self.since) and (self.until is None or last < self.until)

    def meets(self, begin: int, end: int) -> bool:
        """Something from `begin` to before `end` may lie in it."""
        return (self.until is None or begin < self.until) and (self.since is None or end > self.since)


def parse_time(flag: str, text: str, now: datetime | None = None) -> int:
    """ISO 8601 (UTC unless it says otherwise), `now`, or a duration before now such as `2h`, in ns.

    Raises UsageError.
    """
    now = now or datetime.now(UTC)
    if text == "now":
        return _ns(now)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        try:
            return _ns(now) - int(parse_duration(text) * 1e9)
        except UsageError:
            raise UsageError(f"{flag} {text}: write 2026-11-21T08:00, 2h (ago) or now") from None
    return _ns(when if when.tzinfo else when.replace(tzinfo=UTC))


def _ns(when: datetime) -> int:
    since = when - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000


def partition(name: str) -> tuple[int, int] | None:
    """When the partition of a file begins and ends, in ns; None where its name does not say."""
    match = _PARTITION.search(name)
    if match is None:
        return None
    try:
        begin = datetime.fromisoformat(f"{match[1]}T{match[2]}:00:00+00:00")
    except ValueError:
        return None
    return _ns(begin), _ns(begin + timedelta(hours=1))


def files(store: Store, window: Window) -> list[str]:
    """The files of an archive that may meet the window: paths or URLs, sorted."""
    found = []
    for name in counting(store):
        span = partition(name)
        if span is None or not window or window.meets(*span):
            found.append(f"{store.place.rstrip('/')}/{name}")
    return sorted(found)


def read(
    name: str, window: Window = Window(), wanted: Collection[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The exchanges of a file (a path, or an s3:// URL) in batches of BATCH_SCHEMA; columns that are not
    wanted are null.

    Raises UsageError.
    """
    file = open_parquet(name, _TEXTS)
    there = file.schema_arrow.names
    lately = ("alpn", *EXTRA)  # files written before these columns existed are read too
    missing = [n for n in SCHEMA.names if n not in there and n not in lately]
    if missing:
        raise UsageError(f"{name}: not a file of exchanges: it has no column {missing[0]!r}")
    groups = _groups(file, window) if window else list(range(file.num_row_groups))
    names = [
        n for n in SCHEMA.names if n in there and (wanted is None or n in wanted or (window and n in _TIMES))
    ]
    for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=names):
        if window:
            batch = _inside(batch, window)
        columns = [
            batch.column(f.name).cast(f.type) if f.name in names else _nulls(batch.num_rows, f.type)
            for f in BATCH_SCHEMA
        ]
        if batch.num_rows:
            yield pa.RecordBatch.from_arrays(columns, schema=_NULLABLE)


_TIMES = ("time", "response_time")
_TEXTS = [f.name for f in BATCH_SCHEMA if pa.types.is_dictionary(f.type)]
_NULLABLE = pa.schema([f.with_nullable(True) for f in BATCH_SCHEMA])


@lru_cache(256)
def _nulls(rows: int, kind: pa.DataType) -> pa.Array:
    """Columns nobody asked for are the same ones again and again."""
    return pa.nulls(rows, kind)


def _groups(file: object, window: Window) -> list[int]:
    """Row groups that may meet the window. Those with rows timed by the response are all kept."""
    metadata = file.metadata  # type: ignore[attr-defined]
    at = metadata.schema.names.index("time")
    kept = []
    for number in range(metadata.num_row_groups):
        column = metadata.row_group(number).column(at)
        statistics = column.statistics
        known = statistics is not None and statistics.has_min_max and statistics.null_count == 0
        if known and not window.meets(int(statistics.min_raw), int(statistics.max_raw) + 1):
            continue
        kept.append(number)
    return kept


def _inside(batch: pa.RecordBatch, window: Window) -> pa.RecordBatch:
    import pyarrow.compute as pc

    stamp = pc.coalesce(batch.column("time"), batch.column("response_time")).cast(pa.int64())
    ends = pc.min_max(stamp)
    first, last = ends["min"].as_py(), ends["max"].as_py()
    if first is not None and not stamp.null_count and window.holds(first, last):
        return batch
    keep = pc.is_valid(stamp)
    if window.since is not None:
        keep = pc.and_(keep, pc.greater_equal(stamp, window.since))
    if window.until is not None:
        keep = pc.and_(keep, pc.less(stamp, window.until))
    return batch.filter(pc.fill_null(keep, False))
