"""The API against its own description, and what is pushed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.vantages.forwarder.test_command import files, forward

assert files  # a fixture


@pytest.mark.slow
def test_its_description_holds(tmp_path: Path) -> None:
    """Schemathesis sends what the description allows, and what it does not; no answer is outside of it."""
    with forward(tmp_path, token="a-long-secret") as f:
        program = str(Path(sys.executable).parent / "schemathesis")
        done = subprocess.run(
            [
                program,
                "run",
                f"http://127.0.0.1:{f.api}/openapi.json",
                "-H",
                "Authorization: Bearer a-long-secret",
                "-n",
                "25",
                "--seed",
                "7",
                "--exclude-path",
                "/api/stats/events",
                "--mode",
                "all",
                "--request-timeout",
                "20",
                "--phases",
                "examples,coverage,fuzzing",
                "--checks",
                "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,negative_data_rejection",
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=250,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        assert "Traceback" not in f.log, f.log[-3000:]
        assert f.ask("/health")[0] == 200


@pytest.mark.slow
def test_pushed_every_second(tmp_path: Path) -> None:
    with forward(tmp_path, token="a-long-secret") as f:
        url = f"ws://127.0.0.1:{f.api}/api/stats/ws"

        async def listen() -> list[int]:
            async with connect(url, additional_headers={"Authorization": "Bearer a-long-secret"}) as socket:
                return [json.loads(await asyncio.wait_for(socket.recv(), 5))["timestamp"] for _ in range(3)]

        times = asyncio.run(listen())
        assert 1 <= times[-1] - times[0] <= 4

        async def as_a_browser() -> str:
            async with connect(url, subprotocols=["bearer", "a-long-secret"]) as socket:  # type: ignore[list-item]
                return str(json.loads(await socket.recv())["total_sent"])

        assert asyncio.run(as_a_browser()) == "0"

        async def without() -> None:
            async with connect(url):
                raise AssertionError("it was let in")

        with pytest.raises(InvalidStatus):
            asyncio.run(without())
        request = urllib.request.Request(
            f"http://127.0.0.1:{f.api}/api/stats/events?most=2",
            headers={"Authorization": "Bearer a-long-secret"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            events = [json.loads(line[6:]) for line in answer.read().split(b"\n\n") if line]
        assert len(events) == 2 and set(events[0]) == {
            "tunnel",
            "mappings",
            "total_sent",
            "total_received",
            "timestamp",
        }


@pytest.mark.slow
def test_history_and_reports(files: int, tmp_path: Path) -> None:
    from ci.servers import free_port

    with forward(tmp_path) as f:
        port = free_port()
        f.ask("/api/client/create", {"name": "home"})
        f.ask(
            "/api/mapping/create",
            {"source_port": port, "target_host": "127.0.0.1", "target_port": files, "client": "home"},
        )
        subprocess.run(["curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{port}/small"], check=True)
        sent = f.moved(port)[1]
        import time

        time.sleep(2.5)
        for period in ("minute", "hour", "day", "month"):
            rows = f.ask(f"/api/history?period={period}&kind=mapping&client=home")[1]["data"]["rows"]
            assert [(r["subject"], r["tx_bytes"]) for r in rows] == [(str(port), sent)]
        # Every bucket of the span is there; the last is as long as it lasts yet.
        found = f.ask("/api/history?period=minute&kind=mapping")[1]["data"]
        assert len(found["buckets"]) in (60, 61) and len(found["rows"]) == 1 and found["time_zone"]
        assert all(b["seconds"] == 60 and b["gap_seconds"] == 0 for b in found["buckets"][:-1])
        assert found["buckets"][-1]["seconds"] <= 60
        (row,) = f.ask("/api/totals?by=label:client&kind=mapping")[1]["data"]["rows"]
        assert (row["subject"], row["tx_bytes"], row["total_bytes"]) == ("home", sent, sum(f.moved(port)))
        for kind, begins in (
            ("csv", b"time,until,"),
            ("json", b"{"),
            ("html", b"<!doctype html>"),
            ("png", b"\x89PNG"),
        ):
            with urllib.request.urlopen(
                f"http://127.0.0.1:{f.api}/api/report?format={kind}&period=hour&dark=true", timeout=30
            ) as answer:
                body = answer.read()
            assert body.startswith(begins) and (kind == "png" or str(port).encode() in body)
