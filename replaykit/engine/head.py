"""The head of an HTTP/1 message, as bytes to be looked at and edited.

Owns where a head ends, its request line, its fields by name, and the edits of one: everything that is
not edited stays byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Collection

Range = tuple[int, int]

_END = re.compile(rb"\n\r?\n")
_REQUEST = re.compile(rb"([0-9A-Za-z!#$%&'*+\-.^_`|~]{1,32}) ([^\n]*) HTTP/1\.[0-9]\r?\n")


def end(b: bytes) -> int:
    """Bytes of the head, blank line included; all of `b` where there is none."""
    found = _END.search(b)
    return len(b) if found is None else found.end()


def request(b: bytes) -> tuple[Range, Range] | None:
    """Where method and target of a request line stand; None where the first line is none."""
    found = _REQUEST.match(b)
    return None if found is None else (found.span(1), found.span(2))


def value(head: bytes, name: bytes) -> Range | None:
    """Where the value of a field's first line stands."""
    wanted = name.lower() + b":"
    at = head.find(b"\n") + 1
    while at and (n := head.find(b"\n", at)) >= 0:
        line = head[at:n].removesuffix(b"\r")
        if line[: len(wanted)].lower() == wanted:
            text = line[len(wanted) :]
            begin = at + len(wanted) + len(text) - len(text.lstrip(b" \t"))
            return begin, max(begin, at + len(line.rstrip(b" \t")))
        at = n + 1
    return None


def splice(head: bytes, at: Range, new: bytes) -> bytes:
    """The head with a range replaced."""
    return head[: at[0]] + new + head[at[1] :]


def set_field(head: bytes, name: bytes, new: bytes) -> bytes:
    """Sets a field: its first line's value is replaced, or the line comes first."""
    at = value(head, name)
    if at is not None:
        return splice(head, at, new)
    n = head.find(b"\n") + 1 or len(head)
    return splice(head, (n, n), name + b": " + new + b"\r\n")


def without(head: bytes, names: Collection[bytes]) -> bytes:
    """The head without the lines of these fields (names in lower case)."""
    first, *lines = head.split(b"\n")
    kept = [line for line in lines if b":" not in line or line.partition(b":")[0].lower() not in names]
    return b"\n".join([first, *kept])


def parameter(target: bytes, name: bytes) -> Range | None:
    """Where the value of a query parameter stands in a target."""
    at = target.find(b"?") + 1
    while at:
        stop = target.find(b"&", at)
        last = len(target) if stop < 0 else stop
        if target.startswith(name + b"=", at, last):
            return at + len(name) + 1, last
        at = stop + 1
    return None
