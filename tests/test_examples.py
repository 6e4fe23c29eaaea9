"""The programs in examples/ do what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from ci.servers import free_port, listening
from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from replaykit.outputs.output import Rotation
from samples.make import OUT
from tests.outputs.test_files import batch
from tests.talk import Talk, outcome

EXAMPLES = Path(__file__).parents[1] / "examples"


def names_of(program: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile((EXAMPLES / program).read_text(), program, "exec"), names)
    return names


def test_the_notebook() -> None:
    notebook = nbformat.read(EXAMPLES / "top_talkers.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    shown = [
        "".join(o.get("text", "") or o["data"]["text/plain"])
        for c in notebook.cells
        for o in c.get("outputs", [])
    ]
    assert "/reports/{date}/export.json" in shown[2]
    assert shown[-1].startswith("(False, ['/reports/{date}/export.json: share 62.5%")


def test_a_gate_in_pytest() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=",
        "bandwidth_gate.py",
    ]
    done = subprocess.run(
        command, cwd=EXAMPLES, env={**os.environ, "TRAFFIC": str(OUT)}, capture_output=True, text=True
    )
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout, done.stdout
    assert "over the limit of 50.0 kB" in done.stdout


def test_an_output() -> None:
    posted: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    opened = names_of("custom_output.py")["open_totals"]
    assert opened("x.parquet", Rotation()) is None
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        Thread(target=server.handle_request, daemon=True).start()
        output = opened(f"webhook-totals://127.0.0.1:{server.server_port}/totals", Rotation())
        output.exchanges(batch(3))
        output.close()
    [totals] = posted
    assert totals == {"/x0": 75, "/x1": 75, "/x2": 75}


def test_a_protocol() -> None:
    plugin = names_of("custom_protocol.py")["Memcached"]()
    engine = Engine(Options(plugin_ports=(11211,), protocols=("memcached",)), None, [plugin], pytest.fail)
    talk = Talk(dport=11211).open()
    talk.client(b"set user:7 0 60 5\r\nhel").client(b"lo\r\n").server(b"STORED\r\n")
    talk.client(b"get user:7 user:8\r\n").server(b"VALUE user:7 0 5\r\nhello\r\nVAL").server(
        b"UE user:8 0 2\r\nhi\r\nEND\r\n"
    )
    for p in talk.close().packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    found = outcome(engine).rows
    assert [
        (r["method"], r["endpoint"], r["request_body_bytes"], r["response_body_bytes"]) for r in found
    ] == [("set", "user", 26, 8), ("get", "user", 19, 52)]


def test_a_receiver_of_sizes(tmp_path: Path) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"

    def post(body: bytes) -> int:
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{base}/analyze", body)) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return int(error.code)

    with listening(sys.executable, str(EXAMPLES / "size_receiver.py"), str(port), port=port):
        assert (
            post(json.dumps({"path": "/film", "request": "GET", "response": "x" * 500_000}).encode()) == 204
        )
        assert post(b"[]") == 400 and post(b"{") == 400
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "replaykit",
                "replay",
                str(OUT),
                "--to",
                base,
                "--speed",
                "max",
                "--quiet",
                "--all-methods",
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        with urllib.request.urlopen(f"{base}/sums") as response:
            sums = json.load(response)
    assert sums[0] == {"path": "/film", "requests": 1, "request_bytes": 3, "response_bytes": 500_000}
    assert sum(row["requests"] for row in sums) > 200
