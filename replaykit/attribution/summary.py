"""Exchanges added up: who uses the bandwidth.

Owns sums, shares and percentiles per key. Memory is bounded by the number of keys kept: beyond it the
smallest are added to `(other)`, so totals always add up; sibling endpoints that differ in one segment
and are very many are joined first. Percentiles come from logarithmic buckets (error below 1.1 %).
Totals are weighted: with sampling they estimate the whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.attribution.folding import Folding
from replaykit.errors import UsageError
from replaykit.wire.increment import ENDED, ended

KEYS = ("endpoint", "host", "client", "server", "status", "content_type", "method", "path", "protocol")
MEASURES = ("wire", "link", "body")
"""What is added up and shared out: TCP payload (headers, bodies, framing), whole packets, or bodies alone; both directions."""
OTHER = "(other)"
MAX_KEYS = 10_000

_COLUMNS = {"client": "client_ip", "server": "server_ip"}
_BUCKETS_PER_OCTAVE = 32

_SUMS = (
    "request_header_bytes", "request_body_bytes", "response_header_bytes", "response_body_bytes",
    "request_wire_bytes", "response_wire_bytes", "link_bytes", "retransmitted_bytes",
)  # fmt: skip

Key = tuple[str, ...]

_CODES = 4096
"""More than there are buckets: a group and a bucket are one number, which is grouped by faster than two."""
_CONDENSE = 32
"""Batches that wait before they are made one."""
_MOST_PENDING = 200_000
_PARTS: dict[str, tuple[tuple[str, ...], tuple[tuple[str, str], ...]]] = {
    "totals": (
        (),
        (
            ("weight", "sum"), ("incomplete", "sum"), *((name, "sum") for name in _SUMS),
            ("request_wire_raw", "max"), ("response_wire_raw", "max"),
        ),
    ),
    "sizes": (("size_bucket",), (("weight", "sum"),)),
    "latencies": (("latency_bucket",), (("weight", "sum"),)),
}  # fmt: skip
"""What is added up of a batch: by which columns beside the keys, and how."""


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
    """Groups by one or several of KEYS; feed it batches of exchanges, or of all that moved."""

    def __init__(
        self, by: Sequence[str] = ("endpoint",), max_keys: int = MAX_KEYS, measure: str = MEASURES[0]
    ) -> None:
        self.by, self.measure = tuple(by), measure
        self._max_keys = max_keys
        self._groups: dict[Key, Group] = defaultdict(Group)
        self._total = Group()
        self._pending: dict[str, list[pa.Table]] = {name: [] for name in _PARTS}
        self.weighted = False
        self._folding = Folding()
        self._parts = _PARTS

    def add(self, batch: pa.RecordBatch) -> None:
        """Adds a batch with the columns of an exchange; its strings may be dictionaries or plain."""
        if not batch.num_rows:
            return
        table, texts = self._table(batch)
        for part, (more, aggregates) in self._parts.items():
            by = more[0] if more else "group"
            found = table.group_by(by, use_threads=False).aggregate(list(aggregates)).combine_chunks()
            group = found.column(by).combine_chunks()
            if more:
                code, group = group, pc.divide(group, _CODES)
                bucket = pc.subtract(pc.subtract(code, pc.multiply(group, _CODES)), 2)
                found = found.append_column("bucket", pc.if_else(pc.less(bucket, -1), None, bucket))
            found = found.drop_columns([by])
            for i, names in enumerate(texts):
                found = found.append_column(f"key{i}", names.take(group))
            self._pending[part].append(found)
        if len(self._pending["totals"]) >= _CONDENSE:
            self._condense()

    def alike(self, only_sums: bool = False) -> Summary:
        """An empty one, which joins siblings as this one does. only_sums: without percentiles."""
        out = Summary(self.by, self._max_keys, self.measure)
        out._folding = self._folding
        if only_sums:
            out._parts = {"totals": _PARTS["totals"]}
        return out

    def with_sums_of(self, moving: Summary) -> Summary:
        """Requests and percentiles of this one, which knows what has ended, and bytes of one that knows all that moved."""
        self._fold()
        moving._fold()
        out = self.alike()
        out.weighted = self.weighted or moving.weighted
        for key in {**self._groups, **moving._groups}:
            out._groups[key] = _mixed(self._groups.get(key, Group()), moving._groups.get(key, Group()))
        out._total = _mixed(self._total, moving._total)
        return out

    def _condense(self) -> None:
        """Batches that wait become one: what keys they share is added up without a Python object per row."""
        names = [f"key{i}" for i in range(len(self.by))]
        for part, (more, aggregates) in self._parts.items():
            waiting = self._pending[part]
            if len(waiting) < 2:
                continue
            together = pa.concat_tables(waiting, promote_options="permissive")
            again = [(f"{name}_{kind}", kind) for name, kind in aggregates]
            by = [*names, "bucket"] if more else names
            found = together.group_by(by, use_threads=False).aggregate(again)
            renamed = [
                n.removesuffix("_sum_sum") + "_sum"
                if n.endswith("_sum_sum")
                else n.removesuffix("_max_max") + "_max"
                if n.endswith("_max_max")
                else n
                for n in found.column_names
            ]
            self._pending[part] = [found.rename_columns(renamed)]
        if max(part[0].num_rows for part in self._pending.values() if part) > _MOST_PENDING:
            self._fold()

    def _fold(self) -> None:
        """Makes groups of what waits."""
        if not self._pending["totals"]:
            return
        names = [f"key{i}" for i in range(len(self.by))]
        for part in self._pending["totals"]:
            if "endpoint" in self.by:
                self._folding.learn_all(part.column(f"key{self.by.index('endpoint')}").unique().to_pylist())
            rows = part.to_pylist()
            for row in rows:
                group = Group(row["weight_sum"], row["incomplete_sum"] or 0)
                for name in _SUMS:
                    setattr(group, name, row[f"{name}_sum"] or 0)
                group.max_request_bytes = row["request_wire_raw_max"] or 0
                group.max_response_bytes = row["response_wire_raw_max"] or 0
                self._groups[tuple(row[n] for n in names)].add(group)
                self._total.add(group)
        for attribute in ("sizes", "latencies"):
            for part in self._pending[attribute]:
                counts = part.to_pydict()
                total = getattr(self._total, attribute)
                for *key, bucket, weight in zip(
                    *(counts[n] for n in names), counts["bucket"], counts["weight_sum"], strict=True
                ):
                    if bucket is not None:
                        buckets = getattr(self._groups[tuple(key)], attribute)
                        buckets[bucket] = buckets.get(bucket, 0) + weight
                        total[bucket] = total.get(bucket, 0) + weight
        self._pending = {name: [] for name in _PARTS}
        if len(self._groups) > self._max_keys:
            self._shrink()

    @property
    def total(self) -> Group:
        """Of everything."""
        self._fold()
        return self._total

    def _table(self, batch: pa.RecordBatch) -> tuple[pa.Table, list[pa.Array]]:
        """The columns to aggregate, weighted, with all keys together as one number, `group`; and each key's text by group."""
        columns: dict[str, pa.Array] = {}
        group: pa.Array | None = None
        texts: list[pa.Array] = []
        for name in self.by:
            column = batch.column(_COLUMNS.get(name, name))
            if name == "content_type":
                column = pc.ascii_lower(pc.utf8_rtrim_whitespace(_before(_plain(column), ";")))
            if not pa.types.is_dictionary(column.type):
                column = column.cast(pa.string()).dictionary_encode()
            known = len(column.dictionary)
            indices = pc.fill_null(column.indices.cast(pa.int64()), known)
            names = pa.concat_arrays(
                [pc.fill_null(column.dictionary.cast(pa.string()), "(unknown)"), pa.array(["(unknown)"])]
            )
            if group is None:
                group, texts = indices, [names]
                continue
            both = pc.add(pc.multiply(group, known + 1), indices).dictionary_encode()
            first = pc.divide(both.dictionary, known + 1)
            second = pc.subtract(both.dictionary, pc.multiply(first, known + 1))
            texts = [*(t.take(first) for t in texts), names.take(second)]
            group = both.indices.cast(pa.int64())
        assert group is not None
        columns["group"] = group
        weight = batch.column("weight")
        weighted = pc.max(weight).as_py() != 1
        self.weighted |= weighted
        count = (
            pc.multiply(ended(batch).cast(pa.float64()), weight) if ENDED in batch.schema.names else weight
        )
        columns["weight"] = count
        request, response = batch.column("request_wire_bytes"), batch.column("response_wire_bytes")
        columns["request_wire_raw"], columns["response_wire_raw"] = request, response
        columns["incomplete"] = _times(
            pc.invert(batch.column("complete")).cast(pa.float64()), count, weighted or count is not weight
        )
        for name in _SUMS:
            columns[name] = _times(batch.column(name), weight, weighted)
        size = pc.add(pc.fill_null(request, 0), pc.fill_null(response, 0))
        for name, values in (("size_bucket", size), ("latency_bucket", batch.column("duration_ns"))):
            code = pc.fill_null(pc.add(_bucket(values), 2), 0)
            columns[name] = pc.add(pc.multiply(group, _CODES), code)
        return pa.table(columns), texts

    def _shrink(self) -> None:
        """Joins siblings, then adds the smallest half to `(other)`."""
        self._groups = defaultdict(Group, self._joined())
        if len(self._groups) > self._max_keys:
            ranked = sorted(self._groups, key=lambda k: self._groups[k].bytes(self.measure))
            other = (OTHER,) * len(self.by)
            for key in ranked[: len(ranked) - self._max_keys // 2]:
                if key != other:
                    self._groups[other].add(self._groups.pop(key))

    def _joined(self) -> dict[Key, Group]:
        if "endpoint" not in self.by:
            return dict(self._groups)
        at = self.by.index("endpoint")
        out: dict[Key, Group] = {}
        for key, group in self._groups.items():
            joined = (*key[:at], self._folding.name(key[at]), *key[at + 1 :])
            if joined in out:
                out[joined].add(group)
            else:
                out[joined] = group
        return out

    def top(self, n: int | None = None) -> list[tuple[Key, Group]]:
        """The keys with the most bytes by the measure, the rest as `(other)`: the sum is always the total."""
        self._fold()
        self._groups = defaultdict(Group, self._joined())
        other_key = (OTHER,) * len(self.by)
        ranked = sorted(
            ((k, g) for k, g in self._groups.items() if k != other_key),
            key=lambda kg: (-kg[1].bytes(self.measure), kg[0]),
        )
        other = Group()
        if other_key in self._groups:
            other.add(self._groups[other_key])
        keep = ranked if n is None else ranked[:n]
        for _, group in ranked[len(keep) :]:
            other.add(group)
        return [*keep, (other_key, other)] if other.requests or other.link_bytes else keep


def _mixed(ended: Group, moved: Group) -> Group:
    out = replace(ended)
    for name in _SUMS:
        setattr(out, name, getattr(moved, name))
    return out


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _before(column: pa.Array, mark: str) -> pa.Array:
    return pc.list_element(pc.split_pattern(column, mark, max_splits=1), 0)


def _times(column: pa.Array, weight: pa.Array, weighted: bool) -> pa.Array:
    return pc.multiply(column.cast(pa.float64()), weight) if weighted else column


def _bucket(column: pa.Array) -> pa.Array:
    """The logarithmic bucket of each value; -1 for zero and less."""
    logarithm = pc.multiply(
        pc.log2(pc.max_element_wise(column.cast(pa.float64()), 1.0, skip_nulls=False)),
        float(_BUCKETS_PER_OCTAVE),
    )
    buckets = pc.floor(logarithm).cast(pa.int64())
    least = pc.min(column).as_py()
    return buckets if least is None or least >= 1 else pc.if_else(pc.less(column, 1), -1, buckets)
