"""`replaykit export`: who used how much, from a ledger, by hour, day and month."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from replaykit.atomic_files import write_whole
from replaykit.cli.ledgers import open_ledger, selection
from replaykit.cli.options.over_time import ExportOptions
from replaykit.errors import UsageError
from replaykit.plain import say

if TYPE_CHECKING:
    from replaykit.ledger.history import Gap, Sum

FORMATS = ("table", "json", "csv", "html", "png")
DIRECTIONS = ("both", "rx", "tx")
_LAST = {"minute": 3600, "hour": 86_400, "day": 30 * 86_400, "month": 366 * 86_400, "total": 30 * 86_400}


@dataclass(frozen=True)
class _Found:
    """Rows of a span, and where in it nobody read."""

    rows: Sequence[Sum]
    since: int
    until: int
    zone: ZoneInfo
    missing: Sequence[Gap]

    @property
    def span(self) -> str:
        from replaykit.ledger import calendar

        begin, end = (calendar.show(at, self.zone)[:16] for at in (self.since, self.until))
        return f"{begin} to {end} ({self.zone})"


def run(args: ExportOptions) -> int:
    """An empty span is said, and is no success."""
    found = _find(args)
    if args.format == "table":
        _table(args, found)
    else:
        _write(args.output, _data(args, found))
    if found.rows:
        return 0
    say(f"replaykit: nothing moved from {found.span} in what was asked for")
    return 1


def _find(args: ExportOptions) -> _Found:
    """Raises UsageError."""
    ledger = open_ledger(args.ledger)
    try:
        from replaykit.ledger import calendar
        from replaykit.ledger.history import gaps, history, totals

        until = int(time.time()) if args.until is None else calendar.moment(args.until, ledger.zone)
        since = until - _LAST[args.period] if args.since is None else calendar.moment(args.since, ledger.zone)
        if until <= since:
            raise UsageError("the span ends before it begins: look at --since and --until")
        if args.period == "total":
            found = totals(ledger, since, until, selection(args), args.by)
            rows, since, until = list(found.sums), found.since, found.until
        else:
            rows = history(ledger, args.period, since, until, selection(args), args.by)
        if args.top is not None:
            rows = _largest(rows, args.top)
        missing = gaps(ledger, since, until, selection(args), int(time.time()))
        return _Found(rows, since, until, ledger.zone, missing)
    finally:
        ledger.close()


def _largest(rows: Sequence[Sum], top: int) -> list[Sum]:
    """So many of each bucket; within one they come by size."""
    seen: Counter[int] = Counter()
    kept = []
    for row in rows:
        seen[row.time] += 1
        if seen[row.time] <= top:
            kept.append(row)
    return kept


def _table(args: ExportOptions, found: _Found) -> None:
    from replaykit.reporting import usage
    from replaykit.reporting.terminal import as_text, show

    period = None if args.period == "total" else args.period
    table = usage.table(found.rows, found.zone, period, args.direction, found.missing)
    if args.output is None:
        show(table)
    else:
        _write(args.output, as_text(table).encode())


def _data(args: ExportOptions, found: _Found) -> bytes:
    """Raises UsageError."""
    from replaykit.ledger import calendar
    from replaykit.reporting import usage, usage_page

    rows, zone = found.rows, found.zone
    if args.format == "csv":
        return usage.as_csv(rows, zone).encode()
    if args.format == "json":
        about = {
            "period": args.period,
            "by": args.by,
            "since": calendar.show(found.since, zone),
            "until": calendar.show(found.until, zone),
            "time_zone": str(zone),
        }
        return (usage.as_json(rows, zone, about, found.missing) + "\n").encode()
    period = "minute" if args.period == "total" else args.period
    title = f"Bandwidth by {args.by.removeprefix('label:')}, {found.span}"
    if args.format == "html":
        page = usage_page.as_html(rows, zone, period, args.direction, title, args.dark, found.missing)
        return page.encode()
    if args.output is None and sys.stdout.isatty():
        raise UsageError("a picture is no text: give --output FILE.png")
    return usage.as_png(rows, zone, period, args.direction, title, args.dark, found.missing)


def _write(name: str | None, data: bytes) -> None:
    """Aside, then renamed. Raises UsageError."""
    if name is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_whole(Path(name), data)
