"""Increments: their sum is the row, and in every slice they and the named causes are what was captured."""

from __future__ import annotations

import gzip
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replaykit.capturing.reader import open_reader
from replaykit.engine.account import CAUSES
from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from replaykit.records.increment import SIZES, movements
from samples.make import OUT
from tests.engine.test_http2 import GET as GET2
from tests.engine.test_http2 import OK as OK2
from tests.engine.test_http2 import Pair
from tests.engine.test_websocket import frame, opened
from tests.fuzz import OPTIONS, seeds
from tests.mutate import Packet, mutate, read
from tests.talk import START, STEP, Talk, rows

GET = b"GET /film HTTP/1.1\r\nHost: h\r\n\r\n"
SLICE = 10 * STEP


@dataclass
class Told:
    """What an engine told of packets: rows, increments, all movements, and of each slice what was
    captured.
    """

    exchanges: list[dict[str, Any]] = field(default_factory=list)
    increments: list[dict[str, Any]] = field(default_factory=list)
    moved: list[dict[str, Any]] = field(default_factory=list)
    account: dict[str, int] = field(default_factory=dict)


def tell(
    packets: Sequence[Packet], slice_ns: int = SLICE, options: Options | None = None, every: int = 7
) -> Told:
    """Takes results now and then, as a live capture does; checks the law each time."""
    engine = open_reader(replace(options or Options(), slice_ns=slice_ns), lambda line: None)
    out = Told()

    def take() -> None:
        increments, exchanges = engine.take_increments(), engine.take_exchanges()
        out.exchanges += plain(exchanges)
        out.increments += plain(increments)
        out.moved += plain(movements(exchanges, increments))
        account = engine.account()
        told = sum(r["link_bytes"] for r in out.moved)
        # Whatever is told belongs to an exchange; the rest has a cause, or waits.
        assert told == account["exchange_bytes"] + account["in_flight_bytes"]
        assert told + sum(account[c] for c in CAUSES) + account["pending_bytes"] == account["bytes"]

    for n, p in enumerate(packets):
        engine.feed_packet(p.link, p.time, p.orig, p.data)
        if n % every == 0:
            take()
    engine.finish()
    take()
    out.account = engine.account()
    assert out.account["pending_bytes"] == out.account["in_flight_bytes"] == 0
    return out


