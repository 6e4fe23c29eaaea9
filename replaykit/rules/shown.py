"""What rules did, in words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from replaykit.ledger.done import Entry
from replaykit.rules.limits import Verdict
from replaykit.units import show_set

TOP = 5


def top(verdict: Verdict, found: Sequence[Verdict]) -> list[dict[str, Any]]:
    """The largest that the same rule looks at, as `replaykit.rules.notify` shows them."""
    same = sorted((v for v in found if v.rule is verdict.rule), key=lambda v: -v.used)
    whole = sum(v.used for v in same) or 1
    return [{"endpoint": v.subject.name, "bytes": v.used, "share": v.used / whole} for v in same[:TOP]]


def show(entry: Entry) -> str:
    """One line."""
    value = f" {value_in_words(entry.action, entry.value)}" if entry.value else ""
    error = f": {entry.error}" if entry.error else ""
    return (
        f"{entry.rule}: {entry.kind} {entry.subject}: {entry.action}{value} {entry.outcome}"
        f" ({entry.reason}){error}"
    )


def value_in_words(action: str, value: str) -> str:
    """A rate as people set it; the ledger keeps it in bytes a second."""
    return f"{show_set(int(value))}/s" if action == "rate_limit" and value.isdecimal() else value


def iso(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
