"""Exchanges added up: who uses the bandwidth.

The sums are kept in the core (`core/attribution`). Memory is bounded by the number of keys kept: beyond it
the smallest are added to `(other)`, so totals always add up; sibling endpoints that differ in one segment and
are very many are joined first. Percentiles come from logarithmic buckets (error below 1.1 %). Totals are
weighted: with sampling they estimate the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.attribution.folding import Folding
from replaykit.core import core
from replaykit.errors import UsageError
from replaykit.records.increment import ENDED

KEYS = ("endpoint", "host", "client", "server", "status", "content_type", "method", "path", "protocol")
MEASURES = ("wire", "link", "body")
"""What is added up and shared out: TCP payload (headers, bodies, framing), whole packets, or bodies alone;
both directions.
"""
OTHER = "(other)"
MAX_KEYS = 10_000

_COLUMNS = {"client": "client_ip", "server": "server_ip"}
_BUCKETS_PER_OCTAVE = 32

_SUMS = (
    "request_header_bytes", "request_body_bytes", "response_header_bytes", "response_body_bytes",
    "request_wire_bytes", "response_wire_bytes", "link_bytes", "retransmitted_bytes",
)  # fmt: skip

Key = tuple[str, ...]


@dataclass
class Group:
    """One key's totals. Sizes in bytes, weighted; `overhead_bytes`: packet headers and repeats."""

    requests: float = 0
    incomplete: float = 0
    request_header_bytes: float = 0
    request_body_bytes: float = 0
    response_header_bytes: float = 0
    response_body_bytes: float = 0
    request_wire_bytes: float = 0
    response_wire_bytes: float = 0
    link_bytes: float = 0
    retransmitted_bytes: float = 0
    max_request_bytes: int = 0
    max_response_bytes: int = 0
    sizes: dict[int, float] = field(default_factory=dict)
    latencies: dict[int, float] = field(default_factory=dict)

    @property
    def wire_bytes(self) -> float:
        return self.request_wire_bytes + self.response_wire_bytes

    @property
    def overhead_bytes(self) -> float:
        return self.link_bytes - self.wire_bytes

    def bytes(self, measure: str) -> float:
        """By one of MEASURES."""
        if measure == "link":
            return self.link_bytes
        return self.wire_bytes if measure == "wire" else self.request_body_bytes + self.response_body_bytes


def percentile(buckets: dict[int, float], share: float) -> float | None:
    """The value below which `share` of the counts lie; None where there are none."""
    total = sum(buckets.values())
    if not total:
        return None
    left = total * share
    for bucket in sorted(buckets):
        left -= buckets[bucket]
        if left <= 0:
            return 0.0 if bucket < 0 else float(2 ** ((bucket + 0.5) / _BUCKETS_PER_OCTAVE))
    return float(2 ** ((max(buckets) + 0.5) / _BUCKETS_PER_OCTAVE))


def parse_keys(text: str) -> tuple[str, ...]:
    """`endpoint,host` as a tuple of keys. Raises UsageError."""
    keys = tuple(k.strip() for k in text.split(","))
    for key in keys:
        if key not in KEYS:
            raise UsageError(f"--by {key!r}: choose from {', '.join(KEYS)}")
    return keys


def columns(by: Sequence[str]) -> set[str]:
    """What a summary by these keys reads of an exchange."""
    return {"weight", "complete", "duration_ns", *_SUMS, *(_COLUMNS.get(key, key) for key in by)}


class Summary:
    """Groups by one or several of KEYS; feed it batches of exchanges, or of all that moved."""

    def __init__(
        self, by: Sequence[str] = ("endpoint",), max_keys: int = MAX_KEYS, measure: str = MEASURES[0]
    ) -> None:
        self.by, self.measure = tuple(by), measure
        endpoint = self.by.index("endpoint") if "endpoint" in self.by else None
        self._core: Any = core.Summary(len(self.by), endpoint, max_keys, measure)
        self._folding = Folding()

    def _with(self, made: Any) -> Summary:
        out: Summary = object.__new__(Summary)
        out.by, out.measure, out._core, out._folding = self.by, self.measure, made, self._folding
        return out

    def add(self, batch: pa.RecordBatch) -> None:
        """Adds a batch with the columns of an exchange; its strings may be dictionaries or plain."""
        if batch.num_rows:
            self._core.add(self._columns(batch).__arrow_c_array__(), self._folding.core)

    def alike(self, only_sums: bool = False) -> Summary:
        """An empty one, which joins siblings as this one does. only_sums: without percentiles."""
        return self._with(self._core.alike(only_sums))

    def merge(self, other: Summary) -> None:
        """Adds all that another one of the same kind holds."""
        self._core.merge(other._core, self._folding.core)

    def with_sums_of(self, moving: Summary) -> Summary:
        """Requests and percentiles of this one, which knows what has ended, and bytes of one that knows all
        that moved.
        """
        return self._with(self._core.with_sums_of(moving._core))

    @property
    def weighted(self) -> bool:
        """A sample was added: totals are estimates."""
        return bool(self._core.weighted)

    @property
    def total(self) -> Group:
        """Of everything."""
        return self._group(self._core.total())

    def top(self, n: int | None = None) -> list[tuple[Key, Group]]:
        """The keys with the most bytes by the measure, the rest as `(other)`: the sum is always the total."""
        return [(tuple(key), self._group(totals)) for key, totals in self._core.top(n, self._folding.core)]

    def _group(self, totals: Any) -> Group:
        requests, incomplete, sums, (request, response), sizes, latencies = totals
        named = dict(zip(_SUMS, sums if self.weighted else map(int, sums), strict=True))
        return Group(
            requests,
            incomplete,
            **named,
            max_request_bytes=request,
            max_response_bytes=response,
            sizes=dict(sizes),
            latencies=dict(latencies),
        )

    def _columns(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """What the core adds up, in its types."""
        columns: dict[str, pa.Array] = {f"key{i}": _key(batch, name) for i, name in enumerate(self.by)}
        for name in (*_SUMS, "duration_ns"):
            columns[name] = _in_type(batch.column(name), pa.int64())
        columns["weight"], columns["complete"] = batch.column("weight"), batch.column("complete")
        if ENDED in batch.schema.names:
            columns[ENDED] = batch.column(ENDED)
        return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def _key(batch: pa.RecordBatch, name: str) -> pa.Array:
    column = batch.column(_COLUMNS.get(name, name))
    if name == "content_type":
        plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        return pc.ascii_lower(pc.utf8_rtrim_whitespace(_before(plain.cast(pa.string()), ";")))
    if pa.types.is_dictionary(column.type):
        return _in_type(column, pa.dictionary(pa.int32(), pa.string()))
    return _in_type(column, pa.string())


def _in_type(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """A cast of Arrow's loads all that it can compute, even where there is nothing to do."""
    return column if column.type == wanted else column.cast(wanted)


def _before(column: pa.Array, mark: str) -> pa.Array:
    return pc.list_element(pc.split_pattern(column, mark, max_splits=1), 0)
