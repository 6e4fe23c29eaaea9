"""TCP as it happens: disorder, loss, repeats, wrap-around, reuse, resets. Both engines, always."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from tests.talk import Talk, content, outcome, play

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"


def ok(n: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % n + b"x" * n


def talk(**kwargs: int) -> Talk:
    return Talk(**kwargs).open().client(GET).server(ok(5000)).client(GET).server(ok(10)).close()  # type: ignore[arg-type]


def test_sequence_numbers_wrap_around() -> None:
    straight = play(talk().packets)
    wrapped = play(talk(client_seq=0xFFFFFFF0, server_seq=0xFFFFF000).packets)
    assert content(wrapped) == content(straight)
    assert all(r["complete"] for r in wrapped.rows)


def test_repeats_and_overlaps_are_paid_by_their_exchange() -> None:
    t = Talk().open().client(GET).again(True, GET, len(GET)).server(ok(100)[:80])
    t.again(False, ok(100)[40:90], 40).server(ok(100)[90:])
    t.server_seq += 10  # what `again` added beyond
    t = (
        Talk()
        .open()
        .client(GET)
        .again(True, GET, len(GET))
        .server(ok(100)[:80])
        .again(False, ok(100)[40:80], 40)
        .server(ok(100)[80:])
    )
    row = play(t.close().packets).only()
    assert row["complete"] and row["response_body_bytes"] == 100
    assert row["retransmitted_bytes"] == len(GET) + 40
    assert row["link_bytes"] == 2 * len(GET) + len(ok(100)) + 40 + 5 * 54


def test_repeats_after_the_answer_are_a_cause() -> None:
    t = Talk().open().client(GET).server(ok(10)).again(False, ok(10), len(ok(10))).close()
    found = play(t.packets)
    assert len(found.rows) == 1
    assert found.account["retransmission"] == len(ok(10)) + 54


def test_a_lost_segment_marks_the_exchange() -> None:
    packets = talk().packets
    body = [i for i, p in enumerate(packets) if len(p.data) > 1000]
    found = play(packets[: body[1]] + packets[body[1] + 1 :])
    first, second = found.rows
    assert not first["complete"] and first["missing_bytes"] == 1460
    assert first["response_body_bytes"] == 5000 - 1460
    assert second["complete"]
    assert found.account["missing_bytes"] == 1460


def test_a_lost_answer_does_not_shift_the_next() -> None:
    t = Talk().open()
    for n in range(4):
        t.client(b"GET /%d HTTP/1.1\r\n\r\n" % n).server(b"HTTP/1.1 20%d OK\r\nContent-Length: 0\r\n\r\n" % n)
    packets = t.close().packets
    answers = [i for i, p in enumerate(packets) if b"HTTP/1.1 20" in p.data]
    del packets[answers[1]]
    found = play(packets)
    assert [(r["target"], r["status"]) for r in found.rows] == [
        ("/0", 200),
        ("/1", None),
        ("/2", 202),
        ("/3", 203),
    ]


def test_a_lost_request_does_not_shift_the_next() -> None:
    t = Talk().open()
    for n in range(4):
        t.client(b"GET /%d HTTP/1.1\r\n\r\n" % n).server(b"HTTP/1.1 20%d OK\r\nContent-Length: 0\r\n\r\n" % n)
    packets = t.close().packets
    del packets[next(i for i, p in enumerate(packets) if b"GET /1" in p.data)]
    found = play(packets)
    assert sorted((r["target"], r["status"]) for r in found.rows if r["target"]) == [
        ("/0", 200),
        ("/2", 202),
        ("/3", 203),
    ]
    assert [r["status"] for r in found.rows if r["target"] is None] == [201]


def test_an_answer_to_an_unseen_head_swallows_nothing() -> None:
    t = (
        Talk()
        .open()
        .client(b"HEAD / HTTP/1.1\r\n\r\n")
        .server(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")
    )
    packets = t.client(GET).server(ok(5)).client(GET).server(ok(6)).close().packets
    found = play(packets[4:])
    assert [(r["target"], r["response_body_bytes"]) for r in found.rows] == [(None, 0), ("/a", 5), ("/a", 6)]


def test_port_reuse_is_a_new_connection() -> None:
    first = Talk().open().client(GET).server(ok(3)).packets
    second = (
        Talk(client_seq=900_000, server_seq=77, start=first[-1].time + 1000)
        .open()
        .client(GET)
        .server(ok(4))
        .close()
        .packets
    )
    found = play(first + second)
    assert [r["response_body_bytes"] for r in found.rows] == [3, 4]
    assert len({r["connection"] for r in found.rows}) == 2


def test_a_reset_ends_both_directions() -> None:
    found = play(Talk().open().client(GET).server(ok(100)[:60]).reset().packets)
    row = found.only()
    assert not row["complete"] and row["anomaly"] == "closed_early"


def test_half_close_still_gets_its_answer() -> None:
    row = play(Talk().open().client(GET).fin(True).server(ok(20)).fin(False).packets).only()
    assert row["complete"] and row["response_body_bytes"] == 20


@pytest.mark.parametrize("skip", range(4, 9))
def test_capture_begins_in_the_middle(skip: int) -> None:
    packets = talk().packets
    found = play(packets[skip:])
    assert found.account["connections"] == 1
    last = found.rows[-1]
    assert (last["target"], last["status"], last["response_body_bytes"], last["complete"]) == (
        "/a",
        200,
        10,
        True,
    )
    before = found.account["not_understood"]
    assert before > 0 or len(found.rows) == 2 or skip == 8


def test_only_one_direction_was_captured() -> None:
    packets = talk().packets
    to_server = [p for p in packets if p.data[34:36] == (40_000).to_bytes(2, "big")]
    to_client = [p for p in packets if p not in to_server]
    assert [(r["method"], r["status"]) for r in play(to_server).rows] == [("GET", None)] * 2
    answers = play(to_client).rows
    assert [(r["method"], r["status"], r["request_header_bytes"]) for r in answers] == [(None, 200, None)] * 2
    assert answers[0]["time"] is None and answers[0]["duration_ns"] is None


def test_idle_connections_end_with_the_clock() -> None:
    engine = Engine(Options(idle_ns=10**9))
    packets = Talk().open().client(GET).packets
    for p in packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    engine.advance(packets[-1].time + 10**8)
    assert engine.rows == 0
    engine.advance(packets[-1].time + 3 * 10**9)
    assert engine.rows == 1 and engine.held[0] == 0
    outcome(engine)


def test_bounds_hold_and_are_counted() -> None:
    """A thousand connections into a table of ten; each head is larger than the bound on one."""
    packets = [
        p
        for n in range(1000)
        for p in Talk(sport=1000 + n).open().client(b"GET /%d HTTP/1.1\r\nX: " % n + b"y" * 600).packets
    ]
    random.Random(1).shuffle(packets)
    engine = Engine(Options(max_connections=10, max_head_bytes=500, max_ended=5, max_buffer_bytes=20_000))
    for p in packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
        connections, buffered = engine.held
        assert connections <= 16
        assert buffered <= 20_000 + 1500
    assert outcome(engine).account["bound_hits"] > 900


def test_endless_disorder_is_bounded() -> None:
    """A hole that is never filled: what waits behind it is released at the bound."""
    t = Talk().open().client(GET)
    t.server_seq += 1000
    t.server(b"z" * 200_000)
    found = play(t.packets, Options(max_connection_bytes=20_000))
    assert found.account["bound_hits"] > 0
    assert found.account["missing_bytes"] == 1000


def test_hostile_clocks_neither_hang_nor_vanish() -> None:
    r = random.Random(7)
    packets = [replace(p, time=r.randrange(-(1 << 62), 1 << 62)) for p in talk().packets]
    play(packets)
