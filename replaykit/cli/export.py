"""`replaykit export`: who used how much, from a ledger, by hour, day and month."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from replaykit.atomic_files import write_whole
from replaykit.cli.ledgers import open_ledger, selection
from replaykit.cli.options.over_time import ExportOptions
from replaykit.errors import UsageError
from replaykit.plain import say

FORMATS = ("table", "json", "csv", "html", "png")
DIRECTIONS = ("both", "rx", "tx")
_LAST = {"minute": 3600, "hour": 86_400, "day": 30 * 86_400, "month": 366 * 86_400, "total": 30 * 86_400}


def run(args: ExportOptions) -> int:
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
        zone, missing = ledger.zone, gaps(ledger, since, until, selection(args), int(time.time()))
    finally:
        ledger.close()
    if args.top is not None:
        seen: dict[int, int] = {}
        kept = []
        for row in rows:
            seen[row.time] = seen.get(row.time, 0) + 1
            if seen[row.time] <= args.top:
                kept.append(row)
        rows = kept
    from replaykit.reporting import usage, usage_page

    def done(status: int) -> int:
        """An empty span is said, and is no success."""
        if rows or status:
            return status
        begin, end = calendar.show(since, zone)[:16], calendar.show(until, zone)[:16]
        say(f"replaykit: nothing moved from {begin} to {end} ({zone}) in what was asked for")
        return 1

    title = (
        f"Bandwidth by {args.by.removeprefix('label:')}, {calendar.show(since, zone)[:16]} to"
        f" {calendar.show(until, zone)[:16]} ({zone})"
    )
    period = "minute" if args.period == "total" else args.period
    if args.format == "table":
        from replaykit.reporting.terminal import as_text, show

        table = usage.table(rows, zone, None if args.period == "total" else period, args.direction, missing)
        if args.output is None:
            show(table)
            return done(0)
        text = as_text(table)
    elif args.format == "json":
        about = {
            "period": args.period, "by": args.by, "since": calendar.show(since, zone),
            "until": calendar.show(until, zone), "time_zone": str(zone),
        }  # fmt: skip
        text = usage.as_json(rows, zone, about, missing) + "\n"
    elif args.format == "csv":
        text = usage.as_csv(rows, zone)
    elif args.format == "html":
        text = usage_page.as_html(rows, zone, period, args.direction, title, args.dark, missing)
    else:
        if args.output is None and sys.stdout.isatty():
            raise UsageError("a picture is no text: give --output FILE.png")
        return done(
            _write(args.output, usage.as_png(rows, zone, period, args.direction, title, args.dark, missing))
        )
    return done(_write(args.output, text.encode()))


def _write(name: str | None, data: bytes) -> int:
    """Aside, then renamed. Raises UsageError."""
    if name is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return 0
    write_whole(Path(name), data)
    return 0
