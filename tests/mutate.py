"""Hostile captures: a capture's packets lost, repeated, swapped, cut and flipped at random.

Plain `random.Random`, so that a seed and a file name reproduce any finding.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, replace

from replaykit.engine.source import BrokenCapture
from tests.capture_file import File

LINK_ETHERNET = 1


@dataclass(frozen=True)
class Packet:
    time: int
    link: int
    orig: int
    data: bytes


def read(capture: bytes) -> list[Packet]:
    """The packets of a capture file, up to where it breaks."""
    file, out, at, view = File(), [], 0, memoryview(capture)
    try:
        while (step := file.step(view, at)) is not None:
            record, at = step
            if record is not None:
                data = capture[record.start : record.end]
                out.append(Packet(record.time, record.link, record.orig, data))
    except BrokenCapture:
        return out
    return out


def write(packets: list[Packet], link: int | None = None) -> bytes:
    """A nanosecond pcap of one link type."""
    link = packets[0].link if link is None and packets else link or LINK_ETHERNET
    out = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, link)]
    for p in packets:
        seconds, fraction = divmod(max(p.time, 0), 1_000_000_000)
        out.append(
            struct.pack("<IIII", seconds & 0xFFFFFFFF, fraction, len(p.data), p.orig & 0xFFFFFFFF) + p.data
        )
    return b"".join(out)


def _flip(r: random.Random, data: bytes, times: int) -> bytes:
    out = bytearray(data)
    for _ in range(times if out else 0):
        at = r.randrange(len(out))
        match r.randrange(3):
            case 0:
                out[at] ^= 1 << r.randrange(8)
            case 1:
                out[at] = r.choice(b"\r\n 0\xff\x00:;9GHP/")
            case _:
                out[at] = r.randrange(256)
    return bytes(out)


def mutate(r: random.Random, packets: list[Packet], capture: bytes) -> bytes:
    """One hostile variant: of the packets mostly, of the file's own bytes sometimes."""
    if r.random() < 0.15:
        data = _flip(r, capture, r.randrange(1, 9))
        return data[: r.randrange(len(data) + 1)] if r.random() < 0.3 else data
    out = list(packets)
    for _ in range(r.randrange(1, 6)):
        if not out:
            break
        at = r.randrange(len(out))
        p = out[at]
        match r.randrange(9):
            case 0:
                del out[at]
            case 1:
                out.insert(r.randrange(len(out) + 1), p)
            case 2:
                out.insert(r.randrange(len(out)), out.pop(at))
            case 3:
                out[at] = replace(p, data=_flip(r, p.data, r.randrange(1, 5)))
            case 4:
                out[at] = replace(p, data=p.data[: r.randrange(len(p.data) + 1)])
            case 5:
                out[at] = replace(p, time=p.time + r.choice((-1, 1)) * r.randrange(1 << r.randrange(1, 62)))
            case 6:
                r.shuffle(out)
            case 7:
                out[at] = replace(p, orig=r.randrange(1 << 32))
            case _:
                # Bytes at the end of a packet: TCP payload, where there is some.
                keep = r.randrange(len(p.data) + 1)
                out[at] = replace(p, data=p.data[:keep] + _flip(r, p.data[keep:], r.randrange(1, 30)))
    return write(out, packets[0].link)
