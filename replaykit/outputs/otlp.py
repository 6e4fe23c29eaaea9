"""OpenTelemetry by OTLP over HTTP (the extra `otlp`): metrics by endpoint, and a span for each traced
exchange.

A span has the trace id that the exchange's request carried and a link to it, so that the cost in bytes stands
next to the trace. Exporters are OpenTelemetry's own; a bounded queue keeps a capture from waiting for them.
"""

from __future__ import annotations

import logging
import random
import socket
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa

from replaykit import __version__
from replaykit.attribution.labels import Labels, method
from replaykit.attribution.minutes import by_minute
from replaykit.errors import UsageError
from replaykit.extras import needs
from replaykit.outputs.output import Output, Rotation
from replaykit.records.message import Messages
from replaykit.units import parse_duration

PORT = 4318
_SPANS = 20_000
"""That wait for their export; beyond it they are dropped, and counted as `replaykit.spans.dropped`."""

_COUNTERS = (
    ("replaykit.exchanges", "{exchange}", ("exchanges",)),
    ("replaykit.exchanges.incomplete", "{exchange}", ("incomplete",)),
    ("replaykit.io", "By", ("request_wire_bytes", "response_wire_bytes")),
    ("replaykit.link.io", "By", ("link_bytes",)),
    ("replaykit.duration", "ns", ("duration_ns",)),
)


