"""`replaykit archive`: an archive of Parquet kept in order."""

from __future__ import annotations

import re
import time

from replaykit.archive.compaction import compact, expire
from replaykit.archive.store import open_store
from replaykit.cli.asking import agreed
from replaykit.cli.options.over_time import ArchiveOptions
from replaykit.errors import UsageError
from replaykit.plain import out
from replaykit.units import parse_duration, show_size


def run(args: ArchiveOptions) -> int:
    if not args.compact and args.keep is None:
        raise UsageError("nothing to do: give --compact, --keep 90d, or both")
    keep_s = None if args.keep is None else parse_duration(args.keep)
    if args.keep is not None and re.search(r"\dm\Z", args.keep) and "h" not in args.keep:
        raise UsageError(
            f"--keep {args.keep}: m is minutes; write 30d for a month, or 1h for an hour and more"
        )
    store = open_store(args.place)
    would = "would be " if args.dry_run else ""
    if keep_s is not None:
        if not args.dry_run and not agreed(f"delete what is older than {args.keep}?", args.yes):
            return 1
        gone = expire(store, int((time.time() - keep_s) * 1e9), args.dry_run)
        if not args.quiet:
            out(f"{gone.files:,} files with {gone.rows:,} exchanges ({show_size(gone.bytes)}) {would}deleted")
    if args.compact:
        done = compact(store, dry=args.dry_run)
        if not args.quiet:
            size = "" if args.dry_run else f", {show_size(done.bytes)} to {show_size(done.made_bytes)}"
            out(f"{done.files:,} files with {done.rows:,} exchanges {would}joined into {done.made:,}{size}")
    return 0
