"""Of the commands `replay`, `diff`, `gate`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from replaykit.cli.options.shared import ExistingOptions, InputOptions, MeasureOptions, QuietOptions
from replaykit.config.kinds import Text, Texts
from replaykit.config.options import Option, Whole
from replaykit.pipeline.options import FilterOptions, Filters, RemovedOptions, RewriteOptions
from replaykit.replaying import options as replaying


class ReplayOptions(
    replaying.ReplayOptions, ExistingOptions, FilterOptions, RewriteOptions, RemovedOptions, QuietOptions
):
    save: Annotated[Text | None, Option("what was sent and answered, as .gor", "FILE")] = None
    format: Annotated[Literal["table", "json"], Option("")] = "table"


class MeasuredFiles(MeasureOptions, Filters, QuietOptions):
    """Files whose exchanges are measured."""


class DiffOptions(MeasuredFiles):
    before: Annotated[Text, Option(".pcap, .pcapng (.gz, .zst), .gor or .parquet", "BEFORE", argument=True)]
    after: Annotated[Text, Option("", "AFTER", argument=True)]
    top: Annotated[Whole, Option("rows shown; 0: all (default 20)", "N")] = 20
    format: Annotated[Literal["table", "json", "csv"], Option("")] = "table"


class GateOptions(InputOptions, MeasuredFiles):
    panel: ClassVar[str] = "limits, of both directions together, by --measure"

    format: Annotated[
        Literal["table", "json", "junit", "sarif", "github", "markdown"], Option("", panel="")
    ] = "table"
    output: Annotated[
        Text | None, Option("writes there in --format; the table is still printed", "FILE", panel="")
    ] = None
    summary: Annotated[
        Text | None, Option("appends a Markdown summary, e.g. $GITHUB_STEP_SUMMARY", "FILE", panel="")
    ] = None
    top: Annotated[Whole, Option("endpoints shown (default 10)", "N", panel="")] = 10
    threshold: Annotated[Text | None, Option("of everything", "SIZE")] = None
    per_endpoint: Annotated[
        Texts, Option("of an endpoint in all", "[PATTERN=]SIZE", complete="endpoints")
    ] = ()
    per_request: Annotated[Text | None, Option("of any one exchange", "SIZE")] = None
    max_share: Annotated[Text | None, Option("of an endpoint in the total", "PERCENT")] = None
    budget: Annotated[Texts, Option("YAML: endpoint pattern to bytes per request", "FILE")] = ()
    baseline: Annotated[Texts, Option("what it was before", "FILE")] = ()
    max_increase: Annotated[
        Text | None, Option("of an endpoint's bytes per request against the baseline", "PERCENT")
    ] = None
    max_total_increase: Annotated[Text | None, Option("of everything against the baseline", "PERCENT")] = None


EXAMPLES = {
    "replay": (
        "replaykit replay traffic.gor --to http://127.0.0.1:8080",
        "replaykit replay traffic.gor --to http://staging.example --speed 2x --all-methods",
        "replaykit replay traffic.gor --to http://127.0.0.1:8080 --speed max --connections 64",
        "replaykit replay traffic.gor --to http://127.0.0.1:8080 --compare --body json --ignore 'meta.time'",
    ),
    "diff": (
        "replaykit diff monday.parquet tuesday.parquet",
        "replaykit diff before.gor after.gor --top 5 --format json",
    ),
    "gate": (
        "replaykit gate traffic.gor --threshold 500MB",
        "replaykit gate new.parquet --baseline main.parquet --max-increase 10%",
        "replaykit gate traffic.gor --budget bandwidth.yaml --format junit --output gate.xml",
    ),
}
