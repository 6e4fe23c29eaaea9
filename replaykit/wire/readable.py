"""The readable engine: the specification, in plain Python. `engine.Engine` describes its methods."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from replaykit.wire import link, source
from replaykit.wire.account import GAP
from replaykit.wire.connection import Sink
from replaykit.wire.envelope import Vxlan
from replaykit.wire.gor import Conversations
from replaykit.wire.message import Builder, Messages
from replaykit.wire.options import Options
from replaykit.wire.tcp import Table


class ReadableEngine:
    """The specification, in plain Python."""

    name = "readable"

    def __init__(self, options: Options) -> None:
        self._decoder = link.Decoder(Vxlan(options.vxlan_ports, options.vxlan_vnis))
        self._table = Table(options.ports, options.first_connection)
        self._sink = Sink(options)
        self._file = source.File()
        self._conversations = Conversations()

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

    def feed_gor(self, data: Any, start: int, end: int) -> int:
        return self._conversations.feed(bytes(memoryview(data)[start:end]), self._sink)

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

    def take_exchanges(self) -> pa.RecordBatch:
        return self._sink.columns.take()

    def take_messages(self) -> Messages:
        built, self._sink.messages = self._sink.messages, Builder()
        return built.messages()

    def account(self) -> dict[str, int]:
        return self._sink.account.entries()
