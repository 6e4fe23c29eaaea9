"""What a vantage says of its subjects beside what they moved: when last, what their limits stand at, why they
are refused.

Kept among the ledger's notes, one a subject, so that other programs can tell and a restart goes on from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from replaykit.ledger import schema
from replaykit.ledger.selection import Key
from replaykit.ledger.store import Ledger

_PREFIX = "state "


@dataclass(frozen=True, slots=True)
class State:
    """at, last_update: seconds since the epoch (last_update 0: never). limits, refusals: a sentence each."""

    vantage: str
    kind: str
    name: str
    at: int
    last_update: int = 0
    limits: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        return self.vantage, self.kind, self.name


def keep(ledger: Ledger, states: Iterable[State]) -> None:
    """Raises UsageError."""
    ledger.note_all({_PREFIX + schema.digest(*s.key): json.dumps(asdict(s)) for s in states})


def kept(ledger: Ledger) -> dict[Key, State]:
    """As they were kept last. Raises UsageError."""
    found = {}
    for text in ledger.notes(_PREFIX).values():
        values = json.loads(text)
        for name in ("limits", "refusals"):
            values[name] = tuple(values[name])
        state = State(**values)
        found[state.key] = state
    return found
