"""The rules that set marks, as `iptables-save -c` prints them."""

from __future__ import annotations

import ipaddress
import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_COUNTS = re.compile(r"\[(\d+):(\d+)\] (?=-A )")


@dataclass(frozen=True)
class MarkRule:
    """A rule that sets a mark. address: the one host that it is for, where it names one.

    text: as printed, without counters.
    """

    mark: int
    received: bool
    packets: int
    bytes: int
    address: str
    text: str
    interface: str = ""
    """The one that it is for, where it names one."""
    plain: bool = True
    """Whether its chain sets marks and does nothing else, so that every packet sees all of it."""


def parse(saved: str) -> list[MarkRule]:
    """The mark rules of the mangle table; what is not understood is left out, as is every other table."""
    rules: list[tuple[str, str, list[str], int, int, str]] = []
    jumps: dict[str, set[str]] = {}
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        counts = _COUNTS.match(line)
        text = line[counts.end() :] if counts else line
        if table != "mangle" or not text.startswith("-A "):
            continue
        try:
            words = shlex.split(text)
        except ValueError:
            continue
        if len(words) < 2:
            continue
        target = _after(words, "-j") or _after(words, "-g") or ""
        jumps.setdefault(target, set()).add(words[1])
        packets, size = (int(counts[1]), int(counts[2])) if counts else (0, 0)
        rules.append((words[1], target, words, packets, size, text))
    mixed = {chain for chain, target, *_ in rules if target != "MARK"}
    found = []
    for chain, target, words, packets, size, text in rules:
        mark = _mark(words) if target == "MARK" else None
        ways = _reached_from(chain, jumps) & {"PREROUTING", "POSTROUTING"}
        if mark is not None and len(ways) == 1:
            received = ways == {"PREROUTING"}
            found.append(
                MarkRule(
                    mark,
                    received,
                    packets,
                    size,
                    _host(_after(words, "-s" if received else "-d")),
                    text,
                    _after(words, "-i" if received else "-o") or "",
                    chain not in mixed,
                )
            )
    return found


def _after(words: Sequence[str], option: str) -> str | None:
    for word, following in itertools.pairwise(words):
        if word == option:
            return following
    return None


def _mark(words: Sequence[str]) -> int | None:
    for option in ("--set-xmark", "--set-mark", "--or-mark"):
        text = _after(words, option)
        if text is not None:
            try:
                return int(text.partition("/")[0], 0)
            except ValueError:
                return None
    return None


def _host(text: str | None) -> str:
    try:
        network = ipaddress.ip_network(text or "", strict=False)
    except ValueError:
        return ""
    return str(network.network_address) if network.num_addresses == 1 else ""


def _reached_from(chain: str, jumps: Mapping[str, set[str]]) -> set[str]:
    seen, waiting = {chain}, [chain]
    while waiting:
        for caller in jumps.get(waiting.pop(), ()):
            if caller not in seen:
                seen.add(caller)
                waiting.append(caller)
    return seen
