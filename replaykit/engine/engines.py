"""Several engines that read capture files together: a dealer walks the packets, each connection is one engine's.

What comes out is what one engine gives, connections' numbers and the order apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from replaykit.core import core
from replaykit.engine.engine import Engine, Keys, judge_keys, messages
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
        self._keys, self._report = keys, report
        self.next_file: Callable[[], None] = self._dealer.next_file
        self.feed_gor: Callable[..., int] = self.all[0].feed_gor
        self._more_keys()

    def _more_keys(self) -> None:
        if self._keys is not None:
            while (found := self._keys.read()) is not None:
                for engine in self._cores:
                    engine.add_keys(*found)

    def keep_keys_of(self, randoms: bytes) -> None:
        if self._keys is not None:
            for engine in self._cores:
                engine.keep_keys_of(randoms)
            self._keys.rewind()
            self._more_keys()

    @property
    def keys_forgotten(self) -> int:
        return self.all[0].keys_forgotten

    def feed_file(self, data: Any, start: int, end: int) -> int:
        self._more_keys()
        try:
            return int(self._dealer.feed_file(self._cores, data, start, end))
        except ValueError as error:
            raise BrokenCapture(*error.args) from None

    def finish(self) -> None:
        self._more_keys()
        self._dealer.finish()
        for engine in self.all:
            engine.finish()
        if self._keys is not None:
            known = [engine.keys for engine in self.all]
            judge_keys(self._keys, known[0][0], sum(connections for _, connections in known), self._report)

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
