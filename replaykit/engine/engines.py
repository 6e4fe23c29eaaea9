"""Several engines that read capture files together: a dealer walks the packets, each connection is one
engine's.

What comes out is what one engine gives, connections' numbers and the order apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from replaykit.core import core
from replaykit.engine.engine import Engine, messages
from replaykit.engine.keys import KeyFeed, Keys
from replaykit.engine.options import Options
from replaykit.engine.source import BrokenCapture
from replaykit.records.message import Messages


class Engines:
    """`count` engines. `Engine` describes the methods, keys and report; exchanges are taken of each of `all`.

    Raises ValueError for a pattern that cannot be read.
    """

    def __init__(
        self, options: Options, count: int, keys: Keys | None = None, report: Callable[[str], None] = print
    ) -> None:
        shared = replace(
            options,
            max_connections=max(options.max_connections // count, 1),
            max_buffer_bytes=max(options.max_buffer_bytes // count, 1),
        )
        self.all: Sequence[Engine] = [
            Engine(replace(shared, first_connection=(i << 48) + options.first_connection))
            for i in range(count)
        ]
        self._cores = [engine.core for engine in self.all]
        self._dealer = core.Dealer(options)
        self._keys = KeyFeed(keys, self._cores, report)
        self.next_file: Callable[[], None] = self._dealer.next_file
        self.feed_gor: Callable[..., int] = self.all[0].feed_gor
        self._keys.more()

    def keep_keys_of(self, randoms: bytes) -> None:
        self._keys.keep_of(randoms)

    @property
    def keys_forgotten(self) -> int:
        return self.all[0].keys_forgotten

    def feed_file(self, data: Any, start: int, end: int) -> int:
        self._keys.more()
        try:
            return int(self._dealer.feed_file(self._cores, data, start, end))
        except ValueError as error:
            raise BrokenCapture(*error.args) from None

    def finish(self) -> None:
        self._keys.more()
        self._dealer.finish()
        for engine in self.all:
            engine.finish()
        self._keys.judge()

    @property
    def bad_records(self) -> int:
        return self.all[0].bad_records

    @property
    def message_bytes(self) -> int:
        return sum(engine.message_bytes for engine in self.all)

    def take_messages(self) -> Messages:
        """Of all engines, those of one in their order, by time."""
        return messages(*core.merged_messages(self._cores))

    def account(self) -> dict[str, int]:
        total = Counter(self._dealer.account())
        for engine in self.all:
            total.update(engine.account())
        return dict(total)
