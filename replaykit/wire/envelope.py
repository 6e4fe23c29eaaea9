"""Envelopes: what carries whole packets inside packets.

Owns MPLS, GRE with ERSPAN, VXLAN, Geneve, GTP-U and IP in IP: where the inner packet begins, or why
it is not opened. Each function looks at one header and never beyond it; `link` walks from one to the
next. They give EtherType and offset, or a cause; IndexError where the header is not whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from replaykit.wire.account import DENIED, MALFORMED, NOT_TCP

ETHERNET = 0x6558
"""An EtherType for "an Ethernet frame comes next" (IEEE 802.1 calls it transparent bridging)."""
IPV4, IPV6 = 0x0800, 0x86DD
GENEVE, GTP_U = 6081, 2152

Next = tuple[int, int] | str


@dataclass(frozen=True)
class Vxlan:
    """Which VXLAN traffic is opened.

    vnis: network identifiers; a negative one is left out. Without a positive one, all others are taken.
    """

    ports: tuple[int, ...]
    vnis: tuple[int, ...]

    def wants(self, vni: int) -> bool:
        return -vni not in self.vnis and (vni in self.vnis or all(v < 0 for v in self.vnis))


def be16(b: bytes, at: int) -> int:
    if at + 2 > len(b):
        raise IndexError
    return b[at] << 8 | b[at + 1]


def be32(b: bytes, at: int) -> int:
    if at + 4 > len(b):
        raise IndexError
    return int.from_bytes(b[at : at + 4], "big")


def ppp(b: bytes, at: int) -> tuple[int, int] | None:
    """What a PPP frame carries, if it is IP."""
    # RFC 1661 §6.5: an odd first byte is a protocol number of one byte.
    first = b[at]
    protocol, after = (first, at + 1) if first & 1 else (be16(b, at), at + 2)
    return {0x0021: (IPV4, after), 0x0057: (IPV6, after)}.get(protocol)


def _ip(b: bytes, at: int) -> Next:
    if at >= len(b):
        return MALFORMED
    kind = {4: IPV4, 6: IPV6}.get(b[at] >> 4)
    return NOT_TCP if kind is None else (kind, at)


def mpls(b: bytes, at: int) -> Next:
    """RFC 3032: labels to the bottom of the stack. Below it IP, or a control word and Ethernet (RFC 4448)."""
    while True:
        label = be32(b, at)
        at += 4
        if label & 0x100:
            break
    if at < len(b) and b[at] >> 4 == 0:
        return ETHERNET, at + 4
    return _ip(b, at)


def opened(protocol: int, b: bytes, at: int, vxlan: Vxlan) -> Next:
    """What a protocol above IP carries, if it is an envelope."""
    match protocol:
        case 4:
            return IPV4, at
        case 41:
            return IPV6, at
        case 47:
            return _gre(b, at)
        case 17:
            return _udp(b, at, vxlan)
    return NOT_TCP


def _gre(b: bytes, at: int) -> Next:
    """RFC 2784, 2890; version 1 is RFC 2637 (PPTP)."""
    flags, kind = be16(b, at), be16(b, at + 2)

    def word(bit: int) -> int:
        return 4 if flags & bit else 0

    if flags & 7 == 1:
        if kind != 0x880B:
            return NOT_TCP
        try:
            return ppp(b, at + 8 + word(0x1000) + word(0x0080)) or NOT_TCP
        except IndexError:
            return NOT_TCP
    if flags & 7 or flags & 0x4000:
        return NOT_TCP
    start = at + 4 + word(0x8000) + word(0x2000) + word(0x1000)
    # ERSPAN: type I has neither sequence number nor header, type II has both, type III more.
    if kind == 0x88BE:
        return ETHERNET, start + (8 if flags & 0x1000 else 0)
    if kind == 0x22EB:
        return ETHERNET, start + 12 + (8 if b[start + 11] & 1 else 0)
    return kind, start


def _udp(b: bytes, at: int, vxlan: Vxlan) -> Next:
    port, start = be16(b, at + 2), at + 8
    if port in vxlan.ports:  # RFC 7348 §5
        flags, vni = b[start], be32(b, start + 4) >> 8
        if not flags & 0x08:
            return NOT_TCP
        return (ETHERNET, start + 8) if vxlan.wants(vni) else DENIED
    if port == GENEVE:  # RFC 8926 §3.4
        first, kind = b[start], be16(b, start + 2)
        return (kind, start + 8 + (first & 0x3F) * 4) if first >> 6 == 0 else NOT_TCP
    if port == GTP_U:
        return _gtp(b, start)
    return NOT_TCP


def _gtp(b: bytes, at: int) -> Next:
    """3GPP TS 29.281 §5.1: a G-PDU, with its extension headers."""
    first, kind = b[at], b[at + 1]
    if first >> 5 != 1 or not first & 0x10 or kind != 0xFF:
        return NOT_TCP
    start = at + 8
    if first & 7:
        start += 4
        following = b[start - 1] if first & 4 else 0
        while following:
            length = b[start] * 4
            if length == 0:
                return MALFORMED
            start += length
            following = b[start - 1]
    return _ip(b, start)
