"""`replaykit ship`: exchanges of files to a store, or only its set-up."""

from __future__ import annotations

from typing import Annotated

from replaykit.cli import common
from replaykit.cli.options import QuietOptions
from replaykit.config.kinds import Texts
from replaykit.config.options import Option
from replaykit.errors import UsageError
from replaykit.outputs.elastic_place import connect, parse_place
from replaykit.outputs.elastic_setup import set_up
from replaykit.outputs.output import Rotation
from replaykit.pipeline import writing
from replaykit.pipeline.options import Filters
from replaykit.plain import out

EXAMPLES = (
    "replaykit ship --setup --to elasticsearch://127.0.0.1:9200",
    "replaykit ship traffic.parquet --to elasticsearch://127.0.0.1:9200",
    "replaykit ship archive/ --to kafka://127.0.0.1:9092/replaykit-exchanges",
)


class ShipOptions(Filters, QuietOptions):
    files: Annotated[
        Texts,
        Option(".pcap, .pcapng (.gz, .zst), .gor, .parquet, an archive, or -", "FILE", argument=True),
    ] = ()
    to: Annotated[
        Texts,
        Option(
            "elasticsearch://HOST:9200[/NAME][?spool=DIR], kafka://, influxdb://, otlp://, s3://", "STORE"
        ),
    ]
    setup: Annotated[bool, Option("installs templates, and ILM where the server has it; may be repeated")] = (
        False
    )


def run(args: ShipOptions) -> int:
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
        chosen = args.options(False, False)
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
