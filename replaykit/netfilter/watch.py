"""Counters into usage: read again and again, given to users, added up for the metrics, written to the ledger.

Each reading is written, so that rules see it at once, unless that takes long: then every minute.

Owns the totals since ever, which only grow: a counter that went back, or began anew with a reboot or a new table, counts
from zero. They begin with what the ledger says after the first reading, which counts what was moved while nobody read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from replaykit.errors import UsageError
from replaykit.ledger import calendar
from replaykit.ledger.history import totals
from replaykit.ledger.selection import Selection
from replaykit.ledger.store import Ledger
from replaykit.ledger.usage import Reading
from replaykit.netfilter.counters import Counters, InterfaceSource, Source
from replaykit.netfilter.users import UserMap

VANTAGE = "netfilter"
EVERY_S = 60.0
_SHARE = 0.05
"""Of the time that may go into writing."""
_ZERO = Counters()
Place = tuple[str, str]
"""A user's code and an address or mark of theirs."""


class Watch:
    """began: whether the source's counters began at zero with it. addresses: what marks stand for, by mark. every_s: how often `step` is called.

    What is measured is in `places`: totals since ever by user and address; `interfaces`: the same by interface.
    """

    def __init__(
        self, ledger: Ledger, source: Source, interfaces: Sequence[str], users: UserMap, began: bool = False,
        addresses: Mapping[str, set[str]] | None = None, every_s: float | None = None,
    ) -> None:  # fmt: skip
        self._every_s = every_s
        self._ledger, self._source, self.users, self._began = ledger, source, users, began
        self._interfaces = [InterfaceSource(i) for i in interfaces]
        self._addresses = {} if addresses is None else addresses
        self._last: dict[str, tuple[str, Counters]] = {}
        self._readings: dict[str, Reading] = {}
        self._first = True
        self._written = self._took = 0.0
        self._at = self._written_at = 0
        self.places: dict[Place, Counters] = {}
        self.interfaces: dict[str, Counters] = {}
        self.trouble = ""
        self._begin()

    def _begin(self) -> None:
        for kind in ("host", "interface"):
            for row in totals(self._ledger, 0, calendar.LATEST, Selection(VANTAGE, kind)).sums:
                counts = Counters(row.rx_bytes, row.tx_bytes, row.rx_packets, row.tx_packets)
                if kind == "host":
                    self.places[row.labels.get("user", row.subject), row.subject] = counts
                else:
                    self.interfaces[row.subject] = counts

    def step(self, now: int) -> None:
        """Reads everything once; writes what was read to the ledger when a minute has passed. Raises UsageError."""
        users = self.users.refresh()
        epoch, found = self._source.read()
        if self._first and self._source.exact:
            # A table that this ledger has seen before: what is new in it began since then.
            self._began = self._began or self._ledger.noted(f"epoch {self._source.name}") == epoch
            self._ledger.note(f"epoch {self._source.name}", epoch)
        if any(self._reset(f"{self._source.name} {name}", epoch, counts) for name, counts in found.items()):
            self.flush()  # what it stood at before it began anew
        for name, counts in found.items():
            key = name.partition(" ")[0]
            moved = self._moved(f"{self._source.name} {name}", epoch, counts, self._fresh)
            user = users.find(key)
            places = sorted(self._addresses.get(key, ()))
            if user is None and places:
                user = users.find(places[0])
            address = ",".join(places) or key
            code = user.code if user is not None else address
            if any(moved) or (code, address) not in self.places:
                self.places[code, address] = self.places.get((code, address), _ZERO).plus(moved)
            self._note(now, name, epoch, counts, code, address, "" if user is None else user.name)
        for interface in self._interfaces:
            try:
                epoch, found = interface.read()
            except UsageError as error:  # it may come back
                self.trouble = str(error)
                continue
            for name, counts in found.items():
                moved = self._moved(f"interface {name}", epoch, counts, False)
                self.interfaces[name] = self.interfaces.get(name, _ZERO).plus(moved)
                self._readings[f"interface {name}"] = Reading(
                    now, VANTAGE, "interface", name, {}, *counts, epoch=epoch, counter=name
                )  # fmt: skip
        self._at = now
        if self._first or time.monotonic() - self._written >= self._pause:
            self.flush()
            if self._first:
                self._begin()
        self._first = False

    @property
    def _pause(self) -> float:
        return min(EVERY_S, self._took / _SHARE)

    @property
    def _fresh(self) -> bool:
        return self._began if self._first else self._source.exact

    def _reset(self, name: str, epoch: str, now: Counters) -> bool:
        before = self._last.get(name)
        return before is not None and (
            before[0] != epoch or any(n < b for b, n in zip(before[1], now, strict=True))
        )

    def _moved(self, name: str, epoch: str, now: Counters, fresh: bool) -> Counters:
        before = self._last.get(name)
        self._last[name] = epoch, now
        if before is None:
            return now if fresh else _ZERO
        if before[0] != epoch:
            return now
        return Counters(*(n if n < b else n - b for b, n in zip(before[1], now, strict=True)))

    def _note(
        self, now: int, name: str, epoch: str, counts: Counters, code: str, address: str, title: str
    ) -> None:
        known = self._readings.get(name)
        fresh = self._fresh if known is None else known.fresh
        labels = {"name": title, "addresses": address} if title else {"addresses": address}
        counter = f"{self._source.name} {name}"
        self._readings[name] = Reading(
            now, VANTAGE, "user", code, labels, *counts, counter=counter, epoch=epoch, fresh=fresh
        )
        self._readings[f"{name}\0"] = Reading(
            now, VANTAGE, "host", address, {"user": code}, *counts, counter=counter, epoch=epoch, fresh=fresh
        )  # fmt: skip

    def flush(self) -> None:
        """To the ledger; what it cannot take now it gets next time. Raises nothing."""
        begun = time.monotonic()
        self._written_at = self._at
        try:
            self._ledger.read(_labelled(self._readings.values()), max(self._every_s or EVERY_S, self._pause))
        except UsageError as error:
            self.trouble = str(error)
            return
        finally:
            self._written = time.monotonic()
            self._took = self._written - begun
        self.trouble = ""
        self._readings = {}

    def close(self) -> None:
        """Reads once more. Raises UsageError where the ledger does not take the last readings."""
        try:
            self.step(max(int(time.time()), self._written_at + 1))  # a ledger takes one reading a second
            self.flush()
        finally:
            self._source.close()
        if self.trouble:
            raise UsageError(f"not written to the ledger: {self.trouble}")


def _labelled(readings: object) -> list[Reading]:
    """A user's readings all carry all their addresses."""
    from dataclasses import replace

    given: list[Reading] = list(readings)  # type: ignore[call-overload]
    addresses: dict[str, set[str]] = {}
    for one in given:
        if one.subject_kind == "user":
            addresses.setdefault(one.subject, set()).add(one.labels["addresses"])
    return [
        replace(one, labels={**one.labels, "addresses": " ".join(sorted(addresses[one.subject])[:16])})
        if one.subject_kind == "user"
        else one
        for one in given
    ]
