"""Files through an engine: captures, .gor and Parquet, batches and messages out."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from replaykit.archive import partitions
from replaykit.archive.chosen import Chosen
from replaykit.archive.parquet_file import left_behind, parts_of, whole
from replaykit.archive.store import open_store
from replaykit.capturing import keylog
from replaykit.capturing.files import PIECE, CaptureFile, Reading
from replaykit.capturing.left_out import LeftOut
from replaykit.capturing.reader import keep_keys_of, key_log, open_reader
from replaykit.engine.engine import Engine
from replaykit.engine.engines import Engines
from replaykit.engine.options import Options
from replaykit.errors import UsageError
from replaykit.plain import say
from replaykit.records.increment import movements, plain
from replaykit.records.message import Messages

BATCH_ROWS = 65_536
SHARED_PIECE = 16 << 20
"""Bytes that several engines read before their exchanges are taken."""
SHARED_FROM = 64 << 20
"""Captures of so many bytes are read by several engines."""
MOST_WORKERS = 4
WHENEVER = partitions.Window()
T = TypeVar("T")
Progressing = Callable[[Sequence[CaptureFile]], AbstractContextManager[Callable[[CaptureFile, int], None]]]


def readable(opened: Callable[[], T]) -> T:
    """What was opened. Raises UsageError for a pattern that cannot be read."""
    try:
        return opened()
    except ValueError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines() if line.strip(" ^"))
        raise UsageError(f"a filter's regular expression cannot be read: {reason}") from None


class Reader:
    """Reads input files through one engine: batches and messages come out, troubles are kept.

    above: put around the engine. columns: those read of Parquet files, the others are null; None: all.
    moved: is given all that moved, in slices of `chosen.slice_ns`; of what is no capture the exchanges.
    increments: is given these alone, as they leave the engine, and exchanges keep their numbers.
    window: of Parquet files, only exchanges in this time. workers: threads that read captures; None: as many
    as are of use. fits: raises UsageError where a kind of input (`capture`, `gor`, `parquet`) and name cannot
    be read as is asked for. progress: for the files, what is told of each step. report: is told of a key log
    of no use and the like.
    """

    def __init__(
        self,
        chosen: Options,
        above: Callable[[Engine], Engine] | None = None,
        columns: Collection[str] | None = None,
        moved: Callable[[pa.RecordBatch], None] | None = None,
        increments: Callable[[pa.RecordBatch], None] | None = None,
        *,
        window: partitions.Window = WHENEVER,
        workers: int | None = None,
        fits: Callable[[str, str], None] = lambda kind, name: None,
        progress: Progressing = lambda files: nullcontext(lambda file, done: None),
        report: Callable[[str], None] = say,
    ) -> None:
        self._moved, self._increments = moved, increments
        self._window, self._workers = window, workers
        self._fits, self._progress, self._report = fits, progress, report
        self._rows = Chosen(chosen)
        self._columns = None if columns is None else {*columns, *self._rows.reads}
        keylog.require(chosen.tls_keys)
        self._above = above
        self._options = chosen
        self.engine: Engine | Engines | None = None
        self.troubles: list[str] = []
        self.left_out = LeftOut()

    def _named(self, name: str, window: partitions.Window) -> Sequence[str | CaptureFile]:
        """The file, opened; of a directory or bucket the names of its Parquet files, which are opened one by
        one.
        """
        remote = name.startswith("s3://")
        if remote and name.endswith(".parquet"):
            return [name]
        if not remote and name != "-" and left_behind(Path(name)):
            self._report(f"{name}: reading what a run that did not end left in {parts_of(Path(name))}, too")
            all_of_it = whole(Path(name))
            return [str(p) for p in all_of_it]
        if not remote and (name == "-" or not Path(name).is_dir()):
            return [CaptureFile(name)]
        store = open_store(name)
        found = partitions.files(store, partitions.Window())
        if not found:
            raise UsageError(
                f"{name}: {'a prefix' if remote else 'a directory'} without Parquet files; name the files"
                " in it"
            )
        return partitions.files(store, window) if window else found

    def account(self) -> dict[str, int] | None:
        """The engine's account; None where only exchanges were read."""
        return None if self.engine is None else self.engine.account()

    def read(self, names: Sequence[str]) -> Iterator[pa.RecordBatch | Messages]:
        """Everything of the files, in pieces of bounded size. Raises UsageError."""
        window = self._window
        files = [file for each in names for file in self._named(each, window)]
        with self._progress([f for f in files if isinstance(f, CaptureFile)]) as step:
            for file in files:
                name = file if isinstance(file, str) else file.name
                kind = "parquet" if isinstance(file, str) else file.kind
                self._fits(kind, name)
                if kind == "parquet":
                    if isinstance(file, CaptureFile):
                        file.close()
                    for batch in map(self._rows, partitions.read(name, window, self._columns)):
                        if self._moved is not None:
                            self._moved(batch)
                        yield batch
                    continue
                assert isinstance(file, CaptureFile)
                if self.engine is None:
                    self.engine = self._open(files)
                reading = Reading()
                piece = SHARED_PIECE if isinstance(self.engine, Engines) else PIECE
                for progress in file.feed(self.engine, reading, piece):
                    step(file, progress.done)
                    yield from self._drain(BATCH_ROWS)
                file.close()
                self.left_out.add(reading.left_out)
                if reading.trouble:
                    self.troubles.append(reading.trouble)
        if self.engine is not None:
            self.engine.finish()
            yield from self._drain(1)

    def read_moved(
        self, names: Sequence[str]
    ) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch | None] | Messages]:
        """The same; with each batch all that moved until it came, where `chosen.slice_ns` asks for it and the
        file knows it.
        """
        held: list[pa.RecordBatch] = []
        if self._options.slice_ns:
            self._moved = held.append
        for piece in self.read(names):
            if isinstance(piece, Messages):
                yield piece
            else:
                moved = held.pop() if held else None
                yield piece, None if moved is piece else moved

    def _open(self, files: Sequence[str | CaptureFile]) -> Engine | Engines:
        captures = [f for f in files if isinstance(f, CaptureFile) and f.kind == "capture"]
        found = self._engine_for(captures)
        keep_keys_of(found, captures, self._options, self._report)
        return found

    def _engine_for(self, captures: Sequence[CaptureFile]) -> Engine | Engines:
        alone = self._above is not None or bool(self._options.protocols)
        wanted = self._workers
        if alone and (wanted or 1) > 1:
            raise UsageError(f"--workers {wanted}: bodies and plug-ins' protocols are read by one")
        if wanted is None:
            large = sum(f.size or 0 for f in captures) >= SHARED_FROM
            wanted = min(max(len(os.sched_getaffinity(0)) - 1, 1), MOST_WORKERS) if large else 1
        if alone or not captures or wanted == 1:
            one = readable(lambda: open_reader(self._options, self._report))
            return one if self._above is None else self._above(one)
        return readable(lambda: Engines(self._options, wanted, key_log(self._options), self._report))

    def _drain(self, rows: int) -> Iterator[pa.RecordBatch | Messages]:
        assert self.engine is not None
        for engine in self.engine.all if isinstance(self.engine, Engines) else (self.engine,):
            if engine.rows >= rows or engine.increments >= rows:
                exchanges = engine.take_exchanges()
                if self._moved is not None:
                    increments = engine.take_increments() if engine.increments else None
                    self._moved(movements(exchanges, increments))
                elif self._increments is not None:
                    if engine.increments:
                        self._increments(engine.take_increments())
                    yield exchanges
                    continue
                yield plain(exchanges)
        while self.engine.message_bytes:
            yield self.engine.take_messages()


def ahead(pieces: Iterator[T], depth: int = 1) -> Iterator[T]:
    """The same pieces, read in a thread of their own, so that reading and adding up share two cores."""
    waiting: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=depth)
    stopping = threading.Event()

    def put(piece: T | None, error: BaseException | None) -> None:
        while not stopping.is_set():
            try:
                return waiting.put((piece, error), timeout=0.2)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for piece in pieces:
                put(piece, None)
                if stopping.is_set():
                    return
            put(None, None)
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    patience_s: float | None = None
    try:
        while True:
            piece, error = waiting.get()
            if error is not None:
                raise error
            if piece is None:
                return
            yield piece
    except KeyboardInterrupt:
        patience_s = 0.5  # it may be waiting for standard input
        raise
    finally:
        stopping.set()
        thread.join(patience_s)
