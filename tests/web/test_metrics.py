"""Every page of metrics as Prometheus itself reads it: one line that it cannot read, and it rejects the whole
page.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from replaykit.errors import UsageError
from replaykit.extras import install
from replaykit.ledger.store import Ledger
from replaykit.outputs.output import Rotation
from replaykit.outputs.prometheus import PrometheusOutput
from replaykit.vantages.netfilter.counters import Counters
from replaykit.vantages.netfilter.metrics import serve
from replaykit.vantages.netfilter.users import UserMap
from replaykit.vantages.netfilter.watch import Watch
from replaykit.web.health import Health
from tests.conftest import needs
from tests.outputs.test_prometheus import batch

HOSTILE = 'a"b\\c\nd{e="f"} 7 \x1b[31m'


def rejected(page: str) -> str:
    """What promtool says of a page that it cannot read; remarks on names are no refusal."""
    needs("promtool")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )
    return done.stderr or "refused" if done.returncode == 1 else ""


def read(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_of_a_pipeline() -> None:
    """As `run` gives them: whether an output failed is a flag, not a number."""
    metrics: dict[Any, Any] = {
        ("replaykit_output_failed", (("output", HOSTILE),)): False,
        ("replaykit_output_sent_total", (("output", HOSTILE),)): 7,
        ("replaykit_output_waiting_bytes", ()): 1.5,
    }
    health = Health("127.0.0.1:0", lambda: {"ok": True, "metrics": metrics})
    try:
        page = read(health.port)
        assert rejected(page) == "" and "False" not in page and "replaykit_output_waiting_bytes 1.5" in page
        assert rejected("a_b False\n")  # the check itself can fail
        for line in ("# TYPE replaykit_output_failed gauge", "# TYPE replaykit_output_sent_total counter"):
            assert line in page.splitlines()
        kind = "application/openmetrics-text; version=1.0.0"
        status, page = asked(health.port, Accept=kind)
        assert status == 200 and page.endswith("# EOF\n") and "\nreplaykit_output_sent_total{" in page
    finally:
        health.close()


def test_of_a_pipeline_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes need none; who asks for metrics is told in one line what to install."""
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    health = Health("127.0.0.1:0", lambda: {"ok": True, "metrics": {}})
    try:
        assert asked(health.port, "/health") == (200, '{"ok": true}')
        assert asked(health.port) == (501, f"/metrics needs its client: {install('prometheus')}\n")
    finally:
        health.close()


def test_of_a_capture() -> None:
    output = PrometheusOutput("prometheus://127.0.0.1:0", Rotation())
    try:
        output.exchanges(batch(["/a", '/b"c']))
        assert rejected(read(output.port)) == ""
    finally:
        output.close()


def test_of_users(tmp_path: Path) -> None:
    class Source:
        name, exact = "nftables", True

        def read(self) -> Any:
            return "epoch", {"10.0.0.2": Counters(1, 2, 3, 4), "10.0.0.3": Counters(5, 6, 7, 8)}

        def close(self) -> None:
            """Nothing is held."""

    ledger = Ledger(f"sqlite:///{tmp_path / 'u.db'}")
    (tmp_path / "users.json").write_text('{"users": [{"code": "x\\"y", "addresses": ["10.0.0.2"]}]}')
    watch = Watch(ledger, Source(), ["lo"], UserMap(str(tmp_path / "users.json")), True)
    server = serve(watch, "127.0.0.1", 0)
    try:
        watch.step(1_795_000_000)
        page = read(server.server_address[1])
        assert rejected(page) == "" and 'user_intra_ip="10.0.0.3"' in page
    finally:
        server.shutdown()
        server.server_close()
        ledger.close()


