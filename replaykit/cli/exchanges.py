"""`replaykit exchanges`: every exchange of the files."""

from __future__ import annotations

import sys

import pyarrow as pa

from replaykit.cli import common
from replaykit.cli.options.looking import ExchangesOptions
from replaykit.errors import UsageError
from replaykit.outputs.files import CsvOutput, JsonlOutput
from replaykit.outputs.output import Output, Rotation
from replaykit.pipeline import writing
from replaykit.pipeline.fan_out import FanOut
from replaykit.plain import emit, say, visible
from replaykit.records.message import Messages
from replaykit.reporting.conservation import conservation

FORMATS = ("table", "jsonl", "csv", "parquet")
TABLE = (
    "time",
    "client_ip",
    "method",
    "host",
    "target",
    "status",
    "request_wire_bytes",
    "response_wire_bytes",
    "duration_ns",
)


def run(args: ExchangesOptions) -> int:
    targets = list(args.to)
    table = _table(args, targets)
    rewrite = common.rewriting(args)
    common.outputs_fit(args, targets)
    with writing.opened(targets, common.rotation(args)) as outputs:
        if args.output is None and args.format in ("jsonl", "csv"):
            kind = JsonlOutput if args.format == "jsonl" else CsvOutput
            outputs.append(writing.Background(kind("-", Rotation())))
        gor = any(o.output.wants_messages for o in outputs)
        responses = args.decode or (gor and not args.no_responses)
        chosen = writing.sliced(args.options(gor or args.decode, responses), outputs)
        reader = common.reader(args, chosen, common.bodies(args))
        folding = common.folding(any("://" in t for t in targets), args.quiet)
        fan_out = FanOut(outputs, folding, rewrite)
        for piece in reader.read_moved(args.files):
            if isinstance(piece, Messages):
                fan_out.messages(piece)
                continue
            exchanges, _ = fan_out.exchanges(*piece)
            if table is not None:
                table.exchanges(exchanges)
    if table is not None:
        table.close()
    account = reader.account()
    if account is not None and not args.quiet:
        say(*conservation(account))
    return common.print_troubles(reader.troubles)


def _table(args: ExchangesOptions, targets: list[str]) -> Output | None:
    """Sorts out --format and --output; a table on the terminal is the default."""
    if args.output is not None:
        if args.format in (None, "table") or args.output.endswith(f".{args.format}"):
            targets.append(args.output)
        else:
            raise UsageError(
                f"--output {args.output}: for --format {args.format} let the name end in .{args.format}"
            )
        return None
    if args.format == "parquet":
        raise UsageError("--format parquet needs a file: --output name.parquet")
    return _Table() if args.format == "table" or (args.format is None and not targets) else None


class _Table:
    """Rows as text, a few columns."""

    target = "-"
    wants_messages = False

    def __init__(self) -> None:
        emit("\t".join(TABLE) + "\n")

    def exchanges(self, batch: pa.RecordBatch) -> None:
        from replaykit.records.exchange import plain_values

        columns = [plain_values(batch.column(name)) for name in TABLE]
        lines = (
            "\t".join("-" if v is None else visible(v) for v in row) for row in zip(*columns, strict=True)
        )
        emit("".join(f"{line}\n" for line in lines))

    def messages(self, messages: object) -> None:
        """A table holds exchanges only."""

    def flush(self) -> None:
        sys.stdout.flush()

    def close(self) -> None:
        sys.stdout.flush()
