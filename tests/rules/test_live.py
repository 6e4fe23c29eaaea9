"""Rules and the running capture: real traffic, a filter and a sample that change while it runs."""

from __future__ import annotations

import http.client
import os
import queue
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ci.servers import nginx
from replaykit.capturing.live import Capture, Settings
from replaykit.capturing.places import parse_place
from replaykit.cli.watching import LiveAlerts
from replaykit.engine.options import Options
from tests.outputs.conftest import batch, run


class Seen:
    """What a capture gives, by path."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.paths: list[str] = []
        self.weights: list[float] = []

    def gather(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                found = self.capture.results.get(timeout=0.1).exchanges
            except queue.Empty:
                continue
            if found is not None:
                self.paths += [p for p in found.column("path").to_pylist() if p]
                self.weights += found.column("weight").to_pylist()


def ask(port: int, path: str, count: int = 1) -> None:
    for _ in range(count):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path)
        connection.getresponse().read()
        connection.close()


@pytest.mark.usefixtures("live")
def test_a_capture_changes_and_changes_back(tmp_path: Path) -> None:
    with nginx(tmp_path) as server:
        capture = Capture(Settings([parse_place(f"lo:{server.port}")], buffer_bytes=8 << 20), Options())
        seen = Seen(capture)
        capture.start()
        try:
            ask(server.port, "/api/one", 5)
            seen.gather(1.5)
            capture.change({"disallow_url": ("^/api/two",), "sample": 0.25, "headers_only": True})
            time.sleep(0.3)
            ask(server.port, "/api/two", 5)
            ask(server.port, "/api/three", 80)
            seen.gather(1.5)
            sampled = seen.paths.count("/api/three")
            capture.change({})
            time.sleep(0.3)
            ask(server.port, "/api/two", 5)
            seen.gather(1.5)
            capture.stop()
            seen.gather(1.5)
            totals = capture.totals()
        finally:
            capture.close()
    assert seen.paths.count("/api/one") == 5 and seen.paths.count("/api/two") == 5
    assert 4 <= sampled <= 45 and seen.weights.count(4.0) == sampled
    account = totals.account
    assert (
        account["exchanges"] == len(seen.paths) and account["pending_bytes"] == 0
    )  # conservation over all engines


RULES = """
rules:
  - name: much
    metric: bytes
    above: 1kB
    window: 1m
    change: {sample: 50%, disallow-url: ["^/static/"]}
"""


def test_a_rule_changes_the_capture_while_it_fires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of our own; the state survives a restart of the capture, and so does the change."""
    changes: list[Any] = []

    class Captured:
        def change(self, wanted: Any) -> None:
            changes.append(wanted)

        def totals(self) -> Any:
            raise AssertionError("not asked so soon")

    (tmp_path / "rules.yaml").write_text(RULES)
    start = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp())
    now = start
    monkeypatch.setattr("replaykit.cli.watching.time.time", lambda: float(now))
    monkeypatch.setattr("replaykit.cli.watching.time.time_ns", lambda: now * 10**9)

    def begun() -> LiveAlerts:
        alerts = LiveAlerts(str(tmp_path / "rules.yaml"), str(tmp_path / "state"), quiet=True)
        alerts._stopping.set()  # stepped by hand
        alerts._thread.join()
        return alerts

    def turn(alerts: LiveAlerts, minute: int, exchanges: int) -> None:
        nonlocal now
        if exchanges:
            alerts.add(batch((start + minute * 60) * 10**9, exchanges))
        now = start + minute * 60 + 64
        alerts.watch.advance(now - 3)
        alerts._wanted = alerts.watch.changes()
        alerts.turn(Captured())  # type: ignore[arg-type]

    alerts = begun()
    turn(alerts, 0, 2)
    assert changes == []
    turn(alerts, 1, 100)
    assert changes == [{"sample": 0.5, "disallow_url": ("^/static/",)}]
    alerts.close()
    again = begun()
    again.turn(Captured())  # type: ignore[arg-type]
    assert changes[1:] == changes[:1]
    turn(again, 2, 1)
    assert changes[2:] == [{}]
    again.close()


def test_wrong_use(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: [{name: r, metric: bytes, above: 1MB, change: {headers_only: true}}]\n")
    done = run(
        "capture",
        "lo:9",
        "--alerts",
        str(rules),
        "--alert-state",
        str(tmp_path / "s"),
        "--to",
        str(tmp_path / "a.gor"),
        "--duration",
        "1s",
    )
    assert done.returncode == 2 and "headers_only" in done.stderr and "Traceback" not in done.stderr
    rules.write_text("rules: [{name: r, metric: bytes, above: 1MB, change: {disallow-url: ['(']}}]\n")
    done = run(
        "capture", "lo:9", "--alerts", str(rules), "--alert-state", str(tmp_path / "s"), "--duration", "1s"
    )
    assert done.returncode == 2 and "regular expression" in done.stderr and "Traceback" not in done.stderr
    if os.geteuid() == 0:
        rules.write_text("rules: [{name: r, metric: bytes, above: 1MB}]\n")
        done = run(
            "capture",
            "lo:9",
            "--alerts",
            str(rules),
            "--alert-state",
            str(tmp_path / "s"),
            "--duration",
            "1s",
        )
        assert done.returncode == 0, done.stderr
