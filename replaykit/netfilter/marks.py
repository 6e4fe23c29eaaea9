"""Marks that iptables sets in its mangle table, with each rule's counters, as `iptables-save -c` prints them.

PREROUTING is RX and POSTROUTING TX, and so are chains that are reached from them. A counter is one rule's: where one of a
mark's rules is deleted, the others go on as they were.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replaykit.errors import UsageError
from replaykit.netfilter.counters import Counters, boot_id

if TYPE_CHECKING:
    from replaykit.netfilter.overlaps import Overlaps

PROGRAMS = ("iptables-legacy-save", "iptables-nft-save", "ip6tables-legacy-save", "ip6tables-nft-save")
_COUNTS = re.compile(r"\[(\d+):(\d+)\] (?=-A )")


@dataclass(frozen=True)
class MarkRule:
    """A rule that sets a mark. address: the one host that it is for, where it names one. text: as printed, without counters."""

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


class MarkSource:
    """All of iptables' variants that are installed. addresses: of marks whose rules name a host; filled by `read`."""

    name, exact = "iptables", False

    def __init__(self) -> None:
        self._programs = [p for p in PROGRAMS if shutil.which(p)] or [
            p for p in ("iptables-save", "ip6tables-save") if shutil.which(p)
        ]
        self.addresses: dict[str, set[str]] = {}
        self._overlaps: dict[str, tuple[tuple[str, ...], Overlaps]] = {}
        if not self._programs:
            raise UsageError("iptables-save is needed: apt-get install iptables")

    def rules(self) -> Iterator[tuple[str, MarkRule]]:
        """With the program that printed each. Raises UsageError."""
        for program in self._programs:
            done = subprocess.run(
                [program, "-c", "-t", "mangle"],
                capture_output=True,
                text=True,
                check=False,
                timeout=30,
                errors="replace",
            )
            if done.returncode == 0:  # a variant that the kernel lacks has no rules
                for rule in parse(done.stdout):
                    yield program, rule

    def read(self) -> tuple[str, Mapping[str, Counters]]:
        sums: dict[str, Counters] = {}
        found: dict[str, list[MarkRule]] = {}
        for program, rule in self.rules():
            found.setdefault(program, []).append(rule)
        for program, rules in found.items():
            self._read(program, rules, sums)
        return boot_id(), sums

    def unclear(self) -> list[str]:
        """Pairs of rules that count the same packets, so that who they are of is counted twice. Raises UsageError."""
        from replaykit.netfilter.overlaps import overlaps

        found: dict[str, list[MarkRule]] = {}
        for program, rule in self.rules():
            found.setdefault(program, []).append(rule)
        return [line for rules in found.values() for line in overlaps(rules).unclear]

    def _read(self, program: str, rules: Sequence[MarkRule], sums: dict[str, Counters]) -> None:
        from replaykit.netfilter.overlaps import Overlaps, overlaps

        key_of = tuple(r.text for r in rules)
        if self._overlaps.get(program, ((), Overlaps({}, ())))[0] != key_of:
            self._overlaps[program] = key_of, overlaps(rules)
        parts = self._overlaps[program][1].parts
        for at, rule in enumerate(rules):
            key = f"mark:{rule.mark:#x}"
            if rule.address:
                self.addresses.setdefault(key, set()).add(rule.address)
            inner = [rules[n] for n in parts.get(at, ())]
            # What narrower rules count of it is theirs. Without one of them it is another counter.
            size = max(0, rule.bytes - sum(r.bytes for r in inner))
            packets = max(0, rule.packets - sum(r.packets for r in inner))
            counts = Counters(size, 0, packets, 0) if rule.received else Counters(0, size, 0, packets)
            less = "".join(f" less {r.text}" for r in inner)
            name = f"{key} {program.removesuffix('-save')} {rule.text}{less}"
            sums[name] = sums.get(name, Counters()).plus(counts)  # the same rule twice

    def close(self) -> None:
        """Nothing is held."""
