"""HTTP/2 as the h2 library speaks it, and as nobody should."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import hpack
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from replaykit.engine.options import Options
from tests.mutate import Packet
from tests.talk import Talk, play

GET = [(":method", "GET"), (":scheme", "http"), (":authority", "shop.example"), (":path", "/items/7?x=1")]
POST = [(":method", "POST"), (":scheme", "http"), (":authority", "shop.example"), (":path", "/items")]
OK = [(":status", "200"), ("content-type", "application/json")]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MESSAGES = Options(requests=True, responses=True)


class Pair:
    """An h2 client and server whose bytes go through a Talk."""

    def __init__(self, mss: int = 1460, talk: Talk | None = None) -> None:
        self.mss = mss
        self.talk = talk or Talk().open()
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.server = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.client.initiate_connection()
        self.server.initiate_connection()
        self.flow()

    def flow(self) -> None:
        for _ in range(3):
            data = self.client.data_to_send()
            self.talk.client(data, self.mss)
            self.server.receive_data(data)
            data = self.server.data_to_send()
            self.talk.server(data, self.mss)
            self.client.receive_data(data)

    def exchange(
        self,
        request: Sequence[tuple[str, str]],
        body: bytes,
        answer: Sequence[tuple[str, str]],
        content: bytes,
    ) -> int:
        stream = self.client.get_next_available_stream_id()
        self.client.send_headers(stream, request, end_stream=not body)
        if body:
            self.client.send_data(stream, body, end_stream=True)
        self.flow()
        self.server.send_headers(stream, answer, end_stream=not content)
        if content:
            self.server.send_data(stream, content, end_stream=True)
        self.flow()
        return stream


def headers_payload(data: bytes) -> dict[int, int]:
    """Bytes of HEADERS and CONTINUATION payloads by stream."""
    out: dict[int, int] = {}
    at = data.index(b"SM\r\n\r\n") + 6 if data.startswith(b"PRI") else 0
    while at < len(data):
        frame, length = Frame.parse_frame_header(memoryview(data)[at : at + 9])
        if isinstance(frame, HeadersFrame | ContinuationFrame):
            out[frame.stream_id] = out.get(frame.stream_id, 0) + length
        at += 9 + length
    return out


def streams(talk: Talk) -> tuple[bytes, bytes]:
    """What each side sent, from the packets."""
    out = [b"", b""]
    for p in talk.packets:
        out[int.from_bytes(p.data[34:36]) == talk.dport] += p.data[54:]
    return out[0], out[1]


@pytest.mark.parametrize("mss", [1460, 100, 7, 1])
def test_exchanges_as_the_library_sends_them(mss: int) -> None:
    pair = Pair(mss)
    a = pair.exchange(GET, b"", OK, b"x" * 900)
    b = pair.exchange(POST, b"y" * 300, [(":status", "201")], b"")
    found = play(pair.talk.close().packets)
    sent, received = map(headers_payload, streams(pair.talk))
    first, second = found.rows
    assert (first["protocol"], first["method"], first["target"], first["host"], first["status"]) == (
        "h2",
        "GET",
        "/items/7?x=1",
        "shop.example",
        200,
    )
    assert first["stream"] == a and first["path"] == "/items/7" and first["endpoint"] == "/items/{id}"
    assert first["content_type"] == "application/json" and first["scheme"] == "http"
    assert first["request_header_bytes"] == sent[a] and first["response_header_bytes"] == received[a]
    assert first["response_body_bytes"] == 900 and first["response_wire_bytes"] == received[a] + 900 + 18
    lines = [f"{name}: {value}\r\n" for name, value in GET]
    assert first["request_uncompressed_header_bytes"] == len("".join(lines))
    assert (second["stream"], second["request_body_bytes"], second["status"]) == (b, 300, 201)
    assert first["complete"] and second["complete"]


def test_messages_become_http1() -> None:
    pair = Pair()
    request = [*POST, ("cookie", "a=1"), ("cookie", "b=2"), ("x-token", "s")]
    pair.exchange(request, b"body", [*OK, ("content-length", "2")], b"ok")
    options = Options(requests=True, responses=True, redact_headers=("x-token",))
    found = play(pair.talk.close().packets, options)
    (_, request_id, payload), (_, response_id, answer) = found.messages
    assert (
        payload == b"POST /items HTTP/1.1\r\nhost: shop.example\r\nx-token: ***\r\ncookie: a=1; b=2\r\n"
        b"content-length: 4\r\n\r\nbody"
    )
    assert answer == b"HTTP/1.1 200 \r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\nok"
    assert request_id == response_id


@pytest.mark.parametrize("mss", [1460, 10, 1])
def test_continuation_padding_informational_answers_and_trailers(mss: int) -> None:
    pair = Pair(mss)
    stream = pair.client.get_next_available_stream_id()
    long = [*GET, *((f"x-{i}", "v" * 900) for i in range(30))]
    pair.client.send_headers(stream, long, end_stream=True)
    pair.flow()
    pair.server.send_headers(stream, [(":status", "103"), ("link", "</a.css>")])
    pair.server.send_headers(stream, OK)
    pair.server.send_data(stream, b"z" * 50, pad_length=40)
    pair.server.send_headers(stream, [("checksum", "1")], end_stream=True)
    pair.flow()
    found = play(pair.talk.close().packets, MESSAGES)
    row = found.only()
    sent, received = streams(pair.talk)
    assert row["request_header_bytes"] == headers_payload(sent)[stream] > 16_384
    assert row["status"] == 200 and row["response_body_bytes"] == 50
    assert row["response_wire_bytes"] == received_of(received, stream)
    assert found.messages[1][2].endswith(b"\r\n\r\n32\r\n" + b"z" * 50 + b"\r\n0\r\nchecksum: 1\r\n\r\n")


def received_of(data: bytes, stream: int) -> int:
    """All bytes of a stream's HEADERS, CONTINUATION and DATA frames."""
    at, total = 0, 0
    while at < len(data):
        frame, length = Frame.parse_frame_header(memoryview(data)[at : at + 9])
        if isinstance(frame, HeadersFrame | ContinuationFrame | DataFrame) and frame.stream_id == stream:
            total += 9 + length
        at += 9 + length
    return total


