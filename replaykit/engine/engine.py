"""The engine's face: captured bytes in, columns out. The engine itself is `core/`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from replaykit.core import core
from replaykit.engine.keys import KeyFeed, Keys
from replaykit.engine.options import Options
from replaykit.engine.source import BrokenCapture
from replaykit.records.message import Messages

if TYPE_CHECKING:
    from replaykit.engine.plugin_streams import PluginStreams
    from replaykit.engine.protocol import ProtocolPlugin


Ends = tuple[tuple[str, int], tuple[str, int]]
"""Both ends of a connection, address and port, the client's first."""


class Engine:
    """Captured bytes in, columns out. Times in ns since the epoch; no I/O, no clock.

    keys: asked for more before bytes are read. plugins: read the connections that `options.plugin_ports`
    names and those that are not understood; `report` is told once of a connection that one cannot read, and
    at the end if the key log was of no use. Raises ValueError for a pattern that cannot be read.
    """

    def __init__(
        self,
        options: Options,
        keys: Keys | None = None,
        plugins: Sequence[ProtocolPlugin] = (),
        report: Callable[[str], None] = print,
    ) -> None:
        self.core = self._engine = core.Engine(options)
        self._keys = KeyFeed(keys, [self.core], report)
        self._streams: PluginStreams | None = None
        if plugins:
            from replaykit.engine.plugin_streams import (
                PluginStreams,  # loaded only here: most runs start without
            )

            self._streams = PluginStreams(self._engine, plugins, report)
        self.next_file: Callable[[], None] = self._engine.next_file
        self.feed_gor: Callable[..., int] = self._engine.feed_gor
        if keys is None and not plugins:  # nothing stands between
            self.feed_block = self._engine.feed_block  # type: ignore[method-assign]
            self.feed_packet = self._engine.feed_packet  # type: ignore[method-assign]
            self.advance = self._engine.advance  # type: ignore[method-assign]
            self.finish = self._engine.finish  # type: ignore[method-assign]
        self._keys.more()

    def keep_keys_of(self, randoms: bytes) -> None:
        """Reads the key log anew and keeps only what belongs to these client randoms, each of 32 bytes."""
        self._keys.keep_of(randoms)

    def note_randoms(self) -> None:
        """Notes the client randoms of TLS connections from now on."""
        self._engine.note_randoms()

    @property
    def noted_randoms(self) -> bytes:
        """The client randoms that were noted, one after the other."""
        return bytes(self._engine.noted_randoms)

    @property
    def keys_forgotten(self) -> int:
        """TLS secrets that were forgotten for newer ones."""
        return int(self._engine.keys_forgotten)

    def _read_streams(self) -> None:
        if self._streams is not None:
            self._streams.read()

    def feed_file(self, data: Any, start: int, end: int) -> int:
        """Reads whole records of a capture file from a buffer's range; returns the bytes taken.

        The rest is to be given again with what follows it. Raises BrokenCapture.
        """
        self._keys.more()
        try:
            taken = int(self._engine.feed_file(data, start, end))
        except ValueError as error:
            raise BrokenCapture(*error.args) from None
        finally:
            self._read_streams()
        return taken

    # `next_file()` begins another capture file; connections go on.
    # `feed_gor(data, start, end, last=False)` reads whole records of a .gor file from a buffer's range;
    # returns the
    # bytes taken. last: nothing follows the range.

    def feed_messages(self, messages: Messages) -> None:
        """Reads messages whose places are known: nothing is searched for."""
        self._engine.feed_rows(messages.gor, *messages.places())

    def feed_block(self, data: Any, start: int, end: int) -> int:
        """Reads a TPACKET_V3 block; returns its packets."""
        self._keys.more()
        packets = int(self._engine.feed_block(data, start, end))
        self._read_streams()
        return packets

    def feed_packet(self, link: int, time_ns: int, length: int, data: bytes) -> None:
        """Reads one packet of a link type that measured `length` bytes on the wire."""
        self._keys.more()
        self._engine.feed_packet(link, time_ns, length, data)
        self._read_streams()

    def advance(self, now_ns: int) -> None:
        """Tells the time of a live capture, so that silence ends things too."""
        self._keys.more()
        self._engine.advance(now_ns)
        self._read_streams()

    def finish(self) -> None:
        """Ends every connection; afterwards every byte is booked."""
        self._keys.more()
        self._engine.finish()
        self._read_streams()
        self._keys.judge()

    def open_stream(self, connection: int, ends: Ends) -> None:
        """A stream whose bytes are fed as they are, without packets."""
        self._engine.open_stream(connection, ends)

    def feed_stream(self, connection: int, server: bool, time_ns: int, data: bytes) -> None:
        """Bytes of a stream, in order."""
        self._engine.feed_stream(connection, server, time_ns, data)

    def close_stream(self, connection: int) -> None:
        """Both sides of a stream have ended."""
        self._engine.close_stream(connection)

    @property
    def rows(self) -> int:
        """Exchanges to take."""
        return int(self._engine.rows)

    @property
    def message_bytes(self) -> int:
        """Bytes of messages to take."""
        return int(self._engine.message_bytes)

    @property
    def bad_records(self) -> int:
        """Records of .gor input that were none."""
        return int(self._engine.bad_records)

    @property
    def held(self) -> tuple[int, int]:
        """Connections in the table, and bytes in all buffers."""
        connections, buffered = self._engine.held
        return int(connections), int(buffered)

    @property
    def keys(self) -> tuple[int, int]:
        """TLS secrets that were read, and connections that were read with them."""
        secrets, connections = self._engine.keys
        return int(secrets), int(connections)

    def take_exchanges(self) -> pa.RecordBatch:
        """The finished exchanges: a batch of `exchange.BATCH_SCHEMA`; with slices, also their numbers
        (`increment.NUMBER`).
        """
        return pa.RecordBatch._import_from_c_capsule(*self._engine.take_exchanges())

    @property
    def increments(self) -> int:
        """Increments to take."""
        return int(self._engine.increments)

    def take_increments(self) -> pa.RecordBatch:
        """What exchanges moved in slices before the one in which they ended, and in that: a batch of
        `increment.BATCH_SCHEMA`.
        """
        return pa.RecordBatch._import_from_c_capsule(*self._engine.take_increments())

    def in_flight(self) -> pa.RecordBatch:
        """Every exchange in flight with what it has moved until now, as a batch of
        `exchange.BATCH_SCHEMA`.
        """
        return pa.RecordBatch._import_from_c_capsule(*self._engine.in_flight())

    def take_messages(self) -> Messages:
        """The finished messages that were asked for."""
        return messages(*self._engine.take_messages())

    def account(self) -> dict[str, int]:
        """Every counter: bytes by cause, exchanges, connections, what bounds cut."""
        return dict(self._engine.account())


def messages(gor: Any, index: Any) -> Messages:
    """A batch as the core hands it over."""
    data = pa.Array._import_from_c_capsule(*gor)
    columns = pa.RecordBatch._import_from_c_capsule(*index)
    return Messages(
        memoryview(data.buffers()[1]).cast("B") if len(data) else b"",
        {name: columns.column(name) for name in columns.schema.names},
    )
