"""WebSocket as wsproto speaks it, and as nobody should."""

from __future__ import annotations

import random
import struct
import zlib

import pytest
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode

from replaykit.engine.options import Options
from tests.talk import Talk, play

ASK = (
    b"GET /live/17?x=1 HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)


def switch(extensions: bytes = b"") -> bytes:
    chosen = b"Sec-WebSocket-Extensions: " + extensions + b"\r\n" if extensions else b""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
        + chosen
        + b"\r\n"
    )


def opened(extensions: bytes = b"") -> Talk:
    return Talk().open().client(ASK).server(switch(extensions))


@pytest.mark.parametrize("mss", [1460, 5, 1])
def test_messages_fragments_and_control_frames(mss: int) -> None:
    client, server = FrameProtocol(True, []), FrameProtocol(False, [])
    talk = opened()
    talk.client(client.send_data("hello", True), mss)
    talk.server(server.send_data(b"a" * 200, False), mss)
    talk.server(server.ping(b"now"), mss)
    talk.server(server.send_data(b"b" * 70_000, True), mss * 40)
    talk.client(client.pong(b"now"), mss)
    talk.client(client.close(CloseReason.GOING_AWAY, "bye"), mss)
    talk.server(server.close(CloseReason.NORMAL_CLOSURE), mss)
    handshake, *found = play(talk.close().packets).rows
    assert (handshake["protocol"], handshake["status"], handshake["endpoint"]) == (
        "http/1.1",
        101,
        "/live/{id}",
    )
    kinds = [(r["method"], r["request_body_bytes"], r["response_body_bytes"], r["status"]) for r in found]
    assert kinds == [
        ("TEXT", 5, None, None),
        ("PING", None, 3, None),
        ("BINARY", None, 70_200, None),
        ("PONG", 3, None, None),
        ("CLOSE", 5, None, 1001),
        ("CLOSE", None, 2, 1000),
    ]
    assert {r["endpoint"] for r in found} == {"/live/{id}"} and {r["protocol"] for r in found} == {
        "websocket"
    }
    binary = found[2]
    assert binary["response_header_bytes"] == 4 + 10 and binary["response_messages"] == 2
    assert binary["response_wire_bytes"] == 70_214 and binary["complete"]
    assert found[0]["request_header_bytes"] == 6 and found[0]["response_header_bytes"] is None


@pytest.mark.parametrize("extensions", [
    b"permessage-deflate",
    b"permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    b"x-other, permessage-deflate; server_max_window_bits=10; client_max_window_bits=15",
])  # fmt: skip
@pytest.mark.parametrize("mss", [1460, 3])
def test_permessage_deflate(extensions: bytes, mss: int) -> None:
    sides = []
    for is_client in (True, False):
        deflate = PerMessageDeflate(
            client_no_context_takeover=b"client_no" in extensions,
            server_no_context_takeover=b"server_no" in extensions,
            server_max_window_bits=10 if b"=10" in extensions else 15,
        )
        deflate._enabled = True
        sides.append(FrameProtocol(is_client, [deflate]))
    client, server = sides
    talk = opened(extensions)
    text = "the same words again and again. " * 30
    for _ in range(3):
        talk.client(client.send_data(text, True), mss)
        for part in (text[:100], text[100:]):
            talk.server(server.send_data(part, part is not text[:100] and part == text[100:]), mss)
    found = play(talk.close().packets).rows[1:]
    assert [r["request_decoded_bytes"] or r["response_decoded_bytes"] for r in found] == [len(text)] * 6
    first, last = found[0]["request_body_bytes"], found[4]["request_body_bytes"]
    assert first < len(text) / 5 and (last == first) == (b"client_no" in extensions)


def frame(opcode: int, payload: bytes, first: int = 0x80, masked: bool = False) -> bytes:
    n = len(payload)
    size = (
        bytes([n])
        if n < 126
        else b"\x7e" + struct.pack("!H", n)
        if n < 65_536
        else b"\x7f" + struct.pack("!Q", n)
    )
    if masked:
        size = bytes([size[0] | 0x80]) + size[1:] + b"\0\0\0\0"
    return bytes([first | opcode]) + size + payload


