"""`replaykit gate`: fails a CI run that uses more bandwidth than it may."""

from __future__ import annotations

import argparse

import pyarrow as pa

from replaykit.atomic_files import cannot_write
from replaykit.attribution.gate import Limits, judge
from replaykit.attribution.measured import Measured, columns, fold, measured
from replaykit.cli import common
from replaykit.errors import UsageError
from replaykit.plain import emit, say
from replaykit.reporting import gate as shown

EXAMPLES = (
    "replaykit gate traffic.gor --threshold 500MB",
    "replaykit gate new.parquet --baseline main.parquet --max-increase 10%",
    "replaykit gate traffic.gor --budget bandwidth.yaml --format junit --output gate.xml",
)


def configure(parser: argparse.ArgumentParser) -> None:
    common.add_inputs(parser)
    common.add_measure(parser)
    group = parser.add_argument_group("limits, of both directions together, by --measure")
    group.add_argument("--threshold", metavar="SIZE", help="of everything")
    group.add_argument(
        "--per-endpoint", action="append", default=[], metavar="[PATTERN=]SIZE", help="of an endpoint in all"
    )
    group.add_argument("--per-request", metavar="SIZE", help="of any one exchange")
    group.add_argument("--max-share", metavar="PERCENT", help="of an endpoint in the total")
    group.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="FILE",
        help="YAML: endpoint pattern to bytes per request",
    )
    group.add_argument("--baseline", action="append", default=[], metavar="FILE", help="what it was before")
    group.add_argument(
        "--max-increase", metavar="PERCENT", help="of an endpoint's bytes per request against the baseline"
    )
    group.add_argument("--max-total-increase", metavar="PERCENT", help="of everything against the baseline")
    parser.add_argument("--format", choices=shown.FORMATS, default="table")
    parser.add_argument(
        "--output", metavar="FILE", help="writes there in --format; the table is still printed"
    )
    parser.add_argument(
        "--summary", metavar="FILE", help="appends a Markdown summary, e.g. $GITHUB_STEP_SUMMARY"
    )
    parser.add_argument("--top", type=int, default=10, metavar="N", help="endpoints shown (default 10)")
    common.add_filters(parser)
    common.add_protocols(parser)
    common.add_engine(parser)  # fmt: skip


def _limits(args: argparse.Namespace) -> Limits:
    return Limits.of(
        threshold=args.threshold,
        per_endpoint=args.per_endpoint,
        per_request=args.per_request,
        max_share=args.max_share,
        max_increase=args.max_increase,
        max_total_increase=args.max_total_increase,
        budget=args.budget,
        compared=bool(args.baseline),
    )


def read(args: argparse.Namespace, files: list[str]) -> tuple[Measured, list[str]]:
    """What the files hold per endpoint, and their troubles. Raises UsageError."""
    chosen = common.options(args, False, False)
    reader = common.reader(args, chosen, columns=columns(args.measure))
    pieces = (piece for piece in reader.read(files) if isinstance(piece, pa.RecordBatch))
    found = measured(pieces, args.measure)
    if reader.left_out and not args.quiet:
        say(f"replaykit: {', '.join(files)}: {reader.left_out}")
    return found, reader.troubles


def run(args: argparse.Namespace) -> int:
    limits = _limits(args)
    now, troubles = read(args, args.files)
    if not now.endpoints:
        raise UsageError(f"{', '.join(args.files)}: no exchange was measured, so nothing can pass")
    before = None
    if args.baseline:
        before, more = read(args, args.baseline)
        troubles += more
        if not before.endpoints:
            raise UsageError(f"--baseline {', '.join(args.baseline)}: no exchange was measured")
    fold(now, *([] if before is None else [before]))
    verdict = judge(now, limits, before)
    verdict.require()
    if args.output is None:
        emit(shown.render(verdict, args.format, args.top))
    else:
        _write(args.output, shown.render(verdict, args.format, args.top), "w")
        if not args.quiet:
            emit(shown.render(verdict, "table", args.top))
    if args.summary is not None:
        _write(args.summary, shown.render(verdict, "markdown", args.top), "a")
    return common.print_troubles(troubles) or int(bool(verdict.failures))


def _write(path: str, text: str, mode: str) -> None:
    try:
        with open(path, mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise cannot_write(path, error) from None
