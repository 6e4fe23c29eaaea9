"""`replaykit demo`: serves local traffic, captures it, shows who used the bandwidth.

Where the privilege to capture is missing, the sample capture that comes with the package is read
instead. Either way a .gor and a Parquet file are left behind.
"""

from __future__ import annotations

import http.client
import http.server
import json
import random
import socketserver
import threading
import time
from pathlib import Path

from replaykit.capturing.ring import PRIVILEGE, Ring
from replaykit.cli.options.looking import DemoOptions
from replaykit.errors import UsageError
from replaykit.plain import out, say

_SECONDS = 4


class _Shop(http.server.BaseHTTPRequestHandler):
    """A small shop: products, images, orders, and one export that is far too large."""

    protocol_version = "HTTP/1.1"
    wbufsize = 65_536

    def _respond(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path.startswith("/images/"):
            self._respond(200, "image/png", bytes(20_000))
        elif self.path.startswith("/reports/"):
            row = {"id": 1, "name": "item", "price": 3.5}
            self._respond(200, "application/json", json.dumps([row] * 4_000).encode())
        elif self.path.startswith("/products/"):
            self._respond(200, "application/json", json.dumps({"id": self.path[10:], "stock": 7}).encode())
        else:
            self._respond(404, "text/plain", b"no such thing\n")

    def do_POST(self) -> None:
        order = self.rfile.read(int(self.headers["Content-Length"]))
        self._respond(201, "application/json", json.dumps({"received": len(order)}).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64


def _visit(port: int, until: float, seed: int) -> None:
    """One visitor on one connection."""
    r = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"User-Agent": "demo", "Authorization": "Bearer 0123456789"}
    time.sleep(1)  # until the capture has begun
    while time.monotonic() < until:
        what = r.random()
        if what < 0.6:
            connection.request("GET", f"/products/{r.randrange(1, 10_000)}?ref=home", headers=headers)
        elif what < 0.8:
            connection.request("GET", f"/images/{r.randbytes(8).hex()}.png", headers=headers)
        elif what < 0.9:
            connection.request("POST", "/orders", json.dumps({"items": [1] * r.randrange(200)}), headers)
        elif what < 0.92:
            connection.request("GET", "/reports/2026-11-21/export.json", headers=headers)
        else:
            connection.request("GET", "/favicon.ico", headers=headers)
        connection.getresponse().read()
        time.sleep(0.01)
    connection.close()


def run(args: DemoOptions) -> int:
    from replaykit.cli.main import main

    directory = Path(args.directory)
    directory.mkdir(parents=True, exist_ok=True)
    gor, parquet = directory / "traffic.gor", directory / "traffic.parquet"
    gor.unlink(missing_ok=True)  # a .gor file is appended to
    outputs = ["--overwrite", "--to", str(gor), "--to", str(parquet)]
    with _Server(("127.0.0.1", 0), _Shop) as server:
        port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        until = time.monotonic() + _SECONDS
        visitors = [threading.Thread(target=_visit, args=(port, until, n), daemon=True) for n in range(8)]
        privileged = _may_capture()
        if privileged:
            say(f"a small shop serves 8 visitors on 127.0.0.1:{port} for {_SECONDS} seconds")
            for visitor in visitors:
                visitor.start()
            capture = ["capture", f"lo:{port}", "--duration", f"{_SECONDS + 1}s", "--redact", "authorization"]
            status = main([*capture, *outputs])
            for visitor in visitors:
                visitor.join(10)
        server.shutdown()
    if not privileged:
        say("no privilege to capture here (CAP_NET_RAW): reading the sample capture instead")
        sample = Path(__file__).parents[2] / "samples" / "shop.pcap.gz"
        if not sample.exists():
            raise UsageError(f"no sample capture at {sample}; {PRIVILEGE}")
        status = main(["exchanges", str(sample), "--quiet", *outputs])
        status = status or main(["report", str(sample)])
    if status == 0:
        out(
            "",
            f"left behind: {gor} ({gor.stat().st_size:,} bytes) and {parquet} ({parquet.stat().st_size:,}"
            " bytes)",
        )
        out(f"go on with: replaykit report {parquet} --by client,status")
    return status


def _may_capture() -> bool:
    try:
        Ring(1, "lo", [(0x06, 0, 0, 0)], 4 << 20, None).close()
    except UsageError:
        return False
    return True