class OtlpOutput:
    """`otlp://host:4318[?tls=1&interval=10s&spans=0&observer=NAME]`. OTEL_EXPORTER_OTLP_HEADERS holds
    credentials.

    Raises UsageError.
    """

    wants_messages = False

    def __init__(self, target: str, rotation: Rotation) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.metrics import MeterProvider
            from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise needs("otlp:// needs OpenTelemetry", "otlp") from None
        parts = urlsplit(target)
        given = {k: v[-1] for k, v in parse_qs(parts.query).items()}
        unknown = set(given) - {"tls", "interval", "spans", "observer"}
        try:
            port = parts.port or PORT
        except ValueError:
            port = 0
        if not parts.hostname or unknown or not port:
            reason = f"there is no option {sorted(unknown)[0]!r}" if unknown else f"write otlp://HOST:{PORT}"
            raise UsageError(f"otlp://{parts.hostname or ''}: {reason}")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.target = f"{'https' if given.get('tls') not in (None, '0') else 'http'}://{host}:{port}"
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # what fails is said once, at the end
        self._resource = Resource.create(
            {
                "service.name": "replaykit",
                "service.version": __version__,
                "host.name": given.get("observer") or socket.gethostname(),
            }
        )
        self._last: dict[str, bool] = {}
        self._lost_spans = 0
        interval_ms = parse_duration(given.get("interval", "10s")) * 1000
        metrics = OTLPMetricExporter(f"{self.target}/v1/metrics")
        self._watch(metrics, "metrics")
        reader = PeriodicExportingMetricReader(metrics, interval_ms)
        self._provider = MeterProvider([reader], self._resource)
        meter = self._provider.get_meter("replaykit", __version__)
        self._counters = [(meter.create_counter(name, unit), columns) for name, unit, columns in _COUNTERS]
        self._dropped = meter.create_counter("replaykit.spans.dropped", "{span}")
        self._labels = Labels()
        self._spans: Any = None
        if given.get("spans") != "0":
            spans = OTLPSpanExporter(f"{self.target}/v1/traces")
            self._watch(spans, "spans")
            self._spans = BatchSpanProcessor(spans, max_queue_size=_SPANS, max_export_batch_size=2000)

    def _watch(self, exporter: Any, what: str) -> None:
        """Keeps whether the last export succeeded; metrics are cumulative, so a later one makes a failed one
        good.
        """
        export = exporter.export

        def watched(*arguments: Any, **more: Any) -> Any:
            result = export(*arguments, **more)
            self._last[what] = result.name == "SUCCESS"
            if what == "spans" and not self._last[what]:
                self._lost_spans += len(arguments[0])
            return result

        exporter.export = watched

    def exchanges(self, batch: pa.RecordBatch) -> None:
        self.take(batch, batch)

    def take(self, exchanges: pa.RecordBatch, moved: pa.RecordBatch) -> None:
        for row in by_minute(moved).to_pylist():
            labels = {
                "replaykit.endpoint": self._labels.of(row["endpoint"]),
                "http.request.method": method(row["method"]),
            }
            if row["status"] is not None:
                labels["http.response.status_code"] = row["status"]
            for counter, columns in self._counters:
                for name in columns:
                    direction = {} if len(columns) == 1 else {"direction": name.partition("_")[0]}
                    counter.add(row[name] or 0, labels | direction)
        if self._spans is not None:
            self._traced(exchanges)

    def _traced(self, batch: pa.RecordBatch) -> None:
        """A span for each exchange that has a trace."""
        import pyarrow.compute as pc

        traced = batch.filter(pc.is_valid(batch.column("trace_id")))
        room = _SPANS // 2
        if traced.num_rows > room:  # one batch never fills the queue
            self._dropped.add(traced.num_rows - room)
            traced = traced.slice(0, room)
        columns = (
            "time",
            "response_time",
            "duration_ns",
            "trace_id",
            "method",
            "endpoint",
            "host",
            "path",
            "status",
            "request_wire_bytes",
            "response_wire_bytes",
            "link_bytes",
            "retransmitted_bytes",
            "server_ip",
            "server_port",
            "client_ip",
        )
        values = {n: traced.column(n) for n in columns}
        for name in ("time", "response_time"):
            values[name] = values[name].cast(pa.int64())
        for row in zip(*(values[n].to_pylist() for n in columns), strict=True):
            self._span(dict(zip(columns, row, strict=True)))

    def _span(self, row: dict[str, Any]) -> None:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
        from opentelemetry.trace.status import Status, StatusCode

        try:
            trace = int(row["trace_id"], 16)
        except ValueError:
            return
        start = row["time"] if row["time"] is not None else row["response_time"]
        if not 0 < trace < 1 << 128 or start is None:
            return
        sampled = TraceFlags(TraceFlags.SAMPLED)
        # The trace's own span id is not among the columns; the lower half of its id stands for it.
        link = Link(SpanContext(trace, (trace & ((1 << 64) - 1)) or 1, True, sampled))
        attributes = {
            "http.request.method": row["method"], "http.response.status_code": row["status"],
            "server.address": row["host"] or row["server_ip"], "server.port": row["server_port"],
            "client.address": row["client_ip"], "url.path": row["path"],
            "http.request.size": row["request_wire_bytes"], "http.response.size": row["response_wire_bytes"],
            "replaykit.endpoint": row["endpoint"], "replaykit.link_bytes": row["link_bytes"],
            "replaykit.retransmitted_bytes": row["retransmitted_bytes"],
        }  # fmt: skip
        failed = row["status"] is not None and row["status"] >= 500
        span = ReadableSpan(
            f"{row['method'] or '?'} {row['endpoint'] or '?'}",
            SpanContext(trace, random.getrandbits(63) + 1, False, sampled),
            resource=self._resource,
            attributes={k: v for k, v in attributes.items() if v is not None},
            links=[link],
            kind=SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            start_time=start,
            end_time=start + (row["duration_ns"] or 0),
        )
        self._spans.on_end(span)

    def messages(self, messages: Messages) -> None:
        """Telemetry is of exchanges."""

    def flush(self) -> None:
        """Exported at intervals."""

    def close(self) -> None:
        """Exports what waits. Raises UsageError where the receiver did not take it."""
        if self._spans is not None:
            self._spans.force_flush(10_000)
            self._spans.shutdown()
        self._provider.force_flush(10_000)
        self._provider.shutdown(10_000)
        if not self._last.get("metrics", True) or self._lost_spans:
            raise UsageError(
                f"{self.target}: not everything could be exported ({self._lost_spans:,} spans lost)"
            )


def open_place(target: str, rotation: Rotation) -> Output | None:
    """Entry point: `otlp://`."""
    return OtlpOutput(target, rotation) if target.startswith("otlp://") else None
