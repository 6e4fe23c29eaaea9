"""What the commands share: their options, how files are read through an engine, how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import pyarrow as pa

from replaykit.archive import partitions
from replaykit.atomic_files import Existing
from replaykit.attribution.folding import Folding, KeptFolding
from replaykit.attribution.summary import MEASURES
from replaykit.capturing.files import CaptureFile
from replaykit.capturing.reader import open_reader
from replaykit.cli import rewrites
from replaykit.cli.rewrites import REWRITES
from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from replaykit.errors import UsageError
from replaykit.outputs.output import Rotation
from replaykit.outputs.settings import state_folder
from replaykit.pipeline.options import Filters
from replaykit.pipeline.reading import MOST_WORKERS, SHARED_FROM, Reader, readable
from replaykit.plain import say, visible
from replaykit.records.message import Messages
from replaykit.reporting import terminal
from replaykit.units import parse_duration, parse_size


class _Removed(argparse.Action):
    """An option of earlier versions: says what became of it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        parser.error("--engine: there is one engine now, the compiled one; leave the option out")


def add_removed_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", action=_Removed, help=argparse.SUPPRESS)


def add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine and bounds")
    add_removed_engine(parser)
    group.add_argument(
        "--max-connections", type=_positive, metavar="N", help="connections followed at a time"
    )
    group.add_argument(
        "--max-connection-buffer",
        metavar="SIZE",
        help="out-of-order bytes kept for one connection (default 1MiB)",
    )
    group.add_argument("--max-buffer", metavar="SIZE", help="bytes in all buffers (default 96MiB)")
    group.add_argument(
        "--max-message", metavar="SIZE", help="largest message written to .gor (default 16MiB)"
    )
    group.add_argument("--idle-timeout", metavar="TIME", help="ends silent connections (default 5m)")
    group.add_argument("--quiet", action="store_true", help="no progress, no summary")


def add_protocols(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("protocols")
    group.add_argument(
        "--tls-keys", metavar="FILE", help="key log (SSLKEYLOGFILE) to read TLS with, followed while it grows"
    )
    group.add_argument(
        "--protocol", action="append", default=[], metavar="NAMES",
        help="also reads these protocols by their plug-ins: redis, postgresql, ...; raw: connections are streams of bytes",
    )  # fmt: skip
    group.add_argument(
        "--client-from", metavar="HEADER[:HOPS]",
        help="who the client is: x-forwarded-for, forwarded, x-real-ip, or another header; HOPS trusted proxies, counted from the right (default 1)",
    )  # fmt: skip
    group.add_argument(
        "--vxlan-port", action="append", type=_port, default=[], metavar="PORT",
        help="UDP port that carries VXLAN (default 4789 and 8472)",
    )  # fmt: skip
    group.add_argument(
        "--vni", action="append", type=int, default=[], metavar="N",
        help="only this VXLAN network; -N: all but this one",
    )  # fmt: skip


def _port(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 65_535:
        raise argparse.ArgumentTypeError(f"{text} is out of range; ports are 1 to 65535")
    return value


def add_filters(parser: argparse.ArgumentParser, redaction: bool = True) -> None:
    group = parser.add_argument_group("filters (regular expressions, RE2 syntax) and redaction")
    for verb, what in (("allow", "only exchanges"), ("disallow", "no exchanges")):
        group.add_argument(
            f"--{verb}-header", f"--http-{verb}-header", action="append", default=[], metavar="NAME[:REGEX]",
            help=f"{what} whose request has this header (with a value that matches)",
        )  # fmt: skip
        group.add_argument(
            f"--{verb}-method", f"--http-{verb}-method", action="append", default=[], metavar="METHOD",
            help=f"{what} of this method",
        )  # fmt: skip
        group.add_argument(
            f"--{verb}-url", f"--http-{verb}-url", action="append", default=[], metavar="REGEX",
            help=f"{what} whose target matches",
        )  # fmt: skip
    if redaction:
        group.add_argument(
            "--redact", action="append", default=[], metavar="NAME",
            help="replaces the values of this header by ***",
        )  # fmt: skip
        group.add_argument(
            "--redact-param", action="append", default=[], metavar="NAME",
            help="replaces the values of this query parameter by ***",
        )  # fmt: skip
    group.add_argument(
        "--endpoints", action="append", default=[], metavar="FILE",
        help="endpoint patterns such as /users/{id}, one a line, or an OpenAPI file",
    )  # fmt: skip


def add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help=".pcap, .pcapng (.gz, .zst), .gor, .parquet, a directory or s3://bucket/prefix/ of .parquet, or -",
    )
    for name, text in (("since", "from this time on"), ("until", "before this time")):
        parser.add_argument(
            f"--{name}",
            metavar="TIME",
            help=f"of Parquet files: only exchanges {text}: 2026-11-21T08:00, 2h (ago), now",
        )
    parser.add_argument("--port", metavar="PORTS", help="only connections to these ports, e.g. 80,8000-8010")
    parser.add_argument(
        "--workers", type=_positive, metavar="N",
        help=f"threads that read capture files, each its connections (default: the cores but one, at most {MOST_WORKERS}, from {SHARED_FROM >> 20} MiB on)",
    )  # fmt: skip


def add_measure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--measure", choices=MEASURES, default=MEASURES[0],
        help="what counts: wire (TCP payload: headers, bodies, framing), link (whole packets), body (default wire)",
    )  # fmt: skip


def add_by(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--by",
        default="endpoint",
        metavar="KEYS",
        help="endpoint, host, client, status, ... (default endpoint)",
    )


