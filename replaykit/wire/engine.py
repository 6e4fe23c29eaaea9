"""The choice of engine.

Both engines have the same methods and give the same columns. The compiled one is `core/`; the
readable one is the files of this package, and the specification.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import pyarrow as pa

from replaykit.wire.message import Messages
from replaykit.wire.options import Options
from replaykit.wire.source import BrokenCapture
from replaykit.wire.tap import Handed

try:
    from replaykit import _core  # type: ignore[attr-defined,unused-ignore]

    core: Any = _core
except ImportError as _error:
    core = None
    _missing = str(_error)

Choice = Literal["auto", "compiled", "readable"]
CHOICES: tuple[Choice, ...] = ("auto", "compiled", "readable")


class NoCompiledCore(RuntimeError):
    """The compiled engine was asked for and is not installed."""


Ends = tuple[tuple[str, int], tuple[str, int]]
"""Both ends of a connection, address and port, the client's first."""


class Engine(Protocol):
    """Captured bytes in, columns out. Times in ns since the epoch; no I/O, no clock."""

    name: str

    def feed_file(self, data: Any, start: int, end: int) -> int:
        """Reads whole records of a capture file from a buffer's range; returns the bytes taken.

        The rest is to be given again with what follows it. Raises BrokenCapture.
        """

    def next_file(self) -> None:
        """Begins another capture file; connections go on."""

    def feed_gor(self, data: Any, start: int, end: int, last: bool = False) -> int:
        """Reads whole records of a .gor file from a buffer's range; returns the bytes taken.

        last: nothing follows the range.
        """

    def feed_messages(self, messages: Messages) -> None:
        """Reads messages whose places are known: nothing is searched for."""

    def feed_block(self, data: Any, start: int, end: int) -> int:
        """Reads a TPACKET_V3 block; returns its packets."""

    def feed_packet(self, link: int, time_ns: int, length: int, data: bytes) -> None:
        """Reads one packet of a link type that measured `length` bytes on the wire."""

    def advance(self, now_ns: int) -> None:
        """Tells the time of a live capture, so that silence ends things too."""

    def finish(self) -> None:
        """Ends every connection; afterwards every byte is booked."""

    @property
    def rows(self) -> int:
        """Exchanges to take."""

    @property
    def message_bytes(self) -> int:
        """Bytes of messages to take."""

    @property
    def bad_records(self) -> int:
        """Records of .gor input that were none."""

    @property
    def held(self) -> tuple[int, int]:
        """Connections in the table, and bytes in all buffers."""

    @property
    def pieces(self) -> int:
        """Pieces of handed-over streams that wait to be taken."""

    def take_pieces(self) -> list[Handed]:
        """What is to be read above the engine, see `tap`."""

    def open_plain(self, connection: int, ends: Ends, alpn: bytes) -> None:
        """A connection whose plaintext will be fed: its ends, and the protocol inside (RFC 7301)."""

    def feed_plain(
        self, connection: int, server: bool, time_ns: int, data: bytes, overhead: int, packets: int
    ) -> None:
        """Reads what was handed over as this connection's plaintext.

        overhead: bytes handed over beside it, which are booked with it.
        """

    def gap_plain(self, connection: int, server: bool, length: int) -> None:
        """So many bytes of a connection's plaintext will never be seen."""

    def close_plain(self, connection: int) -> None:
        """A connection whose plaintext was fed is over."""

    def book(self, cause: str | None, count: int, exchanges: int = 0, incomplete: int = 0) -> None:
        """Books bytes that were handed over: to a cause, or to exchanges made above the engine."""

    def take_exchanges(self) -> pa.RecordBatch:
        """The finished exchanges: a batch of `exchange.BATCH_SCHEMA`."""

    def take_messages(self) -> Messages:
        """The finished messages that were asked for."""

    def account(self) -> dict[str, int]:
        """Every counter: see `account.Account.entries`."""


class CompiledEngine:
    """The same, from `core/`."""

    name = "compiled"

    def __init__(self, options: Options) -> None:
        if core is None:
            raise NoCompiledCore(f"the compiled core is not installed ({_missing})")
        self._engine = core.Engine(options.as_dict())
        self.feed_block = self._engine.feed_block
        self.feed_gor = self._engine.feed_gor
        self.feed_packet = self._engine.feed_packet
        self.next_file = self._engine.next_file
        self.advance = self._engine.advance
        self.open_plain = self._engine.open_plain
        self.feed_plain = self._engine.feed_plain
        self.finish = self._engine.finish

    def feed_file(self, data: Any, start: int, end: int) -> int:
        try:
            return int(self._engine.feed_file(data, start, end))
        except ValueError as error:
            raise BrokenCapture(*error.args) from None

    @property
    def rows(self) -> int:
        return int(self._engine.rows)

    @property
    def message_bytes(self) -> int:
        return int(self._engine.message_bytes)

    @property
    def bad_records(self) -> int:
        return int(self._engine.bad_records)

    @property
    def held(self) -> tuple[int, int]:
        connections, buffered = self._engine.held
        return int(connections), int(buffered)

    @property
    def pieces(self) -> int:
        return int(self._engine.pieces)

    def take_pieces(self) -> list[Handed]:
        (data, index) = self._engine.take_pieces()
        array = pa.Array._import_from_c_capsule(*data)
        raw = memoryview(array.buffers()[1]) if len(array) else memoryview(b"")
        columns = pa.RecordBatch._import_from_c_capsule(*index).to_pydict()
        out, start = [], 0
        for kind, connection, direction, time_ns, length, overhead, packets, end in zip(
            *columns.values(), strict=True
        ):
            seen = bytes(raw[start:end])
            out.append(Handed(kind, connection, bool(direction), time_ns, seen, length, overhead, packets))
            start = end
        return out

    def feed_messages(self, messages: Messages) -> None:
        self._engine.feed_rows(messages.gor, *messages.places())

    def gap_plain(self, connection: int, server: bool, length: int) -> None:
        self._engine.gap_plain(connection, server, length)

    def close_plain(self, connection: int) -> None:
        self._engine.close_plain(connection)

    def book(self, cause: str | None, count: int, exchanges: int = 0, incomplete: int = 0) -> None:
        self._engine.book(cause, count, exchanges, incomplete)

    def take_exchanges(self) -> pa.RecordBatch:
        return pa.RecordBatch._import_from_c_capsule(*self._engine.take_exchanges())

    def take_messages(self) -> Messages:
        return messages(*self._engine.take_messages())

    def account(self) -> dict[str, int]:
        return dict(self._engine.account())


def messages(gor: Any, index: Any) -> Messages:
    """A batch as the compiled core hands it over."""
    data = pa.Array._import_from_c_capsule(*gor)
    columns = pa.RecordBatch._import_from_c_capsule(*index)
    return Messages(
        memoryview(data.buffers()[1]).cast("B") if len(data) else b"",
        {name: columns.column(name) for name in columns.schema.names},
    )


def open_engine(options: Options, choice: Choice = "auto") -> Engine:
    """An engine. `auto` takes the compiled one where it is installed.

    Raises ValueError for a pattern that cannot be read, NoCompiledCore.
    """
    if choice == "readable" or (choice == "auto" and core is None):
        # Loaded only here: with the compiled core a command starts without it.
        from replaykit.wire.readable import ReadableEngine

        return ReadableEngine(options)
    return CompiledEngine(options)
