"""A machine as every hypervisor shows it, and what a hypervisor lets be done to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

UNSEEN = "unseen"
"""The status of one that was there, and is not in the list now."""


@dataclass(frozen=True)
class Machine:
    """counters: bytes received and sent by the guest, of each interface or of all together, since the guest
    was started.

    boot: changes when it is started anew, where that is known. uptime_s: where boot is not. id: unique at one
    time.
    """

    id: str
    name: str
    node: str
    type: str
    status: str
    counters: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    template: bool = False
    uptime_s: int | None = None
    boot: str = ""

    @property
    def running(self) -> bool:
        return self.status == "running"


@dataclass(frozen=True)
class Nic:
    """rate: MB/s as the hypervisor counts them (2^20); None: no limit."""

    connected: bool
    rate: float | None


@dataclass(frozen=True)
class Details:
    """created: seconds since the epoch. addresses: that its configuration gives it.

    None and nothing: unknown.
    """

    created: int | None = None
    addresses: tuple[str, ...] = ()


class Hypervisor(Protocol):
    """Methods raise UsageError where something is wrong or not allowed, OSError where it does not answer,
    KeyError where the machine is gone. All are bounded in time.
    """

    name: str

    def machines(self) -> list[Machine]:
        """All of them, by one question."""

    def details(self, machine: Machine) -> Details:
        """Asked once for each machine."""

    def nics(self, machine: Machine) -> dict[str, Nic]: ...

    def set_nics(self, machine: Machine, wanted: Mapping[str, Nic]) -> None:
        """All of the given or none, where the hypervisor can; others stay as they are."""

    def power(self, machine: Machine, action: str) -> str:
        """start, stop or shutdown; gives what `outcome` is asked with."""

    def outcome(self, machine: Machine, task: str) -> str | None:
        """None: it still runs; empty: it is done; else what went wrong."""
