"""Path templates: `/users/42` belongs to `/users/{id}`.

What makes a segment variable is the core's to say.
"""

from __future__ import annotations

from collections.abc import Sequence

from replaykit.core import core


class Templates:
    """Patterns such as `/users/{id}/files/*`: `{name}` is one segment, a last `*` any rest."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._patterns = list(patterns)

    def endpoint(self, path: str) -> str:
        """The endpoint of a path without query."""
        return str(core.endpoints(self._patterns, [path])[0])
