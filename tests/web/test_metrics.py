"""Every page of metrics as Prometheus itself reads it: one line that it cannot read, and it rejects the whole page."""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from replaykit.ledger.store import Ledger
from replaykit.netfilter.counters import Counters
from replaykit.netfilter.metrics import serve
from replaykit.netfilter.users import UserMap
from replaykit.netfilter.watch import Watch
from replaykit.ship.output import Rotation
from replaykit.ship.prometheus import PrometheusOutput
from replaykit.web.health import Health
from tests.conftest import needs
from tests.ship.test_prometheus import batch

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
