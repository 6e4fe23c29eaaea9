"""Rules that set marks and match the same packets: a packet that two of them count is counted once, where
that can be known.

A rule that sets a mark does not end the way of a packet, so every later rule that matches counts it too.
Within a chain that holds nothing else, a rule whose matches are all among another's counts a part of what the
other does; that part is the narrower rule's. What overlaps otherwise cannot be told apart by counters, and is
said.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from replaykit.vantages.netfilter.mark_rules import MarkRule

_OPTIONS = ("-s", "-d", "-i", "-o", "-p")


@dataclass(frozen=True)
class Overlaps:
    """parts: by a rule's place in the list, the places of the rules that count a part of it.

    unclear: pairs in words.
    """

    parts: dict[int, tuple[int, ...]]
    unclear: tuple[str, ...]


@dataclass(frozen=True)
class _Match:
    """What a packet must have. other: matches of extensions, and what is negated, as they stand."""

    options: dict[str, str]
    other: tuple[str, ...]


def overlaps(rules: Sequence[MarkRule]) -> Overlaps:
    """Of one program's rules, in their order.

    The cost grows with the rules, and with those that are for no single address times all.
    """
    matches = [_match(rule.text) for rule in rules]
    narrower: dict[int, list[int]] = {}
    meeting: dict[int, list[int]] = {}
    unclear: list[str] = []
    for i, j in sorted(_candidates(rules)):
        one, other = rules[i], rules[j]
        if one.received != other.received or not _may_meet(matches[i], matches[j]):
            continue
        meeting.setdefault(i, []).append(j)
        same_chain = one.plain and other.plain and one.text.split()[1] == other.text.split()[1]
        # Of two that match the same the later sets the mark.
        if same_chain and _within(matches[j], matches[i]):
            narrower.setdefault(i, []).append(j)
        elif same_chain and _within(matches[i], matches[j]):
            narrower.setdefault(j, []).append(i)
        else:
            unclear.append(f"{one.text} | {other.text}")
    parts: dict[int, tuple[int, ...]] = {}
    for wide, found in narrower.items():
        # A part of a part is taken off once; parts that meet each other without one holding the other are not
        # known.
        inner = {n for m in found for n in narrower.get(m, ())}
        direct = [n for n in found if n not in inner]
        among = set(direct)
        if any(b in among for a in direct for b in meeting.get(a, ())):
            unclear.append(f"{rules[wide].text} | {' | '.join(rules[n].text for n in direct)}")
        else:
            parts[wide] = tuple(direct)
    return Overlaps(parts, tuple(unclear))


def _candidates(rules: Sequence[MarkRule]) -> set[tuple[int, int]]:
    """Pairs that are not told apart by an address of their own."""
    same: dict[str, list[int]] = {}
    for at, rule in enumerate(rules):
        same.setdefault(rule.address, []).append(at)
    wide = same.pop("", [])
    found = {(i, j) for i in wide for j in range(len(rules)) if i < j}
    found |= {(j, i) for i in wide for j in range(len(rules)) if j < i}
    return found | {(i, j) for places in same.values() for i in places for j in places if i < j}


def _match(text: str) -> _Match:
    words = shlex.split(text)[2:]  # after -A CHAIN
    options: dict[str, str] = {}
    other: list[str] = []
    at = 0
    while at < len(words) and words[at] not in ("-j", "-g"):
        word = words[at]
        if word in _OPTIONS and at + 1 < len(words):
            options[word] = words[at + 1]
            at += 2
        elif word == "!" and at + 2 < len(words):
            other.append(" ".join(words[at : at + 3]))
            at += 3
        else:
            other.append(word)
            at += 1
    return _Match(options, tuple(other))


def _may_meet(one: _Match, other: _Match) -> bool:
    return all(
        _meet(name, one.options[name], other.options[name]) for name in one.options if name in other.options
    )


def _meet(name: str, one: str, other: str) -> bool:
    if name not in ("-s", "-d"):
        return one == other
    a, b = _network(one), _network(other)
    return a is None or b is None or (a.version == b.version and a.overlaps(b))


@lru_cache(4096)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """None for a mask that is no prefix."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _within(narrow: _Match, wide: _Match) -> bool:
    """Whether all that the one matches, the other does too."""
    if wide.other and wide.other != narrow.other:
        return False
    for name, value in wide.options.items():
        if name not in narrow.options:
            return False
        if name in ("-s", "-d"):
            inner, outer = _network(narrow.options[name]), _network(value)
            if inner is None or outer is None or inner.version != outer.version:
                return False
            if not inner.subnet_of(outer):  # type: ignore[arg-type]
                return False
        elif narrow.options[name] != value:
            return False
    return True
