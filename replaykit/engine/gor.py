"""One record of a .gor file."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NUMBER = re.compile(rb"[+-]?[0-9]+\Z")


@dataclass(slots=True)
class Record:
    kind: int
    id: bytes
    time: int
    latency: int
    payload: bytes


def parse_record(b: bytes) -> Record | None:
    """A record without its separator; None where it is none."""
    line, newline, payload = b.partition(b"\n")
    parts = line.removesuffix(b"\r").split(b" ")
    if not newline or len(parts) < 3 or parts[0] not in (b"1", b"2", b"3"):
        return None
    time, latency = _number(parts[2]), _number(parts[3]) if len(parts) > 3 else 0
    if time is None or latency is None:
        return None
    return Record(int(parts[0]), parts[1], time, latency, payload)


def _number(text: bytes) -> int | None:
    if not _NUMBER.match(text):
        return None
    value = int(text)
    return value if -(1 << 63) <= value < 1 << 63 else None
