"""Counters into usage: read again and again, given to users, added up for the metrics, written to the ledger.

Owns the totals since ever, which only grow: a counter that went back, or began anew with a reboot or a new
table, counts from zero. They begin with what the ledger says after the first reading, which counts what was
moved while nobody read.

What moved is written at once, so that rules see it, unless writing takes long: then every minute. What stands
still costs next to nothing, and is written every ten minutes.
"""

from __future__ import annotations

import ipaddress
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from replaykit.errors import UsageError
from replaykit.ledger import calendar
from replaykit.ledger.history import totals
from replaykit.ledger.selection import Selection, literally
from replaykit.ledger.store import Ledger
from replaykit.records.usage import Reading
from replaykit.vantages.netfilter.counters import Counters, InterfaceSource, Source
from replaykit.vantages.netfilter.users import UserMap

VANTAGE = "netfilter"
NOBODY = "(not users)"
"""Multicast, link-local and unspecified addresses, all together: with the users they add up to the interface.
"""
REST = "(rest of the interface)"
"""What the interface counted and nobody's counter: headers of the link, what is not IP, addresses that found
no room.
"""
EVERY_S = 60.0
_ALL_S = 600.0
_SHARE = 0.02
"""Of the time that may go into writing."""
_MOST_ADDRESSES = 16
_ZERO = Counters()
Place = tuple[str, str]
"""A user's code and an address or mark of theirs."""


@dataclass(slots=True)
class _Line:
    """A counter. at: its last reading; stood: the last at which it stood as the ledger has it."""

    key: str
    epoch: str
    counts: Counters
    fresh: bool
    at: int
    code: str = ""
    address: str = ""
    title: str = ""
    stood: int = 0
    written: Counters | None = None
    written_at: int = 0
    began: Counters | None = None
    """What it stood at when the source began, where that is known and not written yet."""

    def began_anew(self, epoch: str, counts: Counters) -> bool:
        """Whether it stands at less than it stood, or in another epoch."""
        return self.epoch != epoch or any(map(int.__lt__, counts, self.counts))

    @property
    def grew(self) -> bool:
        """Since it was written."""
        return self.written not in (None, self.counts) and not any(
            map(int.__lt__, self.counts, self.written or _ZERO)
        )


def nobodys(key: str) -> bool:
    """Whether an address is no user's: of groups, of a link, of all, or of who has none yet."""
    try:
        found = ipaddress.ip_address(key)
    except ValueError:
        return False
    return found.is_multicast or found.is_link_local or found.is_unspecified or key == "255.255.255.255"


def _link_readings(name: str, line: _Line) -> list[Reading]:
    """Where an interface stands; before that, unless it is written, where it stood when the source began."""
    begins: tuple[Counters, ...] = () if line.began is None or line.written is not None else (line.began,)
    return [
        Reading(line.at, VANTAGE, "interface", name, {}, *counts, epoch=line.epoch, counter=name)
        for counts in (*begins, line.counts)
    ]


