"""`replaykit ship`: exchanges of files to a store, or only its set-up."""

from __future__ import annotations

from replaykit.cli import common
from replaykit.cli.options.shipping import ShipOptions
from replaykit.errors import UsageError
from replaykit.outputs.elastic_place import connect, parse_place
from replaykit.outputs.elastic_setup import set_up
from replaykit.outputs.output import Rotation
from replaykit.pipeline import writing
from replaykit.pipeline.fan_out import FanOut
from replaykit.plain import out


def run(args: ShipOptions) -> int:
    if not args.files and not args.setup:
        raise UsageError("nothing to ship: name files, or --setup")
    for target in args.to:
        if "://" not in target:
            raise UsageError(
                f"--to {target}: a store is needed, such as elasticsearch://HOST:9200; for files there is"
                " `exchanges`"
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
        fan_out = FanOut(outputs, common.folding(True, args.quiet))
        for piece in reader.read_moved(args.files):
            if isinstance(piece, tuple):
                rows += piece[0].num_rows
                fan_out.exchanges(*piece)
    if not args.quiet:
        out(f"shipped {rows:,} exchanges")
    return common.print_troubles(reader.troubles)
