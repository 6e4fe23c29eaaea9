"""From a captured frame to a TCP segment.

Owns link types, VLAN tags, PPPoE, IPv4, IPv6 and IP fragments, and the walk through envelopes. Never
keeps a frame beyond an unfinished datagram. Cost per packet is constant; at most MAX_LAYERS headers
are opened.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from struct import Struct

from replaykit.wire import account
from replaykit.wire.envelope import ETHERNET, IPV4, IPV6, Next, Vxlan, be16, be32, mpls, opened, ppp

MAX_LAYERS = 16
MAX_PAYLOAD = 1 << 20
MAX_DATAGRAMS = 1024
MAX_FRAGMENTS = 256
FRAGMENT_TIMEOUT_NS = 30_000_000_000

FIN, SYN, RST, ACK = 1, 2, 4, 16

VLAN_TAGS = (0x8100, 0x88A8, 0x9100)
PPPOE_SESSION = 0x8864
MPLS = (0x8847, 0x8848)
FRAGMENTED = (4, 6, 17, 41, 47)
"""Protocols whose fragments are put together: TCP, and what may carry it."""

_TCP = Struct("!HHIIBB")

# An address: (family, number). Families order before numbers, as in the compiled engine.
Addr = tuple[int, int]


@dataclass(slots=True)
class Segment:
    """One TCP segment. `length` is the payload's length on the wire, `payload` what was captured."""

    time: int
    src: Addr
    dst: Addr
    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    payload: bytes
    length: int
    overhead: int
    packets: int


@dataclass(slots=True)
class _Datagram:
    src: Addr
    dst: Addr
    protocol: int
    at: int
    length: int | None
    fragment: tuple[int, int, bool] | None


@dataclass(slots=True)
class _Partial:
    time: int
    born: int
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    total: int | None = None
    size: int = 0
    packets: int = 0


class Held:
    """A fragment whose datagram is not whole yet; its bytes are held."""


@dataclass(slots=True)
class Whole:
    """What came in fragments: the payload of an IP packet. `size`: link bytes of its packets."""

    src: Addr
    dst: Addr
    protocol: int
    payload: bytes
    size: int
    packets: int


HELD = Held()
# A segment, the cause that the packet's bytes go to, HELD, or a datagram that has become whole.
Decoded = Segment | str | Held | Whole


def network(link: int, b: bytes) -> tuple[int, int] | None:
    """EtherType and offset of the network header; None where the link holds none that we read."""
    try:
        match link:
            case 1:
                return be16(b, 12), 14
            case 104:  # Cisco HDLC: address, control, EtherType
                return be16(b, 2), 4
            case 0 | 108:  # BSD loopback: the address family, in the byte order of the capturing host
                return _ip_version(b, 4)
            case 12 | 14 | 101 | 228 | 229:
                return _ip_version(b, 0)
            case 113:  # Linux cooked v1
                return be16(b, 14), 16
            case 276:  # Linux cooked v2
                return be16(b, 0), 20
            case 9 | 50:
                return ppp(b, 2 if b[:2] == b"\xff\x03" else 0)
    except IndexError:
        return None
    return None


def _ip_version(b: bytes, at: int) -> tuple[int, int] | None:
    return {4: (IPV4, at), 6: (IPV6, at)}.get(b[at] >> 4)


def _ipv4(b: bytes, at: int) -> _Datagram | None:
    first = b[at]
    header = (first & 15) * 4
    if first >> 4 != 4 or header < 20:
        return None
    total = be16(b, at + 2)
    if total != 0 and total < header:
        return None
    flags = be16(b, at + 6)
    offset, more = (flags & 0x1FFF) * 8, bool(flags & 0x2000)
    return _Datagram(
        (4, be32(b, at + 12)),
        (4, be32(b, at + 16)),
        b[at + 9],
        at + header,
        total - header if total else None,
        (be16(b, at + 4), offset, more) if offset or more else None,
    )


def _ipv6(b: bytes, at: int) -> _Datagram | None:
    if b[at] >> 4 != 6:
        return None
    payload = be16(b, at + 4)
    if at + 40 > len(b):
        return None
    src = (6, int.from_bytes(b[at + 8 : at + 24], "big"))
    dst = (6, int.from_bytes(b[at + 24 : at + 40], "big"))
    out = _Datagram(src, dst, b[at + 6], at + 40, None, None)
    for _ in range(MAX_LAYERS):  # RFC 8200 §4
        match out.protocol:
            case 0 | 43 | 60 | 135 | 139 | 140:
                extension = (b[out.at + 1] + 1) * 8
            case 51:
                extension = (b[out.at + 1] + 2) * 4
            case 44:
                flags = be16(b, out.at + 2)
                offset, more = flags & 0xFFF8, bool(flags & 1)
                if offset or more:
                    out.fragment = (be32(b, out.at + 4), offset, more)
                extension = 8
            case _:
                break
        out.protocol = b[out.at]
        out.at += extension
        if out.fragment is not None:
            break
    if payload:
        out.length = at + 40 + payload - out.at
        if out.length < 0:
            return None
    return out


def _pppoe(b: bytes, at: int) -> Next:
    """PPPoE session (RFC 2516): six bytes, then PPP's protocol."""
    try:
        return ppp(b, at + 6) or account.NOT_TCP
    except IndexError:
        return account.NOT_TCP


