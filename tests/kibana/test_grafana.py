"""Grafana's dashboards: every query gives something on a real Prometheus and a real InfluxDB."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from ci.servers import influxdb, prometheus
from kibana.build import built
from replaykit.outputs.output import Rotation
from replaykit.outputs.prometheus import PrometheusOutput
from samples.make import OUT
from tests.conftest import needs
from tests.outputs.conftest import batch, report, run
from tests.target import until


def get(url: str, **parameters: str) -> Any:
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(parameters)}", timeout=20) as answer:
        return json.load(answer)


def test_prometheus(tmp_path: Path) -> None:
    needs("prometheus")
    panels = json.loads(built()["grafana-prometheus.json"])["panels"]
    output = PrometheusOutput("prometheus://127.0.0.1:0", Rotation())
    account = report(str(OUT))["account"]
    failed = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nno"
    with prometheus(tmp_path, [f"127.0.0.1:{output.port}"]) as url:

        def found(query: str) -> list[Any]:
            asked = query.replace("$__rate_interval", "1m")
            return list(get(f"{url}/api/v1/query", query=asked)["data"]["result"])

        until(lambda: any(r["value"][1] == "1" for r in found("up")), 30)
        for step in range(8):
            output.exchanges(batch(step * 10**9, 5))
            output.exchanges(batch(step * 10**9, 1, "/failing", failed))
            output.observe(
                {
                    "capture": {"packets": step * 100, "drops": step},
                    "account": {n: v * step for n, v in account.items()},
                }
            )
            time.sleep(0.3)

        for panel in panels:
            (target,) = panel["targets"]
            query = target["expr"]
            until(lambda query=query: any(r["value"][1] != "NaN" for r in found(query)), 20, query)  # type: ignore[misc]
        share = found(next(p for p in panels if p["title"] == "Share by endpoint")["targets"][0]["expr"])
        assert abs(sum(float(r["value"][1]) for r in share) - 1) < 1e-6
        covered = found(next(p for p in panels if p["title"].startswith("Attributed"))["targets"][0]["expr"])
        assert abs(float(covered[0]["value"][1]) - account["exchange_bytes"] / account["bytes"]) < 0.01
    output.close()


def test_influxdb(tmp_path: Path) -> None:
    needs("influxd")
    panels = json.loads(built()["grafana-influxdb.json"])["panels"]
    with influxdb(tmp_path / "influx") as url:
        urllib.request.urlopen(f"{url}/query", b"q=CREATE+DATABASE+traffic", timeout=20).close()
        done = run(
            "exchanges",
            str(OUT),
            "--quiet",
            "--to",
            f"influxdb://{url.removeprefix('http://')}/traffic?spool={tmp_path / 'spool'}",
        )
        assert done.returncode == 0, done.stderr
        for panel in panels:
            (target,) = panel["targets"]
            asked = target["query"].replace("$timeFilter", "time > now() - 1h")
            (found,) = get(f"{url}/query", db="traffic", q=asked)["results"]
            assert any(v[1] is not None for s in found["series"] for v in s["values"]), panel["title"]
