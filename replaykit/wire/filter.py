"""Which exchanges are wanted, and what of them may be shown.

Owns allow and deny rules over a request's head, and redaction of header values and query
parameters. Rules read the bytes of one head. Patterns are regular expressions in RE2 syntax (no
look-around, no back-references), as GoReplay's are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from replaykit.wire.http1 import fields

MASK = b"***"

HeaderRule = tuple[str, re.Pattern[bytes] | None]


@dataclass(frozen=True)
class Filters:
    """An exchange passes if it meets every allowed header, none that is denied, one of the allowed
    URLs and methods where there are any, and none of the denied ones. A header rule without a
    pattern asks for presence."""

    allow_headers: Sequence[HeaderRule] = ()
    deny_headers: Sequence[HeaderRule] = ()
    allow_methods: Sequence[re.Pattern[bytes]] = ()
    deny_methods: Sequence[re.Pattern[bytes]] = ()
    allow_urls: Sequence[re.Pattern[bytes]] = ()
    deny_urls: Sequence[re.Pattern[bytes]] = ()

    def passes_unknown(self) -> bool:
        """A response whose request was not seen passes only where nothing must be present."""
        return not (self.allow_headers or self.allow_methods or self.allow_urls)

    def passes(self, method: bytes, target: bytes, head: bytes) -> bool:
        if _any(self.deny_urls, target) or _any(self.deny_methods, method):
            return False
        if self.allow_urls and not _any(self.allow_urls, target):
            return False
        if self.allow_methods and not _any(self.allow_methods, method):
            return False
        return all(_present(rule, head) for rule in self.allow_headers) and not any(
            _present(rule, head) for rule in self.deny_headers
        )


def _any(patterns: Sequence[re.Pattern[bytes]], text: bytes) -> bool:
    return any(p.search(text) for p in patterns)


def _present(rule: HeaderRule, head: bytes) -> bool:
    wanted, pattern = rule
    name = wanted.lower().encode()
    return any(
        n.lower() == name and (pattern is None or pattern.search(v) is not None) for n, v in fields(head)
    )


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

    def head(self, head: bytes) -> bytes:
        """A head with the named values replaced; everything else byte for byte."""
        first, *lines = re.findall(rb"[^\n]*\n|[^\n]+\Z", head) or [b""]
        begin, end = first.find(b" ") + 1, first.rfind(b" ")
        out = [first]
        if not first.startswith(b"HTTP/") and end >= begin:
            out = [first[:begin], self.target(first[begin:end]), first[end:]]
        hidden = False
        for line in lines:
            if hidden and line[:1] in (b" ", b"\t"):
                continue  # the folded rest of a hidden value
            name, colon, _ = line.partition(b":")
            hidden = bool(colon) and name.rstrip(b" \t").lower() in self.headers
            if hidden:
                line = name + b": " + MASK + (b"\r\n" if line.endswith(b"\r\n") else b"\n")
            out.append(line)
        return b"".join(out)
