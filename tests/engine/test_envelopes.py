"""HTTP inside what carries packets inside packets, built by scapy."""

from __future__ import annotations

import random

import pytest
from scapy.contrib.erspan import ERSPAN_I, ERSPAN_II, ERSPAN_III
from scapy.contrib.geneve import GENEVE
from scapy.contrib.gtp import GTP_U_Header
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet as Layer
from scapy.packet import Raw

from replaykit.engine.options import Options
from tests.mutate import Packet
from tests.talk import Talk, play

OUTER = Ether(src="02:00:00:00:00:03", dst="02:00:00:00:00:04")
TUNNEL = IP(src="192.0.2.1", dst="192.0.2.2")
INNER = Ether(src="02:00:00:00:00:05", dst="02:00:00:00:00:06")

# Each: what stands before the inner IP packet.
ENVELOPES: dict[str, list[Layer]] = {
    "PPPoE": [PPPoE(sessionid=1), PPP(proto=0x0021)],
    "MPLS": [MPLS(label=16, s=0, ttl=9), MPLS(label=17, s=1, ttl=9)],
    "IP in IP": [TUNNEL],
    "IP in IPv6": [IPv6(src="2001:db8::1", dst="2001:db8::2")],
    "GRE": [TUNNEL, GRE(proto=0x0800)],
    "GRE with key, checksum and number": [
        TUNNEL, GRE(proto=0x0800, chksum_present=1, key_present=1, seqnum_present=1, key=7, sequence_number=3)
    ],
    "Ethernet in GRE": [TUNNEL, GRE(proto=0x6558), INNER],
    "ERSPAN I": [TUNNEL, GRE(proto=0x88BE), ERSPAN_I(), INNER],
    "ERSPAN II": [TUNNEL, GRE(proto=0x88BE, seqnum_present=1), ERSPAN_II(), INNER],
    "ERSPAN III": [TUNNEL, GRE(proto=0x22EB, seqnum_present=1), ERSPAN_III(), INNER],
    "MPLS in GRE": [TUNNEL, GRE(proto=0x8847), MPLS(label=16, s=1, ttl=9)],
    "VXLAN": [TUNNEL, UDP(sport=5555, dport=4789), VXLAN(vni=42, flags="Instance"), INNER],
    "VXLAN, Linux's old port": [TUNNEL, UDP(sport=5555, dport=8472), VXLAN(vni=42, flags="Instance"), INNER],
    "Geneve": [TUNNEL, UDP(sport=5555, dport=6081), GENEVE(vni=42, proto=0x6558), INNER],
    "GTP-U": [TUNNEL, UDP(sport=2152, dport=2152), GTP_U_Header(teid=9)],
    "VXLAN in VLAN in IPv6, with VLAN inside": [
        Dot1Q(vlan=9), IPv6(src="2001:db8::1", dst="2001:db8::2"), UDP(sport=5555, dport=4789),
        VXLAN(vni=1, flags="Instance"), INNER, Dot1Q(vlan=3),
    ],
}  # fmt: skip

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n" + b"y" * 300


def talk(envelope: list[Layer]) -> Talk:
    return Talk(envelope=envelope).open().client(GET).server(ANSWER).close()


@pytest.mark.parametrize("name", ENVELOPES)
def test_what_an_envelope_carries(name: str) -> None:
    packets = talk(ENVELOPES[name]).packets
    found = play(packets)
    row = found.only()
    assert (row["path"], row["response_body_bytes"], row["client_ip"]) == ("/a", 300, "10.0.0.1")
    payload = row["request_wire_bytes"] + row["response_wire_bytes"]
    # The envelope's bytes are overhead of what it carries.
    assert row["link_bytes"] == sum(p.orig for p in packets[3:5]) > payload + 2 * 54


def test_networks_that_were_chosen() -> None:
    packets = []
    for vni in (1, 2, 3):
        envelope = [TUNNEL, UDP(sport=5555, dport=4444), VXLAN(vni=vni, flags="Instance"), INNER]
        packets += (
            Talk(envelope=envelope, sport=40_000 + vni).open().client(GET).server(ANSWER).close().packets
        )
    assert play(packets).rows == []
    ports = {"vxlan_ports": (4444,)}
    assert len(play(packets, Options(**ports)).rows) == 3  # type: ignore[arg-type]
    for vnis, seen in (((1, 3), {40_001, 40_003}), ((-2,), {40_001, 40_003}), ((2,), {40_002})):
        found = play(packets, Options(**ports, vxlan_vnis=vnis))  # type: ignore[arg-type]
        assert {r["client_port"] for r in found.rows} == seen and found.account["denied"] > 0


def cut(packets: list[Packet], size: int, order: random.Random) -> list[Packet]:
    """Each packet as IP fragments, in any order."""
    out = []
    for n, p in enumerate(packets):
        ip = Ether(p.data)[IP]
        ip.id = n + 1
        pieces = [bytes(OUTER / piece) for piece in fragment(IP(bytes(ip)), size)]
        order.shuffle(pieces)
        out += [Packet(p.time, 1, len(raw), raw) for raw in pieces]
    return out


@pytest.mark.parametrize("name", ["IP in IP", "GRE", "VXLAN", "GTP-U"])
def test_an_envelope_in_fragments(name: str) -> None:
    packets = cut(talk(ENVELOPES[name]).packets, 64, random.Random(1))
    row = play(packets).only()
    assert row["response_body_bytes"] == 300 and row["response_packets"] > 5 and row["complete"]


def test_fragments_in_fragments() -> None:
    inner = cut(talk([]).packets, 64, random.Random(2))
    wrapped = []
    for p in inner:
        raw = bytes(OUTER / TUNNEL / IP(p.data[14:]))
        wrapped.append(Packet(p.time, 1, len(raw), raw))
    row = play(cut(wrapped, 40, random.Random(3))).only()
    assert row["response_body_bytes"] == 300


def test_a_datagram_that_carries_no_tcp_is_booked_whole() -> None:
    raw = bytes(
        OUTER / IP(src="192.0.2.1", dst="192.0.2.2", id=5) / UDP(sport=53, dport=999) / Raw(b"d" * 900)
    )
    found = play(cut([Packet(1, 1, len(raw), raw)], 200, random.Random(4)))
    assert found.account["not_tcp"] == found.account["bytes"] > 900


def test_nesting_is_bounded_and_adds_up() -> None:
    layers: list[Layer] = [TUNNEL.copy() for _ in range(40)]
    packets = talk(layers).packets
    found = play(packets)
    assert found.rows == [] and found.account["not_tcp"] == found.account["bytes"]
    assert len(play(talk(layers[:14]).packets).rows) == 1


def test_envelopes_cut_anywhere() -> None:
    for name, envelope in ENVELOPES.items():
        p = talk(envelope).packets[3]
        for n in range(len(p.data)):
            found = play([Packet(p.time, 1, p.orig, p.data[:n])])
            assert found.account["bytes"] == p.orig, name
