"""Exchanges as documents of the Elastic Common Schema (ECS 8), beside them a `replaykit.*` group.

Owns the names, and a document's id: it depends on the exchange alone, so what is sent twice counts
once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

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
    "endpoint", "weight", "complete", "missing_bytes", "request_header_bytes", "response_header_bytes", "link_bytes",
    "retransmitted_bytes", "first_byte_ns", "content_encoding", "connection", "stream", "anomaly", "alpn", "grpc_status",
    "request_messages", "response_messages", "request_decoded_bytes", "response_decoded_bytes",
)  # fmt: skip
_IDENTITY = (
    "time", "response_time", "client_ip", "client_port", "server_ip", "server_port", "stream", "protocol", "method",
    "target", "status", "request_wire_bytes", "response_wire_bytes",
)  # fmt: skip


def mappings() -> dict[str, Any]:
    """What each field is, as a component template holds it; nothing else is indexed."""
    kinds: dict[str, Any] = {
        "@timestamp": {"type": "date_nanos"},
        "event.end": {"type": "date_nanos"},
        "event.kind": {"type": "keyword"},
        "event.category": {"type": "keyword"},
        "ecs.version": {"type": "keyword"},
        "observer.name": {"type": "keyword"},
        "observer.product": {"type": "keyword"},
        "network.transport": {"type": "keyword"},
        "network.bytes": {"type": "long"},
        "http.version": {"type": "keyword"},
        "replaykit.bytes": {"type": "double"},
        "replaykit.weight": {"type": "double"},
        "replaykit.complete": {"type": "boolean"},
    }
    numbers = (
        "bytes",
        "packets",
        "duration",
        "code",
        "_ns",
        "messages",
        "connection",
        "stream",
        "grpc_status",
    )
    for name in [*FIELDS.values(), *(f"replaykit.{name}" for name in OWN)]:
        if name.endswith(".ip"):
            kind: dict[str, Any] = {"type": "ip"}
        elif name.endswith(".port"):
            kind = {"type": "integer"}
        elif name.endswith(numbers):
            kind = {"type": "long"}
        else:
            kind = {"type": "keyword", "ignore_above": 1024}
        kinds.setdefault(name, kind)
    root: dict[str, Any] = {}
    for name, kind in kinds.items():
        at, parts = root, name.split(".")
        for part in parts[:-1]:
            at = at.setdefault(part, {"properties": {}})["properties"]
        at[parts[-1]] = kind
    return {"dynamic": False, "properties": root}


def documents(batch: pa.RecordBatch, observer: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """For each exchange its id, its time (ns since the epoch), and its document. observer: this host's name."""
    names = batch.schema.names
    columns = {}
    for name in names:
        column = batch.column(name)
        columns[name] = (
            column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        ).to_pylist()
    for row in range(batch.num_rows):
        get = {name: values[row] for name, values in columns.items()}
        time = get["time"] if get["time"] is not None else get["response_time"] or 0
        yield _identity(get), time, _document(get, time, observer)


def _identity(get: dict[str, Any]) -> str:
    text = "\x1f".join(str(get[name]) for name in _IDENTITY)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _stamp(ns: int) -> str:
    seconds, rest = divmod(ns, 1_000_000_000)
    import datetime

    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _document(get: dict[str, Any], time: int, observer: str) -> dict[str, Any]:
    sizes = (get["request_wire_bytes"] or 0) + (get["response_wire_bytes"] or 0)
    out: dict[str, Any] = {
        "@timestamp": _stamp(time),
        "ecs": {"version": VERSION},
        "event": {"kind": "event", "category": ["network", "web"]},
        "observer": {"name": observer, "product": "replaykit"},
        "network": {"transport": "tcp", "bytes": sizes},
        "replaykit": {name: get[name] for name in OWN if get[name] is not None},
    }
    out["replaykit"]["bytes"] = sizes * get["weight"]
    if get["protocol"].startswith("http/"):
        out["http"] = {"version": get["protocol"][5:]}
    elif get["protocol"] == "h2":
        out["http"] = {"version": "2"}
    if time and get["duration_ns"] is not None:
        out["event"]["end"] = _stamp(time + get["duration_ns"])
    for column, field in FIELDS.items():
        value = get[column]
        if value is None:
            continue
        at, parts = out, field.split(".")
        for part in parts[:-1]:
            at = at.setdefault(part, {})
        at[parts[-1]] = value
    return out
