"""InfluxDB for real, an OTLP receiver, and the ECS log: what they get adds up to the report."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ci.servers import free_port, influxdb
from replaykit.outputs.influxdb import _escaped
from samples.make import OUT
from tests.conftest import needs
from tests.outputs.conftest import capture, report, run


def query(url: str, text: str) -> Any:
    data = urllib.parse.urlencode({"db": "traffic", "q": text}).encode()
    with urllib.request.urlopen(f"{url}/query", data, timeout=20) as answer:
        return json.load(answer)["results"][0]


@pytest.fixture(scope="module")
def influx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    needs("influxd")
    with influxdb(tmp_path_factory.mktemp("influx")) as url:
        query(url, "CREATE DATABASE traffic")
        yield url


def test_influxdb_has_the_sums(influx: str, tmp_path: Path) -> None:
    target = f"influxdb://{influx.removeprefix('http://')}/traffic?spool={tmp_path / 'spool'}"
    away = f"influxdb://127.0.0.1:{free_port()}/traffic?spool={tmp_path / 'spool'}"
    pcap = capture(tmp_path / "a.pcap", 40)
    first = run("exchanges", str(pcap), "--quiet", "--to", away)
    assert first.returncode == 2 and "wait in" in first.stderr, first.stderr
    assert run("exchanges", str(OUT), "--quiet", "--to", target).returncode == 0
    found = query(
        influx,
        "SELECT sum(exchanges), sum(request_wire_bytes), sum(response_wire_bytes), sum(link_bytes) FROM"
        " replaykit",
    )
    totals = [report(str(p))["total"] for p in (OUT, pcap)]
    names = ("requests", "request_wire_bytes", "response_wire_bytes", "link_bytes")
    assert found["series"][0]["values"][0][1:] == [sum(t[n] for t in totals) for n in names]
    by = query(
        influx, "SELECT sum(exchanges) FROM replaykit WHERE endpoint = '/products/{id}' GROUP BY status"
    )
    assert sum(s["values"][0][1] for s in by["series"]) == next(
        r["requests"] for r in report(str(OUT))["rows"] if r["endpoint"] == "/products/{id}"
    )


def test_influxdb_refuses(influx: str, tmp_path: Path) -> None:
    target = f"influxdb://{influx.removeprefix('http://')}/nowhere?spool={tmp_path / 'spool'}"
    done = run("exchanges", str(capture(tmp_path / "a.pcap", 3)), "--quiet", "--to", target)
    assert done.returncode == 2 and "database not found" in done.stderr and "Traceback" not in done.stderr


def test_line_protocol(tmp_path: Path) -> None:
    assert _escaped("a b,c=d\n\\") == "a\\ b\\,c\\=d\\ \\_"
    out = tmp_path / "traffic.lp"
    assert run("exchanges", str(OUT), "--quiet", "--to", str(out)).returncode == 0
    lines = out.read_text().splitlines()
    assert all(line.startswith("replaykit,endpoint=") for line in lines)
    got = sum(float(line.split(" exchanges=")[1].split(",")[0]) for line in lines)
    assert got == report(str(OUT))["total"]["requests"] and out.stat().st_mode & 0o777 == 0o600


@contextmanager
def receiver() -> Iterator[tuple[str, list[Any], list[Any]]]:
    """An OTLP/HTTP receiver: what it got as spans, and as metrics' data points."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    spans: list[Any] = []
    metrics: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                for r in ExportTraceServiceRequest.FromString(body).resource_spans:
                    spans.extend(s for scope in r.scope_spans for s in scope.spans)
            else:
                for m in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    metrics.append(
                        {one.name: one.sum.data_points for scope in m.scope_metrics for one in scope.metrics}
                    )
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", spans, metrics
        server.shutdown()


TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_otlp_has_the_sums_and_the_spans_of_traces(tmp_path: Path) -> None:
    traced = capture(tmp_path / "a.pcap", 30, f"traceparent: 00-{TRACE}-b7ad6b7169203331-01")
    with receiver() as (address, spans, metrics):
        done = run("exchanges", str(OUT), str(traced), "--quiet", "--to", f"otlp://{address}")
    assert done.returncode == 0, done.stderr
    last: dict[str, float] = defaultdict(float)
    for name, points in metrics[-1].items():
        for point in points:
            last[name] += point.as_double or point.as_int
    total = report(str(OUT), str(traced))["total"]
    assert last["replaykit.exchanges"] == total["requests"]
    assert last["replaykit.io"] == total["request_wire_bytes"] + total["response_wire_bytes"]
    assert last["replaykit.link.io"] == total["link_bytes"]
    mine = [s for s in spans if s.trace_id.hex() == TRACE]
    assert len(mine) == 30 and len({s.span_id for s in mine}) == 30
    span = mine[0]
    attributes = {a.key: a.value for a in span.attributes}
    assert span.name == "GET /users/{id}" and span.links[0].trace_id.hex() == TRACE
    assert (
        attributes["http.request.size"].int_value > 0
        and attributes["http.response.status_code"].int_value == 200
    )
    assert span.end_time_unix_nano - span.start_time_unix_nano == 100_000


def test_otlp_without_a_receiver_ends_in_time(tmp_path: Path) -> None:
    done = run("exchanges", str(OUT), "--quiet", "--to", f"otlp://127.0.0.1:{free_port()}", timeout=90)
    assert done.returncode == 2 and "could be exported" in done.stderr and "Traceback" not in done.stderr, (
        done.stderr
    )


def test_wrong_use() -> None:
    for target, said in (
        ("influxdb://host", "influxdb://HOST"),
        ("influxdb://h/b?colour=red", "colour"),
        ("otlp://", "otlp://HOST"),
        ("otlp://h?colour=red", "colour"),
        ("s3://", "name a bucket"),
        ("s3://b/p?colour=red", "colour"),
    ):
        done = run("exchanges", str(OUT), "--quiet", "--to", target)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_the_ecs_log(tmp_path: Path) -> None:
    """Whole lines, an id each, and a new file where logrotate took the old one."""
    from replaykit.outputs.ecslog import EcsLog
    from replaykit.outputs.output import Rotation
    from tests.outputs.conftest import batch

    path = tmp_path / "traffic.ecs.jsonl"
    log = EcsLog(str(path), Rotation())
    log.exchanges(batch(1_700_000_000_000_000_000, 4))
    path.rename(tmp_path / "traffic.ecs.jsonl.1")
    log.flush()
    log.exchanges(batch(1_700_000_100_000_000_000, 2))
    log.close()
    old, new = ((tmp_path / n).read_text().splitlines() for n in ("traffic.ecs.jsonl.1", "traffic.ecs.jsonl"))
    documents = [json.loads(line) for line in [*old, *new]]
    assert len(old) == 4 and len(new) == 2 and len({d["event"]["id"] for d in documents}) == 6
    assert all(
        d["@timestamp"] and d["url"]["path"] and d["http"]["response"]["status_code"] == 200
        for d in documents
    )
