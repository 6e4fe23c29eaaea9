"""Exchanges that run long: who, what, how much so far, how fast, since when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.units import show_size

LEAST_NS = 1_000_000_000
"""A shorter one is not named."""
MOST = 10
_SHOWN = ("connection", "stream", "endpoint", "client_ip", "method")


@dataclass(frozen=True)
class LongRunner:
    """Sizes in bytes, by the measure; times in ns."""

    endpoint: str
    client: str
    method: str
    bytes: int
    bytes_per_second: float
    since_ns: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "endpoint": self.endpoint,
            "client": self.client,
            "method": self.method,
            "bytes": self.bytes,
            "bytes_per_second": round(self.bytes_per_second),
            "since": self.since_ns / 1e9,
            "seconds": round(self.seconds, 1),
        }

    def line(self) -> str:
        """For a person."""
        return (
            f"  in flight {self.seconds:.0f} s: {show_size(self.bytes)} at"
            f" {show_size(self.bytes_per_second)}/s, {self.method} {self.endpoint} for {self.client}"
        )


class LongRunners:
    """The largest exchanges in flight; their rates are of the time between two looks."""

    def __init__(self, measure: str) -> None:
        self._measure = measure
        self._before: dict[tuple[int, int], int] = {}
        self._looked_ns = 0

    def look(self, in_flight: Sequence[pa.RecordBatch], now_ns: int) -> list[LongRunner]:
        """The largest first."""
        passed_s = (now_ns - self._looked_ns) / 1e9
        found: list[LongRunner] = []
        seen: dict[tuple[int, int], int] = {}
        for batch in in_flight:
            size = self._sizes(batch)
            begun = pc.coalesce(batch.column("time"), batch.column("response_time")).cast(pa.int64())
            old = pc.fill_null(pc.less(begun, now_ns - LEAST_NS), False)
            columns = {name: batch.column(name) for name in _SHOWN} | {"size": size, "begun": begun}
            table = pa.table(columns).filter(old)
            for row in table.take(pc.select_k_unstable(table, MOST, [("size", "descending")])).to_pylist():
                identity = (row["connection"], row["stream"])
                seen[identity] = row["size"]
                since_s = (now_ns - row["begun"]) / 1e9
                before = self._before.get(identity)
                rate = (
                    row["size"] / since_s if before is None else (row["size"] - before) / max(passed_s, 1e-3)
                )
                found.append(
                    LongRunner(
                        row["endpoint"] or "(unknown)",
                        row["client_ip"],
                        row["method"] or "-",
                        row["size"],
                        max(rate, 0.0),
                        row["begun"],
                        since_s,
                    )
                )
        self._before, self._looked_ns = seen, now_ns
        return sorted(found, key=lambda r: -r.bytes)[:MOST]

    def _sizes(self, batch: pa.RecordBatch) -> pa.Array:
        if self._measure == "link":
            return batch.column("link_bytes")
        one, other = (
            pc.fill_null(batch.column(f"{side}_{self._measure}_bytes"), 0) for side in ("request", "response")
        )
        return pc.add(one, other)
