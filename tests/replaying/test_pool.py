"""Requests to targets that are well, slow, dead, or worse: each is answered or counted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ci.servers import certificate, free_port
from replaykit.engine.gor_records import open_records
from replaykit.engine.rewriting import Rules
from replaykit.errors import UsageError
from replaykit.records.message import Messages
from replaykit.replaying.job import Job, Response, Sending
from replaykit.replaying.outgoing import Aim
from replaykit.replaying.pace import AnyPace, Flat, Rate, Recorded
from replaykit.replaying.runner import Plan, Replay
from replaykit.replaying.target import parse_target
from tests.target import CLOSE, OK, RESET, Rec, get, gor, paths, post, target


def messages(records: list[Rec]) -> Messages:
    data = gor(records)
    reader = open_records(Rules())
    reader.feed(data, 0, len(data))
    return reader.take(True)


def replay(
    url: str,
    records: list[Rec],
    pace: AnyPace | None = None,
    aim: Aim | None = None,
    loops: int = 1,
    **sending: Any,
) -> Replay:
    plan = Plan(
        parse_target(url),
        lambda: iter([messages(records)]),
        aim or Aim(),
        pace or Flat(),
        Sending(**sending),
        loops=loops,
    )

    async def go() -> Replay:
        made = Replay(plan)
        await made.run()
        return made

    made = asyncio.run(go())
    stats = made.stats
    sendable = sum(r.kind == 1 for r in records) * loops
    assert (
        stats.answered - stats.redirected + sum(stats.errors.values()) + sum(stats.skipped.values())
        == sendable
    )
    assert stats.latency.count == stats.answered - stats.redirected
    return made


def heard() -> tuple[list[tuple[bytes, Response]], Callable[[Job, Response], None]]:
    found: list[tuple[bytes, Response]] = []
    return found, lambda job, response: found.append((job.batch.id(job.row), response))


def test_requests_arrive_as_recorded() -> None:
    body = bytes(range(256)) * 10
    records = [Rec(get(f"/{n}", "X-Own: kept")) for n in range(50)] + [Rec(post("/p", body))]
    with target() as there:
        made = replay(there.url, records, connections=4, aim=Aim(b"127.0.0.1:1"))
    assert sorted(paths(there.payloads)) == sorted([f"/{n}" for n in range(50)] + ["/p"])
    assert there.connections <= 4 and made.stats.connections == there.connections
    sent = {p.split(b" ")[1]: p for p in there.payloads}
    assert (
        sent[b"/p"].endswith(body)
        and b"\r\nHost: 127.0.0.1:1\r\n" in sent[b"/7"]
        and b"X-Own: kept" in sent[b"/7"]
    )


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\nx", 201),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200),
    ],
)
def test_kinds_of_responses(response: bytes, status: int) -> None:
    found, hear = heard()
    with target(lambda request: response) as there:
        made = replay(there.url, [Rec(get("/a"))] * 5, connections=1, keep=True, heard=hear)
    assert made.stats.statuses == {status: 5}
    assert [a.payload for _, a in found] == [response] * 5


def test_answers_to_head_and_answers_that_end_with_the_connection() -> None:
    def response(request: bytes) -> bytes:
        if request.startswith(b"HEAD"):
            return b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"
        return OK

    with target(response) as there:
        made = replay(there.url, [Rec(get("/a").replace(b"GET", b"HEAD")), Rec(get("/b"))] * 5, connections=1)
    assert made.stats.statuses == {200: 10} and there.connections == 1

    async def until_close() -> Replay:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nall the rest")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        plan = Plan(parse_target(f"127.0.0.1:{port}"), lambda: iter([messages([Rec(get("/a"))] * 3)]), Aim())
        made = Replay(plan)
        await made.run()
        server.close()
        return made

    stats = asyncio.run(until_close()).stats
    assert stats.statuses == {200: 3} and not stats.errors


def test_one_connection_for_each_recorded_one() -> None:
    records = [Rec(get(f"/{n}"), session=n % 3) for n in range(30)]
    with target() as there:
        replay(there.url, records, sessions=True)
    assert there.connections == 3
    for session in range(3):
        number = next(c for c, r in there.requests if r.startswith(b"GET /%d " % session))
        own = [r for c, r in there.requests if c == number]
        assert paths(own) == [f"/{n}" for n in range(session, 30, 3)]


def test_sessions_share_connections_beyond_the_bound() -> None:
    records = [Rec(get(f"/{n}"), session=n) for n in range(20)]
    with target() as there:
        made = replay(there.url, records, sessions=True, connections=4)
    assert there.connections == 4 and made.stats.answered == 20


def test_a_target_that_resets_closes_or_speaks_nonsense() -> None:
    responses = {b"/r": RESET, b"/c": CLOSE, b"/n": b"what?\r\n\r\n", b"/ok": OK}
    records = [Rec(get(p.decode())) for p in responses] * 5
    with target(lambda request: responses[request.split(b" ")[1]]) as there:
        made = replay(there.url, records, connections=2)
    assert made.stats.answered == 5 and sum(made.stats.errors.values()) == 15
    assert made.stats.errors["closed by the target"] == 5 and made.stats.errors["connection reset"] == 5
    assert len(there.requests) == 20 + made.stats.reopened


def test_nobody_listens() -> None:
    made = replay(f"http://127.0.0.1:{free_port()}", [Rec(get("/a"), session=n % 2) for n in range(10)])
    assert made.stats.errors == {"connection refused": 10} and made.stats.sent == 0
    made = replay(
        f"http://127.0.0.1:{free_port()}", [Rec(get("/a"), session=n % 2) for n in range(10)], sessions=True
    )
    assert made.stats.errors == {"connection refused": 10}


def test_a_target_killed_midway() -> None:
    records = [Rec(get(f"/{n}"), at_ms=n * 5, session=n % 4) for n in range(200)]
    with target() as there:
        killer = threading.Timer(0.5, there.kill)
        killer.start()
        made = replay(there.url, records, Recorded(), sessions=True)
        killer.join()
    assert 0 < made.stats.answered < 200
    assert made.stats.errors["connection refused"] > 0
    assert made.stats.answered <= len(there.requests) <= made.stats.sent


def test_time_limits() -> None:
    def response(request: bytes) -> bytes:
        if b"/slow" in request:
            time.sleep(1.5)
        return OK

    with target(response) as there:
        made = replay(there.url, [Rec(get("/slow")), Rec(get("/b"))] * 3, timeout_s=0.4)
    assert made.stats.errors == {"timeout": 3} and made.stats.statuses == {200: 3}


def test_a_slow_target_does_not_slow_the_schedule_and_its_delay_is_not_hidden() -> None:
    def response(request: bytes) -> bytes:
        time.sleep(0.2)
        return OK

    with target(response) as there:
        made = replay(
            there.url, [Rec(get(f"/{n}")) for n in range(60)], Rate(60), connections=1, timeout_s=60
        )
    assert made.stats.answered == 60
    # One connection serves 5 a second where 60 were due: the last waits some 11 s from when it was due.
    assert made.stats.latency.percentiles_ms()["max"] > 8_000
    with target(response) as there:
        made = replay(there.url, [Rec(get(f"/{n}")) for n in range(60)], Rate(60))
    assert made.stats.latency.percentiles_ms()["p50"] < 2_000 and made.seconds < 8


def test_retries_only_if_asked_and_only_of_idempotent_requests() -> None:
    seen: list[bytes] = []

    def response(request: bytes) -> bytes:
        seen.append(request)
        return RESET if len([r for r in seen if r == request]) < 3 else OK

    with target(response) as there:
        made = replay(there.url, [Rec(get("/a")), Rec(post("/p", b"x"))], retries=2)
    assert made.stats.statuses == {200: 1} and made.stats.retried == 2
    assert made.stats.errors == {"connection reset": 1}
    assert len(there.requests) == 4


def test_redirects() -> None:
    def response(request: bytes) -> bytes:
        path = request.split(b" ")[1].decode()
        moved = {
            "/a": "/b?x=1",
            "/b?x=1": "c",
            "/away": "http://other.example/",
            "/p": "/done",
            "/p307": "/done",
        }
        if path not in moved:
            return OK
        status = {"/p": 303, "/p307": 307}.get(path, 302)
        return f"HTTP/1.1 {status} Moved\r\nLocation: {moved[path]}\r\nContent-Length: 0\r\n\r\n".encode()

    with target(response) as there:
        made = replay(there.url, [Rec(get("/a"))])
        assert made.stats.statuses == {302: 1} and paths(there.payloads) == ["/a"]
        made = replay(there.url, [Rec(get("/a"))], redirects=5)
        assert made.stats.statuses == {302: 2, 200: 1} and paths(there.payloads)[1:] == ["/a", "/b?x=1", "/c"]
        there.requests.clear()
        made = replay(there.url, [Rec(get("/a"))], redirects=1)
        assert made.stats.redirected == 1
        assert replay(there.url, [Rec(get("/away"))], redirects=5).stats.redirected == 0
        there.requests.clear()
        replay(there.url, [Rec(post("/p", b"body"))], redirects=5)
        replay(there.url, [Rec(post("/p307", b"body"))], redirects=5)
    assert [p.split(b" ")[0] for p in there.payloads] == [b"POST", b"GET", b"POST", b"POST"]
    assert there.payloads[1].endswith(b"\r\n\r\n") and there.payloads[3].endswith(b"body")


def test_tls(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path, "127.0.0.1")
    with target(tls=(str(pem), str(key))) as there:
        url = f"https://127.0.0.1:{there.port}"
        made = replay(url, [Rec(get("/a"))] * 3)
        assert sum(made.stats.errors.values()) == 3 and "certificate" in next(iter(made.stats.errors))
        assert replay(url, [Rec(get("/a"))] * 3, ca=str(pem)).stats.statuses == {200: 3}
        assert replay(url, [Rec(get("/a"))] * 3, verify=False).stats.statuses == {200: 3}
        with pytest.raises(UsageError, match="CA certificate"):
            replay(url, [Rec(get("/a"))], ca=str(tmp_path / "none.pem"))


def test_a_body_of_50_mb() -> None:
    body = b"0123456789abcdef" * (50 << 16)
    found, hear = heard()
    big = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with target(lambda request: big) as there:
        made = replay(there.url, [Rec(post("/big", body))], keep=True, heard=hear, timeout_s=60)
    assert made.stats.answered == 1 and there.payloads[0].endswith(body)
    assert found[0][1].payload == big


def test_a_body_that_is_not_whole_in_the_recording_is_not_sent() -> None:
    with target() as there:
        made = replay(there.url, [Rec(post("/p", b"12345")[:-1]), Rec(get("/a"))])
    assert paths(there.payloads) == ["/a"] and made.stats.skipped == {"not whole in the recording": 1}


def test_loops() -> None:
    with target() as there:
        made = replay(there.url, [Rec(get("/a")), Rec(get("/b"))], loops=3)
    assert made.stats.answered == 6


def test_targets_in_words() -> None:
    assert parse_target("127.0.0.1:80").authority == "127.0.0.1"
    assert parse_target("https://h.example:444/p").authority == "h.example:444"
    assert parse_target("http://[::1]:8080").authority == "[::1]:8080" and parse_target("http://[::1]").local
    assert parse_target("http://localhost").local and not parse_target("http://10.0.0.1").local
    for bad in ("ftp://h", "http://", "http://h:99999", "http://h:x"):
        with pytest.raises(UsageError, match="is no target"):
            parse_target(bad)