class Decoder:
    """Decodes frames; holds IP fragments until their datagram is whole."""

    def __init__(self, vxlan: Vxlan) -> None:
        self._vxlan = vxlan
        # RFC 791: source, destination, protocol, identification.
        self._datagrams: dict[tuple[Addr, Addr, int, int], _Partial] = {}
        self._order: deque[tuple[tuple[Addr, Addr, int, int], int]] = deque()
        self._born = 0
        self.lost = 0
        """Bytes of fragments given up since this was last set to zero."""

    def decode(self, entry: tuple[int, int] | None, time: int, orig: int, frame: bytes) -> Decoded:
        """Decodes what was captured of a packet of `orig` bytes; `entry` is what `network` says."""
        if entry is None:
            return account.NOT_TCP
        return self._walk(entry, time, orig, orig, 1, frame)

    def inside(self, w: Whole, time: int) -> Decoded:
        """What a datagram carries that came in fragments."""
        b = w.payload
        if w.protocol == 6:
            return _segment(w.src, w.dst, time, b, len(b), w.size, w.packets)
        try:
            following = opened(w.protocol, b, 0, self._vxlan)
        except IndexError:
            return account.MALFORMED
        return self._walk(following, time, len(b), w.size, w.packets, b)

    def _walk(self, following: Next, time: int, wire: int, size: int, packets: int, frame: bytes) -> Decoded:
        """Walks from one header to the next.

        `frame` is what was captured of `wire` bytes; the segment in it cost `size` link bytes.
        """
        try:
            for _ in range(MAX_LAYERS):
                if isinstance(following, str):
                    return following
                kind, at = following
                if kind in (IPV4, IPV6):
                    d = _ipv4(frame, at) if kind == IPV4 else _ipv6(frame, at)
                    if d is None:
                        return account.MALFORMED
                    if d.fragment is not None:
                        if d.protocol not in FRAGMENTED:
                            return account.NOT_TCP
                        return self._fragment(d, d.fragment, time, size, packets, frame)
                    if d.protocol == 6:
                        rest = max(wire - d.at, 0)
                        length = min(rest if d.length is None else d.length, rest)
                        captured = frame[d.at : d.at + length]
                        return _segment(d.src, d.dst, time, captured, length, size, packets)
                    following = opened(d.protocol, frame, d.at, self._vxlan)
                elif kind in VLAN_TAGS:
                    following = be16(frame, at + 2), at + 4
                elif kind == ETHERNET:
                    following = be16(frame, at + 12), at + 14
                elif kind == PPPOE_SESSION:
                    following = _pppoe(frame, at)
                elif kind in MPLS:
                    following = mpls(frame, at)
                else:
                    return account.NOT_TCP
        except IndexError:
            return account.MALFORMED
        return account.NOT_TCP

    def _fragment(
        self,
        d: _Datagram,
        fragment: tuple[int, int, bool],
        time: int,
        size: int,
        packets: int,
        frame: bytes,
    ) -> Decoded:
        identification, offset, more = fragment
        captured = frame[d.at :]
        length = len(captured) if d.length is None else d.length
        if length == 0 or (more and length % 8) or offset + length > 65_535:
            return account.MALFORMED
        if len(captured) < length:
            return account.TRUNCATED
        key = (d.src, d.dst, d.protocol, identification)
        self._expire(time)
        partial = self._datagrams.get(key)
        if partial is None:
            self._born += 1
            self._order.append((key, self._born))
            partial = self._datagrams[key] = _Partial(time, self._born)
        partial.size += size
        partial.packets += packets
        if len(partial.pieces) < MAX_FRAGMENTS:
            partial.pieces.append((offset, captured[:length]))
        if not more:
            partial.total = offset + length
        if partial.total is None:
            return HELD
        partial.pieces.sort(key=lambda piece: piece[0])
        whole = bytearray()
        for begin, piece in partial.pieces:
            if begin > len(whole):
                return HELD
            whole += piece[len(whole) - begin :]
        if len(whole) < partial.total:
            return HELD
        del self._datagrams[key]
        payload = bytes(whole[: partial.total])
        return Whole(d.src, d.dst, d.protocol, payload, partial.size, partial.packets)

    def _expire(self, now: int) -> None:
        while self._order:
            key, born = self._order[0]
            partial = self._datagrams.get(key)
            if partial is None or partial.born != born:
                self._order.popleft()
                continue
            if len(self._datagrams) < MAX_DATAGRAMS and now - partial.time <= FRAGMENT_TIMEOUT_NS:
                return
            self._order.popleft()
            self.lost += partial.size
            del self._datagrams[key]

    def finish(self) -> None:
        """Gives up on every datagram that is not whole."""
        self.lost += sum(p.size for p in self._datagrams.values())
        self._datagrams.clear()
        self._order.clear()


def _segment(src: Addr, dst: Addr, time: int, b: bytes, length: int, size: int, packets: int) -> Decoded:
    if len(b) < 14:
        # Cut inside the TCP header: by the snap length where the packet was longer.
        return account.TRUNCATED if len(b) < min(length, 14) else account.MALFORMED
    sport, dport, seq, ack, offset, flags = _TCP.unpack_from(b)
    header = (offset >> 4) * 4
    if header < 20 or header > length or length - header > MAX_PAYLOAD:
        return account.MALFORMED
    length -= header
    return Segment(time, src, dst, sport, dport, seq, ack, flags, b[header:], length, size - length, packets)
