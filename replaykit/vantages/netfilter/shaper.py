"""A user's rate by tc: a class of HTB in each direction, in which packets wait until it is their turn.

Owns, as long as anybody is limited: the root qdisc of the interfaces (handle 7270:), an intermediate device
for what they receive (an interface's own qdisc sees only what it sends), and a table of nftables that brings
packets there. tc's filters are not used: nftables looks an address up in a map, however many users are
limited, and the class is in the packet's priority. Who is not limited passes HTB's direct queue, and never
the intermediate device.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

from replaykit.errors import UsageError
from replaykit.vantages.netfilter.owned import TABLE, Seen, Table
from replaykit.vantages.netfilter.programs import nft, run

DEVICE = "replaykit-in"
_MAJOR = "7270:"
_MAP = "classes"
_MOST = 0xFFFE
_QUEUE_S = 0.25
_QUANTUM = 60_000
_SMALLEST_QUEUE = 1 << 17  # two packets as offloads join them
_DIRECT_PACKETS = 1000  # an interface without a queue of its own would drop them
_MAPS = "".join(
    f"add map {{family}} {TABLE} {_MAP}{v} {{{{ type ipv{v}_addr : classid; flags interval; }}}}\n"
    for v in (4, 6)
)
_CLASS = re.compile(r"^class htb (\S+) .*?\brate (\d+)(T|G|M|K)?bit", re.MULTILINE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_ROUNDED = 0.002
"""tc prints rates with four digits or more."""


class Shaper:
    """interfaces: where users are."""

    def __init__(self, interfaces: Sequence[str], seen: Seen) -> None:
        self._interfaces, self._seen = list(interfaces), seen

    def refused(self, forced: bool = False) -> str:
        """Why it cannot be done here, or nothing. forced: also where it would cost something."""
        try:
            why = self._occupied(forced)
            if not why and not _is_ours(_root(DEVICE)):
                _device()
                run("ip", "link", "delete", DEVICE)
        except UsageError as error:
            return str(error)
        return why

    def _occupied(self, forced: bool) -> str:
        roots = _qdiscs()
        for interface in self._interfaces:
            root = roots.get(interface, {})
            if root and not _is_ours(root) and root.get("handle") != "0:":
                return (
                    f"{interface} has a qdisc already ({root.get('kind')} {root.get('handle')}), which is"
                    " left alone"
                )
            if root.get("kind") == "mq" and not forced:
                return f"{interface} sends from several queues, which a rate would join into one"
        return ""

    def set(self, owner: str, rate: int, addresses: Iterable[str]) -> None:
        """rate: bytes a second in each direction. Raises UsageError."""
        self._prepare()
        tables = self._tables()
        if not tables[0].free(_MAP, owner, addresses):
            return
        taken = _minors(tables)
        minor = next(iter(_minors(tables, owner)), None) or next(n for n in count(1) if n not in taken)
        if minor > _MOST:
            raise UsageError(f"more than {_MOST:,} users are limited already")
        place, queue = f"{_MAJOR}{minor:x}", max(_SMALLEST_QUEUE, int(rate * _QUEUE_S))
        for device in (*self._interfaces, DEVICE):
            _tc(
                f"class replace dev {device} parent {_MAJOR} classid {place} htb rate {rate * 8}bit quantum"
                f" {_QUANTUM}"
            )
            _tc(f"qdisc replace dev {device} parent {place} bfifo limit {queue}")
        nft("".join(table.change(_MAP, owner, addresses, place) for table in tables))
        self._seen.forget()

    def holds(self, owner: str, rate: int, addresses: Iterable[str]) -> bool:
        tables = self._tables()
        minors, close = _minors(tables, owner), max(8, rate * 8 * _ROUNDED)
        if not tables[0].free(_MAP, owner, addresses):
            return not minors
        if len(minors) != 1 or not tables[1].there:
            return False
        (minor,) = minors
        return (
            all(table.holds(_MAP, owner, addresses, f"{_MAJOR}{minor:x}") for table in tables)
            and all(hook is True for hook in self._seen.ruled("hooks", self._hooks).values())
            and all(
                abs(self._seen.ask(device, lambda d=device: _rates(d)).get(minor, 0) - rate * 8) <= close  # type: ignore[misc]
                for device in (*self._interfaces, DEVICE)
            )
        )

    def clear(self, owner: str) -> None:
        """Takes away all that is there of it now, and the rest with the last of them."""
        tables = self._tables()
        minors = _minors(tables, owner)
        if not minors:
            return
        nft("".join(table.change(_MAP, owner, ()) for table in tables))
        if not _minors(tables) - minors:
            remove()
        for device in _ours():
            for minor in minors & set(_rates(device)):
                _tc(f"class delete dev {device} classid {_MAJOR}{minor:x}")
        self._seen.forget()

    def _prepare(self) -> None:
        why = self._occupied(forced=True)
        if why:
            raise UsageError(why)
        roots = _qdiscs()
        if not _is_ours(roots.get(DEVICE, {})):
            _device()
        for interface in self._interfaces:
            if not _is_ours(roots.get(interface, {})):
                _htb(interface)
        if self._seen.table("netdev").there and False in self._hooks().values():
            nft(f"delete table netdev {TABLE}\n")
        script = f"add table inet {TABLE}\n{_MAPS.format(family='inet')}" + _chain(
            "inet", "shaped", "type filter hook postrouting priority 306; policy accept;", "daddr", ""
        )
        script += f"add table netdev {TABLE}\n{_MAPS.format(family='netdev')}"
        for interface in self._interfaces:
            hook = f'type filter hook ingress device "{interface}" priority 0; policy accept;'
            script += _chain("netdev", _chain_of(interface), hook, "saddr", f' fwd to "{DEVICE}"')
        nft(script)

    def _tables(self) -> tuple[Table, Table]:
        return self._seen.table(), self._seen.table("netdev")

    def _hooks(self) -> dict[str, bool | None]:
        """Whether each interface's packets still come by: the chain of one that was made anew has lost it.

        None: no chain.
        """
        found: dict[str, bool | None] = {}
        chains = nft(f"list table netdev {TABLE}\n").split("chain ")
        for interface in self._interfaces:
            chain = next((c for c in chains if c.startswith(_chain_of(interface) + " ")), None)
            found[interface] = None if chain is None else f'"{interface}"' in chain.partition("policy")[0]
        return found


def _minors(tables: Iterable[Table], owner: str | None = None) -> set[int]:
    """The classes that addresses lead to."""
    return {
        int(e.value.removeprefix(_MAJOR), 16)
        for table in tables
        for e in table.sets.get(_MAP, ())
        if e.value.startswith(_MAJOR) and owner in (None, e.owner)
    }


def remove() -> None:
    """Takes the qdiscs, the device and the table away. Raises UsageError."""
    if Table("netdev").there:
        nft(f"delete table netdev {TABLE}\n")
    for device in _ours():
        if device != DEVICE:
            _tc(f"qdisc delete dev {device} root")
    if _there(DEVICE):
        run("ip", "link", "delete", DEVICE)


def _chain(family: str, name: str, hook: str, side: str, then: str) -> str:
    """Made with just these rules, whatever was there."""
    place = f"{family} {TABLE} {name}"
    rules = "".join(
        f"add rule {place} meta priority set {ip} {side} map @{_MAP}{v}{then}\n"
        for ip, v in (("ip", 4), ("ip6", 6))
    )
    return f"add chain {place} {{ {hook} }}\nflush chain {place}\n{rules}"


def _chain_of(interface: str) -> str:
    return "from_" + interface.encode().hex()


def _device() -> None:
    if not _there(DEVICE):
        run("ip", "link", "add", DEVICE, "type", "ifb")
    run("ip", "link", "set", DEVICE, "up")
    _htb(DEVICE)


def _htb(device: str) -> None:
    _tc(f"qdisc replace dev {device} root handle {_MAJOR} htb default 0 direct_qlen {_DIRECT_PACKETS}")


def _tc(command: str) -> None:
    run("tc", *command.split())


def _there(device: str) -> bool:
    try:
        return socket.if_nametoindex(device) > 0
    except OSError:
        return False


def _root(device: str) -> dict[str, Any]:
    """Its root qdisc; nothing where the device is down or not there."""
    return _qdiscs().get(device, {})


def _qdiscs() -> dict[str, dict[str, Any]]:
    """The root qdiscs by device."""
    return {q["dev"]: q for q in json.loads(run("tc", "-j", "qdisc", "show") or "[]") if q.get("root")}


def _is_ours(root: dict[str, Any]) -> bool:
    return root.get("kind") == "htb" and root.get("handle") == _MAJOR


def _ours() -> list[str]:
    return [device for device, root in _qdiscs().items() if _is_ours(root)]


def _rates(device: str) -> dict[int, int]:
    """Bits a second by class."""
    found = _CLASS.findall(run("tc", "class", "show", "dev", device))
    return {
        int(place.removeprefix(_MAJOR), 16): int(rate) * _UNITS[unit]
        for place, rate, unit in found
        if place.startswith(_MAJOR)
    }
