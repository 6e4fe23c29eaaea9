"""What the commands share: their options, how files are read through an engine, how they end."""

from __future__ import annotations

import argparse
import os
import queue
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from replaykit.archive import partitions as archive
from replaykit.archive.chosen import Chosen
from replaykit.archive.parquet_file import left_behind, parts_of, whole
from replaykit.archive.store import open_store
from replaykit.atomic_files import Existing
from replaykit.attribution.folding import Folding, KeptFolding
from replaykit.attribution.minutes import MINUTE_NS
from replaykit.attribution.summary import MEASURES
from replaykit.capture.files import PIECE, CaptureFile, Reading
from replaykit.capture.left_out import LeftOut
from replaykit.capture.reader import keep_keys_of, key_log, open_reader
from replaykit.cli import rewrites
from replaykit.cli.rewrites import REWRITES
from replaykit.engine.engine import Engine
from replaykit.engine.engines import Engines
from replaykit.engine.options import Options, header_rule
from replaykit.errors import UsageError
from replaykit.outputs.output import Moving, Observing, Output, Rotation, open_output
from replaykit.outputs.settings import state_folder
from replaykit.plain import say, visible
from replaykit.records.increment import movements, plain
from replaykit.records.message import Messages
from replaykit.report.terminal import console
from replaykit.units import parse_duration, parse_size

BATCH_ROWS = 65_536
SHARED_PIECE = 16 << 20
"""Bytes that several engines read before their exchanges are taken."""
SHARED_FROM = 64 << 20
"""Captures of so many bytes are read by several engines."""
MOST_WORKERS = 4
T = TypeVar("T")


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


def options(args: argparse.Namespace, requests: bool, responses: bool, ports: Sequence[int] = ()) -> Options:
    """The engine's options from the command line. Raises UsageError."""
    from replaykit.attribution.patterns import read_patterns

    values = {
        "max_connections": args.max_connections,
        "max_connection_bytes": args.max_connection_buffer and parse_size(args.max_connection_buffer),
        "max_buffer_bytes": args.max_buffer and parse_size(args.max_buffer),
        "max_message_bytes": args.max_message and parse_size(args.max_message),
        "idle_ns": args.idle_timeout and int(parse_duration(args.idle_timeout) * 1e9),
    }
    protocols = [name for part in args.protocol for name in part.split(",")]
    if args.vxlan_port:
        values["vxlan_ports"] = tuple(args.vxlan_port)
    return Options(
        vxlan_vnis=tuple(args.vni),
        raw="raw" in protocols,
        protocols=tuple(name for name in protocols if name != "raw"),
        tls_keys=args.tls_keys,
        client_from=None if args.client_from is None else _client_from(args.client_from),
        ports=tuple(ports),
        requests=requests,
        responses=responses,
        endpoints=tuple(p for name in args.endpoints for p in read_patterns(name)),
        allow_headers=tuple(map(header_rule, args.allow_header)),
        deny_headers=tuple(map(header_rule, args.disallow_header)),
        allow_methods=tuple(f"^{re.escape(m)}$" for m in args.allow_method),
        deny_methods=tuple(f"^{re.escape(m)}$" for m in args.disallow_method),
        allow_urls=tuple(args.allow_url),
        deny_urls=tuple(args.disallow_url),
        redact_headers=tuple(args.redact),
        redact_parameters=tuple(args.redact_param),
        **{name: value for name, value in values.items() if value is not None},
    )


def _client_from(text: str) -> tuple[str, int]:
    """`x-forwarded-for:2` as a header's name and the proxies to trust. Raises UsageError."""
    name, colon, hops = text.partition(":")
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise UsageError(f"--client-from {text!r}: give a header's name, such as x-forwarded-for")
    if colon and not (hops.isascii() and hops.isdecimal() and 1 <= int(hops) <= 100):
        raise UsageError(f"--client-from {text}: after the colon give how many proxies are trusted, 1 to 100")
    return name, int(hops or 1)


