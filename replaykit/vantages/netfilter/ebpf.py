"""An eBPF program on each side of an interface that counts by address (bpf/users.bpf.c); compiled when this
package is built and loaded with bpf(2), so the host needs no compiler (Linux 6.6 or later: links at TCX).

Counts live as long as this process.
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
from replaykit.vantages.netfilter.bpf_object import BpfObject
from replaykit.vantages.netfilter.counters import Counters, InterfaceSource

PROGRAMS = Path(__file__).parent / "bpf" / "users.bpf.o"
_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_MAP_CREATE, _PROG_LOAD, _LOOKUP_BATCH, _LINK_CREATE = 0, 5, 24, 28
_SCHED_CLS, _TCX_INGRESS, _TCX_EGRESS = 3, 46, 47
_BATCH = 8192
_ENTRY = struct.Struct("=QQ")
_LIBC = ctypes.CDLL(None, use_errno=True)
_KEY = struct.Struct("16s")
_V4 = bytes(10) + b"\xff\xff"
_ETHERNET = 1  # ARPHRD_ETHER


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


def _object() -> BpfObject:
    try:
        return BpfObject(PROGRAMS.read_bytes())
    except FileNotFoundError:
        raise UsageError(
            "eBPF: this copy was built where no clang was, so its programs are missing: apt-get install clang"
            " libbpf-dev, and install it again"
        ) from None


class EbpfSource:
    """On the interfaces. Raises UsageError, with the reason, where the kernel does not allow it."""

    name, exact = "ebpf", True

    def __init__(self, *interfaces: str) -> None:
        self._epoch = uuid.uuid4().hex
        self._files: list[int] = []
        self._maps: dict[str, int] = {}
        self._object = _object()
        self.links = {name: InterfaceSource(name).read() for name in interfaces}
        """What the interfaces stood at when this began to count: epoch, and counts by name."""
        try:
            for name, declared in self._object.maps.items():
                self._maps[name] = self._keep(_bpf(_MAP_CREATE, _map(**declared)))
            for side, attach in (("received", _TCX_INGRESS), ("sent", _TCX_EGRESS)):
                for interface in interfaces:
                    self._attach(interface, side, attach)
        except OSError as error:
            self.close()
            raise UsageError(
                f"eBPF: the kernel does not allow it: {(error.strerror or str(error)).lower()}"
            ) from None

    def _keep(self, file: int) -> int:
        self._files.append(file)
        return file

    def _attach(self, interface: str, side: str, attach: int) -> None:
        try:
            index = socket.if_nametoindex(interface)
            kind = int((Path("/sys/class/net") / interface / "type").read_text())
        except (OSError, ValueError):
            self.close()
            raise UsageError(f"{interface}: there is no such interface") from None
        name = f"{side}_{'ethernet' if kind == _ETHERNET else 'bare'}"
        code = self._object.program(name, self._maps)
        instructions = ctypes.create_string_buffer(code, len(code))
        license_ = ctypes.create_string_buffer(self._object.license)
        program = _bpf(
            _PROG_LOAD,
            struct.pack(
                "=IIQQIIQII16sII",
                _SCHED_CLS,
                len(code) // 8,
                ctypes.addressof(instructions),
                ctypes.addressof(license_),
                0,
                0,
                0,
                0,
                0,
                b"replaykit",
                0,
                attach,
            ),
        )
        self._keep(program)
        self._keep(_bpf(_LINK_CREATE, struct.pack("=IIII", program, index, attach, 0) + bytes(32)))

    def read(self) -> tuple[str, Mapping[str, Counters]]:
        most = self._object.maps["received"]["max_entries"]
        there, back = (_entries(self._maps[side], most) for side in ("received", "sent"))
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


def _map(type: int, key_size: int, value_size: int, max_entries: int) -> bytes:
    """What makes a map of what it was declared with."""
    return struct.pack("=IIIII", type, key_size, value_size, max_entries, 0) + bytes(52)


def _entries(table: int, most: int) -> dict[bytes, tuple[int, int]]:
    keys, values = ctypes.create_string_buffer(16 * _BATCH), ctypes.create_string_buffer(16 * _BATCH)
    cursor = ctypes.create_string_buffer(16)
    found: dict[bytes, tuple[int, int]] = {}
    begun = False
    for _ in range(most // _BATCH * 4):
        attributes = struct.pack(
            "=QQQQIIQQ",
            ctypes.addressof(cursor) if begun else 0,
            ctypes.addressof(cursor),
            ctypes.addressof(keys),
            ctypes.addressof(values),
            _BATCH,
            table,
            0,
            0,
        )
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
