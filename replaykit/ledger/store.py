"""The ledger: usage records in, sums by minute, hour, day and month out, exact and never counted twice.

A write is one transaction: the records, and what they add to the hours, days and months. So a kill at any
instant loses what was not yet written and nothing else. A record's key is its subject, source and time; a
repeat of it changes nothing, a newer version of it changes the sums by the difference. Writing costs a row a
record in each of four tables; asking costs the buckets asked for, however many minutes lie behind them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import sub
from typing import TypeVar

import sqlalchemy as sa

from replaykit.errors import UsageError
from replaykit.ledger import calendar, schema
from replaykit.ledger.database import Database
from replaykit.ledger.differences import Differences, Stand, differences
from replaykit.ledger.selection import Key
from replaykit.ledger.sums import check, in_parts, joined, labels_text
from replaykit.records.usage import COUNTERS, Reading, Usage

READINGS = "readings"
_SHORTEST_GAP_S = 120
_MOST_CACHED = 200_000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Written:
    """What became of records: counted for the first time, changed, repeats, and too late (their minutes are
    gone).
    """

    new: int = 0
    changed: int = 0
    repeated: int = 0
    late: int = 0


Change = tuple[Usage, tuple[int, ...]]
"""A record as it is now, and what each of COUNTERS grew by."""
Row = tuple[int, ...]
"""time, subject, and each of COUNTERS."""


class Ledger:
    """A ledger by URL. time_zone: in which days begin; chosen when it is made. Raises UsageError."""

    def __init__(self, url: str, time_zone: str | None = None) -> None:
        self.database = Database(url)
        opened = self.database.reading() if self.database.read_only else self.database.writing()
        with opened as connection:
            wanted = time_zone or calendar.local_zone()
            calendar.zone(wanted)
            if not self.database.read_only:
                self.database.put(connection, schema.meta, [{"name": "time_zone", "value": wanted}], ())
            self.time_zone = str(self.mark(connection, "time_zone"))
        if time_zone is not None and time_zone != self.time_zone:
            raise UsageError(
                f"{self.database.shown}: its days begin in {self.time_zone}, which cannot be changed; write"
                f" {time_zone} to another ledger"
            )
        self.zone = calendar.zone(self.time_zone)
        self._subjects: dict[tuple[str, str, str], tuple[int, Mapping[str, str]]] = {}
        self._sources: dict[str, int] = {}

    def close(self) -> None:
        self.database.close()

    def mark(self, connection: sa.Connection, name: str) -> str | None:
        """A value that the ledger keeps about itself."""
        return connection.execute(sa.select(schema.meta.c.value).where(schema.meta.c.name == name)).scalar()

    def noted(self, name: str) -> str | None:
        """What `note` kept."""
        with self.database.reading() as connection:
            return self.mark(connection, f"note {name}")

    def note(self, name: str, value: str) -> None:
        """Something that a vantage has to know again after a restart. Raises UsageError."""
        self.note_all({name: value})

    def note_all(self, values: Mapping[str, str]) -> None:
        """The same of several, by name. Raises UsageError."""
        rows = [{"name": f"note {name}", "value": value} for name, value in sorted(values.items())]
        if rows:
            with self.database.writing() as connection:
                self.database.put(connection, schema.meta, rows, ("value",))

    def notes(self, prefix: str) -> dict[str, str]:
        """What `note` kept under names that begin so."""
        t, begin = schema.meta, f"note {prefix}"
        query = sa.select(t.c.name, t.c.value).where(t.c.name.startswith(begin, autoescape=True))
        with self.database.reading() as connection:
            return {name.removeprefix("note "): value for name, value in connection.execute(query)}

    def kept_from(self, connection: sa.Connection, period: str) -> int:
        """Buckets of this length that began before were deleted by retention."""
        return int(self.mark(connection, f"kept_from_{period}") or 0)

    def write(self, records: Iterable[Usage]) -> Written:
        """All of the records or none. Raises UsageError."""
        rows: dict[tuple[tuple[str, str, str], str, int], Usage] = {}
        given = 0
        for record in records:
            check(record)
            given += 1
            rows[(record.vantage, record.subject_kind, record.subject), record.source, record.time] = record
        if not rows:
            return Written()
        with self.database.writing() as connection:
            subjects = self._subject_ids(connection, {k[0]: r.labels for k, r in rows.items()})
            sources = self._source_ids(connection, {k[1] for k in rows})
            oldest = self.kept_from(connection, "minute")
            there = self._there(connection, {k[2] for k in rows}, set(sources.values()))
            deltas: list[tuple[int, ...]] = []
            changes: list[Change] = []
            new = changed = late = 0
            for (who, source, time), record in rows.items():
                if time < oldest:
                    late += 1
                    continue
                values = record.counters()
                at = time, subjects[who], sources[source]
                before = there.get(at)
                if before == values:
                    continue
                new, changed = new + (before is None), changed + (before is not None)
                difference = values if before is None else tuple(map(sub, values, before))
                deltas.append((*at, record.seconds, *difference))
                changes.append((record, difference))
            self._apply(connection, deltas)
            self.changing(connection, changes)
        self.changed()
        self._remember(subjects, {k[0]: r.labels for k, r in rows.items()}, sources)
        return Written(new, changed, given - new - changed - late, late)

    def read(self, readings: Iterable[Reading], every_s: float | None = None) -> Written:
        """Counters as they stand: what they moved since their last reading is counted, evenly over the
        minutes between.

        So an hour's edge gets its part on either side, and polls that were missed leave no spike. every_s:
        how often there should be a reading; where three in a row are missing, and two minutes are without
        one, that is kept as a gap. Raises UsageError.
        """
        longest = None if every_s is None else max(_SHORTEST_GAP_S, 3 * every_s)
        given = list(readings)
        for reading in given:
            check(reading)
        if not given:
            return Written()
        labels = {(r.vantage, r.subject_kind, r.subject): r.labels for r in given}
        labels |= {(r.vantage, kind, name): more for r in given for kind, name, more in r.also}
        with self.database.writing() as connection:
            subjects = self._subject_ids(connection, labels)
            sources = self._source_ids(connection, {READINGS})
            found = differences(
                given,
                subjects,
                self._counters(connection, sorted(set(subjects.values()))),
                source=sources[READINGS],
                oldest=self.kept_from(connection, "minute"),
                longest=longest,
            )
            self._apply(connection, found.deltas)
            names = {number: who for who, number in subjects.items()}
            self.changing(connection, self._minutes_of(connection, found.deltas, names, labels))
            self._stand(connection, found)
        self.changed()
        self._remember(subjects, labels, sources)
        return Written(found.new, 0, found.repeated)

    def _stand(self, connection: sa.Connection, found: Differences) -> None:
        """Where counters stand now, and when they were not read."""
        stands = [
            {
                "subject_id": who,
                "digest": digest,
                "time": time,
                "epoch": epoch,
                **dict(zip(COUNTERS, values, strict=True)),
            }
            for (who, digest), (time, epoch, values) in sorted(found.stands.items())
        ]
        self.database.put(connection, schema.counter, stands, ("time", "epoch", *COUNTERS))
        gaps = [{"subject_id": w, "since": s, "until": u} for (w, s), u in sorted(found.gaps.items())]
        self.database.put(connection, schema.gap, gaps, ("until",))

    def changing(self, connection: sa.Connection, changes: Sequence[Change]) -> None:
        """For a ledger that also keeps its records elsewhere: within the transaction that writes them."""

    def changed(self) -> None:
        """After the transaction."""

    def cleaned(self, subjects: Iterable[Key], since: int, until: int) -> None:
        """The traffic of these subjects in this span was deleted."""

    def acted(self, times: Sequence[int]) -> None:
        """Rules were judged, and what they did is in the log with these times."""

    def retained(self, oldest: int) -> None:
        """Minutes before were deleted."""

    def _minutes_of(
        self,
        connection: sa.Connection,
        deltas: Sequence[tuple[int, ...]],
        names: Mapping[int, Key],
        labels: Mapping[Key, Mapping[str, str]],
    ) -> list[Change]:
        """The rows of readings' minutes as they stand now, and what they grew by."""
        there = self._there(connection, {d[0] for d in deltas}, {d[2] for d in deltas}) if deltas else {}
        out = []
        for row in deltas:
            vantage, kind, name = names[row[1]]
            now = dict(zip(COUNTERS, there[row[0], row[1], row[2]], strict=True))
            out.append(
                (
                    Usage(row[0], 60, vantage, kind, name, labels[names[row[1]]], **now, source=READINGS),
                    row[4:],
                )
            )
        return out

    def add(self, connection: sa.Connection, period: str, sums: Sequence[Row]) -> list[Row]:
        """Adds to the sums of one length of bucket, and gives what was added.

        sums: of smaller buckets, one for each key.
        """
        starts = {time: calendar.floor(period, time, self.zone) for time in {row[0] for row in sums}}
        rows = [(starts[row[0]], *row[1:]) for row in sums]
        if len(set(starts.values())) < len(starts):
            rows = joined(rows)
        self.database.add(connection, schema.TABLES[period], rows, COUNTERS)
        return rows

    def _apply(self, connection: sa.Connection, deltas: list[tuple[int, ...]]) -> None:
        """deltas: rows of minutes."""
        deltas.sort()  # in one order always, so that two writers never wait for each other
        self.database.add(connection, schema.minute, deltas, COUNTERS)
        sums = joined([(d[0], d[1], *d[4:]) for d in deltas])
        for period in calendar.PERIODS[1:]:
            sums = self.add(connection, period, sums)

    def _there(
        self, connection: sa.Connection, times: set[int], sources: set[int]
    ) -> dict[tuple[int, int, int], tuple[int, ...]]:
        t = schema.minute
        found: dict[tuple[int, int, int], tuple[int, ...]] = {}
        for part in in_parts(sorted(times)):
            rows = connection.execute(
                sa.select(t.c.time, t.c.subject_id, t.c.source_id, *(t.c[n] for n in COUNTERS)).where(
                    t.c.time.in_(part), t.c.source_id.in_(sources)
                )
            )
            found |= {(r[0], r[1], r[2]): tuple(r[3:]) for r in rows}
        return found

    def _counters(self, connection: sa.Connection, subjects: Sequence[int]) -> dict[tuple[int, str], Stand]:
        t, found = schema.counter, {}
        for part in in_parts(subjects):
            for row in connection.execute(
                sa.select(t.c.subject_id, t.c.digest, t.c.time, t.c.epoch, *(t.c[n] for n in COUNTERS)).where(
                    t.c.subject_id.in_(part)
                )
            ):
                found[row[0], row[1]] = (row[2], row[3], tuple(row[4:]))
        return found

    def _subject_ids(
        self, connection: sa.Connection, wanted: Mapping[tuple[str, str, str], Mapping[str, str]]
    ) -> dict[tuple[str, str, str], int]:
        ids: dict[tuple[str, str, str], int] = {}
        missing: dict[str, tuple[tuple[str, str, str], str]] = {}
        for who, labels in wanted.items():
            known = self._subjects.get(who)
            if known is not None and known[1] == labels:
                ids[who] = known[0]
            else:
                missing[schema.digest(*who)] = (who, labels_text(labels))
        rows = [
            {"digest": d, "vantage": who[0], "kind": who[1], "name": who[2], "labels": text}
            for d, (who, text) in sorted(missing.items())
        ]
        t = schema.subject
        found: dict[str, tuple[int, str]] = {}
        for _ in range(2):
            for part in in_parts([d for d in missing if d not in found]):
                for row in connection.execute(
                    sa.select(t.c.digest, t.c.id, t.c.labels).where(t.c.digest.in_(part))
                ):
                    found[row[0]] = (row[1], row[2])
            self.database.put(connection, t, [r for r in rows if r["digest"] not in found], ())
        for digest, (who, text) in missing.items():
            ids[who] = found[digest][0]
            if found[digest][1] != text:
                connection.execute(sa.update(t).where(t.c.id == ids[who]).values(labels=text))
        return ids

    def _source_ids(self, connection: sa.Connection, names: set[str]) -> dict[str, int]:
        t, ids = schema.source, {}
        for name in sorted(names):
            known = self._sources.get(name)
            if known is None:
                where = sa.select(t.c.id).where(t.c.digest == schema.digest(name))
                known = connection.execute(where).scalar()
                if known is None:
                    self.database.put(connection, t, [{"digest": schema.digest(name), "name": name}], ())
                    known = connection.execute(where).scalar_one()
            ids[name] = known
        return ids

    def _remember(
        self,
        subjects: Mapping[tuple[str, str, str], int],
        labels: Mapping[tuple[str, str, str], Mapping[str, str]],
        sources: Mapping[str, int],
    ) -> None:
        """Numbers of what is committed."""
        if len(self._subjects) + len(subjects) > _MOST_CACHED:
            self._subjects.clear()
        if len(self._sources) > _MOST_CACHED:
            self._sources.clear()
        self._subjects |= {
            who: (number, dict(labels[who]))
            for who, number in subjects.items()
            if who not in self._subjects or self._subjects[who][1] != labels[who]
        }
        self._sources |= sources
