"""The exchange: one request with its response, measured. Its Arrow schema and its columns.

Owns an exchange while it is being measured, and the rule that a side that was not seen is null.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from replaykit.wire.account import DENIED

if TYPE_CHECKING:
    from replaykit.wire.account import Account
    from replaykit.wire.endpoint import Templates
    from replaykit.wire.filter import Redaction
    from replaykit.wire.link import Addr

_STAMP = pa.timestamp("ns", tz="UTC")
_TEXT = pa.dictionary(pa.int32(), pa.string())


HTTP1, H2, WEBSOCKET, TLS, RAW = "http/1", "h2", "websocket", "tls", "raw"
"""What an exchange was carried by; HTTP/1 rows say 1.0 or 1.1."""

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
        *((name, i64, True) for name in EXTRA),
    ]
    return [pa.field(name, kind, nullable) for name, kind, nullable in plain]


BATCH_SCHEMA = pa.schema(_fields())
"""What engines hand out: strings as dictionaries, one per batch."""

SCHEMA = pa.schema([f.with_type(pa.string()) if f.type == _TEXT else f for f in BATCH_SCHEMA])
"""What files hold: the same columns, strings plain."""


@dataclass(slots=True)
class Side:
    """One direction of an exchange, as far as it was seen. `ack`: see `connection.pair`."""

    seen: bool = False
    done: bool = False
    whole: bool = False
    time: int = 0
    end: int = 0
    seq: int = 0
    ack: int | None = None
    minor: int = 0
    header: int = 0
    body: int = 0
    wire: int = 0
    packets: int = 0


@dataclass(slots=True)
class Exchange:
    """An exchange in the making; sizes in bytes, times in ns."""

    stream: int
    request: Side = field(default_factory=Side)
    response: Side = field(default_factory=Side)
    method: bytes = b""
    target: bytes = b""
    host: bytes = b""
    trace: bytes = b""
    content_type: bytes = b""
    content_encoding: bytes = b""
    status: int = 0
    denied: bool = False
    anomaly: str | None = None
    link_bytes: int = 0
    retransmitted: int = 0
    missing: int = 0
    id: str = ""
    protocol: str = HTTP1
    https: bool = False
    grpc: bool = False
    upgrades: bool = False
    """An extended CONNECT to WebSocket (RFC 8441)."""
    alpn: bytes = b""
    endpoint: str | None = None
    """Of a plug-in's protocol, whose method and target stand for themselves."""
    extra: dict[str, int] = field(default_factory=dict)

    def flag(self, anomaly: str | None) -> None:
        """Keeps the first anomaly."""
        if self.anomaly is None:
            self.anomaly = anomaly

    @property
    def complete(self) -> bool:
        return self.request.whole and self.response.whole and self.missing == 0


def split_target(target: bytes) -> tuple[bytes, bytes | None, bool]:
    """Path of a target (RFC 9112 §3.2), the authority where it holds one, whether it says https."""
    for prefix, https in ((b"http://", False), (b"https://", True)):
        if target[: len(prefix)].lower() == prefix:
            rest = target[len(prefix) :]
            slash = rest.find(b"/")
            end = min(len(rest) if slash < 0 else slash, _cut(rest))
            path = rest[end:]
            return path[: _cut(path)] or b"/", rest[:end], https
    return target[: _cut(target)], None, False


def _cut(text: bytes) -> int:
    return min((at for at in (text.find(b"?"), text.find(b"#")) if at >= 0), default=len(text))


def _text(value: bytes) -> str | None:
    return value.decode("utf-8", "replace") if value else None


