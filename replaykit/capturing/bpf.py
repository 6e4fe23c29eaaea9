"""The kernel's filter: classic BPF from ports, hosts, sampling and a tcpdump expression.

Owns the programs that are attached to capture sockets. They work on the network header, wherever the
link puts it, so one program serves every interface. The kernel runs them on each packet: what they
drop or cut never reaches user space.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from replaykit.engine.envelope import GENEVE, GTP_U
from replaykit.errors import UsageError

Instruction = tuple[int, int, int, int]
"""code, jump if true, jump if false, constant: struct sock_filter (linux/filter.h)."""

WHOLE = 0x40000
"""Bytes kept of a packet where nothing is cut."""

HEAD_BYTES = 4096
"""Of a packet that begins or ends a message: kept beside the headers with `headers_only`."""
BODY_BYTES = 192
"""Of any other packet: enough for chunk sizes and ends that come as packets of their own."""

# linux/filter.h: offsets with a meaning of their own.
_NET = -0x100000
_AD = -0x1000
_PROTOCOL, _PACKET_TYPE, _INTERFACE = _AD, _AD + 4, _AD + 8
_TAG, _TAG_PRESENT = _AD + 44, _AD + 48
_OUTGOING = 4

_LD_W, _LD_H, _LD_B = 0x20, 0x28, 0x30
_IND_W, _IND_H, _IND_B = 0x40, 0x48, 0x50
_LEN = 0x80
_LDX_MSH, _LDX_MEM, _LD_MEM, _LD_IMM, _LDX_IMM = 0xB1, 0x61, 0x60, 0x00, 0x01
_ST, _STX, _TAX, _TXA = 0x02, 0x03, 0x07, 0x87
_ADD, _ADD_X, _SUB_X, _MUL, _OR_X, _AND, _LSH, _RSH, _XOR_X = (
    0x04,
    0x0C,
    0x1C,
    0x24,
    0x4C,
    0x54,
    0x64,
    0x74,
    0xAC,
)
_JA, _JEQ, _JGT, _JGE, _JSET = 0x05, 0x15, 0x25, 0x35, 0x45
_RET, _RET_A = 0x06, 0x16

_STARTS = (b"HTTP", b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC")


class Assembler:
    """Instructions with labels; far conditional jumps go by way of an unconditional one."""

    def __init__(self) -> None:
        self._code: list[tuple[int, str | None, int]] = []
        self._labels: dict[str, int] = {}

    def op(self, code: int, k: int = 0) -> None:
        self._code.append((code, None, k & 0xFFFFFFFF))

    def jump(self, label: str) -> None:
        self._code.append((_JA, label, 0))

    def when(self, test: int, k: int, label: str) -> None:
        """Jumps if the test on A holds, else goes on."""
        self._code.append((test, "", k & 0xFFFFFFFF))  # over the jump below, if false
        self.jump(label)

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def program(self) -> list[Instruction]:
        out: list[Instruction] = []
        for at, (code, label, k) in enumerate(self._code):
            if label == "":
                out.append((code, 0, 1, k))
            elif label is not None:
                out.append((_JA, 0, 0, self._labels[label] - at - 1))
            else:
                out.append((code, 0, 0, k))
        return out


@dataclass(frozen=True)
class Wanted:
    """What the kernel shall hand over. Empty ports or hosts: all. `sample`: share of connections
    kept, 0 < sample <= 1. `loopback`: index of the interface whose packets are seen twice.
    `tunnels`: not None keeps what may carry packets inside packets; UDP ports of VXLAN."""

    ports: Sequence[int] = ()
    hosts: Sequence[str] = ()
    sample: float = 1.0
    headers_only: bool = False
    loopback: int | None = None
    tunnels: tuple[int, ...] | None = None


def vlans(numbers: Sequence[int]) -> list[Instruction]:
    """The program for frames of these 802.1Q networks, whether the kernel has taken the tag off or not."""
    a = Assembler()
    a.op(_LD_W, _TAG_PRESENT)
    a.when(_JEQ, 0, "inline")
    a.op(_LD_W, _TAG)
    a.jump("number")
    a.label("inline")
    a.op(_LD_H, 12)
    a.when(_JEQ, 0x8100, "tagged")
    a.when(_JEQ, 0x88A8, "tagged")
    a.op(_RET, 0)
    a.label("tagged")
    a.op(_LD_H, 14)
    a.label("number")
    a.op(_AND, 0xFFF)
    for number in numbers:
        a.when(_JEQ, number, "keep")
    a.op(_RET, 0)
    a.label("keep")
    a.op(_RET, WHOLE)
    return a.program()


def beginnings() -> list[Instruction]:
    """The program for the packets that begin a TCP connection: SYN without ACK (RFC 9293 §3.5)."""
    a = Assembler()
    a.op(_LD_H, _PROTOCOL)
    for kind, family in ((0x0800, "v4"), (0x86DD, "v6")):
        a.when(_JEQ, kind, family)
    a.jump("drop")
    for family, protocol in (("v4", 9), ("v6", 6)):
        a.label(family)
        a.op(_LD_B, _NET + protocol)
        a.when(_JEQ, 6, f"{family} tcp")
        a.jump("drop")
        a.label(f"{family} tcp")
        if family == "v4":
            a.op(_LD_H, _NET + 6)
            a.when(_JSET, 0x1FFF, "drop")
            a.op(_LDX_MSH, _NET)
            a.jump("flags")
    a.op(_LDX_IMM, 40)
    a.label("flags")
    a.op(_IND_B, _NET + 13)
    a.op(_AND, 0x12)
    a.when(_JEQ, 0x02, "keep")
    a.label("drop")
    a.op(_RET, 0)
    a.label("keep")
    a.op(_RET, WHOLE)
    return a.program()


def not_own_requests(addresses: Sequence[str], ports: Sequence[int]) -> list[Instruction]:
    """The program that leaves out what this host, of these addresses, asks of the ports of other hosts."""
    a = Assembler()
    hosts = [ipaddress.ip_address(h) for h in addresses]
    a.op(_LD_H, _PROTOCOL)
    for kind, version in ((0x0800, 4), (0x86DD, 6)):
        if any(h.version == version for h in hosts):
            a.when(_JEQ, kind, f"v{version}")
    a.jump("keep")
    for version, protocol, source, length in ((4, 9, 12, 4), (6, 6, 8, 16)):
        own = [h for h in hosts if h.version == version]
        if not own:
            continue
        a.label(f"v{version}")
        a.op(_LD_B, _NET + protocol)
        a.when(_JEQ, 6, f"v{version} tcp")
        a.jump("keep")
        a.label(f"v{version} tcp")
        if version == 4:
            a.op(_LD_H, _NET + 6)
            a.when(_JSET, 0x1FFF, "keep")  # a later fragment: ports unknown
        _is_own(a, own, source, f"v{version} from own", f"v{version} from other")
        a.label(f"v{version} from own")
        _is_own(a, own, source + length, "keep", f"v{version} request")
        a.label(f"v{version} from other")
        _is_own(a, own, source + length, f"v{version} response", "keep")
        for direction, near, far in (("request", 2, 0), ("response", 0, 2)):
            a.label(f"v{version} {direction}")
            a.op(_LDX_MSH, _NET) if version == 4 else a.op(_LDX_IMM, 40)
            a.op(_IND_H, _NET + far)
            for port in ports:
                a.when(_JEQ, port, "keep")  # both ends are named: not known who asks
            a.op(_IND_H, _NET + near)
            for port in ports:
                a.when(_JEQ, port, "drop")
            a.jump("keep")
    a.label("keep")
    a.op(_RET, WHOLE)
    a.label("drop")
    a.op(_RET, 0)
    return a.program()


def _is_own(
    a: Assembler, own: Sequence[ipaddress.IPv4Address | ipaddress.IPv6Address], at: int, yes: str, no: str
) -> None:
    """Jumps by whether the address at this offset of the network header is one of `own`."""
    for i, host in enumerate(own):
        words = struct.unpack(f"!{len(host.packed) // 4}I", host.packed)
        for n, word in enumerate(words):
            here = f"{yes} {no} {at} {i} {n}"
            a.op(_LD_W, _NET + at + 4 * n)
            a.when(_JEQ, word, here if n < len(words) - 1 else yes)
            a.jump(f"{yes} {no} {at} {i} next")
            a.label(here)
        a.label(f"{yes} {no} {at} {i} next")
    a.jump(no)


def compile_filter(wanted: Wanted) -> list[Instruction]:
    """The program for `wanted`: returns the bytes to keep of a packet, 0 to drop it."""
    a = Assembler()
    if wanted.loopback is not None:
        a.op(_LD_W, _INTERFACE)
        a.when(_JEQ, wanted.loopback, "on loopback")
        a.jump("family")
        a.label("on loopback")
        a.op(_LD_W, _PACKET_TYPE)
        a.when(_JEQ, _OUTGOING, "drop")
        a.label("family")
    a.op(_LD_H, _PROTOCOL)
    a.when(_JEQ, 0x0800, "ipv4")
    a.when(_JEQ, 0x86DD, "ipv6")
    for tag in (0x8100, 0x88A8, 0x8864):
        a.when(_JEQ, tag, "keep")  # inside an envelope: the engine decides
    if wanted.tunnels is not None:
        for kind in (0x8847, 0x8848, 0x6558):
            a.when(_JEQ, kind, "keep")
    a.jump("drop")

    a.label("ipv4")
    a.op(_LD_B, _NET + 9)
    a.when(_JEQ, 6, "ipv4 tcp")
    if wanted.tunnels is not None:
        _tunnels(a, "ipv4")
    a.jump("drop")
    a.label("ipv4 tcp")
    hosts = [ipaddress.ip_address(h) for h in wanted.hosts]
    if hosts:
        for at in (12, 16):
            a.op(_LD_W, _NET + at)
            for h in hosts:
                if h.version == 4:
                    a.when(_JEQ, int(h), "ipv4 host")
        a.jump("drop")
        a.label("ipv4 host")
    a.op(_LD_H, _NET + 6)
    a.when(_JSET, 0x1FFF, "keep")  # a later fragment: ports unknown
    a.op(_LD_W, _NET + 12)
    a.op(_TAX)
    a.op(_LD_W, _NET + 16)
    a.op(_XOR_X)
    a.op(_ST, 0)
    a.op(_LDX_MSH, _NET)
    a.jump("tcp")

    a.label("ipv6")
    a.op(_LD_B, _NET + 6)
    a.when(_JEQ, 6, "ipv6 tcp")
    for extension in (0, 43, 44, 51, 60):
        a.when(_JEQ, extension, "keep")
    if wanted.tunnels is not None:
        _tunnels(a, "ipv6")
    a.jump("drop")
    if wanted.tunnels is not None:
        a.label("ipv4 udp")
        a.op(_LD_H, _NET + 6)
        a.when(_JSET, 0x1FFF, "keep")  # a later fragment: ports unknown
        a.op(_LDX_MSH, _NET)
        a.jump("udp")
        a.label("ipv6 udp")
        a.op(_LDX_IMM, 40)
        a.label("udp")
        a.op(_IND_H, _NET + 2)
        for port in (*wanted.tunnels, GENEVE, GTP_U):
            a.when(_JEQ, port, "keep")
        a.jump("drop")
    a.label("ipv6 tcp")
    if hosts:
        for i, h in enumerate(h for h in hosts if h.version == 6):
            words = struct.unpack("!4I", h.packed)
            for at in (8, 24):
                for n, word in enumerate(words):
                    a.op(_LD_W, _NET + at + 4 * n)
                    if n < 3:
                        a.when(_JEQ, word, f"v6 {i} {at} {n}")
                        a.jump(f"v6 {i} {at} no")
                        a.label(f"v6 {i} {at} {n}")
                    else:
                        a.when(_JEQ, word, "ipv6 host")
                a.label(f"v6 {i} {at} no")
        a.jump("drop")
        a.label("ipv6 host")
    a.op(_LD_W, _NET + 8)
    for word in range(1, 8):
        a.op(_TAX)
        a.op(_LD_W, _NET + 8 + 4 * word)
        a.op(_XOR_X)
    a.op(_ST, 0)
    a.op(_LDX_IMM, 40)

    # Here M[0] mixes both addresses, X is the length of the network header.
    a.label("tcp")
    a.op(_IND_H, _NET)
    a.op(_ST, 1)
    a.op(_IND_H, _NET + 2)
    a.op(_ST, 2)
    if wanted.ports:
        for port in wanted.ports:
            a.when(_JEQ, port, "to server")
        a.op(_LD_MEM, 1)
        for port in wanted.ports:
            a.when(_JEQ, port, "from server")
        a.jump("drop")
        a.label("to server")
        a.op(_LD_IMM, 1)
        a.op(_ST, 3)
        a.jump("sample")
        a.label("from server")
    a.op(_LD_IMM, 0)
    a.op(_ST, 3)
    a.label("sample")
    if wanted.sample < 1:
        _sample(a, wanted.sample)
    if wanted.headers_only:
        _headers_only(a)
    a.label("keep")
    a.op(_RET, WHOLE)
    a.label("drop")
    a.op(_RET, 0)
    return a.program()


def _tunnels(a: Assembler, family: str) -> None:
    """Keeps IP in IP and GRE, and looks into UDP. A: the protocol above IP."""
    for protocol in (4, 41, 47):
        a.when(_JEQ, protocol, "keep")
    a.when(_JEQ, 17, f"{family} udp")


def _sample(a: Assembler, share: float) -> None:
    """Drops by a hash of addresses and ports that is the same in both directions. X survives."""
    a.op(_STX, 4)
    a.op(_LDX_MEM, 2)
    a.op(_LD_MEM, 1)
    a.op(_ADD_X)
    a.op(_ST, 5)
    a.op(_LD_MEM, 1)
    a.op(_XOR_X)
    a.op(_LSH, 16)
    a.op(_LDX_MEM, 5)
    a.op(_XOR_X)
    a.op(_LDX_MEM, 0)
    a.op(_XOR_X)
    for factor, shift in ((0x9E3779B1, 15), (0x85EBCA6B, 13), (0xC2B2AE35, 16)):
        a.op(_MUL, factor)
        a.op(_TAX)
        a.op(_RSH, shift)
        a.op(_XOR_X)
    a.op(_LDX_MEM, 4)
    a.when(_JGE, min(int(share * (1 << 32)), 0xFFFFFFFF), "drop")


def _headers_only(a: Assembler) -> None:
    """Cuts what is neither header nor near a message's beginning. X: network header's length."""
    a.op(_IND_B, _NET + 13)
    a.op(_ST, 6)
    a.op(_IND_B, _NET + 12)
    a.op(_AND, 0xF0)
    a.op(_RSH, 2)
    a.op(_ADD_X)
    a.op(_TAX)  # X: both headers
    a.op(_LEN)
    a.op(_SUB_X)
    a.when(_JGT, 64, "has payload")
    a.jump("keep")
    a.label("has payload")
    a.op(_IND_W, _NET)
    for text in _STARTS:
        a.when(_JEQ, int.from_bytes(text, "big"), "start")
    # A request's head over several packets: the last of a write is pushed.
    a.op(_LD_MEM, 3)
    a.when(_JEQ, 1, "pushed?")
    a.jump("body")
    a.label("pushed?")
    a.op(_LD_MEM, 6)
    a.when(_JSET, 0x08, "start")
    a.label("body")
    a.op(_TXA)
    a.op(_ADD, 14 + BODY_BYTES)
    a.op(_RET_A)
    a.label("start")
    a.op(_TXA)
    a.op(_ADD, 14 + HEAD_BYTES)
    a.op(_RET_A)


def both(first: list[Instruction], second: list[Instruction]) -> list[Instruction]:
    """A program that keeps what both keep: where the first accepts, the second decides."""
    out = []
    for at, (code, jt, jf, k) in enumerate(first):
        if code == _RET and k:
            out.append((_JA, 0, 0, len(first) - at - 1))
        elif code == _RET_A:
            raise UsageError("the tcpdump expression computes its snap length; leave that to --headers-only")
        else:
            out.append((code, jt, jf, k))
    return out + second


def pack(program: list[Instruction]) -> bytes:
    """The program as an array of struct sock_filter."""
    if len(program) > 4096:
        raise UsageError(
            f"the filter has {len(program)} instructions; the kernel takes 4096: name fewer ports or hosts"
        )
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)
