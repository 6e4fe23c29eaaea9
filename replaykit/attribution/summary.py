"""Exchanges added up: who uses the bandwidth.

Owns sums, shares and percentiles per key. Memory is bounded by the number of keys kept: beyond it the
smallest are added to `(other)`, so totals always add up; sibling endpoints that differ in one segment
and are very many are joined first. Percentiles come from logarithmic buckets (error below 1.1 %).
Totals are weighted: with sampling they estimate the whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.errors import UsageError

KEYS = ("endpoint", "host", "client", "server", "status", "content_type", "method", "path", "protocol")
OTHER = "(other)"
MAX_KEYS = 10_000
MAX_SIBLINGS = 100

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

    def add(self, other: Group) -> None:
        for name in ("requests", "incomplete", *_SUMS):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.max_request_bytes = max(self.max_request_bytes, other.max_request_bytes)
        self.max_response_bytes = max(self.max_response_bytes, other.max_response_bytes)
        for mine, theirs in ((self.sizes, other.sizes), (self.latencies, other.latencies)):
            for bucket, count in theirs.items():
                mine[bucket] = mine.get(bucket, 0) + count


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
    """Groups by one or several of KEYS; feed it batches of exchanges."""

    def __init__(self, by: Sequence[str] = ("endpoint",), max_keys: int = MAX_KEYS) -> None:
        self.by = tuple(by)
        self._max_keys = max_keys
        self._groups: dict[Key, Group] = defaultdict(Group)
        self.total = Group()
        self.weighted = False

    def add(self, batch: pa.RecordBatch) -> None:
        """Adds a batch with the columns of an exchange; its strings may be dictionaries or plain."""
        if not batch.num_rows:
            return
        table, keys = self._table(batch)
        names = [f"key{i}" for i in range(len(self.by))]
        aggregates = [("weight", "sum"), ("incomplete", "sum")]
        aggregates += [(name, "sum") for name in _SUMS]
        aggregates += [("request_wire_raw", "max"), ("response_wire_raw", "max")]
        totals = table.group_by(names).aggregate(aggregates).to_pydict()
        rows = zip(*(totals[n] for n in names), strict=True)
        groups: list[Group] = []
        for i, row in enumerate(rows):
            part = Group(totals["weight_sum"][i], totals["incomplete_sum"][i] or 0)
            for name in _SUMS:
                setattr(part, name, totals[f"{name}_sum"][i] or 0)
            part.max_request_bytes = totals["request_wire_raw_max"][i] or 0
            part.max_response_bytes = totals["response_wire_raw_max"][i] or 0
            groups.append(part)
            self._groups[_key(keys, row)].add(part)
        for part in groups:
            self.total.add(part)
        for column, attribute in (("size_bucket", "sizes"), ("latency_bucket", "latencies")):
            counts = table.group_by([*names, column]).aggregate([("weight", "sum")]).to_pydict()
            for *parts, bucket, weight in zip(
                *(counts[n] for n in names), counts[column], counts["weight_sum"], strict=True
            ):
                if bucket is not None:
                    for group in (self._groups[_key(keys, parts)], self.total):
                        buckets = getattr(group, attribute)
                        buckets[bucket] = buckets.get(bucket, 0) + weight
        if len(self._groups) > self._max_keys:
            self._shrink()

    def _table(self, batch: pa.RecordBatch) -> tuple[pa.Table, list[list[str | None] | None]]:
        """The columns to aggregate, weighted, with keys as numbers where they are dictionaries."""
        columns: dict[str, pa.Array] = {}
        keys: list[list[str | None] | None] = []
        for i, name in enumerate(self.by):
            column = batch.column(_COLUMNS.get(name, name))
            if name == "content_type":
                column = pc.ascii_lower(pc.utf8_rtrim_whitespace(_before(_plain(column), ";")))
            if pa.types.is_dictionary(column.type):
                keys.append(column.dictionary.to_pylist())
                column = column.indices
            else:
                keys.append(None)
            columns[f"key{i}"] = column
        weight = batch.column("weight")
        weighted = pc.max(weight).as_py() != 1
        self.weighted |= weighted
        columns["weight"] = weight
        request, response = batch.column("request_wire_bytes"), batch.column("response_wire_bytes")
        columns["request_wire_raw"], columns["response_wire_raw"] = request, response
        columns["incomplete"] = _times(
            pc.invert(batch.column("complete")).cast(pa.float64()), weight, weighted
        )
        for name in _SUMS:
            columns[name] = _times(batch.column(name), weight, weighted)
        size = pc.add(pc.fill_null(request, 0), pc.fill_null(response, 0))
        columns["size_bucket"] = _bucket(size)
        columns["latency_bucket"] = _bucket(batch.column("duration_ns"))
        return pa.table(columns), keys

    def _shrink(self) -> None:
        """Joins siblings, then adds the smallest half to `(other)`."""
        self._groups = defaultdict(Group, self._joined())
        if len(self._groups) > self._max_keys:
            ranked = sorted(self._groups, key=lambda k: self._groups[k].link_bytes)
            other = (OTHER,) * len(self.by)
            for key in ranked[: len(ranked) - self._max_keys // 2]:
                if key != other:
                    self._groups[other].add(self._groups.pop(key))

    def _joined(self) -> dict[Key, Group]:
        if "endpoint" not in self.by:
            return dict(self._groups)
        at = self.by.index("endpoint")
        names = join_siblings({key[at] for key in self._groups})
        out: dict[Key, Group] = {}
        for key, group in self._groups.items():
            name = names.get(key[at], key[at])
            joined = (*key[:at], name, *key[at + 1 :])
            if joined in out:
                out[joined].add(group)
            else:
                out[joined] = group
        return out

    def top(self, n: int | None = None) -> list[tuple[Key, Group]]:
        """The keys with the most link bytes, the rest as `(other)`: the sum is always the total."""
        self._groups = defaultdict(Group, self._joined())
        other_key = (OTHER,) * len(self.by)
        ranked = sorted(
            ((k, g) for k, g in self._groups.items() if k != other_key),
            key=lambda kg: (-kg[1].link_bytes, kg[0]),
        )
        other = Group()
        if other_key in self._groups:
            other.add(self._groups[other_key])
        keep = ranked if n is None else ranked[:n]
        for _, group in ranked[len(keep) :]:
            other.add(group)
        return [*keep, (other_key, other)] if other.requests else keep


def _key(keys: list[list[str | None] | None], row: Iterable[object]) -> Key:
    out = []
    for names, value in zip(keys, row, strict=True):
        text = value if names is None or value is None else names[value]  # type: ignore[call-overload]
        out.append("(unknown)" if text is None else str(text))
    return tuple(out)


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _before(column: pa.Array, mark: str) -> pa.Array:
    return pc.list_element(pc.split_pattern(column, mark, max_splits=1), 0)


def _times(column: pa.Array, weight: pa.Array, weighted: bool) -> pa.Array:
    return pc.multiply(column.cast(pa.float64()), weight) if weighted else column


def _bucket(column: pa.Array) -> pa.Array:
    """The logarithmic bucket of each value; -1 for zero and less."""
    logarithm = pc.multiply(pc.log2(pc.max_element_wise(column, 1).cast(pa.float64())), _BUCKETS_PER_OCTAVE)
    buckets = pc.floor(logarithm).cast(pa.int16())
    return pc.if_else(
        pc.is_null(column), None, pc.if_else(pc.less(column, 1), pa.scalar(-1, pa.int16()), buckets)
    )


def join_siblings(endpoints: Iterable[str], most: int = MAX_SIBLINGS) -> dict[str, str]:
    """New names for endpoints that differ in one segment with more than `most` values there.

    `/users/alice`, `/users/bob` and a hundred more become `/users/{name}`.
    """
    names = {e: e.split("/") for e in endpoints}
    depth = max((len(s) for s in names.values()), default=0)
    for level in range(1, depth):
        siblings: dict[tuple[object, ...], set[str]] = defaultdict(set)
        for segments in names.values():
            if len(segments) > level:
                siblings[(*segments[:level], len(segments))].add(segments[level])
        for segments in names.values():
            if len(segments) > level and len(siblings[(*segments[:level], len(segments))]) > most:
                segments[level] = "{name}"
    return {e: "/".join(s) for e, s in names.items() if "/".join(s) != e}
