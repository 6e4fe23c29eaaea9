"""Sets and maps of nftables whose elements say whose they are, in a table of our own.

What they hold is read from the kernel each time, so a hand that changes it is noticed; and what is a user's
is found again though the map of users has changed.
"""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from replaykit.ledger.selection import Subject
from replaykit.vantages.netfilter.netlink import generation, table_handle
from replaykit.vantages.netfilter.programs import listed

TABLE = "replaykit_limits"
_KEPT_S = 0.1
T = TypeVar("T")


class Element(NamedTuple):
    """address: a prefix. value: what it is mapped to, empty in a set."""

    address: str
    owner: str
    value: str = ""

    def line(self, verb: str, name: str, family: str = "inet") -> str:
        """A command to nft. name: of the set or map, less the version of IP with which it ends."""
        version = ipaddress.ip_network(self.address).version
        text = self.address
        if verb == "add":
            text += f' comment "{self.owner}"' + (f" : {self.value}" if self.value else "")
        return f"{verb} element {family} {TABLE} {name}{version} {{ {text} }}\n"


class Table:
    """What the kernel holds of it now. Raises UsageError."""

    def __init__(self, family: str = "inet") -> None:
        self.sets: dict[str, list[Element]] = {}
        self.limits: dict[str, int] = {}
        """Bytes a second by name."""
        self._owners: dict[str, tuple[dict[str, str], list[Element]]] = {}
        self.family = family
        try:
            table_handle(TABLE, family)
        except KeyError:
            self.there = False
            return
        self.there = True
        for item in listed(TABLE, family):
            limit = item.get("limit")
            if limit is not None:
                unit = {"kbytes": 1 << 10, "mbytes": 1 << 20}.get(limit.get("rate_unit", ""), 1)
                self.limits[limit["name"]] = int(limit["rate"]) * unit
            for one in (item.get("set"), item.get("map")):
                if one is not None:
                    self.sets.setdefault(one["name"][:-1], []).extend(map(_element, one.get("elem", ())))

    def of(self, name: str, owner: str) -> set[Element]:
        """Of a set or map, for both versions of IP."""
        return {e for e in self.sets.get(name, ()) if e.owner == owner}

    def change(self, name: str, owner: str, addresses: Iterable[str], value: str = "") -> str:
        """The commands that make it hold just these of an owner's. What is another's stays so."""
        there, wanted = self.of(name, owner), self._wanted(name, owner, addresses, value)
        lines = [
            *(e.line("delete", name, self.family) for e in sorted(there - wanted)),
            *(e.line("add", name, self.family) for e in sorted(wanted - there)),
        ]
        return "".join(lines)

    def holds(self, name: str, owner: str, addresses: Iterable[str], value: str = "") -> bool:
        """Whether `change` would do nothing."""
        return self.of(name, owner) == self._wanted(name, owner, addresses, value)

    def free(self, name: str, owner: str, addresses: Iterable[str]) -> set[str]:
        """What of them is not another's: an address is limited once, though rules may name it, its user and
        its network.
        """
        elements = self.sets.get(name, ())
        if name not in self._owners:
            wide = [e for e in elements if not _is_host(e.address)]
            self._owners[name] = {e.address: e.owner for e in elements}, wide
        owners, wide = self._owners[name]
        around = [e.address for e in wide if e.owner != owner]
        out: set[str] = set()
        for address in addresses:
            if not _is_host(address):
                out |= without([address], [e.address for e in elements if e.owner != owner])
            elif owners.get(address, owner) == owner and (not around or without([address], around)):
                out.add(address)
        return out

    def _wanted(self, name: str, owner: str, addresses: Iterable[str], value: str) -> set[Element]:
        return {Element(a, owner, value) for a in self.free(name, owner, addresses)}


def without(prefixes: Iterable[str], others: Iterable[str]) -> set[str]:
    """What of the prefixes is in none of the others, as prefixes."""
    left = set(map(ipaddress.ip_network, prefixes))
    for other in map(ipaddress.ip_network, others):
        for one in [n for n in left if n.version == other.version and n.overlaps(other)]:
            left.remove(one)
            if one.prefixlen < other.prefixlen:
                left.update(one.address_exclude(other))  # type: ignore[arg-type]
    return set(map(str, left))


def _is_host(prefix: str) -> bool:
    return prefix.endswith("/128" if ":" in prefix else "/32")


class Seen:
    """What the kernel holds, asked once however many users are judged by it."""

    def __init__(self) -> None:
        self._since, self._generation = 0.0, -1
        self._kept: dict[object, Any] = {}
        self._rules: dict[object, Any] = {}

    def ask(self, what: object, function: Callable[[], T]) -> T:
        """A moment ago, or now."""
        if time.monotonic() - self._since > _KEPT_S:
            self.forget()
        return _kept(self._kept, what, function)

    def ruled(self, what: object, function: Callable[[], T]) -> T:
        """Something of nftables: as it is now, asked anew where anything there was changed."""
        now = generation()
        if now != self._generation:
            self._generation, self._rules = now, {}
        return _kept(self._rules, what, function)

    def table(self, family: str = "inet") -> Table:
        return self.ruled(family, lambda: Table(family))

    def forget(self) -> None:
        """After changing what `ask` knows."""
        self._since, self._kept = time.monotonic(), {}


def _kept(known: dict[object, Any], what: object, function: Callable[[], T]) -> T:
    if what not in known:
        known[what] = function()
    found: T = known[what]
    return found


def owner_of(subject: Subject) -> str:
    """A name that nft takes, whatever the user is called."""
    text = f"{subject.kind}\x1f{subject.name}"
    return "u" + hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _element(found: Any) -> Element:
    key, value = found if isinstance(found, list) else (found, "")
    comment = ""
    if isinstance(key, dict) and "elem" in key:
        key, comment = key["elem"]["val"], str(key["elem"].get("comment", ""))
    if isinstance(key, Mapping):
        key = f"{key['prefix']['addr']}/{key['prefix']['len']}"
    return Element(str(ipaddress.ip_network(key)), comment, str(value))
