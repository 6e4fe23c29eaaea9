"""A month on a simulated clock, and what is used in it, told without the project's own calendar."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

ZONE = ZoneInfo("Europe/Berlin")


class Month:
    """October 2026 in Berlin, where the clock is put back on the 25th, and the day after it.

    step_s: divides an hour.
    """

    begin = int(datetime(2026, 10, 1, tzinfo=ZONE).timestamp())
    end = int(datetime(2026, 11, 2, tzinfo=ZONE).timestamp())

    def __init__(self, step_s: int) -> None:
        self.step_s = step_s
        self._used: dict[tuple[str, str], int] = {}

    def steps(self) -> Iterator[tuple[int, int]]:
        """Their numbers, and the times at which they end."""
        return enumerate(range(self.begin + self.step_s, self.end, self.step_s), 1)

    def moves(self, subject: str, at: int, size: int) -> None:
        """In the step that ends then."""
        for period in ("hour", "day", "month"):
            key = subject, self._bucket(period, at - self.step_s)
            self._used[key] = self._used.get(key, 0) + size

    def used(self, subject: str, period: str, at: int) -> int:
        """In the hour, day or month that holds this moment."""
        return self._used.get((subject, self._bucket(period, at)), 0)

    def hours(self, subject: str) -> list[int]:
        """Each hour's sum, in which anything was moved, in order; 25 of them on one day."""
        return [
            n for (who, bucket), n in sorted(self._used.items()) if who == subject and bucket[0] == "h" and n
        ]

    @staticmethod
    def _bucket(period: str, at: int) -> str:
        if period == "hour":
            return f"h{at // 3600}"
        day = datetime.fromtimestamp(at, ZONE)
        return f"d{day:%Y-%m-%d}" if period == "day" else f"m{day:%Y-%m}"

    @staticmethod
    def day(at: int) -> int:
        """Of the month, when it began a second before."""
        return (datetime.fromtimestamp(at, ZONE) - timedelta(seconds=1)).day
