"""Exchanges, statistics by minute, and hosts as documents of the Elastic Common Schema (ECS 8).

Owns the names (what ECS has no name for is in the group `replaykit.*`), and a document's id: it depends
on the exchange alone, so what is sent twice counts once. Documents are made column by column.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.attribution.minutes import SUMS, by_minute
from replaykit.engine.account import COUNTERS
from replaykit.outputs.jsonlines import encode
from replaykit.units import rfc3339

VERSION = "8.17.0"

# Column: field. Sizes in bytes, `event.duration` and *_ns in ns.
FIELDS = {
    "client_ip": "source.ip",
    "client_port": "source.port",
    "request_wire_bytes": "source.bytes",
    "request_packets": "source.packets",
    "server_ip": "destination.ip",
    "server_port": "destination.port",
    "response_wire_bytes": "destination.bytes",
    "response_packets": "destination.packets",
    "protocol": "network.protocol",
    "method": "http.request.method",
    "request_body_bytes": "http.request.body.bytes",
    "status": "http.response.status_code",
    "response_body_bytes": "http.response.body.bytes",
    "content_type": "http.response.mime_type",
    "scheme": "url.scheme",
    "host": "url.domain",
    "path": "url.path",
    "target": "url.original",
    "duration_ns": "event.duration",
    "trace_id": "trace.id",
}
OWN = (
    "endpoint", "weight", "complete", "missing_bytes", "request_header_bytes", "response_header_bytes",
    "link_bytes", "retransmitted_bytes", "first_byte_ns", "content_encoding", "connection", "stream",
    "anomaly", "alpn", "proxy_ip", "proxy_port", "grpc_status", "request_messages", "response_messages",
    "request_decoded_bytes", "response_decoded_bytes",
)  # fmt: skip
_IDENTITY = (
    "time", "response_time", "client_ip", "client_port", "server_ip", "server_port", "stream", "protocol",
    "method", "target", "status", "request_wire_bytes", "response_wire_bytes",
)  # fmt: skip

_CONSTANT = {"ecs": {"version": VERSION}}
_CATEGORY = ["network", "web"]


def mappings(what: str) -> dict[str, Any]:
    """The fields of `exchanges`, `minutes` or `hosts`, as a component template holds them; nothing else is
    indexed.
    """
    kinds: dict[str, Any] = {
        "@timestamp": {"type": "date_nanos"},
        "event.kind": _KEYWORD,
        "event.category": _KEYWORD,
        "event.id": _KEYWORD,
        "ecs.version": _KEYWORD,
        "observer.name": _KEYWORD,
        "observer.product": _KEYWORD,
    } | {"exchanges": _exchange_kinds, "minutes": _minute_kinds, "hosts": _host_kinds}[what]()
    root: dict[str, Any] = {}
    for name, kind in kinds.items():
        at, parts = root, name.split(".")
        for part in parts[:-1]:
            at = at.setdefault(part, {"properties": {}})["properties"]
        at[parts[-1]] = kind
    return {"dynamic": False, "properties": root}


_KEYWORD = {"type": "keyword", "ignore_above": 1024}
_LONG, _DOUBLE = {"type": "long"}, {"type": "double"}
_NUMBERS = ("bytes", "packets", "duration", "code", "_ns", "messages", "connection", "stream", "grpc_status")


def _exchange_kinds() -> dict[str, Any]:
    kinds: dict[str, Any] = {
        "event.end": {"type": "date_nanos"},
        "network.transport": _KEYWORD,
        "network.bytes": _LONG,
        "http.version": _KEYWORD,
        "replaykit.bytes": _DOUBLE,
        "replaykit.weight": _DOUBLE,
        "replaykit.complete": {"type": "boolean"},
    }
    for name in [*FIELDS.values(), *(f"replaykit.{name}" for name in OWN)]:
        if name.endswith(".ip"):
            kind: dict[str, Any] = {"type": "ip"}
        elif name.endswith(".port"):
            kind = {"type": "integer"}
        else:
            kind = _LONG if name.endswith(_NUMBERS) else _KEYWORD
        kinds.setdefault(name, kind)
    return kinds


def _minute_kinds() -> dict[str, Any]:
    keys = dict.fromkeys(("url.domain", "http.request.method", "replaykit.endpoint"), _KEYWORD)
    sums = dict.fromkeys(
        ("source.bytes", "destination.bytes", "network.bytes", *(f"replaykit.{n}" for n in SUMS)), _DOUBLE
    )
    return {**keys, **sums, "http.response.status_code": _LONG, "replaykit.duration_max_ns": _LONG}


def _host_kinds() -> dict[str, Any]:
    counts = (
        "capture.packets", "capture.drops", "spool.waiting_bytes", "spool.sent", "spool.refused",
        "spool.dropped", *(f"account.{name}" for name in COUNTERS),
    )  # fmt: skip
    return {f"replaykit.{name}": _LONG for name in counts} | {"replaykit.run": _KEYWORD}


@dataclass(frozen=True)
class Documents:
    """ids: what makes a repeat count once. days: `2026.11.25`, of each document. lines: JSON."""

    ids: list[str]
    days: list[str]
    lines: list[bytes]


def exchanges(
    batch: pa.RecordBatch, observer: str, ids: list[str] | None = None, with_id: bool = False
) -> Documents:
    """A document an exchange. observer: this host's name. ids: those of `identities`, where known.

    with_id: the id is part of the document too, as `event.id`.
    """
    ids = identities(batch) if ids is None else ids
    stamp = _stamp(batch)
    column = batch.column
    size = pc.add(_or_zero(column("request_wire_bytes")), _or_zero(column("response_wire_bytes")))
    weight = column("weight")
    plain = pc.max(weight).as_py() == 1
    protocol = _plain(column("protocol"))
    version = pc.case_when(
        pc.make_struct(pc.starts_with(protocol, "http/"), pc.equal(protocol, "h2")),
        pc.utf8_slice_codeunits(protocol, 5),
        "2",
    )
    end = pc.add(stamp, pc.cast(column("duration_ns"), pa.duration("ns")))
    event: dict[str, Any] = {"kind": "event", "category": _CATEGORY, "end": end}
    if with_id:
        event["id"] = pa.array(ids)
    tree: dict[str, Any] = {
        "@timestamp": stamp,
        **_CONSTANT,
        "event": event,
        "observer": {"name": observer, "product": "replaykit"},
        "network": {"transport": "tcp", "bytes": size},
        "http": {"version": version},
        "replaykit": (
            {"bytes": size if plain else pc.multiply(pc.cast(size, pa.float64()), weight)}
            | {
                name: pc.cast(weight, pa.int64()) if plain and name == "weight" else column(name)
                for name in OWN
            }
        ),
    }
    for name, field in FIELDS.items():
        at, parts = tree, field.split(".")
        for part in parts[:-1]:
            at = at.setdefault(part, {})
        at[parts[-1]] = column(name)
    return Documents(ids, _days(stamp), encode(tree).cast(pa.binary()).to_pylist())


def minutes(batch: pa.RecordBatch, observer: str, ids: list[str] | None = None) -> Documents:
    """A document for each minute, endpoint, host, method and status of the batch: its part of the sums.

    The id depends on the exchanges that are summed up, so a part that is sent again counts once.
    """
    found = by_minute(batch, ids or identities(batch))
    text = pc.binary_join_element_wise(
        *(
            found.column(name).cast(pa.string())
            for name in ("minute", "endpoint", "host", "method", "status", "check")
        ),
        "\x1f",
        null_handling="replace",
        null_replacement="",
    )
    names = [_digest(f"{observer}\x1f{one}".encode()) for one in text.to_pylist()]
    column = found.column
    tree = {
        "@timestamp": column("minute"),
        **_CONSTANT,
        "event": {"kind": "metric", "category": _CATEGORY},
        "observer": {"name": observer, "product": "replaykit"},
        "url": {"domain": column("host")},
        "http": {"request": {"method": column("method")}, "response": {"status_code": column("status")}},
        "source": {"bytes": column("request_wire_bytes")},
        "destination": {"bytes": column("response_wire_bytes")},
        "network": {"bytes": pc.add(column("request_wire_bytes"), column("response_wire_bytes"))},
        "replaykit": (
            {"endpoint": column("endpoint"), "duration_max_ns": column("duration_max_ns")}
            | {name: column(name) for name in SUMS}
        ),
    }
    return Documents(names, _days(column("minute")), encode(tree).cast(pa.binary()).to_pylist())


def host(time_ns: int, observer: str, run: str, status: Mapping[str, Any]) -> Documents:
    """What a capturing host's counters grew by. status: groups `capture`, `spool`, `account` of numbers."""
    document = {
        "@timestamp": rfc3339(time_ns),
        **_CONSTANT,
        "event": {"kind": "metric", "category": ["host"]},
        "observer": {"name": observer, "product": "replaykit"},
        "replaykit": {**status, "run": run},
    }
    identifier = _digest(f"{observer}\x1f{run}\x1f{time_ns}".encode())
    day = time.strftime("%Y.%m.%d", time.gmtime(time_ns // 10**9))
    return Documents([identifier], [day], [json.dumps(document, separators=(",", ":")).encode()])


def identities(batch: pa.RecordBatch, *more: str) -> list[str]:
    """For each exchange an id of 32 hexadecimal digits that depends on it alone.

    more: further columns to tell rows apart.
    """
    parts = []
    for name in (*_IDENTITY, *more):
        column = _plain(batch.column(name))
        parts.append(
            (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).cast(pa.string())
        )
    joined = pc.binary_join_element_wise(*parts, "\x1f", null_handling="replace", null_replacement="None")
    return [_digest(text) for text in joined.cast(pa.binary()).to_pylist()]


def _digest(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _stamp(batch: pa.RecordBatch) -> pa.Array:
    return pc.coalesce(
        batch.column("time"), batch.column("response_time"), pa.scalar(0, batch.schema.field("time").type)
    )


def _days(stamp: pa.Array) -> list[str]:
    """The day of each time, formatted once per day."""
    days = pc.floor(pc.divide(stamp.cast(pa.int64()), 86_400_000_000_000)).cast(pa.int64())
    encoded = (days.combine_chunks() if isinstance(days, pa.ChunkedArray) else days).dictionary_encode()
    names = [time.strftime("%Y.%m.%d", time.gmtime(day * 86_400)) for day in encoded.dictionary.to_pylist()]
    return [names[i] for i in encoded.indices.to_pylist()]


def _or_zero(column: pa.Array) -> pa.Array:
    return pc.fill_null(column, 0)


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
