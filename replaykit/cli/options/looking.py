"""Of the commands `capture`, `report`, `exchanges`, `verify`, `demo`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from replaykit.cli.options.shared import (
    GroupOptions,
    InputOptions,
    MeasureOptions,
    OutputOptions,
    QuietOptions,
)
from replaykit.config.kinds import Share, Text, Texts
from replaykit.config.options import Option, Options, Whole
from replaykit.pipeline.options import EngineOptions, Filters, RemovedOptions, RewriteOptions, TrafficOptions


class KernelOptions(Options):
    """What the kernel does of it."""

    panel: ClassVar[str] = "in the kernel"

    filter: Annotated[Text | None, Option("a tcpdump expression, beside ports and hosts", "EXPR")] = None
    host: Annotated[Texts, Option("only traffic of this address", "ADDRESS")] = ()
    sample: Annotated[
        Share, Option("keeps this share of the connections, 0.1 for a tenth; totals are weighted", "SHARE")
    ] = 1.0
    headers_only: Annotated[
        bool, Option("the kernel cuts bodies off; their sizes come from TCP and framing")
    ] = False
    buffer_size: Annotated[Text, Option("of each ring (default 128MiB)", "SIZE")] = "128MiB"
    workers: Annotated[Whole | None, Option("threads that share the connections (default 1)", "N")] = None
    tunnels: Annotated[bool, Option("also looks into VXLAN, GRE, Geneve, MPLS, GTP-U, IP in IP")] = False
    user: Annotated[Text | None, Option("becomes this user once the sockets are open", "NAME")] = None


class CaptureOptions(
    MeasureOptions, GroupOptions, OutputOptions, KernelOptions, TrafficOptions, RewriteOptions, QuietOptions
):
    places: Annotated[
        Texts,
        Option(
            "interface (default any) and ports: :80, eth0:80,8000-8010; vxlan://ADDRESS:4789/80 listens for"
            " mirrored traffic",
            "[IFACE]:PORT",
            complete="places",
            argument=True,
        ),
    ]
    top: Annotated[Whole, Option("rows of the table, the rest as (other)", "N")] = 20
    stats: Annotated[bool, Option("JSON lines on standard output instead of the table")] = False
    interval: Annotated[Text, Option("between refreshes of table or stats (default 1s)", "TIME")] = "1s"
    duration: Annotated[Text | None, Option("ends by itself after so long", "TIME")] = None
    alerts: Annotated[
        Text | None,
        Option(
            "evaluates these rules while it runs; they may change the capture (docs/alerts.md)",
            "RULES.yaml",
        ),
    ] = None
    alert_state: Annotated[
        Text | None,
        Option(
            "where their episodes and hours are kept (default below ~/.local/state/replaykit)",
            "DIR",
        ),
    ] = None


class ReportOptions(InputOptions, MeasureOptions, GroupOptions, Filters, QuietOptions):
    top: Annotated[Whole, Option("rows shown, the rest as (other); 0: all", "N")] = 20
    savings: Annotated[
        bool,
        Option(
            "what could be spared per endpoint: compression, responses sent again unchanged, repeated"
            " requests"
        ),
    ] = False
    over: Annotated[
        Text | None,
        Option(
            "in slices of so long (1s, 1m): what moved in each, also of exchanges that were still running",
            "TIME",
        ),
    ] = None
    format: Annotated[Literal["table", "json", "csv"], Option("")] = "table"


class ExchangesOptions(InputOptions, OutputOptions, Filters, RewriteOptions, QuietOptions):
    format: Annotated[
        Literal["table", "jsonl", "csv", "parquet"] | None,
        Option("of standard output or --output"),
    ] = None
    output: Annotated[Text | None, Option("writes there in --format", "FILE")] = None


class VerifyOptions(EngineOptions, RemovedOptions, QuietOptions):
    files: Annotated[Texts, Option(".pcap or .pcapng, gzip too", "FILE", argument=True)]
    third: Annotated[
        Literal["tshark"] | None,
        Option("a third reading, of requests and statuses: tshark's", only=("--with",)),
    ] = None
    format: Annotated[Literal["text", "json"], Option("")] = "text"


class DemoOptions(Options):
    directory: Annotated[Text, Option("for the files (default demo)", "DIR")] = "demo"


EXAMPLES = {
    "capture": (
        "replaykit capture :8080",
        "replaykit capture eth0:80 --to traffic.gor --to traffic.parquet --duration 60s",
        "replaykit capture :80,443 --headers-only --sample 0.1 --stats",
    ),
    "report": (
        "replaykit report traffic.pcap",
        "replaykit report monday.parquet --by host,endpoint --top 10",
        "replaykit report traffic.pcap --over 1s --top 5",
        "tcpdump -w - port 80 | replaykit report -",
    ),
    "exchanges": (
        "replaykit exchanges traffic.pcap --to traffic.parquet",
        "replaykit exchanges traffic.pcap --to traffic.gor --to traffic.csv",
        "replaykit exchanges traffic.pcap --format jsonl | head",
    ),
    "verify": (
        "replaykit verify traffic.pcap",
        "replaykit verify traffic.pcap --with tshark",
        "replaykit verify samples/shop.pcap.gz --format json",
    ),
    "demo": ("replaykit demo --directory demo",),
}
