"""Single exchanges in an archive: the newest or the largest of an endpoint, an address, a status; and the
endpoints of an address.

Memory is a few batches and what is asked for; partitions and row groups outside the window stay unread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.archive import partitions as archive
from replaykit.archive.partitions import Window
from replaykit.archive.store import open_store
from replaykit.errors import UsageError
from replaykit.records.exchange import plain_values

SHOWN = (
    "time", "duration_ns", "protocol", "client_ip", "client_port", "server_ip", "server_port", "method",
    "host", "target", "endpoint", "status", "content_type", "request_header_bytes", "request_body_bytes",
    "response_header_bytes", "response_body_bytes", "request_wire_bytes", "response_wire_bytes", "link_bytes",
    "retransmitted_bytes", "complete", "missing_bytes", "trace_id", "weight",
)  # fmt: skip
"""Columns of an answer, and `wire_bytes`, their sum."""


@dataclass(frozen=True)
class Wanted:
    """Which exchanges; None: any. address: of either side.

    status: a number, or a class such as 5 for 500 to 599.
    """

    endpoint: str | None = None
    address: str | None = None
    status: int | None = None

    def rows(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        mask: Any = None
        for found in self._masks(batch):
            mask = found if mask is None else pc.and_(mask, found)
        return batch if mask is None else batch.filter(pc.fill_null(mask, False))

    def _masks(self, batch: pa.RecordBatch) -> Iterator[Any]:
        if self.endpoint is not None:
            endpoint = pc.fill_null(batch.column("endpoint").cast(pa.string()), "(unknown)")
            if self.endpoint.endswith("…"):  # how a ledger names what is too long
                yield pc.starts_with(endpoint, self.endpoint[:-1])
            else:
                yield pc.equal(endpoint, self.endpoint)
        if self.address is not None:
            sides = [
                pc.equal(batch.column(n).cast(pa.string()), self.address) for n in ("client_ip", "server_ip")
            ]
            yield pc.or_(*sides)
        if self.status is not None:
            status = batch.column("status")
            yield (
                pc.equal(pc.divide(status, 100), self.status)
                if self.status < 10
                else pc.equal(status, self.status)
            )


def exchanges(
    place: str,
    window: Window,
    wanted: Wanted,
    order: Literal["newest", "largest"] = "newest",
    most: int = 100,
) -> list[dict[str, Any]]:
    """The first `most` in that order, as plain values. place: a file, a folder or s3://.

    Raises UsageError.
    """
    best: pa.Table | None = None
    oldest: int | None = None
    for name in reversed(_files(place, window)):
        span = archive.partition(name)
        if order == "newest" and oldest is not None and span is not None and span[1] <= oldest:
            break
        for batch in archive.read(name, window, {*SHOWN, "response_time"}):
            found = wanted.rows(batch)
            if not found.num_rows:
                continue
            key = (
                pc.coalesce(found.column("time"), found.column("response_time")).cast(pa.int64())
                if order == "newest"
                else _wire_bytes(found)
            )
            some = pa.table(
                {**{n: _plain(found.column(n)) for n in SHOWN}, "wire_bytes": _wire_bytes(found), "key": key}
            )
            joined = some if best is None else pa.concat_tables([best, some])
            best = joined.take(pc.select_k_unstable(joined, most, [("key", "descending")]))
        if best is not None and best.num_rows >= most:
            oldest = pc.min(best.column("key")).as_py()
    if best is None:
        return []
    columns = {n: plain_values(best.column(n)) for n in (*SHOWN, "wire_bytes")}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def endpoints(place: str, window: Window, wanted: Wanted, most: int = 100) -> list[dict[str, Any]]:
    """What each endpoint moved for these exchanges, the largest first: requests, rx (requests) and tx
    (answers).
    """
    sums: dict[str, list[float]] = {}
    for name in _files(place, window):
        columns = {
            "endpoint", "client_ip", "server_ip", "status", "weight", "request_wire_bytes",
            "response_wire_bytes", "time", "response_time",
        }  # fmt: skip
        for batch in archive.read(name, window, columns):
            found = wanted.rows(batch)
            weight = found.column("weight")
            values = pa.table(
                {
                    "endpoint": pc.fill_null(found.column("endpoint").cast(pa.string()), "(unknown)"),
                    "requests": weight,
                    **{
                        to: pc.multiply(pc.fill_null(found.column(n), 0).cast(pa.float64()), weight)
                        for to, n in (("rx", "request_wire_bytes"), ("tx", "response_wire_bytes"))
                    },
                }
            )
            some = values.group_by("endpoint").aggregate([(n, "sum") for n in ("requests", "rx", "tx")])
            for row in some.to_pylist():
                at = sums.setdefault(row["endpoint"], [0.0, 0.0, 0.0])
                for i, n in enumerate(("requests", "rx", "tx")):
                    at[i] += row[f"{n}_sum"]
    largest = sorted(sums.items(), key=lambda s: (-s[1][1] - s[1][2], s[0]))[:most]
    return [
        {
            "endpoint": e,
            "requests": round(n),
            "rx_bytes": round(rx),
            "tx_bytes": round(tx),
            "total_bytes": round(rx + tx),
        }
        for e, (n, rx, tx) in largest
    ]


def _files(place: str, window: Window) -> list[str]:
    if place.endswith(".parquet"):
        return [place] if Path(place).exists() or "://" in place else []
    if "://" not in place and not Path(place).exists():
        raise UsageError(f"{place}: there is no such archive yet")
    return archive.files(open_store(place), window)


def _wire_bytes(batch: pa.RecordBatch) -> Any:
    return pc.add(*(pc.fill_null(batch.column(n), 0) for n in ("request_wire_bytes", "response_wire_bytes")))


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
