"""`replaykit report`: who uses the bandwidth, from files."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime

import pyarrow as pa

from replaykit.attribution.over_time import OverTime
from replaykit.attribution.summary import MEASURES, Summary, columns, parse_keys
from replaykit.cli import common
from replaykit.cli.options.looking import ReportOptions
from replaykit.errors import UsageError
from replaykit.pipeline import reading
from replaykit.plain import emit, json_text, out, say
from replaykit.reporting import render, terminal
from replaykit.reporting.conservation import conservation
from replaykit.units import parse_duration


def run(args: ReportOptions) -> int:
    if args.savings:
        if args.by != "endpoint":
            raise UsageError("--by: --savings is by endpoint")
        if args.measure != MEASURES[0]:
            raise UsageError("--measure: --savings looks at bodies")
        return _savings(args)
    keys = parse_keys(args.by)
    chosen = args.options(False, False)
    over = None
    if args.over is not None:
        length_s = parse_duration(args.over)
        if not 0.001 <= length_s <= 365 * 86_400:
            raise UsageError(f"--over {args.over}: give a time from 1ms to 365d")
        over = OverTime(keys, args.measure, int(length_s * 1e9))
        chosen = replace(chosen, slice_ns=over.slice_ns)
    reader = common.reader(
        args,
        chosen,
        columns=columns(keys) | {"time", "response_time"},
        moved=None if over is None else over.add,
    )
    summary = Summary(keys, measure=args.measure)
    for piece in reading.ahead(reader.read(args.files)):
        if isinstance(piece, pa.RecordBatch):
            summary.add(piece)
    if over is not None:
        show_over(over, args, reader)
    else:
        show(summary, args, reader)
    status = common.print_troubles(reader.troubles)
    if not summary.total.requests:
        say("replaykit: no exchange was measured")
    return status or int(not summary.total.requests)


def show_over(over: OverTime, args: ReportOptions, reader: reading.Reader) -> None:
    """Prints each slice's keys, and the line of conservation."""
    found, account, length_s = over.rows(args.top or None), reader.account(), over.slice_ns / 1e9
    data = [
        {
            "time": (
                datetime.fromtimestamp(row.time_ns / 1e9, UTC)
                .isoformat(timespec="milliseconds")
                .replace("+00:00", "Z")
            ),
            **dict(zip(over.by, row.key, strict=True)),
            "requests": round(row.requests),
            "bytes": round(row.bytes),
            "bytes_per_second": round(row.bytes / length_s),
        }
        for row in found
    ]
    if args.format == "json":
        document = {"measure": over.measure, "by": list(over.by), "slice_seconds": length_s, "rows": data}
        emit(json_text(document | ({} if account is None else {"account": account}), indent=2) + "\n")
    elif args.format == "csv":
        emit(render.records_as_csv(data, ["time", *over.by, "requests", "bytes", "bytes_per_second"]))
    else:
        terminal.show(render.over_table(data, over.by, over.measure))
    if account is not None and not args.quiet:
        (out if args.format == "table" else say)("", *conservation(account))


def _savings(args: ReportOptions) -> int:
    from replaykit.attribution.bodies import Bodies
    from replaykit.attribution.savings import Savings

    savings = Savings()
    chosen = args.options(True, True)
    reader = common.reader(args, chosen, lambda inner: Bodies(inner, visit=savings.visit))
    for _ in reader.read(args.files):
        pass
    if reader.engine is None:
        raise UsageError("--savings needs bodies: give a capture or a .gor file, Parquet holds none")
    found = [saving.as_dict(endpoint) for endpoint, saving in savings.top(args.top or None)]
    if args.format == "json":
        emit(json_text({"savings": found}) + "\n")
    elif args.format == "csv":
        emit(render.records_as_csv(found))
    else:
        terminal.show(render.savings_table(found))
    return common.print_troubles(reader.troubles)


def show(summary: Summary, args: ReportOptions, reader: reading.Reader) -> None:
    """Prints the summary and the line of conservation."""
    account, top = reader.account(), args.top or None
    left_out = {"left_out": asdict(reader.left_out)} if reader.left_out else {}
    if args.format == "json":
        emit(render.as_json(summary, top, account, {"estimated": summary.weighted, **left_out}) + "\n")
    elif args.format == "csv":
        emit(render.as_csv(summary, top))
    else:
        terminal.show(render.table(summary, top, terminal.width()))
    if account is not None and not args.quiet:
        (out if args.format == "table" else say)("", *conservation(account))
    if reader.left_out and not args.quiet:
        say(str(reader.left_out))
    if summary.weighted and not args.quiet:
        say("sampled: totals are estimates")
