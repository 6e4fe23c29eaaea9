"""Sizes and durations as people write and read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from replaykit.errors import UsageError

_UNITS = {"": 1, "B": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("KMGTP", 1)
    for suffix, base in (("B", 1000), ("iB", 1024), ("", 1000))
}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-zµ]*)\s*\Z")


def parse_size(text: str) -> int:
    """`500MB` is 500 x 10^6 bytes, `500MiB` 500 x 2^20. Raises UsageError."""
    match = _NUMBER.match(text)
    units = {name.lower(): factor for name, factor in _UNITS.items()}
    if match is None or match[2].lower() not in units:
        raise UsageError(f"{text!r} is no size: write 500MB (10^6) or 500MiB (2^20)")
    return int(float(match[1]) * units[match[2].lower()])


def parse_duration(text: str) -> float:
    """`90s`, `5m`, `1h30m` in seconds. Raises UsageError."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h|d)", text.strip())
    if not parts or "".join(n + u for n, u in parts) != text.strip():
        raise UsageError(f"{text!r} is no duration: write 30s, 5m or 1h30m")
    return float(sum(float(n) * _SECONDS[u] for n, u in parts))


def show_size(count: float, binary: bool = False) -> str:
    """Bytes with three digits and a unit: `1.23 MB`, or `1.17 MiB` where they are counted in binary units."""
    units, base = (
        (("B", "KiB", "MiB", "GiB", "TiB"), 1024) if binary else (("B", "kB", "MB", "GB", "TB"), 1000)
    )
    for unit in units:
        if abs(count) < 999.5 or unit == units[-1]:
            digits = 0 if unit == "B" or abs(count) >= 99.95 else 1 if abs(count) >= 9.995 else 2
            return f"{count:.{digits}f} {unit}"
        count /= base
    raise AssertionError("not reached")


def is_binary(count: float) -> bool:
    """Whether somebody has written this size in KiB, MiB or GiB: it is a round number of them, and of no
    decimal unit.
    """
    return count >= 1024 and count % 1024 == 0 and count % 1000 != 0


def show_set(count: float) -> str:
    """A size that was set, in the units in which it was: `10 MiB`, `500 MB`."""
    shown = show_size(count, is_binary(count))
    number, unit = shown.split()
    return f"{float(number):g} {unit}"


def show_ns(ns: float) -> str:
    """Nanoseconds in a unit that fits: `1.23 ms`."""
    for unit, factor in (("µs", 1e3), ("ms", 1e6), ("s", 1e9)):
        value = ns / factor
        if abs(value) < 999.5 or unit == "s":
            digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
            return f"{value:.{digits}f} {unit}"
    raise AssertionError("not reached")


def rfc3339(ns: int) -> str:
    """Nanoseconds since the epoch as RFC 3339 in UTC; years outside 1 to 9999 as a bare number."""
    seconds, fraction = divmod(ns, 1_000_000_000)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"
    except (ValueError, OverflowError, OSError):
        return str(ns)
