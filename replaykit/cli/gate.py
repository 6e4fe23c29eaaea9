"""`replaykit gate`: fails a CI run that uses more bandwidth than it may."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from replaykit.atomic_files import cannot_write
from replaykit.attribution.gate import Limits, judge
from replaykit.attribution.measured import Measured, columns, fold, measured
from replaykit.cli import common
from replaykit.cli.options.replaying import GateOptions, MeasuredFiles
from replaykit.errors import UsageError
from replaykit.plain import emit, say
from replaykit.reporting import gate as shown


def _limits(args: GateOptions) -> Limits:
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


def read(args: MeasuredFiles, files: Sequence[str]) -> tuple[Measured, list[str]]:
    """What the files hold per endpoint, and their troubles. Raises UsageError."""
    chosen = args.options(False, False)
    reader = common.reader(args, chosen, columns=columns(args.measure))
    pieces = (piece for piece in reader.read(files) if isinstance(piece, pa.RecordBatch))
    found = measured(pieces, args.measure)
    if reader.left_out and not args.quiet:
        say(f"replaykit: {', '.join(files)}: {reader.left_out}")
    return found, reader.troubles


def run(args: GateOptions) -> int:
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
