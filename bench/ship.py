"""Shipping: exchanges a second and CPU an exchange, to a sink that only reads, and to a real Elasticsearch.

The sink is a process of its own on the other core, so that what is measured is ours. `both`: a document an
exchange and statistics by minute; `minutes`: statistics only.
"""

from __future__ import annotations

import http.server
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.archive import batches
from ci.servers import elasticsearch, free_port, nginx, wrk
from replaykit.outputs.files import ParquetFile
from replaykit.records.exchange import BATCH_SCHEMA

ROWS = 400_000
REPLAYKIT = [sys.executable, "-m", "replaykit"]


class _Sink(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    documents = 0
    bytes = 0

    def _say(self, body: Any, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(data))),
            ("X-Elastic-Product", "Elasticsearch"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/sink":
            self._say({"documents": _Sink.documents, "bytes": _Sink.bytes})
        else:
            self._say({}, 404)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith("/_bulk"):
            _Sink.documents += body.count(b"\n") // 2
            _Sink.bytes += len(body)
        self._say({"errors": False, "items": [], "acknowledged": True})

    do_POST = do_PUT

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def _serve(port: int) -> None:
    os.sched_setaffinity(0, {1})
    http.server.ThreadingHTTPServer(("127.0.0.1", port), _Sink).serve_forever()


@contextmanager
def sink() -> Iterator[str]:
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(port,), daemon=True)
    process.start()
    import socket

    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.join()


def file(folder: Path, rows: int = ROWS) -> Path:
    path = folder / "exchanges.parquet"
    out = ParquetFile(path, BATCH_SCHEMA)
    for batch in batches(8, rows):
        out.write(batch)
    out.close()
    return path


def shipped(path: Path, url: str, what: str, folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of `replaykit ship`, on one core."""
    target = f"elasticsearch://{url.removeprefix('http://')}/bench?what={what}&spool={tempfile.mkdtemp(dir=folder)}&spool-size=4GB"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    command = ["taskset", "-c", "0", *REPLAYKIT, "ship", str(path), "--to", target, "--quiet"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    wall = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def shipping() -> tuple[str, list[list[str]]]:
    table = [["to", "documents", "exchanges/s", "CPU an exchange", "bytes sent an exchange"]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = file(folder)
        import urllib.request

        for what, label in (("exchanges,minutes", "both"), ("minutes", "minutes")):
            with sink() as url:
                wall, cpu = shipped(path, url, what, folder)
                with urllib.request.urlopen(f"{url}/sink") as answer:
                    found = json.load(answer)
            table.append(
                [
                    f"a sink, {label}",
                    f"{found['documents']:,}",
                    f"{ROWS / wall:,.0f}",
                    f"{cpu / ROWS * 1e6:.1f} µs",
                    f"{found['bytes'] / ROWS:.0f}",
                ]
            )
        os.chmod(folder, 0o755)
        small = file(folder / "small", 60_000)
        with elasticsearch(folder / "es") as url:
            for what, label in (("exchanges,minutes", "both"), ("minutes", "minutes")):
                wall, cpu = shipped(small, url, what, folder)
                table.append(
                    [
                        f"Elasticsearch (one node, one core), {label}",
                        "",
                        f"{60_000 / wall:,.0f}",
                        f"{cpu / 60_000 * 1e6:.1f} µs",
                        "",
                    ]
                )
    return (
        (
            f"{ROWS:,} exchanges of a Parquet file through the spool, reading and start-up included; one core"
            " for replaykit, the other for the server.\n\n"
        ),
        table,
    )


def live(seconds: int = 15) -> tuple[str, list[list[str]]]:
    """A capture under load that ships to a sink at the same time: what the kernel dropped, what waited at the
    end.
    """
    rows = [["beside it", "served", "kernel drops", "documents at the sink", "left in the spool"]]
    import urllib.request

    with tempfile.TemporaryDirectory() as name, nginx(Path(name)) as server, sink() as url:
        rate = wrk(f"http://127.0.0.1:{server.port}/api/1", 5)
        rows.append(["nothing", f"{rate:,.0f}/s", "", "", ""])
        target = f"elasticsearch://{url.removeprefix('http://')}/bench?spool={name}/spool&spool-size=4GB"
        process = subprocess.Popen(
            [*REPLAYKIT, "capture", f"lo:{server.port}", "--to", target, "--stats"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(2)
        rate = wrk(f"http://127.0.0.1:{server.port}/api/1", seconds)
        time.sleep(1)
        process.terminate()
        out, errors = process.communicate(timeout=120)
        last = json.loads(out.splitlines()[-1])
        with urllib.request.urlopen(f"{url}/sink") as answer:
            found = json.load(answer)
        left = "none" if process.returncode == 0 else errors.strip().splitlines()[-1][:120]
        rows.append(
            [
                "capture and shipping",
                f"{rate:,.0f}/s",
                f"{last['dropped_by_kernel']:,}",
                f"{found['documents']:,} of {last['total_requests']:,} exchanges",
                left,
            ]
        )
    return f"nginx and wrk on loopback for {seconds} s, all on two cores.\n\n", rows


if __name__ == "__main__":
    for text, table in (shipping(), live()):
        print(text + "\n".join(" | ".join(row) for row in table) + "\n")
