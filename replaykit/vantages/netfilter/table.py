"""Our own table of nftables: for each direction and family one rule, and a set in which each address has a
counter.

Owns the table `inet replaykit_users`; nothing else is touched. Where the sets are full, what more addresses
move is in the interface's own counters only.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from replaykit.errors import UsageError
from replaykit.vantages.netfilter.counters import Counters, boot_id
from replaykit.vantages.netfilter.netlink import elements, table_handle
from replaykit.vantages.netfilter.programs import nft

TABLE = "replaykit_users"
SIZE = 65_535
_SETS = (("rx4", 4), ("tx4", 4), ("rx6", 6), ("tx6", 6))


def ruleset(interfaces: Sequence[str], size: int = SIZE) -> str:
    """What `install` gives to nft."""
    names = ", ".join(f'"{i}"' for i in interfaces)
    sets = "\n".join(
        f"  set {name} {{ type ipv{family}_addr; size {size}; flags dynamic; counter; }}"
        for name, family in _SETS
    )
    return f"""table inet {TABLE} {{
{sets}
  chain received {{
    type filter hook prerouting priority -310; policy accept;
    iifname {{ {names} }} update @rx4 {{ ip saddr }}
    iifname {{ {names} }} update @rx6 {{ ip6 saddr }}
  }}
  chain sent {{
    type filter hook postrouting priority 310; policy accept;
    oifname {{ {names} }} update @tx4 {{ ip daddr }}
    oifname {{ {names} }} update @tx6 {{ ip6 daddr }}
  }}
}}
"""


def install(interfaces: Sequence[str], size: int = SIZE) -> bool:
    """Whether it was not there with just these interfaces. What it counted before goes on counting otherwise.

    Raises UsageError.
    """
    there = installed()
    if there is not None and sorted(there) == sorted(interfaces):
        return False
    if there is not None:
        remove()
    nft(ruleset(interfaces, size))
    return True


def installed() -> list[str] | None:
    """The interfaces that it counts on; None: there is no table. Raises UsageError."""
    try:
        table_handle(TABLE)
    except KeyError:
        return None
    text = nft(f"list chain inet {TABLE} received\n")
    first = next((line for line in text.splitlines() if "iifname" in line), "")
    return [
        word for word in first.partition("iifname")[2].partition("update")[0].split('"') if word.strip(" {},")
    ]


def remove() -> bool:
    """Whether it was there. Raises UsageError."""
    try:
        table_handle(TABLE)
    except KeyError:
        return False
    nft(f"delete table inet {TABLE}\n")
    return True


_NOTHING = (0, 0)
_counters = Counters._make


class TableSource:
    """The table's sets."""

    name, exact = "nftables", True

    def read(self) -> tuple[str, Mapping[str, Counters]]:
        try:
            handle = table_handle(TABLE)
            found: dict[str, Counters] = {}
            for family, show in ((4, socket.inet_ntoa), (6, _show6)):
                received, sent = elements(TABLE, f"rx{family}"), elements(TABLE, f"tx{family}")
                for key, (size, packets) in received.items():
                    back = sent.pop(key, _NOTHING)
                    found[show(key)] = _counters((size, back[0], packets, back[1]))
                for key, (size, packets) in sent.items():
                    found[show(key)] = _counters((0, size, 0, packets))
        except KeyError:
            raise UsageError(
                f"the table {TABLE} is not there (any more): replaykit users --install --interface NAME"
            ) from None
        return f"{boot_id()}/{handle}", found

    def close(self) -> None:
        """The table stays, and goes on counting."""


def _show6(key: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6, key)
