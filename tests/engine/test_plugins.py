"""Raw streams, and protocols read by plug-ins."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replaykit.capturing.reader import open_reader
from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from replaykit.engine.plugins.postgresql import fingerprint
from replaykit.engine.protocol import Direction, Message
from replaykit.errors import UsageError
from tests.mutate import Packet, write
from tests.talk import Outcome, Talk, outcome, play


def read(packets: list[Packet], *protocols: str, report: list[str] | None = None, **more: Any) -> Outcome:
    said: list[str] = [] if report is None else report
    engine = open_reader(Options(protocols=protocols, **more), said.append)
    for p in packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    found = outcome(engine)
    assert report is not None or not said
    return found


def test_raw_turns() -> None:
    talk = Talk(dport=9000).open()
    talk.server(b"hello").client(b"ask" * 700).server(b"answer").client(b"again").server(b"x" * 5000).close()
    found = play(talk.packets, Options(raw=True, requests=True, responses=True))
    assert [(r["request_body_bytes"], r["response_body_bytes"]) for r in found.rows] == [
        (None, 5),
        (2100, 6),
        (5, 5000),
    ]
    assert {(r["protocol"], r["endpoint"]) for r in found.rows} == {("raw", "tcp://10.0.0.2:9000")}
    kinds = sorted((kind, payload) for kind, _, payload in found.messages)
    assert kinds == [(1, b"again"), (1, b"ask" * 700), (2, b"answer"), (2, b"hello"), (2, b"x" * 5000)]


def redis_talk(mss: int = 1460) -> Talk:
    def command(*words: bytes) -> bytes:
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)

    talk = Talk(dport=6379).open()
    talk.client(command(b"GET", b"user:1"), mss).server(b"$5\r\nvalue\r\n", mss)
    talk.client(command(b"set", b"k", b"v" * 3000) + command(b"INCR", b"n"), mss).server(
        b"+OK\r\n:8\r\n", mss
    )
    talk.client(b"PING\r\n", mss).server(b"+PONG\r\n", mss)
    talk.client(command(b"LRANGE", b"l", b"0", b"-1"), mss).server(b"*2\r\n$1\r\na\r\n*1\r\n$-1\r\n", mss)
    talk.client(command(b"GET", b"l"), mss).server(b"-WRONGTYPE no\r\n", mss)
    talk.client(command(b"HELLO", b"3"), mss).server(b"%1\r\n$5\r\nproto\r\n:3\r\n", mss)
    talk.server(b">2\r\n$7\r\nmessage\r\n$2\r\nhi\r\n", mss)
    return talk.close()


@pytest.mark.parametrize("mss", [1460, 3, 1])
def test_redis(mss: int) -> None:
    found = read(redis_talk(mss).packets, "redis")
    rows = [(r["method"], r["response_body_bytes"], r["status"]) for r in found.rows]
    assert rows == [
        ("GET", 11, None),
        ("SET", 5, None),
        ("INCR", 4, None),
        ("PING", 7, None),
        ("LRANGE", 20, None),
        ("GET", 15, 1),
        ("HELLO", 19, None),
        ("PUSH", 25, None),
    ]
    assert all(r["endpoint"] and r["protocol"] == "redis" and r["complete"] for r in found.rows)
    assert found.account["unparsed"] == 0
    first = found.rows[0]
    assert first["request_body_bytes"] == 25 and first["duration_ns"] > 0


def typed(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def postgresql_talk(mss: int = 1460) -> Talk:
    ready = typed(b"Z", b"I")
    talk = Talk(dport=5432).open()
    talk.client(struct.pack("!II", 8, 80877103), mss).server(b"N", mss)
    talk.client(struct.pack("!II", 17, 196608) + b"user\0me\0\0", mss)
    talk.server(typed(b"R", b"\0\0\0\0") + typed(b"S", b"TimeZone\0UTC\0") + ready, mss)
    talk.client(typed(b"Q", b"SELECT * FROM users WHERE id = 17 AND name = 'O''Hara'\0"), mss)
    talk.server(typed(b"T", b"x" * 40) + typed(b"D", b"y" * 900) + typed(b"C", b"SELECT 1\0") + ready, mss)
    extended = typed(b"P", b"s1\0INSERT INTO t VALUES ($1, $2)\0\0\0") + typed(b"B", b"\0s1\0\0\0\0\0\0\0")
    talk.client(extended + typed(b"E", b"\0\0\0\0\0") + typed(b"S", b""), mss)
    talk.server(typed(b"1", b"") + typed(b"2", b"") + typed(b"C", b"INSERT 0 1\0") + ready, mss)
    talk.client(typed(b"B", b"\0s1\0\0\0\0\0\0\0") + typed(b"E", b"\0\0\0\0\0") + typed(b"S", b""), mss)
    talk.server(typed(b"C", b"INSERT 0 1\0") + ready + typed(b"A", b"\0\0\0\1c\0p\0"), mss)
    return talk.client(typed(b"X", b""), mss).close()


@pytest.mark.parametrize("mss", [1460, 2])
def test_postgresql(mss: int) -> None:
    found = read(postgresql_talk(mss).packets, "postgresql")
    assert [(r["method"], r["endpoint"]) for r in found.rows] == [
        ("SELECT", "SELECT * FROM users WHERE id = ? AND name = ?"),
        ("INSERT", "INSERT INTO t VALUES (?, …)"),
        ("INSERT", "INSERT INTO t VALUES (?, …)"),
        ("NOTIFY", "(notification)"),
    ]
    assert found.rows[0]["response_body_bytes"] == 45 + 905 + 14 + 6 and found.account["unparsed"] == 0


@pytest.mark.parametrize(("statement", "plain"), [
    ("select 1", "select ?"),
    ("SELECT  a1,\n b FROM t2 -- no\nWHERE x IN (1, 2,3) /* c */ AND y = -1.5e3;", "SELECT a1, b FROM t2 WHERE x IN (?, …) AND y = ?"),  # noqa: E501
    ("INSERT INTO t VALUES (1,'a'), (2, 'b')", "INSERT INTO t VALUES (?, …), …"),
    ("SELECT $$secret$$, $tag$o'ne$tag$, E'a\\'b', \"Col 1\"", "SELECT ?, ?, ?, \"Col 1\""),
    ("SELECT 'never ends", "SELECT ?"),
])  # fmt: skip
def test_fingerprints(statement: str, plain: str) -> None:
    assert fingerprint(statement) == plain


def test_a_plugin_is_found_by_the_first_bytes() -> None:
    packets = [
        Packet(p.time, p.link, p.orig, p.data.replace(b"\x18\xeb", b"\x1f\x90")) for p in redis_talk().packets
    ]
    assert len(read(packets, "redis", "postgresql").rows) == 8


def test_what_a_plugin_cannot_read_is_counted_and_said_once() -> None:
    talk = Talk(dport=6379).open().client(b"*1\r\n$4\r\nPING\r\n").server(b"+PONG\r\n")
    talk.client(b"*1\r\n$x\r\n" + b"junk" * 9).client(b"more junk").server(b"+OK\r\n")
    talk2 = (
        Talk(sport=40_001).open().client(b"GET / HTTP/1.1\r\n\r\n").server(b"HTTP/1.1 204 X\r\n\r\n").close()
    )
    said: list[str] = []
    found = read(talk.close().packets + talk2.packets, "redis", report=said)
    assert len(said) == 1 and "10.0.0.1:40000" in said[0] and "length" in said[0]
    assert [r["protocol"] for r in found.rows] == ["redis", "http/1.1"] or len(found.rows) == 2
    assert found.account["unparsed"] > 50


class Raising:
    name = "raising"
    ports = (7000,)

    def detect(self, direction: Direction, data: bytes) -> bool:
        return False

    def parser(self) -> Raising:
        return self

    def feed(self, direction: Direction, time_ns: int, data: bytes) -> Iterator[Message]:
        yield Message("request", 4, "A", "", "A")
        raise RuntimeError("bug")


def test_a_plugin_with_a_bug_ends_only_its_connection() -> None:
    said: list[str] = []
    options = Options(plugin_ports=(7000,), protocols=("raising",))
    engine = Engine(options, None, [Raising()], said.append)
    talk = Talk(dport=7000).open().client(b"1234567").client(b"89").server(b"x").close()
    for p in talk.packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    found = outcome(engine)
    assert said == ["raising: 10.0.0.1:40000 to 10.0.0.2:7000 is not read any further: RuntimeError: bug"]
    assert found.only()["method"] == "A" and found.account["unparsed"] == 3 + 2 + 54 + 1 + 54


def test_unknown_plugins_are_named() -> None:
    with pytest.raises(UsageError, match="--protocol nope: there are raw, postgresql, redis"):
        open_reader(Options(protocols=("nope",)), print)


def test_a_key_log_that_is_not_there_is_named(tmp_path: Path) -> None:
    capture = tmp_path / "a.pcap"
    capture.write_bytes(write(redis_talk().packets))
    command = [sys.executable, "-m", "replaykit", "report", str(capture), "--protocol", "postgresql,redis"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "LRANGE" in shown
    refused = subprocess.run(
        [*command, "--tls-keys", "/no/keys"], capture_output=True, text=True, check=False
    )
    assert (
        refused.returncode == 2
        and refused.stderr == "replaykit: --tls-keys /no/keys: there is no such file\n"
    )


def test_more_requests_than_may_wait_are_counted() -> None:
    talk = Talk(dport=6379).open()
    for _ in range(20):
        talk.client(b"PING\r\n" * 60)
    found = read(talk.close().packets, "redis")
    assert len(found.rows) == 1200 and found.account["bound_hits"] == 1200 - 1024


def test_rows_and_account_after_a_hole() -> None:
    packets = redis_talk(100).packets
    del packets[20]
    found = read(packets, "redis", reorder_ns=0, hole_ns=0)
    assert found.account["unparsed"] > 0 and found.account["missing_bytes"] == 100
