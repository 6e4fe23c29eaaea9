"""The increment: what an exchange moved in one slice of time, and batches of all that moved.

An exchange that begins and ends within a slice has no increments: its row says all. The increments of any
other add up to its row, the last of them marked.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.records import exchange

NUMBER = "exchange"
"""The column by which an increment names its exchange; 0: the exchange has no increments."""

BATCH_SCHEMA = pa.schema(
    [
        *exchange.BATCH_SCHEMA,
        pa.field(NUMBER, pa.uint64(), nullable=False),
        pa.field("slice", pa.timestamp("ns", tz="UTC"), nullable=False),
        pa.field("last", pa.bool_(), nullable=False),
    ]
)
"""An exchange's columns as far as they are known by then, sizes of the slice alone; the exchange's number;
the slice's start; whether the exchange has ended with it."""

ENDED, BEGUN = "ended", "begun"

SIZES = (
    *(
        f"{side}_{size}"
        for side in ("request", "response")
        for size in ("header_bytes", "body_bytes", "wire_bytes", "packets")
    ),
    "link_bytes",
    "retransmitted_bytes",
)
"""Columns that add up."""

MOVEMENT_SCHEMA = pa.schema(
    [
        *exchange.BATCH_SCHEMA,
        pa.field(ENDED, pa.bool_(), nullable=False),
        pa.field(BEGUN, pa.timestamp("ns", tz="UTC")),
    ]
)
"""All that moved: an exchange's columns with `time` in the slice in which it moved; `ended`: one exchange
ended with it. An increment that is no exchange's end has no durations. `begun`: when an exchange that is told
in increments began; null for one whose row says all."""

_CONSTANT = ("connection", "stream", BEGUN, "method", "target", "status", "response_time", "duration_ns")
"""What the row of an exchange and that of its end have in common."""


def ended(batch: pa.RecordBatch) -> pa.Array:
    """1 for every row that is an exchange, 0 for what one in flight moved."""
    if ENDED in batch.schema.names:
        return batch.column(ENDED).cast(pa.int64())
    return pa.array([1], pa.int64()).take(pa.array([0] * batch.num_rows, pa.int32()))


def plain(exchanges: pa.RecordBatch) -> pa.RecordBatch:
    """Exchanges without their numbers: a batch of `exchange.BATCH_SCHEMA`."""
    return exchanges.select(exchange.BATCH_SCHEMA.names) if NUMBER in exchanges.schema.names else exchanges


def movements(exchanges: pa.RecordBatch, increments: pa.RecordBatch | None) -> pa.RecordBatch:
    """Every byte once, when it moved, and every exchange once, when it ended: a batch of MOVEMENT_SCHEMA.

    exchanges: with their numbers. increments: those that were taken with them.
    """
    rows = plain(exchanges)
    if increments is None or not increments.num_rows:
        return _movements(rows, True, _never(rows))
    whole = pc.equal(exchanges.column(NUMBER), pa.scalar(0, pa.uint64()))
    ended = rows.filter(pc.invert(whole))
    parts = [
        _movements(rows.filter(whole), True, _never(rows.filter(whole))),
        # Their bytes were told by increments; what is left to say is that they ended, and how.
        _movements(
            _without_sizes(ended.set_column(0, ended.schema.field(0), _end(ended))), True, _begin(ended)
        ),
        _movements(_in_flight(increments), False, _begin(increments)),
    ]
    table = pa.Table.from_batches(parts).unify_dictionaries().combine_chunks()
    return table.to_batches()[0]


def in_increments(exchanges: pa.RecordBatch, moved: pa.RecordBatch) -> pa.Array:
    """Whether each of the exchanges is told in increments; all that moved until they ended was taken with
    them.
    """
    ends = moved.filter(pc.and_(moved.column(ENDED), pc.is_valid(moved.column(BEGUN))))
    begun = exchanges.append_column(MOVEMENT_SCHEMA.field(BEGUN), _begin(exchanges))
    return pc.is_in(_told_apart(begun), value_set=_told_apart(ends))


def _told_apart(batch: pa.RecordBatch) -> pa.Array:
    columns = [batch.column(name) for name in _CONSTANT]
    whole = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in columns]
    plain = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in whole]
    texts = [c.cast(pa.string()) for c in plain]
    return pc.binary_join_element_wise(*texts, "\x1f", null_handling="replace", null_replacement="")


def _movements(exchanges: pa.RecordBatch, ended: bool, begun: pa.Array) -> pa.RecordBatch:
    flags = pa.array([ended] * exchanges.num_rows, pa.bool_())
    return pa.RecordBatch.from_arrays([*exchanges.columns, flags, begun], schema=MOVEMENT_SCHEMA)


def _never(batch: pa.RecordBatch) -> pa.Array:
    return pa.nulls(batch.num_rows, MOVEMENT_SCHEMA.field(BEGUN).type)


def _begin(batch: pa.RecordBatch) -> pa.Array:
    return pc.coalesce(batch.column("time"), batch.column("response_time"))


def _end(batch: pa.RecordBatch) -> pa.Array:
    """When each exchange ended, as far as it is known."""
    begun = _begin(batch)
    lasted = pc.coalesce(batch.column("duration_ns"), pa.scalar(0, pa.int64()))
    return pc.add(begun.cast(pa.int64()), lasted).cast(begun.type)


def _without_sizes(batch: pa.RecordBatch) -> pa.RecordBatch:
    for name in SIZES:
        at = batch.schema.get_field_index(name)
        column = batch.column(at)
        batch = batch.set_column(
            at, batch.schema.field(at), pc.if_else(pc.is_valid(column), pa.scalar(0, pa.int64()), column)
        )
    return batch


def _in_flight(increments: pa.RecordBatch) -> pa.RecordBatch:
    """Increments in the exchanges' columns, at their slices."""
    columns = {name: increments.column(name) for name in exchange.BATCH_SCHEMA.names}
    columns["time"] = increments.column("slice")
    for name in ("duration_ns", "first_byte_ns"):
        columns[name] = pa.nulls(increments.num_rows, pa.int64())
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=exchange.BATCH_SCHEMA)
