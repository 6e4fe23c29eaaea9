"""What becomes of exchanges and messages, wherever they come from.

Endpoints are named alike, outputs are given them, rules are told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import pyarrow as pa

from replaykit.attribution.folding import Folding
from replaykit.capturing.live import Capture
from replaykit.pipeline.writing import Background
from replaykit.records.message import Messages

FLUSH_S = 1.0
OBSERVE_S = 10.0


class Alerts(Protocol):
    """Rules that are evaluated while a capture runs."""

    def add(self, batch: pa.RecordBatch) -> None:
        """What moved."""

    def turn(self, capture: Capture) -> None:
        """Between two results: hears the capture's counters, and may change it."""


class FanOut:
    """Gives everything to all outputs. rewrite: what becomes of messages on the way."""

    def __init__(
        self,
        outputs: Sequence[Background],
        folding: Folding,
        rewrite: Callable[[Messages], Messages] | None = None,
        alerts: Alerts | None = None,
    ) -> None:
        self.outputs, self.folding = outputs, folding
        self._rewrite, self._alerts = rewrite, alerts
        self._flushed = self._observed = time.monotonic()

    def exchanges(
        self, exchanges: pa.RecordBatch, moved: pa.RecordBatch | None, live: bool = False
    ) -> tuple[pa.RecordBatch, pa.RecordBatch | None]:
        """Exchanges that have ended, and all that moved, where that is known; returned as outputs have them.

        live: of the capture that rules are evaluated over.
        """
        exchanges = self.folding.rename(exchanges)
        moved = None if moved is None else self.folding.rename(moved)
        for output in self.outputs:
            output.exchanges(exchanges, moved)
        if live and moved is not None and self._alerts is not None:
            self._alerts.add(moved)
        return exchanges, moved

    def messages(self, messages: Messages) -> None:
        if self._rewrite is not None:
            messages = self._rewrite(messages)
        for output in self.outputs:
            if output.output.wants_messages:
                output.messages(messages)

    def turn(self, capture: Capture, last: bool = False) -> None:
        """Between two results of a capture: what is due. last: there are no more."""
        now = time.monotonic()
        if self._alerts is not None:
            self._alerts.turn(capture)
        if now - self._flushed >= FLUSH_S:
            self._flushed = now
            for output in self.outputs:
                output.flush()
        if last or now - self._observed >= OBSERVE_S:
            self._observed = now
            self._observe(capture)

    def _observe(self, capture: Capture) -> None:
        """Tells the outputs that want it how this host is doing."""
        totals = capture.totals()
        status = {
            "capture": {"packets": totals.kernel_packets, "drops": totals.kernel_drops},
            "account": totals.account,
        }
        for output in self.outputs:
            output.observe(status)
