"""An engine with readers above it: TLS with keys, and protocol plug-ins.

Owns what happens to the streams that an engine hands over: who reads each, which rows come of it,
and that every byte is booked. It is an engine itself, so that nothing else knows the difference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from replaykit.wire import http1
from replaykit.wire.account import CONNECTION_OVERHEAD, UNPARSED, Account
from replaykit.wire.connection import Http, Sink
from replaykit.wire.engine import Ends, Engine
from replaykit.wire.exchange import Exchange, Side
from replaykit.wire.opaque import Opaque, tls_start
from replaykit.wire.options import Options
from replaykit.wire.protocol import Direction, Message, ProtocolPlugin
from replaykit.wire.stream import Offsets, Share
from replaykit.wire.tap import CLOSED, DATA, MISSING, OPENED, Handed
from replaykit.wire.tls import KeyLog, Session, Undecryptable
from replaykit.wire.upper import Context, Cost, Piece
from replaykit.wire.wrapper import Wrapper

MAX_WAITING = 256 << 10
"""Bytes of a connection that wait for their secrets before it is counted without them."""
MAX_PIPELINE = 1024


def _ends(text: bytes) -> Ends:
    client, client_port, server, server_port = text.decode().split()
    return (client, int(client_port)), (server, int(server_port))


class Layered(Wrapper):
    """`inner` with a key log and plug-ins above it. `report` is told once per broken connection."""

    def __init__(
        self,
        inner: Engine,
        options: Options,
        keys: KeyLog | None,
        plugins: Sequence[ProtocolPlugin],
        report: Callable[[str], None],
    ) -> None:
        super().__init__(inner)
        self.keys = keys
        self.plugins = plugins
        self.report = report
        # What engines do for rows, for those that are made here.
        self.sink = Sink(options)
        self._booked = Account()
        self._streams: dict[int, _Stream] = {}
        self.waiting = 0
        """Bytes of all connections that wait for their secrets."""

    def _drain(self) -> None:
        for piece in self.inner.take_pieces() if self.inner.pieces else ():
            if piece.kind == OPENED:
                self._streams[piece.connection] = _Stream(self, piece.connection, _ends(piece.data))
            elif (stream := self._streams.get(piece.connection)) is not None:
                stream.take(piece)
                if piece.kind == CLOSED:
                    del self._streams[piece.connection]
        self._book()

    def _book(self) -> None:
        """Tells the engine what was made of its bytes since the last time."""
        now, before = self.sink.account, self._booked
        for cause, count in now.causes.items():
            if count != before.causes[cause]:
                self.inner.book(cause, count - before.causes[cause])
        if now.exchanges != before.exchanges:
            self.inner.book(
                None,
                now.exchange_bytes - before.exchange_bytes,
                now.exchanges - before.exchanges,
                now.incomplete - before.incomplete,
            )
        self._booked = replace(now, causes=dict(now.causes))

    def feed_file(self, data: Any, start: int, end: int) -> int:
        taken = self.inner.feed_file(data, start, end)
        self._drain()
        return taken

    def feed_block(self, data: Any, start: int, end: int) -> int:
        packets = self.inner.feed_block(data, start, end)
        self._drain()
        return packets

    def feed_packet(self, link: int, time_ns: int, length: int, data: bytes) -> None:
        self.inner.feed_packet(link, time_ns, length, data)
        self._drain()

    def advance(self, now_ns: int) -> None:
        self.inner.advance(now_ns)
        self._drain()
        if self.keys is not None and self.keys.update():
            for stream in self._streams.values():
                stream.again()
            self._book()

    def finish(self) -> None:
        self.inner.finish()
        self._drain()

    @property
    def rows(self) -> int:
        return self.inner.rows + len(self.sink.columns)

    @property
    def held(self) -> tuple[int, int]:
        connections, buffered = self.inner.held
        return connections, buffered + self.sink.buffered

    def account(self) -> dict[str, int]:
        """The inner engine's, and what bounds cut here."""
        account = self.inner.account()
        account["bound_hits"] += self.sink.account.bound_hits
        return account

    def take_exchanges(self) -> pa.RecordBatch:
        batch = self.inner.take_exchanges()
        if not len(self.sink.columns):
            return batch
        table = pa.Table.from_batches([batch, self.sink.columns.take()])
        return table.unify_dictionaries().combine_chunks().to_batches()[0]