def plain(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    kept = batch.select([n for n in batch.schema.names if n != "response_time"])
    stamps = [n for n in kept.schema.names if pa.types.is_timestamp(kept.schema.field(n).type)]
    for name in stamps:
        at = kept.schema.get_field_index(name)
        kept = kept.set_column(at, name, kept.column(at).cast(pa.int64()))
    return list(kept.to_pylist())


def agree(told: Told) -> None:
    """The sum of an exchange's increments is its row; whatever moved is in the movements once."""
    sums: dict[int, Counter[str]] = {}
    ends: Counter[int] = Counter()
    for r in told.increments:
        found = sums.setdefault(r["exchange"], Counter())
        for name in SIZES:
            found[name] += r[name] or 0
        ends[r["exchange"]] += r["last"]
    numbered = {r["exchange"]: r for r in told.exchanges if r["exchange"]}
    assert len(numbered) == len(sums) == sum(r["exchange"] > 0 for r in told.exchanges)
    for number, found in sums.items():
        assert ends[number] == 1
        assert {n: numbered[number][n] or 0 for n in SIZES} == {n: found[n] for n in SIZES}
    for name in SIZES:
        assert sum(r[name] or 0 for r in told.moved) == sum(r[name] or 0 for r in told.exchanges)
    assert sum(r["ended"] for r in told.moved) == len(told.exchanges)


def per_slice(told: Told, name: str = "response_body_bytes") -> list[int]:
    found: Counter[int] = Counter()
    for r in told.moved:
        found[(r["time"] - START) // SLICE] += r[name] or 0
    return [found[n] for n in range(max(found) + 1)]


def test_a_download_is_told_while_it_runs() -> None:
    size = 1000 * 60
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    talk = Talk().open().client(GET).server(head).server(b"x" * size, 1000).close()
    told = tell(talk.packets)
    agree(told)
    moved = per_slice(told)
    # Five packets before the first byte of the body, then ten packets a slice.
    assert moved[:6] == [5000, 10_000, 10_000, 10_000, 10_000, 10_000] and sum(moved) == size
    assert {r["endpoint"] for r in told.increments} == {"/film"} and len(told.exchanges) == 1
    assert [r["last"] for r in told.increments] == [False] * 6 + [True]
    assert told.increments[0]["status"] == 200 and told.increments[0]["request_header_bytes"] == len(GET)


def test_what_begins_and_ends_within_a_slice_has_no_increments() -> None:
    talk = Talk().open()
    for _ in range(40):
        talk.client(GET).server(b"HTTP/1.1 204 No Content\r\n\r\n")
    told = tell(talk.packets, slice_ns=1000 * STEP)
    assert not told.increments and len(told.exchanges) == 40
    agree(told)


def test_an_upload_and_an_answer_that_takes_its_time() -> None:
    body = b"POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: 30000\r\n\r\n" + b"u" * 30_000
    talk = Talk().open().client(body, 1000)
    for _ in range(30):
        talk.ack(False)
    talk.server(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").close()
    told = tell(talk.packets)
    agree(told)
    # A slice in which nothing of it moved has no increment.
    assert len(told.increments) == 5 and [r["status"] for r in told.increments] == [None] * 4 + [201]
    assert sum(r["request_body_bytes"] or 0 for r in told.increments) == 30_000


def test_websocket_messages_and_http2_beside_each_other() -> None:
    big = frame(2, b"y" * 60_000)
    told = tell(opened().server(big, 1000).client(frame(1, b"hi", masked=True)).close().packets)
    agree(told)
    assert sum(1 for r in told.increments if r["protocol"] == "websocket") > 5
    pair = Pair(1400)
    stream = pair.client.get_next_available_stream_id()
    pair.client.send_headers(stream, GET2, end_stream=True)
    pair.flow()
    pair.server.send_headers(stream, OK2)
    for _ in range(20):
        pair.server.send_data(stream, b"z" * 1000)
        pair.flow()
        pair.exchange(GET2, b"", OK2, b"short")
    pair.server.end_stream(stream)
    pair.flow()
    told = tell(pair.talk.close().packets)
    agree(told)
    long = [r for r in told.increments if r["stream"] == stream]
    assert len(told.exchanges) == 21 and len(long) > 5
    assert sum(r["response_body_bytes"] or 0 for r in long) == 20_000


def test_tls_without_keys_and_raw() -> None:
    record = b"\x17\x03\x03\x10\x00" + b"e" * 4096
    hello = bytes.fromhex("16030100050100000101")
    talk = Talk(dport=443).open().client(hello).server(record * 12, 1000).close()
    told = tell(talk.packets)
    agree(told)
    assert {r["protocol"] for r in told.increments} == {"tls"} and len(told.increments) > 4
    told = tell(
        Talk().open().client(b"ask").server(b"z" * 30_000, 1000).close().packets, options=Options(raw=True)
    )
    agree(told)
    assert {r["protocol"] for r in told.increments} == {"raw"}


def test_what_is_denied_is_under_its_cause_while_it_runs() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"
    talk = Talk().open().client(GET).server(head + b"x" * 60_000, 1000).close()
    told = tell(talk.packets, options=Options(deny_urls=("film",)))
    assert not told.increments and not told.exchanges and told.account["denied"] > 60_000


def test_a_time_from_nowhere_does_not_stop_the_slices() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"
    packets = Talk().open().client(GET).server(head + b"x" * 60_000, 1000).close().packets
    odd = packets[20]
    packets[20] = Packet(odd.time + 10**11, odd.link, odd.orig, odd.data)
    told = tell(packets)
    agree(told)
    assert len({r["slice"] for r in told.increments}) > 4


def test_the_exchanges_in_flight() -> None:
    engine = Engine(Options())
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"
    for p in Talk().open().client(GET).server(head + b"x" * 20_000, 1000).packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    (row,) = rows(engine.in_flight())
    assert (row["endpoint"], row["status"], row["response_body_bytes"], row["complete"]) == (
        "/film",
        200,
        20_000,
        False,
    )
    assert engine.rows == 0


def test_the_sample() -> None:
    packets = read(gzip.decompress(OUT.read_bytes()))
    for slice_ns in (10**6, 10**9):
        agree(tell(packets, slice_ns))


@pytest.mark.parametrize("options", OPTIONS)
def test_mutated_captures(options: Options) -> None:
    captures = seeds()
    for seed in range(150):
        r = random.Random(seed)
        packets, data = r.choice(captures)
        hostile = read(mutate(r, packets, data))
        agree(tell(hostile, r.choice((1, 1000, STEP, 10**9)), options, r.randrange(1, 40)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 9000)), max_size=8),
    st.integers(1, 40),
    st.integers(20, 1460),
)
def test_conversations(talks: list[tuple[int, int]], slice_steps: int, mss: int) -> None:
    talk = Talk().open()
    for asked, answered in talks:
        talk.client(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % asked + b"q" * asked, mss)
        talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % answered + b"r" * answered, mss)
    told = tell(talk.close().packets, slice_steps * STEP)
    agree(told)
    assert [r["response_body_bytes"] for r in told.exchanges] == [answered for _, answered in talks]
