"""A summary as people and programs read it: a table, JSON, CSV; and the line of conservation."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from replaykit.attribution.sizes import show_ns, show_size
from replaykit.attribution.summary import Group, Key, Summary, percentile
from replaykit.plain import csv_cell, json_text
from replaykit.report.terminal import PlainTable

FORMATS = ("table", "json", "csv")

_SIZES = (
    "request_header_bytes", "request_body_bytes", "response_header_bytes", "response_body_bytes",
    "request_wire_bytes", "response_wire_bytes", "link_bytes", "overhead_bytes", "retransmitted_bytes",
)  # fmt: skip
_PERCENTILES = (("p50", 0.50), ("p95", 0.95), ("p99", 0.99))


def rows(summary: Summary, top: int | None) -> list[dict[str, Any]]:
    """One dictionary a key, largest first: counts, sizes in bytes, `share` of 1, percentiles."""
    total = summary.total.bytes(summary.measure) or 1
    return [_row(summary.by, key, group, total, summary.measure) for key, group in summary.top(top)]


def _row(by: Sequence[str], key: Key, group: Group, total: float, measure: str) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(by, key, strict=True))
    row["requests"] = round(group.requests)
    for name in _SIZES:
        row[name] = round(getattr(group, name))
    row["share"] = round(group.bytes(measure) / total, 6)
    row["incomplete"] = round(group.incomplete)
    for name, share in _PERCENTILES:
        size, latency = percentile(group.sizes, share), percentile(group.latencies, share)
        row[f"size_{name}_bytes"] = None if size is None else round(size)
        row[f"duration_{name}_ns"] = None if latency is None else round(latency)
    return row


def table(summary: Summary, top: int | None, title: str | None = None) -> PlainTable:
    """The summary for a terminal."""
    out = PlainTable(title=title)
    for name in summary.by:
        out.add_column(name.replace("_", " "), overflow="fold", min_width=12)
    for name in (
        "requests", "share", f"total\n({summary.measure})", "request\nhead", "\nbody", "response\nhead", "\nbody", "over-\nhead",
        "size\np50", "\np95", "time\np50", "\np95", "\np99",
    ):  # fmt: skip
        out.add_column(name, justify="right", no_wrap=True)
    for row, (_, group) in zip(rows(summary, top), summary.top(top), strict=True):
        times = [row[f"duration_{p}_ns"] for p, _ in _PERCENTILES]
        out.add_row(
            *(row[name] for name in summary.by),
            f"{row['requests']:,}",
            f"{row['share']:.1%}",
            show_size(group.bytes(summary.measure)),
            show_size(row["request_header_bytes"]),
            show_size(row["request_body_bytes"]),
            show_size(row["response_header_bytes"]),
            show_size(row["response_body_bytes"]),
            show_size(row["overhead_bytes"]),
            show_size(row["size_p50_bytes"] or 0),
            show_size(row["size_p95_bytes"] or 0),
            *("-" if t is None else show_ns(t) for t in times),
        )
    return out


def as_csv(summary: Summary, top: int | None) -> str:
    return records_as_csv(rows(summary, top), [*summary.by, "requests"])


def records_as_csv(data: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> str:
    """Records with the same fields; `names` where there is none."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(data[0]) if data else names)
    writer.writeheader()
    writer.writerows({n: csv_cell(v) if isinstance(v, str) else v for n, v in row.items()} for row in data)
    return out.getvalue()


def savings_table(data: Sequence[Mapping[str, Any]]) -> PlainTable:
    """What could be spared, for a terminal."""
    out = PlainTable()
    out.add_column("endpoint", overflow="fold", min_width=12)
    for name in (
        "responses", "bodies", "sent\nplain", "gzip\nspares", "br\nspares", "sent again\nunchanged", "\nbytes",
        "repeated\nwithin 1 s", "\nbytes",
    ):  # fmt: skip
        out.add_column(name, justify="right", no_wrap=True)
    for row in data:
        out.add_row(
            row["endpoint"],
            f"{row['responses']:,}",
            *(
                show_size(row[n])
                for n in ("response_body_bytes", "uncompressed_bytes", "gzip_spared_bytes", "br_spared_bytes")
            ),
            f"{row['unchanged']:,}",
            show_size(row["unchanged_bytes"]),
            f"{row['repeated_within_1s']:,}",
            show_size(row["repeated_bytes"]),
        )
    return out


def as_json(
    summary: Summary, top: int | None, account: Mapping[str, int] | None, about: Mapping[str, Any]
) -> str:
    """`rows`, `total`, and where packets were read the `account`: its causes sum up to its bytes."""
    total = _row((), (), summary.total, summary.total.bytes(summary.measure) or 1, summary.measure)
    document: dict[str, Any] = {
        **about,
        "measure": summary.measure,
        "by": list(summary.by),
        "rows": rows(summary, top),
        "total": total,
    }
    if account is not None:
        document["account"] = dict(account)
    return json_text(document, indent=2)


def stats_line(summary: Summary, top: int, extra: Mapping[str, Any]) -> str:
    """One JSON line with at least the fields of document 003; KB are 1024 bytes, MB 1024 KB."""
    total = summary.total
    endpoints = [
        {
            "path": key[0],
            "bandwidth_mb": round(group.wire_bytes / 1024 / 1024, 3),
            "requests": round(group.requests),
        }
        for key, group in summary.top(top)
    ]
    line = {
        **extra,
        "measure": "wire",
        "total_requests": round(total.requests),
        "avg_request_size": round(total.request_wire_bytes / total.requests / 1024, 3)
        if total.requests
        else 0,
        "max_request_size": round(total.max_request_bytes / 1024, 3),
        "avg_response_size": round(total.response_wire_bytes / total.requests / 1024, 3)
        if total.requests
        else 0,
        "max_response_size": round(total.max_response_bytes / 1024, 3),
        "total_mb": round(total.wire_bytes / 1024 / 1024, 3),
        "top_endpoints": endpoints,
    }
    return json_text(line)
