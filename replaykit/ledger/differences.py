"""Readings to differences: what counters moved since they were last read, and where readings were missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from replaykit.ledger import schema
from replaykit.ledger.selection import Key
from replaykit.ledger.sums import is_later, joined, moved, since_when, spread
from replaykit.records.usage import COUNTERS, Reading

Stand = tuple[int, str, tuple[int, ...]]
"""Time and epoch of a counter's last reading, and what it stood at."""
_NOTHING = (0,) * len(COUNTERS)


@dataclass(slots=True)
class Differences:
    """What readings come to. Counters are known by the subject's number and a digest of their name."""

    deltas: list[tuple[int, ...]] = field(default_factory=list)
    """Rows of minutes: time, subject, source, seconds, and what each of COUNTERS moved."""
    stands: dict[tuple[int, str], Stand] = field(default_factory=dict)
    """Where counters stand now; of those that were counted."""
    gaps: dict[tuple[int, int], int] = field(default_factory=dict)
    """Until when there was no reading, by subject and since when."""
    new: int = 0
    repeated: int = 0


def differences(
    readings: Sequence[Reading],
    subjects: Mapping[Key, int],
    last: Mapping[tuple[int, str], Stand],
    *,
    source: int,
    oldest: int,
    longest: float | None,
) -> Differences:
    """last: where counters stood. oldest: nothing is given to minutes before. longest: a span without a
    reading that is longer is a gap; None: none is.
    """
    found, stood = Differences(), dict(last)
    for reading in readings:
        who = subjects[reading.vantage, reading.subject_kind, reading.subject]
        key, values = (who, schema.digest(reading.counter)), reading.counters()
        time, epoch, before = stood.get(key, (None, reading.epoch, _NOTHING if reading.fresh else values))
        if time is not None and not is_later(reading, time, epoch, before):
            found.repeated += 1
            continue
        found.new += 1
        stood[key] = found.stands[key] = (reading.time, reading.epoch, values)
        since = since_when(reading, time, epoch == reading.epoch)
        whose = (who, *(subjects[reading.vantage, kind, name] for kind, name, _ in reading.also))
        silent = longest is not None and reading.time - since > longest
        if time is not None and silent and not reading.steady:
            found.gaps |= dict.fromkeys(((w, since) for w in whose), reading.time)
        difference = moved(before, values, epoch == reading.epoch)
        if any(difference):
            found.deltas += [
                (max(minute, oldest), w, source, 60, *part)
                for minute, part in spread(since, reading.time, difference)
                for w in whose
            ]
    found.deltas = joined(found.deltas, 4)
    return found
