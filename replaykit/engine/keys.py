"""A TLS key log on its way to the engines that read with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Keys(Protocol):
    """Where TLS secrets come from."""

    def read(self) -> tuple[bytes, bool] | None:
        """More of what was added since the last time, and whether the log was begun anew; None: there is no
        more.
        """

    def rewind(self) -> None:
        """Reads from the beginning once more."""


class KeyFeed:
    """Gives what a key log has to cores; None: there is no log, and nothing to give.

    report: is told where it was of no use.
    """

    def __init__(self, keys: Keys | None, cores: Sequence[Any], report: Callable[[str], None]) -> None:
        self._keys, self._cores, self._report = keys, cores, report

    def more(self) -> None:
        """Gives what was added since the last time."""
        if self._keys is not None:
            while (found := self._keys.read()) is not None:
                for core in self._cores:
                    core.add_keys(*found)

    def keep_of(self, randoms: bytes) -> None:
        """Reads the log anew, and keeps only what belongs to these client randoms, each of 32 bytes."""
        if self._keys is not None:
            for core in self._cores:
                core.keep_keys_of(randoms)
            self._keys.rewind()
            self.more()

    def judge(self) -> None:
        """At the end: says so where the log was of no use."""
        if self._keys is None:
            return
        known = [core.keys for core in self._cores]
        secrets, connections = known[0][0], sum(read for _, read in known)
        if not secrets:
            self._report(f"{self._keys}: it holds no secrets, so TLS is counted and not read")
        elif not connections:
            self._report(f"{self._keys}: its {secrets:,} secrets fit no connection that was captured")
