"""From a spool on disk to a server, in a thread of its own.

Owns the order: a record leaves the spool when the server has all of it. It is sent again, with jitter,
while the server is away or overloaded; whoever measures never waits. What waits at the end stays in the
spool for the next run.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from replaykit.errors import UsageError
from replaykit.outputs.delivery.spool import Spool
from replaykit.plain import say

_LONGEST_WAIT_S = 30.0
LAST_S = 10.0
"""So long an end tries to send what waits; the rest stays in the spool."""


class Later(Exception):
    """The server is away or overloaded: the same is sent again later."""


class Backoff:
    """Waits longer after each failure, with full jitter: many hosts that lost the same server do not return
    at once.
    """

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping, self._tries = stopping, 0

    def wait(self) -> None:
        self._tries += 1
        self._stopping.wait(random.uniform(0, min(0.2 * 2**self._tries, _LONGEST_WAIT_S)))
        if self._stopping.is_set():
            time.sleep(0.2)

    def over(self) -> None:
        """It went well."""
        self._tries = 0


class Server(Protocol):
    """Where records go. `sent`, `refused`: things the server took, and those it will never take."""

    sent: int
    refused: int
    trouble: str | None

    def deliver(self, record: bytes) -> None:
        """Returns when the server has the record. Raises Later."""

    def close(self) -> None: ...


class Drain:
    """A spool and the thread that empties it. Raises UsageError where the spool cannot be used."""

    def __init__(self, folder: Path, max_bytes: int, connect: Callable[[], Server]) -> None:
        self.folder = folder
        self._spool = Spool(folder, max_bytes)
        self._dropped_before = self._spool.dropped
        self._lost = 0
        self._trouble: str | None = None
        self._lock = threading.Lock()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._deadline = float("inf")
        try:
            self.server = connect()
        except BaseException:
            self._spool.close()
            raise
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, record: bytes, count: int) -> None:
        """Appends a record that holds `count` things. A full disk costs them, not the run."""
        try:
            with self._lock:
                self._spool.put(record, count)
        except UsageError as error:
            self._lost += count
            self._trouble = str(error)
        self._wake.set()

    def _run(self) -> None:
        backoff = Backoff(self._stopping)
        away = False
        while True:
            with self._lock:
                waiting = self._spool.peek()
            if waiting is None:
                if self._stopping.is_set():
                    return
                self._wake.wait(0.5)
                self._wake.clear()
                continue
            try:
                self.server.deliver(waiting[0])
            except Later as error:
                self._trouble = str(error)
                if not away:
                    away = True
                    say(f"replaykit: {self.folder.name}: {error}; what is to be sent waits in {self.folder}")
                if time.monotonic() > self._deadline:
                    return
                backoff.wait()
                continue
            except Exception as error:  # ends the thread, and is told at the end: the spool keeps everything
                self._trouble = f"{type(error).__name__}: {error}"
                return
            backoff.over()
            if away:
                away = False
                say(f"replaykit: {self.folder.name}: sent again")
            try:
                with self._lock:
                    self._spool.take()
            except UsageError as error:  # a full disk: after a restart it is sent again, and counts once
                self._trouble = str(error)

    @property
    def state(self) -> dict[str, Any]:
        """sent, refused, dropped: things. waiting_bytes: in the spool. trouble: the last, or None."""
        server = self.server
        return {
            "sent": server.sent,
            "refused": server.refused,
            "dropped": self._spool.dropped - self._dropped_before + self._lost,
            "waiting_bytes": self._spool.waiting_bytes,
            "trouble": server.trouble or self._trouble,
        }

    def stop(self) -> dict[str, Any]:
        """Sends what waits, for some seconds at most, and gives the last state."""
        self._deadline = time.monotonic() + LAST_S
        self._stopping.set()
        self._wake.set()
        self._thread.join(LAST_S + 35)
        self.server.close()
        state = self.state
        self._spool.close()
        return state

    def finish(self, target: str, things: str = "exchanges") -> None:
        """Stops; raises UsageError if something was refused, dropped, or is left in the spool."""
        state = self.stop()
        if state["waiting_bytes"]:
            raise UsageError(
                f"{target}: not everything could be sent ({state['trouble']}); {state['waiting_bytes']:,}"
                f" bytes wait in {self.folder} and are sent by the next run with this spool"
            )
        for what, kind in (("refused", "documents"), ("dropped", things)):
            if state[what]:
                raise UsageError(f"{target}: {state[what]:,} {kind} were {what} ({state['trouble']})")
