"""What came of a replay: counts, errors by kind, latency and lag.

Latencies are kept in an HDR histogram (three digits); they run from the time a request was due, so a
target that stalls is not flattered (no coordinated omission). The histogram is fed when it is read:
meanwhile equal values share a counter.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hdrh.histogram import HdrHistogram

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)
_MOST_US = 3_600_000_000
_FLUSH = 10_000


class Times:
    """Durations in ns, counted in µs."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, _MOST_US, 3)
        self._recent: dict[int, int] = {}

    def add(self, ns: int) -> None:
        us = ns // 1000
        recent = self._recent
        recent[us] = recent.get(us, 0) + 1
        if len(recent) > _FLUSH:
            self._feed()

    def _feed(self) -> None:
        for us, count in self._recent.items():
            self._histogram.record_value(min(max(us, 1), _MOST_US), count)
        self._recent.clear()

    @property
    def count(self) -> int:
        self._feed()
        return int(self._histogram.total_count)

    def percentiles_ms(self) -> dict[str, float]:
        """By name: p50, p90, p99, p99.9, max; empty without a value."""
        self._feed()
        if not self._histogram.total_count:
            return {}
        found = ((p, self._histogram.get_value_at_percentile(p) / 1000) for p in PERCENTILES)
        return {"max" if p == 100 else f"p{p:g}": value for p, value in found}


class Stats:
    """sent: requests written to a connection. answered: whole responses. errors: by kind, requests
    without a whole response. reopened: requests sent again because the target had closed the connection
    before, without a byte of a response. skipped: by reason, requests that were not sent. beyond: requests
    whose records held bytes beyond them, which were not sent."""

    def __init__(self) -> None:
        self.sent = 0
        self.answered = 0
        self.sent_bytes = 0
        self.received_bytes = 0
        self.retried = 0
        self.reopened = 0
        self.first_ns = 0
        self.last_ns = 0
        self.redirected = 0
        self.connections = 0
        self.beyond = 0
        self.beyond_bytes = 0
        self.errors: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.latency = Times()
        self.lag = Times()

    def wrote(self, now_ns: int, count: int) -> None:
        """A request of so many bytes was handed to a connection."""
        self.sent += 1
        self.sent_bytes += count
        self.first_ns = self.first_ns or now_ns
        self.last_ns = now_ns

    @property
    def rate(self) -> float:
        """Requests a second from the first one sent to the last: starting and ending do not count."""
        took = self.last_ns - self.first_ns
        return (self.sent - 1) * 1e9 / took if took > 0 else float(self.sent)

    @property
    def missed(self) -> bool:
        """All responses say that there is nothing, or that the target has failed."""
        return bool(self.statuses) and all(s == 404 or s >= 500 for s in self.statuses)

    def as_dict(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "answered": self.answered,
            "sent_bytes": self.sent_bytes,
            "received_bytes": self.received_bytes,
            "connections": self.connections,
            "retried": self.retried,
            "reopened": self.reopened,
            "requests_per_second": round(self.rate, 3),
            "redirected": self.redirected,
            "beyond_request": self.beyond,
            "beyond_request_bytes": self.beyond_bytes,
            "errors": dict(self.errors),
            "skipped": dict(self.skipped),
            "statuses": {str(k): v for k, v in sorted(self.statuses.items())},
            "latency_ms": self.latency.percentiles_ms(),
            "lag_ms": self.lag.percentiles_ms(),
        }
