"""Records of .gor on the move: read, judged by rules, put in order of time, handed out in batches.

Owns reading of whole records from any bytes, the fate of responses (they share their request's), and
the order: within a batch, and by `depth` records held back across batches. Memory is bounded by the
bytes fed at a time, the records held back, and a bounded table of denied requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from replaykit.core import core
from replaykit.engine.engine import messages as engine_messages
from replaykit.engine.rewriting import Rules
from replaykit.errors import UsageError
from replaykit.records.message import Messages


@dataclass
class Counts:
    """Of what was fed. bad: records that are none. disordered: older than one before them."""

    records: int = 0
    requests: int = 0
    denied: int = 0
    bad: int = 0
    disordered: int = 0
    denied_requests: int = 0


class Records:
    """Bytes of .gor in, batches of messages out. Raises ValueError for a pattern that cannot be read.

    `feed(data, start, end, last=False)` reads whole records of a buffer's range; returns the bytes taken.
    last: nothing follows the range.
    """

    def __init__(self, rules: Rules, depth: int) -> None:
        self._records = core.Records(rules, depth)
        self.feed: Callable[..., int] = self._records.feed

    def feed_messages(self, messages: Messages) -> None:
        """Takes messages whose places are known: nothing is searched for."""
        self._records.feed_rows(messages.gor, *messages.places())

    @property
    def rows(self) -> int:
        """Records to take, held back or not."""
        return int(self._records.rows)

    @property
    def bytes(self) -> int:
        """Their bytes."""
        return int(self._records.bytes)

    def counts(self) -> Counts:
        """Of all that was fed."""
        return Counts(*self._records.counts())

    def take(self, last: bool) -> Messages:
        """In order of time; all but `depth` records unless it is the last batch."""
        return engine_messages(*self._records.take_messages(last))


def open_records(rules: Rules, depth: int = 0) -> Records:
    """Raises UsageError for a pattern that cannot be read."""
    try:
        return Records(rules, depth)
    except ValueError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines() if line.strip(" ^"))
        raise UsageError(f"a rule's regular expression cannot be read: {reason}") from None


def through(records: Records, messages: Messages) -> Messages:
    """A batch through rules: what passes, as it is now."""
    records.feed_messages(messages)
    return records.take(True)