def test_pushed_streams() -> None:
    pair = Pair()
    stream = pair.client.get_next_available_stream_id()
    pair.client.send_headers(stream, GET, end_stream=True)
    pair.flow()
    pushed = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "shop.example"),
        (":path", "/style.css"),
    ]
    pair.server.push_stream(stream, 2, pushed)
    pair.server.send_headers(stream, OK, end_stream=True)
    pair.server.send_headers(2, OK)
    pair.server.send_data(2, b"c" * 70, end_stream=True)
    pair.flow()
    found = play(pair.talk.close().packets)
    by_stream = {r["stream"]: r for r in found.rows}
    assert by_stream[2]["path"] == "/style.css" and by_stream[2]["response_body_bytes"] == 70
    assert by_stream[2]["complete"] and by_stream[stream]["status"] == 200


def test_a_reset_stream_ends_and_the_others_go_on() -> None:
    pair = Pair()
    first = pair.client.get_next_available_stream_id()
    pair.client.send_headers(first, GET, end_stream=True)
    pair.flow()
    pair.server.send_headers(first, OK)
    pair.server.send_data(first, b"half")
    pair.flow()
    pair.client.reset_stream(first)
    pair.flow()
    pair.exchange(GET, b"", OK, b"")
    cut, whole = sorted(play(pair.talk.close().packets).rows, key=lambda r: int(r["stream"]))
    assert (cut["anomaly"], cut["complete"], cut["response_body_bytes"]) == ("stream_reset", False, 4)
    assert whole["complete"] and whole["anomaly"] is None


def raw(frames: Sequence[Frame | bytes]) -> bytes:
    return b"".join(f if isinstance(f, bytes) else f.serialize() for f in frames)


