"""Alerts of a running capture: evaluated beside it, and able to change it.

Owns the thread that evaluates and sends word; the capture is changed by its own loop, between two results.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from replaykit.atomic_files import cannot_write
from replaykit.cli.alert import judging, step
from replaykit.cli.asking import say_if_earlier, warn_of_rules
from replaykit.errors import UsageError
from replaykit.outputs.settings import state_of
from replaykit.plain import say
from replaykit.rules.alerts import read_rules
from replaykit.rules.episodes import Watch
from replaykit.rules.sources import LiveSource

if TYPE_CHECKING:
    from replaykit.capturing.live import Capture

DELAY_S = 3.0
"""So long after its end all that moved in a minute is known."""
_KEEP_S = 60.0
_HEAR_S = 5.0


class LiveAlerts:
    """folder: of the state, None: the default. Raises UsageError."""

    def __init__(self, path: str, folder: str | None, quiet: bool) -> None:
        rules = read_rules(path)
        warn_of_rules(path, rules.notify)
        say_if_earlier(path, rules.earlier, quiet)
        place = Path(folder) if folder else state_of("alerts", path)
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise cannot_write(place, error) from None
        self._lock = judging(place / "state.json")
        self._quiet = quiet
        self._source = LiveSource(place)
        self.watch = Watch(rules, self._source, place / "state.json")
        self._wanted: dict[str, Any] = self.watch.changes()
        self._current: dict[str, Any] = {}
        self._kept = self._heard = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, batch: pa.RecordBatch) -> None:
        self._source.add(batch, time.time_ns())

    def turn(self, capture: Capture) -> None:
        """Called by the capture's loop: hears its counters, and changes it where rules want that."""
        now = time.monotonic()
        if now - self._heard >= _HEAR_S:
            totals = capture.totals()
            self._source.heard(time.time_ns(), totals.kernel_packets, totals.kernel_drops)
            self._heard = now
        if now - self._kept >= _KEEP_S:
            self._source.keep(time.time_ns())
            self._kept = now
        wanted = self._wanted
        if wanted != self._current:
            self._current = wanted
            capture.change(wanted)
            shown = ", ".join(
                f"{name} {value if not isinstance(value, tuple) else ' '.join(value)}"
                for name, value in wanted.items()
            )
            say(
                f"replaykit: a rule changes the capture: {shown}"
                if wanted
                else "replaykit: the capture is as it began again"
            )

    def _run(self) -> None:
        while not self._stopping.wait(min(1.0, self.watch.rules.interval_s)):
            try:
                step(self.watch, time.time() - DELAY_S, self._quiet)
            except UsageError as error:
                say(f"replaykit: alerts: {error}")
            self._wanted = self.watch.changes()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(60)
        self._source.keep(time.time_ns())
        os.close(self._lock)
