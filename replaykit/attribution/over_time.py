"""Who used the bandwidth when: bytes by key in slices of time, counted when they moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.attribution.summary import OTHER, Summary

MOST_ROWS = 200_000
"""Slices and keys that are kept; beyond it the smallest of each slice are added to `(other)`."""


@dataclass
class Row:
    """A key in a slice. time_ns: its start. requests: that ended in it, weighted."""

    time_ns: int
    key: tuple[str, ...]
    requests: float
    bytes: float


class OverTime:
    """Feed it batches of all that moved, or of exchanges, which count when they began."""

    def __init__(self, by: Sequence[str], measure: str, slice_ns: int) -> None:
        self.by, self.measure, self.slice_ns = tuple(by), measure, slice_ns
        self._sums: dict[tuple[int, tuple[str, ...]], list[float]] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        time = pc.coalesce(batch.column("time"), batch.column("response_time")).cast(pa.int64())
        at = pc.multiply(pc.divide(pc.fill_null(time, 0), self.slice_ns), self.slice_ns)
        for begin in pc.unique(at).to_pylist():
            one = Summary(self.by, measure=self.measure).alike(only_sums=True)
            one.add(batch.filter(pc.equal(at, begin)))
            for key, group in one.top():
                sums = self._sums.setdefault((begin, key), [0.0, 0.0])
                sums[0] += group.requests
                sums[1] += group.bytes(self.measure)
        if len(self._sums) > MOST_ROWS:
            self._fold()

    def _fold(self) -> None:
        kept: dict[tuple[int, tuple[str, ...]], list[float]] = {}
        slices = {begin for begin, _ in self._sums}
        for row in self.rows(max(MOST_ROWS // (2 * len(slices)), 1)):
            kept[row.time_ns, row.key] = [row.requests, row.bytes]
        self._sums = kept

    def rows(self, top: int | None = None) -> list[Row]:
        """By time, then the largest first; of each slice so many keys, the rest as `(other)`."""
        slices: dict[int, list[Row]] = {}
        for (begin, key), (requests, moved) in self._sums.items():
            slices.setdefault(begin, []).append(Row(begin, key, requests, moved))
        out: list[Row] = []
        other = (OTHER,) * len(self.by)
        for begin in sorted(slices):
            ranked = sorted(slices[begin], key=lambda r: (r.key == other, -r.bytes, r.key))
            kept = ranked if top is None else [r for r in ranked[:top] if r.key != other]
            rest = ranked[len(kept) :]
            out += kept
            if rest:
                out.append(Row(begin, other, sum(r.requests for r in rest), sum(r.bytes for r in rest)))
        return out
