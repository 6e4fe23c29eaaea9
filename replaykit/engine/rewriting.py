"""Rules over requests on the move: which pass, and how they are rewritten.

Owns GoReplay's rules and their order: set, allow and deny, take a share by hash, rewrite. A rule
reads and edits one head; bodies are never touched. Patterns and replacements (`$1`, `${name}`) are
RE2's, as in GoReplay.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Rules:
    """What the command line says, as text. Percent: of requests that pass, 0 to 100.

    A header rule is a name and a pattern; without one, presence is asked for. first_field_only: of repeated
    fields it sees the first, as GoReplay's rules do.
    """

    allow_headers: tuple[tuple[str, str | None], ...] = ()
    deny_headers: tuple[tuple[str, str | None], ...] = ()
    allow_methods: tuple[str, ...] = ()
    deny_methods: tuple[str, ...] = ()
    allow_urls: tuple[str, ...] = ()
    deny_urls: tuple[str, ...] = ()
    first_field_only: bool = False
    basic_auth: tuple[str, ...] = ()
    header_limits: tuple[tuple[bytes, int], ...] = ()
    param_limits: tuple[tuple[bytes, int], ...] = ()
    set_headers: tuple[tuple[bytes, bytes], ...] = ()
    set_params: tuple[tuple[bytes, bytes], ...] = ()
    rewrite_urls: tuple[tuple[str, bytes], ...] = ()
    rewrite_headers: tuple[tuple[bytes, str, bytes], ...] = ()

    def __bool__(self) -> bool:
        return any(value for name, value in asdict(self).items() if name != "first_field_only")


def fnv(data: bytes) -> int:
    """FNV-1a, 32 bits."""
    value = 0x811C9DC5
    for byte in data:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value
