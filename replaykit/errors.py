"""What goes wrong by use or input: one clear line each, never a traceback."""

from __future__ import annotations

from collections.abc import Sequence


class UsageError(Exception):
    """Wrong use or unusable input; the message says what, where, and what to do. Exit status 2."""

    @property
    def lines(self) -> Sequence[str]:
        """The message by line, to be shown one below the other."""
        return (str(self),)


class UsageErrors(UsageError):
    """Several at once, a line each."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self._lines = tuple(lines)

    @property
    def lines(self) -> Sequence[str]:
        return self._lines
