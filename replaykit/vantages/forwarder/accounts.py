"""What mappings, clients and tunnels have moved, and what is said of them, until the ledger has it.

Owns the meters, and what waits to be written: what has grown, by minute, and states where they are not what
was said last. Everything here runs in the event loop; only the ledger is asked in a thread.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from replaykit.errors import UsageError
from replaykit.ledger import calendar
from replaykit.ledger.history import totals
from replaykit.ledger.selection import Selection
from replaykit.ledger.states import State, keep, kept
from replaykit.ledger.store import Ledger
from replaykit.records.usage import Usage
from replaykit.vantages.forwarder.meter import Meter

VANTAGE = "forwarder"


class Accounts:
    """Of subjects by kind and name. labels: what the ledger shall know of one. refusals: why nobody is let in
    there now. declared: whether there is one of this name. say: takes a line for the log.
    """

    def __init__(
        self,
        ledger: Ledger,
        labels: Callable[[str, str], Mapping[str, str]],
        refusals: Callable[[str, str], Sequence[str]],
        declared: Callable[[str], bool],
        say: Callable[[str], None],
    ) -> None:
        self._ledger, self._say = ledger, say
        self._labels, self._refusals, self._declared = labels, refusals, declared
        self.meters: dict[tuple[str, str], Meter] = {}
        self.trouble = ""
        """Why the ledger could not be written the last time."""
        self._before = {
            (s.subject_kind, s.subject): (s.rx_bytes, s.tx_bytes)
            for s in totals(ledger, 0, calendar.LATEST, Selection(VANTAGE)).sums
        }
        self._states = {(k, n): s for (v, k, n), s in kept(ledger).items() if v == VANTAGE}
        self._run = f"forward/{uuid.uuid4().hex}"
        self._minutes: dict[tuple[str, str], tuple[int, int, int, int]] = {}
        self._pending: dict[tuple[str, str, int], Usage] = {}
        self._thread = ThreadPoolExecutor(1, "ledger")

    def meter(self, kind: str, name: str) -> Meter:
        found = self.meters.get((kind, name))
        if found is None:
            found = self.meters[kind, name] = Meter(kind, name, before=self._before.get((kind, name), (0, 0)))
            if (kind, name) in self._states:
                found.last_update = self._states[kind, name].last_update
        return found

    def _records(self, now: int) -> None:
        """What has grown since the last time, by minute, to what waits for the ledger."""
        minute = now - now % 60
        for (kind, name), meter in self.meters.items():
            at, rx, tx, connections = self._minutes.get((kind, name), (minute, 0, 0, 0))
            moved = (meter.rx - rx, meter.tx - tx, meter.connections - connections)
            if any(moved):
                self._pending[kind, name, at] = Usage(
                    at,
                    60,
                    VANTAGE,
                    kind,
                    name,
                    self._labels(kind, name),
                    moved[0],
                    moved[1],
                    connections=moved[2],
                    source=self._run,
                )
            if at != minute:
                at, rx, tx, connections = minute, meter.rx, meter.tx, meter.connections
            self._minutes[kind, name] = at, rx, tx, connections

    async def flush(self) -> None:
        """Writes what has grown.

        A ledger that is away is tried again next time; nothing is lost meanwhile.
        """
        self._records(int(time.time()))
        records, states = dict(self._pending), self._changed(int(time.time()))
        if not records and not states:
            return

        def write() -> None:
            self._ledger.write(list(records.values()))
            keep(self._ledger, states.values())

        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, write)
        except UsageError as error:
            if str(error) != self.trouble:
                self.trouble = str(error)
                self._say(f"the ledger cannot be written: {error}")
            return
        self.trouble = ""
        self._states |= states
        for key, record in records.items():
            if self._pending.get(key) == record:
                del self._pending[key]

    def _changed(self, now: int) -> dict[tuple[str, str], State]:
        """What is to be said of mappings, clients and tunnels, where it is not what was said last."""
        found = {}
        for (kind, name), meter in self.meters.items():
            refusals = tuple(self._refusals(kind, name))
            state = State(VANTAGE, kind, name, now, meter.last_update, tuple(meter.limits()), refusals)
            before = self._states.get((kind, name))
            if before is None and not meter.last_update and not self._declared(name):
                continue  # it was refused before it began
            if before is None or replace(before, at=now) != state:
                found[kind, name] = state
        return found

    async def close(self) -> None:
        """Writes what is left. Raises UsageError where that fails."""
        await self.flush()
        self._thread.shutdown()
        if self._pending:
            raise UsageError(f"not written to the ledger: {self.trouble}")
