"""The readable engine: the specification, in plain Python. `engine.Engine` describes its methods."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from replaykit.wire import link, source
from replaykit.wire.account import GAP
from replaykit.wire.connection import Chunks, Http, Sink
from replaykit.wire.envelope import Vxlan
from replaykit.wire.gor import Conversations
from replaykit.wire.message import Builder, Messages
from replaykit.wire.options import Options
from replaykit.wire.tap import Handed
from replaykit.wire.tcp import Table

if TYPE_CHECKING:
    from replaykit.wire.engine import Ends


class ReadableEngine:
    """The specification, in plain Python."""

    name = "readable"

    def __init__(self, options: Options) -> None:
        self._decoder = link.Decoder(Vxlan(options.vxlan_ports, options.vxlan_vnis))
        self._table = Table(options.ports, options.first_connection)
        self._sink = Sink(options)
        self._file = source.File()
        self._conversations = Conversations()
        self._plain: dict[int, Http] = {}

    def next_file(self) -> None:
        self._file = source.File()

    def feed_file(self, data: Any, start: int, end: int) -> int:
        view = memoryview(data)[start:end]
        at = 0
        while (step := self._file.step(view, at)) is not None:
            record, at = step
            if record is not None:
                frame = bytes(view[record.start : record.end])
                self._packet(link.network(record.link, frame), record.time, record.orig, frame)
        self._file.offset += at
        return at

    def feed_gor(self, data: Any, start: int, end: int, last: bool = False) -> int:
        return self._conversations.feed(bytes(memoryview(data)[start:end]), last, self._sink)

    def feed_messages(self, messages: Messages) -> None:
        self._conversations.feed_rows(messages, self._sink)

    @property
    def bad_records(self) -> int:
        return self._conversations.bad

    def feed_block(self, data: Any, start: int, end: int) -> int:
        view = memoryview(data)[start:end]
        n = 0
        for record, ethertype, network in source.ring_block(view):
            frame = bytes(view[record.start : record.end])
            self._packet((ethertype, network), record.time, record.orig, frame)
            n += 1
        return n

    def feed_packet(self, link_type: int, time_ns: int, length: int, data: bytes) -> None:
        self._packet(link.network(link_type, data), time_ns, max(length, len(data)), data)

    def _packet(self, entry: tuple[int, int] | None, time: int, orig: int, frame: bytes) -> None:
        account = self._sink.account
        account.packets += 1
        account.bytes += orig
        decoded = self._decoder.decode(entry, time, orig, frame)
        while isinstance(decoded, link.Whole):  # what it carries may be in fragments again
            orig = decoded.size
            decoded = self._decoder.inside(decoded, time)
        if isinstance(decoded, link.Segment):
            self._table.segment(decoded, self._sink)
        elif isinstance(decoded, str):
            account.add(decoded, orig)
        self._book_lost()

    def _book_lost(self) -> None:
        self._sink.account.add(GAP, self._decoder.lost)
        self._decoder.lost = 0

    def advance(self, now_ns: int) -> None:
        self._table.advance(now_ns, self._sink)

    def finish(self) -> None:
        self._table.finish(self._sink)
        self._conversations.finish(self._sink)
        self._decoder.finish()
        self._book_lost()

    @property
    def rows(self) -> int:
        return len(self._sink.columns)

    @property
    def message_bytes(self) -> int:
        return len(self._sink.messages.gor)

    @property
    def held(self) -> tuple[int, int]:
        return self._table.live(), self._sink.buffered

    @property
    def pieces(self) -> int:
        return len(self._sink.pieces)

    def take_pieces(self) -> list[Handed]:
        taken, self._sink.pieces = self._sink.pieces, []
        return taken

    def open_plain(self, connection: int, ends: Ends, alpn: bytes) -> None:
        client, server = ((parse_address(address), port) for address, port in ends)
        http = self._plain[connection] = Http(connection, (client, server), 0, "idle")
        http.secure(alpn)

    def feed_plain(
        self, connection: int, server: bool, time_ns: int, data: bytes, overhead: int, packets: int
    ) -> None:
        if (http := self._plain.get(connection)) is not None:
            chunks = Chunks(data, len(data), time_ns, 0, None, overhead, packets)
            http.feed(int(server), chunks, self._sink)

    def gap_plain(self, connection: int, server: bool, length: int) -> None:
        if (http := self._plain.get(connection)) is not None:
            http.gap(int(server), 0, length, self._sink)

    def close_plain(self, connection: int) -> None:
        if (http := self._plain.pop(connection, None)) is not None:
            for d in (0, 1):
                http.end(d, self._sink)
            http.close(False, self._sink)

    def book(self, cause: str | None, count: int, exchanges: int = 0, incomplete: int = 0) -> None:
        account = self._sink.account
        if cause is None:
            account.exchange_bytes += count
        else:
            account.add(cause, count)
        account.exchanges += exchanges
        account.incomplete += incomplete

    def take_exchanges(self) -> pa.RecordBatch:
        return self._sink.columns.take()

    def take_messages(self) -> Messages:
        built, self._sink.messages = self._sink.messages, Builder()
        return built.messages()

    def account(self) -> dict[str, int]:
        return self._sink.account.entries()


def parse_address(text: str) -> link.Addr:
    address = ip_address(text)
    return address.version, int(address)
