"""Questions to the ledger: how much, by subject or label, in each hour, day or month, or in any span of time.

A span is made of the largest buckets that fit into it, so that a month costs one row a subject. Where
retention has deleted the small buckets at its edges, the span is widened to the buckets that are left, and
the answer says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import add
from typing import Any, NamedTuple

import sqlalchemy as sa

from replaykit.errors import UsageError
from replaykit.ledger import calendar, schema
from replaykit.ledger.database import Database
from replaykit.ledger.selection import EVERYTHING, Selection, Subject
from replaykit.ledger.store import Ledger
from replaykit.records.usage import COUNTERS

_MANY = 400
_SILENT_S = 180
"""What is read at least every minute is not read any more."""
Span = tuple[str, int, int]
"""Buckets of a length, from one start to before another."""


class Sum(NamedTuple):
    """What was moved from `time` to before `until`.

    subject: its name, or the value of a label; labels: of a subject.
    """

    time: int
    until: int
    vantage: str
    subject_kind: str
    subject: str
    labels: Mapping[str, str]
    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int
    requests: int
    connections: int

    @property
    def bytes(self) -> int:
        return self.rx_bytes + self.tx_bytes


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums of a span, the largest first, and the span that they are of."""

    since: int
    until: int
    sums: Sequence[Sum]


class Gap(NamedTuple):
    """From one reading to the next, too far apart: when the traffic between was moved is not known, and it is
    shown evenly.

    subjects: how many were not read then; subject: one of them.
    """

    since: int
    until: int
    subjects: int
    subject: str


class Bucket(NamedTuple):
    """A bucket of a range, whether anything was moved in it or not.

    seconds: over which its bytes lie, up to now or to the last reading; covered_seconds: of these, between
    readings that are no gap; gap_seconds: without readings, up to now.
    """

    time: int
    until: int
    seconds: int
    covered_seconds: int
    gap_seconds: int


Named = dict[int, tuple[str, str, str, str]]
"""Subjects by number: vantage, kind, name, labels as JSON."""


def subjects(ledger: Ledger, selection: Selection = EVERYTHING) -> list[Subject]:
    """All that the ledger knows, by name."""
    with ledger.database.reading() as connection:
        rows = subjects_of(connection, selection)
    return sorted(
        (Subject(v, k, n, json.loads(text)) for v, k, n, text in rows.values()),
        key=lambda s: (s.vantage, s.kind, s.name),
    )


def history(
    ledger: Ledger,
    period: str,
    since: int,
    until: int,
    selection: Selection = EVERYTHING,
    by: str = "subject",
) -> list[Sum]:
    """Every bucket that holds any of [since, until), in order of time, and in each the largest first.

    by: `subject`, `all`, or `label:NAME`. Raises UsageError.
    """
    if period not in calendar.PERIODS:
        raise UsageError(f"{period!r} is no period; there are {', '.join(calendar.PERIODS)}")
    first = calendar.floor(period, since, ledger.zone)
    with ledger.database.reading() as connection:
        named = subjects_of(connection, selection)
        sums = _grouped(rows_of(connection, period, first, until, named), named, by)
    ends = {start: calendar.following(period, start, ledger.zone) for start in {at for at, _ in sums}}
    return _sorted([(at, ends[at], who, values) for (at, who), values in sums.items()])


def totals(
    ledger: Ledger, since: int, until: int, selection: Selection = EVERYTHING, by: str = "subject"
) -> Totals:
    """The sums of [since, until), to the minute. by: as in `history`. Raises UsageError."""
    with ledger.database.reading() as connection:
        since, until = widened(ledger, connection, since, until)
        named = subjects_of(connection, selection)
        rows: list[tuple[int, int, tuple[int, ...]]] = []
        for period, first, end in spans(ledger, since, until):
            rows += [
                (since, who, values)
                for _, who, values in rows_of(connection, period, first, end, named, True)
            ]
    sums = _grouped(rows, named, by)
    return Totals(since, until, _sorted([(since, until, who, values) for (_, who), values in sums.items()]))


def gaps(
    ledger: Ledger, since: int, until: int, selection: Selection = EVERYTHING, now: int | None = None
) -> list[Gap]:
    """Those that overlap [since, until), the oldest first.

    now: with the one that lasts beyond it, where nobody reads any more.
    """
    t = schema.gap
    query = sa.select(t.c.subject_id, t.c.since, t.c.until).where(t.c.since < until, t.c.until > since)
    with ledger.database.reading() as connection:
        named = subjects_of(connection, selection)
        if len(named) <= _MANY:
            query = query.where(t.c.subject_id.in_(list(named)))
        rows = Database.rows(connection, query)
        lasting = [] if now is None else _unread_since(connection, named, now)
    found: dict[tuple[int, int], list[str]] = {}
    for who, begin, end in rows:
        if who in named:
            found.setdefault((begin, end), []).append(named[who][2])
    for begin, name in lasting:
        if begin < until:
            found.setdefault((begin, (now or 0) + 1), []).append(name)
    return [Gap(begin, end, len(names), min(names)) for (begin, end), names in sorted(found.items())]


def _unread_since(connection: sa.Connection, named: Named, now: int) -> list[tuple[int, str]]:
    """Subjects of vantages whose counters were read, and none of them lately: since when, and their names."""
    t, s = schema.counter, schema.subject
    query = (
        sa.select(s.c.vantage, sa.func.max(t.c.time)).join(t, t.c.subject_id == s.c.id).group_by(s.c.vantage)
    )
    last = {vantage: int(at) for vantage, at in connection.execute(query) if now - int(at) > _SILENT_S}
    return [(last[who[0]], who[2]) for who in named.values() if who[0] in last]


