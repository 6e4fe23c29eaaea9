"""Link types, envelopes, IPv6 extension headers, fragments."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPPoE

from tests.mutate import Packet
from tests.talk import Talk, content, play

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 700\r\n\r\n" + b"x" * 700


def plain(**kwargs: object) -> Talk:
    return Talk(**kwargs).open().client(GET).server(OK).close()  # type: ignore[arg-type]


def relink(talk: Talk, link: int, header: bytes) -> list[Packet]:
    """The same packets under another link header."""
    return [
        replace(p, link=link, data=header + p.data[14:], orig=len(header) + len(p.data) - 14)
        for p in talk.packets
    ]


LINKS = {
    "linux cooked v1": (113, struct.pack("!HHH8sH", 0, 1, 6, bytes(8), 0x0800)),
    "linux cooked v2": (276, struct.pack("!HHIHBB8s", 0x0800, 0, 2, 1, 0, 6, bytes(8))),
    "null": (0, struct.pack("<I", 2)),
    "loop": (108, struct.pack("!I", 2)),
    "raw": (101, b""),
    "raw ip": (12, b""),
    "ipv4": (228, b""),
    "cisco hdlc": (104, bytes([0x0F, 0, 0x08, 0x00])),
    "ppp": (9, bytes([0xFF, 3, 0, 0x21])),
}


@pytest.mark.parametrize("name", LINKS)
def test_link_types(name: str) -> None:
    talk = plain()
    found = play(relink(talk, *LINKS[name]))
    assert content(found) == content(play(talk.packets))
    assert found.only()["link_bytes"] == len(GET) + len(OK) + 2 * (40 + len(LINKS[name][1]))


ENVELOPES = {
    "802.1Q": [Dot1Q(vlan=5)],
    "QinQ": [Dot1AD(vlan=7), Dot1Q(vlan=5)],
    "PPPoE": [PPPoE(sessionid=1), PPP()],
}


@pytest.mark.parametrize("name", ENVELOPES)
def test_envelopes(name: str) -> None:
    assert content(play(plain(envelope=ENVELOPES[name]).packets)) == content(play(plain().packets))


def test_ipv6_with_extension_headers() -> None:
    talk = plain(src="fd00::1", dst="fd00::2")
    row = play(talk.packets).only()
    assert (row["client_ip"], row["server_ip"]) == ("fd00::1", "fd00::2")
    extended = []
    for p in talk.packets:
        frame = Ether(p.data)
        tcp = frame[IPv6].payload
        new = (
            IPv6(src=frame[IPv6].src, dst=frame[IPv6].dst) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / tcp
        )
        raw = bytes(Ether(src=frame.src, dst=frame.dst) / new)
        extended.append(replace(p, data=raw, orig=len(raw)))
    assert content(play(extended)) == content(play(talk.packets))


def test_ipv4_options() -> None:
    out = []
    for p in plain().packets:
        ip = Ether(p.data)[IP]
        new = IP(src=ip.src, dst=ip.dst, options=[b"\x94\x04\x00\x00"]) / ip.payload
        raw = bytes(Ether() / new)
        out.append(replace(p, data=raw, orig=len(raw)))
    assert play(out).only()["complete"]


@pytest.mark.parametrize("backwards", [False, True])
def test_fragments_are_joined(backwards: bool) -> None:
    talk = plain()
    out = []
    for p in talk.packets:
        ip = Ether(p.data)[IP]
        ip.id = len(out) + 1
        pieces = fragment(ip, fragsize=96)
        for piece in reversed(pieces) if backwards else pieces:
            raw = bytes(Ether() / piece)
            out.append(replace(p, data=raw, orig=len(raw)))
    assert len(out) > len(talk.packets)
    found = play(out)
    assert content(found) == content(play(talk.packets))
    assert found.account["packets"] == len(out)


def test_a_lost_fragment_is_booked() -> None:
    ip = Ether(plain().packets[4].data)[IP]
    pieces = [bytes(Ether() / f) for f in fragment(ip, fragsize=96)]
    found = play([Packet(0, 1, len(raw), raw) for raw in pieces[:-1]])
    assert found.account["gap"] == found.account["bytes"] > 0


def test_what_is_not_tcp_is_named() -> None:
    arp = bytes(Ether() / ARP())
    found = play([Packet(0, 1, len(arp), arp), Packet(0, 147, 60, bytes(60)), Packet(0, 1, 60, b"\x01")])
    assert found.account["not_tcp"] == len(arp) + 120
