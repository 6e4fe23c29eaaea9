"""Exchanges as usage: what each endpoint received and sent in each minute.

An endpoint's rx is the requests, its tx the responses, as TCP payload. A run holds so many minutes and
endpoints; beyond that the oldest minutes are closed, and an exchange that belongs to one counts in the oldest
that is open, so that the sums stay whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.records.increment import ended
from replaykit.records.usage import Usage

MOST = 100_000
LONGEST = 1024
_MINUTE_NS = 60_000_000_000
_SUMS = ("request_wire_bytes", "response_wire_bytes", "request_packets", "response_packets")


class EndpointUsage:
    """The sums of a run. source: who counted; see Usage."""

    def __init__(self, source: str, most: int = MOST) -> None:
        self.source, self._most = source, most
        self._sums: dict[tuple[int, str], list[float]] = {}
        self._changed: set[tuple[int, str]] = set()
        self._oldest = 0

    def add(self, batch: pa.RecordBatch) -> None:
        weight = batch.column("weight")
        stamp = pc.coalesce(batch.column("time"), batch.column("response_time")).cast(pa.int64())
        columns = {
            "minute": pc.divide(pc.fill_null(stamp, 0), _MINUTE_NS),
            "endpoint": pc.fill_null(batch.column("endpoint").cast(pa.string()), "(unknown)"),
            "requests": pc.multiply(ended(batch).cast(pa.float64()), weight),
        }
        for name in _SUMS:
            columns[name] = pc.multiply(pc.fill_null(batch.column(name), 0).cast(pa.float64()), weight)
        values = (*_SUMS, "requests")
        found = pa.table(columns).group_by(["minute", "endpoint"]).aggregate([(n, "sum") for n in values])
        rows = zip(
            *(found.column(n).to_pylist() for n in ("minute", "endpoint", *(f"{v}_sum" for v in values))),
            strict=True,
        )
        for minute, endpoint, *sums in rows:
            key = (
                max(minute * 60, self._oldest),
                endpoint if len(endpoint) <= LONGEST else endpoint[:LONGEST] + "…",
            )
            at = self._sums.setdefault(key, [0.0] * len(values))
            for i, value in enumerate(sums):
                at[i] += value
            self._changed.add(key)

    def changed(self) -> Iterator[Usage]:
        """The records that have grown since `written`."""
        for time, endpoint in sorted(self._changed):
            rx, tx, rx_packets, tx_packets, requests = map(round, self._sums[time, endpoint])
            yield Usage(
                time,
                60,
                "wire",
                "endpoint",
                endpoint,
                {},
                rx,
                tx,
                rx_packets,
                tx_packets,
                requests,
                0,
                self.source,
            )

    def written(self) -> None:
        """What `changed` gave is in the ledger. The oldest minutes are closed where there are too many."""
        self._changed.clear()
        if len(self._sums) > self._most:
            times = sorted(time for time, _ in self._sums)
            self._oldest = times[len(times) // 2] + 60
            self._sums = {key: sums for key, sums in self._sums.items() if key[0] >= self._oldest}
