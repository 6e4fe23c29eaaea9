"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from replaykit.config.kinds import Text, Texts
from replaykit.config.options import Option, Options, Positive


class InputOptions(Options):
    """Files to read."""

    files: Annotated[
        Texts,
        Option(
            ".pcap, .pcapng (.gz, .zst), .gor, .parquet, a directory or s3://bucket/prefix/ of .parquet,"
            " or -",
            "FILE",
            argument=True,
        ),
    ]
    since: Annotated[
        Text | None,
        Option("of Parquet files: only exchanges from this time on: 2026-11-21T08:00, 2h (ago), now", "TIME"),
    ] = None
    until: Annotated[
        Text | None,
        Option("of Parquet files: only exchanges before this time: 2026-11-21T08:00, 2h (ago), now", "TIME"),
    ] = None
    workers: Annotated[
        Positive | None,
        Option(
            "threads that read capture files, each its connections (default: the cores but one, at most 4,"
            " from 64 MiB on)",
            "N",
        ),
    ] = None


class MeasureOptions(Options):
    """What counts."""

    measure: Annotated[
        Literal["wire", "link", "body"],
        Option(
            "what counts: TCP payload (wire: headers, bodies, framing), whole packets (link) or bodies alone"
        ),
    ] = "wire"


class GroupOptions(Options):
    """What is told apart."""

    by: Annotated[
        Text, Option("endpoint, host, client, status, ... (default endpoint)", "KEYS", complete="keys")
    ] = "endpoint"


class ExistingOptions(Options):
    """What becomes of a file that an output would write to and that is there already."""

    append: Annotated[bool, Option("adds to output files that exist already")] = False
    overwrite: Annotated[bool, Option("replaces them, as soon as there is something in their place")] = False


class OutputOptions(ExistingOptions):
    """Where results go."""

    decode: Annotated[
        bool,
        Option(
            "fills request_decoded_bytes and response_decoded_bytes: content without gzip, deflate, br, zstd"
        ),
    ] = False
    prettify: Annotated[bool, Option("messages are written to .gor decoded and without chunks")] = False
    to: Annotated[
        Texts,
        Option(
            "name.parquet, .gor, .gor.gz, .jsonl, .csv, directory/, elasticsearch://HOST:9200,"
            " prometheus://:9900",
            "OUTPUT",
        ),
    ] = ()
    no_responses: Annotated[bool, Option("only requests into .gor files")] = False
    rotate_size: Annotated[Text | None, Option("begins a new file after so many bytes", "SIZE")] = None
    rotate_time: Annotated[Text | None, Option("begins a new Parquet file after so long", "TIME")] = None


class LedgerOptions(Options):
    """A ledger."""

    ledger: Annotated[
        Text,
        Option(
            "a file such as usage.db, files:FOLDER, or sqlite:///…, postgresql://…, mysql://…",
            "LEDGER",
            argument=True,
        ),
    ]


class SelectionOptions(Options):
    """Whose usage."""

    panel: ClassVar[str] = "which subjects"

    vantage: Annotated[Text | None, Option("only of this vantage: wire, forwarder, …", "NAME")] = None
    kind: Annotated[
        Text | None, Option("only of this kind: endpoint, mapping, client, user, machine, …", "NAME")
    ] = None
    subject: Annotated[Texts, Option("only these; may be repeated", "GLOB")] = ()
    exclude: Annotated[Texts, Option("not these; may be repeated", "GLOB")] = ()
    label: Annotated[Texts, Option("only with this label", "NAME=GLOB")] = ()


class ApiOptions(Options):
    """Where the API and the page listen, and who may ask."""

    api: Annotated[
        Text,
        Option(
            "where the API and the page listen (default 127.0.0.1:8080); beyond this machine they need a"
            " token in REPLAYKIT_TOKEN or the file that REPLAYKIT_TOKEN_FILE names; none: no API",
            "ADDRESS:PORT",
        ),
    ] = "127.0.0.1:8080"
    exchanges: Annotated[
        Text | None,
        Option(
            "an archive that replaykit capture --to FOLDER/ writes, for single exchanges on the page: a"
            " folder or s3://…",
            "PLACE",
        ),
    ] = None
    allow_origin: Annotated[
        Texts,
        Option(
            "pages of this origin may ask the API as our own does, for a front end of one's own:"
            " http://localhost:5173; may be repeated",
            "URL",
        ),
    ] = ()


class QuietOptions(Options):
    """Of commands that show how far they are."""

    quiet: Annotated[bool, Option("no progress, no summary")] = False
