"""Of the commands `ship`, `alert`, `run`, `config`."""

from __future__ import annotations

from typing import Annotated, Literal

from replaykit.cli.options.shared import QuietOptions
from replaykit.config.files import FILES
from replaykit.config.kinds import Text, Texts
from replaykit.config.options import Option, Options
from replaykit.pipeline.options import Filters


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


class AlertOptions(Options):
    rules: Annotated[Text, Option("", "RULES.yaml", argument=True)]
    source: Annotated[
        Text | None,
        Option(
            "elasticsearch://HOST:9200/NAME, a directory or s3://bucket/prefix/ of Parquet, or a file; a live"
            " capture watches itself: replaykit capture --alerts RULES.yaml",
            "PLACE",
        ),
    ] = None
    check: Annotated[bool, Option("only reads the rules")] = False
    since: Annotated[
        Text | None,
        Option("evaluates the past from then on, tells nobody, prints the events, and ends", "TIME"),
    ] = None
    until: Annotated[Text | None, Option("with --since: to then (default now)", "TIME")] = None
    once: Annotated[bool, Option("evaluates what is due, sends word, and ends")] = False
    delay: Annotated[Text, Option("evaluates so late, for data under way (default 30s)", "TIME")] = "30s"
    state: Annotated[
        Text | None, Option("where episodes are kept (default below ~/.local/state/replaykit)", "FILE")
    ] = None
    quiet: Annotated[bool, Option("prints no events")] = False


class RunOptions(Options):
    pipeline: Annotated[Text, Option("", "PIPELINE.yaml", argument=True)]
    check: Annotated[bool, Option("only reads the pipeline and says what it would do")] = False


class ConfigOptions(Options):
    what: Annotated[
        Literal["schema", "check"],
        Option(
            "schema: prints the JSON Schema of a kind of file; check: whether a file is right",
            "WHAT",
            argument=True,
        ),
    ]
    kind: Annotated[
        Text,
        Option(
            "; ".join(f"{name}: {kind.about}" for name, kind in FILES.items()),
            "KIND",
            argument=True,
            complete="kinds",
        ),
    ]
    file: Annotated[Text | None, Option("for check: the file (YAML or JSON)", "FILE", argument=True)] = None


EXAMPLES = {
    "ship": (
        "replaykit ship --setup --to elasticsearch://127.0.0.1:9200",
        "replaykit ship traffic.parquet --to elasticsearch://127.0.0.1:9200",
        "replaykit ship archive/ --to kafka://127.0.0.1:9092/replaykit-exchanges",
    ),
    "alert": (
        "replaykit alert rules.yaml --source elasticsearch://127.0.0.1:9200",
        "replaykit alert rules.yaml --source archive/ --since 2026-11-20 --until 2026-11-21",
        "replaykit alert rules.yaml --check",
    ),
    "run": (
        "replaykit run pipelines/capture-to-elasticsearch.yaml",
        "replaykit run pipeline.yaml --check",
    ),
    "config": (
        "replaykit config schema rules > rules.schema.json",
        "replaykit config check forward forward.yaml",
    ),
}
