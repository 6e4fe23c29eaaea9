"""Values that a shell offers: interfaces, keys of tables, protocols, and the endpoints of the files that were
named.

Each function takes the words before, and what was begun.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from replaykit.errors import UsageError

LARGEST = 64 << 20
"""Of a file that is read for its endpoints: nobody waits longer for a completion."""


def interfaces(words: Sequence[str], begun: str) -> list[str]:
    """Of this machine."""
    try:
        return sorted(os.listdir("/sys/class/net"))
    except OSError:
        return []


def places(words: Sequence[str], begun: str) -> list[str]:
    """`eth0:`, to which ports are added."""
    return [f"{name}:" for name in ("any", *interfaces(words, begun))] if ":" not in begun else []


def keys(words: Sequence[str], begun: str) -> list[str]:
    """Of `--by`, the last of those with commas between."""
    from replaykit.attribution.summary import KEYS

    before, comma, _ = begun.rpartition(",")
    return [f"{before}{comma}{name}" for name in KEYS]


def protocols(words: Sequence[str], begun: str) -> list[str]:
    from importlib.metadata import entry_points

    return ["raw", *(found.name for found in entry_points(group="replaykit.protocols"))]


def endpoints(words: Sequence[str], begun: str) -> list[str]:
    """`/users/{id}=`, of the files that the command line names, those with the most exchanges first."""
    found: dict[str, int] = {}
    for name in _readable(words):
        for endpoint, count in _counted(name).items():
            found[endpoint] = found.get(endpoint, 0) + count
    return [f"{name}=" for name in sorted(found, key=lambda e: -found[e])]


def _readable(names: Iterable[str]) -> list[str]:
    return [n for n in names if Path(n).is_file() and Path(n).stat().st_size <= LARGEST]


def _counted(name: str) -> dict[str, int]:
    """Endpoints of a file; nothing where it cannot be read: who runs the command is told."""
    from replaykit.pipeline.options import Filters
    from replaykit.pipeline.reading import Reader
    from replaykit.records.message import Messages

    found: dict[str, int] = {}
    try:
        for piece in Reader(Filters().options(False, False), columns={"endpoint"}).read([name]):
            if not isinstance(piece, Messages):
                for row in piece["endpoint"].value_counts().to_pylist():
                    found[row["values"]] = found.get(row["values"], 0) + row["counts"]
    except UsageError:
        return {}
    found.pop(None, None)  # type: ignore[call-overload]
    return found
