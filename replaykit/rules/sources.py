"""Where alerts get their statistics by minute: an archive of Parquet, Elasticsearch, a live capture."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from replaykit.archive.partitions import Window, files, read
from replaykit.archive.store import open_store
from replaykit.atomic_files import cannot_write, create
from replaykit.attribution.minutes import KEYS, MINUTE_NS, SUMS, add, by_minute
from replaykit.errors import UsageError

HOUR_NS = 3_600_000_000_000
_COLUMNS = frozenset(("time", "response_time", "duration_ns", "weight", "complete", *KEYS, *SUMS))
_STAMP = pa.timestamp("ns", tz="UTC")
_WIRE_BYTES = ("request_wire_bytes", "response_wire_bytes")
_FIELDS = {
    "endpoint": "replaykit.endpoint",
    "host": "url.domain",
    "method": "http.request.method",
    "status": "http.response.status_code",
}
"""Of the documents in Elasticsearch."""

Moved = tuple[int, str | None, float]
"""The number of a step since the beginning, a group (None: it is not known), bytes."""


def empty() -> pa.Table:
    """Rows of no minute."""
    names: dict[str, pa.DataType] = {
        "minute": _STAMP,
        "endpoint": pa.string(),
        "host": pa.string(),
        "method": pa.string(),
        "status": pa.int16(),
    }
    names |= dict.fromkeys((*SUMS, "duration_max_ns"), pa.int64())
    return pa.schema(list(names.items())).empty_table()


def _between(table: pa.Table, since_ns: int, until_ns: int) -> pa.Table:
    minute = table.column("minute").cast(pa.int64())
    return table.filter(pc.and_(pc.greater_equal(minute, since_ns), pc.less(minute, until_ns)))


class ParquetSource:
    """A file, a directory or an s3:// prefix of exchanges.

    An hour is read once, and again when its files change.
    """

    HOURS = 400

    def __init__(self, place: str) -> None:
        self._file = place if place.endswith(".parquet") else None
        self._store = None if self._file else open_store(place)
        self._hours: OrderedDict[int, tuple[tuple[str, ...], pa.Table]] = OrderedDict()

    def rows(self, since_ns: int, until_ns: int) -> pa.Table | None:
        parts = [self._hour(h) for h in range(since_ns // HOUR_NS, (until_ns - 1) // HOUR_NS + 1)]
        found = [p for p in parts if p is not None]
        return _between(add(found), since_ns, until_ns) if found else None

    def _hour(self, hour: int) -> pa.Table | None:
        window = Window(hour * HOUR_NS, (hour + 1) * HOUR_NS)
        names = (self._file,) if self._file else tuple(files(self._store, window))  # type: ignore[arg-type]
        known = self._hours.get(hour)
        if known is None or known[0] != names:
            parts = [by_minute(b) for name in names for b in read(name, window, _COLUMNS)]
            known = (names, add(parts) if parts else empty())
            self._hours[hour] = known
            while len(self._hours) > self.HOURS:
                self._hours.popitem(last=False)
        return known[1] if known[1].num_rows else None

    def moved(self, by: str, since_ns: int, until_ns: int, step_ns: int) -> Iterator[Moved]:
        """Bytes of requests and responses by step and group, each exchange's where it began; an hour is read
        at a time.
        """
        for hour in range(since_ns // HOUR_NS, (until_ns - 1) // HOUR_NS + 1):
            table = self.rows(max(hour * HOUR_NS, since_ns), min((hour + 1) * HOUR_NS, until_ns))
            if table is not None:
                step = pc.divide(pc.subtract(table.column("minute").cast(pa.int64()), since_ns), step_ns)
                size = pc.add(*(pc.fill_null(table.column(n), 0) for n in _WIRE_BYTES))
                names = table.column(by).cast(pa.string())
                yield from zip(*(c.to_pylist() for c in (step, names, size)), strict=True)

    def loss(self, since_ns: int, until_ns: int) -> float | None:
        return None


def _group(name: str) -> dict[str, Any]:
    return {name: {"terms": {"field": _FIELDS[name], "missing_bucket": True}}}


class ElasticSource:
    """`elasticsearch://HOST:9200/NAME`: the documents of the kinds `minutes` and `hosts`."""

    def __init__(self, target: str) -> None:
        from replaykit.outputs.elastic_place import connect, parse_place

        place = parse_place(target)
        self._name = place.name
        self._client = connect(place)

    def rows(self, since_ns: int, until_ns: int) -> pa.Table | None:
        sums = {n: f"replaykit.{n}" for n in SUMS} | {
            "request_wire_bytes": "source.bytes",
            "response_wire_bytes": "destination.bytes",
        }
        metrics: dict[str, Any] = {n: {"sum": {"field": f}} for n, f in sums.items()}
        metrics["duration_max_ns"] = {"max": {"field": "replaykit.duration_max_ns"}}
        composite: dict[str, Any] = {
            "size": 1000,
            "sources": [_group(name) for name in _FIELDS],
        }
        rows: list[dict[str, Any]] = [
            {**bucket["key"], **{n: bucket[n]["value"] for n in metrics}, "minute": since_ns}
            for bucket in self._buckets(since_ns, until_ns, composite, metrics)
        ]
        table = pa.Table.from_pylist(
            rows, pa.schema([f.with_type(pa.float64()) if f.name in sums else f for f in _plain_schema()])
        )
        return table.set_column(0, "minute", table.column("minute").cast(_STAMP)) if table.num_rows else None

    def moved(self, by: str, since_ns: int, until_ns: int, step_ns: int) -> Iterator[Moved]:
        """Bytes of requests and responses by step and group, in the minute in which they moved."""
        step = {
            "field": "@timestamp",
            "fixed_interval": f"{step_ns // 10**9}s",
            "offset": f"{since_ns % step_ns // 10**9}s",
        }
        composite: dict[str, Any] = {
            "size": 1000,
            "sources": [{"step": {"date_histogram": step}}, _group(by)],
        }
        sums = {"bytes": {"sum": {"field": "network.bytes"}}}
        for bucket in self._buckets(since_ns, until_ns, composite, sums):
            at = bucket["key"]["step"] * 10**6
            name = bucket["key"][by]
            yield (at - since_ns) // step_ns, None if name is None else str(name), bucket["bytes"]["value"]

    def _buckets(
        self, since_ns: int, until_ns: int, composite: dict[str, Any], metrics: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        while True:
            found = self._search(
                "minutes", since_ns, until_ns, {"rows": {"composite": composite, "aggs": metrics}}
            )
            if found is None:
                return
            yield from found["rows"]["buckets"]
            if len(found["rows"]["buckets"]) < composite["size"]:
                return
            composite["after"] = found["rows"]["after_key"]

    def _search(self, kind: str, since_ns: int, until_ns: int, aggregations: dict[str, Any]) -> Any:
        from elasticsearch import ApiError, TransportError

        window = {
            "range": {
                "@timestamp": {"gte": since_ns // 10**6, "lt": until_ns // 10**6, "format": "epoch_millis"}
            }
        }
        try:
            answer = self._client.search(
                index=f"{self._name}-{kind}*",
                size=0,
                query=window,
                aggs=aggregations,
                ignore_unavailable=True,
                allow_no_indices=True,
            )
        except ApiError as error:
            raise UsageError(f"elasticsearch: {' '.join(str(error).split())[:300]}") from None
        except TransportError as error:
            raise OSError(f"elasticsearch: {' '.join(str(error).split())[:300]}") from None
        return answer.get("aggregations")

    def loss(self, since_ns: int, until_ns: int) -> float | None:
        sums = {n: {"sum": {"field": f"replaykit.capture.{n}"}} for n in ("packets", "drops")}
        known = {"known": {"value_count": {"field": "replaykit.capture.packets"}}}
        found = self._search("hosts", since_ns, until_ns, sums | known)
        if not found or not found["known"]["value"]:
            return None
        packets, drops = (float(found[n]["value"]) for n in ("packets", "drops"))
        return drops / (packets + drops) if packets + drops else 0.0


def open_source(place: str) -> ParquetSource | ElasticSource:
    """An archive or `elasticsearch://`. Raises UsageError."""
    return ElasticSource(place) if place.startswith("elasticsearch://") else ParquetSource(place)


def _plain_schema() -> pa.Schema:
    fields = [
        ("minute", pa.int64()),
        *((n, pa.string()) for n in ("endpoint", "host", "method")),
        ("status", pa.int64()),
    ]
    return pa.schema([*fields, *((n, pa.float64()) for n in (*SUMS, "duration_max_ns"))])


class LiveSource:
    """What a running capture saw, by minute; hours are kept in a folder for the comparisons of growth.

    Fed by one thread, read by another.
    """

    KEPT_HOURS = 8 * 24

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._parts: list[pa.Table] = []
        self._lock = threading.Lock()
        self._loss: list[tuple[int, int, int]] = []
        self._began: int | None = None
        self._earlier: dict[int, pa.Table | None] = {}

    def add(self, batch: pa.RecordBatch, now_ns: int) -> None:
        part = by_minute(batch)
        with self._lock:
            self._began = self._began or now_ns
            self._parts.append(part)
            if len(self._parts) > 256:
                self._parts = [add(self._parts)]

    def heard(self, now_ns: int, packets: int, drops: int) -> None:
        """The kernel's counters at some moment."""
        with self._lock:
            self._began = self._began or now_ns
            self._loss = [e for e in self._loss if e[0] > now_ns - 2 * HOUR_NS] + [(now_ns, packets, drops)]

    def keep(self, now_ns: int) -> None:
        """Writes the hours so far, and forgets what is older than two. Raises UsageError."""
        with self._lock:
            if not self._parts:
                return
            table = add(self._parts)
            self._parts = [_between(table, (now_ns // HOUR_NS - 1) * HOUR_NS, 1 << 62)]
        if self._folder is None:
            return
        minute = table.column("minute").cast(pa.int64())
        for hour in pc.unique(pc.divide(minute, HOUR_NS)).to_pylist():
            self._write(hour, _between(table, hour * HOUR_NS, (hour + 1) * HOUR_NS))
        for path in self._folder.glob("*.hour.parquet"):
            if (
                path.name.split(".")[0].isdecimal()
                and int(path.name.split(".")[0]) < now_ns // HOUR_NS - self.KEPT_HOURS
            ):
                path.unlink(missing_ok=True)

    def _path(self, hour: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{hour}.hour.parquet"

    def _write(self, hour: int, table: pa.Table) -> None:
        path = self._path(hour)
        part = path.with_name(f".{path.name}.part")
        before = self._before(hour)
        try:
            with os.fdopen(create(part), "wb") as file:
                pq.write_table(table if before is None else add([before, table]), file, compression="zstd")
            os.replace(part, path)
        except OSError as error:
            raise cannot_write(path, error) from None

    def _before(self, hour: int) -> pa.Table | None:
        """What an earlier run wrote of this hour; read once."""
        if hour not in self._earlier:
            self._earlier[hour] = pq.read_table(self._path(hour)) if self._path(hour).exists() else None
        return self._earlier[hour]

    def rows(self, since_ns: int, until_ns: int) -> pa.Table | None:
        with self._lock:
            parts = list(self._parts)
            first = min(
                (pc.min(p.column("minute").cast(pa.int64())).as_py() for p in parts if p.num_rows),
                default=1 << 62,
            )
            began = self._began
        if self._folder is not None:
            for hour in range(since_ns // HOUR_NS, (until_ns - 1) // HOUR_NS + 1):
                if hour * HOUR_NS < first - first % HOUR_NS and self._path(hour).exists():
                    parts.append(pq.read_table(self._path(hour)))
                elif (hour + 1) * HOUR_NS > first and (earlier := self._before(hour)) is not None:
                    parts.append(earlier)
        found = [p for p in (_between(p, since_ns, until_ns) for p in parts) if p.num_rows]
        if found:
            return add(found)
        return empty() if began is not None and until_ns > began - MINUTE_NS else None

    def loss(self, since_ns: int, until_ns: int) -> float | None:
        with self._lock:
            inside = [e for e in self._loss if since_ns <= e[0] < until_ns]
        if len(inside) < 2:
            return None
        packets, drops = (inside[-1][i] - inside[0][i] for i in (1, 2))
        return drops / (packets + drops) if packets + drops else 0.0