class _Stream:
    """One connection that was handed over: finds its reader with the first bytes."""

    def __init__(self, layers: Layered, connection: int, ends: Ends) -> None:
        self._layers, self._connection, self._ends = layers, connection, ends
        self._reader: _Tls | _Plugin | _Opaque | None = None

    def take(self, piece: Handed) -> None:
        if self._reader is None and piece.kind == DATA:
            self._reader = self._choose(piece)
        if self._reader is not None:
            self._reader = self._reader.take(piece)

    def again(self) -> None:
        """More secrets are known."""
        if isinstance(self._reader, _Tls):
            self._reader = self._reader.again()

    def _choose(self, piece: Handed) -> _Tls | _Plugin | _Opaque:
        layers, port = self._layers, self._ends[1][1]
        place = (layers, self._connection, self._ends)
        for plugin in layers.plugins:
            if port in plugin.ports:
                return _Plugin(*place, plugin)
        if layers.keys is not None and tls_start(piece.data) is not None:
            return _Tls(*place, layers.keys)
        who: Direction = "server" if piece.server else "client"
        for plugin in layers.plugins:
            if plugin.detect(who, piece.data):
                return _Plugin(*place, plugin)
        return _Opaque(*place, tls_start(piece.data) is not None)


class _Opaque:
    """Counts a connection without reading it: TLS for which there are no keys, else unparsed."""

    def __init__(self, layers: Layered, connection: int, ends: Ends, tls: bool) -> None:
        self._sink = layers.sink
        self._context = _context(layers.sink, connection, ends)
        self._opaque = Opaque(True) if tls else None

    def take(self, piece: Handed) -> _Opaque:
        if piece.kind == CLOSED:
            if self._opaque is not None:
                self._opaque.close(True, self._context, self._sink)
        elif self._opaque is None:
            if piece.kind == DATA:
                self._sink.account.add(UNPARSED, piece.length + piece.overhead)
        else:
            missing = piece.kind == MISSING
            p = Piece(piece.data, piece.length, piece.time, 0, False, missing)
            cost = Cost(piece.overhead, piece.packets)
            self._opaque.feed(piece.server, p, cost, self._context, self._sink)
        return self


def _context(sink: Sink, connection: int, ends: Ends) -> Context:
    """Makes rows of a connection that the engine knows by this number."""
    from replaykit.wire.readable import parse_address

    client, server = ((parse_address(address), port) for address, port in ends)
    return Context(Http(connection, (client, server), 0, "idle"))


class _Tls:
    """Reads a connection with the key log, and feeds what is inside back to the engine."""

    def __init__(self, layers: Layered, connection: int, ends: Ends, keys: KeyLog) -> None:
        self._layers, self._connection, self._ends = layers, connection, ends
        self._keys = keys
        self._session = Session(keys)
        # What came while a secret was missing.
        self._later: deque[tuple[bool, bytes]] = deque()
        self._offsets = (Offsets(), Offsets())
        # Until something was decrypted: to be counted without keys if it never is.
        self._waiting: list[Handed] | None = []
        self._kept = 0
        self._bound = layers.sink.options.max_buffer_bytes
        self._handshakes = 0
        self._opened = False

    def take(self, piece: Handed) -> _Tls | _Opaque:
        if piece.kind == CLOSED:
            self._keys.update()
            following = self.again()
            if following is self and (self._waiting is not None or any(o.waiting for o in self._offsets)):
                following = self._give_up()
            if following is self:
                self._layers.inner.close_plain(self._connection)
                return self
            return following.take(piece)
        if self._waiting is not None:
            self._waiting.append(piece)
            self._keep(len(piece.data))
            if self._kept > 4 * MAX_WAITING or self._layers.waiting > self._bound:
                self._layers.sink.account.bound_hits += 1
                return self._give_up()
        if piece.kind == DATA and len(piece.data) == piece.length:
            self._offsets[piece.server].add(piece.length, piece.time, piece.overhead, piece.packets)
            if self._session.blocked is not None:
                self._later.append((piece.server, piece.data))
                return self if self._offsets[piece.server].waiting <= MAX_WAITING else self._give_up()
            return self._read(piece.server, piece.data)
        if piece.kind == MISSING and self._opened:
            self._layers.inner.gap_plain(self._connection, piece.server, piece.length)
        # Records are numbered: after a hole the number is not known.
        known = self._waiting is not None
        following = self._give_up()
        return following if known else following.take(piece)

    def again(self) -> _Tls | _Opaque:
        """More secrets may be known: goes on where one was missing, in the capture's order."""
        blocked = self._session.blocked
        if blocked is None:
            return self
        following = self._read(blocked, b"")
        while following is self and self._session.blocked is None and self._later:
            following = self._read(*self._later.popleft())
        return following

    def _read(self, server: bool, data: bytes) -> _Tls | _Opaque:
        try:
            for record in self._session.feed(server, data):
                share = self._offsets[server].take(record.size)
                self._record(server, record.size, record.plain, share)
        except Undecryptable:
            return self._give_up()
        return self

    def _record(self, server: bool, size: int, plain: bytes | None, share: Share) -> None:
        layers = self._layers
        if not plain:
            self._handshakes += size + share.overhead
            if self._waiting is None:
                self._book()
            return
        if not self._opened:
            self._opened = True
            layers.inner.open_plain(self._connection, self._ends, self._session.alpn)
        if self._waiting is not None:
            self._waiting = None
            self._keep(-self._kept)
        if self._handshakes:
            self._book()
        overhead = share.overhead + size - len(plain)
        layers.inner.feed_plain(self._connection, server, share.time, plain, overhead, share.packets)

    def _keep(self, n: int) -> None:
        self._kept += n
        self._layers.waiting += n

    def _book(self) -> None:
        """Handshakes and alerts are the connection's overhead."""
        self._layers.sink.account.add(CONNECTION_OVERHEAD, self._handshakes)
        self._handshakes = 0

    def _give_up(self) -> _Opaque:
        """The rest of the connection is counted without being read."""
        layers = self._layers
        opaque = _Opaque(layers, self._connection, self._ends, True)
        if self._waiting is not None:
            # Nothing was read: all of it is the row's.
            pieces, self._waiting = self._waiting, None
            self._keep(-self._kept)
            for piece in pieces:
                opaque.take(piece)
            return opaque
        layers.inner.close_plain(self._connection)
        for server, offsets in enumerate(self._offsets):
            if left := offsets.waiting:
                share = offsets.take(left)
                opaque.take(
                    Handed(
                        DATA,
                        self._connection,
                        bool(server),
                        share.time,
                        b"",
                        left,
                        share.overhead,
                        share.packets,
                    )
                )
        return opaque


