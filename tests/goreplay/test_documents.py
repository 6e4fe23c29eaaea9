"""--output-http-elasticsearch: GoReplay's documents, in a real Elasticsearch."""

from __future__ import annotations

import datetime
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from ci.servers import free_port
from replaykit.goreplay.documents import document
from tests.target import Rec, get, gor, run_gor, target, until


@pytest.fixture
def server(elastic: str) -> str:
    return elastic


def found(url: str, index: str) -> list[dict[str, Any]]:
    try:
        urllib.request.urlopen(f"{url}/{index}/_refresh", data=b"", timeout=20).close()
        with urllib.request.urlopen(f"{url}/{index}/_search?size=1000", timeout=20) as response:
            return [hit["_source"] for hit in json.load(response)["hits"]["hits"]]
    except urllib.error.HTTPError:
        return []


def test_documents(server: str, tmp_path: Path) -> None:
    name = tmp_path / "in.gor"
    name.write_bytes(gor([Rec(get(f"/{n}?x", "User-Agent: test", "Cookie: a=b"), n) for n in range(20)]))
    response = b"HTTP/1.1 201 Created\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
    with target(lambda request: response) as there:
        done = run_gor(
            "--input-file",
            str(name),
            "--output-http",
            there.url,
            "--output-http-elasticsearch",
            f"{server.removeprefix('http://')}/gor",
        )
    assert done.returncode == 0, done.stderr
    until(lambda: len(found(server, "gor")) == 20, 60)
    one = next(d for d in found(server, "gor") if d["Req_URL"] == "/7?x")
    assert one["Req_Method"] == "GET" and one["Req_User-Agent"] == "test" and one["Req_Cookies"] == "a=b"
    assert one["Resp_Status"] == one["Resp_Status-Code"] == "201" and one["Resp_Content-Type"] == "text/plain"
    assert one["RTT"] >= 0 and datetime.datetime.fromisoformat(one["Timestamp"])


def test_a_server_that_is_away_holds_up_nothing_and_gets_them_later(server: str, tmp_path: Path) -> None:
    name, spool = tmp_path / "in.gor", tmp_path / "spool"
    name.write_bytes(gor([Rec(get(f"/{n}")) for n in range(5)]))
    for place, waits in ((f"127.0.0.1:{free_port()}", True), (server.removeprefix("http://"), False)):
        with target() as there:
            done = run_gor(
                "--input-file",
                str(name),
                "--output-http",
                there.url,
                "--output-http-elasticsearch",
                f"{place}/later?spool={spool}",
            )
        assert len(there.requests) == 5 and (b"for the next run" in done.stderr) == waits, done.stderr
    assert len(found(server, "later")) == 10


def test_the_document() -> None:
    now = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    made = document(get("/a"), b"HTTP/1.1 404 Not Found\r\nVary: x\r\n\r\n", 12_999_999, now)
    assert made == {
        "Req_URL": "/a",
        "Req_Method": "GET",
        "Req_User-Agent": "",
        "Resp_Status": "404",
        "Resp_Status-Code": "404",
        "Resp_Proto": "HTTP/1.1",
        "Resp_Vary": "x",
        "RTT": 12,
        "Timestamp": "2026-01-02T00:00:00+00:00",
    }
