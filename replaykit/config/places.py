"""Where something stands in a file, and what is wrong there."""

from __future__ import annotations

from dataclasses import dataclass

Location = tuple[str | int, ...]
"""Keys and the numbers of list items, from the file's top on."""


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where."""

    at: Location
    text: str


def dotted(at: Location) -> str:
    """`rules[0].name`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at)
    return text.removeprefix(".")