def test_goaway_closes_what_was_not_taken_up() -> None:
    encoder = hpack.Encoder()
    asked = [HeadersFrame(n, encoder.encode(GET), flags=["END_HEADERS", "END_STREAM"]) for n in (1, 3, 5)]
    answer = HeadersFrame(1, hpack.Encoder().encode(OK), flags=["END_HEADERS", "END_STREAM"])
    talk = Talk().open().client(PREFACE + raw([SettingsFrame(), *asked]))
    talk.server(raw([SettingsFrame(), answer, GoAwayFrame(last_stream_id=1)])).close()
    found = play(talk.packets).rows
    assert [(r["stream"], r["status"], r["anomaly"]) for r in found] == [
        (1, 200, None),
        (3, None, "stream_reset"),
        (5, None, "stream_reset"),
    ]


def test_a_capture_that_starts_in_the_middle() -> None:
    """What refers to an unknown table is said to; what is inserted from then on is known."""
    talk = Talk()
    pair = Pair(talk=talk.open())
    for _ in range(3):
        pair.exchange([*GET, ("user-agent", "first")], b"", [*OK, ("server", "one")], b"x" * 10)
    begins = len(talk.packets)
    pair.exchange([*GET, ("user-agent", "first")], b"", [*OK, ("server", "one")], b"x" * 20)
    fresh = [*GET[:3], (":path", "/new/path")]
    for size in (30, 40):
        pair.exchange(fresh, b"", OK, b"x" * size)
    found = play(talk.close().packets[begins:], Options(settle_segments=2))
    sizes = [r["response_body_bytes"] for r in found.rows]
    assert sizes == [20, 30, 40]
    unknown, *known = found.rows
    assert unknown["anomaly"] == "undecoded_headers" and unknown["target"] is None
    assert unknown["status"] == 200 and unknown["method"] == "GET"
    assert [r["path"] for r in known] == ["/new/path"] * 2
    assert {r["protocol"] for r in found.rows} == {"h2"}


def test_a_hole_in_data_is_counted_and_one_in_headers_is_survived() -> None:
    pair = Pair()
    pair.exchange(GET, b"", OK, b"x" * 9000)
    pair.exchange(GET, b"", OK, b"y" * 10)
    later = [*GET[:3], (":path", "/later")]
    pair.exchange(later, b"", OK, b"z" * 10)
    packets = pair.talk.close().packets
    body = next(i for i, p in enumerate(packets) if p.data[54:].count(b"x") == 1460)
    found = play(packets[: body + 1] + packets[body + 2 :], Options(reorder_ns=0, hole_ns=0))
    assert [r["missing_bytes"] for r in found.rows] == [1460, 0, 0]
    assert [r["complete"] for r in found.rows] == [False, True, True]
    asked = [i for i, p in enumerate(packets) if p.data[54 + 3 : 54 + 4] == b"\x01" and i > 8]
    lost = play([p for i, p in enumerate(packets) if i != asked[0]], Options(reorder_ns=0, hole_ns=0))
    assert "/later" in {r["path"] for r in lost.rows}


def block(stream: int, data: bytes, flags: int = 0x5) -> bytes:
    return struct.pack("!I", len(data))[1:] + bytes([1, flags]) + struct.pack("!I", stream) + data


