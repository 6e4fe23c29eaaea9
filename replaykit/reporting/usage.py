"""Usage as people and programs read it: a table, JSON, CSV, a page and a picture."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any

from replaykit.extras import needs
from replaykit.ledger import calendar
from replaykit.ledger.history import Gap, Sum
from replaykit.records.usage import COUNTERS
from replaykit.reporting.render import records_as_csv
from replaykit.reporting.terminal import PlainTable
from replaykit.units import show_size

_LINES = 8
COLORS = ["#b35900", "#0b62c4", "#2e9e6b", "#c2416b", "#7a5bd0", "#1798a8", "#b5a11a", "#7d8590", "#a3aab5"]
"""The page's."""
_MOST_BARS = 20_000
_LINES_OF_GAPS = 10
_NAMES = {"hour": "%Y-%m-%d %H:%M %z", "minute": "%Y-%m-%d %H:%M", "day": "%Y-%m-%d", "month": "%Y-%m"}


def named(row: Sum) -> str:
    """The subject, and the name that its labels give it: `101 web`."""
    name = row.labels.get("name", "")
    return f"{row.subject} {name}" if name and name != row.subject else row.subject


def scale(most: float) -> tuple[float, str]:
    """What to divide bytes by, and the unit, so that a chart's numbers are short."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if most >= factor:
            return factor, unit
    return 1.0, "B"


def moved(row: Sum, direction: str) -> int:
    """Bytes in a direction; rx and tx are seen from the subject."""
    return row.rx_bytes if direction == "rx" else row.tx_bytes if direction == "tx" else row.bytes


def records(rows: Sequence[Sum], zone: tzinfo) -> list[dict[str, Any]]:
    """Plain values: times as RFC 3339 in the zone, counters, `total_bytes`."""
    out = []
    for row in rows:
        found = row._asdict()
        for name in ("time", "until"):
            found[name] = datetime.fromtimestamp(found[name], zone).isoformat()
        out.append({**found, "total_bytes": row.bytes})
    return out


def gap_records(gaps: Sequence[Gap], zone: tzinfo) -> list[dict[str, Any]]:
    """Plain values: times as RFC 3339 in the zone, how many subjects, and one of them."""
    return [
        {
            **gap._asdict(),
            "since": datetime.fromtimestamp(gap.since, zone).isoformat(),
            "until": datetime.fromtimestamp(gap.until, zone).isoformat(),
        }
        for gap in gaps
    ]


def unread(rows: Sequence[Sum], gaps: Sequence[Gap]) -> set[int]:
    """The buckets, by their start, of which half or more lies between two readings: their sums are by an even
    share.
    """
    covered: dict[int, int] = {}
    for time, until in {(r.time, r.until) for r in rows}:
        for gap in gaps:
            covered[time] = covered.get(time, 0) + max(0, min(until, gap.until) - max(time, gap.since))
    return {r.time for r in rows if 2 * covered.get(r.time, 0) >= r.until - r.time}


def in_words(gaps: Sequence[Gap], zone: tzinfo) -> list[str]:
    """A line a gap, the newest first, of the last ten."""
    lines = []
    for gap in sorted(gaps, reverse=True)[:_LINES_OF_GAPS]:
        since, until = (datetime.fromtimestamp(t, zone) for t in (gap.since, gap.until))
        end = f"{until:%H:%M}" if since.date() == until.date() else f"{until:%Y-%m-%d %H:%M}"
        who = gap.subject if gap.subjects == 1 else f"{gap.subjects:,} subjects"
        lines.append(f"no readings from {since:%Y-%m-%d %H:%M} to {end} ({who}): shown evenly")
    return lines


def as_json(rows: Sequence[Sum], zone: tzinfo, about: Mapping[str, Any], gaps: Sequence[Gap] = ()) -> str:
    summary = {
        "subjects": len({(r.vantage, r.subject_kind, r.subject) for r in rows}),
        **{name: sum(getattr(r, name) for r in rows) for name in COUNTERS},
        "total_bytes": sum(r.bytes for r in rows),
    }
    found = {**about, "summary": summary, "rows": records(rows, zone), "gaps": gap_records(gaps, zone)}
    return json.dumps(found, indent=2, ensure_ascii=False)


def as_csv(rows: Sequence[Sum], zone: tzinfo) -> str:
    names = ["time", "until", "vantage", "subject_kind", "subject", "labels", *COUNTERS, "total_bytes"]
    data = [
        {**r, "labels": json.dumps(r["labels"], ensure_ascii=False) if r["labels"] else ""}
        for r in records(rows, zone)
    ]
    return records_as_csv(data, names)


def table(
    rows: Sequence[Sum], zone: tzinfo, period: str | None, direction: str, gaps: Sequence[Gap] = ()
) -> PlainTable:
    """For a terminal. period: None for sums of one span."""
    caption = "\n".join([*in_words(gaps, zone), f"times: {zone}"])
    out = PlainTable(caption=caption)
    if period is not None:
        out.add_column(period, no_wrap=True)
    out.add_column("kind", no_wrap=True)
    out.add_column("subject", overflow="fold", min_width=12)
    counts = [name for name in ("requests", "connections") if any(getattr(r, name) for r in rows)]
    for name in ("share", "total", "received", "sent", *counts):
        out.add_column(name, justify="right", no_wrap=True)
    whole: dict[int, int] = {}
    for row in rows:
        whole[row.time] = whole.get(row.time, 0) + moved(row, direction)
    shown = None
    for row in rows:
        when = label(row.time, zone, period) if period is not None else ""
        cells = [] if period is None else ["" if when == shown else when]
        shown = when
        share = moved(row, direction) / (whole[row.time] or 1)
        out.add_row(
            *cells,
            row.subject_kind,
            named(row) or "(all)",
            f"{share:.1%}",
            show_size(moved(row, direction)),
            show_size(row.rx_bytes),
            show_size(row.tx_bytes),
            *(f"{getattr(row, n):,}" for n in counts),
        )
    return out


def label(time: int, zone: tzinfo, period: str) -> str:
    """A bucket's start, as short as its length allows."""
    return datetime.fromtimestamp(time, zone).strftime(_NAMES[period])


