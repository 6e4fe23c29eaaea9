"""Machines into usage: one poll gives what all of them moved since the last.

Owns who is who: a machine is its id until another is made with that id, and its counters begin anew with each
start, on each node. What a removed interface had counted is not counted again. All of that is kept in the
ledger, so a restart of this program changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from operator import attrgetter

from replaykit.errors import UsageError
from replaykit.ledger.store import Ledger
from replaykit.records.usage import Reading
from replaykit.vantages.hypervisor.machine import UNSEEN, Hypervisor, Machine

VANTAGE = "hypervisor"
_STALE_S = 30
"""How old an uptime in a list may be: what a start seems to move by less than this is the same start."""
_ASKED_AT_ONCE = 20


@dataclass
class Known:
    """subject: in the ledger. seen: by an earlier poll, at `place`.

    node, start: of the guest, where only uptimes are known. epoch, part: the counters' names.
    """

    subject: str
    created: int | None = None
    addresses: str = ""
    asked: bool = False
    seen: bool = False
    node: str = ""
    type: str = ""
    place: str = ""
    start: int = 0
    epoch: str = ""
    part: int = 0
    sums: tuple[int, int] = (0, 0)


_WHO = attrgetter(*(f.name for f in fields(Known) if f.name != "sums"))


class Watch:
    """now: what `poll` saw last, by subject."""

    def __init__(self, ledger: Ledger, hypervisor: Hypervisor, every_s: float | None = None) -> None:
        """every_s: how often `poll` is called."""
        self.ledger, self.name, self._hypervisor = ledger, hypervisor.name, hypervisor
        self.every_s = every_s
        self._epoch_before = ""
        self._polled: int | None = None
        self._note = f"machines of {hypervisor.name}"
        kept = json.loads(ledger.noted(self._note) or "{}")
        self._known = {i: Known(**{**v, "sums": tuple(v["sums"])}) for i, v in kept.items()}
        for known in self._known.values():
            known.asked = False  # an id may have become another machine's meanwhile
        self._kept = {i: _WHO(k) for i, k in self._known.items()}
        self._seen_before = bool(kept)
        self.now: dict[str, Machine] = {}

    def poll(self, now: int) -> list[Machine]:
        """Asks and counts.

        Raises UsageError and OSError, and then nothing was counted: the next poll counts it all.
        """
        machines = self._hypervisor.machines()
        asked = 0
        readings: list[Reading] = []
        current: dict[str, Machine] = {}
        for machine in machines:
            known = self._known.get(machine.id)
            fresh = known is None and self._seen_before  # made since the last poll
            if known is None:
                known = self._known[machine.id] = Known(machine.id)
            if not known.asked and asked < _ASKED_AT_ONCE:
                asked += 1
                fresh = self._identify(machine, known) or fresh
            readings += self._readings(machine, known, now, fresh)
            current[known.subject] = machine
            known.seen, known.type, known.place = True, machine.type, machine.node
        self.ledger.read(readings, self.every_s)
        self.now, self._polled = current, now
        for gone in set(self._known) - {m.id for m in machines}:
            self._known[gone].asked = False  # its id may be another machine's when it comes back
        self._seen_before = True
        kept = {i: _WHO(k) for i, k in self._known.items()}
        if kept != self._kept:
            self.ledger.note(self._note, json.dumps({i: asdict(k) for i, k in self._known.items()}))
            self._kept = kept
        return machines

    @property
    def polled(self) -> int | None:
        """When the last response was counted; seconds since the epoch."""
        return self._polled

    def find(self, subject: str) -> Machine | None:
        """As the last poll saw it; one that it did not see where it was; None: it never was there."""
        known = next((k for k in self._known.items() if k[1].subject == subject), None)
        if subject in self.now or known is None or not known[1].seen:
            return self.now.get(subject)
        return Machine(known[0], "", known[1].place, known[1].type, UNSEEN)

    def _identify(self, machine: Machine, known: Known) -> bool:
        """Whether it is another machine than the one that had this id."""
        known.asked = True
        try:
            details = self._hypervisor.details(machine)
        except (
            KeyError,
            UsageError,
            OSError,
        ):  # one whose configuration cannot be read is counted all the same
            return False
        created, known.addresses = details.created, " ".join(details.addresses)
        before, known.created = known.created, created
        if before is None or created is None or before == created:
            return False
        self._known[machine.id] = known
        known.subject, known.epoch, known.start, known.sums = f"{machine.id}@{created}", "", 0, (0, 0)
        return True

    def _readings(self, machine: Machine, known: Known, now: int, fresh: bool) -> Iterable[Reading]:
        labels = self._labels(machine, known)
        if not machine.counters:
            yield Reading(now, VANTAGE, "machine", known.subject, labels, counter="off", steady=True)
            return
        sums = tuple(map(sum, zip(*machine.counters.values(), strict=True)))
        known.epoch = self._epoch(machine, known, now)
        if len(machine.counters) == 1 and "all" in machine.counters:
            # A sum over interfaces that fell, though the guest was not started anew: an interface was taken
            # out.
            if (
                any(a < b for a, b in zip(sums, known.sums, strict=True))
                and known.epoch == self._epoch_before
            ):
                known.part += 1
            known.sums = (sums[0], sums[1])
        for name, (rx, tx) in machine.counters.items():
            counter = name if name != "all" else f"all/{known.part}"
            anew = fresh or (known.seen and known.epoch != self._epoch_before)
            # It moved nothing before it was started, nor, in this start, before the last poll.
            times = [
                t for t in (known.start if known.epoch and not machine.boot else None, self._polled) if t
            ]
            yield Reading(
                now,
                VANTAGE,
                "machine",
                known.subject,
                labels,
                rx,
                tx,
                counter=counter,
                epoch=known.epoch,
                fresh=anew,
                began=max(times) if anew and times else None,
            )

    def _epoch(self, machine: Machine, known: Known, now: int) -> str:
        self._epoch_before = known.epoch
        if machine.boot:
            return machine.boot
        start = now - (machine.uptime_s or 0)
        if known.epoch and abs(start - known.start) < _STALE_S and machine.node == known.node:
            return known.epoch
        if known.epoch and start < known.start and machine.node == known.node:
            return known.epoch  # an uptime that was not measured anew yet
        known.start, known.node, known.part = start, machine.node, 0
        return f"{machine.node}/{start}"

    def _labels(self, machine: Machine, known: Known) -> dict[str, str]:
        labels = {"vmid": machine.id, "status": machine.status, "type": machine.type}
        for name, value in (
            ("name", machine.name),
            ("node", machine.node),
            ("tags", ";".join(machine.tags)),
            ("addresses", known.addresses),
        ):
            if value:
                labels[name] = value
        if known.created is not None:
            labels["created"] = str(known.created)
        return labels
