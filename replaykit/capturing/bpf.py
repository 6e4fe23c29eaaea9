"""Classic BPF: its instructions, put together with labels, joined and packed for a socket.

Owns the machine's side alone; what a program looks for is in `kernel_filter.py` and `beside_the_filter.py`.
"""

from __future__ import annotations

import struct

from replaykit.errors import UsageError

Instruction = tuple[int, int, int, int]
"""code, jump if true, jump if false, constant: struct sock_filter (linux/filter.h)."""

WHOLE = 0x40000
"""Bytes kept of a packet where nothing is cut."""

# linux/filter.h: offsets with a meaning of their own.
NET = -0x100000
"""Where the network header begins."""
_AD = -0x1000
PROTOCOL, PACKET_TYPE, INTERFACE = _AD, _AD + 4, _AD + 8
TAG, TAG_PRESENT = _AD + 44, _AD + 48
OUTGOING = 4
"""A packet type (linux/if_packet.h)."""

# linux/bpf_common.h: A and X are the registers, M the memory.
LD_W, LD_H, LD_B = 0x20, 0x28, 0x30
IND_W, IND_H, IND_B = 0x40, 0x48, 0x50
LEN = 0x80
LDX_MSH, LDX_MEM, LD_MEM, LD_IMM, LDX_IMM = 0xB1, 0x61, 0x60, 0x00, 0x01
ST, STX, TAX, TXA = 0x02, 0x03, 0x07, 0x87
ADD, MUL, AND, LSH, RSH = 0x04, 0x24, 0x54, 0x64, 0x74
ADD_X, SUB_X, XOR_X = 0x0C, 0x1C, 0xAC
JA, JEQ, JGT, JGE, JSET = 0x05, 0x15, 0x25, 0x35, 0x45
RET, RET_A = 0x06, 0x16


class Assembler:
    """Instructions with labels; far conditional jumps go by way of an unconditional one."""

    def __init__(self) -> None:
        self._code: list[tuple[int, str | None, int]] = []
        self._labels: dict[str, int] = {}

    def op(self, code: int, k: int = 0) -> None:
        self._code.append((code, None, k & 0xFFFFFFFF))

    def jump(self, label: str) -> None:
        self._code.append((JA, label, 0))

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
                out.append((JA, 0, 0, self._labels[label] - at - 1))
            else:
                out.append((code, 0, 0, k))
        return out


def both(first: list[Instruction], second: list[Instruction]) -> list[Instruction]:
    """A program that keeps what both keep: where the first accepts, the second decides."""
    out = []
    for at, (code, jt, jf, k) in enumerate(first):
        if code == RET and k:
            out.append((JA, 0, 0, len(first) - at - 1))
        elif code == RET_A:
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
