"""Deleting: what is older than it need be, and what a person asks to be gone.

Retention deletes small buckets and leaves the larger ones whole. Cleaning up deletes the traffic itself:
minutes, hours, days and months lose the same bytes, so that every later answer agrees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from replaykit.errors import UsageError
from replaykit.ledger import calendar, schema
from replaykit.ledger.history import rows_of, spans, subjects_of, widened
from replaykit.ledger.selection import EVERYTHING, Selection
from replaykit.ledger.store import Ledger
from replaykit.ledger.sums import joined
from replaykit.records.usage import COUNTERS

DAY_S = 86_400
_STEP_S = 3600


@dataclass(frozen=True)
class Retention:
    """How long buckets are kept, in seconds; None: for ever.

    Rounded up, so that larger buckets are never cut.
    """

    minute: int | None = 14 * DAY_S
    hour: int | None = 400 * DAY_S
    day: int | None = None
    month: int | None = None

    def __post_init__(self) -> None:
        ages = [float("inf") if a is None else a for a in (self.minute, self.hour, self.day, self.month)]
        if ages != sorted(ages):
            raise UsageError(
                "retention: minutes may not be kept longer than hours, hours than days, days than months"
            )


@dataclass(frozen=True)
class Cleaned:
    """Rows of each length of bucket, the subjects they are of, the traffic in bytes, and the span."""

    since: int
    until: int
    rows: Mapping[str, int]
    subjects: int
    traffic_bytes: int
    names: tuple[str, ...] = field(default=())


def retain(ledger: Ledger, retention: Retention, now: int) -> dict[str, int]:
    """Deletes what is older, and gives the number of rows by length of bucket.

    Cut off anywhere, it goes on next time.
    """
    gone: dict[str, int] = {}
    for period, larger in zip(calendar.PERIODS, (*calendar.PERIODS[1:], "month"), strict=True):
        age = getattr(retention, period)
        if age is None:
            continue
        # A larger bucket's parts go together; minutes go by days, so that an edge is seldom in the way.
        cut = calendar.floor("day" if larger == "hour" else larger, now - age, ledger.zone)
        with ledger.database.writing() as connection:
            kept = max(cut, ledger.kept_from(connection, period))
            row = {"name": f"kept_from_{period}", "value": str(kept)}
            ledger.database.put(connection, schema.meta, [row], ("value",))
        gone[period] = _delete_before(ledger, period, kept)
        if period == "minute":
            ledger.retained(kept)
        if period == "hour":
            with ledger.database.writing() as connection:
                connection.execute(sa.delete(schema.gap).where(schema.gap.c.until < kept))
    return gone


def _delete_before(ledger: Ledger, period: str, cut: int) -> int:
    """In short transactions, so that writers need not wait."""
    t, count = schema.TABLES[period], 0
    while True:
        with ledger.database.writing() as connection:
            first = connection.execute(sa.select(sa.func.min(t.c.time)).where(t.c.time < cut)).scalar()
            if first is None:
                return count
            until = min(cut, int(first) + (_STEP_S if period == "minute" else 31 * DAY_S))
            count += connection.execute(sa.delete(t).where(t.c.time < until)).rowcount


def cleanup(
    ledger: Ledger,
    selection: Selection = EVERYTHING,
    since: int = 0,
    until: int | None = None,
    dry_run: bool = False,
) -> Cleaned:
    """Deletes the traffic of the selected subjects from `since` to before `until` (None: all), and says what
    that was.

    Raises UsageError.
    """
    with ledger.database.reading() as connection:
        newest = connection.execute(sa.select(sa.func.max(schema.month.c.time))).scalar()
    end = 0 if newest is None else calendar.following("month", int(newest), ledger.zone)
    until = end if until is None else min(until, end)
    with ledger.database.writing() as connection:
        since, until = widened(ledger, connection, since, until)
        named = subjects_of(connection, selection)
        moved: dict[int, int] = {}
        rows: dict[str, int] = dict.fromkeys(calendar.PERIODS, 0)
        for period, first, stop in spans(ledger, since, until):
            found = [r for r in rows_of(connection, period, first, stop, named) if r[1] in named]
            for _, who, values in found:
                moved[who] = moved.get(who, 0) + values[0] + values[1]
            if not dry_run:
                # Larger buckets of which this is a part lose what it holds.
                lost = joined([(at, who, *(-v for v in values)) for at, who, values in found])
                for larger in calendar.PERIODS[calendar.PERIODS.index(period) + 1 :]:
                    lost = ledger.add(connection, larger, lost)
        for period in calendar.PERIODS:
            inside = _inside(ledger, period, since, until)
            if inside is not None:
                rows[period] = _count(connection, period, *inside, named, dry_run)
        if not dry_run:
            _drop_empty(connection, named)
            _drop_gaps(connection, since, until, named)
    if not dry_run:
        ledger.cleaned([(v, k, n) for v, k, n, _ in named.values()], since, until)
    names = tuple(sorted(named[who][2] for who in moved))
    return Cleaned(since, until, rows, len(moved), sum(moved.values()), names)


def _inside(ledger: Ledger, period: str, since: int, until: int) -> tuple[int, int] | None:
    """The buckets that lie wholly in the span."""
    first = calendar.floor(period, since, ledger.zone)
    if first < since:
        first = calendar.following(period, first, ledger.zone)
    end = calendar.floor(period, until, ledger.zone)
    return (first, end) if first < end else None


def _count(
    connection: sa.Connection, period: str, first: int, end: int, named: Mapping[int, object], dry_run: bool
) -> int:
    t = schema.TABLES[period]
    count = 0
    numbers = sorted(named)
    for i in range(0, len(numbers), 500):
        where = sa.and_(t.c.time >= first, t.c.time < end, t.c.subject_id.in_(numbers[i : i + 500]))
        if dry_run:
            count += int(
                connection.execute(sa.select(sa.func.count()).select_from(t).where(where)).scalar_one()
            )
        else:
            count += connection.execute(sa.delete(t).where(where)).rowcount
    return count


def _drop_empty(connection: sa.Connection, named: Mapping[int, object]) -> None:
    """Buckets that were only partly inside, and hold nothing any more."""
    numbers = sorted(named)
    for period in calendar.PERIODS[1:]:
        t = schema.TABLES[period]
        for i in range(0, len(numbers), 500):
            nothing = [t.c[n] == 0 for n in COUNTERS]
            connection.execute(sa.delete(t).where(t.c.subject_id.in_(numbers[i : i + 500]), *nothing))


def _drop_gaps(connection: sa.Connection, since: int, until: int, named: Mapping[int, object]) -> None:
    """Those that lie wholly in the span."""
    t, numbers = schema.gap, sorted(named)
    for i in range(0, len(numbers), 500):
        inside = (t.c.since >= since, t.c.until <= until, t.c.subject_id.in_(numbers[i : i + 500]))
        connection.execute(sa.delete(t).where(*inside))
