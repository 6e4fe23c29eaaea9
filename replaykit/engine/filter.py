"""Redaction of what is in columns already; what is captured is redacted in the core."""

from __future__ import annotations

from dataclasses import dataclass, field

MASK = b"***"


@dataclass(frozen=True)
class Redaction:
    """Names (any case) of headers and query parameters whose values are replaced by `***`."""

    headers: frozenset[bytes] = field(default_factory=frozenset)
    parameters: frozenset[bytes] = field(default_factory=frozenset)

    def __bool__(self) -> bool:
        return bool(self.headers or self.parameters)

    def target(self, target: bytes) -> bytes:
        """The target with the values of the named query parameters replaced."""
        path, mark, query = target.partition(b"?")
        if not mark:
            return target
        return path + mark + b"&".join(self._pair(pair) for pair in query.split(b"&"))

    def _pair(self, pair: bytes) -> bytes:
        name, equals, _ = pair.partition(b"=")
        return name + equals + MASK if equals and name.lower() in self.parameters else pair