def _report(line: str) -> None:
    say(f"replaykit: {line}")


def engine(chosen: Options) -> Engine:
    """An engine. Raises UsageError."""
    return _readable(lambda: open_reader(chosen, _report))


def _readable(opened: Callable[[], T]) -> T:
    """What was opened. Raises UsageError for a pattern that cannot be read."""
    try:
        return opened()
    except ValueError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines() if line.strip(" ^"))
        raise UsageError(f"a filter's regular expression cannot be read: {reason}") from None


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


class Background:
    """Runs an output in a thread of its own, so that writing and parsing share two cores.

    An output that fails ends alone: it says so once, takes nothing any more, and counts what it did not write.
    Only where the reader of standard output has gone (BrokenPipeError) does the caller hear of it at once.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self.lost = 0
        """Exchanges and messages that were given to it and are in no file."""
        self._queue: queue.Queue[tuple[Callable[[], None], int] | None] = queue.Queue(maxsize=2)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            do, count = work
            if self._error is not None:
                self.lost += count
                continue
            try:
                do()
            except BaseException as error:
                self._failed(error, count)

    def _failed(self, error: BaseException, count: int) -> None:
        self._error = error
        self.lost += getattr(error, "lost", count)
        if isinstance(error, UsageError | OSError) and not isinstance(error, BrokenPipeError):
            say(f"replaykit: {error}; nothing more goes there")

    @property
    def failed(self) -> bool:
        """It takes nothing any more."""
        return self._error is not None

    def _put(self, work: Callable[[], None], count: int = 0) -> None:
        if self._error is not None:
            self._raise_unless_told()
            self.lost += count
            return
        self._queue.put((work, count))

    def _raise_unless_told(self) -> None:
        """A fault of the program, and a reader that has gone, end the run."""
        error = self._error
        if error is not None and (
            isinstance(error, BrokenPipeError) or not isinstance(error, UsageError | OSError)
        ):
            raise error

    def exchanges(self, batch: pa.RecordBatch, moved: pa.RecordBatch | None = None) -> None:
        """moved: all that moved, where it is known."""
        output, count = self.output, 0 if self.output.wants_messages else batch.num_rows
        if moved is not None and isinstance(output, Moving):
            self._put(lambda: output.take(batch, moved), count)
        elif batch.num_rows:
            self._put(lambda: output.exchanges(batch), count)

    def messages(self, messages: Messages) -> None:
        self._put(lambda: self.output.messages(messages), len(messages))

    def flush(self) -> None:
        self._put(self.output.flush)

    def observe(self, status: Mapping[str, Any]) -> None:
        if isinstance(self.output, Observing):
            self._put(lambda: self.output.observe(status))  # type: ignore[attr-defined]

    def close(self) -> None:
        """Finishes the output. Raises UsageError with what it lost, where it failed."""
        self._queue.put(None)
        self._thread.join()
        try:
            self.output.close()
        except (UsageError, OSError) as error:
            if self._error is None:
                self._error = error
                self.lost += getattr(error, "lost", 0)
                raise
            say(f"replaykit: {error}")
        self._raise_unless_told()
        if self._error is not None:
            what = "messages" if self.output.wants_messages else "exchanges"
            where = "standard output" if self.output.target == "-" else self.output.target
            raise UsageError(f"{where}: {self.lost:,} {what} were not written")


@contextmanager
def outputs(targets: Sequence[str], how: Rotation) -> Iterator[list[Background]]:
    """Opens the targets, and closes all of them whatever happens; what went wrong is said, and ends in exit status 2."""
    opened: list[Background] = []
    try:
        for target in targets:
            opened.append(Background(open_output(target, how)))
        yield opened
    finally:
        errors = []
        for output in opened:
            try:
                output.close()
            except (UsageError, OSError) as error:
                errors.append(error)
        if errors and sys.exc_info()[0] is None:
            for other in errors[1:]:
                say(f"replaykit: {other}")
            raise errors[0]


def sliced(chosen: Options, outputs: Sequence[Background]) -> Options:
    """Options by which files are read for these outputs: with all that moves by the minute, where one tells sums over time."""
    moving = any(isinstance(output.output, Moving) for output in outputs)
    return replace(chosen, slice_ns=MINUTE_NS) if moving else chosen


def ahead(pieces: Iterator[T], depth: int = 1) -> Iterator[T]:
    """The same pieces, read in a thread of their own, so that reading and adding up share two cores."""
    waiting: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=depth)
    stopping = threading.Event()

    def put(piece: T | None, error: BaseException | None) -> None:
        while not stopping.is_set():
            try:
                return waiting.put((piece, error), timeout=0.2)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for piece in pieces:
                put(piece, None)
                if stopping.is_set():
                    return
            put(None, None)
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    patience_s: float | None = None
    try:
        while True:
            piece, error = waiting.get()
            if error is not None:
                raise error
            if piece is None:
                return
            yield piece
    except KeyboardInterrupt:
        patience_s = 0.5  # it may be waiting for standard input
        raise
    finally:
        stopping.set()
        thread.join(patience_s)


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


class Reader:
    """Reads input files through one engine: batches and messages come out, troubles are kept.

    above: put around the engine. columns: those read of Parquet files, the others are null; None: all.
    moved: is given all that moved, in slices of `chosen.slice_ns`; of what is no capture the exchanges.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        chosen: Options,
        above: Callable[[Engine], Engine] | None = None,
        columns: Collection[str] | None = None,
        moved: Callable[[pa.RecordBatch], None] | None = None,
    ) -> None:
        self._moved = moved
        self._rows = Chosen(chosen)
        self._columns = None if columns is None else {*columns, *self._rows.reads}
        if chosen.tls_keys is not None and not Path(chosen.tls_keys).exists():
            raise UsageError(f"--tls-keys {chosen.tls_keys}: there is no such file")
        self._args = args
        self._above = above
        self._options = chosen
        self.engine: Engine | Engines | None = None
        self.troubles: list[str] = []
        self.left_out = LeftOut()

    def _window(self) -> archive.Window:
        since, until = getattr(self._args, "since", None), getattr(self._args, "until", None)
        window = archive.Window(
            None if since is None else archive.parse_time("--since", since),
            None if until is None else archive.parse_time("--until", until),
        )
        if window.since is not None and window.until is not None and window.until <= window.since:
            raise UsageError(f"--until {until}: give a time after --since {since}")
        return window

    def _named(self, name: str, window: archive.Window) -> Sequence[str | CaptureFile]:
        """The file, opened; of a directory or bucket the names of its Parquet files, which are opened one by one."""
        remote = name.startswith("s3://")
        if remote and name.endswith(".parquet"):
            return [name]
        if not remote and name != "-" and left_behind(Path(name)):
            say(f"replaykit: {name}: reading what a run that did not end left in {parts_of(Path(name))}, too")
            all_of_it = whole(Path(name))
            return [str(p) for p in all_of_it]
        if not remote and (name == "-" or not Path(name).is_dir()):
            return [CaptureFile(name)]
        store = open_store(name)
        found = archive.files(store, archive.Window())
        if not found:
            raise UsageError(
                f"{name}: {'a prefix' if remote else 'a directory'} without Parquet files; name the files in it"
            )
        return archive.files(store, window) if window else found

    def account(self) -> dict[str, int] | None:
        """The engine's account; None where only exchanges were read."""
        return None if self.engine is None else self.engine.account()

    def read(self, names: Sequence[str]) -> Iterator[pa.RecordBatch | Messages]:
        """Everything of the files, in pieces of bounded size. Raises UsageError."""
        window = self._window()
        files = [file for each in names for file in self._named(each, window)]
        with _progress(self._args, [f for f in files if isinstance(f, CaptureFile)]) as step:
            for file in files:
                name = file if isinstance(file, str) else file.name
                kind = "parquet" if isinstance(file, str) else file.kind
                refuse_unfit(self._args, kind, name)
                if kind == "parquet":
                    if isinstance(file, CaptureFile):
                        file.close()
                    for batch in map(self._rows, archive.read(name, window, self._columns)):
                        if self._moved is not None:
                            self._moved(batch)
                        yield batch
                    continue
                assert isinstance(file, CaptureFile)
                if self.engine is None:
                    self.engine = self._open(files)
                reading = Reading()
                piece = SHARED_PIECE if isinstance(self.engine, Engines) else PIECE
                for progress in file.feed(self.engine, reading, piece):
                    step(file, progress.done)
                    yield from self._drain(BATCH_ROWS)
                file.close()
                self.left_out.add(reading.left_out)
                if reading.trouble:
                    self.troubles.append(reading.trouble)
        if self.engine is not None:
            self.engine.finish()
            yield from self._drain(1)

    def read_moved(
        self, names: Sequence[str]
    ) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch | None] | Messages]:
        """The same; with each batch all that moved until it came, where `chosen.slice_ns` asks for it and the file knows it."""
        held: list[pa.RecordBatch] = []
        if self._options.slice_ns:
            self._moved = held.append
        for piece in self.read(names):
            if isinstance(piece, Messages):
                yield piece
            else:
                moved = held.pop() if held else None
                yield piece, None if moved is piece else moved

    def _open(self, files: Sequence[str | CaptureFile]) -> Engine | Engines:
        captures = [f for f in files if isinstance(f, CaptureFile) and f.kind == "capture"]
        found = self._engine_for(captures)
        keep_keys_of(found, captures, self._options, _report)
        return found

    def _engine_for(self, captures: Sequence[CaptureFile]) -> Engine | Engines:
        alone = self._above is not None or bool(self._options.protocols)
        wanted = getattr(self._args, "workers", None)
        if alone and (wanted or 1) > 1:
            raise UsageError(f"--workers {wanted}: bodies and plug-ins' protocols are read by one")
        if wanted is None:
            large = sum(f.size or 0 for f in captures) >= SHARED_FROM
            wanted = min(max(len(os.sched_getaffinity(0)) - 1, 1), MOST_WORKERS) if large else 1
        if alone or not captures or wanted == 1:
            one = engine(self._options)
            return one if self._above is None else self._above(one)
        return _readable(lambda: Engines(self._options, wanted, key_log(self._options), _report))

    def _drain(self, rows: int) -> Iterator[pa.RecordBatch | Messages]:
        assert self.engine is not None
        for engine in self.engine.all if isinstance(self.engine, Engines) else (self.engine,):
            if engine.rows >= rows or engine.increments >= rows:
                exchanges = engine.take_exchanges()
                if self._moved is not None:
                    increments = engine.take_increments() if engine.increments else None
                    self._moved(movements(exchanges, increments))
                yield plain(exchanges)
        while self.engine.message_bytes:
            yield self.engine.take_messages()


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
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        tasks = {id(f): bar.add_task(visible(f.name), total=f.size, start=True) for f in files}
        yield lambda file, done: bar.update(tasks[id(file)], completed=done)


def print_troubles(troubles: Sequence[str]) -> int:
    """Exit status after the inputs were read: 2 if one was cut short or broken."""
    for trouble in troubles:
        say(f"replaykit: {trouble}")
    return 2 if troubles else 0


def parse_ports(text: str | None) -> tuple[int, ...]:
    """`80,8000-8010` as numbers. Raises UsageError."""
    if text is None:
        return ()
    from replaykit.capture.live import parse_place

    return parse_place(f"any:{text}").ports
