"""Connections that protocol plug-ins read: the ordered bytes go to a plug-in, its messages back to the
engine.

Owns the choice of the plug-in for a connection and what ends its reading. Rows and bytes are the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from replaykit.engine.protocol import Direction, Parser, ProtocolPlugin

_OPENED, _DATA, _MISSING, _CLOSED = range(4)


@dataclass(frozen=True, slots=True)
class Piece:
    """In-order bytes of one side, as far as they were captured, of `length` that were sent; or another event.

    Of _OPENED, data is both ends as text, the client's first: address, port, address, port.
    """

    kind: int
    connection: int
    side: Direction
    time_ns: int
    data: bytes
    length: int


class PluginStreams:
    """`core`: the compiled engine. `report` is told once of a connection that cannot be read."""

    def __init__(self, core: Any, plugins: Sequence[ProtocolPlugin], report: Callable[[str], None]) -> None:
        self._core, self._plugins, self._report = core, plugins, report
        self._streams: dict[int, _Stream] = {}

    def read(self) -> None:
        """Gives the plug-ins what has come since the last time."""
        if not self._core.pieces:
            return
        for piece in self._pieces():
            if piece.kind == _OPENED:
                self._streams[piece.connection] = _Stream(piece.connection, piece.data.decode())
                continue
            stream = self._streams[piece.connection]
            if piece.kind == _CLOSED:
                self._core.plugin_close(piece.connection)
                del self._streams[piece.connection]
            elif piece.kind == _MISSING:
                self._give_up(stream, missing=piece.length)
            else:
                self._data(stream, piece)

    def _pieces(self) -> Iterator[Piece]:
        data, index = self._core.take_pieces()
        array = pa.Array._import_from_c_capsule(*data)
        raw = memoryview(array.buffers()[1]) if len(array) else memoryview(b"")
        columns = pa.RecordBatch._import_from_c_capsule(*index).to_pydict()
        start = 0
        for kind, connection, direction, time_ns, length, end in zip(*columns.values(), strict=True):
            side: Direction = "server" if direction else "client"
            yield Piece(kind, connection, side, time_ns, bytes(raw[start:end]), length)
            start = end

    def _data(self, stream: _Stream, piece: Piece) -> None:
        if stream.plugin is None and not stream.broken:
            self._choose(stream, piece)
        if stream.broken:
            self._core.plugin_rest(stream.connection)
        elif len(piece.data) < piece.length:
            self._give_up(stream)  # the snap length cut them off
        else:
            self._feed(stream, piece)

    def _choose(self, stream: _Stream, piece: Piece) -> None:
        by_port = (p for p in self._plugins if stream.server_port in p.ports)
        by_bytes = (p for p in self._plugins if p.detect(piece.side, piece.data))
        stream.plugin = next(by_port, None) or next(by_bytes, None)
        if stream.plugin is None:
            stream.broken = True
        else:
            stream.parser = stream.plugin.parser()

    def _feed(self, stream: _Stream, piece: Piece) -> None:
        assert stream.plugin is not None and stream.parser is not None
        number = self._plugins.index(stream.plugin)
        try:
            for m in stream.parser.feed(piece.side, piece.time_ns, piece.data):
                server = (m.direction or piece.side) == "server"
                if not self._core.plugin_message(stream.connection, server, m, number):
                    raise ValueError(f"a message of {m.size} bytes, more than there are or none")
        except Exception as error:
            self._report(
                f"{stream.plugin.name}: {stream.ends} is not read any further: {type(error).__name__}:"
                f" {error}"
            )
            self._give_up(stream)

    def _give_up(self, stream: _Stream, missing: int = 0) -> None:
        stream.broken = True
        stream.parser = None
        self._core.plugin_give_up(stream.connection, missing)


class _Stream:
    def __init__(self, connection: int, described: str) -> None:
        client, client_port, server, server_port = described.split()
        self.connection = connection
        self.ends = f"{client}:{client_port} to {server}:{server_port}"
        self.server_port = int(server_port)
        self.plugin: ProtocolPlugin | None = None
        self.parser: Parser | None = None
        self.broken = False
