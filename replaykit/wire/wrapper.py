"""An engine around another: what does not differ is the inner one's."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from replaykit.wire.engine import Ends, Engine
from replaykit.wire.message import Messages
from replaykit.wire.tap import Handed


class Wrapper:
    """Everything goes to `inner`; `engine.Engine` describes the methods."""

    def __init__(self, inner: Engine) -> None:
        self.inner = inner
        self.name = inner.name

    def next_file(self) -> None:
        self.inner.next_file()

    def feed_file(self, data: Any, start: int, end: int) -> int:
        return self.inner.feed_file(data, start, end)

    def feed_gor(self, data: Any, start: int, end: int, last: bool = False) -> int:
        return self.inner.feed_gor(data, start, end, last)

    def feed_messages(self, messages: Messages) -> None:
        self.inner.feed_messages(messages)

    def feed_block(self, data: Any, start: int, end: int) -> int:
        return self.inner.feed_block(data, start, end)

    def feed_packet(self, link: int, time_ns: int, length: int, data: bytes) -> None:
        self.inner.feed_packet(link, time_ns, length, data)

    def advance(self, now_ns: int) -> None:
        self.inner.advance(now_ns)

    def finish(self) -> None:
        self.inner.finish()

    @property
    def rows(self) -> int:
        return self.inner.rows

    @property
    def message_bytes(self) -> int:
        return self.inner.message_bytes

    @property
    def bad_records(self) -> int:
        return self.inner.bad_records

    @property
    def held(self) -> tuple[int, int]:
        return self.inner.held

    @property
    def pieces(self) -> int:
        return self.inner.pieces

    def take_pieces(self) -> list[Handed]:
        return self.inner.take_pieces()

    def open_plain(self, connection: int, ends: Ends, alpn: bytes) -> None:
        self.inner.open_plain(connection, ends, alpn)

    def feed_plain(
        self, connection: int, server: bool, time_ns: int, data: bytes, overhead: int, packets: int
    ) -> None:
        self.inner.feed_plain(connection, server, time_ns, data, overhead, packets)

    def gap_plain(self, connection: int, server: bool, length: int) -> None:
        self.inner.gap_plain(connection, server, length)

    def close_plain(self, connection: int) -> None:
        self.inner.close_plain(connection)

    def book(self, cause: str | None, count: int, exchanges: int = 0, incomplete: int = 0) -> None:
        self.inner.book(cause, count, exchanges, incomplete)

    def take_exchanges(self) -> pa.RecordBatch:
        return self.inner.take_exchanges()

    def take_messages(self) -> Messages:
        return self.inner.take_messages()

    def account(self) -> dict[str, int]:
        return self.inner.account()
