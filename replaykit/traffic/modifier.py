"""Rules over requests on the move: which pass, and how they are rewritten.

Owns GoReplay's rules and their order: set, allow and deny, take a share by hash, rewrite. A rule
reads and edits one head; bodies are never touched. Patterns and replacements (`$1`, `${name}`) are
RE2's, as in GoReplay.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from replaykit.wire import head
from replaykit.wire.filter import Filters

Pattern = re.Pattern[bytes]


@dataclass(frozen=True)
class Rules:
    """What the command line says, as text. Percent: of requests that pass, 0 to 100.

    A header rule is a name and a pattern; without one, presence is asked for.
    """

    allow_headers: tuple[tuple[str, str | None], ...] = ()
    deny_headers: tuple[tuple[str, str | None], ...] = ()
    allow_methods: tuple[str, ...] = ()
    deny_methods: tuple[str, ...] = ()
    allow_urls: tuple[str, ...] = ()
    deny_urls: tuple[str, ...] = ()
    basic_auth: tuple[str, ...] = ()
    header_limits: tuple[tuple[bytes, int], ...] = ()
    param_limits: tuple[tuple[bytes, int], ...] = ()
    set_headers: tuple[tuple[bytes, bytes], ...] = ()
    set_params: tuple[tuple[bytes, bytes], ...] = ()
    rewrite_urls: tuple[tuple[str, bytes], ...] = ()
    rewrite_headers: tuple[tuple[bytes, str, bytes], ...] = ()

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def as_dict(self) -> dict[str, Any]:
        """What the compiled core takes."""
        return {name: list(rules) for name, rules in asdict(self).items()}


def fnv(data: bytes) -> int:
    """FNV-1a, 32 bits."""
    value = 0x811C9DC5
    for byte in data:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


class Modifier:
    """Raises ValueError for a pattern that cannot be read."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._filters = Filters(
            _header_rules(rules.allow_headers),
            _header_rules(rules.deny_headers),
            [_pattern(p) for p in rules.allow_methods],
            [_pattern(p) for p in rules.deny_methods],
            [_pattern(p) for p in rules.allow_urls],
            [_pattern(p) for p in rules.deny_urls],
        )
        self._basic = [_pattern(p) for p in rules.basic_auth]
        self._urls = [(_pattern(p), _expander(to)) for p, to in rules.rewrite_urls]
        self._headers = [(name, _pattern(p), _expander(to)) for name, p, to in rules.rewrite_headers]
        self._edits = bool(
            rules.set_headers or rules.set_params or rules.rewrite_urls or rules.rewrite_headers
        )

    def apply(self, payload: bytes) -> bytes | None:
        """The request as the rules leave it; None if it is denied. What is no request passes."""
        line = head.request(payload)
        if line is None:
            return payload
        method, target = line
        body = head.end(payload)
        h = payload[:body]
        if not self._edits:
            return payload if self._passes(h, method, target) else None
        for name, new in self._rules.set_headers:
            h = head.set_field(h, name, new)
        for name, new in self._rules.set_params:
            before = len(h)
            h = _set_parameter(h, target, name, new)
            target = (target[0], target[1] + len(h) - before)
        if not self._passes(h, method, target):
            return None
        url = h[slice(*target)]
        for pattern, expand in self._urls:
            if pattern.search(url):
                h = head.splice(h, target, _one_line(_replaced(pattern, expand, url)))
                break
        for name, pattern, expand in self._headers:
            at = head.value(h, name)
            if at is not None and at[0] < at[1]:
                h = head.splice(h, at, _one_line(_replaced(pattern, expand, h[slice(*at)])))
        return h + payload[body:]

    def _passes(self, h: bytes, method: head.Range, target: head.Range) -> bool:
        url = h[slice(*target)]
        if not self._filters.passes(h[slice(*method)], url, h):
            return False
        if self._basic:
            at = head.value(h, b"authorization")
            credentials = b"" if at is None else h[slice(*at)]
            if credentials.startswith(b"Basic "):
                plain = _decode(credentials.removeprefix(b"Basic "))
                if not all(p.search(plain) for p in self._basic):
                    return False
        for name, percent in self._rules.header_limits:
            at = head.value(h, name)
            if at is not None and at[0] < at[1] and fnv(h[slice(*at)]) % 100 >= percent:
                return False
        for name, percent in self._rules.param_limits:
            at = head.parameter(url, name)
            if at is not None and fnv(url[slice(*at)]) % 100 >= percent:
                return False
        return True


def _pattern(text: str) -> Pattern:
    try:
        return re.compile(text.encode())
    except re.error as error:
        raise ValueError(f"{text!r}: {error.msg}") from None


def _header_rules(rules: Sequence[tuple[str, str | None]]) -> list[tuple[str, Pattern | None]]:
    return [(name, None if text is None else _pattern(text)) for name, text in rules]


_REFERENCE = re.compile(rb"\$(?:\$|\{([0-9A-Za-z_]+)\}|([0-9A-Za-z_]+))")


def _expander(template: bytes) -> Callable[[re.Match[bytes]], bytes]:
    """A replacement as RE2 reads it: the longest name after `$`, nothing for a group that is none."""

    def expand(match: re.Match[bytes]) -> bytes:
        def group(reference: re.Match[bytes]) -> bytes:
            name = reference[1] or reference[2]
            if name is None:
                return b"$"
            try:
                return match[int(name) if name.isdigit() else name.decode()] or b""
            except IndexError:
                return b""

        return _REFERENCE.sub(group, template)

    return expand


def _matches(pattern: Pattern, text: bytes) -> Iterator[re.Match[bytes]]:
    """All matches as RE2 finds them: none that is empty where the one before ended, nor a longer one there."""
    at, last = 0, -1
    while (match := pattern.search(text, at)) is not None:
        if match.start() == match.end() == last:
            match = pattern.search(text, at + 1) if at < len(text) else None
            if match is None:
                return
        at = last = match.end()
        yield match


def _replaced(pattern: Pattern, expand: Callable[[re.Match[bytes]], bytes], text: bytes) -> bytes:
    out, at = [], 0
    for match in _matches(pattern, text):
        out += [text[at : match.start()], expand(match)]
        at = match.end()
    return b"".join([*out, text[at:]])


def _decode(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""


def _one_line(text: bytes) -> bytes:
    """What a pattern made of a line must stay one line."""
    return text.replace(b"\r", b"").replace(b"\n", b"")


def _set_parameter(h: bytes, target: head.Range, name: bytes, new: bytes) -> bytes:
    url = h[slice(*target)]
    at = head.parameter(url, name)
    if at is not None:
        return head.splice(h, (target[0] + at[0], target[0] + at[1]), new)
    return head.splice(h, (target[1], target[1]), (b"&" if b"?" in url else b"?") + name + b"=" + new)
