"""Capture formats: both byte orders, both resolutions, several interfaces, and what is broken."""

from __future__ import annotations

import struct

import pytest

from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from replaykit.engine.source import BrokenCapture
from tests.mutate import Packet
from tests.talk import Outcome, Talk, outcome

PACKETS = (
    Talk()
    .open()
    .client(b"GET / HTTP/1.1\r\n\r\n")
    .server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    .packets
)


def pcap(order: str, nanos: bool, packets: list[Packet] = PACKETS) -> bytes:
    out = [struct.pack(order + "IHHiIII", 0xA1B23C4D if nanos else 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)]
    for p in packets:
        seconds, ns = divmod(p.time, 10**9)
        out.append(
            struct.pack(order + "IIII", seconds, ns if nanos else ns // 1000, len(p.data), p.orig) + p.data
        )
    return b"".join(out)


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def pcapng(order: str) -> bytes:
    """Two interfaces: Ethernet in µs, raw IP in ns with an offset of one hour; a section of each."""
    section = block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    ethernet = block(order, 1, struct.pack(order + "HHI", 1, 0, 0))
    options = struct.pack(order + "HHB3x", 9, 1, 9) + struct.pack(order + "HHq", 14, 8, 3600) + bytes(4)
    raw = block(order, 1, struct.pack(order + "HHI", 101, 0, 0) + options)
    out = [section, ethernet, raw, block(order, 5, bytes(12))]
    for i, p in enumerate(PACKETS):
        data, stamp = (p.data, p.time // 1000) if i % 2 == 0 else (p.data[14:], p.time - 3600 * 10**9)
        head = struct.pack(order + "IIIII", i % 2, stamp >> 32, stamp & 0xFFFFFFFF, len(data), len(data))
        out.append(block(order, 6, head + data))
    return b"".join(out)


def read(data: bytes, piece: int | None = None) -> Outcome:
    engine = Engine(Options())
    at = 0
    for end in range(piece, len(data) + piece, piece) if piece else [len(data)]:
        at += engine.feed_file(data, at, min(end, len(data)))
    assert at == len(data)
    return outcome(engine)


@pytest.mark.parametrize("nanos", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_pcap(order: str, nanos: bool) -> None:
    row = read(pcap(order, nanos)).only()
    assert row["time"] == PACKETS[3].time and row["complete"]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_with_two_interfaces(order: str) -> None:
    row = read(pcapng(order) + pcapng(">")).rows[0]
    assert row["time"] == PACKETS[3].time and row["response_time"] == PACKETS[4].time and row["complete"]


@pytest.mark.parametrize("data", [pcap("<", True), pcapng("<")])
def test_pieces_of_any_size(data: bytes) -> None:
    assert read(data, 7).rows == read(data).rows


@pytest.mark.parametrize(
    ("data", "offset", "what"),
    [
        (b"\x89PNG" + bytes(40), 0, "not a pcap"),
        (pcap("<", True)[:24] + b"\xff" * 16, 24, "record of"),
        (block("<", 0x0A0D0D0A, bytes(16)), 0, "byte order"),
        (pcapng("<")[:28] + block("<", 6, bytes(20)), 28, "unknown interface"),
        (pcapng("<")[:28] + struct.pack("<III", 6, 5, 0), 28, "block of 5 bytes"),
    ],
)
def test_broken_files_say_where(data: bytes, offset: int, what: str) -> None:
    opened = Engine(Options())
    with pytest.raises(BrokenCapture) as caught:
        opened.feed_file(data, 0, len(data))
    assert caught.value.args[0] == offset and what in caught.value.args[1]
