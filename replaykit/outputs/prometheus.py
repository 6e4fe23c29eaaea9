"""Counters for Prometheus, served over HTTP while a capture runs (the extra `prometheus`).

Owns the names and the bound on label values: beyond it endpoints are `(other)`, so a crawler cannot
fill the server. Scraped as OpenMetrics, durations carry the trace id of a request (exemplars).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.attribution.labels import MAX_ENDPOINTS, Labels, method
from replaykit.consent import consent, guarded
from replaykit.engine.account import CAUSES
from replaykit.errors import UsageError
from replaykit.extras import needs
from replaykit.outputs.output import Output, Rotation
from replaykit.outputs.settings import secret
from replaykit.records.increment import ended
from replaykit.records.message import Messages

PORT = 9900
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Place:
    """Where to listen, and for whom."""

    address: str
    host: str
    port: int
    everybody: bool
    max_endpoints: int


def read_place(target: str) -> Place:
    """Of `prometheus://[HOST]:PORT[?max-endpoints=N][&open=true]`. Raises UsageError."""
    parts = urlsplit(target)
    given = {k: v[-1] for k, v in parse_qs(parts.query).items()}
    try:
        port = PORT if parts.port is None else parts.port
        most = int(given.pop("max-endpoints", MAX_ENDPOINTS))
    except ValueError:
        port, most = -1, 0
    everybody = given.pop("open", "false")
    if everybody not in ("true", "false"):
        raise UsageError(f"{target}: open: write open=true, which lets everybody read it, or leave it out")
    if port < 0 or most < 1 or given or parts.path.strip("/"):
        raise UsageError(f"{target}: write prometheus://[HOST]:{PORT}, with ?max-endpoints={MAX_ENDPOINTS}")
    host = parts.hostname or "127.0.0.1"
    return Place(f"prometheus://{parts.netloc}", host, port, everybody == "true", most)


class PrometheusOutput:
    """`prometheus://[HOST]:PORT[?max-endpoints=N]`: /metrics, on 127.0.0.1 unless told; beyond this machine
    with the token in REPLAYKIT_TOKEN, or for everybody with `open=true`. Raises UsageError.
    """

    wants_messages = False

    def __init__(self, target: str, rotation: Rotation) -> None:
        try:
            from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server
        except ImportError:
            raise needs("prometheus:// needs its client", "prometheus") from None
        place = read_place(target)
        agreed = consent(
            target, place.host, secret("REPLAYKIT_TOKEN"), place.everybody, f"{place.address}?open=true"
        )
        registry = CollectorRegistry()
        self._labels = Labels(place.max_endpoints)
        self._before: dict[str, int] = {}
        self._name_counters(registry)
        try:
            self._server, self._thread = start_http_server(place.port, place.host, registry)
        except OSError as error:
            raise UsageError(f"{target}: cannot listen: {(error.strerror or str(error)).lower()}") from None
        self._server.set_app(guarded(make_wsgi_app(registry), agreed))
        self.port = self._server.server_address[1]
        self.target = f"http://{place.host}:{self.port}/metrics"

    def _name_counters(self, registry: Any) -> None:
        from prometheus_client import Counter, Histogram

        def counter(name: str, text: str, *labels: str) -> Any:
            return Counter(name, text, labels, registry=registry)

        self._exchanges = counter("replaykit_exchanges", "Exchanges", "endpoint", "method", "status")
        self._incomplete = counter("replaykit_incomplete_exchanges", "Exchanges with a hole", "endpoint")
        self._bytes = counter(
            "replaykit_payload_bytes", "TCP payload, headers included", "endpoint", "direction"
        )
        self._link = counter("replaykit_link_bytes", "Bytes of the packets", "endpoint")
        self._duration = Histogram(
            "replaykit_duration_seconds",
            "First byte of the request to last of the response",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._packets = counter("replaykit_capture_packets", "Packets that passed the kernel's filter")
        self._drops = counter("replaykit_capture_drops", "Packets that the kernel dropped")
        self._captured = counter("replaykit_captured_bytes", "Bytes captured, by where they went", "cause")

    def exchanges(self, batch: pa.RecordBatch) -> None:
        """Adds up exchanges, or all that moved."""
        weight = batch.column("weight")
        count = pc.multiply(ended(batch).cast(pa.float64()), weight)

        def weighted(name: str) -> pa.Array:
            return pc.multiply(pc.cast(pc.fill_null(batch.column(name), 0), pa.float64()), weight)

        table = pa.table(
            {
                "endpoint": batch.column("endpoint").cast(pa.string()),
                "method": batch.column("method").cast(pa.string()),
                "status": batch.column("status"),
                "weight": count,
                "incomplete": pc.multiply(pc.cast(pc.invert(batch.column("complete")), pa.float64()), count),
                "request": weighted("request_wire_bytes"),
                "response": weighted("response_wire_bytes"),
                "link": weighted("link_bytes"),
            }
        )
        sums = [(name, "sum") for name in ("weight", "incomplete", "request", "response", "link")]
        for row in table.group_by(["endpoint", "method", "status"]).aggregate(sums).to_pylist():
            endpoint = self._labels.of(row["endpoint"])
            status = "" if row["status"] is None else str(row["status"])
            if row["weight_sum"]:
                self._exchanges.labels(endpoint, method(row["method"]), status).inc(row["weight_sum"])
            self._incomplete.labels(endpoint).inc(row["incomplete_sum"])
            self._bytes.labels(endpoint, "request").inc(row["request_sum"])
            self._bytes.labels(endpoint, "response").inc(row["response_sum"])
            self._link.labels(endpoint).inc(row["link_sum"])
        columns = (
            table.column("endpoint"),
            batch.column("duration_ns"),
            batch.column("trace_id").cast(pa.string()),
        )
        children: dict[str, Any] = {}
        for name, duration, trace in zip(*(c.to_pylist() for c in columns), strict=True):
            if duration is None:
                continue
            label = self._labels.of(name)
            child = children.get(label) or children.setdefault(label, self._duration.labels(label))
            child.observe(duration / 1e9, None if trace is None or len(trace) > 64 else {"trace_id": trace})

    def take(self, exchanges: pa.RecordBatch, moved: pa.RecordBatch) -> None:
        self.exchanges(moved)

    def observe(self, status: Mapping[str, Any]) -> None:
        """This host's counters; bytes by cause add up to all that were captured."""
        account = status["account"]
        now = {"packets": status["capture"]["packets"], "drops": status["capture"]["drops"]}
        now |= {cause: account[cause] for cause in ("exchange_bytes", *CAUSES)}
        for name, value in now.items():
            grown = max(value - self._before.get(name, 0), 0)
            own = {"packets": self._packets, "drops": self._drops}.get(name)
            (self._captured.labels(name.removesuffix("_bytes")) if own is None else own).inc(grown)
        self._before = now

    def messages(self, messages: Messages) -> None:
        """Counters are of exchanges."""

    def flush(self) -> None:
        """What was taken is counted."""

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def open_place(target: str, rotation: Rotation) -> Output | None:
    """Entry point: `prometheus://`."""
    return PrometheusOutput(target, rotation) if target.startswith("prometheus://") else None
