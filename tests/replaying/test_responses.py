"""Responses as real servers write them: what curl, Go and the capture read, replay reads."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci.servers import certificate
from replaykit.replaying.response import INVALID, open_responses
from tests.cli.test_replay import run
from tests.engine.test_tls import Pair
from tests.mutate import write
from tests.replaying.test_pool import heard, replay
from tests.talk import Talk, play
from tests.target import OK, Rec, get, gor, paths, post, target

CHUNKS = b"2\r\nok\r\n0\r\n\r\n"
ODD = {
    "both lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "the same length twice": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "a list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
    "a blank before the colon": b"HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 2\r\n\r\nok",
    "a folded field": b"HTTP/1.1 200 OK\r\nX-A: 1\r\n  2\r\nContent-Length: 2\r\n\r\nok",
    "LF line ends": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "blanks after a chunk's size": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2  \r\nok\r\n0\r\n\r\n"
    ),
    "a chunk's extension": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\n\r\n",
    "trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n",
    "ICY": b"ICY 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
    "a line without a colon": b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 2\r\n\r\nok",
    "bytes beyond ASCII": b"HTTP/1.1 200 \xe4\xb8\r\nX: \xff\x01\r\nContent-Length: 2\r\n\r\nok",
    "a name that is no token": b"HTTP/1.1 200 OK\r\nX(y): 1\r\nContent-Length: 2\r\n\r\nok",
    "interim ones": b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 100 Go\r\n\r\n" + OK,
    "line ends before it": b"\r\n\r\n" + OK,
    "identity": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.0, kept": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "closed among others": b"HTTP/1.1 200 OK\r\nConnection: x, close\r\nContent-Length: 2\r\n\r\nok",
    "no length for 204": b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n",
}


@pytest.mark.parametrize("what", ODD)
def test_odd_responses(what: str) -> None:
    found, hear = heard()
    with target(lambda request: ODD[what]) as there:
        made = replay(there.url, [Rec(get("/a"))] * 4, connections=1, keep=True, heard=hear)
        assert sum(made.stats.statuses.values()) == 4 and not made.stats.errors
    assert {a.payload for _, a in found} == {ODD[what]}
    # The capture judges the same bytes alike.
    talk = Talk().open()
    for _ in range(2):
        talk.client(get("/a")).server(ODD[what])
    rows = play(talk.packets).rows
    assert [r["status"] for r in rows] == [next(iter(made.stats.statuses))] * 2


BITS = st.lists(
    st.sampled_from([*ODD.values(), b"\r\n", b"HTTP/1.1 2", b"0", b"ICY ", b"\x00", b"x: y\r\n"]), max_size=4
)


@settings(max_examples=500, deadline=None)
@given(BITS.map(b"".join), st.integers(1, 200), st.booleans())
def test_pieces_do_not_matter(data: bytes, step: int, head: bool) -> None:
    seen = []
    for size in (max(len(data), 1), step):
        responses, taken = open_responses(), 0
        responses.begin(head)
        for at in range(0, len(data), size):
            said = responses.feed(data[at : at + size])
            if said:
                taken = at + responses.used if said > 0 else 0
                seen.append((said, said == INVALID or responses.keep, taken))
                break
        else:
            seen.append((0, responses.end(), 0))
    assert seen[0] == seen[1]


def test_what_follows_a_response_is_not_the_next_ones() -> None:
    """A body longer than declared: its connection is not used again."""
    with target(lambda request: OK + b"HTTP/1.1 500 Forged\r\nContent-Length: 0\r\n\r\n") as there:
        made = replay(there.url, [Rec(get("/a"))] * 5, connections=1)
    assert made.stats.statuses == {200: 5} and there.connections == 5


@contextmanager
def closing(after: int) -> Iterator[tuple[int, list[bytes]]]:
    """A server that closes each connection after so many responses, without saying so; its port, and what it
    read.
    """
    listener, seen = socket.create_server(("127.0.0.1", 0), backlog=256), []

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            for _ in range(after):
                held = b""
                while b"\r\n\r\n" not in held:
                    more = client.recv(65536)
                    if not more:
                        return
                    held += more
                seen.append(held)
                client.sendall(OK)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


@pytest.mark.parametrize("sending", [{"connections": 4}, {"sessions": True}])
def test_a_connection_that_is_closed_while_idle_is_opened_anew(sending: dict[str, object]) -> None:
    with closing(2) as (port, _):
        records = [Rec(post(f"/{n}", b"") if n % 5 == 0 else get(f"/{n}"), session=n % 4) for n in range(100)]
        made = replay(f"http://127.0.0.1:{port}", records, **sending)
    assert made.stats.statuses == {200: 100} and not made.stats.errors
    assert made.stats.retried == 0


def test_requests_that_a_capture_does_not_hold_whole_are_counted(tmp_path: Path) -> None:
    talk = Talk().open()
    for n in range(4):
        talk.client(post(f"/{n}", b"x" * (2 if n % 2 else 900))).server(OK)
    name = tmp_path / "a.pcap"
    cut = [replace(p, data=p.data[:200], orig=max(p.orig, len(p.data))) for p in talk.close().packets]
    name.write_bytes(write(cut))
    with target() as there:
        found = json.loads(run(str(name), "--to", there.url, "--format", "json").stdout)
        assert sorted(paths(there.payloads)) == ["/1", "/3"]
    assert found["skipped"] == {"not whole in the recording": 2}


def test_a_rewritten_host_holds(tmp_path: Path) -> None:
    name = tmp_path / "a.gor"
    name.write_bytes(gor([Rec(get("/a"))]))
    with target() as there:
        done = run(str(name), "--to", there.url, "--rewrite-header", "Host:recorded.(.*),new.$1")
        assert done.returncode == 0 and b"Host: new.example\r\n" in there.payloads[0]


def test_tls_is_read_with_the_keys(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path, "127.0.0.1")
    both = tmp_path / "both.pem"
    both.write_bytes(key.read_bytes() + pem.read_bytes())
    pair = Pair(both, tmp_path / "keys")
    pair.say(False, get("/secret"))
    pair.say(True, OK)
    name = tmp_path / "a.pcap"
    name.write_bytes(write(pair.talk.close().packets))
    with target() as there:
        assert run(str(name), "--to", there.url, "--tls-keys", str(tmp_path / "keys")).returncode == 0
        assert paths(there.payloads) == ["/secret"]
        done = run(str(name), "--to", there.url, "--tls-keys", str(tmp_path / "none"))
    assert done.returncode == 2 and "no such file" in done.stderr
