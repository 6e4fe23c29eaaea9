"""Live captures of real traffic: every exchange that nginx logged, and nothing twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ci.servers import Nginx, namespaces, nginx, wrk

pytestmark = [pytest.mark.usefixtures("live"), pytest.mark.timeout(120)]

REPLAYKIT = [sys.executable, "-m", "replaykit"]


@contextmanager
def capturing(*arguments: str, prefix: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """A capture that has begun; it is ended by SIGINT, and its output can be read afterwards."""
    process = subprocess.Popen(
        [*prefix, *REPLAYKIT, "capture", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    assert "capturing on" in first, first + process.stderr.read()
    try:
        yield process
        time.sleep(0.3)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)


def logged(server: Nginx, least: int = 1) -> list[tuple[str, int, int, int]]:
    """Method and URI, status, request length and bytes sent of each exchange; waits for nginx's buffer.

    nginx does not count the body of a POST that it refuses: its length is left out.
    """
    for _ in range(30):
        time.sleep(0.2)
        lines = server.log.read_text().splitlines() if server.log.exists() else []
        if len(lines) >= least:
            time.sleep(1.1)  # one flush interval more
            lines = server.log.read_text().splitlines()
            break
    parts = [line.split() for line in lines]
    return sorted((f"{p[1]} {p[2]}", int(p[3]), _unless_post(p[1], int(p[4])), int(p[5])) for p in parts)


def _unless_post(method: str, length: int) -> int:
    return 0 if method == "POST" else length


def check(path: Path, want: list[tuple[str, int, int, int]], connections: int) -> None:
    """Every exchange that nginx logged is there, with its sizes, and none twice.

    wrk leaves while answers are on their way: at most one exchange a connection is incomplete.
    """
    table = pq.read_table(path)
    names = ("method", "target", "status", "request_wire_bytes", "response_wire_bytes", "complete")
    rows = list(zip(*(table[c].to_pylist() for c in names), strict=True))
    whole = Counter((f"{m} {t}", s, _unless_post(m, q), r) for m, t, s, q, r, complete in rows if complete)
    assert len(rows) - whole.total() <= connections
    assert abs(len(rows) - len(want)) <= len(rows) - whole.total()
    assert not whole - Counter(want)
    assert (Counter(want) - whole).total() <= connections


@pytest.mark.parametrize(("place", "workers"), [("lo:{}", 1), (":{}", 1), ("lo:{}", 2), ("127.0.0.1:{}", 2)])
def test_every_exchange_once(tmp_path: Path, place: str, workers: int) -> None:
    out = tmp_path / "out.parquet"
    with nginx(tmp_path) as server:
        with capturing(place.format(server.port), "--workers", str(workers), "--to", str(out)) as process:
            wrk(f"http://127.0.0.1:{server.port}/", 1, 16, root=tmp_path)
            want = logged(server, 1000)
        stdout, stderr = process.communicate(timeout=30)
        assert process.returncode == 0, stderr
    assert len(want) > 1000
    check(out, want, 16)
    assert "dropped 0" in stdout
    assert oct(out.stat().st_mode & 0o777) == "0o600"


def test_across_a_network_of_small_packets(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with (
        namespaces("rk-test") as (client, server_side),
        nginx(tmp_path, "10.77.0.2", 80, prefix=server_side) as server,
    ):
        with capturing("veth0:80", "--to", str(out), prefix=tuple(server_side)) as process:
            wrk("http://10.77.0.2/files/100k.bin", 1, 4, mix=False, prefix=client)
            want = logged(server, 100)
        assert process.wait(30) == 0
    check(out, want, 4)
    table = pq.read_table(out)
    assert pc.min(table["response_packets"]).as_py() >= 69  # 100,000 bytes at 1,448 a packet


def test_headers_only_measures_bodies_it_never_saw(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with (
        namespaces("rk-head") as (client, server_side),
        nginx(tmp_path, "10.77.0.2", 80, prefix=server_side) as server,
    ):
        with capturing(
            "veth0:80", "--headers-only", "--stats", "--to", str(out), prefix=tuple(server_side)
        ) as process:
            wrk("http://10.77.0.2/files/100k.bin", 1, 4, mix=False, prefix=client)
            want = logged(server, 100)
        stdout, _ = process.communicate(timeout=30)
    check(out, want, 4)
    assert json.loads(stdout.splitlines()[-1])["account"]["truncated"] == 0


def test_sampling_keeps_whole_connections_and_weights_them(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with nginx(tmp_path) as server:
        with capturing(f"lo:{server.port}", "--sample", "0.5", "--to", str(out)) as process:
            wrk(f"http://127.0.0.1:{server.port}/api/1", 1, 200, mix=False)
            want = logged(server, 1000)
        assert process.wait(30) == 0
    table = pq.read_table(out)
    assert pc.sum(pc.invert(table["complete"])).as_py() <= 200  # wrk leaves while answers are on their way
    assert set(table["weight"].to_pylist()) == {2.0}
    assert 40 <= len(pc.unique(table["connection"])) <= 160
    estimate = 2 * table.num_rows
    assert 0.6 * len(want) < estimate < 1.4 * len(want)


def test_kernel_filter_by_expression_and_host(tmp_path: Path) -> None:
    """Only one of two connections passes; the other never reaches user space."""
    import http.client

    out = tmp_path / "out.jsonl"
    with nginx(tmp_path) as server:
        first = http.client.HTTPConnection("127.0.0.1", server.port, source_address=("127.0.0.1", 0))
        first.connect()
        port = first.sock.getsockname()[1]
        with capturing(
            f":{server.port}", "--filter", f"tcp port {port}", "--host", "127.0.0.1", "--to", str(out)
        ):
            other = http.client.HTTPConnection("127.0.0.1", server.port)
            for connection, path in ((first, "/api/mine"), (other, "/api/theirs")):
                connection.request("GET", path)
                connection.getresponse().read()
            time.sleep(0.7)
            first.close()
            other.close()
        time.sleep(1.5)
    assert [json.loads(line)["target"] for line in out.read_text().splitlines()] == ["/api/mine"]


def test_stats_has_document_003s_fields(tmp_path: Path) -> None:
    with nginx(tmp_path) as server:
        with capturing(f"lo:{server.port}", "--stats", "--interval", "200ms") as process:
            wrk(f"http://127.0.0.1:{server.port}/files/1k.bin", 1, 4, mix=False)
        stdout, _ = process.communicate(timeout=30)
    last = json.loads(stdout.splitlines()[-1])
    assert last["total_requests"] > 100
    assert last["max_response_size"] == pytest.approx((1000 + 260) / 1024, abs=0.1)
    assert 0 < last["avg_request_size"] < 1
    assert last["top_endpoints"][0]["path"] == "/files/1k.bin"
    assert last["top_endpoints"][0]["bandwidth_mb"] > 0
    assert len(stdout.splitlines()) > 3


def test_sigterm_flushes_and_a_kill_tears_nothing(tmp_path: Path) -> None:
    for number, out in ((signal.SIGTERM, tmp_path / "term"), (signal.SIGKILL, tmp_path / "kill")):
        with nginx(tmp_path) as server:
            targets = ["--to", f"{out}.gor", "--to", f"{out}.jsonl", "--to", f"{out}/", "--rotate-time", "1s"]
            with capturing(f"lo:{server.port}", *targets) as process:
                wrk(f"http://127.0.0.1:{server.port}/", 3, 4, root=tmp_path)
                process.send_signal(number)
                process.wait(30)
        records = Path(f"{out}.gor").read_bytes().split("\n🐵🙈🙉\n".encode())
        assert all(re.match(rb"[12] [0-9a-f]{24} [0-9]+ [0-9]+\n", r) for r in records[:-1])
        lines = Path(f"{out}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        stored = pq.read_table(sorted(out.glob("date=*/hour=*/*.parquet")))
        if number == signal.SIGTERM:
            assert records[-1] == b"" and stored.num_rows == len(rows) == (len(records) - 1) // 2
        else:
            assert len(rows) > 1000 and stored.num_rows > 1000
            assert len({(r["connection"], r["stream"]) for r in rows}) == len(rows)


def test_privileges_are_dropped(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as open_to_all, nginx(tmp_path) as server:
        os.chmod(open_to_all, 0o777)
        out = Path(open_to_all) / "out.jsonl"
        with capturing(f"lo:{server.port}", "--user", "nobody", "--to", str(out)) as process:
            status = Path(f"/proc/{process.pid}/status").read_text()
            wrk(f"http://127.0.0.1:{server.port}/", 1, 4, root=tmp_path)
        assert process.wait(30) == 0
        assert out.stat().st_uid == 65534 and out.read_text()
    assert re.search(r"^Uid:\t65534\t65534\t65534", status, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
