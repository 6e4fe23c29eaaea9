"""When each message is due: the recorded pace, a factor of it, a rate, a ramp, or as fast as possible.

Owns the schedule, which knows nothing of the target: what is due is due, however slow that is (open
loop). `due` gives times in ns from the beginning, for messages recorded at `times` (ns); only `Flat`
gives None, and the sender's own bound sets the pace.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from replaykit.errors import UsageError


class Recorded:
    """The recorded pace times `speed`; no wait is longer than `max_wait_ns`."""

    def __init__(self, speed: float = 1.0, max_wait_ns: int | None = None) -> None:
        self._factor = 1 / speed
        self._most = max_wait_ns
        self._last: int | None = None
        self._at = 0.0

    def due(self, times: Sequence[int]) -> list[int] | None:
        if not times:
            return []
        if self._last is None:
            self._last = times[0]
        out, factor, most = [], self._factor, self._most
        last, at = self._last, self._at
        for time in times:
            if time > last:
                wait = (time - last) * factor
                at += wait if most is None or wait < most else most
                last = time
            out.append(int(at))
        self._last, self._at = last, at
        return out

    def again(self) -> None:
        """The next message begins the recording anew."""
        self._last = None


class Rate:
    """So many a second, evenly; with `to`, the rate grows or shrinks to it over `ramp_s` seconds."""

    def __init__(self, per_second: float, to: float | None = None, ramp_s: float = 0.0) -> None:
        self._from, self._to, self._ramp = per_second, per_second if to is None else to, ramp_s
        self._count = 0

    def due(self, times: Sequence[int]) -> list[int] | None:
        begin = self._count
        self._count += len(times)
        return [int(self._when(n) * 1e9) for n in range(begin, self._count)]

    def _when(self, n: int) -> float:
        """Seconds until n messages are due: the inverse of the rate's integral."""
        if self._ramp < 1e-9:
            return n / self._to
        during = (self._from + self._to) / 2 * self._ramp
        if n >= during:
            return self._ramp + (n - during) / self._to
        grows = (self._to - self._from) / (2 * self._ramp)
        if abs(grows) < 1e-12:
            return n / self._from
        return (math.sqrt(self._from**2 + 4 * grows * n) - self._from) / (2 * grows)

    def again(self) -> None:
        """A rate does not begin anew."""


class Flat:
    """As fast as possible."""

    def due(self, times: Sequence[int]) -> list[int] | None:
        return None

    def again(self) -> None:
        """There is nothing to begin anew."""


AnyPace = Recorded | Rate | Flat


def parse_speed(text: str) -> float | None:
    """`2x`, `50%`, `1.5`; None for max. Raises UsageError."""
    if text == "max":
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(x|%)?", text)
    factor = float(match[1]) / (100 if match[2] == "%" else 1) if match else 0.0
    if factor <= 0:
        raise UsageError(f"--speed {text}: write 1x, 2x, 50% or max")
    return factor
