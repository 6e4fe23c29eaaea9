"""The .gor format: ours, and GoReplay's own program on it."""

from __future__ import annotations

import gzip
import http.server
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from replaykit.cli.main import main
from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from replaykit.outputs.gor import GorOutput
from replaykit.outputs.output import Rotation
from replaykit.records.message import SEPARATOR, Messages
from tests.mutate import write
from tests.talk import Talk, outcome, play

POST = b"POST /p?x=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TALK = Talk().open().client(POST, 30).server(OK, 20).client(POST).server(OK).close()


def messages() -> Messages:
    engine = Engine(Options(requests=True, responses=True))
    for p in TALK.packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    return engine.take_messages()


def test_records(tmp_path: Path) -> None:
    for name in ("a.gor", "a.gor.gz"):
        for _ in range(2):
            output = GorOutput(str(tmp_path / name), Rotation(existing="append"))
            output.messages(messages())
            output.close()
    plain = (tmp_path / "a.gor").read_bytes()
    assert gzip.decompress((tmp_path / "a.gor.gz").read_bytes()) == plain
    records = plain.split(SEPARATOR)
    assert len(records) == 9 and records[-1] == b""
    head, payload = records[0].split(b"\n", 1)
    first = TALK.packets[3]
    assert head == b"1 9c4000500a00000100001389 %d %d" % (first.time, 100_000)
    assert payload == POST
    assert records[1].split(b"\n", 1)[1] == OK


def test_reading_gives_the_exchanges_back() -> None:
    data = bytes(messages().gor)
    opened = Engine(Options())
    assert opened.feed_gor(data + b"1 torn", 0, len(data) + 6) == len(data)
    found, live = outcome(opened), play(TALK.packets)
    names = (
        "method",
        "target",
        "status",
        "request_wire_bytes",
        "response_wire_bytes",
        "complete",
        "time",
        "client_ip",
        "client_port",
    )
    assert [[r[n] for n in names] for r in found.rows] == [[r[n] for n in names] for r in live.rows]


def test_rotation_by_size(tmp_path: Path) -> None:
    output = GorOutput(str(tmp_path / "a.gor"), Rotation(max_bytes=100))
    for _ in range(3):
        output.messages(messages())
    output.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a-{n:06d}.gor" for n in (1, 2, 3)]
    assert all(p.read_bytes().endswith(SEPARATOR) for p in tmp_path.iterdir())


def test_goreplay_replays_ours(tmp_path: Path) -> None:
    """With GOREPLAY=/path/to/goreplay: every request arrives byte for byte."""
    program = os.environ.get("GOREPLAY")
    if not program:
        pytest.skip("set GOREPLAY to GoReplay's program to replay our files with it")
    got: list[tuple[str, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    gor = tmp_path / "a.gor"
    pcap = tmp_path / "a.pcap"
    pcap.write_bytes(write(TALK.packets))
    assert main(["exchanges", str(pcap), "--quiet", "--to", str(gor)]) == 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        to = f"http://127.0.0.1:{server.server_address[1]}"
        run = subprocess.Popen(
            [program, "--input-file", str(gor), "--output-http", to], stderr=subprocess.DEVNULL
        )
        try:
            for _ in range(100):
                if len(got) == 2:
                    break
                time.sleep(0.1)
        finally:
            run.terminate()
            run.wait(10)
            server.shutdown()
    assert got == [("/p?x=1", b"body")] * 2
