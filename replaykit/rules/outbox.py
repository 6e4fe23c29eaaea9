"""What waits to be told, or to be done once: in its order, tried again while it fails, given up after a day.

Owns when something is tried and when it is over. Who has it waiting keeps it, and notes each attempt at once,
so that a crash repeats at most the one that was under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from replaykit.errors import UsageError
from replaykit.rules.actions import Action

GIVE_UP_S = 86_400


@dataclass(frozen=True, eq=False)
class Waiting:
    """lane: what is in one is done in its order, and waits behind what failed. since: seconds since the
    epoch.
    """

    action: Action
    event: Mapping[str, Any]
    since: float
    lane: str


@dataclass(frozen=True)
class Tried:
    """error: "" where it is done. over: it waits no longer, since it is done or given up."""

    what: Waiting
    error: str
    over: bool


def attempts(waiting: Iterable[Waiting], do: Callable[[Waiting], None], now: float) -> Iterator[Tried]:
    """Each once, unless one before it in its lane failed. do: raises UsageError or OSError where it was not
    done.
    """
    stuck: set[str] = set()
    for one in waiting:
        if one.lane in stuck:
            continue
        error = ""
        try:
            do(one)
        except (UsageError, OSError) as raised:
            error = str(raised) or type(raised).__name__
            stuck.add(one.lane)
        yield Tried(one, error, not error or now - one.since >= GIVE_UP_S)