def buckets(
    ledger: Ledger, period: str, since: int, until: int, missing: Sequence[Gap], now: int
) -> list[Bucket]:
    """Every one that holds any of [since, until) and has begun. missing: of `gaps`, with now."""
    out = []
    for begin in calendar.buckets(period, since, min(until, now + 1), ledger.zone):
        end = calendar.following(period, begin, ledger.zone)
        passed = max(1, min(end, now) - begin)
        gap = lasting = reached = 0
        for one in sorted(missing):
            low, high = max(one.since, begin, reached), min(one.until, begin + passed)
            if low < high:
                gap, reached = gap + high - low, high
                lasting += high - low if one.until > now else 0
        out.append(Bucket(begin, end, max(1, passed - lasting), passed - gap, gap))
    return out


def spans(ledger: Ledger, since: int, until: int) -> list[Span]:
    """The largest buckets that fill a span of whole minutes."""
    return _spans(ledger, len(calendar.PERIODS) - 1, since, until)


def _spans(ledger: Ledger, level: int, since: int, until: int) -> list[Span]:
    if since >= until:
        return []
    period = calendar.PERIODS[level]
    if level == 0:
        return [(period, since, until)]
    first = calendar.floor(period, since, ledger.zone)
    if first < since:
        first = calendar.following(period, first, ledger.zone)
    end = calendar.floor(period, until, ledger.zone)
    if first >= end:
        return _spans(ledger, level - 1, since, until)
    return [
        *_spans(ledger, level - 1, since, first),
        (period, first, end),
        *_spans(ledger, level - 1, end, until),
    ]


def widened(ledger: Ledger, connection: sa.Connection, since: int, until: int) -> tuple[int, int]:
    """The span on whole minutes, or on the larger buckets that retention has left at its edges."""
    since -= since % 60
    until += -until % 60
    for small, large in zip(calendar.PERIODS, calendar.PERIODS[1:], strict=False):
        kept = ledger.kept_from(connection, small)
        if since < kept:
            since = calendar.floor(large, since, ledger.zone)
        begins = calendar.floor(large, until, ledger.zone)
        if until != begins and begins < kept:
            until = calendar.following(large, begins, ledger.zone)
    return since, until


def subjects_of(connection: sa.Connection, selection: Selection) -> Named:
    t = schema.subject
    query = sa.select(t.c.id, t.c.vantage, t.c.kind, t.c.name, t.c.labels)
    if selection.vantage is not None:
        query = query.where(t.c.vantage == selection.vantage)
    if selection.kind is not None:
        query = query.where(t.c.kind == selection.kind)
    if selection.names and not any(c in name for name in selection.names for c in "*?["):
        query = query.where(t.c.name.in_(selection.names))
    rows = Database.rows(connection, query)
    if selection.everything:
        return {row[0]: row[1:] for row in rows}
    return {row[0]: row[1:] for row in rows if selection.of(*row[1:])}


def rows_of(
    connection: sa.Connection, period: str, first: int, end: int, named: Named, whole: bool = False
) -> list[tuple[int, int, tuple[int, ...]]]:
    """Time, subject and sums; of more subjects than are named, where that is quicker.

    whole: of all the buckets together.
    """
    t = schema.TABLES[period]
    columns: list[Any] = [t.c.time, t.c.subject_id, *(t.c[n] for n in COUNTERS)]
    if whole:
        columns = [sa.func.min(t.c.time), t.c.subject_id, *(sa.func.sum(t.c[n]) for n in COUNTERS)]
    query = sa.select(*columns).where(t.c.time >= first, t.c.time < end)
    if len(named) <= _MANY:
        query = query.where(t.c.subject_id.in_(list(named)))
    if whole:
        query = query.group_by(t.c.subject_id)
    # PostgreSQL and MySQL add up to decimals.
    exact = not whole or connection.dialect.name == "sqlite"
    rows = Database.rows(connection, query)
    return [(r[0], r[1], tuple(r[2:]) if exact else tuple(map(int, r[2:]))) for r in rows]


def _grouped(
    rows: Iterable[tuple[int, int, tuple[int, ...]]], named: Named, by: str
) -> dict[tuple[int, tuple[str, str, str, str]], tuple[int, ...]]:
    group = _grouping(by)
    keys = {number: group(*parts) for number, parts in named.items()} if by != "subject" else named
    sums: dict[tuple[int, tuple[str, str, str, str]], tuple[int, ...]] = {}
    for time, number, values in rows:
        key = keys.get(number)
        if key is not None:
            before = sums.get((time, key))
            sums[time, key] = values if before is None else tuple(map(add, before, values))
    return sums


def _grouping(by: str) -> Any:
    if by == "subject":
        return None
    if by == "all":
        return lambda vantage, kind, name, labels: (vantage, kind, "", "{}")
    label = by.removeprefix("label:")
    if label == by or not label:
        raise UsageError(f"by {by!r}: write subject, all, or label:NAME")
    read = cache(json.loads)
    return lambda vantage, kind, name, labels: (vantage, kind, read(labels).get(label, "(none)"), "{}")


def _sorted(sums: list[tuple[int, int, tuple[str, str, str, str], tuple[int, ...]]]) -> list[Sum]:
    """By time, and in each bucket the largest first."""
    sums.sort(key=lambda s: (s[0], -s[3][0] - s[3][1], s[2]))
    read = cache(json.loads)
    return [
        Sum(time, until, who[0], who[1], who[2], read(who[3]), *values) for time, until, who, values in sums
    ]
