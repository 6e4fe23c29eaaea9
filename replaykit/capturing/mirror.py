"""Mirrored traffic that is sent here: VXLAN over UDP, as clouds and switches do it.

Owns the socket that listens. Each datagram is one packet (RFC 7348); networks that were not asked for
are passed over.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

from replaykit.capturing import bpf
from replaykit.capturing.ring import Counters
from replaykit.engine.engine import Engine
from replaykit.engine.envelope import Vxlan
from replaykit.errors import UsageError

_RXQ_OVFL = 40
_TIMESTAMPNS = 35
_HEADER = 8
_BATCH = 512


class Mirror:
    """Listens on an address and UDP port. Raises UsageError."""

    def __init__(self, address: str, port: int, vxlan: Vxlan, buffer_bytes: int) -> None:
        self.name = f"vxlan://{address}:{port}"
        self.counters = Counters()
        self._vxlan = vxlan
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            for option in (_RXQ_OVFL, _TIMESTAMPNS):
                self.socket.setsockopt(socket.SOL_SOCKET, option, 1)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, min(buffer_bytes, 1 << 30))
            self.socket.bind((address, port))
            self.socket.setblocking(False)
        except OSError as error:
            self.socket.close()
            raise UsageError(f"{self.name}: cannot listen there: {error.strerror}") from None

    def fileno(self) -> int:
        return self.socket.fileno()

    def feed(self, engine: Engine) -> Iterator[int]:
        """Gives what has arrived to an engine; yields packets now and then."""
        n = 0
        for _ in range(_BATCH):
            try:
                data, ancillary, _, _ = self.socket.recvmsg(65_536, 128)
            except BlockingIOError:
                break
            n += 1
            now = time.time_ns()
            for level, kind, value in ancillary:
                if level == socket.SOL_SOCKET and kind == _RXQ_OVFL:
                    self.counters.drops = struct.unpack("=I", value[:4])[0]
                elif level == socket.SOL_SOCKET and kind == _TIMESTAMPNS:
                    seconds, nanoseconds = struct.unpack("=qq", value[:16])
                    now = seconds * 10**9 + nanoseconds
            if len(data) < _HEADER or not data[0] & 0x08:
                continue
            if self._vxlan.wants(int.from_bytes(data[4:7])):
                engine.feed_packet(1, now, len(data) - _HEADER, data[_HEADER:])
        self.counters.packets += n
        if n:
            yield n

    def attach(self, program: list[bpf.Instruction]) -> None:
        """Mirrored traffic has no filter in the kernel."""

    def stop(self) -> None:
        """What has arrived can still be read."""

    def count(self) -> Counters:
        """Datagrams received, and those the kernel had to drop."""
        return self.counters

    def close(self) -> None:
        self.socket.close()
