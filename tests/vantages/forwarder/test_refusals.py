"""What a mapping says of itself: its own name on a port that many share, when it last moved, and why nobody
is let in.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ci.servers import free_port
from replaykit.vantages.forwarder.mapping import mapping
from tests.target import until
from tests.vantages.forwarder.test_command import Running, files, forward
from tests.vantages.forwarder.test_forwarder import asynchronous, forwarding, to

assert files  # a fixture


def explained(f: Running, name: str, *more: str) -> str:
    rules = f.root / "rules.yaml"
    if not rules.exists():
        rules.write_text("rules: []\n")
    command = [sys.executable, "-m", "replaykit", "rules", "explain", name, "--rules", str(rules)]
    done = subprocess.run(
        [*command, "--ledger", str(f.root / "usage.db"), *more], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def mapped(f: Running, name: str) -> dict[str, Any]:
    found: dict[str, Any] = f.ask(f"/api/mapping/{urllib.parse.quote(name)}")[1]["data"]
    return found


def create(f: Running, target: int, **more: Any) -> int:
    port = int(more.pop("source_port", 0) or free_port())
    body = {"source_port": port, "target_host": "127.0.0.1", "target_port": target, **more}
    status, answer = f.ask("/api/mapping/create", body)
    assert status == 200, answer
    return port


def test_mappings_of_one_port_are_told_apart(files: int, tmp_path: Path) -> None:
    with forward(tmp_path) as f:
        port = create(f, files, protocol="host", host="One.Example")
        create(f, files, protocol="host", host="two.example", source_port=port)
        plain = create(f, files)
        create(f, files, protocol="udp", source_port=plain)
        subprocess.run(
            ["curl", "-s", "-o", "/dev/null", "-H", "Host: one.example", f"http://127.0.0.1:{port}/small"],
            check=True,
        )
        rows = f.ask("/api/stats/traffic")[1]["data"]["mappings"]
        names = {r.get("name"): r for r in rows}
        assert set(names) == {f"one.example:{port}", f"two.example:{port}", f"{plain}/udp", None}
        # The older shape, where the port says which it is.
        assert set(names[None]) == {"port", "bytes_sent", "bytes_received", "last_update"}
        assert names[f"one.example:{port}"]["bytes_sent"] > 3_000_000
        assert names[f"two.example:{port}"]["bytes_sent"] == 0
        events = f.root / "events"
        subprocess.run(
            ["curl", "-s", "-o", str(events), f"http://127.0.0.1:{f.api}/api/stats/events?most=1"], check=True
        )
        pushed = json.loads(events.read_text().removeprefix("data: "))["mappings"]
        assert [r.get("name") for r in pushed] == [r.get("name") for r in rows]
        for answer in (f.ask("/api/mapping/remove", {"source_port": port}), f.ask(f"/api/mapping/{port}")):
            assert answer[0] == 404 and f"one.example:{port}, two.example:{port}" in answer[1]["message"]
        assert mapped(f, f"two.example:{port}")["host"] == "two.example"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_last_update_outlives_the_process(number: int, files: int, tmp_path: Path) -> None:
    with forward(tmp_path) as f:
        port = create(f, files)
        subprocess.run(["curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{port}/small"], check=True)
        before = f.ask("/api/stats/traffic")[1]["data"]["mappings"][0]["last_update"]
        assert time.time() - before < 10
        time.sleep(3)  # FLUSH_S, and more than a second, so that a new time would be another
        f.stop(number)
        f.start()
        assert f.ask("/api/stats/traffic")[1]["data"]["mappings"][0]["last_update"] == before


def test_why_nobody_is_let_in(files: int, tmp_path: Path) -> None:
    """The client's limits, the mapping's own, a port that is taken, a rule: by the API and by `rules
    explain`.
    """
    rules = tmp_path / "rules.yaml"
    rules.write_text("interval: 0.3s\nrules: []\n")
    with forward(tmp_path, "--rules", str(rules)) as f:
        f.ask("/api/client/create", {"name": "home", "flow_limit_mb": 1})
        f.ask("/api/client/create", {"name": "busy", "max_connections": 1})
        spent, full = create(f, files, client="home"), create(f, files, client="busy")
        own = create(f, files, max_connections=1)
        never = create(f, files, client="home")
        assert mapped(f, str(spent))["refusals"] == []
        assert mapped(f, str(spent))["limits"] == ["client home: 0 of 1,048,576 bytes used (flow_limit_mb 1)"]
        subprocess.run(["curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{spent}/small"], check=False)
        with (
            socket.create_connection(("127.0.0.1", full)) as one,
            socket.create_connection(("127.0.0.1", own)) as two,
        ):
            assert one and two
            until(lambda: mapped(f, str(full))["refusals"] and mapped(f, str(own))["refusals"], 10)
            exceeded = "client home: Traffic exceeded: 1,048,576 of 1,048,576 bytes used (flow_limit_mb 1)"
            too_many = (
                "Connections exceed the current client limit: 1 of 1 connections open (max_connections)"
            )
            assert mapped(f, str(spent))["refusals"] == [exceeded]
            assert mapped(f, str(spent))["refusal"] == "Traffic exceeded"  # as the visitor is told
            assert mapped(f, str(full))["refusals"] == [f"client busy: {too_many}"]
            assert mapped(f, str(own))["refusals"] == [f"mapping {own}: {too_many}"]
            clients = {c["name"]: c["refusals"] for c in f.ask("/api/client/list")[1]["data"]}
            assert clients == {"busy": [f"client busy: {too_many}"], "home": [exceeded]}
            until(lambda: f"=> refused: client busy: {too_many}, as of 2" in explained(f, str(full)), 10)
            found = explained(f, str(spent))
            assert f"=> refused: {exceeded}, as of" in found and "nothing is restricted" not in found
            assert f"  {exceeded.replace('Traffic exceeded: ', '')}" in found
            assert f"=> refused: {exceeded}" in explained(f, str(never))  # which never moved a byte
            assert "nothing is restricted" in explained(f, str(spent), "--at", "2020-01-01")
        until(lambda: not mapped(f, str(full))["refusals"], 10)
        until(lambda: "nothing is restricted" in explained(f, str(full)), 10)
        # A rule that blocks is named.
        rules.write_text(
            f"interval: 0.3s\nrules:\n  - {{name: quota, kind: mapping, subjects: ['{spent}'], period: day,"
            " limit: 1kB, actions: [block]}\n"
        )
        until(lambda: f"mapping {spent}: blocked by a rule: quota" in mapped(f, str(spent))["refusals"], 10)
        assert exceeded in mapped(f, str(spent))["refusals"]
        rules.write_text("rules: []\n")
        # A port that somebody else took while it was away.
        f.stop()
        assert "=> refused: the forwarder has ended, as of" in explained(f, str(own))
        with closing(socket.create_server(("127.0.0.1", own))):
            f.start()
            taken = f"mapping {own}: cannot listen: 127.0.0.1 port {own}: address already in use"
            assert mapped(f, str(own))["refusals"] == [taken] and not mapped(f, str(own))["running"]
            until(lambda: taken in explained(f, str(own)), 10)
        assert f.ask(f"/api/mapping/{own}", method="DELETE")[0] == 200
        until(lambda: f"there is no mapping {own} any more" in explained(f, str(own)), 10)


@asynchronous
async def test_one_that_cannot_move_stays_where_it_was() -> None:
    from replaykit.errors import UsageError

    async with forwarding(made := to(9)) as forwarder:
        name = str(made["source_port"])
        taken = closing(socket.create_server(("127.0.0.2", int(name))))
        with taken, pytest.raises(UsageError, match="in use"):
            await forwarder.put(mapping({**made, "listen": "127.0.0.2"}))
        assert forwarder.refusals("mapping", name) == []
        socket.create_connection(("127.0.0.1", int(name))).close()  # it listens yet
