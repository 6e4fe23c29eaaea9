"""What rules on traffic can look at, and how its values are shown."""

from __future__ import annotations

from replaykit.units import show_ns, show_size

BYTES = {
    "bytes": ("request_wire_bytes", "response_wire_bytes"),
    "request_bytes": ("request_wire_bytes",),
    "response_bytes": ("response_wire_bytes",),
    "link_bytes": ("link_bytes",),
    "retransmitted_bytes": ("retransmitted_bytes",),
}
COUNTS = {
    "requests": ("exchanges",),
    "incomplete": ("incomplete",),
    "slow": ("slow",),
    "errors": ("exchanges",),
}
DURATIONS = ("duration_mean", "duration_max")
SHARES = ("error_share", "slow_share", "loss")
GROUPS = ("endpoint", "host", "method", "status")
"""By what traffic can be told apart, and chosen."""
BEFORE = {"yesterday": 86_400.0, "last_week": 7 * 86_400.0}
"""With what it can be compared: seconds ago."""
METRICS = (*BYTES, *COUNTS, *DURATIONS, *SHARES)


def shown(metric: str, value: float) -> str:
    """A value as people read it."""
    if metric in BYTES:
        return show_size(value)
    if metric in DURATIONS:
        return show_ns(value)
    return f"{value:.1%}" if metric in SHARES else f"{value:,.0f}"
