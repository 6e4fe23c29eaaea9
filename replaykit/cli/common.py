"""What the commands share: their options, how files are read through an engine, how they end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields

import pyarrow as pa

from replaykit.archive import partitions
from replaykit.atomic_files import Existing
from replaykit.attribution.folding import Folding, KeptFolding
from replaykit.capturing.files import CaptureFile
from replaykit.capturing.reader import open_reader
from replaykit.cli import rewrites
from replaykit.cli.options.shared import ExistingOptions, OutputOptions, QuietOptions
from replaykit.config.options import Options
from replaykit.engine.engine import Engine
from replaykit.engine.options import Options as EngineSettings
from replaykit.errors import UsageError
from replaykit.outputs.output import Rotation
from replaykit.outputs.settings import state_folder
from replaykit.pipeline.options import RewriteOptions
from replaykit.pipeline.reading import Reader, readable
from replaykit.plain import say, visible
from replaykit.records.message import Messages
from replaykit.reporting import terminal
from replaykit.units import parse_duration, parse_size


def existing(args: ExistingOptions) -> Existing:
    """Raises UsageError."""
    if args.append and args.overwrite:
        raise UsageError("--append adds to a file, --overwrite replaces it: give one of them")
    return "append" if args.append else "overwrite" if args.overwrite else "refuse"


def outputs_fit(args: OutputOptions, targets: Sequence[str]) -> None:
    """What is said of outputs has an output that follows it. Raises UsageError."""
    local = [t for t in targets if "://" not in t]
    gor = any(t.endswith((".gor", ".gor.gz")) for t in local)
    of_messages = ["prettify", "no_responses", *(f.name for f in fields(RewriteOptions))]
    for names, there, what in (
        (of_messages, gor, "a .gor output"),
        (
            ["rotate_size", "rotate_time"],
            bool(local) or any(t.startswith("s3://") for t in targets),
            "output files",
        ),
        (["append", "overwrite"], bool(local), "an output file"),
    ):
        for name in names:
            if not there and getattr(args, name) not in (None, False, ()):
                raise UsageError(f"--{name.replace('_', '-')} is about {what}: give one with --to")


def folding(keep: bool, quiet: bool) -> Folding:
    """How endpoints are named. keep: as the runs before did, and the next ones will."""
    return KeptFolding(state_folder() / "endpoints.json", quiet) if keep else Folding()


def rotation(args: OutputOptions) -> Rotation:
    return Rotation(
        None if args.rotate_size is None else parse_size(args.rotate_size),
        None if args.rotate_time is None else parse_duration(args.rotate_time),
        existing(args),
    )


def _report(line: str) -> None:
    say(f"replaykit: {line}")


def engine(chosen: EngineSettings) -> Engine:
    """An engine. Raises UsageError."""
    return readable(lambda: open_reader(chosen, _report))


def bodies(args: OutputOptions) -> Callable[[Engine], Engine] | None:
    """What --decode and --prettify put around an engine."""
    if not (args.decode or args.prettify):
        return None
    from replaykit.attribution.bodies import Bodies

    return lambda inner: Bodies(
        inner, decode=args.decode, prettify=args.prettify, responses=not args.no_responses
    )


def rewriting(args: RewriteOptions) -> Callable[[Messages], Messages]:
    """What the rules over messages make of a batch. Raises UsageError."""
    from replaykit.engine.gor_records import open_records, through

    chosen = rewrites.rules(args)
    if not chosen:
        return lambda messages: messages
    records = open_records(chosen)
    return lambda messages: through(records, messages)


_UNFIT: dict[str, tuple[str, tuple[str, ...]]] = {
    "parquet": (
        "Parquet holds none of what this needs: headers, bodies, packets",
        (
            "allow_header", "disallow_header", "redact", "tls_keys", "client_from", "protocol", "vxlan_port",
            "vni", "max_connections", "max_connection_buffer", "max_buffer", "max_message", "idle_timeout",
            "workers", "decode", "prettify", "savings", *(f.name for f in fields(RewriteOptions)),
        ),
    ),
    "gor": (
        "a .gor file holds messages: no packets, no ports",
        (
            "port", "tls_keys", "protocol", "vxlan_port", "vni", "max_connections", "max_connection_buffer",
            "max_buffer", "idle_timeout", "workers", "since", "until",
        ),
    ),
    "capture": ("--since and --until are for Parquet files and directories", ("since", "until")),
}  # fmt: skip
"""By kind of input: why, and what it cannot do."""


def refuse_unfit(args: Options, kind: str, name: str) -> None:
    """No option is taken and then ignored.

    Raises UsageError for one that this kind of input cannot follow.
    """
    why, unfit = _UNFIT[kind]
    if kind == "gor" and getattr(args, "measure", None) == "link":
        raise UsageError(f"--measure link: {name}: {why}")
    for option in unfit:
        if getattr(args, option, None) not in (None, False, ()):
            spelt = f"--{option.replace('_', '-')}" if args.are_flags else option
            raise UsageError(f"{spelt}: {name}: {why}")


def reader(
    args: QuietOptions,
    chosen: EngineSettings,
    above: Callable[[Engine], Engine] | None = None,
    columns: Collection[str] | None = None,
    moved: Callable[[pa.RecordBatch], None] | None = None,
) -> Reader:
    """A reader of what the command line says. Raises UsageError."""
    return Reader(
        chosen,
        above,
        columns,
        moved,
        window=_window(args),
        workers=getattr(args, "workers", None),
        fits=lambda kind, name: refuse_unfit(args, kind, name),
        progress=lambda files: _progress(args, files),
        report=_report,
    )


def _window(args: Options) -> partitions.Window:
    since, until = getattr(args, "since", None), getattr(args, "until", None)
    window = partitions.Window(
        None if since is None else partitions.parse_time("--since", since),
        None if until is None else partitions.parse_time("--until", until),
    )
    if window.since is not None and window.until is not None and window.until <= window.since:
        raise UsageError(f"--until {until}: give a time after --since {since}")
    return window


@contextmanager
def _progress(
    args: QuietOptions, files: Sequence[CaptureFile]
) -> Iterator[Callable[[CaptureFile, int], None]]:
    """A progress bar on stderr when a terminal watches."""
    if args.quiet or not sys.stderr.isatty():
        yield lambda file, done: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=terminal.console(stderr=True), transient=True) as bar:
        tasks = {id(f): bar.add_task(visible(f.name), total=f.size, start=True) for f in files}
        yield lambda file, done: bar.update(tasks[id(file)], completed=done)


def print_troubles(troubles: Sequence[str]) -> int:
    """Exit status after the inputs were read: 2 if one was cut short or broken."""
    for trouble in troubles:
        say(f"replaykit: {trouble}")
    return 2 if troubles else 0
