"""What moved lately: sums of the last whole slices of time."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.attribution.summary import Summary

LATE_NS = 700_000_000
"""So long after its end all that moved in a slice is known: a worker flushes twice a second."""
MOST_NS = 60_000_000_000
"""The longest window: a rate of now says nothing of what was an hour ago."""


class Recent:
    """Keeps a summary of each slice as long as it is needed, asked for or not. slice_ns: of the engine;
    window_ns: what is wanted; what there is is a whole number of slices, at most MOST_NS or one slice."""

    def __init__(self, summary: Summary, slice_ns: int, window_ns: int) -> None:
        self._like, self._slice_ns = summary, slice_ns
        self.window_ns = max(round(min(window_ns, MOST_NS) / slice_ns), 1) * slice_ns
        self._most = (self.window_ns + LATE_NS) // slice_ns + 3
        self._slices: dict[int, Summary] = {}

    def add(self, moved: pa.RecordBatch) -> None:
        time = pc.coalesce(moved.column("time"), moved.column("response_time")).cast(pa.int64())
        slices = pc.divide(time, self._slice_ns)  # times before 1970 are nobody's now
        for number in pc.unique(slices).to_pylist():
            if number is None:
                continue
            if number not in self._slices:
                self._slices[number] = self._like.alike(only_sums=True)
            self._slices[number].add(moved.filter(pc.equal(slices, number)))
        while len(self._slices) > self._most:
            del self._slices[min(self._slices)]

    def summary(self, now_ns: int) -> Summary:
        """Of the last whole slices that are known by now."""
        end = (now_ns - LATE_NS) // self._slice_ns
        begin = end - self.window_ns // self._slice_ns
        out = self._like.alike(only_sums=True)
        for number in list(self._slices):
            if begin <= number < end:
                out.merge(self._slices[number])
            elif number < begin or number > end + self._most:  # a time from nowhere does not stay
                del self._slices[number]
        return out