def test_a_compressed_bomb_is_not_followed() -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = deflate.compress(bytes(64 << 20)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    talk = opened(b"permessage-deflate").server(frame(2, bomb[:-4], 0xC0)).server(frame(1, b"plain"))
    bomb_row, plain = play(talk.close().packets).rows[1:]
    assert bomb_row["response_decoded_bytes"] is None and bomb_row["response_body_bytes"] == len(bomb) - 4
    assert plain["response_decoded_bytes"] == 5


@pytest.mark.parametrize(("what", "data", "anomaly"), [
    ("a control frame of 200 bytes", frame(8, b"\x03\xe8" + b"x" * 198), "bad_frame"),
    ("a reserved opcode", frame(5, b"abc"), "bad_frame"),
    ("a continuation of nothing", frame(0, b"abc"), "bad_frame"),
    ("a masked server", frame(1, b"abc", masked=True), "bad_frame"),
    ("a message amid another", frame(1, b"abc", 0) + frame(2, b"def"), "bad_frame"),
    ("no end", frame(1, b"abc", 0), "closed_early"),
])  # fmt: skip
def test_broken_frames_are_flagged(what: str, data: bytes, anomaly: str) -> None:
    row = play(opened().server(data).close().packets).rows[1]
    assert row["anomaly"] == anomaly, what


def test_a_length_of_2_to_the_63_ends_reading_until_a_clear_frame() -> None:
    talk = opened().server(b"\x82\x7f" + b"\xff" * 8 + b"junk" * 9).server(frame(1, b"again"))
    found = play(talk.close().packets)
    assert found.account["malformed"] > 0 and found.rows[-1]["response_body_bytes"] == 5


def test_a_hole_is_counted_and_reading_goes_on() -> None:
    talk = opened(b"permessage-deflate")
    for n in range(6):
        talk.server(frame(1, b"%d" % n * 100), 60)
    packets = talk.close().packets
    for lost in range(5, len(packets) - 3):
        found = play([p for i, p in enumerate(packets) if i != lost], Options(reorder_ns=0, hole_ns=0))
        assert len(found.rows) >= 5 and found.account["missing_bytes"] > 0


def test_mutated_frames_add_up_in_both_engines() -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    for seed in range(150):
        r = random.Random(seed)
        talk = opened(b"permessage-deflate")
        for _ in range(4):
            packed = deflate.compress(b"word " * r.randrange(1, 300)) + deflate.flush(zlib.Z_SYNC_FLUSH)
            data = bytearray(
                frame(r.choice((1, 2, 0, 9)), packed[:-4], r.choice((0xC0, 0x80, 0x40)), r.random() < 0.2)
            )
            for _ in range(r.randrange(3)):
                data[r.randrange(len(data))] = r.randrange(256)
            talk.server(bytes(data), r.choice((1460, 9)))
        play(talk.close().packets)


def test_extended_connect_over_http2() -> None:
    """RFC 8441: the frames travel in DATA of the stream."""
    import hpack
    from hyperframe.frame import DataFrame, HeadersFrame, SettingsFrame

    from tests.engine.test_http2 import PREFACE, raw

    ask = hpack.Encoder().encode(
        [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":path", "/live/17"),
            (":authority", "h"),
        ]
    )
    answer = hpack.Encoder().encode([(":status", "200")])
    client = FrameProtocol(True, []).send_data("hello", True)
    server = FrameProtocol(False, []).send_data(b"x" * 300, True)
    talk = Talk().open()
    talk.client(PREFACE + raw([SettingsFrame(), HeadersFrame(1, ask, flags=["END_HEADERS"])]))
    talk.server(raw([SettingsFrame(), HeadersFrame(1, answer, flags=["END_HEADERS"])]))
    talk.client(raw([DataFrame(1, client[:4]), DataFrame(1, client[4:])]))
    talk.server(raw([DataFrame(1, server, flags=["END_STREAM"])]))
    talk.client(raw([DataFrame(1, b"", flags=["END_STREAM"])]))
    found = play(talk.close().packets).rows
    methods = {r["method"]: r for r in found}
    assert set(methods) == {"CONNECT", "TEXT", "BINARY"}
    assert methods["TEXT"]["request_body_bytes"] == 5 and methods["BINARY"]["response_body_bytes"] == 300
    assert methods["TEXT"]["stream"] == 1 and methods["TEXT"]["endpoint"] == "/live/{id}"
    assert methods["BINARY"]["scheme"] == "https" and Opcode.TEXT == 1
