"""A summary as people and programs read it: a table, JSON, CSV; and the line of conservation."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

from replaykit.attribution.summary import Group, Key, Summary, percentile
from replaykit.plain import csv_cell, json_text, visible
from replaykit.reporting.terminal import PlainTable
from replaykit.units import show_ns, show_size

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


class Rates:
    """Bytes a second of each key in a window of time; `recent`: all that moved in it."""

    def __init__(self, recent: Summary, window_s: float) -> None:
        self.window_s = window_s
        self._moved = {key: group.bytes(recent.measure) for key, group in recent.top()}
        self.total = recent.total.bytes(recent.measure) / window_s

    def of(self, key: Key) -> float:
        return self._moved.get(key, 0) / self.window_s


_LEAST_KEY = 24
"""Columns of a terminal that the first key is never squeezed below."""
_KEY = 48
"""What it may take before numbers that matter less."""
_BETWEEN = 2


def table(
    summary: Summary, top: int | None, width: int | None = None, rates: Rates | None = None
) -> PlainTable:
    """The summary for a person. rates: have a column of their own.

    width: of the terminal, in columns; what does not fit is left out and named. None: all.
    """
    found = list(zip(rows(summary, top), summary.top(top), strict=True))
    data = {
        name: [name, *(one(row, group, summary.measure) for row, (_, group) in found)]
        for name, one in _COLUMNS.items()
    }
    if rates is not None:
        shown = [f"{show_size(rates.of(key))}/s" for key, _ in summary.top(top)]
        data = {"total": data.pop("total"), "now": ["now", *shown], **data}
    heads = {name: name if name != "total" else f"total\n({summary.measure})" for name in data}
    heads |= {name: head for name, head in _HEADS.items() if name in data}
    keys = [[visible(row[by]) for row, _ in found] for by in summary.by]
    chosen, left_out = list(data), []
    if width is not None:
        needed = {
            n: max(cell_len(t) for t in (*_ALONE.get(n, heads[n]).split("\n"), *data[n][1:])) + _BETWEEN
            for n in data
        }
        wide = [
            max([cell_len(by), *map(cell_len, texts)]) for by, texts in zip(summary.by, keys, strict=True)
        ]
        chosen, room = _fitting(needed, wide, width)
        left_out = [n for n in data if n not in chosen]
        keys = [[cut(text, most) for text in texts] for texts, most in zip(keys, room, strict=True)]
    out = PlainTable(
        caption=f"\nmore columns in a wider terminal or a pipe: {', '.join(left_out)}" if left_out else None
    )
    for by in summary.by:
        out.add_column(by.replace("_", " "), no_wrap=True)
    for name in chosen:
        head = _ALONE.get(name, heads[name]) if left_out else heads[name]
        out.add_column(head, justify="right", no_wrap=True)
    for at in range(len(found)):
        out.add_row(*(texts[at] for texts in keys), *(data[name][at + 1] for name in chosen))
    return out


def _fitting(needed: Mapping[str, int], wide: Sequence[int], width: int) -> tuple[list[str], list[int]]:
    """The columns that fit beside the keys, which are `wide`; and how wide the keys may be.

    What matters most comes first; then the first key has its whole name, up to _KEY; then the other numbers.
    """
    keys = [min(w, _LEAST_KEY) for w in wide]
    room = width - sum(keys) - _BETWEEN * (len(keys) - 1)
    chosen: set[str] = set()
    for n, name in enumerate(name for name in _MATTERS if name in needed):
        if n == _ESSENTIAL:
            more = min(max(min(wide[0], _KEY) - keys[0], 0), max(room, 0))
            keys[0], room = keys[0] + more, room - more
        if needed[name] > room:
            break
        room -= needed[name]
        chosen.add(name)
    keys[0] += max(room, 0)
    return [n for n in needed if n in chosen], keys


def cut(text: str, most: int) -> str:
    """At most so many columns of a terminal; what is too long loses its middle, since ends tell names
    apart.
    """
    if cell_len(text) <= most:
        return text
    head = set_cell_size(text, (most - 1) // 2).rstrip()
    tail = text
    while cell_len(tail) > most - 1 - cell_len(head):
        tail = tail[1:]
    return f"{head}…{tail}"


def _time(name: str) -> Callable[[dict[str, Any], Group, str], str]:
    return lambda row, group, measure: "-" if row[name] is None else show_ns(row[name])


def _size(name: str) -> Callable[[dict[str, Any], Group, str], str]:
    return lambda row, group, measure: show_size(row[name] or 0)


_COLUMNS: dict[str, Callable[[dict[str, Any], Group, str], str]] = {
    "requests": lambda row, group, measure: f"{row['requests']:,}",
    "share": lambda row, group, measure: f"{row['share']:.1%}",
    "total": lambda row, group, measure: show_size(group.bytes(measure)),
    "request head": _size("request_header_bytes"),
    "request body": _size("request_body_bytes"),
    "response head": _size("response_header_bytes"),
    "response body": _size("response_body_bytes"),
    "overhead": _size("overhead_bytes"),
    "size p50": _size("size_p50_bytes"),
    "size p95": _size("size_p95_bytes"),
    "time p50": _time("duration_p50_ns"),
    "time p95": _time("duration_p95_ns"),
    "time p99": _time("duration_p99_ns"),
}
"""In the order in which they are shown."""
_HEADS = {
    "request head": "request\nhead", "request body": "\nbody", "response head": "response\nhead",
    "response body": "\nbody", "overhead": "over-\nhead", "size p50": "size\np50", "size p95": "\np95",
    "time p50": "time\np50", "time p95": "\np95", "time p99": "\np99",
}  # fmt: skip
_ALONE = {name: name.replace(" ", "\n") for name in _HEADS if " " in name}
"""Where its neighbours may be left out, a column has its whole name."""
_MATTERS = (
    "total", "now", "share", "requests", "size p95", "time p95", "response body", "request body", "time p50",
    "size p50", "response head", "request head", "overhead", "time p99",
)  # fmt: skip
"""What is left out last comes first."""
_ESSENTIAL = 5
"""So many of them come before whole names."""


def over_table(data: Sequence[Mapping[str, Any]], by: Sequence[str], measure: str) -> PlainTable:
    """Keys in slices of time, for a terminal; a slice's time stands on its first line."""
    out = PlainTable(caption="times: UTC")
    out.add_column("from", no_wrap=True)
    for name in by:
        out.add_column(name.replace("_", " "), overflow="fold", min_width=12)
    for name in ("requests", f"moved ({measure})", "rate"):
        out.add_column(name, justify="right", no_wrap=True)
    before = None
    for row in data:
        shown = "" if row["time"] == before else row["time"][:23].replace("T", " ")
        before = row["time"]
        out.add_row(
            shown,
            *(visible(row[name]) for name in by),
            f"{row['requests']:,}",
            show_size(row["bytes"]),
            f"{show_size(row['bytes_per_second'])}/s",
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
        "responses",
        "bodies",
        "sent\nplain",
        "gzip\nspares",
        "br\nspares",
        "sent again\nunchanged",
        "\nbytes",
        "repeated\nwithin 1 s",
        "\nbytes",
    ):
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