HOSTILE: dict[str, Callable[[], bytes]] = {
    "an integer of 2^31 and more": lambda: block(1, b"\x7f\xff\xff\xff\xff\x0f"),
    "an integer without end": lambda: block(1, b"\xff" * 40),
    "an index beyond the table": lambda: block(1, b"\xfe"),
    "an index of zero": lambda: block(1, b"\x80"),
    "a string beyond the block": lambda: block(1, b"\x40\x7f\x80\x01ab"),
    "Huffman with EOS inside": lambda: block(1, b"\x40\x01a\x84\xff\xff\xff\xff"),
    "a table of 2^28": lambda: block(1, b"\x3f\xe1\xff\xff\x7f\x82"),
    "padding longer than the payload": lambda: block(1, b"\xff\x82", 0xD),
    "CONTINUATION without HEADERS": lambda: ContinuationFrame(1, b"\x82").serialize(),
    "a frame of 2^24 - 1 bytes": lambda: b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + b"x" * 5000,
    "an unknown frame": lambda: b"\x00\x00\x03\x63\x00\x00\x00\x00\x01abc",
    "a frame amid a header block": lambda: block(1, b"\x82", 0x1) + PingFrame(0, b"12345678").serialize(),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_frames(what: str) -> None:
    good = HeadersFrame(3, hpack.Encoder().encode(GET), flags=["END_HEADERS", "END_STREAM"]).serialize()
    talk = Talk().open().client(PREFACE + SettingsFrame().serialize() + HOSTILE[what]() + good).close()
    found = play(talk.packets)
    if "2^24" not in what:
        assert found.rows[-1]["path"] == "/items/7"


def test_an_hpack_bomb_costs_a_counter() -> None:
    """One entry of 4 kB, referred to 30,000 times: 120 MB of fields in 30 kB."""
    bomb = b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000 + b"\xbe" * 30_000
    frames = [block(1, bomb[:10_000], 0x1)]
    for at in range(10_000, len(bomb), 10_000):
        last = at + 10_000 >= len(bomb)
        frames.append(
            ContinuationFrame(1, bomb[at : at + 10_000], flags=["END_HEADERS"] if last else []).serialize()
        )
    found = play(Talk().open().client(PREFACE + b"".join(frames)).close().packets, MESSAGES)
    assert found.account["bound_hits"] >= 1
    assert found.only()["request_uncompressed_header_bytes"] > 100_000_000


def test_continuation_without_end_is_bounded() -> None:
    frames = [block(1, b"\x82", 0x1)]
    frames += [ContinuationFrame(1, b"\x00" * 16_000).serialize() for _ in range(40)]
    frames += [ContinuationFrame(1, b"\x82", flags=["END_HEADERS"]).serialize()]
    found = play(Talk().open().client(PREFACE + b"".join(frames)).close().packets)
    assert found.account["bound_hits"] >= 1 and found.only()["anomaly"] == "undecoded_headers"


def test_more_streams_than_the_bound() -> None:
    encoder = hpack.Encoder()
    asked = [
        HeadersFrame(n, encoder.encode(GET), flags=["END_HEADERS", "END_STREAM"]) for n in range(1, 41, 2)
    ]
    found = play(Talk().open().client(PREFACE + raw(asked)).close().packets, Options(max_pipeline=4))
    assert len(found.rows) == 20 and found.account["bound_hits"] == 16


def grpc(*messages: bytes) -> bytes:
    return b"".join(b"\0" + struct.pack("!I", len(m)) + m for m in messages)


@pytest.mark.parametrize("mss", [1460, 3])
def test_grpc(mss: int) -> None:
    pair = Pair(mss)
    stream = pair.client.get_next_available_stream_id()
    request = [
        (":method", "POST"), (":scheme", "http"), (":authority", "g"), (":path", "/shop.v1.Cart/Add123"),
        ("content-type", "application/grpc+proto"), ("te", "trailers"),
    ]  # fmt: skip
    pair.client.send_headers(stream, request)
    pair.client.send_data(stream, grpc(b"one", b"", b"three"), end_stream=True)
    pair.flow()
    pair.server.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
    pair.server.send_data(stream, grpc(b"answer" * 10))
    pair.server.send_headers(stream, [("grpc-status", "5"), ("grpc-message", "no")], end_stream=True)
    pair.flow()
    row = play(pair.talk.close().packets).only()
    assert row["endpoint"] == "/shop.v1.Cart/Add123" and row["grpc_status"] == 5
    assert (row["request_messages"], row["request_message_bytes"]) == (3, 8)
    assert (row["response_messages"], row["response_message_bytes"]) == (1, 60)


def test_a_path_is_an_endpoint_of_its_own_only_where_it_is_grpcs() -> None:
    pair = Pair()
    path = (":path", "/shop.Cart/12345")
    rpc = [*POST[:3], path, ("content-type", "application/grpc")]
    for request in ([*GET[:3], path], rpc, [*GET[:3], path]):
        pair.exchange(request, b"", OK[:1], b"")
    found = play(pair.talk.close().packets).rows
    assert [r["endpoint"] for r in found] == ["/shop.Cart/{id}", "/shop.Cart/12345", "/shop.Cart/{id}"]


def test_filters_and_the_pages_of_control() -> None:
    """Steering frames are the connection's overhead; what is denied is not handed out."""
    pair = Pair()
    pair.exchange(GET, b"", OK, b"x")
    pair.exchange([*GET[:3], (":path", "/health")], b"", OK, b"x")
    pair.client.ping(b"12345678")
    pair.client.increment_flow_control_window(1000)
    pair.flow()
    packets = pair.talk.close().packets
    found = play(packets, Options(deny_urls=("^/health",), requests=True, responses=True))
    assert [r["path"] for r in found.rows] == ["/items/7"] and len(found.messages) == 2
    assert found.account["denied"] > 0
    control = len(raw([WindowUpdateFrame(0, window_increment=1), PingFrame(0, b"12345678")]))
    assert found.account["connection_overhead"] > control


def test_any_segmentation_disorder_and_loss_add_up() -> None:
    for seed in range(60):
        r = random.Random(seed)
        pair = Pair(r.choice([1460, 60, 17]))
        for _ in range(r.randrange(1, 4)):
            pair.exchange(GET, b"", [*OK, ("x-n", str(r.random()))], b"x" * r.randrange(0, 400))
            pair.exchange(POST, b"q" * r.randrange(1, 300), OK, b"")
        packets: list[Packet] = pair.talk.close().packets
        whole = play(packets)
        shuffled = list(packets)
        for _ in range(4):
            at = r.randrange(3, len(shuffled) - 1)
            shuffled.insert(max(3, at - r.randrange(4)), shuffled.pop(at))
        again = play(shuffled)
        sizes: list[Any] = [
            [
                {k: row[k] for k in row if k.endswith(("_header_bytes", "_body_bytes", "target", "status"))}
                for row in o.rows
            ]
            for o in (whole, again)
        ]
        assert sorted(map(repr, sizes[0])) == sorted(map(repr, sizes[1]))
        for _ in range(3):
            packets.pop(r.randrange(3, len(packets)))
        play(packets, MESSAGES)  # adds up, and the engines agree


def test_a_reset_frame_of_an_unknown_stream_is_overhead() -> None:
    frames = raw([SettingsFrame(), RstStreamFrame(9)])
    found = play(Talk().open().client(PREFACE + frames).close().packets)
    assert found.rows == [] and found.account["malformed"] == 0


@pytest.mark.parametrize("field", [
    ("x-a", "b\r\nx-injected: 1"), ("x-a\nb", "c"), (":path", "/a HTTP/1.1\r\nHost: other\r\n\r\nGET /b"),
    ("x a", "b"), ("x:a", "b"), (":method", "GET /evil"), ("x-a", "b\0"),
])  # fmt: skip
def test_fields_that_http1_would_read_otherwise_are_not_written(field: tuple[str, str]) -> None:
    """RFC 9113 §8.2.1, §10.3: a .gor file must not hold what a replay would send as something else."""
    fields = [f for f in GET if f[0] != field[0]] + [field]
    ask = HeadersFrame(1, hpack.Encoder().encode(fields), flags=["END_HEADERS", "END_STREAM"])
    found = play(Talk().open().client(PREFACE + raw([SettingsFrame(), ask])).close().packets, MESSAGES)
    assert found.messages == [] and found.account["messages_cut"] == 1 and len(found.rows) == 1
