"""`replaykit report`: who uses the bandwidth, from files."""

from __future__ import annotations

import argparse
import json
import sys

import pyarrow as pa

from replaykit.attribution.summary import Summary, columns, parse_keys
from replaykit.cli import common
from replaykit.errors import UsageError
from replaykit.report import render
from replaykit.report.conservation import conservation

EXAMPLES = (
    "replaykit report traffic.pcap",
    "replaykit report monday.parquet --by host,endpoint --top 10",
    "tcpdump -w - port 80 | replaykit report -",
)


def configure(parser: argparse.ArgumentParser) -> None:
    common.add_inputs(parser)
    common.add_by(parser)
    parser.add_argument(
        "--top", type=int, default=20, metavar="N", help="rows shown, the rest as (other); 0: all"
    )
    parser.add_argument(
        "--savings", action="store_true",
        help="what could be spared per endpoint: compression, answers sent again unchanged, repeated requests",
    )  # fmt: skip
    parser.add_argument("--format", choices=render.FORMATS, default="table")
    common.add_filters(parser)
    common.add_protocols(parser)
    common.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    if args.savings:
        return _savings(args)
    keys = parse_keys(args.by)
    chosen = common.options(args, False, False, common.parse_ports(args.port))
    reader = common.Reader(args, chosen, columns=columns(keys))
    summary = Summary(keys)
    for piece in common.ahead(reader.read(args.files)):
        if isinstance(piece, pa.RecordBatch):
            summary.add(piece)
    show(summary, args, reader)
    return common.print_troubles(reader.troubles)


def _savings(args: argparse.Namespace) -> int:
    from replaykit.attribution.savings import Savings
    from replaykit.traffic.bodies import Bodies

    savings = Savings()
    chosen = common.options(args, True, True, common.parse_ports(args.port))
    reader = common.Reader(args, chosen, lambda inner: Bodies(inner, visit=savings.visit))
    for _ in reader.read(args.files):
        pass
    if reader.engine is None:
        raise UsageError("--savings needs bodies: give a capture or a .gor file, Parquet holds none")
    found = [saving.as_dict(endpoint) for endpoint, saving in savings.top(args.top or None)]
    if args.format == "json":
        print(json.dumps({"savings": found}))
    elif args.format == "csv":
        sys.stdout.write(render.records_as_csv(found))
    else:
        from rich.console import Console

        (Console() if sys.stdout.isatty() else Console(width=160)).print(render.savings_table(found))
    return common.print_troubles(reader.troubles)


def show(summary: Summary, args: argparse.Namespace, reader: common.Reader) -> None:
    """Prints the summary and the line of conservation."""
    account, top = reader.account(), args.top or None
    name = reader.engine.name if reader.engine is not None else None
    if args.format == "json":
        print(render.as_json(summary, top, account, {"engine": name, "estimated": summary.weighted}))
    elif args.format == "csv":
        sys.stdout.write(render.as_csv(summary, top))
    else:
        from rich.console import Console

        console = Console() if sys.stdout.isatty() else Console(width=160)
        console.print(render.table(summary, top))
    if account is not None and not args.quiet:
        out = sys.stdout if args.format == "table" else sys.stderr
        print(f"\n{conservation(account)}\nengine: {name}", file=out)
    if summary.weighted and not args.quiet:
        common.say("sampled: totals are estimates")
