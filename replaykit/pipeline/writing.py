"""Outputs beside the work that feeds them: each in a thread of its own, closed whatever happens."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa

from replaykit.attribution.minutes import MINUTE_NS
from replaykit.engine.options import Options
from replaykit.errors import UsageError
from replaykit.outputs.output import Moving, Observing, Output, Rotation, open_output
from replaykit.plain import say
from replaykit.records.message import Messages


class Background:
    """Runs an output in a thread of its own, so that writing and parsing share two cores.

    An output that fails ends alone: it says so once, takes nothing any more, and counts what it did not
    write. Only where the reader of standard output has gone (BrokenPipeError) does the caller hear of it at
    once.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self.lost = 0
        """Exchanges and messages that were given to it and are in no file."""
        self._queue: queue.Queue[tuple[Callable[[], None], int] | None] = queue.Queue(maxsize=2)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            do, count = work
            if self._error is not None:
                self.lost += count
                continue
            try:
                do()
            except BaseException as error:
                self._failed(error, count)

    def _failed(self, error: BaseException, count: int) -> None:
        self._error = error
        self.lost += getattr(error, "lost", count)
        if isinstance(error, UsageError | OSError) and not isinstance(error, BrokenPipeError):
            say(f"replaykit: {error}; nothing more goes there")

    @property
    def failed(self) -> bool:
        """It takes nothing any more."""
        return self._error is not None

    def _put(self, work: Callable[[], None], count: int = 0) -> None:
        if self._error is not None:
            self._raise_unless_told()
            self.lost += count
            return
        self._queue.put((work, count))

    def _raise_unless_told(self) -> None:
        """A fault of the program, and a reader that has gone, end the run."""
        error = self._error
        if error is not None and (
            isinstance(error, BrokenPipeError) or not isinstance(error, UsageError | OSError)
        ):
            raise error

    def exchanges(self, batch: pa.RecordBatch, moved: pa.RecordBatch | None = None) -> None:
        """moved: all that moved, where it is known."""
        output, count = self.output, 0 if self.output.wants_messages else batch.num_rows
        if moved is not None and isinstance(output, Moving):
            self._put(lambda: output.take(batch, moved), count)
        elif batch.num_rows:
            self._put(lambda: output.exchanges(batch), count)

    def messages(self, messages: Messages) -> None:
        self._put(lambda: self.output.messages(messages), len(messages))

    def flush(self) -> None:
        self._put(self.output.flush)

    def observe(self, status: Mapping[str, Any]) -> None:
        if isinstance(self.output, Observing):
            self._put(lambda: self.output.observe(status))  # type: ignore[attr-defined]

    def close(self) -> None:
        """Finishes the output. Raises UsageError with what it lost, where it failed."""
        self._queue.put(None)
        self._thread.join()
        try:
            self.output.close()
        except (UsageError, OSError) as error:
            if self._error is None:
                self._error = error
                self.lost += getattr(error, "lost", 0)
                raise
            say(f"replaykit: {error}")
        self._raise_unless_told()
        if self._error is not None:
            what = "messages" if self.output.wants_messages else "exchanges"
            where = "standard output" if self.output.target == "-" else self.output.target
            raise UsageError(f"{where}: {self.lost:,} {what} were not written")


@contextmanager
def opened(targets: Sequence[str], how: Rotation) -> Iterator[list[Background]]:
    """Opens the targets, and closes all of them whatever happens; what went wrong is said, and ends in exit
    status 2.
    """
    running: list[Background] = []
    try:
        for target in targets:
            running.append(Background(open_output(target, how)))
        yield running
    finally:
        errors = []
        for output in running:
            try:
                output.close()
            except (UsageError, OSError) as error:
                errors.append(error)
        if errors and sys.exc_info()[0] is None:
            for other in errors[1:]:
                say(f"replaykit: {other}")
            raise errors[0]


def sliced(chosen: Options, outputs: Sequence[Background]) -> Options:
    """Options by which files are read for these outputs: with all that moves by the minute, where one tells
    sums over time.
    """
    moving = any(isinstance(output.output, Moving) for output in outputs)
    return replace(chosen, slice_ns=MINUTE_NS) if moving else chosen
