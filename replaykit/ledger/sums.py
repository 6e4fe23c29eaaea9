"""Counters to sums: what moved between two readings, spread over minutes, added up."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import add
from typing import TypeVar

from replaykit.errors import UsageError
from replaykit.ledger import calendar
from replaykit.records.usage import COUNTERS, MOST, Reading, Usage

LONGEST_NAME = 4096
_MOST_SPREAD = 1440
_CHUNK = 500
T = TypeVar("T")


def moved(before: tuple[int, ...], now: tuple[int, ...], same: bool) -> tuple[int, ...]:
    """A counter that went backwards, or belongs to another epoch, counts from zero."""
    return tuple(b if not same or b < a else b - a for a, b in zip(before, now, strict=True))


def is_later(reading: Reading, time: int, epoch: str, before: tuple[int, ...]) -> bool:
    """Than the last that was counted; within its second a counter may have grown."""
    if reading.time != time:
        return reading.time > time
    now = reading.counters()
    return epoch == reading.epoch and now != before and all(a <= b for a, b in zip(before, now, strict=True))


def since_when(reading: Reading, last: int | None, same: bool) -> int:
    """From when on the counter moved what it moved."""
    if (last is None or not same) and reading.began is not None:
        return max(last or 0, min(reading.began, reading.time))
    return reading.time if last is None else last


def spread(since: int, until: int, moved: tuple[int, ...]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """What was moved in [since, until) by minute, in proportion to its part of each; the sum stays exact."""
    if since >= until or since // 60 == (until - 1) // 60:
        yield since - since % 60, moved
        return
    step = 60 * -(-(until - since) // (60 * _MOST_SPREAD))  # over long gaps every so many minutes
    given = (0,) * len(moved)
    at = since
    while at < until:
        end = min(until, at - at % 60 + step)
        due = tuple(m * (end - since) // (until - since) for m in moved)
        yield at - at % 60, tuple(d - g for d, g in zip(due, given, strict=True))
        given, at = due, end


def joined(rows: Sequence[tuple[int, ...]], key: int = 2) -> list[tuple[int, ...]]:
    """Rows with the same first columns added up, in order."""
    sums: dict[tuple[int, ...], tuple[int, ...]] = {}
    for row in rows:
        before = sums.get(row[:key])
        sums[row[:key]] = row[key:] if before is None else tuple(map(add, before, row[key:]))
    return sorted((*k, *v) for k, v in sums.items())


def labels_text(labels: Mapping[str, str]) -> str:
    return json.dumps(dict(labels), sort_keys=True, ensure_ascii=False) if labels else "{}"


def in_parts(items: Sequence[T]) -> Iterable[Sequence[T]]:
    """A statement takes so many parameters."""
    return (items[i : i + _CHUNK] for i in range(0, len(items), _CHUNK))


def check(record: Usage | Reading) -> None:
    where = f"usage of {record.vantage}/{record.subject_kind}/{record.subject[:80]}"
    if not record.vantage or not record.subject_kind or not record.subject:
        raise UsageError(f"{where}: vantage, kind and subject must be named")
    if len(record.subject) > LONGEST_NAME or len(record.vantage) > 64 or len(record.subject_kind) > 32:
        raise UsageError(f"{where}: the name is too long ({LONGEST_NAME} characters at most)")
    if not 0 <= record.time < calendar.LATEST or (
        isinstance(record, Usage) and not 1 <= record.seconds <= 3600
    ):
        raise UsageError(f"{where}: a bucket begins from 1970 to 2242 and lasts 1 to 3600 s")
    for name, value in zip(COUNTERS, record.counters(), strict=True):
        if not 0 <= value <= MOST:
            raise UsageError(f"{where}: {name} is {value}; it must be from 0 to 2^63 - 1")
