"""`replaykit anomalies`: bandwidth that the past does not explain."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any, Literal

from replaykit.archive.partitions import parse_time
from replaykit.attribution.anomalies import Detector, forecast
from replaykit.config.kinds import Text
from replaykit.config.options import Option, Options, Whole
from replaykit.errors import UsageError
from replaykit.plain import emit, json_text, out
from replaykit.rules.sources import HOUR_NS, ElasticSource, ParquetSource, open_source
from replaykit.units import parse_duration, rfc3339, show_size

EXAMPLES = (
    "replaykit anomalies archive/ --days 28",
    "replaykit anomalies elasticsearch://127.0.0.1:9200 --by host",
    "replaykit anomalies s3://traffic/web/ --by host --until 2026-11-21 --format json",
)
DAY_NS = 24 * HOUR_NS


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


def run(args: AnomaliesOptions) -> int:
    step_ns = int(parse_duration(args.step) * 1e9)
    judged_ns = int(parse_duration(args.judge) * 1e9)
    if args.days < 3:
        raise UsageError("--days: a season needs at least 3 days to be seen")
    if step_ns < 60 * 10**9 or DAY_NS % step_ns:
        raise UsageError(f"--step {args.step}: statistics are by minute; give a part of a day such as 5m")
    until = parse_time("--until", args.until) // step_ns * step_ns
    since = until - judged_ns - args.days * DAY_NS
    series, first = _series(open_source(args.place), args.by, since, until, step_ns)
    known = max(first, since)
    learned = (until - judged_ns - known) // step_ns
    day = DAY_NS // step_ns
    if learned < 3 * day:
        raise UsageError(
            f"{args.place}: {max(learned, 0) / day:.1f} days before what is to be judged; at least 3 are needed"
        )
    lines: list[dict[str, Any]] = []
    for name in sorted(series, key=lambda n: -sum(series[n].values()))[: args.top]:
        values = [
            series[name].get(n, 0.0) for n in range((known - since) // step_ns, (until - since) // step_ns)
        ]
        whole = learned - learned % day
        values = values[learned - whole :]
        detector = Detector(forecast(args.forecast, (day, 7 * day)), day, args.days)
        detector.learn(values[:whole])
        for n, value in enumerate(values[whole:]):
            found = detector.judge(value)
            if found.anomaly:
                at = until - judged_ns + n * step_ns
                lines.append(
                    {
                        "time": rfc3339(at),
                        args.by: name,
                        "bytes": value,
                        "expected_bytes": round(found.expected),
                        "deviations": round(found.deviations, 1),
                    }
                )
    for line in sorted(lines, key=lambda one: str(one["time"])):
        if args.format == "json":
            emit(json_text(line) + "\n")
        else:
            out(
                f"{str(line['time'])[:16]}  {line[args.by]}  {show_size(line['bytes'])}, expected {show_size(line['expected_bytes'])} ({line['deviations']:+} deviations)"
            )
    return 0


def _series(
    source: ParquetSource | ElasticSource, by: str, since: int, until: int, step_ns: int
) -> tuple[dict[str, dict[int, float]], int]:
    """For each group step numbers to bytes, and when the data begins."""
    out: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    first = (until - since) // step_ns
    for step, name, size in source.moved(by, since, until, step_ns):
        first = min(first, step)
        out["(unknown)" if name is None else name][step] += size
    return out, since + first * step_ns
