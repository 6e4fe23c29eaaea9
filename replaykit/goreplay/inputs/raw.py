"""The wire as input: a live capture, or a capture file, through the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pyarrow as pa

from replaykit.capturing.live import Capture, Settings
from replaykit.capturing.results import results
from replaykit.engine.options import Options
from replaykit.goreplay.pipeline import Log
from replaykit.records.message import Messages
from replaykit.replaying.own import OwnConnections
from replaykit.replaying.reading import Read, read_files

Heard = Callable[[pa.RecordBatch], None]
_ENDED: Any = object()


class RawInput:
    """Raises UsageError where nothing can be captured. stats: tells the kernel's counters now and then.

    own: connections whose messages are left out, because they are ours. heard: is given the exchanges,
    both directions, whether or not answers are asked for.
    """

    ruled = False

    def __init__(
        self,
        settings: Settings,
        options: Options,
        log: Log,
        stats: bool = False,
        own: OwnConnections | None = None,
        heard: Heard | None = None,
    ) -> None:
        self.measured, self._heard = heard is not None, heard
        self.name = "raw " + ", ".join(p.interface for p in settings.places)
        self.capture = Capture(settings, options)
        self._log, self._stats = log, stats
        self._own = own or OwnConnections()
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True
        self.capture.stop()

    async def batches(self) -> AsyncIterator[Messages]:
        loop = asyncio.get_running_loop()
        given = results(self.capture, lambda: self._stopped)
        told = loop.time()
        try:
            while (found := await loop.run_in_executor(None, next, given, _ENDED)) is not _ENDED:
                if found is not None and found.messages is not None:
                    yield self._own.without(found.messages)
                elif found is not None and found.exchanges is not None and self._heard is not None:
                    self._heard(self._own.without_exchanges(found.exchanges))
                if self._stats and loop.time() - told >= 5:
                    told = loop.time()
                    self._tell()
        finally:
            self._tell()
            self._sampled()
            self.capture.close()

    def _sampled(self) -> None:
        """A share of few connections may be none of them: it is said."""
        share, totals = self.capture.settings.sample, self.capture.totals()
        if share < 1 and self.capture.settings.group is None:
            self._log(
                0,
                f"{self.name}: {totals.connections_kept:,} of the {totals.connections_begun:,} connections"
                f" that began meanwhile were kept (--input-raw-probability {share:g})",
            )

    def _tell(self) -> None:
        totals = self.capture.totals()
        account = totals.account
        text = (
            f"{self.name}: {totals.kernel_packets:,} packets, {totals.kernel_drops:,} dropped by the kernel, "
        )
        text += f"{account.get('exchanges', 0):,} exchanges, {account.get('messages_cut', 0):,} messages cut"
        if self._own.left_out:
            text += f", {self._own.left_out:,} messages of our own left out"
        self._log(0 if self._stats or totals.kernel_drops else 1, text)


class CaptureFileInput:
    """A capture file, as fast as it can be read."""

    ruled = False

    def __init__(self, path: str, options: Options, log: Log, heard: Heard | None = None) -> None:
        self.measured, self._heard = heard is not None, heard
        self.name = f"raw {path}"
        self._path, self._options, self._log = path, options, log
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    async def batches(self) -> AsyncIterator[Messages]:
        loop = asyncio.get_running_loop()
        read = Read()
        source = read_files(
            [self._path],
            options=self._options,
            read=read,
            wanted=lambda: not self._stopped,
            heard=self._heard,
        )
        while (messages := await loop.run_in_executor(None, next, source, None)) is not None:
            yield messages
        for trouble in read.troubles:
            self._log(0, trouble)
