"""Exchanges and movements added up by minute: what statistics, alerts and metrics are made of.

Owns the rows: one for each minute, endpoint, host, method and status, with sums of a batch of
exchanges, or of all that moved (`records.increment.movements`). Rows of several batches add up to those of
all. A batch with very many keys has its smallest under `(other)`, so the number of rows is bounded and the
sums stay whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.attribution.summary import OTHER
from replaykit.records.increment import ended

KEYS = ("minute", "endpoint", "host", "method", "status")
SLOW_NS = 500_000_000
MAX_ROWS = 2000
MINUTE_NS = 60_000_000_000

SUMS = (
    "exchanges", "incomplete", "request_header_bytes", "request_body_bytes", "response_header_bytes",
    "response_body_bytes", "request_wire_bytes", "response_wire_bytes", "link_bytes", "retransmitted_bytes",
    "duration_ns", "durations", "slow",
)  # fmt: skip
"""Weighted. `durations`: exchanges that have one; `slow`: those of more than 500 ms."""


def by_minute(batch: pa.RecordBatch, identities: Sequence[str] | None = None) -> pa.Table:
    """KEYS, SUMS, `duration_max_ns`, and with `identities` a `check` that tells sets of exchanges apart."""
    weight = batch.column("weight")
    weighted = batch.num_rows > 0 and pc.max(weight).as_py() != 1

    def sized(column: pa.Array) -> pa.Array:
        column = pc.fill_null(column, 0)
        return pc.multiply(column.cast(pa.float64()), weight) if weighted else column.cast(pa.int64())

    stamp = pc.coalesce(batch.column("time"), batch.column("response_time")).cast(pa.int64())
    duration = batch.column("duration_ns")
    one = ended(batch)
    columns: dict[str, pa.Array] = {
        "minute": pc.multiply(pc.divide(pc.fill_null(stamp, 0), MINUTE_NS), MINUTE_NS),
        "status": batch.column("status"),
        "exchanges": sized(one),
        "incomplete": sized(pc.multiply(pc.invert(batch.column("complete")).cast(pa.int64()), one)),
        "durations": sized(pc.is_valid(duration).cast(pa.int64())),
        "slow": sized(pc.fill_null(pc.greater(duration, SLOW_NS), False).cast(pa.int64())),
        "duration_max_ns": duration,
    }
    for name in SUMS:
        if name not in columns:
            columns[name] = sized(batch.column(name))
    texts = {}
    for name in ("endpoint", "host", "method"):
        column = batch.column(name)
        column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        texts[name], columns[name] = column.dictionary, column.indices
    aggregates = [(name, "sum") for name in SUMS] + [("duration_max_ns", "max")]
    if identities is not None:
        checks = [int(i[:8], 16) for i in identities]
        columns["check"] = pa.array(checks, pa.int64())
        aggregates.append(("check", "sum"))
    found = pa.table(columns).group_by(list(KEYS)).aggregate(aggregates)
    found = found.rename_columns(
        [
            n.removesuffix("_sum") if n != "duration_max_ns_max" else "duration_max_ns"
            for n in found.column_names
        ]
    )
    for name, dictionary in texts.items():
        at = found.schema.get_field_index(name)
        found = found.set_column(at, name, dictionary.take(found.column(name).combine_chunks()))
    return _stamped(_bounded(found))


def add(parts: Sequence[pa.Table]) -> pa.Table:
    """The rows of several batches as those of one."""
    together = pa.concat_tables(
        [p.select([*KEYS, *SUMS, "duration_max_ns"]) for p in parts], promote_options="permissive"
    )
    found = together.group_by(list(KEYS)).aggregate([(n, "sum") for n in SUMS] + [("duration_max_ns", "max")])
    return found.rename_columns([*(n for n in found.column_names if n in KEYS), *SUMS, "duration_max_ns"])


def _bounded(found: pa.Table) -> pa.Table:
    if found.num_rows <= MAX_ROWS:
        return found
    order = pc.sort_indices(found, [("link_bytes", "descending")])
    kept, rest = found.take(order[:MAX_ROWS]), found.take(order[MAX_ROWS:])
    sums = [n for n in found.column_names if n not in KEYS and n != "duration_max_ns"]
    other = rest.group_by(["minute"]).aggregate([(n, "sum") for n in sums] + [("duration_max_ns", "max")])
    columns = {"minute": other.column("minute"), "endpoint": pa.array([OTHER] * other.num_rows)}
    columns |= {n: other.column(f"{n}_sum") for n in sums}
    columns["duration_max_ns"] = other.column("duration_max_ns_max")
    for name in ("host", "method", "status"):
        columns[name] = pa.nulls(other.num_rows, found.schema.field(name).type)
    return pa.concat_tables(
        [kept, pa.table({n: columns[n] for n in found.column_names})], promote_options="permissive"
    ).combine_chunks()


def _stamped(found: pa.Table) -> pa.Table:
    at = found.schema.get_field_index("minute")
    stamp = pa.timestamp("ns", tz="UTC")
    return found.set_column(at, "minute", found.column("minute").cast(pa.timestamp("ns")).cast(stamp))
