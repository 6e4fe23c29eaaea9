"""`replaykit cleanup`: usage that is to be gone from a ledger."""

from __future__ import annotations

import sys
import time

from replaykit.cli.asking import agreed
from replaykit.cli.ledgers import open_ledger, selection
from replaykit.cli.options.over_time import CleanupOptions
from replaykit.errors import UsageError
from replaykit.plain import out, say
from replaykit.units import parse_duration, show_size

_KEEP = ("minutes", "hours", "days", "months")


def run(args: CleanupOptions) -> int:
    keep = {name: getattr(args, f"keep_{name}") for name in _KEEP}
    spans = sum(1 for v in (args.since or args.until, args.before, args.all) if v)
    if spans > 1 or (spans and any(keep.values())):
        raise UsageError("give --since and --until, or --before, or --all, or --keep-…: one of these")
    if not spans and not any(keep.values()):
        raise UsageError(
            "say what is to be deleted: --since and --until, --before, --all, or --keep-minutes 14d"
        )
    return _retain(args, keep) if any(keep.values()) else _cleanup(args)


def _retain(args: CleanupOptions, keep: dict[str, str | None]) -> int:
    from replaykit.ledger.cleanup import Retention, retain

    if args.dry_run:
        raise UsageError("--dry-run is of --since, --before and --all: retention deletes no sums")
    shown = ", ".join(f"{name} older than {text}" for name, text in keep.items() if text is not None)
    if not agreed(f"delete {shown}?", args.yes):
        return 1
    ages = [None if text is None else int(parse_duration(text)) for text in keep.values()]
    ledger = open_ledger(args.ledger)
    try:
        gone = retain(ledger, Retention(*ages), int(time.time()))
    finally:
        ledger.close()
    if not args.quiet:
        out("deleted: " + ", ".join(f"{rows:,} {period}s" for period, rows in gone.items()))
    return 0


def _cleanup(args: CleanupOptions) -> int:
    from replaykit.ledger.calendar import moment, show
    from replaykit.ledger.cleanup import cleanup

    ledger = open_ledger(args.ledger)
    try:
        chosen = selection(args)
        since = 0 if args.since is None else moment(args.since, ledger.zone)
        end = args.before if args.before is not None else args.until
        until = None if end is None else moment(end, ledger.zone)
        if until is not None and until <= since:
            raise UsageError("the time to delete ends before it begins")
        plan = cleanup(ledger, chosen, since, until, dry_run=True)
        if not args.quiet:
            begins = "the beginning" if plan.since <= 0 else show(plan.since, ledger.zone)
            out(
                f"from {begins} to {show(plan.until, ledger.zone)}: {show_size(plan.traffic_bytes)} of"
                f" {plan.subjects:,} subjects"
            )
            out("  " + ", ".join(f"{rows:,} {period}s" for period, rows in plan.rows.items()))
            if plan.names:
                out("  " + ", ".join(plan.names[:8]) + (", …" if len(plan.names) > 8 else ""))
        if not plan.subjects:
            say("nothing of what was chosen is in the ledger: nothing is deleted")
            # A time in which nothing was counted is no mistake; a name that nobody has may be one.
            return 0 if chosen.everything and (since or until is not None) else 1
        if args.dry_run:
            return 0
        if not args.yes and not _agreed():
            return 1
        cleanup(ledger, chosen, since, until)
        if not args.quiet:
            out("deleted")
        return 0
    finally:
        ledger.close()


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UsageError("nobody is here to ask: give --yes to delete, or --dry-run to look")
    return input("delete this? [y/N] ").strip().lower() in ("y", "yes")
