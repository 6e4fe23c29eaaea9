"""Deleting leaves answers that agree with each other."""

from __future__ import annotations

import pytest

from replaykit.errors import UsageError
from replaykit.ledger import calendar
from replaykit.ledger.cleanup import DAY_S, Retention, cleanup, retain
from replaykit.ledger.history import history, totals
from replaykit.ledger.selection import Selection
from replaykit.ledger.store import Ledger, Written
from tests.ledger.conftest import NOON, used


def fill(ledger: Ledger, days: int = 40) -> None:
    start = calendar.moment("2026-03-10", ledger.zone)
    times = [start + n * 3600 + 120 for n in range(days * 24)]
    for part in range(0, len(times), 240):
        ledger.write(
            used(name, t, *size)
            for t in times[part : part + 240]
            for name, size in (("a", (1, 2)), ("b", (10, 0)))
        )


def sums(ledger: Ledger, period: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in history(ledger, period, 0, 4 * 10**9):
        found[row.subject] = found.get(row.subject, 0) + row.bytes
    return found


def test_every_period_loses_the_same(ledger: Ledger) -> None:
    fill(ledger)
    since, until = calendar.moment("2026-03-20", ledger.zone), calendar.moment("2026-04-02", ledger.zone)
    asked = Selection(names=("a",))
    inside = totals(ledger, since, until, asked).sums[0].bytes
    plan = cleanup(ledger, asked, since, until, dry_run=True)
    before = sums(ledger, "month")
    assert before == {"a": 960 * 3, "b": 9600}
    hours = (until - since) // 3600  # 13 days, one of 23 hours
    assert hours == 13 * 24 - 1
    assert plan.rows == {"minute": hours, "hour": hours, "day": 13, "month": 0}
    assert (plan.traffic_bytes, plan.subjects, plan.names) == (inside, 1, ("a",)) and inside == hours * 3
    assert cleanup(ledger, asked, since, until) == plan
    for period in calendar.PERIODS:
        assert sums(ledger, period) == {"a": 960 * 3 - inside, "b": 9600}, period
    assert totals(ledger, since, until, asked).sums == []
    assert cleanup(ledger, asked, since, until).traffic_bytes == 0


def test_to_the_minute_and_all_of_it(ledger: Ledger) -> None:
    ledger.write([used("a", NOON + 60 * n, 1) for n in range(180)])
    cleanup(ledger, since=NOON + 600, until=NOON + 7800)
    assert {p: sums(ledger, p) for p in calendar.PERIODS} == {p: {"a": 60} for p in calendar.PERIODS}
    cleanup(ledger)
    assert {p: sums(ledger, p) for p in calendar.PERIODS} == {p: {} for p in calendar.PERIODS}


def test_retention_keeps_what_is_larger(ledger: Ledger) -> None:
    fill(ledger, 80)
    now = calendar.moment("2026-05-29T12:00", ledger.zone)
    retention = Retention(minute=2 * DAY_S, hour=20 * DAY_S, day=50 * DAY_S)
    assert retain(ledger, retention, now)["minute"] > 0
    assert set(retain(ledger, retention, now).values()) == {0}
    kept = {p: len({r.time for r in history(ledger, p, 0, 4 * 10**9)}) for p in calendar.PERIODS}
    assert kept == {"minute": 2 * 24 + 1, "hour": 20 * 24 + 1, "day": 59, "month": 3}
    assert sums(ledger, "month") == {"a": 80 * 72, "b": 80 * 240}
    # Sums of what is left agree wherever they can be had; a span's edges move to the buckets that are left.
    end = calendar.moment("2026-05-28", ledger.zone)
    found = totals(ledger, calendar.moment("2026-04-03T10:30", ledger.zone), end)
    assert calendar.show(found.since, ledger.zone) == "2026-04-03T00:00:00+02:00" and found.until == end
    assert found.sums[0].bytes == 10 * len(calendar.buckets("hour", found.since, end, ledger.zone))
    assert totals(ledger, 0, calendar.moment("2026-03-15", ledger.zone)).until == calendar.moment(
        "2026-04-01", ledger.zone
    )
    # What comes after its minutes were deleted would count twice if it was a repeat.
    late = used("a", calendar.moment("2026-03-11T00:02", ledger.zone), 1, 2)
    assert ledger.write([late]) == Written(late=1)
    with pytest.raises(UsageError, match="minutes may not be kept longer"):
        Retention(minute=3 * DAY_S, hour=DAY_S)
