"""What moved lately, in bounded memory whether or not anybody asks."""

from __future__ import annotations

import pyarrow as pa

from replaykit.attribution.recent import LATE_NS, Recent
from replaykit.attribution.summary import Summary
from replaykit.records.increment import MOVEMENT_SCHEMA

SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND


def moved(*times: int, size: int = 10) -> pa.RecordBatch:
    columns = []
    for field in MOVEMENT_SCHEMA:
        if field.name == "time":
            column = pa.array(times, pa.int64()).cast(field.type)
        elif field.name in ("link_bytes", "response_wire_bytes"):
            column = pa.array([size] * len(times), field.type)
        elif field.name == "weight":
            column = pa.array([1.0] * len(times), field.type)
        elif pa.types.is_boolean(field.type):
            column = pa.array([True] * len(times))
        elif pa.types.is_dictionary(field.type):
            column = pa.array(["/a"] * len(times)).dictionary_encode().cast(field.type)
        elif field.nullable:
            column = pa.nulls(len(times), field.type)
        else:
            column = pa.array([0] * len(times)).cast(field.type)
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=MOVEMENT_SCHEMA)


def test_only_whole_slices_of_the_window_count() -> None:
    recent = Recent(Summary(), SECOND, 3 * SECOND)
    for back in range(10):
        recent.add(moved(NOW - back * SECOND, NOW - back * SECOND + 5))
    # The slice that begins at NOW is not over; the three before it are known.
    assert recent.summary(NOW + LATE_NS).total.bytes("wire") == 3 * 20
    recent.add(moved(NOW - SECOND, size=7))
    assert recent.summary(NOW + LATE_NS).total.bytes("wire") == 3 * 20 + 7
    assert recent.summary(NOW + SECOND + LATE_NS).total.bytes("wire") == 3 * 20 + 7
    assert recent.summary(NOW + 60 * SECOND).total.bytes("wire") == 0


def test_nobody_asks() -> None:
    recent = Recent(Summary(), SECOND, 5 * SECOND)
    for n in range(500):
        recent.add(moved(NOW + n * SECOND))
    assert len(recent._slices) < 12
    assert recent.summary(NOW + 500 * SECOND + LATE_NS).total.bytes("wire") == 5 * 10


def test_a_window_is_at_most_a_minute() -> None:
    assert Recent(Summary(), SECOND, 3600 * SECOND).window_ns == 60 * SECOND
    assert Recent(Summary(), 90 * SECOND, 10 * SECOND).window_ns == 90 * SECOND


def test_times_from_nowhere_do_not_stay() -> None:
    recent = Recent(Summary(), SECOND, 5 * SECOND)
    for n in range(20):
        recent.add(moved(NOW * 3 + n * 1000 * SECOND, -5 * SECOND, NOW))
        recent.summary(NOW + SECOND)
    recent.add(moved(NOW))
    assert recent.summary(NOW + SECOND + LATE_NS).total.requests == 21