def series(
    rows: Sequence[Sum], direction: str, period: str, zone: tzinfo
) -> tuple[list[int], dict[str, list[int]]]:
    """Every bucket's start from the first to the last, and for each of the largest subjects its bytes at
    each; the rest as `(other)`.

    Of one subject alone there are two lines: received and sent.
    """
    times = sorted({r.time for r in rows})
    if times:
        between = calendar.buckets(period, times[0], times[-1] + 1, zone)
        times = sorted({*times, *between}) if len(between) <= _MOST_BARS else times
    at = {time: i for i, time in enumerate(times)}
    if direction == "both" and len({(r.vantage, r.subject_kind, r.subject) for r in rows}) == 1:
        lines = {"received": [0] * len(times), "sent": [0] * len(times)}
        for row in rows:
            lines["received"][at[row.time]] += row.rx_bytes
            lines["sent"][at[row.time]] += row.tx_bytes
        return times, lines
    sums: dict[str, int] = {}
    for row in rows:
        sums[named(row)] = sums.get(named(row), 0) + moved(row, direction)
    largest = sorted(sums, key=lambda n: (-sums[n], n))[:_LINES]
    lines = {name: [0] * len(times) for name in largest}
    for row in rows:
        line = lines.get(named(row))
        if line is None:
            line = lines.setdefault("(other)", [0] * len(times))
        line[at[row.time]] += moved(row, direction)
    return times, lines


def as_png(
    rows: Sequence[Sum],
    zone: tzinfo,
    period: str,
    direction: str,
    title: str,
    dark: bool,
    gaps: Sequence[Gap] = (),
) -> bytes:
    """A stacked bar a bucket. Raises UsageError where the library is missing."""
    try:
        import matplotlib
    except ImportError:
        raise needs("pictures need matplotlib", "charts") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    times, lines = series(rows, direction, period, zone)
    with pyplot.style.context("dark_background" if dark else "default"):
        figure, axes = pyplot.subplots(figsize=(11, 4.5), layout="constrained")
        below = [0.0] * len(times)
        factor, unit = scale(max(map(sum, zip(*lines.values(), strict=True)), default=0))
        axes.set_prop_cycle(color=COLORS)
        places = range(len(times))
        for name, values in lines.items():
            scaled = [v / factor for v in values]
            axes.bar(places, scaled, bottom=below, label=_plain(name or "all"), width=0.8)
            below = [a + b for a, b in zip(below, scaled, strict=True)]
        hatched = unread(rows, gaps)
        for n, time in enumerate(times):
            if time in hatched:
                axes.axvspan(n - 0.5, n + 0.5, alpha=0.25, color="grey", hatch="//", linewidth=0)
        if gaps:
            figure.text(0.01, 0.005, in_words(gaps, zone)[0], fontsize=7)
        step = max(1, len(times) // 12)
        axes.set_xticks(
            list(places)[::step], [label(t, zone, period) for t in times[::step]], rotation=30, ha="right"
        )
        axes.set_ylabel(unit)
        axes.set_xlabel(f"times: {zone}")
        axes.set_title(title.replace("$", r"\$"))
        axes.spines[["top", "right"]].set_visible(False)
        if lines:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=110)
        pyplot.close(figure)
    return out.getvalue()


def _plain(text: str) -> str:
    """A name is not a formula, and a legend hides what begins with an underscore."""
    short = text if len(text) <= 40 else text[:39] + "…"
    return short.replace("$", r"\$").lstrip("_") or "_"
