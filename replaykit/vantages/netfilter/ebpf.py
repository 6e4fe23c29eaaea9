"""An eBPF program on each side of an interface that counts by address; written in the kernel's own instructions and loaded
with bpf(2), so the host needs no compiler (Linux 6.6 or later: links at TCX).

Counts live as long as this process. What more addresses than MOST move is in the interface's counters only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

from replaykit.errors import UsageError
from replaykit.vantages.netfilter.counters import Counters, InterfaceSource

MOST = 65_536
_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_MAP_CREATE, _PROG_LOAD, _LOOKUP_BATCH, _LINK_CREATE = 0, 5, 24, 28
_HASH, _SCHED_CLS, _TCX_INGRESS, _TCX_EGRESS = 1, 3, 46, 47
_BATCH = 8192
_ENTRY = struct.Struct("=QQ")
_LIBC = ctypes.CDLL(None, use_errno=True)
_KEY = struct.Struct("16s")
_V4 = bytes(10) + b"\xff\xff"
_ETHERNET, _ETHERNET_HEADER = 1, 14


def _bpf(command: int, attributes: bytes) -> int:
    """Raises OSError."""
    return _called(command, ctypes.create_string_buffer(attributes, len(attributes)))


def _called(command: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    """bpf(2), which may write into the attributes. Raises OSError."""
    number = _SYSCALL.get(platform.machine())
    if number is None or sys.byteorder != "little":
        raise OSError(0, f"not on {platform.machine()}")
    found = _LIBC.syscall(number, command, buffer, len(buffer))
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(found)


def _program(table: int, received: bool, header: int) -> bytes:
    """Adds a packet's length, without the link's header, and one to the entry of its address, and lets it go on."""

    def op(code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
        return struct.pack("=BBhi", code, to | source << 4, offset, value)

    map_ = op(0x18, 1, 1, 0, table) + op(0)  # r1 = the map
    key = op(0xBF, 2, 10) + op(0x07, 2, value=-16)  # r2 = the key on the stack

    def load(at: int, to: int, size: int) -> bytes:  # bpf_skb_load_bytes_relative, from the network header on
        return (
            op(0xBF, 1, 6) + op(0xB7, 2, value=at) + op(0xBF, 3, 10) + op(0x07, 3, value=to) + op(0xB7, 4, value=size)
            + op(0xB7, 5, value=1) + op(0x85, value=68)
        )  # fmt: skip

    body: list[bytes | str] = [
        op(0xBF, 6, 1),  # r6 = the packet
        op(0x61, 7, 1, 0), op(0x17, 7, value=header),  # r7 = its length
        op(0x61, 8, 1, 16),  # r8 = its protocol, in network order
        op(0x7A, 10, offset=-16), op(0x7A, 10, offset=-8),
        "jeq 8 0x8 v4", "jeq 8 0xdd86 v6", "ja out",
        "v4:", op(0x62, 10, offset=-8, value=-65536), load(12 if received else 16, -4, 4), "jne 0 0 out", "ja count",
        "v6:", load(8 if received else 24, -16, 16), "jne 0 0 out",
        "count:", map_, key, op(0x85, value=1), "jne 0 0 add",
        op(0x7A, 10, offset=-32), op(0x7A, 10, offset=-24), map_, key, op(0xBF, 3, 10), op(0x07, 3, value=-32),
        op(0xB7, 4, value=1), op(0x85, value=2),  # a new entry, unless somebody was quicker
        map_, key, op(0x85, value=1), "jeq 0 0 out",
        "add:", op(0xDB, 0, 7, 0), op(0xB7, 1, value=1), op(0xDB, 0, 1, 8),
        "out:", op(0xB7, 0, value=-1), op(0x95),  # TCX_NEXT
    ]  # fmt: skip
    places: dict[str, int] = {}
    at = 0
    for part in body:
        if isinstance(part, str) and part.endswith(":"):
            places[part[:-1]] = at
        else:
            at += 1 if isinstance(part, str) else len(part) // 8
    out = b""
    for part in body:
        if isinstance(part, bytes):
            out += part
        elif not part.endswith(":"):
            words = part.split()
            here = len(out) // 8 + 1
            if words[0] == "ja":
                out += op(0x05, offset=places[words[1]] - here)
            else:
                code = {"jeq": 0x15, "jne": 0x55}[words[0]]
                out += op(code, int(words[1]), offset=places[words[3]] - here, value=int(words[2], 0))
    return out


class EbpfSource:
    """On the interfaces. Raises UsageError, with the reason, where the kernel does not allow it."""

    name, exact = "ebpf", True

    def __init__(self, *interfaces: str) -> None:
        self._epoch = uuid.uuid4().hex
        self._files: list[int] = []
        self._maps: list[tuple[bool, int]] = []
        self.links = {name: InterfaceSource(name).read() for name in interfaces}
        """What the interfaces stood at when this began to count: epoch, and counts by name."""
        try:
            for received in (True, False):
                table = _bpf(_MAP_CREATE, struct.pack("=IIIII", _HASH, 16, 16, MOST, 0) + bytes(52))
                self._files.append(table)
                self._maps.append((received, table))
                for interface in interfaces:
                    self._attach(interface, table, received)
        except OSError as error:
            self.close()
            raise UsageError(
                f"eBPF: the kernel does not allow it: {(error.strerror or str(error)).lower()}"
            ) from None

    def _attach(self, interface: str, table: int, received: bool) -> None:
        try:
            index = socket.if_nametoindex(interface)
            kind = int((Path("/sys/class/net") / interface / "type").read_text())
        except (OSError, ValueError):
            self.close()
            raise UsageError(f"{interface}: there is no such interface") from None
        code = _program(table, received, _ETHERNET_HEADER if kind == _ETHERNET else 0)
        instructions, license_ = (
            ctypes.create_string_buffer(code, len(code)),
            ctypes.create_string_buffer(b"Apache-2.0"),
        )
        attach = _TCX_INGRESS if received else _TCX_EGRESS
        program = _bpf(
            _PROG_LOAD,
            struct.pack(
                "=IIQQIIQII16sII", _SCHED_CLS, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(license_), 0, 0, 0, 0, 0,
                b"replaykit", 0, attach,
            ),
        )  # fmt: skip
        self._files.append(program)
        self._files.append(_bpf(_LINK_CREATE, struct.pack("=IIII", program, index, attach, 0) + bytes(32)))

    def read(self) -> tuple[str, Mapping[str, Counters]]:
        (_, received), (_, sent) = self._maps
        there, back = _entries(received), _entries(sent)
        found: dict[str, Counters] = {}
        for key, (size, packets) in there.items():
            other = back.pop(key, (0, 0))
            found[_show(key)] = Counters._make((size, other[0], packets, other[1]))
        for key, (size, packets) in back.items():
            found[_show(key)] = Counters._make((0, size, 0, packets))
        return self._epoch, found

    def close(self) -> None:
        """The programs end."""
        while self._files:
            os.close(self._files.pop())


def _entries(table: int) -> dict[bytes, tuple[int, int]]:
    keys, values = ctypes.create_string_buffer(16 * _BATCH), ctypes.create_string_buffer(16 * _BATCH)
    cursor = ctypes.create_string_buffer(16)
    found: dict[bytes, tuple[int, int]] = {}
    begun = False
    for _ in range(MOST // _BATCH * 4):
        attributes = struct.pack(
            "=QQQQIIQQ", ctypes.addressof(cursor) if begun else 0, ctypes.addressof(cursor), ctypes.addressof(keys), ctypes.addressof(values),
            _BATCH, table, 0, 0,
        )  # fmt: skip
        buffer = ctypes.create_string_buffer(attributes, len(attributes))
        last = False
        try:
            _called(_LOOKUP_BATCH, buffer)
        except OSError as error:
            last = error.errno == errno.ENOENT
            if not last:
                raise UsageError(f"eBPF: {(error.strerror or str(error)).lower()}") from None
        (count,) = struct.unpack_from("=I", buffer.raw, 32)
        names = (key for (key,) in _KEY.iter_unpack(memoryview(keys)[: 16 * count]))
        found.update(zip(names, _ENTRY.iter_unpack(memoryview(values)[: 16 * count]), strict=True))
        if last:
            return found
        begun = True
    return found


def _show(key: bytes) -> str:
    if key.startswith(_V4):
        return socket.inet_ntoa(key[12:])
    return socket.inet_ntop(socket.AF_INET6, key)
