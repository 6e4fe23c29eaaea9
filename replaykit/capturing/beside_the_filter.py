"""Programs that stand before the kernel's filter (`bpf.both`): VLANs, beginnings of connections, requests of
this host's own.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence

from replaykit.capturing.bpf import (
    AND,
    IND_B,
    IND_H,
    JEQ,
    JSET,
    LD_B,
    LD_H,
    LD_W,
    LDX_IMM,
    LDX_MSH,
    NET,
    PROTOCOL,
    RET,
    TAG,
    TAG_PRESENT,
    WHOLE,
    Assembler,
    Instruction,
)


def vlans(numbers: Sequence[int]) -> list[Instruction]:
    """The program for frames of these 802.1Q networks, whether the kernel has taken the tag off or not."""
    a = Assembler()
    a.op(LD_W, TAG_PRESENT)
    a.when(JEQ, 0, "inline")
    a.op(LD_W, TAG)
    a.jump("number")
    a.label("inline")
    a.op(LD_H, 12)
    a.when(JEQ, 0x8100, "tagged")
    a.when(JEQ, 0x88A8, "tagged")
    a.op(RET, 0)
    a.label("tagged")
    a.op(LD_H, 14)
    a.label("number")
    a.op(AND, 0xFFF)
    for number in numbers:
        a.when(JEQ, number, "keep")
    a.op(RET, 0)
    a.label("keep")
    a.op(RET, WHOLE)
    return a.program()


def beginnings() -> list[Instruction]:
    """The program for the packets that begin a TCP connection: SYN without ACK (RFC 9293 §3.5)."""
    a = Assembler()
    a.op(LD_H, PROTOCOL)
    for kind, family in ((0x0800, "v4"), (0x86DD, "v6")):
        a.when(JEQ, kind, family)
    a.jump("drop")
    for family, protocol in (("v4", 9), ("v6", 6)):
        a.label(family)
        a.op(LD_B, NET + protocol)
        a.when(JEQ, 6, f"{family} tcp")
        a.jump("drop")
        a.label(f"{family} tcp")
        if family == "v4":
            a.op(LD_H, NET + 6)
            a.when(JSET, 0x1FFF, "drop")
            a.op(LDX_MSH, NET)
            a.jump("flags")
    a.op(LDX_IMM, 40)
    a.label("flags")
    a.op(IND_B, NET + 13)
    a.op(AND, 0x12)
    a.when(JEQ, 0x02, "keep")
    a.label("drop")
    a.op(RET, 0)
    a.label("keep")
    a.op(RET, WHOLE)
    return a.program()


def not_own_requests(addresses: Sequence[str], ports: Sequence[int]) -> list[Instruction]:
    """The program that leaves out what this host, of these addresses, asks of the ports of other hosts."""
    a = Assembler()
    hosts = [ipaddress.ip_address(h) for h in addresses]
    a.op(LD_H, PROTOCOL)
    for kind, version in ((0x0800, 4), (0x86DD, 6)):
        if any(h.version == version for h in hosts):
            a.when(JEQ, kind, f"v{version}")
    a.jump("keep")
    for version, protocol, source, length in ((4, 9, 12, 4), (6, 6, 8, 16)):
        own = [h for h in hosts if h.version == version]
        if not own:
            continue
        a.label(f"v{version}")
        a.op(LD_B, NET + protocol)
        a.when(JEQ, 6, f"v{version} tcp")
        a.jump("keep")
        a.label(f"v{version} tcp")
        if version == 4:
            a.op(LD_H, NET + 6)
            a.when(JSET, 0x1FFF, "keep")  # a later fragment: ports unknown
        _is_own(a, own, source, f"v{version} from own", f"v{version} from other")
        a.label(f"v{version} from own")
        _is_own(a, own, source + length, "keep", f"v{version} request")
        a.label(f"v{version} from other")
        _is_own(a, own, source + length, f"v{version} response", "keep")
        for direction, near, far in (("request", 2, 0), ("response", 0, 2)):
            a.label(f"v{version} {direction}")
            a.op(LDX_MSH, NET) if version == 4 else a.op(LDX_IMM, 40)
            a.op(IND_H, NET + far)
            for port in ports:
                a.when(JEQ, port, "keep")  # both ends are named: not known who asks
            a.op(IND_H, NET + near)
            for port in ports:
                a.when(JEQ, port, "drop")
            a.jump("keep")
    a.label("keep")
    a.op(RET, WHOLE)
    a.label("drop")
    a.op(RET, 0)
    return a.program()


def _is_own(
    a: Assembler, own: Sequence[ipaddress.IPv4Address | ipaddress.IPv6Address], at: int, yes: str, no: str
) -> None:
    """Jumps by whether the address at this offset of the network header is one of `own`."""
    for i, host in enumerate(own):
        words = struct.unpack(f"!{len(host.packed) // 4}I", host.packed)
        for n, word in enumerate(words):
            here = f"{yes} {no} {at} {i} {n}"
            a.op(LD_W, NET + at + 4 * n)
            a.when(JEQ, word, here if n < len(words) - 1 else yes)
            a.jump(f"{yes} {no} {at} {i} next")
            a.label(here)
        a.label(f"{yes} {no} {at} {i} next")
    a.jump(no)
