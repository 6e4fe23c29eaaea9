"""Actions that are done once: telling somebody. Found by the entry-point group `replaykit.actions`.

An action is a function of the event (see `replaykit.rules.notify.text`), the value that the rule gives it, and the
notifiers of the file. It returns when it is done, and raises UsageError or OSError where it was not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

Once = Callable[[Mapping[str, Any], Any, Mapping[str, Mapping[str, Any]]], None]


@cache
def installed() -> dict[str, Once]:
    """Names to functions."""
    return {entry.name: entry.load() for entry in entry_points(group="replaykit.actions")}


def notify(event: Mapping[str, Any], value: str, notifiers: Mapping[str, Mapping[str, Any]]) -> None:
    """Entry point: one of the notifiers of the file, by name."""
    from replaykit.rules.notify import send

    send(notifiers[value], event)


def webhook(event: Mapping[str, Any], value: str, notifiers: Mapping[str, Mapping[str, Any]]) -> None:
    """Entry point: the event as JSON to a URL."""
    from replaykit.rules.notify import send

    send({"kind": "webhook", "url": value}, event)


def command(
    event: Mapping[str, Any], value: tuple[str, ...], notifiers: Mapping[str, Mapping[str, Any]]
) -> None:
    """Entry point: a program, with the event as JSON on its standard input and REPLAYKIT_… in its environment."""
    from replaykit.rules.notify import send

    send({"kind": "command", "arguments": list(value)}, event)
