"""A ledger in plain files, in pve-traffic-monitor's layout: `vm_100/traffic_2026-11-25.jsonl`, one record a
line.

A line has the subject's bytes as they stand after it (`rx_bytes`, `tx_bytes`, `total_bytes`: they only grow,
as that document's do), and under `usage` the record itself. An index (`.index.db`, SQLite) answers questions
and remembers how long each file is: lines wait there until they are in their file, and a file that is longer
than the index knows, after a kill amid a write, is cut back and written again. Without its index the ledger
is read anew from its files; sums of minutes that retention has deleted are then gone.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from replaykit.atomic_files import cannot_write, write_whole
from replaykit.errors import UsageError
from replaykit.ledger import calendar
from replaykit.ledger.selection import Key
from replaykit.ledger.store import Change, Ledger
from replaykit.records.usage import Usage

_TABLES = (
    (
        "CREATE TABLE IF NOT EXISTS file_waiting (id INTEGER PRIMARY KEY, path TEXT NOT NULL, line TEXT NOT"
        " NULL)"
    ),
    "CREATE TABLE IF NOT EXISTS file_size (path TEXT PRIMARY KEY, size INTEGER NOT NULL)",
    (
        "CREATE TABLE IF NOT EXISTS file_stands (folder TEXT PRIMARY KEY, rx_bytes INTEGER NOT NULL, tx_bytes"
        " INTEGER NOT NULL)"
    ),
)
_BATCH = 5000


def folder_of(vantage: str, kind: str, name: str) -> str:
    """`vm_100` of a machine; `forwarder_mapping_30009` of others.

    Names that a file cannot have are quoted as in a URL.
    """
    safe = quote(name, safe=" ")[:200]
    if len(quote(name, safe=" ")) > 200:
        import hashlib

        safe += hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    return f"vm_{safe}" if kind == "machine" else f"{quote(vantage, safe='')}_{quote(kind, safe='')}_{safe}"


class FileLedger(Ledger):
    """A folder. Raises UsageError."""

    def __init__(self, folder: str, time_zone: str | None = None) -> None:
        self.folder = Path(folder)
        index = self.folder / ".index.db"
        anew = not index.exists()
        self._rereading = False  # lines that are in their files already
        self._states: dict[str, dict[str, Any]] | None = None
        super().__init__(f"sqlite:///{index}", time_zone)
        self.database.shown = f"files:{folder}"
        with self.database.writing() as connection:
            for table in _TABLES:
                connection.exec_driver_sql(table)
        if anew:
            self._read_anew()
        self.changed()

    def changing(self, connection: sa.Connection, changes: Sequence[Change]) -> None:
        lines = []
        for record, moved in changes:
            folder = folder_of(record.vantage, record.subject_kind, record.subject)
            row = connection.exec_driver_sql(
                "INSERT INTO file_stands VALUES (?, ?, ?) ON CONFLICT (folder) DO UPDATE SET rx_bytes ="
                " rx_bytes + excluded.rx_bytes, tx_bytes = tx_bytes + excluded.tx_bytes RETURNING rx_bytes,"
                " tx_bytes",
                (folder, moved[0], moved[1]),
            ).one()
            day = datetime.fromtimestamp(record.time, self.zone).strftime("%Y-%m-%d")
            lines.append((f"{folder}/traffic_{day}.jsonl", self._line(record, row[0], row[1])))
        if lines and not self._rereading:
            connection.exec_driver_sql("INSERT INTO file_waiting (path, line) VALUES (?, ?)", lines)

    def _line(self, record: Usage, rx: int, tx: int) -> str:
        found: dict[str, Any] = {}
        if record.subject_kind == "machine" and record.subject.isdigit():
            found["vmid"] = int(record.subject)
        found |= {
            "timestamp": calendar.show(record.time, self.zone),
            "rx_bytes": rx,
            "tx_bytes": tx,
            "total_bytes": rx + tx,
            "usage": {**asdict(record), "labels": dict(record.labels)},
        }
        return json.dumps(found, ensure_ascii=False) + "\n"

    def changed(self) -> None:
        """What waits goes into its files. Raises UsageError; what could not be written waits on."""
        with self._alone():
            with self.database.reading() as connection:
                rows = connection.exec_driver_sql("SELECT id, path, line FROM file_waiting ORDER BY id").all()
                sizes = dict(tuple(r) for r in connection.exec_driver_sql("SELECT path, size FROM file_size"))
            if not rows:
                return
            texts: dict[str, list[str]] = {}
            for _, path, line in rows:
                texts.setdefault(path, []).append(line)
            now = [
                (path, self._append(path, sizes.get(path, 0), "".join(lines).encode()))
                for path, lines in texts.items()
            ]
            with self.database.writing() as connection:
                connection.exec_driver_sql(
                    "INSERT INTO file_size VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET size ="
                    " excluded.size",
                    now,
                )
                connection.exec_driver_sql("DELETE FROM file_waiting WHERE id <= ?", (rows[-1][0],))

    def _append(self, path: str, size: int, data: bytes) -> int:
        """At the place that the index knows; gives the new size."""
        place = self.folder / path
        try:
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
                file.truncate(size)
                file.seek(size)
                file.write(data)
        except OSError as error:
            raise cannot_write(place, error) from None
        return size + len(data)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process writes files at a time."""
        place = self.folder / ".lock"
        try:
            lock = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise cannot_write(place, error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _read_anew(self) -> None:
        """From the files, as far as their lines are whole."""
        records: list[Usage] = []
        for place in sorted(self.folder.glob("*/traffic_*.jsonl")):
            with place.open("rb") as file:
                size = 0
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        break
                    size += len(line)
                    try:
                        found = json.loads(line)
                        if "usage" in found:
                            records.append(Usage(**found["usage"]))
                    except (ValueError, TypeError, AttributeError):
                        raise UsageError(
                            f"{place}:{number}: not a record of usage; mend the line or take the file away"
                        ) from None
            with self.database.writing() as connection:
                connection.exec_driver_sql(
                    "INSERT INTO file_size VALUES (?, ?)", (str(place.relative_to(self.folder)), size)
                )
        self._rereading = True
        for begin in range(0, len(records), _BATCH):
            self.write(records[begin : begin + _BATCH])
        self._rereading = False

    def cleaned(self, subjects: Iterable[Key], since: int, until: int) -> None:
        """Lines of records that were deleted are taken out of their files, which are written aside and
        renamed.
        """
        with self._alone():
            for vantage, kind, name in subjects:
                for place in sorted((self.folder / folder_of(vantage, kind, name)).glob("traffic_*.jsonl")):
                    self._without(place, since, until)

    def acted(self, times: Sequence[int]) -> None:
        """`logs/actions_DAY.json` and `states/vm_100_state.json`: what the index has of these days, and holds
        now.
        """
        from replaykit.ledger.done import effects, log

        if not times and self._states is not None:
            return
        held: dict[str, dict[str, Any]] = {}
        for e in effects(self):
            if e["kind"] == "machine":
                kept = ("effect", "value", "original", "state", "rule", "since")
                state = held.setdefault(e["subject"], {"vmid": _vmid(e["subject"]), "effects": []})
                state["effects"].append({n: e[n] for n in kept})
        with self._alone():
            for day in {calendar.floor("day", t, self.zone) for t in times}:
                entries = log(self, day, calendar.following("day", day, self.zone), 1_000_000)
                rows = [
                    {
                        "vmid": _vmid(e.subject),
                        "rule_name": e.rule,
                        "action": e.action if e.outcome != "undone" else f"undo {e.action}",
                        "reason": e.reason,
                        "timestamp": calendar.show(e.time, self.zone),
                        "success": e.outcome in ("done", "undone"),
                        **({"error": e.error} if e.error else {}),
                    }
                    for e in entries
                    if e.kind == "machine"
                ]
                if rows:
                    self._put("logs", f"actions_{calendar.show(day, self.zone)[:10]}.json", rows)
            if held != self._states:
                for name in {*held, *(self._states or {})}:
                    place = f"{folder_of('hypervisor', 'machine', name)}_state.json"
                    if name in held:
                        self._put("states", place, held[name])
                    else:
                        (self.folder / "states" / place).unlink(missing_ok=True)
                if self._states is None:
                    known = {f"{folder_of('hypervisor', 'machine', n)}_state.json" for n in held}
                    for stale in (self.folder / "states").glob("*_state.json"):
                        if stale.name not in known:
                            stale.unlink(missing_ok=True)
                self._states = held

    def _put(self, folder: str, name: str, value: Any) -> None:
        try:
            (self.folder / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise cannot_write(self.folder / folder, error) from None
        write_whole(
            self.folder / folder / name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
        )

    def retained(self, oldest: int) -> None:
        """Files of days before are deleted."""
        day = datetime.fromtimestamp(oldest, self.zone).strftime("%Y-%m-%d")
        with self._alone():
            for place in self.folder.glob("*/traffic_*.jsonl"):
                found = re.fullmatch(r"traffic_(\d{4}-\d\d-\d\d)\.jsonl", place.name)
                if found is not None and found[1] < day:
                    place.unlink(missing_ok=True)
                    self._sized(place, None)

    def _without(self, place: Path, since: int, until: int) -> None:
        kept = []
        for line in place.read_bytes().splitlines(keepends=True):
            found = json.loads(line)
            if "usage" not in found or not since <= found["usage"]["time"] < until:
                kept.append(line)
        if kept:
            write_whole(place, b"".join(kept))
            self._sized(place, sum(map(len, kept)))
        else:
            place.unlink()
            self._sized(place, None)

    def _sized(self, place: Path, size: int | None) -> None:
        path = str(place.relative_to(self.folder))
        with self.database.writing() as connection:
            if size is None:
                connection.exec_driver_sql("DELETE FROM file_size WHERE path = ?", (path,))
            else:
                connection.exec_driver_sql("UPDATE file_size SET size = ? WHERE path = ?", (size, path))


def _vmid(subject: str) -> int | str:
    number = subject.partition("@")[0]
    return int(number) if number.isdigit() else subject


def open_url(url: str, time_zone: str | None = None) -> Ledger:
    """A ledger by URL: `files:FOLDER`, or a database's. Raises UsageError."""
    if url.startswith("files:"):
        folder = url.removeprefix("files:").removeprefix("//") or "."
        return FileLedger(folder, time_zone)
    return Ledger(url, time_zone)
