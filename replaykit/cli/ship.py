"""`replaykit ship`: exchanges of files to a store, or only its set-up."""

from __future__ import annotations

import argparse

from replaykit.cli import common
from replaykit.errors import UsageError
from replaykit.outputs.elastic_place import connect, parse_place
from replaykit.outputs.elastic_setup import set_up
from replaykit.outputs.output import Rotation
from replaykit.pipeline import writing
from replaykit.plain import out

EXAMPLES = (
    "replaykit ship --setup --to elasticsearch://127.0.0.1:9200",
    "replaykit ship traffic.parquet --to elasticsearch://127.0.0.1:9200",
    "replaykit ship archive/ --to kafka://127.0.0.1:9092/replaykit-exchanges",
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help=".pcap, .pcapng (.gz, .zst), .gor, .parquet, an archive, or -",
    )
    parser.add_argument(
        "--to",
        action="append",
        default=[],
        required=True,
        metavar="STORE",
        help="elasticsearch://HOST:9200[/NAME][?spool=DIR], kafka://, influxdb://, otlp://, s3://",
    )
    parser.add_argument(
        "--setup",
        action="store_true",
        help="installs templates, and ILM where the server has it; may be repeated",
    )
    parser.add_argument("--port", metavar="PORTS", help="only connections to these ports")
    common.add_filters(parser)
    common.add_protocols(parser)
    common.add_engine(parser)  # fmt: skip


def run(args: argparse.Namespace) -> int:
    if not args.files and not args.setup:
        raise UsageError("nothing to ship: name files, or --setup")
    for target in args.to:
        if "://" not in target:
            raise UsageError(
                f"--to {target}: a store is needed, such as elasticsearch://HOST:9200; for files there is `exchanges`"
            )
        if args.setup:
            if not target.startswith("elasticsearch://"):
                raise UsageError(f"--setup: only elasticsearch:// has something to set up, not {target}")
            place = parse_place(target)
            client = connect(place)
            streams = set_up(client, place.name)
            client.close()
            if not args.quiet:
                kind = (
                    "data streams with ILM" if streams else "daily indices (the server has no data streams)"
                )
                out(f"{place.url}: templates for {place.name}-* are installed: {kind}")
    if not args.files:
        return 0
    rows = 0
    with writing.opened(args.to, Rotation()) as outputs:
        chosen = common.options(args, False, False)
        reader = common.reader(args, writing.sliced(chosen, outputs))
        folding = common.folding(True, args.quiet)
        for piece in reader.read_moved(args.files):
            if isinstance(piece, tuple):
                exchanges, moved = piece
                rows += exchanges.num_rows
                exchanges, moved = folding.rename(exchanges), None if moved is None else folding.rename(moved)
                for output in outputs:
                    output.exchanges(exchanges, moved)
    if not args.quiet:
        out(f"shipped {rows:,} exchanges")
    return common.print_troubles(reader.troubles)
