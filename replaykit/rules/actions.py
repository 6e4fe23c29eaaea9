"""Actions of rules: effects, which hold for a while, and those that are done once, such as telling somebody.

Those that are done once are found by the entry-point group `replaykit.actions`. Each is a function of the
event (see `replaykit.rules.notify.text`), the value that the rule gives it, and the notifiers of the file. It
returns when it is done, and raises UsageError or OSError where it was not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

EFFECTS = ("block", "disconnect", "rate_limit", "shutdown", "stop")
"""Actions that hold while the rule is exceeded, and are undone afterwards."""

Once = Callable[[Mapping[str, Any], Any, Mapping[str, Mapping[str, Any]]], None]


@dataclass(frozen=True)
class Action:
    """kind: of EFFECTS, or the name of an installed action.

    value: bytes a second, a notifier's name, a URL, arguments.
    """

    kind: str
    value: Any = True


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
    """Entry point: a program, with the event as JSON on its standard input and REPLAYKIT_… in its
    environment.
    """
    from replaykit.rules.notify import send

    send({"kind": "command", "arguments": list(value)}, event)
