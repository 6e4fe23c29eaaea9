"""What a .gor file could not hold of the traffic it was written from, said in the file itself.

Owns one record at its end, of kind 3 (a replayed response), which GoReplay and everybody else pass by:
`3 left-out TIME 0`, and a head with the numbers. Files that are joined or appended to have several, which add
up. Bodies that look like one are written escaped, as every body is that holds a separator.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from replaykit.records.message import SEPARATOR

_BEGIN = b"3 left-out "
_RECORD = re.compile(
    rb"3 left-out [0-9]+ 0\nHTTP/1\.1 204 No Content\r\nX-Left-Out-Exchanges:"
    rb" ([0-9]{1,18})\r\nX-Left-Out-Wire-Bytes: ([0-9]{1,18})\r\n"
)
_LONGEST = 256


@dataclass
class LeftOut:
    """Exchanges that were measured and whose request is not in the file, and TCP payload bytes that
    are not.
    """

    exchanges: int = 0
    wire_bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.exchanges or self.wire_bytes)

    def add(self, other: LeftOut) -> None:
        self.exchanges += other.exchanges
        self.wire_bytes += other.wire_bytes

    def record(self) -> bytes:
        """As it stands in a file."""
        head = (
            f"3 left-out {time.time_ns()} 0\nHTTP/1.1 204 No Content\r\nX-Left-Out-Exchanges:"
            f" {self.exchanges}\r\n"
        )
        return f"{head}X-Left-Out-Wire-Bytes: {self.wire_bytes}\r\n\r\n".encode() + SEPARATOR

    def __str__(self) -> str:
        return (
            f"not in the file, since it was incomplete or no HTTP message: {self.exchanges:,} exchanges,"
            f" {self.wire_bytes:,} wire bytes"
        )


def find(data: bytes | bytearray, begin: int, end: int) -> LeftOut:
    """What the whole records from `begin` to `end` say."""
    found = LeftOut()
    at = begin if data[begin : begin + len(_BEGIN)] == _BEGIN else -1
    while True:
        if at >= 0:
            match = _RECORD.match(data[at : min(at + _LONGEST, end)])
            if match is not None:
                found.add(LeftOut(int(match[1]), int(match[2])))
        separator = data.find(SEPARATOR + _BEGIN, max(at, begin), end)
        if separator < 0:
            return found
        at = separator + len(SEPARATOR)
