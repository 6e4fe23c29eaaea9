"""What rules may do to users: block them, and limit their rate, by a table of nftables of our own.

Owns the table `inet replaykit_limits`: sets of blocked addresses, and maps from addresses to a user's limit, which both
directions share. What it holds is read from the kernel each time, so a hand that changes it is noticed; each element says
there whose it is, so it is found again though the map of users has changed.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from typing import Any

from replaykit.errors import UsageError
from replaykit.ledger.selection import Subject
from replaykit.netfilter.netlink import table_handle
from replaykit.netfilter.table import listed, nft
from replaykit.netfilter.users import UserMap

TABLE = "replaykit_limits"
_CHAINS = "\n".join(
    f"""  chain {name} {{
    type filter hook {hook} priority {priority}; policy accept;
    ip {side} @blocked4 drop
    ip6 {side} @blocked6 drop
    limit name ip {side} map @limits4 drop
    limit name ip6 {side} map @limits6 drop
  }}"""
    for name, hook, priority, side in (
        ("received", "prerouting", -305, "saddr"),
        ("sent", "postrouting", 305, "daddr"),
    )
)
_TABLE = f"""table inet {TABLE} {{
  set blocked4 {{ type ipv4_addr; flags interval; }}
  set blocked6 {{ type ipv6_addr; flags interval; }}
  map limits4 {{ type ipv4_addr : limit; flags interval; }}
  map limits6 {{ type ipv6_addr : limit; flags interval; }}
{_CHAINS}
}}
"""
_BURST_S = 0.25
_SMALLEST_BURST = (
    1 << 18
)  # offloads join packets to 64 KiB, and one that is larger than the burst never passes


class UserControl:
    """A controller for `replaykit.ledger.guard`, of the vantage netfilter."""

    def __init__(self, users: UserMap) -> None:
        self._users = users

    def original(self, subject: Subject, effect: str) -> Any:
        if effect in ("shutdown", "stop"):
            raise UsageError(f"{effect}: not of a user: block, disconnect or rate_limit")
        self._addresses(subject)
        return None

    def enforce(self, subject: Subject, effect: str, value: Any) -> None:
        addresses = self._addresses(subject)
        if not _state().there:
            nft(_TABLE)
        self.restore(subject, effect, None)
        if effect != "rate_limit":
            nft(
                "".join(
                    f"add element inet {TABLE} blocked{_version(a)} {{ {_marked(subject, a)} }}\n"
                    for a in addresses
                )
            )
            return
        name, burst = _owner(subject), max(_SMALLEST_BURST, int(value * _BURST_S))
        # In steps: within one script nft looks for a limit before it makes it.
        nft(f"add limit inet {TABLE} {name} {{ rate over {int(value)} bytes/second burst {burst} bytes; }}\n")
        nft(
            "".join(f'add element inet {TABLE} limits{_version(a)} {{ {a} : "{name}" }}\n' for a in addresses)
        )

    def holds(self, subject: Subject, effect: str, value: Any) -> bool:
        state, name, wanted = _state(), _owner(subject), set(self._addresses(subject))
        if effect == "rate_limit":
            return state.limits.get(name) == int(value) and set(_of(state.limited, name)) == wanted
        return wanted <= set(state.blocked) and set(_of(state.blocked, name)) <= wanted

    def restore(self, subject: Subject, effect: str, original: Any) -> None:
        """Takes away all that is there of it now."""
        state, name = _state(), _owner(subject)
        if effect == "rate_limit":
            steps = [
                "".join(
                    f'delete element inet {TABLE} limits{_version(a)} {{ {a} : "{name}" }}\n'
                    for a in _of(state.limited, name)
                ),
                f"delete limit inet {TABLE} {name}\n" if name in state.limits else "",
            ]
        else:
            steps = [
                "".join(
                    f"delete element inet {TABLE} blocked{_version(a)} {{ {a} }}\n"
                    for a in _of(state.blocked, name)
                )
            ]
        for step in steps:
            if step:
                nft(step)

    def _addresses(self, subject: Subject) -> list[str]:
        """Prefixes. Raises UsageError where none is known."""
        if subject.kind == "host":
            found = [subject.name]
        elif subject.kind == "user":
            user = next((u for u in self._users.users.users if u.code == subject.name), None)
            found = [subject.name] if user is None else [*user.addresses, *map(str, user.networks)]
        else:
            raise UsageError(f"{subject.kind} {subject.name}: only users can be limited here")
        try:
            prefixes = [str(ipaddress.ip_network(a)) for a in found]
        except ValueError:
            prefixes = []
        if not prefixes:
            raise UsageError(
                f"{subject.name}: no address is known, so it cannot be limited; add addresses to the map of users"
            )
        return prefixes


def _version(prefix: str) -> int:
    return ipaddress.ip_network(prefix).version


class _State:
    def __init__(self) -> None:
        self.there = False
        self.blocked: dict[str, str] = {}
        self.limits: dict[str, int] = {}
        self.limited: dict[str, str] = {}
        """Owners by address, rates by owner, owners by address."""


def _state() -> _State:
    """What the kernel holds. Raises UsageError."""
    state = _State()
    try:
        table_handle(TABLE)
    except KeyError:
        return state
    state.there = True
    for item in listed(TABLE):
        limit = item.get("limit")
        if limit is not None and limit.get("table") == TABLE:
            state.limits[limit["name"]] = int(limit["rate"]) * {"kbytes": 1 << 10, "mbytes": 1 << 20}.get(
                limit.get("rate_unit", ""), 1
            )
        blocked = item.get("set")
        if blocked is not None and blocked.get("table") == TABLE:
            state.blocked |= {_prefix(e): _comment(e) for e in blocked.get("elem", ())}
        limited = item.get("map")
        if limited is not None and limited.get("table") == TABLE:
            state.limited |= {_prefix(k): v for k, v in limited.get("elem", ())}
    return state


def _prefix(element: Any) -> str:
    if isinstance(element, dict):
        if "elem" in element:
            return _prefix(element["elem"]["val"])
        found = element["prefix"]
        return f"{found['addr']}/{found['len']}"
    return str(ipaddress.ip_network(element))


def _comment(element: Any) -> str:
    return str(element["elem"].get("comment", "")) if isinstance(element, dict) and "elem" in element else ""


def _of(owners: Mapping[str, str], name: str) -> list[str]:
    """The addresses that are whose."""
    return sorted(a for a, owner in owners.items() if owner == name)


def _owner(subject: Subject) -> str:
    """A name that nft takes, whatever the user is called."""
    return "u" + hashlib.blake2b(f"{subject.kind}\x1f{subject.name}".encode(), digest_size=8).hexdigest()


def _marked(subject: Subject, address: str) -> str:
    return f'{address} comment "{_owner(subject)}"'


def remove() -> None:
    """Takes all limits away. Raises UsageError."""
    if _state().there:
        nft(f"delete table inet {TABLE}\n")
