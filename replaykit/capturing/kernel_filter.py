"""The kernel's filter: classic BPF from ports, hosts and sampling.

Owns the program that is attached to capture sockets. It works on the network header, wherever the link puts
it, so one program serves every interface. The kernel runs it on each packet: what it drops or cuts never
reaches user space.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from replaykit.capturing.bpf import (
    ADD,
    ADD_X,
    AND,
    IND_B,
    IND_H,
    IND_W,
    INTERFACE,
    JEQ,
    JGE,
    JGT,
    JSET,
    LD_B,
    LD_H,
    LD_IMM,
    LD_MEM,
    LD_W,
    LDX_IMM,
    LDX_MEM,
    LDX_MSH,
    LEN,
    LSH,
    MUL,
    NET,
    OUTGOING,
    PACKET_TYPE,
    PROTOCOL,
    RET,
    RET_A,
    RSH,
    ST,
    STX,
    SUB_X,
    TAX,
    TXA,
    WHOLE,
    XOR_X,
    Assembler,
    Instruction,
)
from replaykit.engine.envelope import GENEVE, GTP_U

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

HEAD_BYTES = 4096
"""Of a packet that begins or ends a message: kept beside the headers with `headers_only`."""
BODY_BYTES = 192
"""Of any other packet: enough for chunk sizes and ends that come as packets of their own."""

_STARTS = (b"HTTP", b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC")


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


def compile_filter(wanted: Wanted) -> list[Instruction]:
    """The program for `wanted`: returns the bytes to keep of a packet, 0 to drop it."""
    a = Assembler()
    hosts = [ipaddress.ip_address(h) for h in wanted.hosts]
    if wanted.loopback is not None:
        _once(a, wanted.loopback)
    _by_family(a, tunnels=wanted.tunnels is not None)
    _ipv4(a, [h for h in hosts if h.version == 4], named=bool(hosts), tunnels=wanted.tunnels is not None)
    _ipv6(a, tunnels=wanted.tunnels is not None)
    if wanted.tunnels is not None:
        _udp(a, wanted.tunnels)
    _ipv6_tcp(a, [h for h in hosts if h.version == 6], named=bool(hosts))
    _tcp(a, wanted.ports)
    if wanted.sample < 1:
        _sample(a, wanted.sample)
    if wanted.headers_only:
        _headers_only(a)
    a.label("keep")
    a.op(RET, WHOLE)
    a.label("drop")
    a.op(RET, 0)
    return a.program()


def _once(a: Assembler, loopback: int) -> None:
    """Drops one of the two times that a packet on loopback is seen."""
    a.op(LD_W, INTERFACE)
    a.when(JEQ, loopback, "on loopback")
    a.jump("family")
    a.label("on loopback")
    a.op(LD_W, PACKET_TYPE)
    a.when(JEQ, OUTGOING, "drop")
    a.label("family")


def _by_family(a: Assembler, tunnels: bool) -> None:
    """To what looks into IPv4 or IPv6; keeps what has IP in an envelope, which the engine opens."""
    a.op(LD_H, PROTOCOL)
    a.when(JEQ, 0x0800, "ipv4")
    a.when(JEQ, 0x86DD, "ipv6")
    for tag in (0x8100, 0x88A8, 0x8864):
        a.when(JEQ, tag, "keep")
    if tunnels:
        for kind in (0x8847, 0x8848, 0x6558):
            a.when(JEQ, kind, "keep")
    a.jump("drop")


def _ipv4(a: Assembler, hosts: Sequence[Address], named: bool, tunnels: bool) -> None:
    """TCP over IPv4, to or from a host where any are named. Leaves X and M[0] as `_tcp` wants them."""
    a.label("ipv4")
    a.op(LD_B, NET + 9)
    a.when(JEQ, 6, "ipv4 tcp")
    if tunnels:
        _tunnels(a, "ipv4")
    a.jump("drop")
    a.label("ipv4 tcp")
    if named:
        for at in (12, 16):
            a.op(LD_W, NET + at)
            for host in hosts:
                a.when(JEQ, int(host), "ipv4 host")
        a.jump("drop")
        a.label("ipv4 host")
    a.op(LD_H, NET + 6)
    a.when(JSET, 0x1FFF, "keep")  # a later fragment: ports unknown
    a.op(LD_W, NET + 12)
    a.op(TAX)
    a.op(LD_W, NET + 16)
    a.op(XOR_X)
    a.op(ST, 0)
    a.op(LDX_MSH, NET)
    a.jump("tcp")


def _ipv6(a: Assembler, tunnels: bool) -> None:
    """To what looks into TCP over IPv6; keeps what has headers between, which the engine reads."""
    a.label("ipv6")
    a.op(LD_B, NET + 6)
    a.when(JEQ, 6, "ipv6 tcp")
    for extension in (0, 43, 44, 51, 60):
        a.when(JEQ, extension, "keep")
    if tunnels:
        _tunnels(a, "ipv6")
    a.jump("drop")


def _udp(a: Assembler, vxlan_ports: Sequence[int]) -> None:
    """Keeps UDP to the ports of tunnels."""
    a.label("ipv4 udp")
    a.op(LD_H, NET + 6)
    a.when(JSET, 0x1FFF, "keep")  # a later fragment: ports unknown
    a.op(LDX_MSH, NET)
    a.jump("udp")
    a.label("ipv6 udp")
    a.op(LDX_IMM, 40)
    a.label("udp")
    a.op(IND_H, NET + 2)
    for port in (*vxlan_ports, GENEVE, GTP_U):
        a.when(JEQ, port, "keep")
    a.jump("drop")


def _ipv6_tcp(a: Assembler, hosts: Sequence[Address], named: bool) -> None:
    """TCP over IPv6, to or from a host where any are named. Leaves X and M[0] as `_tcp` wants them."""
    a.label("ipv6 tcp")
    if named:
        for i, host in enumerate(hosts):
            words = struct.unpack("!4I", host.packed)
            for at in (8, 24):
                for n, word in enumerate(words):
                    a.op(LD_W, NET + at + 4 * n)
                    if n < 3:
                        a.when(JEQ, word, f"v6 {i} {at} {n}")
                        a.jump(f"v6 {i} {at} no")
                        a.label(f"v6 {i} {at} {n}")
                    else:
                        a.when(JEQ, word, "ipv6 host")
                a.label(f"v6 {i} {at} no")
        a.jump("drop")
        a.label("ipv6 host")
    a.op(LD_W, NET + 8)
    for word in range(1, 8):
        a.op(TAX)
        a.op(LD_W, NET + 8 + 4 * word)
        a.op(XOR_X)
    a.op(ST, 0)
    a.op(LDX_IMM, 40)


def _tcp(a: Assembler, ports: Sequence[int]) -> None:
    """To or from a port where any are named.

    Here M[0] mixes both addresses, X is the length of the network header. Leaves the ports in M[1] and M[2],
    and in M[3] whether it goes to a server.
    """
    a.label("tcp")
    a.op(IND_H, NET)
    a.op(ST, 1)
    a.op(IND_H, NET + 2)
    a.op(ST, 2)
    if ports:
        for port in ports:
            a.when(JEQ, port, "to server")
        a.op(LD_MEM, 1)
        for port in ports:
            a.when(JEQ, port, "from server")
        a.jump("drop")
        a.label("to server")
        a.op(LD_IMM, 1)
        a.op(ST, 3)
        a.jump("sample")
        a.label("from server")
    a.op(LD_IMM, 0)
    a.op(ST, 3)
    a.label("sample")


def _tunnels(a: Assembler, family: str) -> None:
    """Keeps IP in IP and GRE, and looks into UDP. A: the protocol above IP."""
    for protocol in (4, 41, 47):
        a.when(JEQ, protocol, "keep")
    a.when(JEQ, 17, f"{family} udp")


def _sample(a: Assembler, share: float) -> None:
    """Drops by a hash of addresses and ports that is the same in both directions. X survives."""
    a.op(STX, 4)
    a.op(LDX_MEM, 2)
    a.op(LD_MEM, 1)
    a.op(ADD_X)
    a.op(ST, 5)
    a.op(LD_MEM, 1)
    a.op(XOR_X)
    a.op(LSH, 16)
    a.op(LDX_MEM, 5)
    a.op(XOR_X)
    a.op(LDX_MEM, 0)
    a.op(XOR_X)
    for factor, shift in ((0x9E3779B1, 15), (0x85EBCA6B, 13), (0xC2B2AE35, 16)):
        a.op(MUL, factor)
        a.op(TAX)
        a.op(RSH, shift)
        a.op(XOR_X)
    a.op(LDX_MEM, 4)
    a.when(JGE, min(int(share * (1 << 32)), 0xFFFFFFFF), "drop")


def _headers_only(a: Assembler) -> None:
    """Cuts what is neither header nor near a message's beginning. X: network header's length."""
    a.op(IND_B, NET + 13)
    a.op(ST, 6)
    a.op(IND_B, NET + 12)
    a.op(AND, 0xF0)
    a.op(RSH, 2)
    a.op(ADD_X)
    a.op(TAX)  # X: both headers
    a.op(LEN)
    a.op(SUB_X)
    a.when(JGT, 64, "has payload")
    a.jump("keep")
    a.label("has payload")
    a.op(IND_W, NET)
    for text in _STARTS:
        a.when(JEQ, int.from_bytes(text, "big"), "start")
    # A request's head over several packets: the last of a write is pushed.
    a.op(LD_MEM, 3)
    a.when(JEQ, 1, "pushed?")
    a.jump("body")
    a.label("pushed?")
    a.op(LD_MEM, 6)
    a.when(JSET, 0x08, "start")
    a.label("body")
    a.op(TXA)
    a.op(ADD, 14 + BODY_BYTES)
    a.op(RET_A)
    a.label("start")
    a.op(TXA)
    a.op(ADD, 14 + HEAD_BYTES)
    a.op(RET_A)