class Columns:
    """The finished exchanges of a batch."""

    def __init__(self, weight: float) -> None:
        self._weight = weight
        self._rows: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def push(
        self,
        x: Exchange,
        connection: int,
        client: tuple[Addr, int],
        server: tuple[Addr, int],
        templates: Templates,
        redaction: Redaction,
        account: Account,
        secure: bytes | None = None,
    ) -> None:
        """Adds a row, or books a denied exchange; the account is kept either way.

        secure: the connection is encrypted, but was read; the protocol that was negotiated inside.
        """
        if x.denied:
            account.add(DENIED, x.link_bytes)
            return
        account.exchanges += 1
        account.exchange_bytes += x.link_bytes
        account.incomplete += not x.complete
        q, r = x.request, x.response
        both = q.seen and r.seen
        row: dict[str, Any] = {
            "time": q.time if q.seen else None,
            "response_time": r.time if r.seen else None,
            "duration_ns": r.end - q.time if both else None,
            "first_byte_ns": r.time - q.time if both else None,
            "connection": connection,
            "stream": x.stream,
            "protocol": x.protocol,
            "client_ip": ip_text(client[0]),
            "client_port": client[1],
            "server_ip": ip_text(server[0]),
            "server_port": server[1],
            "status": x.status or None,
            "content_type": _text(x.content_type),
            "content_encoding": _text(x.content_encoding),
            "link_bytes": x.link_bytes,
            "retransmitted_bytes": x.retransmitted,
            "complete": x.complete,
            "missing_bytes": x.missing,
            "trace_id": _text(x.trace),
            "weight": self._weight,
            "anomaly": x.anomaly,
            "alpn": _text(x.alpn if secure is None else secure if secure in (b"http/1.1", b"h2") else b""),
            **x.extra,
        }
        if x.protocol == HTTP1:
            row["protocol"] = "http/1.0" if (q.minor if q.seen else r.minor) == 0 else "http/1.1"
        if x.protocol in (TLS, RAW):
            # Where it went stands for the endpoint.
            ip, port = ip_text(server[0]), server[1]
            place = ip if x.protocol == TLS else f"[{ip}]:{port}" if server[0][0] == 6 else f"{ip}:{port}"
            row["host"] = _text(x.host)
            row["endpoint"] = f"{'tls' if x.protocol == TLS else 'tcp'}://{row['host'] or place}"
        encrypted = x.https or secure is not None
        named = x.protocol == WEBSOCKET or (q.seen and x.protocol in (HTTP1, H2))
        if named:
            scheme = "https" if encrypted else "http"
            row |= {"method": _text(x.method), "scheme": scheme, "host": _text(x.host)}
        elif x.endpoint is not None:
            row |= {"method": _text(x.method), "target": _text(x.target), "endpoint": x.endpoint}
        if x.target and named:
            target = redaction.target(x.target) if redaction.parameters else x.target
            path, authority, https = split_target(target)
            # RFC 9112 §3.2.2: the authority in an absolute target overrides Host.
            host = x.host if authority is None else authority
            shown = path.decode("utf-8", "replace")
            row |= {
                "scheme": "https" if https or encrypted else "http",
                "host": _text(host),
                "target": target.decode("utf-8", "replace"),
                "path": shown,
                # A gRPC path names a method: /package.Service/Method.
                "endpoint": shown if x.grpc else templates.endpoint(shown),
            }
        for name, side in (("request", q), ("response", r)):
            if side.seen:
                row[f"{name}_header_bytes"] = side.header
                row[f"{name}_body_bytes"] = side.body
                row[f"{name}_wire_bytes"] = side.wire
                row[f"{name}_packets"] = side.packets
        self._rows.append(row)

    def take(self) -> pa.RecordBatch:
        """Takes the rows as one record batch of BATCH_SCHEMA."""
        rows, self._rows = self._rows, []
        arrays = []
        for f in BATCH_SCHEMA:
            values = [row.get(f.name) for row in rows]
            if f.type == _TEXT:
                arrays.append(pa.array(values, pa.string()).dictionary_encode())
            elif f.type == pa.int64():
                arrays.append(pa.array([None if v is None else _wrap(v) for v in values], f.type))
            else:
                arrays.append(pa.array(values, f.type))
        return pa.RecordBatch.from_arrays(arrays, schema=BATCH_SCHEMA)


def _wrap(value: int) -> int:
    """Differences of hostile times wrap, as in the compiled engine."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def ip_text(addr: Addr) -> str:
    """An address as the columns show it."""
    family, number = addr
    if family == 4:
        return str(ipaddress.IPv4Address(number))
    # Rust writes IPv4-mapped addresses with dots; the ipaddress module does from Python 3.13 on.
    if number >> 32 == 0xFFFF:
        return "::ffff:" + str(ipaddress.IPv4Address(number & 0xFFFFFFFF))
    return str(ipaddress.IPv6Address(number))
