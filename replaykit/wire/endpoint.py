"""Path templates: `/users/42` belongs to `/users/{id}`.

Owns what makes a path segment variable. Patterns given by the user come first, the one with the
most literal segments wins; without a match the shape of each segment decides. No state: the same
path always gives the same endpoint. Cost grows with the path's length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MAX_SEGMENTS = 12
MAX_SEGMENT = 64

_DIGITS = re.compile(r"[0-9]+\Z")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_HEX = re.compile(r"[0-9a-fA-F]{8,}\Z")
_PLAIN = re.compile(r"[0-9A-Za-z_=-]{16,}\Z")
_DIGIT = re.compile(r"[0-9]")
_PARTS = re.compile(r"([.\-_])")


@dataclass(frozen=True)
class _Pattern:
    text: str
    segments: tuple[str | None, ...]
    open: bool

    def matches(self, path: str) -> bool:
        parts = path.split("/")
        if len(parts) < len(self.segments) or (len(parts) > len(self.segments) and not self.open):
            return False
        return all(
            part != "" if want is None else part == want
            for want, part in zip(self.segments, parts, strict=False)
        )


def _pattern(text: str) -> _Pattern:
    parts = text.split("/")
    rest = parts[-1] == "*"
    if rest:
        parts.pop()
    segments = tuple(None if p.startswith("{") and p.endswith("}") else p for p in parts)
    return _Pattern(text, segments, rest)


class Templates:
    """Patterns such as `/users/{id}/files/*`: `{name}` is one segment, a last `*` any rest."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._patterns = sorted(
            map(_pattern, patterns), key=lambda p: (p.open, -sum(s is not None for s in p.segments))
        )

    def endpoint(self, path: str) -> str:
        """The endpoint of a path without query."""
        for pattern in self._patterns:
            if pattern.matches(path):
                return pattern.text
        segments = path.split("/")
        out = [_template(s) for s in segments[: MAX_SEGMENTS + 1]]
        if len(segments) > MAX_SEGMENTS + 1:
            out.append("{rest}")
        return "/".join(out)


def _template(segment: str) -> str:
    name = _whole(segment)
    if name is not None:
        return name
    if not _DIGIT.search(segment):
        return segment
    # Part by part: app.3f2a9c1b.js, order-12345, report_2024-01-02.pdf
    return "".join(_part(p) for p in _PARTS.split(segment))


def _part(text: str) -> str:
    if len(text) >= 2 and _DIGITS.match(text):
        return "{id}"
    return "{hash}" if _is_hash(text) else text


def _is_hash(text: str) -> bool:
    return bool(_HEX.match(text)) and (len(text) >= 16 or bool(_DIGIT.search(text)))


def _whole(text: str) -> str | None:
    """What a whole segment is, if it is variable as a whole."""
    if not text:
        return None
    if _DIGITS.match(text):
        return "{id}"
    if _UUID.match(text):
        return "{uuid}"
    if _DATE.match(text):
        return "{date}"
    if _is_hash(text):
        return "{hash}"
    if "@" in text[1:]:
        return "{email}"
    if len(text.encode()) > MAX_SEGMENT:
        return "{long}"
    if _PLAIN.match(text):
        digits = len(_DIGIT.findall(text))
        mixed = text.upper() != text and text.lower() != text
        separators = text.count("-") + text.count("_")
        if digits >= 2 and separators <= 2 and (mixed or digits >= 4):
            return "{token}"
    return None