def add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--decode", action="store_true",
        help="fills request_decoded_bytes and response_decoded_bytes: content without gzip, deflate, br, zstd",
    )  # fmt: skip
    parser.add_argument(
        "--prettify", action="store_true", help="messages are written to .gor decoded and without chunks"
    )
    parser.add_argument(
        "--to",
        action="append",
        default=[],
        metavar="OUTPUT",
        help="name.parquet, .gor, .gor.gz, .jsonl, .csv, directory/, elasticsearch://HOST:9200, prometheus://:9900",
    )
    add_existing(parser)
    parser.add_argument("--no-responses", action="store_true", help="only requests into .gor files")
    parser.add_argument("--rotate-size", metavar="SIZE", help="begins a new file after so many bytes")
    parser.add_argument("--rotate-time", metavar="TIME", help="begins a new Parquet file after so long")


def add_existing(parser: argparse.ArgumentParser) -> None:
    """What becomes of a file that an output would write to and that is there already."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--append", action="store_true", help="adds to output files that exist already")
    group.add_argument(
        "--overwrite", action="store_true", help="replaces them, as soon as there is something in their place"
    )


def existing(args: argparse.Namespace) -> Existing:
    return "append" if args.append else "overwrite" if args.overwrite else "refuse"


def outputs_fit(args: argparse.Namespace) -> None:
    """What is said of outputs has an output that follows it. Raises UsageError."""
    local = [t for t in args.to if "://" not in t]
    gor = any(t.endswith((".gor", ".gor.gz")) for t in local)
    of_messages = ["prettify", "no_responses", *(name.replace("-", "_") for name, _, _ in REWRITES)]
    for names, there, what in (
        (of_messages, gor, "a .gor output"),
        (
            ["rotate_size", "rotate_time"],
            bool(local) or any(t.startswith("s3://") for t in args.to),
            "output files",
        ),
        (["append", "overwrite"], bool(local), "an output file"),
    ):
        for name in names:
            if not there and getattr(args, name) not in (None, False, []):
                raise UsageError(f"--{name.replace('_', '-')} is about {what}: give one with --to")


def folding(keep: bool, quiet: bool) -> Folding:
    """How endpoints are named. keep: as the runs before did, and the next ones will."""
    return KeptFolding(state_folder() / "endpoints.json", quiet) if keep else Folding()


def rotation(args: argparse.Namespace) -> Rotation:
    return Rotation(
        None if args.rotate_size is None else parse_size(args.rotate_size),
        None if args.rotate_time is None else parse_duration(args.rotate_time),
        existing(args),
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def options(args: argparse.Namespace, requests: bool, responses: bool) -> Options:
    """The engine's options from the command line. Raises UsageError."""
    given = {f.name: getattr(args, f.name) for f in fields(Filters) if hasattr(args, f.name)}
    return Filters(**given).options(requests, responses)


def _report(line: str) -> None:
    say(f"replaykit: {line}")


def engine(chosen: Options) -> Engine:
    """An engine. Raises UsageError."""
    return readable(lambda: open_reader(chosen, _report))


def bodies(args: argparse.Namespace) -> Callable[[Engine], Engine] | None:
    """What --decode and --prettify put around an engine."""
    if not (args.decode or args.prettify):
        return None
    from replaykit.attribution.bodies import Bodies

    return lambda inner: Bodies(
        inner, decode=args.decode, prettify=args.prettify, responses=not args.no_responses
    )


def rewriting(args: argparse.Namespace) -> Callable[[Messages], Messages]:
    """What the rules over messages make of a batch. Raises UsageError."""
    from replaykit.engine.gor_records import open_records, through

    chosen = rewrites.rules(args, filters=False)
    if not chosen:
        return lambda messages: messages
    records = open_records(chosen)
    return lambda messages: through(records, messages)


_UNFIT: dict[str, tuple[str, tuple[str, ...]]] = {
    "parquet": (
        "Parquet holds none of what this needs: headers, bodies, packets",
        (
            "allow_header", "disallow_header", "redact", "tls_keys", "client_from", "protocol", "vxlan_port", "vni", "max_connections",
            "max_connection_buffer", "max_buffer", "max_message", "idle_timeout", "workers", "decode", "prettify", "savings",
            *(name.replace("-", "_") for name, _, _ in REWRITES),
        ),
    ),
    "gor": (
        "a .gor file holds messages: no packets, no ports",
        (
            "port", "tls_keys", "protocol", "vxlan_port", "vni", "max_connections", "max_connection_buffer", "max_buffer",
            "idle_timeout", "workers", "since", "until",
        ),
    ),
    "capture": ("--since and --until are for Parquet files and directories", ("since", "until")),
}  # fmt: skip
"""By kind of input: why, and what it cannot do."""


def refuse_unfit(args: argparse.Namespace, kind: str, name: str) -> None:
    """No option is taken and then ignored. Raises UsageError for one that this kind of input cannot follow."""
    why, unfit = _UNFIT[kind]
    if kind == "gor" and getattr(args, "measure", None) == "link":
        raise UsageError(f"--measure link: {name}: {why}")
    for option in unfit:
        if getattr(args, option, None) not in (None, False, [], ()):
            spelt = option if getattr(args, "declared", False) else f"--{option.replace('_', '-')}"
            raise UsageError(f"{spelt}: {name}: {why}")


def reader(
    args: argparse.Namespace,
    chosen: Options,
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


def _window(args: argparse.Namespace) -> partitions.Window:
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
    args: argparse.Namespace, files: Sequence[CaptureFile]
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