class Watch:
    """began: whether the source's counters began at zero with it. addresses: what marks stand for, by mark.
    every_s: how often `step` is called.

    rest: whether the source counts all users of just these interfaces, so that what the interfaces counted
    beyond them is kept, too: as `remainder`, which with the users adds up to the interfaces. links: what
    these stood at when the source began.

    What is measured is in `places`: totals since ever by user and address; `interfaces`: the same by
    interface.
    """

    def __init__(
        self,
        ledger: Ledger,
        source: Source,
        interfaces: Sequence[str],
        users: UserMap,
        began: bool = False,
        addresses: Mapping[str, set[str]] | None = None,
        every_s: float | None = None,
        rest: bool = False,
        links: Mapping[str, tuple[str, Mapping[str, Counters]]] | None = None,
    ) -> None:
        self._every_s = every_s
        self._ledger, self._source, self.users, self._began = ledger, source, users, began
        self._interfaces = [InterfaceSource(i) for i in interfaces]
        self._marks = {} if addresses is None else addresses
        self._lines: dict[str, _Line] = {}
        self._links: dict[str, _Line] = {}
        # Of users and of interfaces, since the first reading.
        self._moved = self._moved_links = _ZERO
        self._rest = _Line(REST, f"remainder/{uuid.uuid4().hex}", _ZERO, True, 0) if rest else None
        self._links_began = {} if links is None else links
        self._rest_names = " ".join(sorted(interfaces))
        self._map: tuple[object, int] | None = None
        self._addresses: dict[str, list[str]] = {}
        self._first = True
        self._wrote = self._wrote_all = self._took = 0.0
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
        """Reads everything once, and writes what moved to the ledger. Raises UsageError."""
        users = self.users.refresh()
        # Between the two something moves: so, but for the first reading, nothing is the rest that is a
        # user's.
        links = self._links_now()
        epoch, found = self._source.read()
        if self._first and self._source.exact:
            # A table that this ledger has seen before: what is new in it began since then.
            self._began = self._began or self._ledger.noted(f"epoch {self._source.name}") == epoch
            self._ledger.note(f"epoch {self._source.name}", epoch)
        changed, reset = self._changed(epoch, found)
        if reset:
            self.flush(True)  # what it stood at before it began anew
        marks = sum(map(len, self._marks.values()))
        if self._map is None or self._map[0] is not users or self._map[1] != marks:
            self.flush(True)  # what was moved until now is whose it was
            self._map, self._addresses = (users, marks), {}
            for line in self._lines.values():
                self._belongs(line)
        fresh = self._began if self._first else self._source.exact
        for name, counts in changed:
            there = self._lines.get(name)
            if there is None:
                there = self._lines[name] = _Line(name.partition(" ")[0], epoch, counts, fresh, now)
                self._belongs(there)
                moved = counts if fresh else _ZERO
            else:
                moved = self._moves(there, epoch, counts)
            place = there.code, there.address
            self.places[place] = self.places.get(place, _ZERO).plus(moved)
            self._moved = self._moved.plus(moved)
        for name in found:
            self._lines[name].at = now
        for name, epoch, counts in links:
            link = self._links.get(name)
            if link is None:
                link = self._links[name] = _Line(name, epoch, counts, False, now, name)
                began = self._links_began.get(name, (epoch, {}))
                if began[0] == epoch:
                    link.began = began[1].get(name)
                moved = Counters(*map(int.__sub__, counts, link.began or counts))
            else:
                if link.began_anew(epoch, counts):
                    self.flush()
                moved = self._moves(link, epoch, counts)
            link.at = now
            self.interfaces[name] = self.interfaces.get(name, _ZERO).plus(moved)
            self._moved_links = self._moved_links.plus(moved)
        self._at = now
        if self._first:
            self._catch_up(now)
        else:
            self._remain(now)
            if time.monotonic() - self._wrote >= self._pause:
                self.flush()
        self._first = False

    def _links_now(self) -> list[tuple[str, str, Counters]]:
        """Name, epoch and counts of the interfaces; one that is not there may come back."""
        found = []
        for interface in self._interfaces:
            try:
                epoch, links = interface.read()
            except UsageError as error:
                self.trouble = str(error)
                continue
            found += [(name, epoch, counts) for name, counts in links.items()]
        return found

    def _catch_up(self, now: int) -> None:
        """The first reading counts what was moved while nobody read: the ledger says how much that was."""
        places, links = self._sums()
        self.flush(True)
        self._begin()
        after, links_after = self._sums()
        self._moved = Counters(*map(int.__sub__, after, places))
        self._moved_links = Counters(*map(int.__sub__, links_after, links))
        self._remain(now)

    def _sums(self) -> tuple[Counters, Counters]:
        """What the ledger has of all users, and of the interfaces that are watched."""
        kinds = []
        for kind, names in (
            ("host", ()),
            ("interface", tuple(literally(i.interface) for i in self._interfaces)),
        ):
            rows = totals(self._ledger, 0, calendar.LATEST, Selection(VANTAGE, kind, names), "all").sums
            kinds.append(Counters(*(sum(getattr(r, n) for r in rows) for n in Counters._fields)))
        return kinds[0], kinds[1]

    def _remain(self, now: int) -> None:
        """It only grows: what is not yet seen of an interface is seen the next time."""
        if self._rest is not None:
            left = map(int.__sub__, self._moved_links, self._moved)
            self._rest.counts = Counters(*map(max, self._rest.counts, left))
            self._rest.at = now

    def _changed(self, epoch: str, found: Mapping[str, Counters]) -> tuple[list[tuple[str, Counters]], bool]:
        """Those that do not stand where they stood, and whether any of them began anew."""
        changed, reset, lines = [], False, self._lines
        for name, counts in found.items():
            line = lines.get(name)
            if line is None:
                changed.append((name, counts))
            elif line.counts != counts or line.epoch != epoch:
                changed.append((name, counts))
                reset = reset or line.began_anew(epoch, counts)
        return changed, reset

    def _moves(self, line: _Line, epoch: str, counts: Counters) -> Counters:
        """What it moved since its last reading; it stands so now."""
        before = line.counts
        if line.written is not None and before == line.written:
            line.stood = line.at
        if line.epoch != epoch:
            moved = counts
        elif any(map(int.__lt__, counts, before)):
            moved = Counters(*(n if n < b else n - b for b, n in zip(before, counts, strict=True)))
        else:
            moved = Counters(*(n - b for b, n in zip(before, counts, strict=True)))
        line.epoch, line.counts = epoch, counts
        return moved

    def _belongs(self, line: _Line) -> None:
        """Whose it is, by the map as it is now."""
        users = self.users.users
        user = users.find(line.key)
        places = sorted(self._marks.get(line.key, ()))
        if user is None and places:
            user = users.find(places[0])
        line.address = ",".join(places) or line.key
        line.code, line.title = (line.address, "") if user is None else (user.code, user.name)
        if user is None and nobodys(line.key):
            line.code = line.address = NOBODY
        known = self._addresses.setdefault(line.code, [])
        if line.address not in known:
            known.append(line.address)
        self.places.setdefault((line.code, line.address), _ZERO)

    @property
    def _pause(self) -> float:
        return min(EVERY_S, self._took / _SHARE)

    def _readings(self, whole: bool) -> Iterator[tuple[_Line, list[Reading]]]:
        """Of those that moved since they were written; whole: of all."""
        for name, line in self._lines.items():
            moved = line.written != line.counts
            # Within a second the ledger takes what grew, and no new begin.
            later = line.at > line.written_at or line.grew
            if (moved or whole) and later:
                yield line, self._user_readings(name, line, moved)
        for name, line in self._links.items():
            if line.at > line.written_at:
                yield line, _link_readings(name, line)
        if self._rest is not None and self._rest.at > self._rest.written_at:
            yield self._rest, [self._rest_reading(self._rest)]

    def _user_readings(self, name: str, line: _Line, moved: bool) -> list[Reading]:
        """Where it stands, and before that until when it stood still."""
        addresses = " ".join(sorted(self._addresses[line.code])[:_MOST_ADDRESSES])
        labels = {"name": line.title, "addresses": addresses} if line.title else {"addresses": addresses}
        times = [(line.at, line.counts, not moved)]
        if moved and line.written is not None and line.stood > line.written_at:
            times.insert(0, (line.stood, line.written, True))
        return [
            Reading(
                at,
                VANTAGE,
                "host",
                line.address,
                {"user": line.code},
                *counts,
                counter=f"{self._source.name} {name}",
                epoch=line.epoch,
                fresh=line.fresh,
                also=(("user", line.code, labels),),
                steady=steady,
            )
            for at, counts, steady in times
        ]

    def _rest_reading(self, rest: _Line) -> Reading:
        return Reading(
            rest.at,
            VANTAGE,
            "remainder",
            REST,
            {"interfaces": self._rest_names},
            *rest.counts,
            counter=self._source.name,
            epoch=rest.epoch,
            fresh=True,
        )

    def flush(self, whole: bool = False) -> None:
        """To the ledger; what it cannot take now it gets next time. whole: what stands still too.

        Raises nothing.
        """
        begun = time.monotonic()
        whole = whole or begun - self._wrote_all >= _ALL_S
        written = list(self._readings(whole))
        try:
            self._ledger.read(
                [r for _, readings in written for r in readings], max(self._every_s or EVERY_S, self._pause)
            )
        except UsageError as error:
            self.trouble = str(error)
            return
        finally:
            self._wrote = time.monotonic()
            if whole:
                self._wrote_all = self._wrote
            else:
                self._took = self._wrote - begun
        self.trouble = ""
        self._written_at = self._at
        for line, _ in written:
            line.written, line.written_at, line.fresh = line.counts, line.at, self._source.exact

    def close(self) -> None:
        """Reads once more. Raises UsageError where the ledger does not take the last readings."""
        try:
            self.step(max(int(time.time()), self._written_at + 1))  # a ledger takes one reading a second
            self.flush(True)
        finally:
            self._source.close()
        if self.trouble:
            raise UsageError(f"not written to the ledger: {self.trouble}")