@dataclass(slots=True)
class _Waiting:
    """A request that waits for its answer."""

    x: Exchange


class _Plugin:
    """Reads a connection with a plug-in."""

    def __init__(self, layers: Layered, connection: int, ends: Ends, plugin: ProtocolPlugin) -> None:
        self._layers, self._ends = layers, ends
        self._plugin = plugin
        self._parser = plugin.parser()
        self._context = _context(layers.sink, connection, ends)
        self._offsets = (Offsets(), Offsets())
        self._waiting: deque[_Waiting] = deque()
        self._broken = False

    def take(self, piece: Handed) -> _Plugin:
        account = self._layers.sink.account
        if piece.kind == CLOSED:
            self._close()
        elif piece.kind == MISSING:
            self._break("bytes that were not captured", quiet=True)
            for waiting in self._waiting:
                waiting.x.missing += piece.length
        elif self._broken:
            account.add(UNPARSED, piece.length + piece.overhead)
        else:
            self._offsets[piece.server].add(piece.length, piece.time, piece.overhead, piece.packets)
            if len(piece.data) < piece.length:
                self._break("bytes that the snap length cut off", quiet=True)
            else:
                self._feed(piece)
        return self

    def _feed(self, piece: Handed) -> None:
        try:
            for message in self._parser.feed("server" if piece.server else "client", piece.time, piece.data):
                server = piece.server if message.direction is None else message.direction == "server"
                if not 0 < message.size <= self._offsets[server].waiting:
                    raise ValueError(f"a message of {message.size} bytes, more than there are or none")
                self._message(server, message)
        except Exception as error:
            self._break(f"{type(error).__name__}: {error}")

    def _break(self, why: str, quiet: bool = False) -> None:
        """Gives up on the connection; what was not read is counted as unparsed."""
        if not self._broken and not quiet:
            (client, client_port), (server, server_port) = self._ends
            self._layers.report(
                f"{self._plugin.name}: {client}:{client_port} to {server}:{server_port} is not read any further: {why}"
            )
        self._broken = True
        self._rest()

    def _rest(self) -> None:
        for offsets in self._offsets:
            if left := offsets.waiting:
                self._layers.sink.account.add(UNPARSED, left + offsets.take(left).overhead)

    def _message(self, server: bool, m: Message) -> None:
        share = self._offsets[server].take(m.size)
        sink = self._layers.sink
        if m.kind == "overhead":
            sink.account.add(CONNECTION_OVERHEAD, m.size + share.overhead)
            return
        answered = m.kind == "response" and self._waiting
        x = self._waiting.popleft().x if answered else self._exchange(m)
        side = Side(
            seen=True, done=True, whole=True, time=share.time, end=share.end, body=m.size, wire=m.size,
            packets=share.packets,
        )  # fmt: skip
        x.link_bytes += m.size + share.overhead
        if server:
            x.response = side
            x.status = m.status or 0
        else:
            x.request = side
        if m.kind == "request":
            self._waiting.append(_Waiting(x))
            if len(self._waiting) > MAX_PIPELINE:
                sink.account.bound_hits += 1
                self._waiting[0].x.flag(http1.PIPELINE_BOUND)
                self._context.push(self._waiting.popleft().x, sink)
            return
        if m.kind == "push":
            x.request.whole = x.response.whole = True
        self._context.push(x, sink)

    def _exchange(self, m: Message) -> Exchange:
        x = Exchange(self._context.next_position(), protocol=self._plugin.name, endpoint=m.endpoint)
        x.method, x.target = m.method.encode(), m.target.encode()
        x.denied = not self._layers.sink.filters.passes_unknown()
        return x

    def _close(self) -> None:
        self._rest()
        while self._waiting:
            self._context.push(self._waiting.popleft().x, self._layers.sink)