def stats_line(summary: Summary, top: int, extra: Mapping[str, Any], rates: Rates | None = None) -> str:
    """One JSON line; KB are 1024 bytes, MB 1024 KB. rates: of a window that is named."""
    total = summary.total
    endpoints = [
        {
            "path": key[0],
            "bandwidth_mb": round(group.wire_bytes / 1024 / 1024, 3),
            "requests": round(group.requests),
            **({} if rates is None else {"bytes_per_second": round(rates.of(key))}),
        }
        for key, group in summary.top(top)
    ]
    if rates is not None:
        extra = {**extra, "window_seconds": round(rates.window_s, 3), "bytes_per_second": round(rates.total)}
    line = {
        **extra,
        "measure": "wire",
        "total_requests": round(total.requests),
        "avg_request_size": (
            round(total.request_wire_bytes / total.requests / 1024, 3) if total.requests else 0
        ),
        "max_request_size": round(total.max_request_bytes / 1024, 3),
        "avg_response_size": (
            round(total.response_wire_bytes / total.requests / 1024, 3) if total.requests else 0
        ),
        "max_response_size": round(total.max_response_bytes / 1024, 3),
        "total_mb": round(total.wire_bytes / 1024 / 1024, 3),
        "top_endpoints": endpoints,
    }
    return json_text(line)
