"""Conversations for tests, built with scapy: what was sent, cut into packets as TCP would.

scapy takes a third of a millisecond for a packet, and tests make millions: it makes one of each kind, which
is filled in here.

A `Talk` reads like one: `talk.client(b"GET / ...")`, `talk.server(b"HTTP/1.1 200 ...")`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from struct import pack, pack_into, unpack
from typing import Any

import pyarrow as pa
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet as Layer

from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from tests.mutate import Packet

START = 1_700_000_000_000_000_000
STEP = 100_000


def layered(
    envelope: Sequence[Layer],
    src: str,
    dst: str,
    sport: int,
    dport: int,
    flags: str,
    seq: int,
    ack: int,
    payload: bytes,
    identification: int = 1,
) -> bytes:
    """A packet as scapy makes it."""
    ip = IPv6(src=src, dst=dst) if ":" in src else IP(src=src, dst=dst, id=identification & 0xFFFF)
    layers: Layer = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    for layer in envelope:
        layers = layers / layer.copy()
    return bytes(layers / ip / TCP(sport=sport, dport=dport, seq=seq, ack=ack, flags=flags) / payload)


@lru_cache(4096)
def _empty(src: str, dst: str, sport: int, dport: int, flags: str) -> bytes:
    return layered((), src, dst, sport, dport, flags, 0, 0, b"")


def filled(empty: bytes, seq: int, ack: int, payload: bytes, identification: int = 1) -> bytes:
    """The same packet with other numbers and contents; `empty` has no VLAN, options or extension headers."""
    out, four = bytearray(empty + payload), empty[14] >> 4 == 4
    tcp = 34 if four else 54
    length = len(out) - tcp
    pack_into(">II", out, tcp + 4, seq, ack)
    if four:
        pack_into(">H", out, 16, 20 + length)
        pack_into(">H", out, 18, identification & 0xFFFF)
        pack_into(">H", out, 24, 0)
        pack_into(">H", out, 24, _checksum(out[14:34]))
    else:
        pack_into(">H", out, 18, length)
    pack_into(">H", out, tcp + 16, 0)
    addresses = out[26:34] if four else out[22:54]
    pack_into(">H", out, tcp + 16, _checksum(addresses + pack(">HH", 6, length) + out[tcp:]))
    return bytes(out)


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass
class Talk:
    """One connection. Each packet comes STEP ns after the one before."""

    sport: int = 40_000
    dport: int = 80
    src: str = "10.0.0.1"
    dst: str = "10.0.0.2"
    client_seq: int = 1000
    server_seq: int = 5000
    envelope: Sequence[Layer] = ()
    start: int = START
    packets: list[Packet] = field(default_factory=list)

    def _send(self, to_server: bool, flags: str, payload: bytes = b"", seq: int | None = None) -> None:
        src, dst, sport, dport = self.src, self.dst, self.sport, self.dport
        own, other = self.client_seq, self.server_seq
        if not to_server:
            src, dst, sport, dport, own, other = dst, src, dport, sport, other, own
        number = (own if seq is None else seq) & 0xFFFFFFFF
        answers = other & 0xFFFFFFFF if "A" in flags else 0
        # A host numbers its packets: one that repeats another has a number of its own.
        identification = len(self.packets) + 1
        if self.envelope:
            raw = layered(
                self.envelope, src, dst, sport, dport, flags, number, answers, payload, identification
            )
        else:
            raw = filled(_empty(src, dst, sport, dport, flags), number, answers, payload, identification)
        self.packets.append(Packet(self.start + STEP * len(self.packets), 1, len(raw), raw))
        if seq is None:
            length = len(payload) + ("S" in flags) + ("F" in flags)
            if to_server:
                self.client_seq += length
            else:
                self.server_seq += length

    def open(self) -> Talk:
        self._send(True, "S")
        self._send(False, "SA")
        self._send(True, "A")
        return self

    def client(self, data: bytes, mss: int = 1460) -> Talk:
        for at in range(0, len(data), mss):
            self._send(True, "PA", data[at : at + mss])
        return self

    def server(self, data: bytes, mss: int = 1460) -> Talk:
        for at in range(0, len(data), mss):
            self._send(False, "PA", data[at : at + mss])
        return self

    def ack(self, to_server: bool = True) -> Talk:
        self._send(to_server, "A")
        return self

    def close(self) -> Talk:
        self._send(True, "FA")
        self._send(False, "FA")
        self._send(True, "A")
        return self

    def fin(self, to_server: bool) -> Talk:
        self._send(to_server, "FA")
        return self

    def reset(self, to_server: bool = False) -> Talk:
        self._send(to_server, "RA")
        return self

    def again(self, to_server: bool, data: bytes, back: int) -> Talk:
        """Sends bytes that begin `back` before what comes next."""
        self._send(to_server, "PA", data, (self.client_seq if to_server else self.server_seq) - back)
        return self


@dataclass
class Outcome:
    """What an engine made of packets: rows by column name, its account, its messages."""

    rows: list[dict[str, Any]]
    account: dict[str, int]
    messages: list[tuple[int, str, bytes]]

    def only(self) -> dict[str, Any]:
        assert len(self.rows) == 1, self.rows
        return self.rows[0]


def rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """A batch as dictionaries; times as ns."""
    columns = {
        name: batch.column(name).cast(pa.int64()) if name in ("time", "response_time") else batch.column(name)
        for name in batch.schema.names
    }
    plain = {name: column.to_pylist() for name, column in columns.items()}
    return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]


def outcome(engine: Engine) -> Outcome:
    """Ends the engine and checks the law of conservation."""
    engine.finish()
    account = engine.account()
    assert account["pending_bytes"] == 0, account
    assert engine.held == (0, 0)
    found = rows(engine.take_exchanges())
    assert sum(r["link_bytes"] for r in found) == account["exchange_bytes"]
    messages = [(m.kind, m.id, m.payload) for m in engine.take_messages()]
    return Outcome(found, account, messages)


def play(packets: Sequence[Packet], options: Options | None = None) -> Outcome:
    """Packets through an engine."""
    engine = Engine(options or Options())
    for p in packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    return outcome(engine)


CONTENT = (
    "method", "target", "status", "request_header_bytes", "request_body_bytes", "response_header_bytes",
    "response_body_bytes", "request_wire_bytes", "response_wire_bytes", "complete",
)  # fmt: skip


def content(found: Outcome) -> list[tuple[Any, ...]]:
    """What was said, whatever the packets were like."""
    ordered = sorted(found.rows, key=lambda r: (r["connection"], r["stream"]))
    return [tuple(r[c] for c in CONTENT) for r in ordered]
