"""Counters as a real Prometheus reads them, their bound, and the trace beside the bytes."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ci.servers import free_port, missing, prometheus
from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from replaykit.errors import UsageError
from replaykit.outputs.output import Rotation, open_output
from replaykit.outputs.prometheus import PrometheusOutput
from tests.conftest import CI
from tests.talk import Talk
from tests.target import OK, get, until

TRACE = "0af7651916cd43dd8448eb211c80319c"


def batch(paths: list[str], *lines: str) -> pa.RecordBatch:
    engine = Engine(Options(weight=2.0))
    talk = Talk().open()
    for path in paths:
        talk.client(get(path, *lines)).server(OK)
    for p in talk.close().packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    engine.finish()
    return engine.take_exchanges()


@pytest.fixture
def output() -> Iterator[PrometheusOutput]:
    made = PrometheusOutput("prometheus://:0?max-endpoints=3", Rotation())
    yield made
    made.close()


def scrape(output: PrometheusOutput, accept: str = "text/plain") -> str:
    request = urllib.request.Request(output.target, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


def test_numbers_bound_and_exemplars(output: PrometheusOutput) -> None:
    output.exchanges(batch(["/a", "/a", "/b"], f"traceparent: 00-{TRACE}-b7ad6b7169203331-01"))
    output.exchanges(batch([f"/crawled-{chr(97 + n)}-page" for n in range(20)]))
    text = scrape(output)
    assert 'replaykit_exchanges_total{endpoint="/a",method="GET",status="200"} 4.0' in text  # weighted
    assert f'replaykit_payload_bytes_total{{direction="response",endpoint="/a"}} {4.0 * len(OK)}' in text
    assert text.count("replaykit_link_bytes_total{") == 4 and 'endpoint="(other)"' in text
    opened = scrape(output, "application/openmetrics-text; version=1.0.0")
    assert f'trace_id="{TRACE}"' in opened and opened.rstrip().endswith("# EOF")


def test_a_real_prometheus(output: PrometheusOutput, tmp_path: Path) -> None:
    if missing("prometheus"):
        (pytest.fail if CI else pytest.skip)("needs Prometheus: apt-get install prometheus")
    output.exchanges(batch(["/a", "/a", "/b"]))

    def value(url: str, query: str) -> list[Any]:
        with urllib.request.urlopen(
            f"{url}/api/v1/query?query={urllib.parse.quote(query)}", timeout=20
        ) as answer:
            return list(json.load(answer)["data"]["result"])

    with prometheus(tmp_path / "prometheus", [f"127.0.0.1:{output.port}"]) as url:
        until(lambda: value(url, "replaykit_exchanges_total"), 60)
        by = {
            r["metric"]["endpoint"]: float(r["value"][1])
            for r in value(url, "sum by (endpoint) (replaykit_exchanges_total)")
        }
        assert by == {"/a": 4.0, "/b": 2.0}
        assert float(value(url, "sum(replaykit_duration_seconds_count)")[0]["value"][1]) == 3


def test_targets() -> None:
    assert open_output(f"prometheus://127.0.0.1:{free_port()}", Rotation()).wants_messages is False
    for bad in (
        "prometheus://:99999",
        "prometheus://:1x",
        "prometheus://:0/path",
        "prometheus://:0?colour=red",
        "prometheus://:0?max-endpoints=0",
    ):
        with pytest.raises(UsageError):
            PrometheusOutput(bad, Rotation())
