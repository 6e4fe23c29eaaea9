"""Capture files for tests: where one packet's record ends and the next begins.

Owns pcap (µs and ns, both byte orders), pcapng (several sections and interfaces) and the TPACKET_V3
ring block of Linux. Bytes in, records out: it never opens a file. Cost per record is constant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from replaykit.engine.source import BrokenCapture

MAX_RECORD = 64 << 20
MAX_INTERFACES = 65_536
TIME_LIMIT = 1 << 61


class Record(NamedTuple):
    """One captured packet: its data lies at `start:end` of the buffer; `orig` is its wire length."""

    time: int
    link: int
    orig: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Interface:
    link: int
    snaplen: int
    resolution: int = 6
    offset_s: int = 0


_PCAP = {
    0xA1B2C3D4: ("little", False, 16),
    0xD4C3B2A1: ("big", False, 16),
    0xA1B23C4D: ("little", True, 16),
    0x4D3CB2A1: ("big", True, 16),
    0xA1B2CD34: ("little", False, 24),
    0x34CDB2A1: ("big", False, 24),
}
_SECTION = 0x0A0D0D0A


class File:
    """A capture file read in pieces; `offset` is where the next buffer begins in the file."""

    def __init__(self) -> None:
        self.offset = 0
        self._format = ""
        self._order = "little"
        self._nanos = False
        self._link = 0
        self._header = 16
        self._interfaces: list[_Interface] = []
        self._last_time = 0

    def _u32(self, b: memoryview, at: int) -> int:
        return int.from_bytes(b[at : at + 4], self._order)  # type: ignore[arg-type]

    def _u16(self, b: memoryview, at: int) -> int:
        return int.from_bytes(b[at : at + 2], self._order)  # type: ignore[arg-type]

    def step(self, b: memoryview, at: int) -> tuple[Record | None, int] | None:
        """The record at `at` (or None where there is nothing for us) and where the next begins.

        Returns None where the record is not whole. Raises BrokenCapture.
        """
        if self._format == "pcap":
            return self._record(b, at)
        if self._format == "pcapng":
            return self._block(b, at)
        return self._open(b, at)

    def _broken(self, at: int, what: str) -> BrokenCapture:
        return BrokenCapture(self.offset + at, what)

    def _open(self, b: memoryview, at: int) -> tuple[Record | None, int] | None:
        if len(b) - at < 24:
            return None
        magic = int.from_bytes(b[at : at + 4], "little")
        if magic == _SECTION:
            self._format = "pcapng"
            return self._block(b, at)
        if magic not in _PCAP:
            raise self._broken(at, "not a pcap or pcapng capture")
        self._order, self._nanos, self._header = _PCAP[magic]
        self._format = "pcap"
        self._link = self._u32(b, at + 20) & 0x0FFFFFFF
        return None, at + 24

    def _record(self, b: memoryview, at: int) -> tuple[Record | None, int] | None:
        if len(b) - at < self._header:
            return None
        captured = self._u32(b, at + 8)
        if captured > MAX_RECORD:
            raise self._broken(at, f"a record of {captured} bytes")
        start = at + self._header
        if len(b) - start < captured:
            return None
        fraction = self._u32(b, at + 4) * (1 if self._nanos else 1000)
        time = self._u32(b, at) * 1_000_000_000 + fraction
        orig = max(self._u32(b, at + 12), captured)
        end = start + captured
        return Record(time, self._link, orig, start, end), end

    def _block(self, b: memoryview, at: int) -> tuple[Record | None, int] | None:
        if len(b) - at < 12:
            return None
        if int.from_bytes(b[at : at + 4], "little") == _SECTION:
            match int.from_bytes(b[at + 8 : at + 12], "little"):
                case 0x1A2B3C4D:
                    self._order = "little"
                case 0x4D3C2B1A:
                    self._order = "big"
                case _:
                    raise self._broken(at, "a section header without byte order")
            self._interfaces.clear()
        kind, length = self._u32(b, at), self._u32(b, at + 4)
        if length < 12 or length % 4 or length > MAX_RECORD:
            raise self._broken(at, f"a block of {length} bytes")
        if len(b) - at < length:
            return None
        body = b[at + 8 : at + length - 4]
        after = at + length
        if kind == 1:
            if len(body) < 8 or len(self._interfaces) >= MAX_INTERFACES:
                raise self._broken(at, "a broken interface description")
            self._interfaces.append(self._interface(body))
            return None, after
        if kind not in (2, 3, 6):
            return None, after
        if len(body) < (4 if kind == 3 else 20):
            raise self._broken(at, "a packet block that is too short")
        stamp = None
        if kind == 3:
            number, data = 0, 4
            orig = self._u32(body, 0)
            snap = self._interfaces[0].snaplen if self._interfaces else 0
            captured = min(orig, snap or 0xFFFFFFFF, len(body) - 4)
        else:
            number = self._u32(body, 0) if kind == 6 else self._u16(body, 0)
            stamp = self._u32(body, 4) << 32 | self._u32(body, 8)
            captured, orig, data = self._u32(body, 12), self._u32(body, 16), 20
        if number >= len(self._interfaces):
            raise self._broken(at, f"a packet of unknown interface {number}")
        if captured > len(body) - data:
            raise self._broken(at, f"a packet of {captured} bytes in a smaller block")
        interface = self._interfaces[number]
        if stamp is not None:
            self._last_time = _nanoseconds(stamp, interface)
        start = at + 8 + data
        record = Record(self._last_time, interface.link, max(orig, captured), start, start + captured)
        return record, after

    def _interface(self, body: memoryview) -> _Interface:
        """Link type and the options if_tsresol (9) and if_tsoffset (14)."""
        out = _Interface(self._u16(body, 0), self._u32(body, 4))
        at = 8
        while len(body) >= at + 4:
            code, length = self._u16(body, at), self._u16(body, at + 2)
            value = body[at + 4 : at + 4 + length]
            if len(value) < length or code == 0:
                break
            if code == 9 and length == 1:
                out = replace(out, resolution=value[0])
            elif code == 14 and length == 8:
                seconds = int.from_bytes(value, self._order, signed=True)  # type: ignore[arg-type]
                out = replace(out, offset_s=seconds)
            at += 4 + (length + 3) // 4 * 4
        return out


def _nanoseconds(stamp: int, interface: _Interface) -> int:
    n = interface.resolution & 0x7F
    if interface.resolution & 0x80:
        ns = (stamp * 1_000_000_000) >> n
    elif n <= 9:
        ns = stamp * 10 ** (9 - n)
    else:
        ns = stamp // 10 ** min(n - 9, 30)
    ns += interface.offset_s * 1_000_000_000
    return max(-TIME_LIMIT, min(TIME_LIMIT - 1, ns))
