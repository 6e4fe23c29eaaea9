"""Usage as a page: one file that opens offline, with a chart to zoom, point at and choose from, and the table
under it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import tzinfo
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader

from replaykit.ledger.history import Gap, Sum
from replaykit.reporting.usage import COLORS, in_words, label, moved, named, scale, series, unread
from replaykit.units import show_size

_HATCHED = {
    "opacity": 0.55,
    "decal": {"symbol": "rect", "dashArrayX": [1, 0], "dashArrayY": [2, 5], "rotation": -0.785},
}


def as_html(
    rows: Sequence[Sum],
    zone: tzinfo,
    period: str,
    direction: str,
    title: str,
    dark: bool,
    gaps: Sequence[Gap] = (),
) -> str:
    """The page; the chart's library is in it, and names of subjects are text wherever they stand."""
    times, lines = series(rows, direction, period, zone)
    ink, paper, rule = ("#e6e6e6", "#16181d", "#3a3f47") if dark else ("#1c1f24", "#ffffff", "#d5d9e0")
    page = Environment(loader=PackageLoader("replaykit.reporting", ""), autoescape=True).get_template(
        "usage.html"
    )
    return page.render(
        title=title,
        ink=ink,
        paper=paper,
        rule=rule,
        notes=in_words(gaps, zone),
        heads=(period, "kind", "subject", "total", "received", "sent", "requests"),
        rows=[
            (
                label(r.time, zone, period),
                r.subject_kind,
                named(r) or "(all)",
                show_size(moved(r, direction)),
                show_size(r.rx_bytes),
                show_size(r.tx_bytes),
                f"{r.requests:,}",
            )
            for r in rows
        ],
        zone=zone,
        library=(resources.files("replaykit") / "web" / "static" / "vendor" / "echarts.js").read_text(),
        chart=_chart([label(t, zone, period) for t in times], times, lines, unread(rows, gaps), ink, rule),
    )


def _chart(
    names: Sequence[str],
    times: Sequence[int],
    lines: Mapping[str, Sequence[int]],
    hatched: Collection[int],
    ink: str,
    rule: str,
) -> dict[str, Any]:
    """A stacked bar a bucket, as ECharts wants it."""
    factor, unit = scale(max(map(sum, zip(*lines.values(), strict=True)), default=0))
    return {
        "animation": False,
        "color": COLORS,
        "textStyle": {"color": ink},
        "legend": {"type": "scroll", "left": 0, "right": 140, "textStyle": {"color": ink}},
        "tooltip": {"trigger": "axis", "axisPointer": {"type": "shadow"}},
        "grid": {"left": 20, "right": 20, "bottom": 60, "containLabel": True},
        "dataZoom": [{"type": "slider"}, {"type": "inside"}],
        "toolbox": {"feature": {"saveAsImage": {}, "magicType": {"type": ["line", "bar", "stack"]}}},
        "xAxis": {"type": "category", "data": list(names), "axisLabel": {"color": ink}},
        "yAxis": {
            "type": "value",
            "name": unit,
            "nameTextStyle": {"color": ink},
            "axisLabel": {"color": ink},
            "splitLine": {"lineStyle": {"color": rule}},
        },
        "series": [
            {
                "name": name or "all",
                "type": "bar",
                "stack": "all",
                "data": [
                    (
                        {"value": round(v / factor, 6), "itemStyle": _HATCHED}
                        if t in hatched
                        else round(v / factor, 6)
                    )
                    for t, v in zip(times, values, strict=True)
                ],
            }
            for name, values in lines.items()
        ],
    }
