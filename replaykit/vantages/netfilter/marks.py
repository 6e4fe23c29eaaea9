"""Marks that iptables sets in its mangle table, with each rule's counters, as `iptables-save -c` prints them.

PREROUTING is RX and POSTROUTING TX, and so are chains that are reached from them. A counter is one rule's:
where one of a mark's rules is deleted, the others go on as they were.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from replaykit.errors import UsageError
from replaykit.vantages.netfilter.counters import Counters, boot_id
from replaykit.vantages.netfilter.mark_rules import MarkRule, parse
from replaykit.vantages.netfilter.overlaps import Overlaps, overlaps

PROGRAMS = ("iptables-legacy-save", "iptables-nft-save", "ip6tables-legacy-save", "ip6tables-nft-save")


class MarkSource:
    """All of iptables' variants that are installed.

    addresses: of marks whose rules name a host; filled by `read`.
    """

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
        """Pairs of rules that count the same packets, so that who they are of is counted twice.

        Raises UsageError.
        """
        found: dict[str, list[MarkRule]] = {}
        for program, rule in self.rules():
            found.setdefault(program, []).append(rule)
        return [line for rules in found.values() for line in overlaps(rules).unclear]

    def _read(self, program: str, rules: Sequence[MarkRule], sums: dict[str, Counters]) -> None:
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
