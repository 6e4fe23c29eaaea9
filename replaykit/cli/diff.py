"""`replaykit diff`: what changed per endpoint between two recordings."""

from __future__ import annotations

from replaykit.attribution.differences import Difference, differences
from replaykit.attribution.measured import fold
from replaykit.cli import common
from replaykit.cli.gate import read
from replaykit.cli.options.replaying import DiffOptions
from replaykit.errors import UsageError
from replaykit.plain import emit, json_text, out
from replaykit.reporting.render import records_as_csv
from replaykit.units import show_size


def _record(d: Difference) -> dict[str, object]:
    return {
        "endpoint": d.endpoint,
        "state": d.state,
        "requests_before": round(d.before.requests),
        "requests_after": round(d.after.requests),
        "bytes_before": round(d.before.bytes),
        "bytes_after": round(d.after.bytes),
        "bytes_change": round(d.bytes),
        "bytes_per_request_change": None if d.per_request is None else round(d.per_request, 6),
    }


def run(args: DiffOptions) -> int:
    sides, troubles = [], []
    for name in (args.before, args.after):
        measured, trouble = read(args, [name])
        if not measured.endpoints:
            raise UsageError(f"{name}: no exchange was measured")
        sides.append(measured)
        troubles += trouble
    fold(*sides)
    found = differences(*sides)[: args.top or None]
    if args.format == "json":
        total = {
            "measure": args.measure,
            "bytes_before": round(sides[0].bytes),
            "bytes_after": round(sides[1].bytes),
        }
        emit(json_text({**total, "endpoints": [_record(d) for d in found]}) + "\n")
    elif args.format == "csv":
        emit(records_as_csv([_record(d) for d in found]))
    else:
        _print(found, sides[0].bytes, sides[1].bytes, args.measure)
    return common.print_troubles(troubles)


def _print(found: list[Difference], before: float, after: float, measure: str) -> None:
    from replaykit.reporting.terminal import PlainTable, show

    table = PlainTable()
    table.add_column("endpoint", overflow="fold")
    for name in ("", "requests", "", "bytes", f"({measure})", "change", "a request"):
        table.add_column(name, justify="right", no_wrap=True)
    for d in found:
        growth = "" if d.per_request is None else f"{d.per_request:+.1%}"
        sign = "+" if d.bytes >= 0 else "-"
        table.add_row(
            d.endpoint,
            "" if d.state == "changed" else d.state,
            f"{round(d.before.requests):,}",
            f"{round(d.after.requests):,}",
            show_size(d.before.bytes),
            show_size(d.after.bytes),
            f"{sign}{show_size(abs(d.bytes))}",
            growth,
        )
    show(table)
    out("", f"in all {show_size(before)} before, {show_size(after)} after, of {measure} bytes")
