"""Buckets of time in a time zone: minutes, hours, days and months, exact across daylight saving.

Times are seconds since the epoch, and so is every bucket's start: the hour that a clock shows twice is two
buckets, the day of the change has 23 or 25 hours.
"""

from __future__ import annotations

import calendar
import os
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from replaykit.errors import UsageError

PERIODS = ("minute", "hour", "day", "month")
LATEST = 2**33
"""No bucket begins later (in the year 2242)."""


def zone(name: str) -> ZoneInfo:
    """Raises UsageError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"{name!r} is no time zone; write Europe/Berlin or UTC") from None


def local_zone() -> str:
    """The name of this machine's time zone; UTC where it has none."""
    named = os.environ.get("TZ", "").lstrip(":")
    if not named:
        place = str(Path("/etc/localtime").resolve())
        named = place.partition("/zoneinfo/")[2]
    try:
        ZoneInfo(named)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return "UTC"
    return named


def floor(period: str, at: int, where: tzinfo, start_day: int = 1) -> int:
    """The start of the bucket that holds `at`.

    start_day: of the month, in which a shorter month's last day stands in.
    """
    if period == "minute":
        return at - at % 60
    local = datetime.fromtimestamp(at, where)
    if period == "hour":
        return _hour(at, local, where)
    if period == "day":
        return _midnight(local.year, local.month, local.day, where)
    if period != "month":
        raise UsageError(f"{period!r} is no period; there are {', '.join(PERIODS)}")
    begins = _month(local.year, local.month, start_day, where)
    if begins <= at:
        return begins
    year, month = (local.year, local.month - 1) if local.month > 1 else (local.year - 1, 12)
    return _month(year, month, start_day, where)


def following(period: str, start: int, where: tzinfo, start_day: int = 1) -> int:
    """The start of the bucket after the one that starts at `start`."""
    if period == "minute":
        return start + 60
    if period == "hour":  # never longer than an hour, and cut short where the clock was changed
        return floor("hour", start + 3600, where)
    if period == "day":
        local = datetime.fromtimestamp(start, where)
        day = local.date() + timedelta(days=1)
        return _midnight(day.year, day.month, day.day, where)
    local = datetime.fromtimestamp(start, where)
    year, month = (local.year, local.month + 1) if local.month < 12 else (local.year + 1, 1)
    return _month(year, month, start_day, where)


def buckets(period: str, since: int, until: int, where: tzinfo, start_day: int = 1) -> list[int]:
    """The starts of the buckets that hold any of [since, until)."""
    out: list[int] = []
    at = floor(period, since, where, start_day)
    while at < until:
        out.append(at)
        at = following(period, at, where, start_day)
    return out


def anchored(period: str, created: int, now: int, where: tzinfo) -> tuple[int, int]:
    """The period that holds `now`, where periods begin with a creation: each full hour after it, the same
    time of day, or the same day of the month (its last, where it is shorter) and time.
    """
    if period == "hour":
        since = created + (now - created) // 3600 * 3600
        return since, since + 3600
    begun = datetime.fromtimestamp(created, where)

    def at(year: int, month: int, day: int) -> int:
        local = datetime(year, month, day, begun.hour, begun.minute, tzinfo=where)
        return int(local.timestamp())

    local = datetime.fromtimestamp(now, where)
    if period == "day":
        dates = [local.date() + timedelta(days=n) for n in (-1, 0, 1, 2)]
        starts = [at(d.year, d.month, d.day) for d in dates]
    else:
        months = [divmod(local.year * 12 + local.month - 1 + n, 12) for n in (-1, 0, 1, 2)]
        starts = [at(y, m + 1, min(begun.day, calendar.monthrange(y, m + 1)[1])) for y, m in months]
    n = max(i for i, start in enumerate(starts) if start <= now)
    return starts[n], starts[n + 1]


def show(at: int, where: tzinfo) -> str:
    """RFC 3339, in the zone."""
    return datetime.fromtimestamp(at, where).isoformat()


def moment(text: str, where: tzinfo) -> int:
    """`2026-11-25`, `2026-11-25T08:00`, with or without an offset, or seconds since the epoch.

    Raises UsageError.
    """
    try:
        found = datetime.fromtimestamp(int(text), where) if text.isdigit() else datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{text!r} is no time: write 2026-11-25, 2026-11-25T08:00 or seconds since the epoch"
        ) from None
    at = int((found if found.tzinfo else found.replace(tzinfo=where)).timestamp())
    if not 0 <= at <= LATEST:
        raise UsageError(f"{text!r} is beyond all time: from 1970 to 2242, please")
    return at


def _offset(at: int, where: tzinfo) -> int:
    shift = datetime.fromtimestamp(at, where).utcoffset()
    assert shift is not None
    return int(shift.total_seconds())


def _hour(at: int, local: datetime, where: tzinfo) -> int:
    shift = _offset(at, where)
    start = at - (at + shift) % 3600
    if _offset(start, where) == shift:
        return start
    low, high = start, at  # the clock was changed within this hour: the bucket begins there
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _offset(middle, where) == shift else (middle, high)
    return high


def _midnight(year: int, month: int, day: int, where: tzinfo) -> int:
    return int(datetime(year, month, day, tzinfo=where).timestamp())


def _month(year: int, month: int, start_day: int, where: tzinfo) -> int:
    return _midnight(year, month, min(start_day, calendar.monthrange(year, month)[1]), where)
