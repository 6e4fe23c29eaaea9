"""The usage record: in this time bucket, this subject moved so much. And a reading: what a counter stands at.

This is all that a vantage knows of the ledger. rx and tx are seen from the subject.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

COUNTERS = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "requests", "connections")
KINDS = ("endpoint", "mapping", "tunnel", "client", "host", "user", "machine", "interface")
MOST = 2**63 - 1
"""What a database's BIGINT holds."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a subject moved in a bucket. time: its start, seconds since the epoch; seconds: its length.

    source: who counted, such as a host and run. The same subject, source and time again replaces what was
    there, so a repeat counts once, and a bucket that grows can be written as often as one likes.
    """

    time: int
    seconds: int
    vantage: str
    subject_kind: str
    subject: str
    labels: Mapping[str, str] = field(default_factory=dict)
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0
    requests: int = 0
    connections: int = 0
    source: str = ""

    def counters(self) -> tuple[int, int, int, int, int, int]:
        """In the order of COUNTERS."""
        return (
            self.rx_bytes,
            self.tx_bytes,
            self.rx_packets,
            self.tx_packets,
            self.requests,
            self.connections,
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """What a subject's counters stand at. counter: which one, where a subject has several (they add up).

    A counter that went backwards was reset, and counts from zero; so does one whose epoch (a boot id, a start
    time) changed. The first reading of a counter is where it begins, unless it is known to have begun at zero
    (`fresh`). began: before that nothing of this epoch was moved, where that is known; seconds since the
    epoch. also: kind, name and labels of others to whom the same belongs, such as the user of an address; who
    that is may change between readings. steady: it was read all along since the last reading that was
    written, and stood so.
    """

    time: int
    vantage: str
    subject_kind: str
    subject: str
    labels: Mapping[str, str] = field(default_factory=dict)
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0
    requests: int = 0
    connections: int = 0
    counter: str = ""
    epoch: str = ""
    fresh: bool = False
    began: int | None = None
    also: tuple[tuple[str, str, Mapping[str, str]], ...] = ()
    steady: bool = False

    def counters(self) -> tuple[int, int, int, int, int, int]:
        """In the order of COUNTERS."""
        return (
            self.rx_bytes,
            self.tx_bytes,
            self.rx_packets,
            self.tx_packets,
            self.requests,
            self.connections,
        )
