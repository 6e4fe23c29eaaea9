"""A TPACKET_V3 ring on an AF_PACKET socket (packet(7), linux/if_packet.h).

Owns the socket, its filter, the shared memory and the kernel's counters. Blocks are handed on where
they lie; nothing is copied here. The filter is attached before the socket is bound, so no packet
passes unfiltered.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from replaykit.capturing import bpf
from replaykit.engine.engine import Engine
from replaykit.errors import UsageError

_ETH_P_ALL = 3
_SOL_PACKET = 263
_ADD_MEMBERSHIP, _RX_RING, _STATISTICS, _VERSION, _FANOUT, _IGNORE_OUTGOING = 1, 5, 6, 10, 18, 23
_FANOUT_HASH, _FANOUT_DEFRAG = 0, 0x8000
_TPACKET_V3 = 2
_PROMISC = 1
_SO_ATTACH_FILTER = 26
_STATUS = struct.Struct("I")
_READY = 1

BLOCK = 1 << 20
RETIRE_MS = 60

PRIVILEGE = (
    "capturing needs CAP_NET_RAW: run as root (sudo), as a service with AmbientCapabilities=CAP_NET_RAW, or"
    " as yourself with `sudo setpriv --reuid $USER --regid $USER --init-groups --inh-caps +net_raw"
    " --ambient-caps +net_raw replaykit capture …`"
)


@dataclass
class Counters:
    """What the kernel says: packets that passed the filter, and those of them it had to drop."""

    packets: int = 0
    drops: int = 0


class Ring:
    """One ring of `size` bytes on one interface (index 0: all of them).

    `fanout`: group number for several rings that share an interface's connections. Raises UsageError.
    """

    def __init__(
        self,
        index: int,
        name: str,
        program: list[bpf.Instruction],
        size: int,
        fanout: int | None,
        promiscuous: bool = False,
    ) -> None:
        self.name = name
        self.counters = Counters()
        try:
            # Protocol 0: nothing is received before bind.
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        except PermissionError:
            raise UsageError(PRIVILEGE) from None
        try:
            self._set_up(index, program, size, fanout)
            if promiscuous and index:
                request = struct.pack("iHH8s", index, _PROMISC, 0, b"")
                self.socket.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, request)
        except OSError as error:
            self.socket.close()
            if error.errno == errno.ENOMEM:
                raise UsageError(
                    f"{name}: no memory for a ring of {size >> 20} MiB: choose a smaller --buffer-size"
                ) from None
            raise UsageError(f"{name}: cannot capture there: {error.strerror}") from None

    def _set_up(self, index: int, program: list[bpf.Instruction], size: int, fanout: int | None) -> None:
        s = self.socket
        self.attach(program)
        if index and self.name == "lo":
            s.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)  # loopback shows each packet twice
        s.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V3)
        self._blocks = max(size // BLOCK, 4)
        frame = 2048
        request = (BLOCK, self._blocks, frame, BLOCK // frame * self._blocks, RETIRE_MS, 0, 0)
        s.setsockopt(_SOL_PACKET, _RX_RING, struct.pack("7I", *request))
        self.memory = mmap.mmap(s.fileno(), BLOCK * self._blocks, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self._next = 0
        self._bind(index)
        if fanout is not None:
            # The kernel's hash is the same for both directions; fragments are joined before it.
            s.setsockopt(
                _SOL_PACKET, _FANOUT, struct.pack("I", fanout | (_FANOUT_HASH | _FANOUT_DEFRAG) << 16)
            )

    def _bind(self, index: int) -> None:
        """Binds by interface index: Python's own bind cannot say `all of them`."""
        address = struct.pack("=HHiHBB8s", socket.AF_PACKET, socket.htons(_ETH_P_ALL), index, 0, 0, 0, b"")
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.bind(self.socket.fileno(), address, len(address)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def attach(self, program: list[bpf.Instruction]) -> None:
        """The kernel's filter from now on."""
        packed = bpf.pack(program)
        self._filter = ctypes.create_string_buffer(packed)  # kept while attaching
        header = struct.pack("HL", len(program), ctypes.addressof(self._filter))
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)

    def fileno(self) -> int:
        return self.socket.fileno()

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges of `memory` that the kernel has filled; each is given back when the next is asked for."""
        for _ in range(self._blocks):
            start = self._next * BLOCK
            if not _STATUS.unpack_from(self.memory, start + 8)[0] & _READY:
                return
            try:
                yield start, start + BLOCK
            finally:
                _STATUS.pack_into(self.memory, start + 8, 0)
                self._next = (self._next + 1) % self._blocks

    def feed(self, engine: Engine) -> Iterator[int]:
        """Gives filled blocks to an engine, and yields the packets in each."""
        for start, end in self.blocks():
            yield engine.feed_block(self.memory, start, end)

    def stop(self) -> None:
        """Lets no further packet in; what is in the ring can still be read, after RETIRE_MS."""
        self.attach([(0x06, 0, 0, 0)])

    def count(self) -> Counters:
        """The kernel's counters since the ring was opened."""
        raw = self.socket.getsockopt(_SOL_PACKET, _STATISTICS, 12)
        packets, drops, _ = struct.unpack("3I", raw)
        self.counters.packets += packets
        self.counters.drops += drops
        return self.counters

    def close(self) -> None:
        self.memory.close()
        self.socket.close()


class Counting(Ring):
    """Only counts the packets that its filter keeps; nothing of them is read."""

    def __init__(self, index: int, name: str, program: list[bpf.Instruction]) -> None:
        super().__init__(index, name, program, 0, None)

    def _set_up(self, index: int, program: list[bpf.Instruction], size: int, fanout: int | None) -> None:
        self.attach(program)
        if index and self.name == "lo":
            self.socket.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # the least there is
        self._bind(index)

    def count(self) -> Counters:
        """Packets include those that found no room, which are most."""
        packets, drops = struct.unpack("2I", self.socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))
        self.counters.packets += packets
        self.counters.drops += drops
        return self.counters

    def close(self) -> None:
        self.socket.close()
