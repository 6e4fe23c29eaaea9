"""What moved lately: the movements of the last whole slices of time."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.attribution.summary import Summary

LATE_NS = 700_000_000
"""So long after its end all that moved in a slice is known: a worker flushes twice a second."""


class Recent:
    """Keeps movements as long as they are needed. slice_ns: of the engine; window_ns: a whole number of slices."""

    def __init__(self, summary: Summary, slice_ns: int, window_ns: int) -> None:
        self._like, self._slice_ns = summary, slice_ns
        self.window_ns = max(round(window_ns / slice_ns), 1) * slice_ns
        self._parts: list[pa.RecordBatch] = []

    def add(self, moved: pa.RecordBatch) -> None:
        self._parts.append(moved)

    def summary(self, now_ns: int) -> Summary:
        """Of the last whole slices that are known by now."""
        end = (now_ns - LATE_NS) // self._slice_ns * self._slice_ns
        begin = end - self.window_ns
        out = self._like.alike(only_sums=True)
        kept = []
        for part in self._parts:
            time = pc.coalesce(part.column("time"), part.column("response_time")).cast(pa.int64())
            inside = part.filter(pc.and_(pc.greater_equal(time, begin), pc.less(time, end)))
            out.add(inside)
            later = part.filter(pc.greater_equal(time, begin + self._slice_ns))
            if later.num_rows:
                kept.append(later)
        self._parts = kept
        return out
