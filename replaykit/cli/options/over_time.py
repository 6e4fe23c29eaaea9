"""Of the commands `archive`, `anomalies`, `export`, `rules`, `cleanup`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from replaykit.cli.options.shared import LedgerOptions, SelectionOptions
from replaykit.config.kinds import Text
from replaykit.config.options import Option, Options, Whole


class ArchiveOptions(Options):
    place: Annotated[Text, Option("a directory, or s3://bucket/prefix/", "PLACE", argument=True)]
    compact: Annotated[bool, Option("joins the files of each hour that has several")] = False
    keep: Annotated[Text | None, Option("deletes hours older than this, such as 90d", "TIME")] = None
    dry_run: Annotated[bool, Option("says what would be done, and changes nothing")] = False
    yes: Annotated[bool, Option("deletes without asking")] = False
    quiet: Annotated[bool, Option("says nothing")] = False


class AnomaliesOptions(Options):
    place: Annotated[
        Text,
        Option(
            "a directory or s3://bucket/prefix/ of Parquet, a file, or elasticsearch://HOST:9200/NAME",
            "PLACE",
            argument=True,
        ),
    ]
    by: Annotated[Literal["endpoint", "host", "method", "status"], Option("what is judged")] = "endpoint"
    top: Annotated[Whole, Option("only those with the most bytes (default 20)", "N")] = 20
    days: Annotated[Whole, Option("of the past to learn from (default 28, at least 3)", "N")] = 28
    judge: Annotated[Text, Option("so much before --until is judged (default 24h)", "TIME")] = "24h"
    until: Annotated[Text, Option("default now", "TIME")] = "now"
    step: Annotated[Text, Option("default 5m", "TIME")] = "5m"
    forecast: Annotated[Literal["seasonal", "median", "lstm"], Option("what is expected by")] = "seasonal"
    format: Annotated[Literal["table", "json"], Option("")] = "table"


class ExportOptions(LedgerOptions, SelectionOptions):
    period: Annotated[
        Literal["minute", "hour", "day", "month", "total"],
        Option("buckets; total: the whole span"),
    ] = "day"
    since: Annotated[
        Text | None, Option("default: the last hour of minutes, day of hours, 30 days, 12 months", "TIME")
    ] = None
    until: Annotated[Text | None, Option("default: now", "TIME")] = None
    by: Annotated[Text, Option("subject (default), all, or label:NAME", "WHAT")] = "subject"
    direction: Annotated[Literal["both", "rx", "tx"], Option("what total and share are of")] = "both"
    top: Annotated[Whole | None, Option("only the N largest of each bucket", "N")] = None
    format: Annotated[Literal["table", "json", "csv", "html", "png"], Option("", panel="result")] = "table"
    output: Annotated[Text | None, Option("default: standard output", "FILE", panel="result")] = None
    dark: Annotated[bool, Option("html and png: light on dark", panel="result")] = False


class RulesOptions(Options):
    what: Annotated[
        Literal["check", "convert", "explain", "run", "log", "effects"],
        Option(
            "check: whether the file is right; convert: prints a file of earlier versions in today's form;"
            " explain: why a subject is restricted, or is not; run: judges and acts until it is stopped;"
            " log: what was done; effects: what holds now",
            argument=True,
        ),
    ]
    subject: Annotated[
        Text | None,
        Option(
            "for explain and log: its name, or a glob for explain; for convert: the file",
            "SUBJECT",
            argument=True,
        ),
    ] = None
    rules: Annotated[Text | None, Option("the rules (YAML)", "FILE")] = None
    ledger: Annotated[Text | None, Option("a file such as usage.db, or a database's URL", "LEDGER")] = None
    at: Annotated[Text | None, Option("explain: as if it were then", "TIME")] = None
    dry_run: Annotated[bool, Option("run: logs what would be done, and does nothing")] = False
    once: Annotated[bool, Option("run: judges once, then ends")] = False
    most: Annotated[Whole, Option("log: so many of the newest lines (default 100)", "N")] = 100
    format: Annotated[Literal["table", "json"], Option("log and effects: for people or programs")] = "table"


class CleanupOptions(LedgerOptions, SelectionOptions):
    panel: ClassVar[str] = "which time (in the ledger's time zone)"

    dry_run: Annotated[bool, Option("says what would be deleted, and deletes nothing", panel="")] = False
    yes: Annotated[bool, Option("deletes without asking", panel="")] = False
    quiet: Annotated[bool, Option("says nothing", panel="")] = False
    since: Annotated[Text | None, Option("from this time on", "TIME")] = None
    until: Annotated[Text | None, Option("before this time", "TIME")] = None
    before: Annotated[Text | None, Option("everything before this date", "DATE")] = None
    all: Annotated[bool, Option("of the selected subjects, everything")] = False
    keep_minutes: Annotated[
        Text | None,
        Option(
            "deletes minutes that are older", "TIME", panel="retention: the small buckets go, their sums stay"
        ),
    ] = None
    keep_hours: Annotated[
        Text | None,
        Option(
            "deletes hours that are older", "TIME", panel="retention: the small buckets go, their sums stay"
        ),
    ] = None
    keep_days: Annotated[
        Text | None,
        Option(
            "deletes days that are older", "TIME", panel="retention: the small buckets go, their sums stay"
        ),
    ] = None
    keep_months: Annotated[
        Text | None,
        Option(
            "deletes months that are older", "TIME", panel="retention: the small buckets go, their sums stay"
        ),
    ] = None


EXAMPLES = {
    "archive": (
        "replaykit archive archive/ --compact --keep 90d",
        "replaykit archive s3://traffic/web/ --keep 400d --dry-run",
    ),
    "anomalies": (
        "replaykit anomalies archive/ --days 28",
        "replaykit anomalies elasticsearch://127.0.0.1:9200 --by host",
        "replaykit anomalies s3://traffic/web/ --by host --until 2026-11-21 --format json",
    ),
    "export": (
        "replaykit export usage.db --period day --since 2026-11-01",
        "replaykit export usage.db --kind mapping --period hour --format html --output report.html --dark",
        "replaykit export usage.db --period total --by label:client --format csv",
    ),
    "rules": (
        "replaykit rules check --rules rules.yaml",
        "replaykit rules convert rules.yaml",
        "replaykit rules explain 30009 --rules rules.yaml --ledger usage.db",
        "replaykit rules run --rules rules.yaml --ledger usage.db --dry-run --once",
        "replaykit rules log --ledger usage.db --format json",
    ),
    "cleanup": (
        "replaykit cleanup usage.db --before 2026-01-01 --dry-run",
        "replaykit cleanup usage.db --subject 30009 --since 2026-11-01 --until 2026-11-02 --yes",
        "replaykit cleanup usage.db --keep-minutes 14d --keep-hours 400d",
    ),
}
