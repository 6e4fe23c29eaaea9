"""HTTP/2 targets: nghttpd, and one that limits and refuses."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.servers import certificate, free_port
from replaykit.replaying.http2 import to_fields
from tests.replaying.test_pool import heard, replay
from tests.target import Rec, get, listens, post, until


@pytest.fixture(params=["http", "https"])
def nghttpd(request: pytest.FixtureRequest, tmp_path: Path, live: None) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "a.txt").write_bytes(b"x" * 200_000)
    (tmp_path / "www" / "index.html").write_bytes(b"<p>")
    port = free_port()
    command = ["nghttpd", "-d", str(tmp_path / "www"), "-a", "127.0.0.1", "--echo-upload", "-m", "5"]
    if request.param == "http":
        command += ["--no-tls", str(port)]
    else:
        command += [str(port), *(str(p) for p in reversed(certificate(tmp_path, "127.0.0.1")))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: listens(port), 20)
        time.sleep(0.1)
        yield f"{request.param}://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def test_requests_bodies_and_responses(nghttpd: str) -> None:
    found, hear = heard()
    body = b"0123456789" * 40_000
    records = [
        Rec(get("/a.txt")),
        Rec(get("/missing")),
        Rec(get("/").replace(b"GET", b"HEAD")),
        Rec(post("/up", body)),
    ]
    made = replay(
        nghttpd, records * 5, http2=True, connections=2, verify=False, keep=True, heard=hear, timeout_s=30
    )
    assert not made.stats.errors and made.stats.statuses == {200: 15, 404: 5}
    assert made.stats.connections <= 2
    bodies = [a.payload.partition(b"\r\n\r\n")[2] for _, a in found]
    assert bodies.count(b"x" * 200_000) == 5 and bodies.count(body) == 5
    assert all(a.payload.startswith(b"HTTP/1.1 ") for _, a in found)


def test_a_target_that_speaks_no_http2() -> None:
    from tests.target import target

    with target() as there:
        made = replay(there.url, [Rec(get("/a"))] * 4, http2=True, timeout_s=2)
    assert made.stats.answered == 0 and sum(made.stats.errors.values()) == 4


def test_fields() -> None:
    chunked = (
        b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\nTE:"
        b" gzip\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    )
    fields, body = to_fields(chunked, b"https")
    assert body == b"ab"
    assert fields == [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", b"/x"),
        (b":authority", b"h"),
        (b"x-a", b"1"),
    ]
