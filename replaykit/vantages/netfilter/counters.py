"""What every source of per-user counters gives, however the kernel keeps them.

rx is what the interface received from the user, tx what it sent to them (of iptables PREROUTING is RX,
POSTROUTING TX), so the users of an interface add up to the interface's own counters.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol


class Counters(NamedTuple):
    """Since the counter began."""

    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0

    def plus(self, other: Counters) -> Counters:
        return Counters(*map(sum, zip(self, other, strict=True)))


class Source(Protocol):
    """name: which kind. exact: an entry that was not there at the last reading began at zero since then."""

    name: str
    exact: bool

    def read(self) -> tuple[str, Mapping[str, Counters]]:
        """The epoch (it changes when everything begins anew), and by address, or `mark:0x10`, what it stands
        at. Raises UsageError.
        """

    def close(self) -> None: ...


def boot_id() -> str:
    """Changes with every start of the kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class InterfaceSource:
    """An interface's own counters, from sysfs."""

    name, exact = "interface", False

    def __init__(self, interface: str) -> None:
        self.interface = interface
        self._folder = Path("/sys/class/net") / interface / "statistics"

    def read(self) -> tuple[str, Mapping[str, Counters]]:
        from replaykit.errors import UsageError

        try:
            values = [
                int((self._folder / name).read_text())
                for name in ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")
            ]
            index = (self._folder.parent / "ifindex").read_text().strip()
        except OSError:
            raise UsageError(f"{self.interface}: there is no such interface") from None
        return f"{boot_id()}/{index}", {self.interface: Counters(*values)}

    def close(self) -> None:
        """Nothing is held."""
