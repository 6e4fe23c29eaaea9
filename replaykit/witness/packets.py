"""Capture files to TCP segments, by dpkt."""

from __future__ import annotations

import gzip
import io
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import dpkt

from replaykit.errors import UsageError

End = tuple[str, int]
"""Address and port."""

_LINKS = {
    dpkt.pcap.DLT_EN10MB: dpkt.ethernet.Ethernet,
    dpkt.pcap.DLT_LINUX_SLL: dpkt.sll.SLL,
    dpkt.pcap.DLT_LINUX_SLL2: dpkt.sll2.SLL2,
    dpkt.pcap.DLT_NULL: dpkt.loopback.Loopback,
    dpkt.pcap.DLT_LOOP: dpkt.loopback.Loopback,
}
_RAW = (12, 14, 101)
_NAMES_BY_FAMILY = {4: socket.AF_INET, 16: socket.AF_INET6}


@dataclass(frozen=True)
class Segment:
    """One TCP segment. number: the packet's in its file, from 1. cut: less was captured than was sent."""

    number: int
    source: End
    destination: End
    sequence: int
    flags: int
    payload: bytes
    cut: bool


def segments(path: str) -> Iterator[Segment]:
    """Every TCP segment that dpkt finds. Raises UsageError for what is no capture."""
    with _opened(path) as file:
        try:
            reader = dpkt.pcap.UniversalReader(file)
        except (ValueError, dpkt.Error) as error:
            raise UsageError(f"{path}: not a pcap or pcapng capture: {error}") from None
        link = reader.datalink()
        for number, (_, data) in enumerate(reader, 1):
            found = _segment(number, link, bytes(data))
            if found is not None:
                yield found


def _opened(path: str) -> BinaryIO:
    try:
        head = Path(path).read_bytes()[:4]
        if head[:2] == b"\x1f\x8b":
            return io.BytesIO(gzip.decompress(Path(path).read_bytes()))
        return Path(path).open("rb")
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def _segment(number: int, link: int, data: bytes) -> Segment | None:
    try:
        if link in _RAW:
            packet: Any = (dpkt.ip.IP if data[:1] and data[0] >> 4 == 4 else dpkt.ip6.IP6)(data)
        elif link in _LINKS:
            packet = _LINKS[link](data).data
        else:
            return None
        tcp = packet.data
        if not isinstance(packet, dpkt.ip.IP | dpkt.ip6.IP6) or not isinstance(tcp, dpkt.tcp.TCP):
            return None
    except (dpkt.Error, IndexError, AttributeError):
        return None
    family = _NAMES_BY_FAMILY[len(packet.src)]
    ends = [(socket.inet_ntop(family, a), p) for a, p in ((packet.src, tcp.sport), (packet.dst, tcp.dport))]
    if isinstance(packet, dpkt.ip.IP):
        length = packet.len - packet.hl * 4 - tcp.off * 4
    else:
        length = packet.plen - sum(len(h) for h in packet.all_extension_headers) - tcp.off * 4
    payload = bytes(tcp.data)[: max(length, 0)]
    return Segment(number, ends[0], ends[1], tcp.seq, tcp.flags, payload, len(payload) < length)
