"""The exchange: one request with its response, measured.

Its Arrow schema; a side that was not seen is null.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from replaykit.units import rfc3339

_STAMP = pa.timestamp("ns", tz="UTC")
_TEXT = pa.dictionary(pa.int32(), pa.string())


EXTRA = (
    "request_uncompressed_header_bytes",
    "response_uncompressed_header_bytes",
    "request_messages",
    "response_messages",
    "request_message_bytes",
    "response_message_bytes",
    "request_decoded_bytes",
    "response_decoded_bytes",
    "grpc_status",
)
"""Measures that few exchanges have, each null unless set."""


def _fields() -> list[pa.Field]:
    text, i64 = _TEXT, pa.int64()
    plain: list[tuple[str, pa.DataType, bool]] = [
        ("time", _STAMP, True),
        ("response_time", _STAMP, True),
        ("duration_ns", i64, True),
        ("first_byte_ns", i64, True),
        ("connection", pa.uint64(), False),
        ("stream", pa.int32(), False),
        ("protocol", text, False),
        ("client_ip", text, False),
        ("client_port", pa.uint16(), False),
        ("server_ip", text, False),
        ("server_port", pa.uint16(), False),
        ("method", text, True),
        ("scheme", text, True),
        ("host", text, True),
        ("target", text, True),
        ("path", text, True),
        ("endpoint", text, True),
        ("status", pa.int16(), True),
        ("content_type", text, True),
        ("content_encoding", text, True),
    ]
    for size in ("header_bytes", "body_bytes", "wire_bytes", "packets"):
        plain += [(f"request_{size}", i64, True), (f"response_{size}", i64, True)]
    plain += [
        ("link_bytes", i64, False),
        ("retransmitted_bytes", i64, False),
        ("complete", pa.bool_(), False),
        ("missing_bytes", i64, False),
        ("trace_id", text, True),
        ("weight", pa.float64(), False),
        ("anomaly", text, True),
        ("alpn", text, True),
        ("proxy_ip", text, True),
        ("proxy_port", pa.uint16(), True),
        *((name, i64, True) for name in EXTRA),
    ]
    return [pa.field(name, kind, nullable) for name, kind, nullable in plain]


BATCH_SCHEMA = pa.schema(_fields())
"""What engines hand out: strings as dictionaries, one per batch."""

SCHEMA = pa.schema([f.with_type(pa.string()) if f.type == _TEXT else f for f in BATCH_SCHEMA])
"""What files hold: the same columns, strings plain."""


def plain_values(column: pa.Array) -> list[Any]:
    """A column as Python values; times in RFC 3339."""
    if pa.types.is_timestamp(column.type):
        return [None if v is None else rfc3339(v) for v in column.cast(pa.int64()).to_pylist()]
    return column.to_pylist()  # type: ignore[no-any-return]
