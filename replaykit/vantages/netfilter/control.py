"""What rules may do to users: block them, and limit their rate.

Owns the table `inet replaykit_limits` with its sets of blocked addresses, and who of those that can limit a
rate does it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from replaykit.errors import UsageError
from replaykit.ledger.selection import Subject
from replaykit.vantages.netfilter import shaper
from replaykit.vantages.netfilter.owned import TABLE, Seen, Table, owner_of, without
from replaykit.vantages.netfilter.policer import Policer
from replaykit.vantages.netfilter.programs import nft
from replaykit.vantages.netfilter.shaper import Shaper
from replaykit.vantages.netfilter.users import UserMap

By = Literal["auto", "tc", "nftables"]
SETS = "".join(
    f"add set inet {TABLE} blocked{v} {{ type ipv{v}_addr; flags interval; }}\n"
    f"add map inet {TABLE} received_limits{v} {{ type ipv{v}_addr : limit; flags interval; }}\n"
    f"add map inet {TABLE} sent_limits{v} {{ type ipv{v}_addr : limit; flags interval; }}\n"
    for v in (4, 6)
)
CHAINS = "".join(
    f"""add chain inet {TABLE} {name} {{ type filter hook {hook} priority {priority}; policy accept; }}
flush chain inet {TABLE} {name}
add rule inet {TABLE} {name} ip {side} @blocked4 drop
add rule inet {TABLE} {name} ip6 {side} @blocked6 drop
add rule inet {TABLE} {name} limit name ip {side} map @{name}_limits4 drop
add rule inet {TABLE} {name} limit name ip6 {side} map @{name}_limits6 drop
"""
    for name, hook, priority, side in (
        ("received", "prerouting", -305, "saddr"),
        ("sent", "postrouting", 305, "daddr"),
    )
)


class UserControl:
    """A controller for `replaykit.rules.enforcement`, of the vantage netfilter.

    by: what limits a rate; auto: tc, and nftables where that is refused, for the reason in `refused`. Raises
    UsageError where tc is demanded and refused.
    """

    def __init__(self, users: UserMap, interfaces: Sequence[str], by: By = "auto") -> None:
        self._users = users
        self._seen = Seen()
        self._known: tuple[object, dict[str, set[str]]] | None = None
        self._policer, self._shaper = Policer(self._seen), Shaper(interfaces, self._seen)
        self.refused = "" if by == "nftables" else self._shaper.refused(forced=by == "tc")
        if by == "tc" and self.refused:
            raise UsageError(f"--limit-by tc: {self.refused}")
        self._by: Policer | Shaper = self._policer if by == "nftables" or self.refused else self._shaper

    def original(self, subject: Subject, effect: str) -> Any:
        if effect in ("shutdown", "stop"):
            raise UsageError(f"{effect}: not of a user: block, disconnect or rate_limit")
        self._addresses(subject)
        return None

    def enforce(self, subject: Subject, effect: str, value: Any) -> None:
        owner, addresses = owner_of(subject), self._addresses(subject)
        nft(f"add table inet {TABLE}\n{SETS}{CHAINS}")
        if effect != "rate_limit":
            self._block(owner, addresses)
            return
        self._others.clear(owner)
        self._by.set(owner, int(value), addresses)

    def holds(self, subject: Subject, effect: str, value: Any) -> bool:
        owner, addresses = owner_of(subject), self._addresses(subject)
        if effect == "rate_limit":
            return self._by.holds(owner, int(value), addresses)
        return self._seen.table().holds("blocked", owner, addresses)

    def restore(self, subject: Subject, effect: str, original: Any) -> None:
        """Takes away all that is there of it now."""
        owner = owner_of(subject)
        if effect == "rate_limit":
            self._policer.clear(owner)
            self._shaper.clear(owner)
            return
        self._block(owner, ())

    def _block(self, owner: str, addresses: Iterable[str]) -> None:
        script = self._seen.table().change("blocked", owner, addresses)
        if script:
            nft(script)

    @property
    def _others(self) -> Policer | Shaper:
        return self._shaper if self._by is self._policer else self._policer

    def _addresses(self, subject: Subject) -> list[str]:
        """Prefixes that are the subject's alone. Raises UsageError where none is known."""
        if subject.kind not in ("host", "user"):
            raise UsageError(f"{subject.kind} {subject.name}: only users can be limited here")
        if subject.kind == "host":
            found: Iterable[str] = _prefixes([subject.name])
        else:
            found = self._of_user(subject.name)
        if not found:
            raise UsageError(
                f"{subject.name}: no address is known, so it cannot be limited; add addresses to the map of"
                " users"
            )
        return sorted(found)

    def _of_user(self, code: str) -> Iterable[str]:
        """A network of theirs, less what in it is others'."""
        users = self._users.users
        if self._known is None or self._known[0] is not users:
            self._known = users, {}
        _, known = self._known
        if code not in known:
            user = next((u for u in users.users if u.code == code), None)
            found = _prefixes([code] if user is None else user.prefixes)
            if user is not None and user.networks:
                found = without(
                    found, (p for u in users.users if u is not user for p in _prefixes(u.prefixes))
                )
            known[code] = found
        return known[code]


def _prefixes(texts: Iterable[str]) -> set[str]:
    """Nothing where one is no address."""
    try:
        return {str(ipaddress.ip_network(t)) for t in texts}
    except ValueError:
        return set()


def remove() -> None:
    """Takes all limits away. Raises UsageError."""
    shaper.remove()
    if Table().there:
        nft(f"delete table inet {TABLE}\n")
