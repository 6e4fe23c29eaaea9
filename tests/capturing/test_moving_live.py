"""Bytes count when they move: what runs long is seen with its rate from the first second, whatever carries
it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from ci.servers import certificate, free_port, nginx

pytestmark = [pytest.mark.usefixtures("live"), pytest.mark.timeout(120)]

PIECE = b"p" * 100_000
EVERY_S = 0.1
RATE = len(PIECE) / EVERY_S
"""Bytes a second, a little less in truth: sleeping takes longer than it should."""
SECONDS = 6


@contextmanager
def stats(port: int, *more: str) -> Iterator[list[dict[str, Any]]]:
    """The lines of `capture --stats`, two seconds apart, once the block has ended."""
    command = [
        sys.executable,
        "-m",
        "replaykit",
        "capture",
        f"lo:{port}",
        "--stats",
        "--interval",
        "2s",
        *more,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines: list[dict[str, Any]] = []
    assert process.stderr is not None
    assert "capturing" in process.stderr.readline()
    try:
        yield lines
    finally:
        process.terminate()
        out, said = process.communicate(timeout=30)
        assert process.returncode == 0, said
        lines += map(json.loads, out.splitlines())


def rates(lines: list[dict[str, Any]], endpoint: str) -> list[float]:
    """Of the endpoint in each line."""
    found = []
    for line in lines:
        assert line["window_seconds"] == 2
        found.append(next((e["bytes_per_second"] for e in line["top_endpoints"] if e["path"] == endpoint), 0))
    return found


def steady(lines: list[dict[str, Any]], endpoint: str, rate: float, least: float = 0.6) -> None:
    """Two whole windows or more have this rate, none has more, and it was in flight meanwhile."""
    found = rates(lines, endpoint)
    assert sum(least * rate < r < 1.4 * rate for r in found) >= 2, found
    assert max(found) < 1.4 * rate, found
    runners = [r for line in lines for r in line["long_runners"] if r["endpoint"] == endpoint]
    assert runners and all(line["in_flight"] >= 1 for line in lines if line["long_runners"])
    assert max(r["bytes"] for r in runners) > rate


def pieces() -> Iterator[bytes]:
    for _ in range(int(SECONDS / EVERY_S)):
        yield PIECE
        time.sleep(EVERY_S)


def test_a_download_of_nginx(tmp_path: Path) -> None:
    with nginx(tmp_path) as server, stats(server.port) as lines:
        url = f"http://127.0.0.1:{server.port}/slow/12m.bin"
        subprocess.run(["curl", "-s", "-o", "/dev/null", url], check=True)
        time.sleep(2.5)
    steady(lines, "/slow/12m.bin", 2 << 20)
    last = lines[-1]
    assert last["total_requests"] == 1 and last["in_flight"] == 0
    assert 12 <= last["total_mb"] < 12.1


class Events(BaseHTTPRequestHandler):
    """Server-sent events, 100 kB each."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece in pieces():
            self.wfile.write(b"data: " + piece + b"\n\n")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def http_server(context: ssl.SSLContext | None = None) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Events) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_server_sent_events() -> None:
    with http_server() as port, stats(port) as lines:
        subprocess.run(["curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{port}/events"], check=True)
        time.sleep(2.5)
    steady(lines, "/events", RATE)


def test_tls_without_keys(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "film.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    with http_server(context) as port, stats(port) as lines:
        resolve = ["--resolve", f"film.test:{port}:127.0.0.1"]
        url = f"https://film.test:{port}/events"
        subprocess.run(["curl", "-sk", "-o", "/dev/null", *resolve, url], check=True)
        time.sleep(2.5)
    steady(lines, "tls://film.test", RATE)


def test_a_grpc_server_stream() -> None:
    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            return grpc.unary_stream_rpc_method_handler(lambda request, context: pieces())

    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with stats(port) as lines, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert sum(len(m) for m in channel.unary_stream("/films.Films/Watch")(b"")) == len(PIECE) * 60
            time.sleep(2.5)
    finally:
        server.stop(None)
    steady(lines, "/films.Films/Watch", RATE)


def test_an_http2_download_beside_short_requests(tmp_path: Path) -> None:
    with nginx(tmp_path, http2=True) as server, stats(server.port) as lines:
        base = f"http://127.0.0.1:{server.port}"
        short = [f"{base}/api/{n}" for n in range(90)]
        subprocess.run(["nghttp", "-n", "-w", "20", "-W", "20", f"{base}/slow/12m.bin", *short], check=True)
        subprocess.run(
            ["h2load", "-n", "1000", "-c", "10", "-m", "10", f"{base}/api/x"], check=True, capture_output=True
        )
        time.sleep(2.5)
    steady(lines, "/slow/12m.bin", 2 << 20)
    assert lines[-1]["total_requests"] == 1091


def test_one_large_websocket_message() -> None:
    async def talk(port: int, heard: Callable[[int], None]) -> None:
        async def hear(socket: Any) -> None:
            async for message in socket:
                heard(len(message))

        async def slowly() -> Any:
            for _ in range(int(SECONDS / EVERY_S)):
                yield PIECE
                await asyncio.sleep(EVERY_S)

        async with (
            serve(hear, "127.0.0.1", port, max_size=None),
            connect(f"ws://127.0.0.1:{port}/film", compression=None) as socket,
        ):
            await socket.send(slowly())

    port, sizes = free_port(), []
    with stats(port) as lines:
        asyncio.run(talk(port, sizes.append))
        time.sleep(2.5)
    assert sizes == [len(PIECE) * 60]
    steady(lines, "/film", RATE)


def test_minutes_and_counters_have_it_while_it_runs(tmp_path: Path) -> None:
    """A ledger has the bytes of a download that has not ended, and each of them once when it has."""
    place = tmp_path / "usage.db"

    def moved() -> tuple[int, int]:
        """Bytes sent, and requests."""
        export = [sys.executable, "-m", "replaykit", "export", f"sqlite:///{place}", "--format", "json"]
        done = subprocess.run(export, capture_output=True, text=True, check=False)
        rows = json.loads(done.stdout)["rows"] if done.returncode == 0 else []
        return sum(r["tx_bytes"] for r in rows), sum(r["requests"] for r in rows)

    with nginx(tmp_path) as server, stats(server.port, "--to", f"sqlite:///{place}"):
        url = f"http://127.0.0.1:{server.port}/slow/12m.bin"
        curl = subprocess.Popen(["curl", "-s", "-o", "/dev/null", url])
        deadline = time.monotonic() + 30
        while not place.exists() or moved()[0] < 1 << 20:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert curl.poll() is None and moved()[1] == 0  # it has not ended, nor is it counted
        assert curl.wait(30) == 0
    size, requests = moved()
    assert requests == 1 and 12 << 20 < size < (12 << 20) + 1000
