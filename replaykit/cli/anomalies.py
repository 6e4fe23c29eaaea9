"""`replaykit anomalies`: bandwidth that the past does not explain."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from replaykit.archive.partitions import parse_time
from replaykit.attribution.anomalies import Detector, forecast
from replaykit.cli.options.over_time import AnomaliesOptions
from replaykit.errors import UsageError
from replaykit.plain import emit, json_text, out
from replaykit.rules.sources import HOUR_NS, ElasticSource, ParquetSource, open_source
from replaykit.units import parse_duration, rfc3339, show_size

DAY_NS = 24 * HOUR_NS


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
            f"{args.place}: {max(learned, 0) / day:.1f} days before what is to be judged; at least 3 are"
            " needed"
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
                f"{str(line['time'])[:16]}  {line[args.by]}  {show_size(line['bytes'])}, expected"
                f" {show_size(line['expected_bytes'])} ({line['deviations']:+} deviations)"
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