def asked(port: int, path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, None, headers)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def test_beyond_this_machine_a_capture_asks_for_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPLAYKIT_TOKEN", raising=False)
    for host in ("0.0.0.0", "[::]", "192.0.2.1", "example.invalid"):
        with pytest.raises(UsageError, match=r"needs a token: set REPLAYKIT_TOKEN.*\?open=true"):
            PrometheusOutput(f"prometheus://{host}:0", Rotation())
    with pytest.raises(UsageError, match="open=true"):
        PrometheusOutput("prometheus://127.0.0.1:0?open=yes", Rotation())
    output = PrometheusOutput("prometheus://127.0.0.1:0", Rotation())
    try:  # here no page of a browser may read it by a name of its own
        assert asked(output.port)[0] == 200 and asked(output.port, Host="localhost:1")[0] == 200
        assert asked(output.port, Host="evil.example") == (403, "for this machine only\n")
        assert asked(output.port, method="HEAD") == (200, "")
    finally:
        output.close()
    output = PrometheusOutput("prometheus://0.0.0.0:0?open=true", Rotation())
    try:
        assert asked(output.port, Host="node-7:9900")[0] == 200
    finally:
        output.close()
    monkeypatch.setenv("REPLAYKIT_TOKEN", "a-long-secret")
    output = PrometheusOutput("prometheus://0.0.0.0:0", Rotation())
    try:
        assert asked(output.port)[0] == asked(output.port, Authorization="Bearer guess")[0] == 401
        status, page = asked(output.port, Authorization="Bearer a-long-secret")
        assert status == 200 and "replaykit_exchanges" in page
    finally:
        output.close()


def test_beyond_this_machine_a_pipeline_asks_for_consent() -> None:
    state: dict[str, Any] = {"ok": True, "outputs": {"/secret/place": {}}, "metrics": {("a_total", ()): 1}}
    with pytest.raises(UsageError, match=r"needs a token: set REPLAYKIT_TOKEN.*health_open: true"):
        Health("0.0.0.0:0", lambda: state)
    health = Health("0.0.0.0:0", lambda: state, "a-long-secret")
    try:
        # A probe needs no token, and is told no more than it asks for.
        assert asked(health.port, "/health", Host="10.0.0.7") == (200, '{"ok": true}')
        state["ok"] = False
        assert asked(health.port, "/health") == (503, '{"ok": false}')
        assert asked(health.port)[0] == asked(health.port, "/else")[0] == 401
        bearer = {"Authorization": "Bearer a-long-secret"}
        assert "a_total 1" in asked(health.port, **bearer)[1]
        assert "/secret/place" in asked(health.port, "/health", **bearer)[1]
    finally:
        health.close()
    for address, everybody, host, status in (
        ("0.0.0.0:0", True, "10.0.0.7", 200),
        ("127.0.0.1:0", False, "localhost", 200),
        ("127.0.0.1:0", False, "evil.example", 403),
    ):
        health = Health(address, lambda: state, everybody=everybody)
        try:
            assert asked(health.port, Host=host)[0] == status
        finally:
            health.close()


def test_a_pipeline_says_so_before_it_runs(tmp_path: Path) -> None:
    (tmp_path / "in.pcap").write_bytes(b"")
    flow = tmp_path / "p.yaml"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("REPLAYKIT_TOKEN")}

    def check(health: str, **more: str) -> subprocess.CompletedProcess[str]:
        flow.write_text(f"inputs: [{{files: {tmp_path}/in.pcap}}]\noutputs: [{tmp_path}/out.csv]\n{health}\n")
        command = [sys.executable, "-m", "replaykit", "run", str(flow), "--check"]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment | more)

    done = check("health: 0.0.0.0:9901")
    assert done.returncode == 2 and "health_open: true" in done.stderr
    assert check("health: 0.0.0.0:9901\nhealth_open: true").returncode == 0
    assert check("health: 0.0.0.0:9901", REPLAYKIT_TOKEN="a-long-secret").returncode == 0
    assert check("health: :9901").returncode == 0
    done = check("health_open: true")
    assert done.returncode == 2 and "p.yaml" in done.stderr and "there is no health page" in done.stderr
