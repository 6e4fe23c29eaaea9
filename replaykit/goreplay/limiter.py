"""A share or a rate of messages, as GoReplay's `|10%` and `|100`.

A response shares the fate of its request, so what passes can be paired.
"""

from __future__ import annotations

import random
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from replaykit.errors import UsageError
from replaykit.records.message import Messages

MAX_KNOWN = 100_000


def split_limit(text: str) -> tuple[str, str | None]:
    """`target|10%` in its parts."""
    target, bar, limit = text.partition("|")
    return target, limit.partition("|")[0] if bar else None


def parse_percent(text: str) -> float | None:
    """The percentage, None where the limit is a number. Raises UsageError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(%?)", text.strip())
    if match is None:
        raise UsageError(f"|{text}: write a share such as |10% or messages a second such as |100")
    return float(match[1]) if match[2] else None


class Fates:
    """What was decided for requests, for their responses; bounded."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, int] = OrderedDict()

    def of(self, kind: int, identifier: bytes, decide: Callable[[], int]) -> int:
        if kind != 1:
            known = self._known.get(identifier)
            return decide() if known is None else known
        fate = self._known[identifier] = decide()
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return fate


class Limiter:
    """text: `10%` or `100`. `dropped`: messages that did not pass. Raises UsageError."""

    def __init__(
        self,
        text: str,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._percent = parse_percent(text)
        self._most = int(float(text.strip().rstrip("%")))
        self._clock, self._chance = clock, chance
        self._begun = clock()
        self._passed = 0
        self._fates = Fates()
        self.dropped = 0

    def _decide(self) -> int:
        if self._percent is not None:
            return int(self._chance() * 100 < self._percent)
        now = self._clock()
        if now - self._begun >= 1:
            self._begun, self._passed = now, 0
        if self._passed >= self._most:
            return 0
        self._passed += 1
        return 1

    def __call__(self, messages: Messages) -> Messages:
        """The messages that pass."""
        fates = zip(messages.index["kind"].tolist(), messages.ids(), strict=True)
        rows = [i for i, (kind, name) in enumerate(fates) if self._fates.of(kind, name, self._decide)]
        self.dropped += len(messages) - len(rows)
        return messages.pick(rows)


def limited(texts: Sequence[str]) -> list[tuple[str, Limiter | None]]:
    """Targets, each with the limit that stands behind it. Raises UsageError."""
    parts = map(split_limit, texts)
    return [(target, None if limit is None else Limiter(limit)) for target, limit in parts]


def speed(limit: str | None) -> tuple[float, Limiter | None]:
    """A percentage is a speed for files and Kafka, a number a limit. Raises UsageError."""
    if limit is None:
        return 1.0, None
    percent = parse_percent(limit)
    if percent is None:
        return 1.0, Limiter(limit)
    if percent <= 0:
        raise UsageError(f"gor: |{limit}: a speed is above 0%")
    return percent / 100, None
