"""Label values of bounded number: a client may invent as many endpoints and methods as it likes."""

from __future__ import annotations

from replaykit.attribution.summary import OTHER
from replaykit.plain import visible

MAX_ENDPOINTS = 500

_METHODS = frozenset(
    (
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "DELETE",
        "CONNECT",
        "OPTIONS",
        "TRACE",
        "PATCH",
        "TEXT",
        "BINARY",
        "PING",
        "PONG",
        "CLOSE",
    )
)


class Labels:
    """The first `most` names stay themselves, later ones are `(other)`."""

    def __init__(self, most: int = MAX_ENDPOINTS) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, name: str | None) -> str:
        name = visible(name or "(unknown)")
        if name in self._known:
            return name
        if len(self._known) >= self._most:
            return OTHER
        self._known.add(name)
        return name


def method(name: str | None) -> str:
    """Methods that nobody knows are one."""
    return "" if name is None else name if name in _METHODS else OTHER
