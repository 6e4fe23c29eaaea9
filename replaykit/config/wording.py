"""The words for what is wrong with a value or a key."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def wrong(text: str) -> ValueError:
    """To raise where one value is wrong; a model tells where."""
    return ValueError(text)


def nearest(name: str, known: Sequence[str]) -> str:
    """What was probably meant; nothing where nothing is like it."""
    return next(iter(difflib.get_close_matches(name, known, 1)), "")


def near(name: str, known: Sequence[str]) -> str:
    """` (did you mean …?)`, or nothing."""
    found = nearest(name, known)
    return f" (did you mean {found}?)" if found else ""


def missing(name: str) -> str:
    """Of a key that must be there."""
    return f"the key {name!r} is missing"


def unknown(name: str, known: Sequence[str]) -> str:
    """Of a key that nobody reads."""
    return f"this key is not known here; there are {', '.join(known)}{near(name, known)}"
